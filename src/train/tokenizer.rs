//! From text to tokens: for now a token is a byte.

use std::path::Path;

use crate::base::{Error, Result, Status};

/// A tokenizer whose token k is the byte k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteTokenizer(());

impl ByteTokenizer {
    /// Byte values, and so the least vocabulary a byte-level model has.
    pub const VOCABULARY: usize = 256;

    /// The tokenizer of a model: of a folder, or of a preset (`None`), with `vocabulary` tokens.
    ///
    /// Errors: `Unsupported` when the folder brings a tokenizer of its own, which is not read yet;
    /// `InvalidArgument` when the vocabulary has no room for every byte.
    pub fn for_model(folder: Option<&Path>, vocabulary: usize) -> Result<ByteTokenizer> {
        for name in ["tokenizer.json", "tokenizer.model", "vocab.json"] {
            if let Some(file) = folder.map(|f| f.join(name)).filter(|f| f.exists()) {
                return Err(Error::new(
                    Status::Unsupported,
                    format!(
                        "{} is the model's tokenizer, and reading it arrives later: today text is read as bytes, \
                         for byte-level models; give a token file (llm.c .bin) made with that tokenizer",
                        file.display()
                    ),
                ));
            }
        }
        if vocabulary < Self::VOCABULARY {
            return Err(Error::argument(format!(
                "text is read as bytes, which needs a vocabulary of {} tokens; the model has {vocabulary}",
                Self::VOCABULARY
            )));
        }
        Ok(ByteTokenizer(()))
    }

    /// The tokens of a text.
    pub fn encode(self, text: &[u8]) -> Vec<i32> {
        text.iter().map(|&byte| i32::from(byte)).collect()
    }

    /// The byte of a token; `None` for a token that stands for no byte.
    pub fn decode(self, token: usize) -> Option<u8> {
        u8::try_from(token).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bytes() {
        let tokenizer = ByteTokenizer::for_model(None, 256).unwrap();
        assert_eq!(tokenizer.encode("aé".as_bytes()), [97, 0xc3, 0xa9]);
        assert_eq!(tokenizer.decode(0xc3), Some(0xc3));
        assert_eq!(tokenizer.decode(256), None);
    }

    #[test]
    fn models_with_other_tokens_are_refused() {
        assert!(ByteTokenizer::for_model(None, 255).unwrap_err().message().contains("255"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        let error = ByteTokenizer::for_model(Some(dir.path()), 32000).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("tokenizer.json"), "{error}");
    }
}
