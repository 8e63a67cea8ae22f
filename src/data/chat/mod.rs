//! Conversations, and the template of a model that turns one into text.
//!
//! What a model is to learn of a conversation are its assistant's turns: from where a turn's own text begins,
//! behind the header that the template writes whoever speaks, to the token that ends the turn, included.
//! Their places in the rendered text are found in one of three ways, the first that the template allows:
//!
//! 1. `{% generation %} … {% endgeneration %}`: the template says it itself, as for
//!    `apply_chat_template(return_assistant_tokens_mask=True)` of transformers.
//! 2. By prefixes: turn i lies between what the messages before it render to, the generation prompt added, and what the
//!    messages up to it render to, if both are how the whole begins.
//! 3. By a mark: the turn's message gives way to one whose content is a mark that no text has; what stands before and
//!    after the mark, if the whole begins and ends so, is not the turn. Templates that take back a turn's reasoning
//!    once the next question is asked need this.
//!
//! A conversation whose turns none of these finds is refused.

#[cfg(feature = "text")]
mod python;
#[cfg(feature = "text")]
mod spans;
#[cfg(feature = "text")]
mod template;
#[cfg(feature = "text")]
mod time;

use std::ops::Range;

use serde_json::{Map, Value};

#[cfg(feature = "text")]
pub use template::ChatTemplate;
#[cfg(not(feature = "text"))]
pub use without::ChatTemplate;

/// What is said, and what the template is told beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// JSON objects with `role` and `content`, and whatever else the template reads.
    pub messages: Vec<Value>,
    /// The first message that may be learned: those of a prompt are not.
    pub supervised_from: usize,
    /// `tools`, `documents` and other variables of the template.
    pub variables: Map<String, Value>,
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What the tokenizer gets; nothing is to be put around it.
    pub text: String,
    /// The assistant's turns in it, byte ranges, increasing.
    pub turns: Vec<Range<usize>>,
}

/// What stands for chat templates in a build without them.
#[cfg(not(feature = "text"))]
mod without {
    use std::path::Path;

    use serde_json::Value;

    use super::{Conversation, Rendered};
    use crate::base::{Error, Result, Status};

    /// Cannot be made: this build has no chat templates (feature `text`).
    #[derive(Debug)]
    pub enum ChatTemplate {}

    impl ChatTemplate {
        /// Gives none.
        pub fn of_folder(_: &Path) -> Result<Option<ChatTemplate>> {
            Ok(None)
        }
        /// Refuses.
        pub fn open(_: &Path, _: Option<&Path>) -> Result<ChatTemplate> {
            Err(Error::new(
                Status::Unsupported,
                "this build reads no chat templates: build with the feature `text`",
            ))
        }
        /// Cannot be called.
        pub fn render(&self, _: &Conversation) -> Result<Rendered> {
            match *self {}
        }
        /// Cannot be called.
        pub fn prompt(&self, _: &[Value]) -> Result<String> {
            match *self {}
        }
    }
}
