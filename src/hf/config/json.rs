//! The text of a config as editors and Python's `json` module write it.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status};

/// Parses a JSON object. It may begin with a byte order mark. `NaN`, `Infinity` and `-Infinity`
/// become texts, which no number of the model may be.
pub fn object(text: &[u8]) -> Result<Map<String, Value>> {
    let bad = |message: String| Error::new(Status::BadFormat, message);
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(bad("the file is UTF-16; save it as UTF-8".to_owned()));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    serde_json::from_slice(text)
        .or_else(|error| serde_json::from_slice(&with_quoted_words(text)).map_err(|_| error))
        .map_err(|error| bad(format!("not a JSON object: {error}")))
}

/// Puts Python's words for numbers that JSON does not have into quotes, outside of texts.
fn with_quoted_words(text: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let (mut quoted, mut at, mut in_text) = (Vec::with_capacity(text.len()), 0, false);
    while let Some(&byte) = text.get(at) {
        let word = WORDS.iter().find(|word| !in_text && text[at..].starts_with(word));
        let taken = match (word, byte) {
            (Some(word), _) => word.len(),
            (None, b'\\') if in_text => 2.min(text.len() - at),
            _ => 1,
        };
        in_text ^= byte == b'"';
        let quote: &[u8] = if word.is_some() { b"\"" } else { b"" };
        quoted.extend([quote, &text[at..at + taken], quote].concat());
        at += taken;
    }
    quoted
}
