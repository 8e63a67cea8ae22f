//! Finds the assistant's turns in a rendered conversation.

use std::ops::Range;

use serde_json::{Value, json};

use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
use super::{ChatTemplate, Conversation, Rendered};
use crate::base::{Error, Result, Status};

/// Renders a conversation and finds the supervised turns. `tagged`: the template has
/// `{% generation %}` tags.
pub fn render(template: &ChatTemplate, conversation: &Conversation, tagged: bool) -> Result<Rendered> {
    let Conversation { messages, trained, variables } = conversation;
    let supervised_from = trained.iter().position(|trained| *trained).unwrap_or(messages.len());
    refuse_marks(messages)?;
    let whole = template.text(messages, false, variables)?;
    if tagged {
        let (text, mut turns) = without_marks(&whole);
        if messages[..supervised_from].iter().any(is_assistant) {
            let prompt = template
                .text(&messages[..supervised_from], true, variables)?
                .replace([TURN_BEGINS, TURN_ENDS], "");
            if !text.starts_with(&prompt) {
                return Err(not_found(supervised_from));
            }
            turns.retain(|turn| turn.start >= prompt.len());
        }
        return Ok(Rendered { text, turns });
    }
    let finder = Finder { template, conversation, whole: &whole };
    let mut turns: Vec<Range<usize>> = Vec::new();
    for index in (0..messages.len()).filter(|&index| trained.get(index) == Some(&true)) {
        let turn = finder.turn(index).ok_or_else(|| not_found(index))?;
        if turns.last().is_some_and(|before| before.end > turn.start) {
            return Err(not_found(index));
        }
        turns.push(turn);
    }
    Ok(Rendered { text: whole, turns })
}

fn is_assistant(message: &Value) -> bool {
    message["role"] == "assistant"
}

fn not_found(index: usize) -> Error {
    Error::new(
        Status::BadFormat,
        format!(
            "message {index}: this turn cannot be found in the text that the chat template renders; give a template \
             with {{% generation %}} tags (--chat-template FILE)"
        ),
    )
}

fn refuse_marks(messages: &[Value]) -> Result<()> {
    fn has_mark(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains([TURN_BEGINS, TURN_ENDS, MARK]),
            Value::Array(values) => values.iter().any(has_mark),
            Value::Object(values) => values.values().any(has_mark),
            _ => false,
        }
    }
    match messages.iter().position(has_mark) {
        None => Ok(()),
        Some(index) => Err(Error::new(
            Status::BadFormat,
            format!(
                "message {index} has one of the noncharacters U+FDD0 … U+FDD2, which no text may contain"
            ),
        )),
    }
}

/// Returns the text without marks, and the byte ranges they enclosed.
fn without_marks(whole: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(whole.len());
    let (mut turns, mut start) = (Vec::new(), None);
    for character in whole.chars() {
        match character {
            TURN_BEGINS => start = Some(text.len()),
            TURN_ENDS => turns.extend(start.take().map(|start| start..text.len())),
            _ => text.push(character),
        }
    }
    (text, turns)
}

struct Finder<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    whole: &'a str,
}

impl Finder<'_> {
    /// Returns the byte range of message `index`, including the token that ends the turn.
    fn turn(&self, index: usize) -> Option<Range<usize>> {
        let before = self.begins(&self.conversation.messages[..index], true);
        let upto = self.begins(&self.conversation.messages[..=index], false);
        let (start, end) = match (before, upto) {
            (Some(start), Some(upto)) => (start, self.closed(start, upto)),
            (start, upto) => {
                let (around, behind) = self.around_mark(index)?;
                let end = match upto {
                    Some(upto) => self.closed(around, upto),
                    None => behind + self.ending(index, behind),
                };
                (start.unwrap_or(around), end)
            }
        };
        (start <= end).then_some(start..end)
    }

    /// Returns the length of the rendered messages if they are a prefix of the whole text.
    fn begins(&self, messages: &[Value], generation_prompt: bool) -> Option<usize> {
        let text = self.text(messages, generation_prompt)?;
        self.whole.starts_with(&text).then_some(text.len())
    }

    fn text(&self, messages: &[Value], generation_prompt: bool) -> Option<String> {
        self.template.text(messages, generation_prompt, &self.conversation.variables).ok()
    }

    /// Returns the end of a turn rendered as `start..upto`. Whitespace after the token that ends
    /// the turn belongs to the template.
    fn closed(&self, start: usize, upto: usize) -> usize {
        let trimmed = self.whole[..upto].trim_end().len();
        if trimmed > start && self.template.ends_special(&self.whole[start..trimmed]) {
            trimmed
        } else {
            upto
        }
    }

    /// Returns the start and end of the turn's text, found by rendering a mark as its content.
    fn around_mark(&self, index: usize) -> Option<(usize, usize)> {
        let marked = self.text(&self.with_mark(&self.conversation.messages, index), false)?;
        let (before, after) = marked.split_once(MARK)?;
        let fits = before.len() + after.len() <= self.whole.len()
            && self.whole.starts_with(before)
            && self.whole.ends_with(after);
        fits.then(|| (self.header(index, before), self.whole.len() - after.len()))
    }

    /// Returns the length of `before`, less its trailing whitespace if the generation prompt does
    /// not end with it: the model must then generate that whitespace.
    fn header(&self, index: usize, before: &str) -> usize {
        let trimmed = before.trim_end().len();
        match self.text(&self.conversation.messages[..index], true) {
            Some(prompt) if !prompt.ends_with(&before[trimmed..]) => trimmed,
            _ => before.len(),
        }
    }

    /// Returns the length of the turn's ending after its text: the text that follows whether or not
    /// the turn is the last, up to and including its last special token.
    fn ending(&self, index: usize, behind: usize) -> usize {
        let Some(last) = self.text(&self.with_mark(&self.conversation.messages[..=index], index), false)
        else {
            return 0;
        };
        let Some((_, after_last)) = last.split_once(MARK) else { return 0 };
        let after = &self.whole[behind..];
        let common = after.bytes().zip(after_last.bytes()).take_while(|(a, b)| a == b).count();
        (1..=common)
            .rev()
            .filter_map(|end| after.get(..end))
            .find(|ending| self.template.ends_special(ending))
            .map_or(0, str::len)
    }

    /// Returns the messages with the content of one replaced by a mark.
    fn with_mark(&self, messages: &[Value], index: usize) -> Vec<Value> {
        let mut messages = messages.to_vec();
        messages[index] = json!({"role": "assistant", "content": MARK.to_string()});
        messages
    }
}
