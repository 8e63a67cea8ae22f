//! JSON as Python's `json` module writes and reads it.
//!
//! Python writes three things that JSON, or a 64-bit number, cannot hold: `NaN`, `Infinity` and
//! `-Infinity`; integers of any size; and halves of surrogate pairs in texts (`"\ud83d"`). They are
//! kept under marks, so that a field that is not used may have them, and an error can name them in
//! a field that is used:
//!
//! | in the file | value |
//! |---|---|
//! | `NaN`, `Infinity`, `-Infinity` | a text: [`NUMBER`] and the word |
//! | an integer beyond 64 bits | a text: [`NUMBER`] and its digits |
//! | a lone surrogate in a text | [`SURROGATE`] in its place |
//!
//! Both marks are noncharacters, which no text may contain.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status};

/// First character of a text that stands for a number that a JSON value cannot hold.
pub const NUMBER: char = '\u{fdd3}';
/// Stands for a lone surrogate.
pub const SURROGATE: char = '\u{fdd4}';

/// Returns the number that a text stands for: NaN, Infinity, -Infinity, or an integer's digits.
pub fn number(text: &str) -> Option<&str> {
    text.strip_prefix(NUMBER)
}

/// Parses one JSON object.
pub fn object(text: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(text)
        .map_err(|error| Error::new(Status::BadFormat, format!("not a JSON object: {error}")))
}

/// Parses any JSON value.
pub fn value(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| Error::new(Status::BadFormat, format!("not JSON: {error}")))
}
