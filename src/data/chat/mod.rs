//! Conversations, and the chat template of a model, which renders one as text.
//!
//! The supervised part of a conversation is the assistant's turns: each from the first character
//! after the turn's header through the token that ends the turn. Their byte ranges in the rendered
//! text are found in one of four ways, the first that works:
//!
//! 1. **Tags**: the template has `{% generation %} … {% endgeneration %}`, as for
//!    `apply_chat_template(return_assistant_tokens_mask=True)` of transformers.
//! 2. **Prefixes**: turn i starts where the rendering of messages 0 … i−1 with the generation
//!    prompt ends, and ends where the rendering of messages 0 … i ends, if both renderings are
//!    prefixes of the whole text.
//! 3. **Mark**: the message's content is replaced by a character that no text may contain. If the
//!    text before and after the mark is a prefix and a suffix of the whole text, the turn is what
//!    lies between. Templates that drop a turn's reasoning once the next question follows need
//!    this.
//! 4. **Numbers**: the conversation is rendered with the number of each message in its texts, which
//!    shows where the texts of a turn and of the message before it are. Turns with tool calls in
//!    templates that render the last question otherwise need this.
//!
//! The last three render the conversation again for every turn. Of more than 32 turns, most are
//! found by their likeness to others (`alike.rs`), so that the time is linear in the number of
//! messages. If a template renders turns too differently for that, the search ends with an error
//! after renderings of at least 8 million messages.
//!
//! If all four fail, the conversation is refused. As many tagged ranges as turns of the assistant
//! are these turns, in order; otherwise numbers tell their messages.
//!
//! Without a generation prompt the header of a turn is what the template writes before its content.
//! A token that closes the conversation behind the token that ends the last turn is not trained on.
//!
//! Templates are programs of strangers, so the command renders them in processes of their own
//! ([`Renderer`]), which end when they take too much time or memory.
//!
//! Null content and lists of text parts reach templates whose source tests or loops over content;
//! others get text.

#[cfg(feature = "text")]
mod alike;
#[cfg(feature = "text")]
mod check;
#[cfg(feature = "text")]
mod files;
#[cfg(feature = "text")]
mod jinja;
#[cfg(feature = "text")]
mod numbers;
#[cfg(feature = "text")]
mod reads;
mod renderer;
#[cfg(feature = "text")]
mod spans;
#[cfg(feature = "text")]
mod tags;
#[cfg(feature = "text")]
mod template;
#[cfg(feature = "text")]
mod time;
#[cfg(feature = "text")]
mod values;
#[cfg(feature = "text")]
mod worker;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use renderer::Renderer;
#[cfg(feature = "text")]
pub use template::ChatTemplate;
#[cfg(feature = "text")]
pub use time::now;
#[cfg(not(feature = "text"))]
pub use without::ChatTemplate;
#[cfg(feature = "text")]
pub use worker::{MEMORY_BYTES, OUT_OF_TIME, SUBCOMMAND, seconds_max, serve};

/// Messages and the other variables of the chat template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// JSON objects with `role`, `content`, and any other field that the template reads.
    pub messages: Vec<Value>,
    /// One per message, true if it is trained on; only messages of the assistant are.
    pub trained: Vec<bool>,
    /// `tools`, `documents` and other variables of the template.
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// A conversation whose assistant's turns are trained on, from message `trained_from` on.
    pub fn new(messages: Vec<Value>, trained_from: usize, variables: Map<String, Value>) -> Conversation {
        let mut conversation = Conversation { trained: vec![false; messages.len()], messages, variables };
        let assistant: Vec<usize> = conversation.assistant().filter(|&index| index >= trained_from).collect();
        for index in assistant {
            conversation.trained[index] = true;
        }
        conversation
    }

    /// True if a message is trained on.
    #[cfg(feature = "text")]
    fn trains(&self, message: usize) -> bool {
        self.trained.get(message) == Some(&true)
    }

    /// The indices of the assistant's messages.
    fn assistant(&self) -> impl Iterator<Item = usize> {
        (0..self.messages.len()).filter(|&index| self.messages[index]["role"] == "assistant")
    }
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// Input of the tokenizer, which must add no special tokens.
    pub text: String,
    /// Byte ranges of the assistant's turns, increasing.
    pub turns: Vec<Range<usize>>,
}

/// Replaces chat templates in a build without the feature `text`.
#[cfg(not(feature = "text"))]
mod without {
    use std::path::Path;

    use serde_json::Value;

    use super::{Conversation, Rendered};
    use crate::base::{Error, Result, Status};
    use crate::data::warning::Warnings;

    /// Uninhabited: this build has no chat templates.
    #[derive(Debug)]
    pub enum ChatTemplate {}

    impl ChatTemplate {
        /// Returns `None`.
        pub fn of_folder(_: &Path, _: Option<i64>) -> Result<Option<ChatTemplate>> {
            Ok(None)
        }
        /// Returns `Unsupported`.
        pub fn open(_: &Path, _: Option<&Path>, _: Option<i64>) -> Result<ChatTemplate> {
            Err(unsupported())
        }
        /// Returns `Unsupported`.
        pub fn source_of(_: &Path) -> Result<String> {
            Err(unsupported())
        }
        /// Cannot be called.
        pub fn render(&self, _: &Conversation, _: &mut Warnings) -> Result<Rendered> {
            match *self {}
        }
        /// Cannot be called.
        pub fn prompt(&self, _: &[Value]) -> Result<String> {
            match *self {}
        }
    }

    fn unsupported() -> Error {
        Error::new(
            Status::Unsupported,
            "this build cannot read chat templates; build with the feature `text`",
        )
    }
}
