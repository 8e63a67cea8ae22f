//! The content of a message: a text, or a list of text parts.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::fields::{Entry, bad, readable, shown};
use crate::base::Result;
use crate::data::warning::{Warning, Warnings};

/// Returns a content for the template: the text, or the list of its parts, each of type text.
pub fn content(entry: Entry, warnings: &mut Warnings) -> Result<Value> {
    match entry.value {
        Value::Array(parts) => {
            parts.iter().enumerate().map(|(at, one)| part(entry, at, one, warnings)).collect()
        }
        Value::String(_) => entry.text().map(Value::from),
        _ => Err(entry.not("a string or a list of text parts")),
    }
}

/// Returns the text of a content for the template.
pub fn joined(content: &Value) -> Cow<'_, str> {
    let text = |part: &'_ Value| part["text"].as_str().unwrap_or_default().to_owned();
    match content {
        Value::Array(parts) => parts.iter().map(text).collect::<String>().into(),
        text => text.as_str().unwrap_or_default().into(),
    }
}

fn part(list: Entry, at: usize, value: &Value, warnings: &mut Warnings) -> Result<Value> {
    let text = text_of(list.name, value, warnings);
    let text = text.map_err(|error| error.within(format!("`{}`[{at}]", list.name)))?;
    Ok(json!({"type": "text", "text": text}))
}

/// Returns the text of a part; null is empty.
fn text_of<'a>(name: &'static str, part: &'a Value, warnings: &mut Warnings) -> Result<&'a str> {
    let Value::Object(members) = part else {
        return if part.is_null() { Ok("") } else { Entry { name, value: part }.text() };
    };
    match members.get("type").unwrap_or(&Value::Null) {
        Value::Null => {}
        Value::String(kind) if ["text", "input_text", "output_text"].contains(&&kind[..]) => {}
        kind => {
            return Err(bad(format!(
                "a part of type {}; only parts of type text can be trained on",
                shown(kind)
            )));
        }
    }
    for (key, value) in members {
        if !value.is_null() && !["type", "text"].contains(&&key[..]) {
            warnings.add(Warning::UnusedTurnField(format!("{name}[].{}", readable(key))), "");
        }
    }
    match members.get("text") {
        None => Err(bad("`text` is missing in a part")),
        Some(Value::Null) => Ok(""),
        Some(value) => Entry { name: "text", value }.text(),
    }
}
