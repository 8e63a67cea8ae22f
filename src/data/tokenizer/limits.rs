//! Limits of a `tokenizer.json`, which is untrusted input.
//!
//! Each step of a normalizer, a pre-tokenizer or a decoder may make a text longer, and steps that
//! follow one another multiply: thirty that double a text need 2³⁰ times its memory. So a bound of
//! the growth is computed before the tokenizer is used. Parts are recognized by their fields, as the
//! `tokenizers` crate does for files without `type`.

use serde::Deserialize;
use serde_json::Value;

use super::files::check_tokenizer_size;
use crate::base::{Error, Result, Status};

/// Most bytes that may become of one byte of text.
const GROWTH_MAX: f64 = 64.0;
/// Most steps of a part, and elements of a list of the post-processor.
const STEPS_MAX: usize = 256;
/// Most bytes of all added tokens, which are found by one automaton with some 90 bytes for each;
/// models with 65 thousand tokens of audio have 1 MB.
const ADDED_BYTES_MAX: usize = 4 << 20;

#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

/// Refuses a `tokenizer.json` that is too large, or makes texts much longer.
pub fn check(json: &[u8]) -> Result<()> {
    check_tokenizer_size(json)?;
    let parts: Parts = serde_json::from_slice(json)
        .map_err(|error| refused(format!("not a Hugging Face tokenizer: {error}")))?;
    check_added(parts.added_tokens.iter().map(|token| &token.content[..]))?;
    for (name, parts) in [
        ("normalizer and pre-tokenizer", &[&parts.normalizer, &parts.pre_tokenizer][..]),
        ("post-processor", &[&parts.post_processor]),
        ("decoder", &[&parts.decoder]),
    ] {
        let mut growth = Growth::default();
        parts.iter().for_each(|part| growth.follow(part));
        if growth.steps > STEPS_MAX {
            return Err(refused(format!("its {name} has more than {STEPS_MAX} steps or tokens")));
        }
        let factor = growth.factor();
        if factor > GROWTH_MAX {
            return Err(refused(format!(
                "its {name} can make a text {factor:.0} times as long; the most is {GROWTH_MAX:.0} times"
            )));
        }
    }
    Ok(())
}

/// Refuses added tokens that are too long together.
pub fn check_added<'a>(tokens: impl Iterator<Item = &'a str>) -> Result<()> {
    match tokens.map(str::len).sum() {
        ..=ADDED_BYTES_MAX => Ok(()),
        bytes => Err(refused(format!("its added tokens have {bytes} bytes; the most is {ADDED_BYTES_MAX}"))),
    }
}

fn refused(message: String) -> Error {
    Error::new(Status::BadFormat, message)
}

/// A bound of the growth of a text by the steps so far.
///
/// Of steps that replace different characters of the original text, each byte meets one, so the
/// largest growth counts. A step that may replace what an earlier one wrote multiplies.
struct Growth {
    /// The growth by all steps before those of the group.
    before: f64,
    /// The largest growth by a step of the group.
    group: f64,
    /// Everything that the steps of the group, and those before, have written.
    written: String,
    /// Bytes put before a text.
    prepended: usize,
    steps: usize,
}

impl Default for Growth {
    fn default() -> Growth {
        Growth { before: 1.0, group: 1.0, written: String::new(), prepended: 0, steps: 0 }
    }
}

impl Growth {
    fn factor(&self) -> f64 {
        self.before * self.group + self.prepended as f64
    }

    /// Follows the steps of a part in order.
    fn follow(&mut self, part: &Value) {
        let lists = ["normalizers", "pretokenizers", "processors", "decoders"];
        if let Some(steps) = lists.iter().find_map(|list| part[list].as_array()) {
            steps.iter().for_each(|step| self.follow(step));
            return;
        }
        self.steps += 1;
        if let (Some(content), pattern @ Value::Object(_)) = (part["content"].as_str(), &part["pattern"]) {
            match pattern["String"].as_str().filter(|text| !text.is_empty()) {
                Some(text) => self.replace(text, content),
                None => self.multiply(replaced_by_regex(pattern["Regex"].as_str(), content)),
            }
            self.written += content;
        }
        if let Some(replacement) = part["replacement"].as_str() {
            self.replace(" ", replacement);
            self.prepended += replacement.len();
        }
        self.prepended += part["prepend"].as_str().map_or(0, str::len);
        match part["type"].as_str() {
            Some("ByteLevel") => self.multiply(2.0),
            Some("NFD" | "NFKC" | "NFKD") => self.multiply(3.0),
            None if part.get("trim_offsets").is_some() => self.multiply(2.0),
            _ => {}
        }
        if let Some(pieces) = part["single"].as_array() {
            let texts = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
            let ids = part["special_tokens"].as_object().into_iter().flatten();
            let ids = ids.filter_map(|(_, token)| token["ids"].as_array());
            self.multiply(texts as f64);
            self.steps += pieces.len() + ids.map(|ids| ids.len() * pieces.len()).max().unwrap_or(0);
        }
    }

    /// Follows a step that writes `content` in place of a text.
    fn replace(&mut self, text: &str, content: &str) {
        let growth = content.len() as f64 / text.len() as f64;
        if self.written.contains(|written| text.contains(written)) {
            self.multiply(growth);
        } else {
            self.group = self.group.max(growth);
        }
    }

    fn multiply(&mut self, growth: f64) {
        self.before *= self.group;
        self.group = growth.max(1.0);
    }
}

/// A bound of the growth where `content` replaces matches of a pattern, which may be empty.
fn replaced_by_regex(pattern: Option<&str>, content: &str) -> f64 {
    let parsed = pattern.and_then(|pattern| regex_syntax::parse(pattern).ok());
    match parsed.and_then(|pattern| pattern.properties().minimum_len()).unwrap_or(0) {
        0 => 1.0 + content.len() as f64,
        shortest => content.len() as f64 / shortest as f64,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    fn normalizing(steps: &[Value]) -> Result<()> {
        check(json!({"normalizer": {"type": "Sequence", "normalizers": steps}}).to_string().as_bytes())
    }

    fn message(checked: Result<()>) -> String {
        checked.map_or_else(|error| error.message().to_owned(), |()| String::new())
    }

    #[test]
    fn steps_that_multiply_a_text_are_refused() {
        let doubling = || replace("a", "aa");
        assert!(message(normalizing(&vec![doubling(); 30])).contains("1073741824 times as long"));
        assert_eq!(normalizing(&vec![doubling(); 6]), Ok(()));
        let around = [replace("a", "bbbbbbbbbb"), replace("b", "aaaaaaaaaa")];
        assert!(message(normalizing(&around)).contains("100 times"));
        let by_regex = json!({"pattern": {"Regex": "x*"}, "content": "y".repeat(99)});
        assert!(message(normalizing(&[by_regex])).contains("100 times"));
        let prepending = json!({"type": "Prepend", "prepend": "a".repeat(70)});
        assert!(message(normalizing(&[prepending])).contains("71 times"));
        assert!(message(normalizing(&vec![replace("a", "b"); 300])).contains("more than 256 steps"));
        let bytes = vec![json!({"type": "ByteLevel"}); 30];
        for (part, list) in [("pre_tokenizer", "pretokenizers"), ("decoder", "decoders")] {
            let json = json!({part: {"type": "Sequence", list: bytes}}).to_string();
            assert!(message(check(json.as_bytes())).contains("times as long"), "{part}");
        }
        let twice = json!({"single": [{"Sequence": {"id": "A"}}, {"Sequence": {"id": "A"}}]});
        let json = json!({"post_processor": {"processors": vec![twice; 30]}}).to_string();
        assert!(message(check(json.as_bytes())).contains("its post-processor can make a text"));
    }

    #[test]
    fn added_tokens_and_values_are_limited() {
        let added = |bytes: usize| check_added([&*"a".repeat(bytes), "b"].into_iter());
        assert_eq!(added(ADDED_BYTES_MAX - 1), Ok(()));
        assert!(message(added(ADDED_BYTES_MAX)).contains("have 4194305 bytes; the most is 4194304"));
        let json = json!({"added_tokens": [{"content": "a".repeat(ADDED_BYTES_MAX + 1)}]}).to_string();
        assert!(message(check(json.as_bytes())).contains("its added tokens have 4194305 bytes"));
        let lists = format!("{{\"model\": [{}0]}}", "[],".repeat(1 << 20));
        assert!(message(check(lists.as_bytes())).contains("it has too many values"));
    }

    #[test]
    fn the_steps_of_models_are_accepted() {
        // Llama 2, and a list of abbreviations that are written out.
        assert_eq!(normalizing(&[json!({"type": "Prepend", "prepend": "▁"}), replace(" ", "▁")]), Ok(()));
        let ligatures = ('\u{fb00}'..='\u{fb20}').map(|c| replace(&c.to_string(), &"x".repeat(40)));
        assert_eq!(normalizing(&ligatures.collect::<Vec<_>>()), Ok(()));
        let spaces = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"});
        assert_eq!(normalizing(&vec![spaces; 9]), Ok(()));
    }
}
