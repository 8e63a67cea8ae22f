//! Tools and tool calls, in the forms that datasets have.

use serde_json::{Map, Value, json};

use super::fields::{Entry, bad, from_text, is_hollow, shown};
use crate::base::Result;
use crate::base::json as python;
use crate::data::warning::{Warning, Warnings};

/// Returns the documents of a row, each an object.
pub fn documents(entry: Entry) -> Result<Option<Value>> {
    objects(entry, |document| Value::Object(document.clone()))
}

/// Returns the tools of a row, each as an object.
pub fn tools(entry: Entry, warnings: &mut Warnings) -> Result<Option<Value>> {
    objects(entry, |tool| Value::Object(decoded(tool, "parameters", warnings)))
}

/// Returns the functions of OpenAI's older API as tools.
pub fn functions(entry: Entry, warnings: &mut Warnings) -> Result<Option<Value>> {
    objects(
        entry,
        |function| json!({"type": "function", "function": decoded(function, "parameters", warnings)}),
    )
}

/// Returns the tool calls of a message.
pub fn calls(entry: Entry, warnings: &mut Warnings) -> Result<Option<Value>> {
    objects(entry, |call| Value::Object(decoded(call, "arguments", warnings)))
}

/// Returns the call of OpenAI's older API as tool calls.
pub fn function_call(entry: Entry, warnings: &mut Warnings) -> Result<Option<Value>> {
    match from_text(entry.value).as_ref().unwrap_or(entry.value) {
        Value::Object(function) if function.contains_key("name") => {
            whole(entry.name, json!([call(function, warnings)])).map(Some)
        }
        value if is_hollow(value) => Ok(None),
        _ => Err(entry.not_json("an object with `name` and `arguments`")),
    }
}

/// Returns the tool calls that the text of ShareGPT's `function_call` has: one object or a list of
/// objects with `name` and `arguments`, as LlamaFactory reads it.
pub fn calls_in_text(text: &str, warnings: &mut Warnings) -> Result<Option<Value>> {
    let functions = match python::value(text.as_bytes()) {
        Ok(Value::Array(values)) => values,
        Ok(value) => vec![value],
        Err(_) => return Ok(None),
    };
    let complete = |value: &Value| value.get("name").is_some() && value.get("arguments").is_some();
    if functions.is_empty() || !functions.iter().all(complete) {
        return Ok(None);
    }
    let calls = functions.iter().filter_map(Value::as_object).map(|function| call(function, warnings));
    whole("function_call", calls.collect()).map(Some)
}

fn call(function: &Map<String, Value>, warnings: &mut Warnings) -> Value {
    json!({"type": "function", "function": decoded(function, "arguments", warnings)})
}

/// Returns a list that is given as such, as its only element, or as JSON text; `None` if there is
/// nothing in it but null.
fn list(entry: Entry) -> Result<Option<Vec<Value>>> {
    let decoded = from_text(entry.value);
    match decoded.as_ref().unwrap_or(entry.value) {
        value if is_hollow(value) => Ok(None),
        Value::Array(values) => Ok(Some(values.clone())),
        value @ Value::Object(_) => Ok(Some(vec![value.clone()])),
        _ => Err(entry.not_json("a list")),
    }
}

/// Applies `change` to the objects of a list; each may be JSON text.
fn objects(entry: Entry, mut change: impl FnMut(&Map<String, Value>) -> Value) -> Result<Option<Value>> {
    let Some(values) = list(entry)? else { return Ok(None) };
    let object = |(at, value): (usize, &Value)| match as_object(value) {
        Some(object) => Ok(change(&object)),
        None => Err(bad(format!("`{}`[{at}] is {}; it must be an object", entry.name, shown(value)))),
    };
    let values = values.iter().enumerate().map(object).collect::<Result<_>>()?;
    whole(entry.name, Value::Array(values)).map(Some)
}

/// Returns a value, all JSON text in it decoded, unless it has a lone surrogate.
fn whole(name: &'static str, value: Value) -> Result<Value> {
    Entry { name, value: &value }.without_surrogates()?;
    Ok(value)
}

fn as_object(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::String(text) => python::object(text.as_bytes()).ok(),
        _ => None,
    }
}

/// Returns an object and its `function` without null members, and with a member decoded that is the
/// JSON text of an object. Other texts are kept and reported.
fn decoded(object: &Map<String, Value>, member: &str, warnings: &mut Warnings) -> Map<String, Value> {
    let present = object.iter().filter(|(_, value)| !value.is_null());
    let change = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Object(function) if key == "function" => {
                Value::Object(decoded(function, member, warnings))
            }
            Value::String(_) if key == member => as_object(value).map_or_else(
                || {
                    warnings.add(Warning::ToolArguments, format_args!("`{member}` is {}", shown(value)));
                    value.clone()
                },
                Value::Object,
            ),
            _ => value.clone(),
        };
        (key.clone(), value)
    };
    present.map(change).collect()
}
