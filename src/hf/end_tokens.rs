//! Tokens that end generation, in the `generation_config.json` of an export.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::{Error, Result, Status};
use crate::hf::companions::GENERATION;
use crate::hf::{FolderConfig, file_text};

/// The key of `generation_config.json` and `config.json`: one token id, or a list.
const KEY: &str = "eos_token_id";

impl FolderConfig {
    /// Adds tokens to `eos_token_id` of `generation_config.json`; all its other bytes stay. If it
    /// has none, the tokens of `config.json` come first. Returns the tokens that were added, by id
    /// and, where `tokenizer.json` has it, text.
    ///
    /// Errors: `generation_config.json` is not a JSON object of texts and values.
    pub fn add_end_tokens(&mut self, tokens: impl IntoIterator<Item = i32>) -> Result<Vec<String>> {
        let text = match self.companions.get(GENERATION) {
            Some(bytes) => std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| bad(&error))?,
            None => String::from_utf8_lossy(&file_text(&self.generation_json())).into_owned(),
        };
        let text = text.trim_start_matches('\u{feff}');
        let keys: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|error| bad(&error))?;
        let stated = keys.get(KEY).map(|value| value.get()).filter(|value| *value != "null");
        let value = match stated {
            Some(stated) => serde_json::from_str(stated).map_err(|error| bad(&error))?,
            None => self.carried.get(KEY).cloned().unwrap_or_default(),
        };
        let mut ids = list(value);
        let before = ids.len();
        for token in tokens.into_iter().map(Value::from) {
            if !ids.contains(&token) {
                ids.push(token);
            }
        }
        if ids.len() == before {
            return Ok(Vec::new());
        }
        let added = self.described(&ids[before..]);
        let list = Value::from(ids).to_string();
        let text = with_value(text, keys.get(KEY).map(|value| value.get()), &list);
        self.companions.put(GENERATION, text.into_bytes());
        Ok(added)
    }

    /// Returns notes about ids of `eos_token_id` that are outside the vocabulary. transformers loads
    /// such a model; generation never meets them.
    pub(super) fn notes_of_end_tokens(&self) -> Vec<String> {
        let vocabulary = self.model.dims.v;
        let generation = self.companions.json::<Map<String, Value>>(GENERATION).unwrap_or_default();
        let mut notes = Vec::new();
        for (file, keys) in [(GENERATION, &generation), ("config.json", &self.carried)] {
            let ids = list(keys.get(KEY).cloned().unwrap_or_default());
            let is_outside = |id: &&Value| {
                id.as_i64().is_some_and(|id| id < -1) || id.as_u64().is_some_and(|id| id >= vocabulary as u64)
            };
            let mut outside = ids.iter().filter(is_outside);
            let Some(first) = outside.next() else { continue };
            let (more, are) = match outside.count() {
                0 => (String::new(), "it is"),
                more => (format!(" and {more} more"), "they are"),
            };
            notes.push(format!(
                "{KEY} of {file} has {first}{more}, outside the vocabulary of {vocabulary} tokens; {are} left out"
            ));
        }
        notes
    }

    /// Returns ids of tokens with their texts.
    fn described(&self, ids: &[Value]) -> Vec<String> {
        #[derive(Deserialize)]
        struct Tokenizer {
            added_tokens: Vec<Added>,
        }
        #[derive(Deserialize)]
        struct Added {
            id: u64,
            content: String,
        }
        let tokens =
            self.companions.json::<Tokenizer>("tokenizer.json").map_or(Vec::new(), |it| it.added_tokens);
        let text = |id: &Value| Some(&tokens.iter().find(|token| Some(token.id) == id.as_u64())?.content);
        ids.iter().map(|id| text(id).map_or(id.to_string(), |text| format!("{id} ({text})"))).collect()
    }
}

/// Returns the ids of a value: one, a list, or null.
fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(ids) => ids,
        Value::Null => Vec::new(),
        id => vec![id],
    }
}

/// Replaces the value of the key in the text of a JSON object. `old` is a part of the text; `None`
/// if the key is missing.
fn with_value(text: &str, old: Option<&str>, new: &str) -> String {
    if let Some(old) = old {
        let start = old.as_ptr() as usize - text.as_ptr() as usize;
        return [&text[..start], new, &text[start + old.len()..]].concat();
    }
    let (before, after) = text.split_once('{').expect("it was parsed as an object");
    let comma = if after.trim_start().starts_with('}') { "" } else { "," };
    format!("{before}{{\n  \"{KEY}\": {new}{comma}{after}")
}

fn bad(error: &dyn std::fmt::Display) -> Error {
    Error::new(Status::BadFormat, format!("{GENERATION} of the model: {error}; repair it, or delete it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset;

    /// The `generation_config.json` after `tokens` are added to `text`, and the tokens added.
    fn added(text: &str, tokens: &[i32]) -> (String, Vec<String>) {
        let mut config = FolderConfig::of(preset("tiny").unwrap()).unwrap();
        config.carried.insert(KEY.into(), 2.into());
        config.companions.put(GENERATION, text.as_bytes().to_vec());
        let tokenizer = r#"{"added_tokens": [{"id": 7, "content": "<|im_end|>"}]}"#;
        config.companions.put("tokenizer.json", tokenizer.as_bytes().to_vec());
        let added = config.add_end_tokens(tokens.iter().copied()).unwrap();
        (String::from_utf8(config.companions.get(GENERATION).unwrap().to_vec()).unwrap(), added)
    }

    #[test]
    fn end_tokens_are_added_and_all_other_bytes_stay() {
        let one = "{\n    \"top_p\": 0.80, \"eos_token_id\":  5,\n\t\"temperature\": 1e-1}\n";
        let (text, names) = added(one, &[5, 7, 9]);
        assert_eq!(text, one.replace(" 5,", " [5,7,9],"));
        assert_eq!(names, ["7 (<|im_end|>)", "9"]);
        let list = "{\"eos_token_id\": [5, 7], \"a\": \"\\u007b\"}";
        assert_eq!(added(list, &[7]), (list.to_owned(), Vec::new()));
        // Without a list of its own, the token of config.json ends generation, too.
        assert_eq!(added("{\"eos_token_id\": null}", &[7]).0, "{\"eos_token_id\": [2,7]}");
        assert_eq!(added("{}", &[7]).0, "{\n  \"eos_token_id\": [2,7]}");
        assert_eq!(added("{ \"a\": 1 }", &[7]).0, "{\n  \"eos_token_id\": [2,7], \"a\": 1 }");
    }

    /// transformers loads such a model.
    #[test]
    fn ids_outside_the_vocabulary_are_noted() {
        let mut config = FolderConfig::of(preset("tiny").unwrap()).unwrap();
        let v = config.model.dims.v;
        config.carried.insert(KEY.into(), (v - 1).into());
        let text = format!("\u{feff}{{\"eos_token_id\": [-1, 0, {v}, -2, \"x\"]}}");
        config.companions.put(GENERATION, text.into_bytes());
        let note = |ids: &str| {
            format!(
                "eos_token_id of generation_config.json has {ids}, outside the vocabulary of {v} tokens; "
            )
        };
        assert_eq!(config.notes_of_end_tokens(), [note(&format!("{v} and 1 more")) + "they are left out"]);
        assert_eq!(config.add_end_tokens([7]).unwrap(), ["7"]);
        config.companions.put(GENERATION, br#"{"eos_token_id": -2}"#.to_vec());
        assert_eq!(config.notes_of_end_tokens(), [note("-2") + "it is left out"]);
    }

    #[test]
    fn a_folder_without_a_generation_config_gets_one() {
        let mut config = FolderConfig::of(preset("tiny").unwrap()).unwrap();
        assert!(config.add_end_tokens([]).unwrap().is_empty() && !config.companions.has(GENERATION));
        assert_eq!(config.add_end_tokens([7]).unwrap(), ["7"]);
        let keys: Value = serde_json::from_slice(config.companions.get(GENERATION).unwrap()).unwrap();
        assert_eq!(keys, serde_json::json!({"_from_model_config": true, "eos_token_id": [7]}));
        config.companions.put(GENERATION, b"[]".to_vec());
        let error = config.add_end_tokens([7]).unwrap_err();
        assert!(error.message().contains("generation_config.json of the model"), "{error}");
    }
}
