//! Tokenizes and detokenizes text, with the model folder's `tokenizer.json` or, if there is none,
//! as bytes.
//!
//! A document begins and ends with the special tokens that the tokenizer adds (usually a BOS token
//! at the beginning) and ends with the EOS token; those that the text itself begins or ends with
//! are not added again. A chat template writes these tokens itself.
//!
//! `tokenizer.json` is used as transformers 5.24 uses it for `PreTrainedTokenizerFast`. Keys of
//! `tokenizer_config.json`:
//!
//! | key | effect |
//! |---|---|
//! | tokens (see `special.rs`) | added to those of `tokenizer.json` |
//! | `split_special_tokens` | if true, special tokens written in a text are plain text |
//! | `add_bos_token`, `add_eos_token` | none: the post-processor of `tokenizer.json` holds |
//! | `add_prefix_space`, `legacy` | none: normalizer and pre-tokenizer of `tokenizer.json` hold |
//! | `clean_up_tokenization_spaces` | none: it changes decoded text only, and not that of BPE |
//! | `model_max_length` | none: the window's length is an option |
//! | `tokenizer_class` | none |
//!
//! BPE dropout of `tokenizer.json` is not applied, with a warning.
//!
//! transformers 5 builds normalizer, pre-tokenizer and decoder of some classes anew
//! (`LlamaTokenizer` without byte-level pre-tokenizer, `GPT2Tokenizer`, `Qwen2Tokenizer`), and so
//! may differ from the model's own `tokenizer.json`, which is used here.

mod decoder;
mod files;
#[cfg(feature = "text")]
mod hugging_face;
#[cfg(feature = "text")]
mod limits;
mod source;
mod special;

use std::ops::Range;

use crate::base::hash::fnv1a;
use crate::base::{Error, Result, Status};
use crate::data::warning::{Warning, Warnings};

pub use decoder::Decoder;
#[cfg(feature = "text")]
pub(crate) use files::{CONFIG_BYTES_MAX, read_json};
pub use source::TokenizerSource;
#[cfg(feature = "text")]
pub(crate) use special::SpecialTokens;

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
    /// The token that begins a document or a chat.
    bos: Option<i32>,
    /// The token that ends a document.
    eos: Option<u32>,
}

#[derive(Debug)]
enum Kind {
    Bytes,
    HuggingFace(Box<HuggingFace>),
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
            bos: None,
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

    /// True if the tokenizer has BPE dropout, which is not applied: tokens would be random, and a
    /// resumed run would differ.
    pub fn has_dropout(&self) -> bool {
        match &self.kind {
            Kind::Bytes => false,
            Kind::HuggingFace(tokenizer) => tokenizer.has_dropout(),
        }
    }

    /// One more than the largest token id.
    pub fn vocabulary(&self) -> usize {
        match &self.kind {
            Kind::Bytes => Tokenizer::BYTES,
            Kind::HuggingFace(tokenizer) => tokenizer.vocabulary(),
        }
    }

    /// Tokens at which generation ends.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Returns true if generation ends at this token.
    pub fn is_end(&self, token: usize) -> bool {
        self.ends.iter().any(|&end| end as usize == token)
    }

    /// Returns the id of a token by its text; a byte-level tokenizer names no tokens.
    pub fn id(&self, text: &str) -> Option<u32> {
        match &self.kind {
            Kind::Bytes => None,
            Kind::HuggingFace(tokenizer) => tokenizer.id(text),
        }
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
                supervised: (0..text.len()).map(|at| overlaps(spans, at..at + 1)).collect(),
            }),
            Kind::HuggingFace(tokenizer) => tokenizer.encode(utf8(text)?, spans),
        }
    }

    /// Encodes a whole document: the tokenizer's tokens before a text, the text, the tokenizer's
    /// tokens after it, and the EOS token. Those that the text begins or ends with are not added.
    /// The tokens after the text are supervised, those before it are not.
    pub fn encode_document(
        &self,
        text: &[u8],
        spans: &[Range<usize>],
        warnings: &mut Warnings,
    ) -> Result<Encoded> {
        let mut encoded = self.encode(text, spans)?;
        let Kind::HuggingFace(tokenizer) = &self.kind else { return Ok(encoded) };
        let (before, after) = tokenizer.added();
        if before.is_empty() || !encoded.tokens.starts_with(before) {
            encoded.tokens.splice(0..0, before.iter().copied());
            encoded.supervised.splice(0..0, before.iter().map(|_| false));
        } else {
            if !self.warn_of_bos(text, &encoded, warnings) {
                warnings.add(Warning::BosTwice, beginning(text));
            }
            encoded.supervised[..before.len()].fill(false);
        }
        if !encoded.tokens.ends_with(after) {
            encoded.tokens.extend(after);
        }
        if let Some(eos) = self.eos.map(|eos| eos as i32).filter(|&eos| encoded.tokens.last() != Some(&eos)) {
            encoded.tokens.push(eos);
        }
        encoded.supervised.resize(encoded.tokens.len(), true);
        Ok(encoded)
    }

    /// Encodes a rendered chat, whose template has written all special tokens.
    pub fn encode_chat(
        &self,
        text: &str,
        spans: &[Range<usize>],
        warnings: &mut Warnings,
    ) -> Result<Encoded> {
        let encoded = self.encode(text.as_bytes(), spans)?;
        self.warn_of_bos(text.as_bytes(), &encoded, warnings);
        Ok(encoded)
    }

    /// Counts a text that begins with several BOS tokens; returns true if it does.
    fn warn_of_bos(&self, text: &[u8], encoded: &Encoded, warnings: &mut Warnings) -> bool {
        let several = self.bos.is_some_and(|bos| encoded.tokens.starts_with(&[bos, bos]));
        if several {
            warnings.add(Warning::BosRepeated, beginning(text));
        }
        several
    }

    /// Encodes a prompt: like a document, but without tokens after the text.
    pub fn encode_prompt(&self, text: &[u8]) -> Result<Vec<i32>> {
        let mut tokens = self.encode(text, &[])?.tokens;
        if let Kind::HuggingFace(tokenizer) = &self.kind {
            let before = tokenizer.added().0;
            if !tokens.starts_with(before) {
                tokens.splice(0..0, before.iter().copied());
            }
        }
        Ok(tokens)
    }

    /// Returns a decoder that takes tokens one by one.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    /// Returns a decoder of the tokens that follow a prompt, whose text it does not return.
    pub fn decoder_after(&self, prompt: &[i32]) -> Result<Decoder<'_>> {
        Decoder::after(self, prompt)
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

/// Returns the first characters of a text, for a warning.
fn beginning(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(160)]).chars().take(40).collect()
}

/// Returns true if bytes have one in common with one of the `spans`, which are increasing.
fn overlaps(spans: &[Range<usize>], bytes: Range<usize>) -> bool {
    let next = spans.partition_point(|span| span.end <= bytes.start);
    spans.get(next).is_some_and(|span| span.start < bytes.end)
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
    use super::special::FolderTokens;
    use crate::base::{Error, Result, Status};

    /// Uninhabited.
    #[derive(Debug)]
    pub enum HuggingFace {}

    impl HuggingFace {
        pub fn new(_: &[u8], _: &FolderTokens, _: usize) -> Result<HuggingFace> {
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
        pub fn check_vocabulary(&self, _: u32) -> Result<()> {
            match *self {}
        }
        pub fn vocabulary(&self) -> usize {
            match *self {}
        }
        pub fn has_dropout(&self) -> bool {
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
    use std::path::Path;

    use super::*;

    fn source(folder: Option<&Path>, vocabulary: usize) -> TokenizerSource {
        TokenizerSource { folder: folder.map(Path::to_owned), vocabulary }
    }

    #[test]
    fn without_a_tokenizer_tokens_are_bytes() {
        let tokenizer = source(None, 256).open().unwrap();
        assert_eq!(tokenizer.encode_prompt("aé".as_bytes()).unwrap(), [97, 0xc3, 0xa9]);
        let encoded = tokenizer.encode_document(b"abcd", &[1..2, 3..4], &mut Warnings::default()).unwrap();
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
        assert_eq!(source.fingerprint().unwrap(), 0, "token files need no tokenizer");
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
}
