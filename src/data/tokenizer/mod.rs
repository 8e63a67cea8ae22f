//! Tokenizes and detokenizes text, with the model folder's `tokenizer.json` or, if there is none,
//! as bytes.
//!
//! A document begins and ends with the special tokens that the tokenizer adds (usually a BOS token
//! at the beginning) and ends with the EOS token. A chat template writes these tokens itself.

#[cfg(feature = "text")]
mod hugging_face;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::hash::fnv1a;
use crate::base::{Error, Result, Status};

#[cfg(feature = "text")]
use hugging_face::HuggingFace;
#[cfg(not(feature = "text"))]
use without::HuggingFace;

/// A tokenized text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub tokens: Vec<i32>,
    /// Loss mask: true for supervised tokens.
    pub supervised: Vec<bool>,
}

/// A byte-level or Hugging Face tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
    fingerprint: u64,
    /// Tokens at which generation ends.
    ends: Vec<u32>,
    /// The token that ends a document.
    eos: Option<u32>,
}

#[derive(Debug)]
enum Kind {
    Bytes,
    HuggingFace(Box<HuggingFace>),
}

/// Location of a model's tokenizer. It is opened only when there is text.
#[derive(Clone, Debug)]
pub struct TokenizerSource {
    /// The model folder; `None` for a built-in shape.
    pub folder: Option<PathBuf>,
    /// V of the model.
    pub vocabulary: usize,
}

impl TokenizerSource {
    /// Opens the tokenizer.
    ///
    /// Errors: `BadFormat` if `tokenizer.json` is invalid; `Unsupported` if the folder only has a
    /// tokenizer of another kind; `InvalidArgument` if there is no tokenizer and the vocabulary has
    /// fewer than 256 tokens, or is that of a folder and has more than 384.
    pub fn open(&self) -> Result<Tokenizer> {
        let Some(path) = self.file()? else {
            if self.vocabulary < Tokenizer::BYTES {
                return Err(Error::argument(format!(
                    "the model has no tokenizer.json, so text is read as bytes, which needs a vocabulary of \
                     at least {} tokens; the model has {}",
                    Tokenizer::BYTES,
                    self.vocabulary
                )));
            }
            if let Some(folder) = self.folder.as_ref().filter(|_| self.vocabulary > Tokenizer::BYTES_MAX) {
                return Err(Error::argument(format!(
                    "{} has no tokenizer.json and a vocabulary of {} tokens: text cannot be tokenized; copy \
                     tokenizer.json into it, or give token files",
                    folder.display(),
                    self.vocabulary
                )));
            }
            return Ok(Tokenizer::bytes());
        };
        let bytes = read(&path)?;
        let tokenizer =
            HuggingFace::new(&bytes, self.vocabulary).map_err(|error| error.within(path.display()))?;
        let folder = self.folder.as_deref().unwrap_or(Path::new("."));
        let special = SpecialTokens::read(folder)?;
        let (mut ends, named) = (end_tokens(folder)?, special.get("eos_token"));
        let eos = match named {
            Some(text) => Some(tokenizer.id(text).ok_or_else(|| {
                Error::new(
                    Status::BadFormat,
                    format!("{}: eos_token {text:?} is not a token of tokenizer.json", folder.display()),
                )
            })?),
            None => ends.first().copied(),
        };
        ends.extend(eos.filter(|eos| !ends.contains(eos)));
        Ok(Tokenizer {
            kind: Kind::HuggingFace(Box::new(tokenizer)),
            fingerprint: fingerprint(&bytes),
            ends,
            eos,
        })
    }

    /// Returns [`Tokenizer::fingerprint`] without opening the tokenizer.
    pub fn fingerprint(&self) -> Result<u64> {
        match self.file()? {
            Some(path) => Ok(fingerprint(&read(&path)?)),
            None => Ok(Tokenizer::BYTES_FINGERPRINT),
        }
    }

    fn file(&self) -> Result<Option<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let path = folder.join("tokenizer.json");
        if path.exists() {
            return Ok(Some(path));
        }
        for name in ["tokenizer.model", "vocab.json", "tekken.json"] {
            let file = folder.join(name);
            if file.exists() {
                return Err(Error::new(
                    Status::Unsupported,
                    format!(
                        "{} is the model's tokenizer, but only tokenizer.json is supported; make one with \
                         transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
                        file.display()
                    ),
                ));
            }
        }
        Ok(None)
    }
}

impl Tokenizer {
    /// Number of byte values: the smallest vocabulary of a byte-level model.
    pub const BYTES: usize = 256;
    /// Largest vocabulary of a byte-level model: special tokens and padding, as in ByT5.
    const BYTES_MAX: usize = 384;
    const BYTES_FINGERPRINT: u64 = 1;

    /// Returns the byte-level tokenizer: token k is byte k.
    pub fn bytes() -> Tokenizer {
        Tokenizer {
            kind: Kind::Bytes,
            fingerprint: Tokenizer::BYTES_FINGERPRINT,
            ends: Vec::new(),
            eos: None,
        }
    }

    /// True for the byte-level tokenizer.
    pub fn is_bytes(&self) -> bool {
        matches!(self.kind, Kind::Bytes)
    }

    /// Identifies the tokenizer: a hash of `tokenizer.json`, never 0.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// One more than the largest token id.
    pub fn vocabulary(&self) -> usize {
        match &self.kind {
            Kind::Bytes => Tokenizer::BYTES,
            Kind::HuggingFace(tokenizer) => tokenizer.vocabulary(),
        }
    }

    /// Returns true if generation ends at this token.
    pub fn is_end(&self, token: usize) -> bool {
        self.ends.iter().any(|&end| end as usize == token)
    }

    /// Returns true if a token is special: it has no text of its own.
    pub fn is_special(&self, token: usize) -> bool {
        self.special(token).is_some()
    }

    /// Returns the name of a special token, e.g. `<|im_end|>`; `None` for others.
    pub fn special(&self, token: usize) -> Option<String> {
        match &self.kind {
            Kind::Bytes => None,
            Kind::HuggingFace(tokenizer) => tokenizer.special(u32::try_from(token).ok()?),
        }
    }

    /// Encodes a text without adding special tokens; those written in the text are recognized. A
    /// token is supervised if it has a byte in one of the `spans` (byte ranges of the text,
    /// increasing).
    ///
    /// Errors: `BadFormat` if the text is not UTF-8 and the tokenizer is not byte-level.
    pub fn encode(&self, text: &[u8], spans: &[Range<usize>]) -> Result<Encoded> {
        match &self.kind {
            Kind::Bytes => Ok(Encoded {
                tokens: text.iter().map(|&byte| i32::from(byte)).collect(),
                supervised: (0..text.len()).map(|at| spans.iter().any(|span| span.contains(&at))).collect(),
            }),
            Kind::HuggingFace(tokenizer) => tokenizer.encode(utf8(text)?, spans),
        }
    }

    /// Encodes a whole document: the tokenizer's tokens before a text, the text, the tokenizer's
    /// tokens after it, and the EOS token unless the document already ends with it. The tokens
    /// after the text are supervised, those before it are not.
    pub fn encode_document(&self, text: &[u8], spans: &[Range<usize>]) -> Result<Encoded> {
        let mut encoded = self.encode(text, spans)?;
        let Kind::HuggingFace(tokenizer) = &self.kind else { return Ok(encoded) };
        let (before, after) = tokenizer.added();
        encoded.tokens.splice(0..0, before.iter().copied());
        encoded.supervised.splice(0..0, before.iter().map(|_| false));
        encoded.tokens.extend(after);
        if let Some(eos) = self.eos.map(|eos| eos as i32).filter(|&eos| encoded.tokens.last() != Some(&eos)) {
            encoded.tokens.push(eos);
        }
        encoded.supervised.resize(encoded.tokens.len(), true);
        Ok(encoded)
    }

    /// Encodes a prompt: like a document, but without tokens after the text.
    pub fn encode_prompt(&self, text: &[u8]) -> Result<Vec<i32>> {
        let mut tokens = self.encode(text, &[])?.tokens;
        if let Kind::HuggingFace(tokenizer) = &self.kind {
            tokens.splice(0..0, tokenizer.added().0.iter().copied());
        }
        Ok(tokens)
    }

    /// Returns a decoder that takes tokens one by one.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { tokenizer: self, tokens: Vec::new(), text: String::new() }
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        match &self.kind {
            Kind::Bytes => {
                let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Kind::HuggingFace(tokenizer) => tokenizer.decode(tokens),
        }
    }
}

/// Decodes tokens one by one.
#[derive(Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens, decoded together with the next one.
    tokens: Vec<u32>,
    /// Text of these tokens that has been returned.
    text: String,
}

impl Decoder<'_> {
    /// Tokens removed from the context at once; at least as many stay.
    const CONTEXT: usize = 8;

    /// Returns the bytes that a token adds to the text; none while a character is incomplete.
    /// Special tokens have no text.
    pub fn push(&mut self, token: usize) -> Result<Vec<u8>> {
        if self.tokenizer.is_bytes() {
            return Ok(u8::try_from(token).into_iter().collect());
        }
        self.tokens.extend(u32::try_from(token));
        let text = self.tokenizer.decode(&self.tokens)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(Vec::new());
        }
        let added = text.strip_prefix(&self.text).unwrap_or(&text).as_bytes().to_vec();
        self.text = text;
        // A tokenizer may drop a space at the beginning of a text, so a token is decoded together
        // with those before it.
        if self.tokens.len() > 2 * Self::CONTEXT {
            self.tokens.drain(..Self::CONTEXT);
            self.text = self.tokenizer.decode(&self.tokens)?;
        }
        Ok(added)
    }
}

/// A special token of a model folder.
#[derive(Clone, Debug)]
pub(crate) struct SpecialToken {
    /// Its key in `tokenizer_config.json` or `special_tokens_map.json` (`bos_token`, …), if it has
    /// one.
    pub name: Option<String>,
    /// Its text.
    pub text: String,
}

/// The special tokens of a model folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialTokens(pub Vec<SpecialToken>);

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json` and the added tokens of
    /// `tokenizer.json`; missing files are ignored.
    pub fn read(folder: &Path) -> Result<SpecialTokens> {
        #[derive(Deserialize)]
        struct AddedToken {
            content: String,
            special: bool,
        }
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            added_tokens: Vec<AddedToken>,
        }
        let mut tokens: Vec<SpecialToken> = Vec::new();
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(Value::Object(config)) = read_json(&folder.join(file))? else { continue };
            for (key, value) in config.iter().filter(|(key, _)| key.ends_with("_token")) {
                let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
                let is_new = !tokens.iter().any(|token| token.name.as_ref() == Some(key));
                if let Some(text) = text.filter(|text| is_new && !text.is_empty()) {
                    tokens.push(SpecialToken { name: Some(key.clone()), text: text.to_owned() });
                }
            }
        }
        if let Some(file) = read_json::<File>(&folder.join("tokenizer.json"))? {
            let special =
                file.added_tokens.into_iter().filter(|token| token.special && !token.content.is_empty());
            tokens.extend(special.map(|token| SpecialToken { name: None, text: token.content }));
        }
        Ok(SpecialTokens(tokens))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|token| token.name.as_deref() == Some(name)).map(|token| token.text.as_str())
    }
}

/// Reads `eos_token_id` (one id or a list) of `generation_config.json`, else of `config.json`.
fn end_tokens(folder: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let Some(config) = read_json::<Value>(&folder.join(name))? else { continue };
        let ids: Vec<u32> = match &config["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(as_token).collect(),
            id => as_token(id).into_iter().collect(),
        };
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

fn as_token(id: &Value) -> Option<u32> {
    id.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// Reads a JSON file; `None` if it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&read(path)?)
        .map(Some)
        .map_err(|error| Error::new(Status::BadFormat, format!("{}: {error}", path.display())))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::reading(path, &error))
}

fn utf8(text: &[u8]) -> Result<&str> {
    std::str::from_utf8(text).map_err(|error| {
        Error::new(
            Status::BadFormat,
            format!(
                "byte {} is not valid UTF-8; the model's tokenizer needs UTF-8 text",
                error.valid_up_to()
            ),
        )
    })
}

/// FNV-1a of bytes, at least 2: 0 means "unknown", 1 the byte-level tokenizer.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    fnv1a(bytes).max(2)
}

/// Replaces Hugging Face tokenizers in a build without the feature `text`.
#[cfg(not(feature = "text"))]
mod without {
    use std::ops::Range;

    use super::Encoded;
    use crate::base::{Error, Result, Status};

    /// Uninhabited.
    #[derive(Debug)]
    pub enum HuggingFace {}

    impl HuggingFace {
        pub fn new(_: &[u8], _: usize) -> Result<HuggingFace> {
            Err(Error::new(
                Status::Unsupported,
                "this build cannot read tokenizer.json; build with the feature `text`",
            ))
        }
        pub fn id(&self, _: &str) -> Option<u32> {
            match *self {}
        }
        pub fn special(&self, _: u32) -> Option<String> {
            match *self {}
        }
        pub fn vocabulary(&self) -> usize {
            match *self {}
        }
        pub fn added(&self) -> (&[i32], &[i32]) {
            match *self {}
        }
        pub fn encode(&self, _: &str, _: &[Range<usize>]) -> Result<Encoded> {
            match *self {}
        }
        pub fn decode(&self, _: &[u32]) -> Result<String> {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(folder: Option<&Path>, vocabulary: usize) -> TokenizerSource {
        TokenizerSource { folder: folder.map(Path::to_owned), vocabulary }
    }

    #[test]
    fn without_a_tokenizer_tokens_are_bytes() {
        let tokenizer = source(None, 256).open().unwrap();
        assert_eq!(tokenizer.encode_prompt("aé".as_bytes()).unwrap(), [97, 0xc3, 0xa9]);
        let encoded = tokenizer.encode_document(b"abcd", &[1..2, 3..4]).unwrap();
        assert_eq!(encoded.tokens, [97, 98, 99, 100]);
        assert_eq!(encoded.supervised, [false, true, false, true]);
        let mut decoder = tokenizer.decoder();
        assert_eq!(decoder.push(0xc3).unwrap(), [0xc3]);
        assert!(decoder.push(256).unwrap().is_empty());
        assert!(source(None, 255).open().unwrap_err().message().contains("255"));
    }

    #[test]
    fn a_folder_without_a_tokenizer_has_a_vocabulary_of_bytes_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for vocabulary in [256, 260, 384] {
            assert!(source(Some(dir.path()), vocabulary).open().unwrap().is_bytes());
        }
        let source = source(Some(dir.path()), 32_000);
        let error = source.open().unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        let words = "has no tokenizer.json and a vocabulary of 32000 tokens: text cannot be tokenized";
        assert!(error.message().contains(words), "{error}");
        assert_eq!(
            source.fingerprint().unwrap(),
            Tokenizer::BYTES_FINGERPRINT,
            "token files need no tokenizer"
        );
    }

    #[test]
    fn an_error_names_an_unsupported_tokenizer_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.model"), "").unwrap();
        let error = source(Some(dir.path()), 32_000).open().unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("tokenizer.model"), "{error}");
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        let error = source(Some(dir.path()), 32_000).open().unwrap_err();
        assert!(error.message().contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn special_tokens_may_be_objects_and_end_tokens_lists() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        put(
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null}"#,
        );
        put("special_tokens_map.json", r#"{"bos_token": "other", "unk_token": "<unk>"}"#);
        let special = SpecialTokens::read(dir.path()).unwrap();
        let found: Vec<_> = special
            .0
            .iter()
            .map(|token| (token.name.as_deref().unwrap_or(""), token.text.as_str()))
            .collect();
        assert_eq!(found, [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]);
        put("config.json", r#"{"eos_token_id": 7}"#);
        assert_eq!(end_tokens(dir.path()).unwrap(), [7]);
        put("generation_config.json", r#"{"eos_token_id": [9, 8]}"#);
        assert_eq!(end_tokens(dir.path()).unwrap(), [9, 8]);
        put("config.json", "{");
        put("generation_config.json", "{}");
        assert!(end_tokens(dir.path()).unwrap_err().message().contains("config.json"));
    }
}
