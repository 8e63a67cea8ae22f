//! Encodes texts, rows and conversations as tokens with a loss mask.

use std::path::PathBuf;
use std::slice::from_ref;

use crate::base::{Error, Result, Status};
use crate::data::chat::{ChatTemplate, Conversation};
use crate::data::rows::Row;
use crate::data::tokenizer::{Encoded, Tokenizer, TokenizerSource};
use crate::data::warning::Warnings;

/// Location of the tokenizer and the chat template. They are opened only when there is text to
/// encode.
#[derive(Clone, Debug)]
pub struct EncoderSource {
    /// The model's tokenizer.
    pub tokenizer: TokenizerSource,
    /// Chat template that replaces the model's.
    pub chat_template: Option<PathBuf>,
    /// The time that the chat template prints (`strftime_now`), in seconds since 1970; `None`: when
    /// the template is opened.
    pub time: Option<i64>,
}

impl EncoderSource {
    /// Opens the tokenizer and the chat template.
    pub fn open(&self) -> Result<Encoder> {
        let tokenizer = self.tokenizer.open()?;
        let folder = self.tokenizer.folder.as_deref();
        let template = match (&self.chat_template, folder) {
            (Some(file), folder) => Some(ChatTemplate::open(file, folder, self.time)?),
            (None, Some(folder)) => ChatTemplate::of_folder(folder, self.time)?,
            (None, None) => None,
        };
        Ok(Encoder { tokenizer, template, vocabulary: self.tokenizer.vocabulary })
    }
}

/// A tokenizer with an optional chat template.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    vocabulary: usize,
}

impl Encoder {
    /// A byte-level encoder without a template.
    pub fn bytes() -> Encoder {
        Encoder { tokenizer: Tokenizer::bytes(), template: None, vocabulary: Tokenizer::BYTES }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template. Errors: `NotFound` if there is none.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::new(
                Status::NotFound,
                "the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); \
                 give one (--chat-template FILE)",
            )
        })
    }

    /// Encodes a document that is supervised throughout.
    pub fn document(&self, text: &[u8]) -> Result<Encoded> {
        self.tokenizer.encode_document(text, from_ref(&(0..text.len())))
    }

    /// Encodes a row.
    pub fn row(&self, row: &Row, warnings: &mut Warnings) -> Result<Encoded> {
        match row {
            Row::Text(text) => self.document(text.as_bytes()),
            Row::Pair(prompt, completion) => self.pair(prompt, completion),
            Row::Chat(conversation) => self.chat(conversation, warnings),
            Row::Instruction(_, Some((prompt, output))) if self.template.is_none() => {
                self.pair(prompt, output)
            }
            Row::Instruction(conversation, _) => self.chat(conversation, warnings),
            Row::Tokens(tokens, supervised) => {
                if let Some(at) = tokens.iter().position(|&token| token as usize >= self.vocabulary) {
                    return Err(Error::new(
                        Status::BadFormat,
                        format!(
                            "`tokens`[{at}] is {}, outside the model's vocabulary of {} tokens (0 … {}); \
                             tokenize the data with this model's tokenizer",
                            tokens[at],
                            self.vocabulary,
                            self.vocabulary - 1
                        ),
                    ));
                }
                Ok(Encoded { tokens: tokens.clone(), supervised: supervised.clone() })
            }
        }
    }

    /// Tokenizes prompt and completion as one text; a token that spans their border is supervised.
    fn pair(&self, prompt: &str, completion: &str) -> Result<Encoded> {
        let text = format!("{prompt}{completion}");
        self.tokenizer.encode_document(text.as_bytes(), from_ref(&(prompt.len()..text.len())))
    }

    fn chat(&self, conversation: &Conversation, warnings: &mut Warnings) -> Result<Encoded> {
        let rendered = self.template()?.render(conversation, warnings)?;
        self.tokenizer.encode(rendered.text.as_bytes(), &rendered.turns)
    }
}
