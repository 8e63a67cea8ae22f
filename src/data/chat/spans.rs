//! Finds the assistant's turns in a rendered conversation.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::numbers::Numbered;
use super::tags::{Owners, without_tags};
use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
use super::{ChatTemplate, Conversation};
use crate::base::json::SURROGATE;
use crate::base::{Error, Result, Status};

/// No text may have these.
const MARKS: [char; 4] = [TURN_BEGINS, TURN_ENDS, MARK, SURROGATE];

/// A rendered conversation and the turns that are trained on.
pub struct Turns {
    pub text: String,
    /// Byte ranges of the text, increasing, each with its message; `None` if that is not known.
    pub ranges: Vec<(Range<usize>, Option<usize>)>,
}

impl Turns {
    /// Returns the text of a message's turn, empty if it has none; `None` if it is not known.
    pub fn text_of(&self, message: usize) -> Option<Cow<'_, str>> {
        if self.ranges.iter().any(|(_, of)| of.is_none()) {
            return None;
        }
        let of_message = self.ranges.iter().filter(|(_, of)| *of == Some(message));
        let mut parts = of_message.map(|(range, _)| &self.text[range.clone()]);
        let first = parts.next().unwrap_or_default();
        Some(parts.fold(Cow::from(first), |text, part| text + part))
    }
}

/// Renders a conversation and finds the supervised turns. `tagged`: the template has
/// `{% generation %}` tags.
pub fn render(template: &ChatTemplate, conversation: &Conversation, tagged: bool) -> Result<Turns> {
    let Conversation { messages, variables, .. } = conversation;
    refuse_marks(messages, variables)?;
    let whole = template.text(messages, false, variables)?;
    if tagged {
        let (text, ranges) = without_tags(&whole);
        let mut ranges = Owners { template, conversation, whole: &whole }.of(ranges)?;
        ranges.retain(|(_, message)| message.is_none_or(|message| conversation.trains(message)));
        return Ok(Turns { text, ranges });
    }
    let finder = Finder { template, conversation, whole: &whole };
    let mut ranges: Vec<(Range<usize>, Option<usize>)> = Vec::new();
    for index in (0..messages.len()).filter(|&index| conversation.trains(index)) {
        let turn = finder.turn(index).ok_or_else(|| not_found(index))?;
        if ranges.last().is_some_and(|(before, _)| before.end > turn.start) {
            return Err(not_found(index));
        }
        ranges.push((turn, Some(index)));
    }
    Ok(Turns { text: whole, ranges })
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

fn refuse_marks(messages: &[Value], variables: &Map<String, Value>) -> Result<()> {
    fn has_mark(value: &Value) -> bool {
        match value {
            // The first byte of a mark in UTF-8 is rare, and quickly found.
            Value::String(text) => text.as_bytes().contains(&0xef) && text.contains(MARKS),
            Value::Array(values) => values.iter().any(has_mark),
            Value::Object(values) => values.values().any(has_mark),
            _ => false,
        }
    }
    let place = match messages.iter().position(has_mark) {
        Some(index) => format!("message {index}"),
        None => match variables.iter().find(|(_, value)| has_mark(value)) {
            Some((name, _)) => format!("`{name}`"),
            None => return Ok(()),
        },
    };
    Err(Error::new(
        Status::BadFormat,
        format!(
            "{place} has one of the noncharacters U+FDD0 … U+FDD2, or a lone surrogate, which no text may contain"
        ),
    ))
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
                let Some((around, behind)) = self.around_mark(index) else {
                    return self.around_numbers(index);
                };
                let end = match upto {
                    Some(upto) => self.closed(around, upto),
                    None => behind + self.ending(behind, &self.after_mark(index)?),
                };
                (start.unwrap_or(around), end)
            }
        };
        (start <= end).then_some(start..end)
    }

    /// Returns the length of the rendered messages if they are a prefix of the whole text.
    fn begins(&self, messages: &[Value], generation_prompt: bool) -> Option<usize> {
        if messages.len() == self.conversation.messages.len() && !generation_prompt {
            return Some(self.whole.len());
        }
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

    /// Returns the text after the turn's text if the turn is the last.
    fn after_mark(&self, index: usize) -> Option<String> {
        let last = self.text(&self.with_mark(&self.conversation.messages[..=index], index), false)?;
        last.split_once(MARK).map(|(_, after)| after.to_owned())
    }

    /// Returns the length of the turn's ending: the text that follows whether or not the turn is
    /// the last, up to and including its last special token. If that differs, it is the token that
    /// follows.
    fn ending(&self, behind: usize, after_last: &str) -> usize {
        let after = &self.whole[behind..];
        let common = after.bytes().zip(after_last.bytes()).take_while(|(a, b)| a == b).count();
        (1..=common)
            .rev()
            .filter_map(|end| after.get(..end))
            .find(|ending| self.template.ends_special(ending))
            .map_or_else(|| self.template.end_before(after), str::len)
    }

    /// Returns the turn from where the message before ends to where its own texts end, each with
    /// the text that follows. Templates that render the last question otherwise need this for turns
    /// with tool calls.
    fn around_numbers(&self, index: usize) -> Option<Range<usize>> {
        let before = index.checked_sub(1)?;
        let numbered = |count: usize, generation_prompt: bool| {
            Numbered::render(self.template, self.conversation, &[before, index], count, generation_prompt)
        };
        let whole = numbered(self.conversation.messages.len(), false).filter(|all| all.text == self.whole)?;
        let prompt = numbered(index, true)?;
        let header = &prompt.text[prompt.end_of(before)?..];
        let start = whole.end_of(before)?;
        let start = self.whole[start..].starts_with(header).then_some(start + header.len())?;
        let last = numbered(index + 1, false)?;
        let after_last = &last.text[last.end_of(index)?..];
        let behind = whole.end_of(index)?;
        let end = match self.whole[behind..].starts_with(after_last) {
            true => self.closed(start, behind + after_last.len()),
            false => behind + self.ending(behind, after_last),
        };
        let is_own = |(at, of): &(usize, usize)| (*of == index) == (start < *at && *at <= end);
        whole.ends.iter().all(is_own).then_some(start..end)
    }

    /// Returns the messages with the content of one replaced by a mark.
    fn with_mark(&self, messages: &[Value], index: usize) -> Vec<Value> {
        let mut messages = messages.to_vec();
        messages[index] = json!({"role": "assistant", "content": MARK.to_string()});
        messages
    }
}
