//! Access to the fields of a row, and their values.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::formats::{FORMATS, Field, Format, Kind, is_irrelevant};
use crate::base::json::{self, NUMBER, SURROGATE};
use crate::base::{Error, Message, Result, Status};
use crate::data::warning::{Warning, Warnings};

/// The fields of one row. Only those of its format can be read, and those not read are reported.
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    format: &'static Format,
    /// Names of the fields read.
    read: Vec<&'static [&'static str]>,
    pub warnings: &'a mut Warnings,
}

/// A field that is present.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub name: &'static str,
    pub value: &'a Value,
}

impl<'a> Fields<'a> {
    pub fn new(
        object: &'a Map<String, Value>,
        format: &'static Format,
        warnings: &'a mut Warnings,
    ) -> Fields<'a> {
        Fields { object, format, read: Vec::with_capacity(16), warnings }
    }

    /// Returns a field; `None` if it is absent, null, or not listed for the format.
    pub fn get(&mut self, field: &Field) -> Result<Option<Entry<'a>>> {
        let listed = |one: &&&'static Field| one.names == field.names;
        let Some(field) = self.format.needs.iter().chain(self.format.reads).find(listed) else {
            return Ok(None);
        };
        self.read.push(field.names);
        spelled(self.object, field.names)
    }

    /// Returns a field that the format needs.
    pub fn needed(&mut self, field: &Field) -> Result<Entry<'a>> {
        self.get(field)?.ok_or_else(|| bad(format!("`{}` is missing", field.names[0])))
    }

    /// Reports a text field no longer that only repeats what the row has elsewhere.
    pub fn repeated(&mut self, field: &Field, repeats: impl Fn(&str) -> bool) {
        if self.object.get(field.names[0]).and_then(Value::as_str).is_some_and(repeats) {
            self.read.push(field.names);
        }
    }

    /// Counts a row in which nothing is trained on, and says why.
    pub fn count_untrained(&mut self, untrained: bool, why: impl std::fmt::Display) {
        if untrained {
            self.warnings.add(Warning::NothingTrained, why);
        }
    }

    /// Counts a warning for every field that was not read, unless it is empty or cannot matter.
    pub fn report_unread(self) {
        for (key, value) in self.object {
            let read = || self.read.iter().any(|names| names.contains(&&key[..]));
            if !is_empty(value) && !read() && !is_irrelevant(key) {
                self.warnings.add(Warning::UnusedField(readable(key)), "");
            }
        }
    }
}

/// Returns an object with its fields decoded that are lists or objects and given as JSON text, as
/// CSV has them.
pub fn decoded(object: &Map<String, Value>) -> Cow<'_, Map<String, Value>> {
    let mut changed = Cow::Borrowed(object);
    for (name, value) in object {
        if let Some(decoded) = from_text(value)
            && let Some(kind) = kind(name)
            && (kind == Kind::Json || kind == Kind::Messages && are_messages(&decoded))
        {
            changed.to_mut().insert(name.clone(), decoded);
        }
    }
    changed
}

fn kind(name: &str) -> Option<Kind> {
    let mut fields = FORMATS.iter().flat_map(|format| format.needs.iter().chain(format.reads));
    fields.find(|field| field.names.contains(&name)).map(|field| field.kind)
}

fn are_messages(value: &Value) -> bool {
    let is_message = |value: &Value| value.get("role").or(value.get("from")).is_some();
    value.as_array().is_some_and(|values| !values.is_empty() && values.iter().all(is_message))
}

/// Returns the list or object of a JSON text, null for empty text and `null`; `None` for other
/// values.
pub fn from_text(value: &Value) -> Option<Value> {
    match value.as_str()?.trim_ascii() {
        "" | "null" => Some(Value::Null),
        text if text.starts_with(['[', '{']) => json::value(text.as_bytes()).ok(),
        _ => None,
    }
}

/// True for null and an empty text, list or object.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// True for null and for what a column of structs has in place of it: an object whose members are
/// null, or a list of such.
pub fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => !values.is_empty() && values.iter().all(is_hollow),
        Value::Object(members) => members.values().all(is_hollow),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Returns a member under one of its names. Two names with different values are refused; null and
/// empty text are none.
pub fn spelled<'a>(
    object: &'a Map<String, Value>,
    names: &'static [&'static str],
) -> Result<Option<Entry<'a>>> {
    let present = names.iter().filter_map(|name| {
        let value = object.get(*name).filter(|value| !value.is_null())?;
        Some(Entry { name, value })
    });
    let mut full = present.clone().filter(|entry| entry.value != "");
    let Some(first) = full.next() else { return Ok(present.clone().next()) };
    match full.find(|other| other.value != first.value) {
        None => Ok(Some(first)),
        Some(other) => Err(first.differs(other)),
    }
}

impl<'a> Entry<'a> {
    /// Returns the text. Errors: the value is of another kind, or has a lone surrogate.
    pub fn text(self) -> Result<&'a str> {
        match self.value.as_str() {
            Some(text) if json::number(text).is_none() => {
                self.whole(text)?;
                Ok(text)
            }
            _ => Err(self.not("a string")),
        }
    }

    pub fn list(self) -> Result<&'a [Value]> {
        self.value.as_array().map(Vec::as_slice).ok_or_else(|| self.not_json("a list"))
    }

    /// Returns the error for a value that is neither of a kind nor the JSON text of one.
    pub fn not_json(self, kind: &str) -> Error {
        let text = self.value.as_str().filter(|text| text.trim_ascii_start().starts_with(['[', '{']));
        match text.map(|text| json::value(text.trim_ascii().as_bytes())) {
            Some(Err(error)) => bad(format!("`{}` is a string, but not JSON: {error}", self.name)),
            _ => self.not(kind),
        }
    }

    /// Returns the error for a field that has another value under another name.
    pub fn differs(self, other: Entry) -> Error {
        bad(format!(
            "`{}` is {}, but `{}` is {}; give one of them",
            self.name,
            shown(self.value),
            other.name,
            shown(other.value)
        ))
    }

    /// Returns the error for a value of the wrong kind.
    pub fn not(self, kind: &str) -> Error {
        bad(format!("`{}` is {}; it must be {kind}", self.name, shown(self.value)))
    }

    /// Refuses lone surrogates and noncharacters anywhere in the value.
    pub fn without_surrogates(self) -> Result<()> {
        fn texts(value: &Value, check: &impl Fn(&str) -> Result<()>) -> Result<()> {
            match value {
                Value::String(text) => check(json::number(text).unwrap_or(text)),
                Value::Array(values) => values.iter().try_for_each(|value| texts(value, check)),
                Value::Object(values) => values.iter().try_for_each(|(key, value)| {
                    check(key)?;
                    texts(value, check)
                }),
                _ => Ok(()),
            }
        }
        texts(self.value, &|text| self.whole(text))
    }

    fn whole(self, text: &str) -> Result<()> {
        if !json::has_noncharacter(text.as_bytes(), MARKS) {
            return Ok(());
        }
        Err(bad(format!(
            "`{}` has a lone surrogate (half of a character, as `\\ud83d` is) or a noncharacter (U+FDD0 … U+FDD4) in \
             {}; write the whole character, or remove it",
            self.name,
            shown(&Value::from(text))
        )))
    }
}

/// The characters that stand for something else here and in the chat template.
const MARKS: RangeInclusive<char> = '\u{fdd0}'..=SURROGATE;

/// Returns a text that can be printed.
pub fn readable(text: &str) -> String {
    text.replace(NUMBER, "").replace(|c| MARKS.contains(&c), "\u{fffd}")
}

pub fn bad(message: impl Into<Message>) -> Error {
    Error::new(Status::BadFormat, message)
}

/// Returns the beginning of a value, for an error message.
pub fn shown(value: &Value) -> String {
    let text = match value.as_str().and_then(json::number) {
        Some(number) => number.to_owned(),
        None => readable(&value.to_string()),
    };
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns the integer that a value is, also if it is written as 1.0.
#[inline]
pub fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}
