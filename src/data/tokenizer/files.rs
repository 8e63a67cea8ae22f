//! Reads the JSON files of a model folder.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::{Error, Result, Status, json, placeholder};
use crate::host::input;

/// Largest JSON file of settings that is read, and largest template.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1 << 24;
/// Largest `tokenizer.json` that is read; Gemma's has 33 MB.
const TOKENIZER_BYTES_MAX: u64 = 1 << 27;
/// Most lists and objects, texts, and values of a `tokenizer.json`. Vocabulary and merges are most of
/// them: Gemma 3 has 515 thousand lists, 1.4 million texts and as many values.
const LISTS_MAX: usize = 1 << 20;
const TEXTS_MAX: usize = 1 << 21;
const VALUES_MAX: usize = 1 << 22;

/// Reads a JSON file of settings; `None` if it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = input::read_if_there(path, CONFIG_BYTES_MAX)? else { return Ok(None) };
    json::check_size(&bytes).map_err(|error| error.within(path.display()))?;
    parse(path, bytes).map(Some)
}

/// Reads a part of `tokenizer.json`; `None` if the file does not exist.
pub(super) fn read_of_tokenizer<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = input::read_if_there(path, TOKENIZER_BYTES_MAX)? else { return Ok(None) };
    check_tokenizer_size(&bytes).map_err(|error| error.within(path.display()))?;
    parse(path, bytes).map(Some)
}

/// Refuses a `tokenizer.json` that would fill the memory, before it is parsed.
pub(super) fn check_tokenizer_size(json: &[u8]) -> Result<()> {
    let json::Counts { lists, texts, commas } = json::counts(json);
    match lists > LISTS_MAX || texts > TEXTS_MAX || commas > VALUES_MAX {
        true => Err(Error::new(
            Status::BadFormat,
            "it has too many values; the most are about 1 million lists and objects, 2 million texts, and 4 million \
             values in all",
        )),
        false => Ok(()),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: Vec<u8>) -> Result<T> {
    serde_json::from_slice(&json_of(path, bytes)?)
        .map_err(|error| Error::new(Status::BadFormat, format!("{}: {error}", path.display())))
}

/// Reads the text of a `tokenizer.json`, without a byte order mark.
pub(super) fn read_tokenizer(path: &Path) -> Result<Vec<u8>> {
    json_of(path, input::read_whole(path, TOKENIZER_BYTES_MAX)?)
}

/// Returns the text of a JSON file, without a byte order mark. Errors name a file that something else
/// has taken the place of.
fn json_of(path: &Path, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    bytes.drain(..bytes.len() - json::without_mark(&bytes).len());
    let what = if bytes.trim_ascii().is_empty() { Some("empty; copy it again") } else { placeholder(&bytes) };
    match what {
        Some(what) => Err(Error::new(Status::BadFormat, format!("{} is {what}", path.display()))),
        None => Ok(bytes),
    }
}

/// Reads `eos_token_id` of `generation_config.json`, else of `config.json`: an id, or a list of them.
/// Integers that are no token of the vocabulary are left out; `FolderConfig::notes` reports them.
pub(super) fn end_tokens(folder: &Path, vocabulary: usize) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = folder.join(name);
        let Some(config) = read_json::<Value>(&path)? else { continue };
        let ids = match &config["eos_token_id"] {
            Value::Null => &[],
            Value::Array(ids) => &ids[..],
            id => std::slice::from_ref(id),
        };
        if let Some(id) = ids.iter().find(|id| !(id.is_i64() || id.is_u64())) {
            let message = format!(
                "{}: `eos_token_id` has {id}; it must be a token id, or a list of them",
                path.display()
            );
            return Err(Error::new(Status::BadFormat, message));
        }
        let in_vocabulary = ids.iter().filter_map(Value::as_u64).filter(|&id| id < vocabulary as u64);
        let ids: Vec<u32> = in_vocabulary.map(|id| id as u32).collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn end_tokens_are_one_id_or_a_list_below_the_vocabulary() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let ends = || end_tokens(dir.path(), 10).map_err(|error| error.to_string());
        assert!(ends().unwrap().is_empty());
        put("config.json", r#"{"eos_token_id": 7}"#);
        assert_eq!(ends().unwrap(), [7]);
        for none in ["null", "-1", "[]", "[-1]"] {
            put("generation_config.json", &format!(r#"{{"eos_token_id": {none}}}"#));
            assert_eq!(ends().unwrap(), [7], "{none}");
        }
        put("generation_config.json", "\u{feff}{\"eos_token_id\": [9, -1, 8, 10, -2]}");
        assert_eq!(ends().unwrap(), [9, 8]);
        for bad in ["2.5", "\"2\"", "true"] {
            put("generation_config.json", &format!(r#"{{"eos_token_id": [3, {bad}]}}"#));
            let words =
                format!("generation_config.json: `eos_token_id` has {bad}; it must be a token id, or a list");
            assert!(ends().unwrap_err().contains(&words), "{bad}");
        }
        put("config.json", "{");
        put("generation_config.json", "{}");
        assert!(ends().unwrap_err().contains("config.json"));
    }

    /// As those of Llama 3 and Gemma.
    #[test]
    fn a_tokenizer_may_be_larger_than_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let padded =
            format!("{{\"added_tokens\": [{{\"id\": 7, \"content\": \"x\"}}]{}}}", " ".repeat(17 << 20));
        fs::write(dir.path().join("tokenizer.json"), &padded).unwrap();
        let tokens = super::super::special::FolderTokens::read(dir.path());
        assert!(format!("{tokens:?}").contains("content: \"x\""), "{tokens:?}");
        for (values, count) in [("[],", 1 << 20), ("\"\",", 1 << 21), ("0,", 1 << 22)] {
            let json = format!("{{\"normalizer\": [{}0]}}", values.repeat(count + 1));
            fs::write(dir.path().join("tokenizer.json"), json).unwrap();
            let error = super::super::special::FolderTokens::read(dir.path()).unwrap_err();
            assert!(error.message().contains("tokenizer.json: it has too many values"), "{error}");
        }
        // Gemma 3 has fewer lists and texts.
        let merges = format!("{{\"merges\": [{}0]}}", "[\"a\",\"b\"],".repeat(700_000));
        assert_eq!(check_tokenizer_size(merges.as_bytes()), Ok(()));
        let path = dir.path().join("tokenizer_config.json");
        fs::write(&path, padded).unwrap();
        assert!(read_json::<Value>(&path).unwrap_err().message().contains("longer than 16777216 bytes"));
        fs::write(&path, format!("[{}0]", "{\"\":0},".repeat(1 << 20))).unwrap();
        assert!(read_json::<Value>(&path).unwrap_err().message().contains("json: it has too many values"));
    }

    #[test]
    fn a_file_that_is_not_json_is_named_for_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            read_json::<Value>(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read("\u{feff}{}").unwrap().unwrap(), serde_json::json!({}));
        for (text, words) in [
            ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
            ("\n<!doctype html>", "is a web page"),
            (" \n", "is empty"),
            ("\u{feff}", "is empty"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains("tokenizer.json") && error.contains(words), "{error}");
        }
    }
}
