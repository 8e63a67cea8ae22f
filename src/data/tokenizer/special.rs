//! Special tokens and added tokens of a model folder, as transformers 5.24 (`TokenizersBackend`)
//! finds them.
//!
//! 1. `tokenizer.json`: `added_tokens`.
//! 2. `tokenizer_config.json`: named tokens, and a list `extra_special_tokens` (or
//!    `additional_special_tokens`). If it has `added_tokens_decoder`, these are all.
//! 3. Otherwise `special_tokens_map.json`, whose named tokens and lists replace those of
//!    `tokenizer_config.json`, and `added_tokens.json`.
//!
//! Named tokens are `bos_token`, `eos_token` and so on, other texts whose key ends with `_token`,
//! and the members of an object `extra_special_tokens`. Tokens that `tokenizer.json` does not have
//! are added to it, and a token of `added_tokens.json` that is named is special. If an object of
//! `tokenizer_config.json` names it, it is also searched for in the normalized text, whatever the
//! object's flags are; if a text or `special_tokens_map.json` does, it is not.
//!
//! The order is: those of `added_tokens_decoder` or `added_tokens.json` in the order of their
//! ids, then the named ones, then those of the list. A token has the id that the tokenizer's
//! vocabulary gives to its text, or the next free id.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;
#[cfg(feature = "text")]
use serde::Serialize;
use serde_json::{Map, Value};

use super::files::{read_json, read_of_tokenizer};
use crate::base::{Error, Result, Status};

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";

/// Keys of the named tokens that every tokenizer may have, in the order in which they are added.
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token that is found in a text before the tokenizer's model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(super) struct AddedToken {
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    /// True if the token is searched for in the normalized text.
    pub fn normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    fn special(content: String) -> AddedToken {
        AddedToken {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: true,
        }
    }

    /// Reads a special token: a text, or an object with `content`.
    fn of(value: &Value) -> Result<AddedToken, String> {
        if let Value::String(text) = value {
            return Ok(AddedToken::special(text.clone()));
        }
        let token = AddedToken::deserialize(value).map_err(|_| {
            format!("{value} is not a token: it must be a string or an object with `content`")
        })?;
        Ok(AddedToken { special: token.special || value.get("special").is_none(), ..token })
    }
}

/// A special token of a model folder.
#[cfg(feature = "text")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpecialToken {
    /// Its key (`bos_token`, …), if it has one.
    pub name: Option<String>,
    /// Its text.
    pub text: String,
}

/// The special tokens of a model folder.
#[cfg(feature = "text")]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SpecialTokens(pub Vec<SpecialToken>);

#[cfg(feature = "text")]
impl SpecialTokens {
    /// Reads the files of a folder; missing files are ignored.
    pub fn read(folder: &Path) -> Result<SpecialTokens> {
        let FolderTokens { named, extra, declared, json, .. } = FolderTokens::read(folder)?;
        let named = named.into_iter().map(|(name, token)| (Some(name), token));
        let others = json.into_iter().chain(declared).chain(extra).filter(|token| token.special);
        let all = named.chain(others.map(|token| (None, token)));
        let all = all.filter(|(_, token)| !token.content.is_empty());
        Ok(SpecialTokens(all.map(|(name, token)| SpecialToken { name, text: token.content }).collect()))
    }
}

/// The tokens in the files of a model folder.
#[derive(Debug, Default)]
pub(super) struct FolderTokens {
    /// `added_tokens` of `tokenizer.json`.
    json: Vec<AddedToken>,
    /// Tokens of `added_tokens_decoder` or `added_tokens.json`, by id.
    declared: Vec<AddedToken>,
    named: Vec<(String, AddedToken)>,
    extra: Vec<AddedToken>,
    /// `split_special_tokens`: special tokens written in a text are plain text.
    pub split_special: bool,
}

impl FolderTokens {
    /// Reads the files of a folder; missing files are ignored.
    pub fn read(folder: &Path) -> Result<FolderTokens> {
        let mut config: Map<String, Value> = read_json(&folder.join(CONFIG))?.unwrap_or_default();
        let json: JsonFile = read_of_tokenizer(&folder.join("tokenizer.json"))?.unwrap_or_default();
        let bad = |message: String| {
            Error::new(Status::BadFormat, format!("{}: {message}", folder.join(CONFIG).display()))
        };
        if !config.get(EXTRA).is_some_and(is_given)
            && let Some(additional) = config.remove(ADDITIONAL)
        {
            config.insert(EXTRA.to_owned(), additional);
        }
        let specific = take_specific(&mut config, Value::is_string);
        let declared: BTreeMap<u64, AddedToken> = match config.remove("added_tokens_decoder") {
            Some(tokens @ Value::Object(_)) => serde_json::from_value(tokens).map_err(|error| {
                bad(format!("`added_tokens_decoder` is not an object of tokens: {error}"))
            })?,
            _ => {
                merge(&mut config, read_json(&folder.join(MAP))?.unwrap_or_default());
                let added: BTreeMap<String, u64> =
                    read_json(&folder.join("added_tokens.json"))?.unwrap_or_default();
                let special = texts(&config);
                let token = |(content, id): (String, u64)| {
                    let special = special.contains(&content);
                    (id, AddedToken { special, normalized: Some(!special), ..AddedToken::special(content) })
                };
                let known = |id: &u64| json.added_tokens.iter().any(|token| token.id == *id);
                added.into_iter().map(token).filter(|(id, _)| !known(id)).collect()
            }
        };
        let mut others = take_specific(&mut config, |value| value.is_string() || value.is_object());
        others.extend(specific);
        let extra = config.get(EXTRA).or(config.get(ADDITIONAL)).and_then(Value::as_array);
        let token = |(key, value): (&str, &Value)| {
            let token = AddedToken::of(value).map_err(|message| bad(format!("`{key}`: {message}")))?;
            Ok((key.to_owned(), token))
        };
        let standard = STANDARD.iter().filter_map(|&key| Some((key, config.get(key)?)));
        let named = standard.chain(others.iter().map(|(key, value)| (&key[..], value)));
        Ok(FolderTokens {
            named: named.filter(|(_, value)| !value.is_null()).map(token).collect::<Result<_>>()?,
            extra: extra
                .into_iter()
                .flatten()
                .map(|value| Ok(token((EXTRA, value))?.1))
                .collect::<Result<_>>()?,
            declared: declared.into_values().collect(),
            json: json.added_tokens.into_iter().map(|token| token.token).collect(),
            split_special: config.get("split_special_tokens") == Some(&Value::Bool(true)),
        })
    }

    /// The text of a named token.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(key, _)| key == name).map(|(_, token)| &token.content[..])
    }

    /// Tokens to add to those of `tokenizer.json`, in order.
    pub fn missing(&self) -> Vec<AddedToken> {
        let json: HashSet<&AddedToken> = self.json.iter().collect();
        let named: HashSet<&str> = self.named.iter().map(|(_, token)| &token.content[..]).collect();
        let is_new = |token: &&AddedToken| {
            !json.contains(&AddedToken { normalized: Some(token.normalized()), ..(*token).clone() })
        };
        let special = |token: &AddedToken| AddedToken {
            special: token.special || named.contains(&token.content[..]),
            ..token.clone()
        };
        let mut missing: Vec<AddedToken> = self.declared.iter().filter(is_new).map(special).collect();
        let known: HashSet<String> =
            self.json.iter().chain(&missing).map(|token| token.content.clone()).collect();
        let others = self.named.iter().map(|(_, token)| token).chain(&self.extra);
        missing.extend(others.filter(|token| !known.contains(&token.content)).map(special));
        missing.retain(|token| !token.content.is_empty());
        missing
    }
}

#[derive(Default, Deserialize)]
struct JsonFile {
    #[serde(default)]
    added_tokens: Vec<JsonToken>,
}

#[derive(Deserialize)]
struct JsonToken {
    id: u64,
    #[serde(flatten)]
    token: AddedToken,
}

/// Removes the named tokens that are not [`STANDARD`], and those of an object [`EXTRA`].
fn take_specific(config: &mut Map<String, Value>, is_token: impl Fn(&Value) -> bool) -> Map<String, Value> {
    let is_specific =
        |key: &str, value: &Value| key.ends_with("_token") && !STANDARD.contains(&key) && is_token(value);
    let (mut specific, rest) =
        std::mem::take(config).into_iter().partition(|(key, value)| is_specific(key, value));
    *config = rest;
    if config.get(EXTRA).is_some_and(Value::is_object)
        && let Some(Value::Object(named)) = config.remove(EXTRA)
    {
        specific.extend(named);
    }
    specific
}

/// Replaces values by those of `special_tokens_map.json`; lists [`EXTRA`] are joined.
fn merge(config: &mut Map<String, Value>, map: Map<String, Value>) {
    for (key, value) in map {
        match (config.get_mut(&key), value) {
            (Some(Value::Array(all)), Value::Array(more)) if key == EXTRA => {
                let new = more.into_iter().filter(|token| !all.contains(token)).collect::<Vec<_>>();
                all.extend(new);
            }
            (_, value) => drop(config.insert(key, value)),
        }
    }
}

/// The texts of the [`STANDARD`] tokens and of the list [`EXTRA`].
fn texts(config: &Map<String, Value>) -> HashSet<String> {
    let standard = STANDARD.iter().filter_map(|&key| config.get(key));
    let extra = config.get(EXTRA).and_then(Value::as_array).into_iter().flatten();
    // Those with `__type` become tokens only later.
    let values = standard.chain(extra).filter(|value| value.get("__type").is_none());
    let tokens = values.filter_map(|value| AddedToken::of(value).ok());
    tokens.map(|token| token.content).collect()
}

/// True unless Python takes the value for false.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => true,
    }
}

#[cfg(all(test, feature = "text"))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn special_tokens_have_their_names_and_may_be_objects() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let read = || {
            let special = SpecialTokens::read(dir.path()).map_err(|error| error.to_string())?;
            let names = special.0.into_iter().map(|token| (token.name.unwrap_or_default(), token.text));
            Ok::<Vec<_>, String>(names.collect())
        };
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        put(
            CONFIG,
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "sep_token": ""}"#,
        );
        put(MAP, r#"{"bos_token": "<b>", "image_token": "<i>", "additional_special_tokens": ["<x>"]}"#);
        let expected = [("bos_token", "<b>"), ("eos_token", "</s>"), ("image_token", "<i>"), ("", "<x>")];
        assert_eq!(read().unwrap(), expected.map(|(name, text)| named(name, text)));
        put(
            CONFIG,
            r#"{"bos_token": "<s>", "added_tokens_decoder": {"7": {"content": "<y>", "special": true}}}"#,
        );
        assert_eq!(read().unwrap(), [named("bos_token", "<s>"), named("", "<y>")]);
        put(CONFIG, r#"{"eos_token": 7}"#);
        let words = "tokenizer_config.json: `eos_token`: 7 is not a token: it must be a string or an object";
        assert!(read().unwrap_err().contains(words));
    }
}
