//! A conversation as values of the template engine.

use std::cell::Cell;

use minijinja::Value as Jinja;
use serde_json::Value;

use super::{ChatTemplate, Conversation, jinja};
use crate::base::Result;

/// Messages that renderings of a conversation may have in all, and renderings that are always
/// allowed.
const RENDERED: usize = 1 << 23;
const RENDERINGS: usize = 200;

/// A conversation and its template. Each message is converted once for all renderings.
pub struct Values<'a> {
    pub template: &'a ChatTemplate,
    pub conversation: &'a Conversation,
    /// Special tokens and variables.
    variables: Vec<(&'a str, Jinja)>,
    messages: Vec<Jinja>,
    rendered: Cell<usize>,
}

impl<'a> Values<'a> {
    pub fn new(template: &'a ChatTemplate, conversation: &'a Conversation) -> Values<'a> {
        let unset = ["tools", "documents"].map(|name| (name, Jinja::from(())));
        let given = conversation.variables.iter().map(|(name, value)| (&name[..], jinja::value(value)));
        Values {
            template,
            conversation,
            variables: unset.into_iter().chain(template.special_values()).chain(given).collect(),
            messages: conversation.messages.iter().map(jinja::value).collect(),
            rendered: Cell::new(0),
        }
    }

    /// Returns the number of messages in all renderings, a measure of their time.
    pub fn rendered(&self) -> usize {
        self.rendered.get()
    }

    /// Returns true if the conversation has been rendered so often that no more should be tried.
    pub fn is_exhausted(&self) -> bool {
        self.rendered() > RENDERED.max(RENDERINGS * self.messages.len())
    }

    /// Renders the first `count` messages; the result still contains the marks of tagged turns.
    pub fn text(&self, count: usize, generation_prompt: bool) -> Result<String> {
        self.text_with(count, generation_prompt, [])
    }

    /// Renders the first `count` messages, some of them replaced, or another one added.
    pub fn text_with(
        &self,
        count: usize,
        generation_prompt: bool,
        replaced: impl IntoIterator<Item = (usize, Value)>,
    ) -> Result<String> {
        let mut messages = self.messages[..count].to_vec();
        for (index, message) in replaced {
            match messages.get_mut(index) {
                Some(old) => *old = jinja::value(&message),
                None => messages.push(jinja::value(&message)),
            }
        }
        self.render(messages, &[("add_generation_prompt", generation_prompt.into())])
    }

    /// Renders the conversation without tools.
    pub fn text_without_tools(&self) -> Result<String> {
        let others = [("tools", ().into()), ("add_generation_prompt", false.into())];
        self.render(self.messages.clone(), &others)
    }

    pub fn count_rendered(&self, messages: usize) {
        self.rendered.set(self.rendered.get() + messages);
    }

    fn render(&self, messages: Vec<Jinja>, others: &[(&str, Jinja)]) -> Result<String> {
        self.count_rendered(messages.len());
        let named = self.variables.iter().chain(others).cloned();
        self.template.text(named.chain([("messages", messages.into())]).collect())
    }
}
