//! The text of a config as editors and Python's `json` module write it.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status, json};

/// Parses a JSON object. It may begin with a byte order mark. Numbers that JSON cannot hold (`NaN`)
/// become texts, which no number of the model may be.
pub fn object(text: &[u8]) -> Result<Map<String, Value>> {
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(Error::new(Status::BadFormat, "the file is UTF-16; save it as UTF-8"));
    }
    let mut keys = json::object(json::without_mark(text))?;
    keys.values_mut().for_each(unmark);
    Ok(keys)
}

fn unmark(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace([json::NUMBER, json::SURROGATE], ""),
        Value::Array(values) => values.iter_mut().for_each(unmark),
        Value::Object(values) => values.values_mut().for_each(unmark),
        _ => {}
    }
}
