//! Access to the fields of a row, and their values.

use serde_json::{Map, Value};

use super::formats::{Field, Format, is_irrelevant};
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
        Fields { object, format, read: Vec::new(), warnings }
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

    /// Counts a warning for every field that was not read, unless it is empty or cannot matter.
    pub fn report_unread(self) {
        let empty = [Value::Null, Value::from(""), Value::Array(Vec::new()), Value::Object(Map::new())];
        for (key, value) in self.object {
            let read = || self.read.iter().any(|names| names.contains(&&key[..]));
            if !empty.contains(value) && !read() && !is_irrelevant(key) {
                self.warnings.add(Warning::UnusedField(key.clone()), "");
            }
        }
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
        Some(other) => Err(bad(format!(
            "`{}` is {}, but `{}` is {}; give one of them",
            first.name,
            shown(first.value),
            other.name,
            shown(other.value)
        ))),
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
        self.value.as_array().map(Vec::as_slice).ok_or_else(|| self.not("a list"))
    }

    /// Returns the error for a value of the wrong kind.
    pub fn not(self, kind: &str) -> Error {
        bad(format!("`{}` is {}; it must be {kind}", self.name, shown(self.value)))
    }

    /// Refuses lone surrogates anywhere in the value.
    pub fn without_surrogates(self) -> Result<()> {
        fn texts(value: &Value, check: &impl Fn(&str) -> Result<()>) -> Result<()> {
            match value {
                Value::String(text) => check(text),
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
        if text.contains(SURROGATE) {
            return Err(bad(format!(
                "`{}` has a lone surrogate (half of a character, as `\\ud83d` is) in {}; write the whole character",
                self.name,
                shown(&Value::from(text))
            )));
        }
        Ok(())
    }
}

pub fn bad(message: impl Into<Message>) -> Error {
    Error::new(Status::BadFormat, message)
}

/// Returns the beginning of a value, for an error message.
pub fn shown(value: &Value) -> String {
    let text = match value.as_str().and_then(json::number) {
        Some(number) => number.to_owned(),
        None => value.to_string().replace(NUMBER, "").replace(SURROGATE, "\u{fffd}"),
    };
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns the integer that a value is, also if it is written as 1.0.
pub fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}
