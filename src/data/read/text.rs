//! Reads text files: each one is a document.

use std::io::Read;
use std::path::Path;

use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::data::read::content::{Content, unreadable};
use crate::data::read::json_rows::JsonRows;
use crate::data::read::kind::{Format, HEAD_BYTES, lower_name};
use crate::data::token_file::TokenFormat;

/// Largest document, decompressed.
const DOCUMENT_BYTES_MAX: u64 = 1 << 34;

/// Reads a text file, decompressed and without a byte order mark. The inner error says why a file
/// is not text: it is binary, or it has rows. A file that the user names (`is_named`) must not even
/// begin as JSON does; within a folder of texts that can be source code or a configuration.
pub fn read_text(path: &Path, is_named: bool) -> Result<Result<Vec<u8>>> {
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
        read(&mut text, DOCUMENT_BYTES_MAX)?;
    }
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        let most = Size(DOCUMENT_BYTES_MAX as usize);
        return Ok(Err(not_text(path, &format!("has more than {most}, the most for one text; split it"))));
    }
    if let Some(at) = memchr::memchr(0, &text) {
        let words = format!("is binary, not text: byte {} is a zero byte", at + 1);
        return Ok(Err(not_text(path, &words)));
    }
    if has_row(&text) || is_named && begins_as_json(&text) {
        return Ok(Err(not_text(path, &format!("has JSON rows, not text; {}", rename(path)))));
    }
    Ok(Ok(text))
}

fn not_text(path: &Path, words: &str) -> Error {
    Error::new(Status::BadFormat, format!("{} {words}", path.display()))
}

/// Returns what to do with rows in a file named as text.
fn rename(path: &Path) -> String {
    if !path.is_file() {
        return "a pipe is read as text: write them to a file named .jsonl; .jsonl.gz and .jsonl.zst are read \
                directly"
            .to_owned();
    }
    let name = lower_name(path);
    let compression = [".gz", ".zst"].into_iter().find(|end| name.ends_with(end)).unwrap_or_default();
    format!("name it .jsonl{compression}, or .json{compression} if it is one list or object")
}

/// True if the first value is a JSON object with the fields of a row.
fn has_row(text: &[u8]) -> bool {
    let first = || JsonRows::open(text).ok()?.next()?.ok();
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
        && first().is_some_and(|record| record.value.is_row())
}

/// True if a text begins with an object or a list of texts or objects, in JSON or as Python prints
/// it, possibly behind comments.
fn begins_as_json(text: &[u8]) -> bool {
    let mut rest = text.trim_ascii_start();
    while rest.starts_with(b"//") {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        rest = rest[end..].trim_ascii_start();
    }
    let Some((bracket, rest)) = rest.split_first() else { return false };
    let next = rest.trim_ascii_start().first();
    matches!((bracket, next), (b'{' | b'[', Some(b'"' | b'\'')) | (b'[', Some(b'{')))
}
