//! Reads text files: each one is a document.

use std::io::Read;
use std::path::Path;

use crate::base::json;
use crate::base::{Error, Result, Status};
use crate::data::read::content::{Content, unreadable};
use crate::data::read::json_rows::JsonRows;
use crate::data::read::kind::{Format, HEAD_BYTES};
use crate::data::read::rows::Value;
use crate::data::rows::Row;
use crate::data::token_file::TokenFormat;
use crate::data::warning::Warnings;

/// Reads a text file, decompressed and without a byte order mark. The inner error says why a file
/// is not text: it is binary, or it has rows.
pub fn read_text(path: &Path) -> Result<Result<Vec<u8>>> {
    if TokenFormat::of(path).is_some() {
        return Ok(Err(not_text(path, "is a token file; name it alone")));
    }
    let mut reader = match Content::open(path, Format::Text) {
        Ok(Content::Text(reader)) => reader,
        Ok(Content::Parquet(_)) => return Ok(Err(not_text(path, "is a Parquet file; name it .parquet"))),
        Err(error) if matches!(error.status(), Status::BadFormat | Status::Unsupported) => {
            return Ok(Err(error));
        }
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    let mut read = |text: &mut Vec<u8>, most: u64| {
        reader.by_ref().take(most).read_to_end(text).map_err(|error| unreadable(path, &error))
    };
    // A binary file is not read to its end.
    read(&mut text, HEAD_BYTES as u64)?;
    if !text.contains(&0) {
        read(&mut text, u64::MAX)?;
    }
    if let Some(at) = memchr::memchr(0, &text) {
        let words = format!("is binary, not text: byte {} is a zero byte", at + 1);
        return Ok(Err(not_text(path, &words)));
    }
    if has_rows(&text) {
        return Ok(Err(not_text(path, "has JSON rows, not text; name it .jsonl")));
    }
    Ok(Ok(text))
}

fn not_text(path: &Path, words: &str) -> Error {
    Error::new(Status::BadFormat, format!("{} {words}", path.display()))
}

/// True if the first value is a JSON object with the fields of a row.
fn has_rows(text: &[u8]) -> bool {
    let first = || match JsonRows::open(text).ok()?.next()?.ok()?.value {
        Value::Json(object) => Some(object),
        _ => None,
    };
    let is_row = |object: Vec<u8>| {
        json::object(&object).is_ok_and(|object| Row::of(&object, &mut Warnings::default()).is_ok())
    };
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')) && first().is_some_and(is_row)
}
