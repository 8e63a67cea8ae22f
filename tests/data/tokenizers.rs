//! Compares tokenizers of folders whose files add tokens, and decoded continuations, with those of
//! Hugging Face's `transformers`, written by `tokenizers/generate.py`.

use std::fs;
use std::path::Path;

use horizon::data::tokenizer::{Tokenizer, TokenizerSource};
use horizon::data::{Data, DataOptions, DataPath, Encoder, EncoderSource, Row, Warning, Warnings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{folder, ids, list};

fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers/expected.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A folder with the `tokenizer.json` of `base` and other files.
fn folder_of(base: &str, files: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(folder().join(base).join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    for (name, content) in files.as_object().unwrap() {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

fn source(dir: &TempDir, vocabulary: usize) -> TokenizerSource {
    TokenizerSource { folder: Some(dir.path().to_owned()), vocabulary }
}

fn tokenizer(base: &str, files: &Value) -> Tokenizer {
    source(&folder_of(base, files), 2000).open().unwrap()
}

fn encoder(tokenizer: TokenizerSource) -> Encoder {
    EncoderSource { tokenizer, chat_template: None, time: None, chat_worker: None }.open().unwrap()
}

#[test]
fn tokens_of_a_folder_are_added_as_in_transformers() {
    let all = expected();
    assert!(list(&all["folders"]).len() >= 30);
    for case in list(&all["folders"]) {
        let tokenizer = tokenizer(case["base"].as_str().unwrap(), &case["files"]);
        for token in list(&case["added"]) {
            let id = tokenizer.id(token[1].as_str().unwrap()).unwrap();
            assert_eq!(u64::from(id), token[0].as_u64().unwrap(), "{token} of {case}");
            assert_eq!(tokenizer.is_special(id as usize), token[2].as_bool().unwrap(), "{token} of {case}");
        }
        if let Some(eos) = case["eos"].as_u64() {
            assert_eq!(tokenizer.ends(), [eos as u32], "{case}");
        }
        for text in list(&case["texts"]) {
            let bytes = text[0].as_str().unwrap().as_bytes();
            assert_eq!(tokenizer.encode(bytes, &[]).unwrap().tokens, ids(&text[1]), "{text} of {case}");
            let prompt = tokenizer.encode_prompt(bytes).unwrap();
            let whole = ids(&text[2]);
            let twice = whole.len() > 1 && whole[0] == whole[1];
            assert_eq!(prompt, whole[usize::from(twice)..], "{text} of {case}");
        }
    }
}

#[test]
fn a_continuation_is_decoded_as_in_transformers() {
    let (mut tokenizers, all) = (std::collections::BTreeMap::new(), expected());
    for case in list(&all["decoded"]) {
        let base = case[0].as_str().unwrap();
        let tokenizer = tokenizers.entry(base).or_insert_with(|| tokenizer(base, &json!({})));
        let mut decoder = tokenizer.decoder_after(&ids(&case[1])).unwrap();
        let pushed = ids(&case[2]).into_iter().map(|id| decoder.push(id as usize).unwrap());
        let text = String::from_utf8(pushed.collect::<Vec<_>>().concat()).unwrap();
        assert_eq!(text, case[3].as_str().unwrap(), "{case}");
    }
}

/// transformers adds a second BOS token; trainers warn of it or remove it.
#[test]
fn a_text_that_begins_with_the_bos_token_keeps_one() {
    let dir = folder_of("metaspace", &json!({"tokenizer_config.json": {"eos_token": "</s>"}}));
    let encoder = encoder(source(&dir, 2000));
    let tokenizer = encoder.tokenizer().unwrap();
    let (bos, eos) = (1, 2);
    let plain = tokenizer.encode(b"one", &[]).unwrap().tokens;
    let document = [&[bos], &plain[..], &[eos]].concat();
    let pair = |prompt: &str| Row::Pair(prompt.into(), "one".into());
    for (row, twice) in [
        (Row::Text("one".into()), 0),
        (Row::Text("one</s>".into()), 0),
        (Row::Text("<s>one".into()), 1),
        (Row::Text("<s>one</s>".into()), 1),
        (pair(""), 0),
        (pair("<s>"), 1),
    ] {
        let mut warnings = Warnings::default();
        let encoded = encoder.row(&row, &mut warnings).unwrap();
        assert_eq!(encoded.tokens, document, "{row:?}");
        assert_eq!(
            encoded.supervised,
            [false].into_iter().chain([true].repeat(plain.len() + 1)).collect::<Vec<_>>()
        );
        assert_eq!(warnings.count(&Warning::BosTwice), twice, "{row:?}");
    }
    let mut warnings = Warnings::default();
    let twice = encoder.document(b"<s><s>one", &mut warnings).unwrap();
    assert_eq!(twice.tokens, [&[bos], &document[..]].concat());
    assert_eq!((warnings.count(&Warning::BosRepeated), warnings.count(&Warning::BosTwice)), (1, 0));
    let mut warnings = Warnings::default();
    encoder.document(b"<s>one two three, and on to the end of a long text", &mut warnings).unwrap();
    let found: Vec<_> = warnings.iter().map(|(_, _, example)| example.to_owned()).collect();
    assert_eq!(found, ["<s>one two three, and on to the end of a"]);
    let prompt = [&[bos], &plain[..]].concat();
    assert_eq!(tokenizer.encode_prompt(b"one").unwrap(), prompt);
    assert_eq!(tokenizer.encode_prompt(b"<s>one").unwrap(), prompt);
}

/// The embedding has no row for such a token.
#[test]
fn an_added_token_outside_the_vocabulary_is_refused_where_it_is_used() {
    let config = json!({"tokenizer_config.json": {"eos_token": "</s>", "pad_token": "<pad>"}});
    let dir = folder_of("metaspace", &config);
    let tokenizer = source(&dir, 420).open().unwrap();
    assert_eq!(tokenizer.id("<pad>"), Some(420));
    let error = tokenizer.encode(b"one<pad>", &[]).unwrap_err().to_string();
    assert!(
        error.contains("token 420 (\"<pad>\") is outside the model's vocabulary of 420 tokens"),
        "{error}"
    );
    assert!(error.contains("tokenizer_config.json"), "{error}");
    assert_eq!(source(&dir, 421).open().unwrap().encode(b"<pad>", &[]).unwrap().tokens, [420]);
    let config = json!({"tokenizer_config.json": {"eos_token": "<e>"}});
    let error = source(&folder_of("metaspace", &config), 420).open().unwrap_err().to_string();
    assert!(error.contains("token 420 (\"<e>\")"), "{error}");
}

#[test]
fn token_rows_need_no_tokenizer_and_others_all_get_its_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    let tokenizer = source(&dir, 32_000);
    assert_eq!(tokenizer.fingerprint().unwrap(), 0, "unknown");
    let encoder = encoder(tokenizer);
    let row = |row: Row| encoder.row(&row, &mut Warnings::default());
    assert_eq!(row(Row::Tokens(vec![5, 31_999], vec![true; 2])).unwrap().tokens, [5, 31_999]);
    let errors =
        [Row::Text("a".into()), Row::Pair("a".into(), "b".into())].map(|text| row(text).unwrap_err());
    assert!(errors[0].message().contains("tokenizer.model is the model's tokenizer"), "{}", errors[0]);
    assert_eq!(errors[0], errors[1]);
}

/// `Strip` leaves nothing of the token; the tokenizers library panics when it meets a text.
#[test]
fn an_added_token_without_normalized_text_is_refused_by_name() {
    let dir = folder_of("metaspace", &json!({}));
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json["normalizer"] = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let mut token = |normalized: bool| {
        let flags = json!({"id": 420, "content": "  ", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": normalized, "special": false});
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        tokens.retain(|token| token["id"] != 420);
        tokens.push(flags);
        fs::write(&path, json.to_string()).unwrap();
        source(&dir, 2000).open().map_err(|error| error.to_string())
    };
    let error = token(true).unwrap_err();
    assert!(
        error.contains("tokenizer.json: the added token \"  \" (420) is empty after normalization"),
        "{error}"
    );
    token(false).unwrap().encode("é".as_bytes(), &[]).unwrap();
}

#[test]
fn a_fingerprint_depends_on_the_added_tokens() {
    let fingerprint = |config: Value| {
        let dir = folder_of("metaspace", &json!({"tokenizer_config.json": config}));
        let source = source(&dir, 2000);
        let fingerprint = source.fingerprint().unwrap();
        assert_eq!(source.open().unwrap().fingerprint(), fingerprint);
        fingerprint
    };
    let known = fingerprint(json!({"eos_token": "</s>"}));
    assert_eq!(fingerprint(json!({"eos_token": "<unk>", "model_max_length": 5})), known);
    assert_ne!(fingerprint(json!({"eos_token": "<e>"})), known);
    assert_ne!(fingerprint(json!({"eos_token": "</s>", "split_special_tokens": true})), known);
}

/// With dropout, tokens would be random.
#[test]
fn dropout_is_not_applied_and_a_warning_says_so() {
    let dir = folder_of("byte_level", &json!({}));
    let (path, rows) = (dir.path().join("tokenizer.json"), dir.path().join("rows.jsonl"));
    fs::write(&rows, "{\"text\": \"the capital of France\"}\n").unwrap();
    let tokens = |dropout: Value| {
        let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        json["model"]["dropout"] = dropout;
        fs::write(&path, json.to_string()).unwrap();
        let paths = [DataPath { path: rows.clone(), weight: 1.0 }];
        let source = EncoderSource {
            tokenizer: source(&dir, 2000),
            chat_template: None,
            time: None,
            chat_worker: None,
        };
        let data = Data::open(&paths, &source, &DataOptions::new(4)).unwrap();
        (data.fingerprint(), data.report().warnings.count(&Warning::Dropout))
    };
    let (without, with) = (tokens(Value::Null), tokens(json!(0.9)));
    assert_eq!((without.1, with), (0, (without.0, 1)));
}
