//! Finds and opens the tokenizer of a model.

use std::path::{Path, PathBuf};

use super::files::{end_tokens, read_tokenizer};
use super::special::FolderTokens;
use super::{HuggingFace, Kind, Tokenizer, fingerprint};
use crate::base::{Error, Result, Status};
use crate::host::{input, start_deep_thread};

const STACK_BYTES: usize = 64 << 20;

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
    /// Errors: `BadFormat` if a file of the tokenizer is invalid, or the `eos_token` that ends a document
    /// is outside the model's vocabulary; `Unsupported` if the folder only has a tokenizer of
    /// another kind; `InvalidArgument` if there is no tokenizer and the vocabulary has fewer than
    /// 256 tokens, or is that of a folder and has more than 384.
    pub fn open(&self) -> Result<Tokenizer> {
        let Some((folder, path)) = self.file() else {
            self.check_bytes()?;
            return Ok(Tokenizer::bytes());
        };
        let bytes = read_tokenizer(&path)?;
        let tokens = FolderTokens::read(folder)?;
        let within = |error: Error| error.within(path.display());
        let vocabulary = self.vocabulary;
        // Nested parts of a tokenizer take more stack than a small thread has.
        let opening = start_deep_thread("tokenizer", STACK_BYTES, move || {
            let opened = HuggingFace::new(&bytes, &tokens, vocabulary);
            (opened, bytes, tokens)
        })?;
        let failed = |_| Error::internal("the thread that opens the tokenizer has panicked");
        let (opened, bytes, tokens) = opening.join().map_err(failed)?;
        let tokenizer = opened.map_err(within)?;
        let mut ends = end_tokens(folder, self.vocabulary)?;
        let eos = tokens.named("eos_token").and_then(|text| tokenizer.id(text)).or(ends.first().copied());
        if let Some(eos) = eos {
            tokenizer.check_vocabulary(eos).map_err(within)?;
            ends.extend(Some(eos).filter(|eos| !ends.contains(eos)));
        }
        let bos = tokens.named("bos_token").and_then(|text| tokenizer.id(text)).map(|id| id as i32);
        let bos = bos.or(tokenizer.added().0.first().copied());
        Ok(Tokenizer {
            kind: Kind::HuggingFace(Box::new(tokenizer)),
            fingerprint: fingerprint_of(bytes, &tokens),
            ends,
            bos,
            eos,
        })
    }

    /// Returns [`Tokenizer::fingerprint`] without opening the tokenizer; 0 if the model has none
    /// that can be opened.
    pub fn fingerprint(&self) -> Result<u64> {
        let Some((folder, path)) = self.file() else {
            return Ok(self.check_bytes().map_or(0, |()| Tokenizer::BYTES_FINGERPRINT));
        };
        Ok(fingerprint_of(read_tokenizer(&path)?, &FolderTokens::read(folder)?))
    }

    /// The folder and its `tokenizer.json`.
    fn file(&self) -> Option<(&Path, PathBuf)> {
        let folder = self.folder.as_deref()?;
        let path = folder.join("tokenizer.json");
        input::is_there(&path).then_some((folder, path))
    }

    /// Checks that text can be read as bytes, for a model without `tokenizer.json`.
    fn check_bytes(&self) -> Result<()> {
        for name in ["tokenizer.model", "tiktoken.model", "vocab.json", "tekken.json"] {
            let file = self.folder.as_ref().map(|folder| folder.join(name));
            if let Some(file) = file.filter(|file| input::is_there(file)) {
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
        if self.vocabulary < Tokenizer::BYTES {
            return Err(Error::argument(format!(
                "the model has no tokenizer.json, so text is read as bytes, which needs a vocabulary of at least {} \
                 tokens; the model has {}",
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
        Ok(())
    }
}

/// Hash of `tokenizer.json` and of what the other files change.
fn fingerprint_of(mut json: Vec<u8>, tokens: &FolderTokens) -> u64 {
    for token in tokens.missing() {
        let flags = [token.single_word, token.lstrip, token.rstrip, token.normalized(), token.special];
        json.extend(token.content.bytes().chain(flags.map(u8::from)));
    }
    json.extend(tokens.split_special.then_some(1));
    fingerprint(&json)
}
