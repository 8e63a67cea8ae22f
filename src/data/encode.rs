//! Encodes texts, rows and conversations as tokens with a loss mask.

use std::path::PathBuf;
use std::slice::from_ref;

use once_cell::sync::OnceCell;

use crate::base::{Error, Result, Status};
use crate::data::chat::{Conversation, Renderer};
use crate::data::rows::Row;
use crate::data::tokenizer::{Encoded, Tokenizer, TokenizerSource};
use crate::data::warning::{Warning, Warnings};

/// Location of the tokenizer and the chat template.
#[derive(Clone, Debug)]
pub struct EncoderSource {
    /// The model's tokenizer.
    pub tokenizer: TokenizerSource,
    /// Chat template that replaces the model's.
    pub chat_template: Option<PathBuf>,
    /// The time that the chat template prints (`strftime_now`), in seconds since 1970; `None`: when
    /// the template is opened.
    pub time: Option<i64>,
    /// The program whose subcommand `chat-worker` renders chats, in processes that a template
    /// cannot harm; `None`: this process renders them.
    pub chat_worker: Option<PathBuf>,
}

impl EncoderSource {
    /// Returns an encoder. Only a chat template that replaces the model's is opened at once.
    pub fn open(&self) -> Result<Encoder> {
        let encoder = Encoder { source: self.clone(), tokenizer: OnceCell::new(), template: OnceCell::new() };
        if self.chat_template.is_some() {
            encoder.optional_template()?;
        }
        Ok(encoder)
    }

    fn open_template(&self) -> Result<Option<Renderer>> {
        let (file, folder) = (self.chat_template.as_deref(), self.tokenizer.folder.as_deref());
        Renderer::open(file, folder, self.time, self.chat_worker.as_deref())
    }
}

/// A tokenizer with an optional chat template, each opened by the first row that needs it.
#[derive(Debug)]
pub struct Encoder {
    source: EncoderSource,
    tokenizer: OnceCell<Result<Tokenizer>>,
    template: OnceCell<Result<Option<Renderer>>>,
}

impl Encoder {
    /// A byte-level encoder without a template.
    pub fn bytes() -> Encoder {
        let tokenizer = TokenizerSource { folder: None, vocabulary: Tokenizer::BYTES };
        let source = EncoderSource { tokenizer, chat_template: None, time: None, chat_worker: None };
        Encoder { source, tokenizer: OnceCell::new(), template: OnceCell::new() }
    }

    /// The tokenizer. Errors: those of [`TokenizerSource::open`].
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let opened = self.tokenizer.get_or_init(|| self.source.tokenizer.open());
        opened.as_ref().map_err(Error::clone)
    }

    /// Warns, once, of what the tokenizer does not do if a row needed it.
    pub fn warn(&self, warnings: &mut Warnings) {
        let opened = self.tokenizer.get().and_then(|opened| opened.as_ref().ok());
        if opened.is_some_and(Tokenizer::has_dropout) && warnings.count(&Warning::Dropout) == 0 {
            warnings.add(Warning::Dropout, "");
        }
    }

    /// Errors: a row needed the tokenizer or the chat template, and it could not be opened.
    pub fn check_opened(&self) -> Result<()> {
        let tokenizer = self.tokenizer.get().and_then(|opened| opened.as_ref().err());
        let template = self.template.get().and_then(|opened| opened.as_ref().err());
        tokenizer.or(template).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// True if this error of a row is that of all later ones ([`Renderer::has_stopped_by`]).
    pub fn has_stopped_by(&self, error: &Error) -> bool {
        let template = self.template.get().and_then(|opened| opened.as_ref().ok()?.as_ref());
        template.is_some_and(|template| template.has_stopped_by(error))
    }

    /// The chat template. Errors: it is invalid; `NotFound` if there is none.
    pub fn template(&self) -> Result<&Renderer> {
        self.optional_template()?.ok_or_else(|| {
            Error::new(
                Status::NotFound,
                "the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); \
                 give one (--chat-template FILE)",
            )
        })
    }

    fn optional_template(&self) -> Result<Option<&Renderer>> {
        let opened = self.template.get_or_init(|| self.source.open_template());
        opened.as_ref().map(Option::as_ref).map_err(Error::clone)
    }

    /// Encodes a document that is supervised throughout.
    pub fn document(&self, text: &[u8], warnings: &mut Warnings) -> Result<Encoded> {
        self.tokenizer()?.encode_document(text, from_ref(&(0..text.len())), warnings)
    }

    /// Encodes a row.
    pub fn row(&self, row: &Row, warnings: &mut Warnings) -> Result<Encoded> {
        let encoded = self.rows(&[row]).pop();
        let (encoded, found) = encoded.ok_or_else(|| Error::internal("no row"))??;
        warnings.append(found);
        Ok(encoded)
    }

    /// Encodes rows, each with its warnings. The chats are rendered together.
    pub fn rows(&self, rows: &[&Row]) -> Vec<Result<(Encoded, Warnings)>> {
        let chats: Vec<&Conversation> = rows.iter().filter_map(|row| self.chat(row)).collect();
        let template = if chats.is_empty() { None } else { Some(self.template()) };
        let mut rendered = match template {
            Some(Ok(template)) => template.render_all(&chats),
            Some(Err(error)) => vec![Err(error); chats.len()],
            None => Vec::new(),
        }
        .into_iter();
        let one = |row: &&Row| {
            if self.chat(row).is_none() {
                let mut warnings = Warnings::default();
                return Ok((self.text(row, &mut warnings)?, warnings));
            }
            let next = rendered.next().unwrap_or_else(|| Err(Error::internal("a chat is not rendered")));
            let (rendered, mut warnings) = next?;
            let encoded = self.tokenizer()?.encode_chat(&rendered.text, &rendered.turns, &mut warnings)?;
            Ok((encoded, warnings))
        };
        rows.iter().map(one).collect()
    }

    /// The conversation of a row that the chat template renders.
    fn chat<'a>(&self, row: &'a Row) -> Option<&'a Conversation> {
        match row {
            Row::Chat(conversation) => Some(conversation),
            Row::Instruction(_, Some(_)) if matches!(self.optional_template(), Ok(None)) => None,
            Row::Instruction(conversation, _) => Some(conversation),
            Row::Text(_) | Row::Pair(..) | Row::Tokens(..) => None,
        }
    }

    /// Encodes a row without the chat template.
    fn text(&self, row: &Row, warnings: &mut Warnings) -> Result<Encoded> {
        match row {
            Row::Text(text) => self.document(text.as_bytes(), warnings),
            Row::Pair(prompt, completion) | Row::Instruction(_, Some((prompt, completion))) => {
                self.pair(prompt, completion, warnings)
            }
            Row::Chat(_) | Row::Instruction(_, None) => Err(Error::internal("a chat has no text of its own")),
            Row::Tokens(tokens, supervised) => {
                let vocabulary = self.source.tokenizer.vocabulary;
                if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
                    return Err(Error::new(
                        Status::BadFormat,
                        format!(
                            "token {token} is outside the model's vocabulary of {vocabulary} tokens (0 … {}); tokenize \
                             the data with this model's tokenizer",
                            vocabulary - 1
                        ),
                    ));
                }
                Ok(Encoded { tokens: tokens.clone(), supervised: supervised.clone() })
            }
        }
    }

    /// Tokenizes prompt and completion as one text; a token that spans their border is supervised.
    fn pair(&self, prompt: &str, completion: &str, warnings: &mut Warnings) -> Result<Encoded> {
        let text = format!("{prompt}{completion}");
        let completion = prompt.len()..text.len();
        self.tokenizer()?.encode_document(text.as_bytes(), from_ref(&completion), warnings)
    }
}
