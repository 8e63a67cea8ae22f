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
//! | one of the marks in a text | [`SURROGATE`] in its place |
//!
//! Both marks are noncharacters, which no text may contain: a field that is used is refused if it
//! has one. Of equal keys the last one counts.
//!
//! `serde_json` parses a text as it is, and few texts need more: those that it refuses, and those
//! with a float as large as an integer beyond 64 bits, or with marks of their own. They are
//! rewritten and parsed again.
//!
//! A small value takes many times its bytes of memory, so [`check_size`] limits their number.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::{Map, Number, Value};

use crate::base::{Error, Result, Status};

/// First character of a text that stands for a number that a JSON value cannot hold.
pub const NUMBER: char = '\u{fdd3}';
/// Stands for a lone surrogate.
pub const SURROGATE: char = '\u{fdd4}';

/// Returns the number that a text stands for: NaN, Infinity, -Infinity, or an integer's digits.
pub fn number(text: &str) -> Option<&str> {
    text.strip_prefix(NUMBER)
}

/// Returns a text without a byte order mark at its beginning.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
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
    check_size(text)?;
    let parsed = serde_json::from_slice(text);
    if let Ok(value) = parsed
        && !is_unlike_python(&value, may_have_mark(text))
    {
        return Ok(value);
    }
    let rewritten = rewrite(text);
    serde_json::from_slice(&rewritten).map_err(|error| bad(describe(&rewritten, &error)))
}

/// Refuses a text whose values would fill the memory, before it is parsed. It may have about 32
/// million numbers, 4 million texts, or 512 thousand lists and objects; they are weighed by the
/// memory that they take.
pub fn check_size(text: &[u8]) -> Result<()> {
    const LIST: usize = 64;
    const WEIGHT_MAX: usize = 1 << 25;
    // A shorter text cannot weigh more.
    if text.len() <= WEIGHT_MAX / LIST {
        return Ok(());
    }
    let Counts { lists, texts, commas } = counts(text);
    match lists * LIST + texts * 8 + commas > WEIGHT_MAX {
        true => Err(bad(
            "it has too many values; the most are about 32 million numbers, 4 million texts, or 512 \
                         thousand lists and objects"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Numbers of values in a JSON text.
pub struct Counts {
    /// Lists and objects.
    pub lists: usize,
    /// Texts and keys.
    pub texts: usize,
    /// Commas: the other values, and those of `lists` and `texts` but for the first ones.
    pub commas: usize,
}

/// Counts the values of a text without parsing it.
pub fn counts(text: &[u8]) -> Counts {
    let mut counts = Counts { lists: 0, texts: 0, commas: 0 };
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                counts.texts += 1;
                at += string_length(&text[at..]);
                continue;
            }
            b'{' | b'[' => counts.lists += 1,
            b',' => counts.commas += 1,
            _ => {}
        }
        at += 1;
    }
    counts
}

fn bad(message: String) -> Error {
    Error::new(Status::BadFormat, message)
}

/// Errors: a text that is not from JSON has marks.
#[cfg(feature = "text")]
pub fn check_text(text: &str) -> Result<()> {
    match has_mark(text.as_bytes()) {
        true => {
            Err(bad("a text has one of the noncharacters U+FDD3 and U+FDD4, which no text may contain; \
                         remove it"
                .to_owned()))
        }
        false => Ok(()),
    }
}

/// True if `serde_json` reads something in another way than Python, or, if `texts` is true, if a
/// text has a mark.
fn is_unlike_python(value: &Value, texts: bool) -> bool {
    // 2⁶³ is the smallest integer, and −2⁶³ the largest, that may be beyond 64 bits.
    let is_large =
        |number: &Number| number.is_f64() && number.as_f64().is_some_and(|x| x.abs() >= 2f64.powi(63));
    match value {
        Value::String(text) => texts && has_mark(text.as_bytes()),
        Value::Array(values) => values.iter().any(|value| match value {
            Value::Number(number) => is_large(number),
            value => is_unlike_python(value, texts),
        }),
        Value::Object(object) => object
            .iter()
            .any(|(key, value)| texts && has_mark(key.as_bytes()) || is_unlike_python(value, texts)),
        Value::Number(number) => is_large(number),
        Value::Null | Value::Bool(_) => false,
    }
}

/// False if a JSON text has marks neither as they are nor as escapes.
fn may_have_mark(text: &[u8]) -> bool {
    // A searcher takes longer to make than to search a short text.
    static ESCAPE: LazyLock<Finder> = LazyLock::new(|| Finder::new("\\u"));
    memchr::memchr(0xef, text).is_some() || ESCAPE.find(text).is_some()
}

/// True if a UTF-8 text has U+FDD3 or U+FDD4.
fn has_mark(text: &[u8]) -> bool {
    has_noncharacter(text, NUMBER..=SURROGATE)
}

/// True if a UTF-8 text has one of some noncharacters between U+FDD0 and U+FDEF.
pub fn has_noncharacter(text: &[u8], which: RangeInclusive<char>) -> bool {
    static BEGIN: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"\xef\xb7"));
    let is = |third: u8| char::from_u32(0xfdc0 + u32::from(third & 0x3f)).is_some_and(|c| which.contains(&c));
    BEGIN.find_iter(text).any(|at| text.get(at + 2).is_some_and(|third| is(*third)))
}

/// Returns a text with marks in place of values that `serde_json` cannot hold.
fn rewrite(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(&byte) = rest.first() {
        let length = match byte {
            b'"' => {
                let length = string_length(rest);
                rewrite_string(&rest[..length], &mut out);
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
        let is_key = || after.trim_ascii_start().starts_with(b":");
        match large_number(word).filter(|_| !is_key()) {
            Some(number) => out.extend_from_slice(format!("\"{NUMBER}{number}\"").as_bytes()),
            None => out.extend_from_slice(word),
        }
        rest = after;
    }
    out
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

/// Copies a JSON string with [`SURROGATE`] for lone surrogates and marks; escaped pairs stay.
fn rewrite_string(string: &[u8], out: &mut Vec<u8>) {
    let mut mark = [0; 4];
    let mark = SURROGATE.encode_utf8(&mut mark).as_bytes();
    let unit = |at: usize| -> Option<u32> {
        let digits = string.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(next) = memchr::memchr2(b'\\', mark[0], &string[at..]) {
        out.extend_from_slice(&string[at..at + next]);
        at += next;
        let (replaced, length) = match (unit(at), unit(at + 6)) {
            _ if string[at] == mark[0] => match string.get(at..at + mark.len()) {
                Some(found) if has_mark(found) => (true, mark.len()),
                _ => (false, 1),
            },
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (false, 12),
            (Some(0xd800..=0xdfff | 0xfdd3 | 0xfdd4), _) => (true, 6),
            _ => (false, 2.min(string.len() - at)),
        };
        out.extend_from_slice(if replaced { mark } else { &string[at..at + length] });
        at += length;
    }
    out.extend_from_slice(&string[at..]);
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
    let column = error.column().saturating_sub(1).min(line.len());
    let rest = &line[column..];
    let begins = |what: &[&str]| what.iter().any(|word| rest.starts_with(word.as_bytes()));
    let place = match error.line() {
        0 | 1 => format!("column {}", error.column()),
        below => format!("line {below} of it, column {}", error.column()),
    };
    let message = match words {
        _ if text.trim_ascii().is_empty() => return "it is empty".to_owned(),
        "trailing characters" if begins(&["{"]) => "two objects on one line; write one object per line",
        "trailing characters" if begins(&[","]) => {
            "a comma follows the object; remove it, or write all objects as one list in brackets"
        }
        "trailing characters" => "text follows the end of the value",
        "trailing comma" => "a comma has nothing behind it; remove the comma",
        "key must be a string" | "expected value" | "expected ident" if begins(&["'"]) => {
            "single quotes, as Python prints a dict; write JSON, e.g. with json.dumps"
        }
        "expected value" if begins(&["None", "True", "False"]) => {
            "None, True or False of Python; write null, true or false, e.g. with json.dumps"
        }
        "expected value" | "expected ident" => {
            return format!("{} is not a JSON value ({place})", word(line, column));
        }
        "key must be a string" => "a key must be a text in double quotes",
        "recursion limit exceeded" => "lists and objects are nested too deeply",
        _ if error.is_eof() => {
            "it ends inside a value: the file is truncated, or an object is written over several lines; \
             write one object per line"
        }
        _ if words.starts_with("control character") => {
            let found = rest.first().copied().filter(u8::is_ascii_control);
            let found = found.map_or(String::new(), |byte| format!(" 0x{byte:02x}"));
            return format!(
                "a control character{found} inside a text; write it as an escape (\\t, \\n, \\u0001) ({place})"
            );
        }
        words => words,
    };
    format!("{message} ({place})")
}

/// Returns the word at a byte of a line, or the character there, in quotes.
fn word(line: &[u8], at: usize) -> String {
    const CHARACTERS_MAX: usize = 40;
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(byte);
    let start = line[..at].iter().rposition(|byte| !is_word(byte)).map_or(0, |before| before + 1);
    let text = String::from_utf8_lossy(&line[start..]);
    let end = text.bytes().position(|byte| !is_word(&byte)).unwrap_or(text.len());
    let word: String = text[..end].chars().take(CHARACTERS_MAX).collect();
    format!("{:?}", if word.is_empty() { text.chars().take(1).collect() } else { word })
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

    /// With a scan for each blank this test would take hours.
    #[test]
    fn blanks_take_linear_time() {
        let blanks = " ".repeat(8 << 20);
        let n = format!("{NUMBER}NaN");
        assert_eq!(value(format!("[NaN,{blanks}1]").as_bytes()).unwrap(), json!([n, 1]));
        assert!(value(format!("[1,{blanks}}}").as_bytes()).is_err());
    }

    #[test]
    fn values_are_as_many_as_memory_allows() {
        let list = |element: &str, count: usize| format!("[{}0]", format!("{element},").repeat(count));
        for (element, count) in [("0", 1 << 25), ("\"a,[\\\"\"", 4 << 20), ("{}", 1 << 19), ("[]", 1 << 19)] {
            let error = check_size(list(element, count).as_bytes()).unwrap_err();
            assert!(error.message().contains("it has too many values"), "{error}");
            check_size(list(element, count / 10 * 8).as_bytes()).unwrap();
        }
        check_size(list("100000", 16 << 20).as_bytes()).unwrap();
    }

    /// A field that is not used may have them.
    #[test]
    fn marks_in_a_text_are_replaced() {
        for (text, expected) in [
            ("[\"\u{fdd3}NaN\"]", json!(["\u{fdd4}NaN"])),
            ("[\"a\u{fdd4}\", NaN]", json!(["a\u{fdd4}", "\u{fdd3}NaN"])),
            (r#"["\ufdd3NaN"]"#, json!(["\u{fdd4}NaN"])),
            (r#"["\uFDD4", "\ud83d"]"#, json!(["\u{fdd4}", "\u{fdd4}"])),
            (r#"{"\ufdd3": 1e300, "\u{fdd3}b": "ﬁ"}"#, json!({"\u{fdd4}": 1e300, "\u{fdd4}b": "ﬁ"})),
            (r#"["\\ufdd3", "\ufdd5", NaN]"#, json!(["\\ufdd3", "\u{fdd5}", "\u{fdd3}NaN"])),
        ] {
            let text = text.replace("\\u{fdd3}", "\u{fdd3}");
            assert_eq!(value(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn errors_say_what_was_found() {
        for (text, words) in [
            (&b""[..], &["not a JSON object: it is empty"][..]),
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
            (b"{\"text\": nan}", &["\"nan\" is not a JSON value (column 11)"]),
            (b"{\"text\": ?}", &["\"?\" is not a JSON value (column 10)"]),
            (b"hello", &["\"hello\" is not a JSON value (column 1)"]),
            (b"{\n\"text\": \"a\"\n\"b\"}", &["(line 3 of it, column 1)"]),
            (b"{NaN: 1}", &["a key must be a text in double quotes (column 2)"]),
            (b"[1.e999]", &["invalid number (column 4)"]),
            (b"{\"text\": --1}", &["invalid number"]),
            (b"{\"text\": 0123456789012345678901}", &["invalid number"]),
        ] {
            let error = object(text).unwrap_err();
            assert_eq!(error.status(), Status::BadFormat);
            assert!(!error.message().contains("at line"), "{error}");
            for word in words {
                assert!(error.message().contains(word), "{}: {error}", String::from_utf8_lossy(text));
            }
        }
    }
}
