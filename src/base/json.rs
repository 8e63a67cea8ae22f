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
//! | a float beyond 64 bits (`1e999`) | a text: [`NUMBER`] and `Infinity` or `-Infinity` |
//! | a lone surrogate in a text | [`SURROGATE`] in its place |
//!
//! Both marks are noncharacters, which no text may contain: text that has them is refused. Of equal
//! keys the last one counts.
//!
//! `serde_json` parses a text as it is, and few texts need more: those that it refuses, and those
//! with a float as large as an integer beyond 64 bits. They are rewritten with marks and parsed
//! again.

use std::fmt::Write;

use memchr::memmem;
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

/// Parses one JSON object. Errors say in words what was found.
pub fn object(text: &[u8]) -> Result<Map<String, Value>> {
    let found = match value(text).map_err(|error| error.within("not a JSON object"))? {
        Value::Object(object) => return Ok(object),
        Value::Array(_) => "a list",
        Value::String(text) if number(&text).is_none() => "a text",
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::String(_) | Value::Number(_) => "a number",
    };
    Err(bad(format!("not a JSON object: it is {found}")))
}

/// Parses one JSON value. Errors say in words what was found.
pub fn value(text: &[u8]) -> Result<Value> {
    match serde_json::from_slice(text) {
        Ok(value) => match examine(&value, may_have_mark(text)) {
            Found::Usual => Ok(value),
            Found::LargeFloat => {
                serde_json::from_slice(&rewrite(text)?).map_err(|error| bad(error.to_string()))
            }
            Found::Mark => Err(mark()),
        },
        Err(error) => {
            let rewritten = rewrite(text)?;
            match serde_json::from_slice(&rewritten) {
                Ok(value) => Ok(value),
                Err(again) => Err(bad(describe(&rewritten, if rewritten == text { &error } else { &again }))),
            }
        }
    }
}

fn bad(message: String) -> Error {
    Error::new(Status::BadFormat, message)
}

fn mark() -> Error {
    bad("a text has one of the noncharacters U+FDD3 and U+FDD4, which no text may contain; remove it"
        .to_owned())
}

/// Errors: a text that is not from JSON has marks.
#[cfg(feature = "text")]
pub fn check_text(text: &str) -> Result<()> {
    if has_mark(text.as_bytes()) { Err(mark()) } else { Ok(()) }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Usual,
    /// A float that may have been an integer beyond 64 bits.
    LargeFloat,
    /// A text has a mark.
    Mark,
}

/// Looks for values that `serde_json` reads in another way than Python, and for marks if `texts` is
/// true.
fn examine(value: &Value, texts: bool) -> Found {
    let text = |text: &str| match texts && has_mark(text.as_bytes()) {
        true => Found::Mark,
        false => Found::Usual,
    };
    match value {
        Value::String(string) => text(string),
        Value::Array(values) => {
            values.iter().map(|value| examine(value, texts)).max().unwrap_or(Found::Usual)
        }
        Value::Object(object) => {
            let member = |(key, value): (&String, &Value)| text(key).max(examine(value, texts));
            object.iter().map(member).max().unwrap_or(Found::Usual)
        }
        // 2⁶³ is the smallest integer, and −2⁶³ the largest, that may be beyond 64 bits.
        Value::Number(number)
            if number.is_f64() && number.as_f64().is_some_and(|x| x.abs() >= 2f64.powi(63)) =>
        {
            Found::LargeFloat
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Found::Usual,
    }
}

/// False if a JSON text has marks neither as they are nor as escapes.
fn may_have_mark(text: &[u8]) -> bool {
    memchr::memchr(0xef, text).is_some() || memmem::find(text, b"\\u").is_some()
}

/// True if a UTF-8 text has U+FDD3 or U+FDD4.
fn has_mark(text: &[u8]) -> bool {
    memmem::find_iter(text, b"\xef\xb7").any(|at| matches!(text.get(at + 2), Some(0x93 | 0x94)))
}

/// Returns a text with marks in place of values that `serde_json` cannot hold.
/// Errors: the text has marks itself.
fn rewrite(text: &[u8]) -> Result<Vec<u8>> {
    if has_mark(text) {
        return Err(mark());
    }
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(&byte) = rest.first() {
        let length = match byte {
            b'"' => {
                let length = string_length(rest);
                rewrite_string(&rest[..length], &mut out)?;
                rest = &rest[length..];
                continue;
            }
            b'-' | b'+' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => rest
                .iter()
                .position(|byte| !matches!(byte, b'-' | b'+' | b'.') && !byte.is_ascii_alphanumeric())
                .unwrap_or(rest.len()),
            _ => 1,
        };
        let (word, after) = rest.split_at(length);
        // A number as a key is an error.
        let is_key = after.trim_ascii_start().starts_with(b":");
        match large_number(word).filter(|_| !is_key) {
            Some(number) => out.extend_from_slice(format!("\"{NUMBER}{number}\"").as_bytes()),
            None => out.extend_from_slice(word),
        }
        rest = after;
    }
    Ok(out)
}

/// Returns the digits or the word of a number that `serde_json` cannot hold.
fn large_number(word: &[u8]) -> Option<&str> {
    let word = std::str::from_utf8(word).ok()?;
    if matches!(word, "NaN" | "Infinity" | "-Infinity") {
        return Some(word);
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    // Rust reads `1.e5`, too.
    let fraction =
        digits.split_once('.').is_none_or(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    let valid = fraction
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0') || digits.starts_with("0."));
    if !valid {
        return None;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return (word.parse::<i64>().is_err() && word.parse::<u64>().is_err()).then_some(word);
    }
    match word.parse::<f64>() {
        Ok(f64::INFINITY) => Some("Infinity"),
        Ok(f64::NEG_INFINITY) => Some("-Infinity"),
        _ => None,
    }
}

/// Returns the length of the JSON string at the beginning of a text, with its quotes.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match memchr::memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
            None => return text.len(),
            Some(next) if text[at + next] == b'"' => return at + next + 1,
            Some(next) => at += next + 2,
        }
    }
}

/// Copies a JSON string with [`SURROGATE`] for lone surrogates; escaped pairs stay.
fn rewrite_string(string: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let unit = |at: usize| -> Option<u32> {
        let digits = string.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(escape) = memchr::memchr(b'\\', &string[at..]) {
        out.extend_from_slice(&string[at..at + escape]);
        at += escape;
        let length = match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.extend_from_slice(SURROGATE.encode_utf8(&mut [0; 4]).as_bytes());
                at += 6;
                continue;
            }
            (Some(0xfdd3 | 0xfdd4), _) => return Err(mark()),
            _ => 2.min(string.len() - at),
        };
        out.extend_from_slice(&string[at..at + length]);
        at += length;
    }
    out.extend_from_slice(&string[at..]);
    Ok(())
}

/// Says in words why a text is not JSON.
fn describe(text: &[u8], error: &serde_json::Error) -> String {
    if let Err(invalid) = std::str::from_utf8(text) {
        let at = invalid.valid_up_to();
        return format!("byte {} is 0x{:02x}, which is not UTF-8; save the file as UTF-8", at + 1, text[at]);
    }
    if let Some(at) = memchr::memchr(0, text) {
        return format!("byte {} is a zero byte; the file is damaged, or not UTF-8", at + 1);
    }
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or(&words);
    // The column of the last line counts bytes, from 1.
    let line = text.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let begins = |what: &[&str]| what.iter().any(|word| rest.starts_with(word.as_bytes()));
    let mut message = match words {
        "trailing characters" if begins(&["{"]) => {
            "two objects on one line; write one object per line".to_owned()
        }
        "trailing characters" if begins(&[","]) => {
            "a comma follows the object; remove it, or write all objects as one list in brackets".to_owned()
        }
        "trailing characters" => "text follows the end of the value".to_owned(),
        "trailing comma" => "a comma has nothing behind it; remove the comma".to_owned(),
        "key must be a string" | "expected value" | "expected ident" if begins(&["'"]) => {
            "single quotes, as Python prints a dict; write JSON, e.g. with json.dumps".to_owned()
        }
        "expected value" if begins(&["None", "True", "False"]) => {
            "None, True or False of Python; write null, true or false, e.g. with json.dumps".to_owned()
        }
        _ if error.is_eof() && !text.trim_ascii().is_empty() => {
            "it ends inside a value: the file is truncated, or an object is written over several lines; \
             write one object per line"
                .to_owned()
        }
        _ if words.starts_with("control character") => {
            let found = rest.first().copied().filter(u8::is_ascii_control);
            let found = found.map_or(String::new(), |byte| format!(" 0x{byte:02x}"));
            format!("a control character{found} inside a text; write it as an escape (\\t, \\n, \\u0001)")
        }
        _ => return error.to_string(),
    };
    let _ = write!(message, " (column {})", error.column());
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Values are those of Python's `json.loads`, under marks where JSON has none.
    #[test]
    fn values_are_those_of_python() {
        let n = |number: &str| json!(format!("{NUMBER}{number}"));
        for (text, expected) in [
            ("[NaN, Infinity, -Infinity]", json!([n("NaN"), n("Infinity"), n("-Infinity")])),
            (r#"{"a": {"b": [NaN]}, "c": "NaN"}"#, json!({"a": {"b": [n("NaN")]}, "c": "NaN"})),
            ("[9223372036854775807, 18446744073709551615]", json!([i64::MAX, u64::MAX])),
            ("[-9223372036854775808]", json!([i64::MIN])),
            (
                "[18446744073709551616, [-9223372036854775809]]",
                json!([n("18446744073709551616"), [n("-9223372036854775809")]]),
            ),
            (r#"{"a": 123456789012345678901234567890}"#, json!({"a": n("123456789012345678901234567890")})),
            ("[1e300, 1e19, 18446744073709551616.0]", json!([1e300, 1e19, 18446744073709551616.0])),
            ("[1e999, -1e999]", json!([n("Infinity"), n("-Infinity")])),
            (r#"["\ud83d", "a\udc00b", "\ud83dx"]"#, json!(["\u{fdd4}", "a\u{fdd4}b", "\u{fdd4}x"])),
            (r#"["\ud83c\udf89", "\udf89\ud83c"]"#, json!(["🎉", "\u{fdd4}\u{fdd4}"])),
            (r#"["\ud83d\ud83c\udf89", "\\ud83d", NaN]"#, json!(["\u{fdd4}🎉", "\\ud83d", n("NaN")])),
            (r#"{"\ud83d": 1, "a\"b\\": NaN}"#, json!({"\u{fdd4}": 1, "a\"b\\": n("NaN")})),
            (r#"{"a": 1, "b": 2, "a": 3}"#, json!({"a": 3, "b": 2})),
            ("[-0.0, 1E2, 0]", json!([-0.0, 100.0, 0])),
        ] {
            assert_eq!(value(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert_eq!(number("\u{fdd3}NaN"), Some("NaN"));
        assert_eq!(number("NaN"), None);
    }

    #[test]
    fn texts_with_marks_are_refused() {
        for text in [
            "[\"\u{fdd3}NaN\"]",
            "[\"a\u{fdd4}\", NaN]",
            r#"["\ufdd3NaN"]"#,
            r#"["\uFDD4", "\ud83d"]"#,
            r#"{"\ufdd3": 1e300}"#,
        ] {
            assert!(value(text.as_bytes()).unwrap_err().message().contains("U+FDD3"), "{text}");
        }
        assert!(value(r#"["\\ufdd3", "\ufdd5", NaN]"#.as_bytes()).is_ok());
    }

    #[test]
    fn errors_say_what_was_found() {
        for (text, words) in [
            (&b""[..], &["not a JSON object", "EOF"][..]),
            (b"[1]", &["not a JSON object: it is a list"]),
            (b"NaN", &["it is a number"]),
            (b"\"a\"", &["it is a text"]),
            (br#"{"text": "a"}{"text": "b"}"#, &["two objects on one line", "column 14"]),
            (br#"{"text": "a"},"#, &["a comma follows the object"]),
            (br#"{"text": "a"} x"#, &["text follows the end"]),
            (br#"{"text": "a""#, &["ends inside a value", "truncated"]),
            (br#"{"text": "a"#, &["ends inside a value"]),
            (b"{", &["ends inside a value", "several lines"]),
            (b"{'text': 'a'}", &["single quotes", "json.dumps"]),
            (br#"{"text": 'a'}"#, &["single quotes"]),
            (br#"{"text": None}"#, &["None, True or False"]),
            (br#"{"text": True}"#, &["None, True or False"]),
            (br#"{"text": "a",}"#, &["a comma has nothing behind it"]),
            (br#"{"ids": [1, 2,]}"#, &["a comma has nothing behind it"]),
            (b"{\"text\": \"a\tb\"}", &["control character 0x09", "column 12"]),
            (b"{\"text\": \"a\0b\"}", &["byte 12 is a zero byte"]),
            (b"{\"text\": \"caf\xe9\"}", &["byte 14 is 0xe9", "save the file as UTF-8"]),
            (b"{\"text\": nan}", &["expected"]),
            (b"{NaN: 1}", &["key must be a string"]),
            (b"[1.e999]", &["invalid number"]),
            (b"{\"text\": --1}", &["invalid number"]),
            (b"{\"text\": 0123456789012345678901}", &["invalid number"]),
        ] {
            let error = object(text).unwrap_err();
            assert_eq!(error.status(), Status::BadFormat);
            for word in words {
                assert!(error.message().contains(word), "{}: {error}", String::from_utf8_lossy(text));
            }
        }
    }
}
