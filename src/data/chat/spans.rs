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
use crate::data::warning::{Warning, Warnings};

/// No text may have these.
const MARKS: [char; 4] = [TURN_BEGINS, TURN_ENDS, MARK, SURROGATE];
/// Bytes of a header that is surely the one of the generation prompt.
const SURE: usize = 12;

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

    /// Returns the ranges; those that touch are one.
    pub fn joined(&self) -> Vec<Range<usize>> {
        joined(self.ranges.iter().map(|(range, _)| range))
    }
}

/// Joins ranges that touch, and drops empty ones.
pub fn joined<'a>(ranges: impl IntoIterator<Item = &'a Range<usize>>) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match all.last_mut().filter(|before| before.end == range.start) {
            Some(before) => before.end = range.end,
            None => all.push(range.clone()),
        }
    }
    all
}

/// Renders a conversation and finds the supervised turns.
pub fn render(
    template: &ChatTemplate,
    conversation: &Conversation,
    warnings: &mut Warnings,
) -> Result<Turns> {
    let Conversation { messages, variables, .. } = conversation;
    let unread = refuse_marks(template, messages, variables)?;
    let whole = template.text(messages, false, variables)?;
    if let Some(place) = unread.filter(|_| whole.contains([MARK, SURROGATE])) {
        return Err(has_marks(&place));
    }
    if template.has_tags {
        let (text, ranges) = without_tags(&whole);
        let ranges = Owners { template, conversation, whole: &whole }.of(ranges, warnings)?;
        return Ok(Turns { text, ranges });
    }
    let finder = Finder { template, conversation, whole: &whole };
    let mut ranges: Vec<(Range<usize>, Option<usize>)> = Vec::new();
    for index in (0..messages.len()).filter(|&index| conversation.trains(index)) {
        let turn = finder.turn(index).ok_or_else(|| not_found(index))?;
        if ranges.last().is_some_and(|(before, _)| before.end > turn.start) {
            return Err(not_found(index));
        }
        let turn = finder.behind_header(index, turn, warnings);
        ranges.push((finder.without_closing(index, turn), Some(index)));
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

fn has_marks(place: &str) -> Error {
    Error::new(
        Status::BadFormat,
        format!(
            "{place} has one of the noncharacters U+FDD0 … U+FDD2, or a lone surrogate, which no text may contain"
        ),
    )
}

/// Refuses marks in what the template reads. Returns the place of a mark in another field, which
/// may be in the text of a template that prints whole messages.
fn refuse_marks(
    template: &ChatTemplate,
    messages: &[Value],
    variables: &Map<String, Value>,
) -> Result<Option<String>> {
    fn has_mark(value: &Value) -> bool {
        match value {
            // The first byte of a mark in UTF-8 is rare, and quickly found.
            Value::String(text) => text.as_bytes().contains(&0xef) && text.contains(MARKS),
            Value::Array(values) => values.iter().any(has_mark),
            Value::Object(values) => values.values().any(has_mark),
            _ => false,
        }
    }
    if let Some((name, _)) = variables.iter().find(|(_, value)| has_mark(value)) {
        return Err(has_marks(&format!("`{name}`")));
    }
    let mut unread = None;
    for (index, message) in messages.iter().enumerate() {
        for (key, _) in message.as_object().into_iter().flatten().filter(|(_, value)| has_mark(value)) {
            let place = format!("message {index}: `{key}`");
            if template.has_tags || template.reads_field(key) {
                return Err(has_marks(&place));
            }
            unread = Some(place);
        }
    }
    Ok(unread)
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

    /// Returns the length of `before`, the text before a turn's text, through the generation
    /// prompt. The model must generate what follows it: reasoning that the template adds, or
    /// whitespace.
    fn header(&self, index: usize, before: &str) -> usize {
        let messages = &self.conversation.messages[..index];
        let Some(prompt) = self.text(messages, true) else { return before.len() };
        let pairs = prompt.bytes().rev().zip(before.bytes().rev());
        if pairs.take_while(|(a, b)| a == b).take(SURE).count() == SURE {
            return before.len();
        }
        let ends = |text: &str| self.template.has_end(text);
        if let Some(generation) =
            self.text(messages, false).as_deref().and_then(|all| prompt.strip_prefix(all))
            && !generation.trim().is_empty()
            && let Some(at) = before.rfind(generation).map(|at| at + generation.len())
            && !ends(&before[at..])
        {
            return at;
        }
        let trimmed = before.trim_end();
        let after = match prompt.strip_prefix(trimmed) {
            Some(after) => after,
            None => behind_suffix(&prompt, trimmed).unwrap_or_default(),
        };
        trimmed.len() + common(&before[trimmed.len()..], after)
    }

    /// Returns a turn without its header, which a template without a generation prompt begins it
    /// with.
    fn behind_header(&self, index: usize, turn: Range<usize>, warnings: &mut Warnings) -> Range<usize> {
        let messages = &self.conversation.messages;
        let text = &self.whole[turn.clone()];
        let content = messages[index]["content"].as_str().unwrap_or_default().trim();
        if self.template.reads.names("add_generation_prompt")
            || (!content.is_empty() && text.trim_start().starts_with(content))
        {
            return turn;
        }
        let marked = self.text(&self.with_mark(&messages[..=index], index), false);
        let before = marked.as_deref().and_then(|marked| Some(marked.split_once(MARK)?.0));
        let header = before.and_then(|before| before.strip_prefix(&self.whole[..turn.start]));
        match header {
            Some(header) if header.trim().is_empty() => turn,
            Some(header) if text.starts_with(header) && !header.contains("think") => {
                turn.start + header.len()..turn.end
            }
            _ => {
                warnings.add(Warning::HeaderTrained, format_args!("message {index}"));
                turn
            }
        }
    }

    /// Returns a turn without the token that closes the conversation behind the token that ends the
    /// turn: other turns do not have it.
    fn without_closing(&self, index: usize, turn: Range<usize>) -> Range<usize> {
        let messages = &self.conversation.messages;
        let text = &self.whole[turn.clone()];
        let inside = self.template.without_special(text).map(str::trim_end);
        let Some(inside) =
            inside.filter(|inside| index + 1 == messages.len() && self.template.ends_special(inside))
        else {
            return turn;
        };
        let question = json!({"role": "user", "content": MARK.to_string()});
        let end = turn.start + inside.len();
        match self.text(&[&messages[..], &[question]].concat(), false) {
            Some(longer) if longer.starts_with(&self.whole[..turn.end]) => turn,
            Some(longer) if longer.starts_with(&self.whole[..end]) => turn.start..end,
            _ => turn,
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
        (1..=common(after, after_last))
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
        let mark = MARK.to_string();
        let content = match messages[index]["content"] {
            Value::Array(_) => json!([{"type": "text", "text": mark}]),
            _ => mark.into(),
        };
        messages[index] = json!({"role": "assistant", "content": content});
        messages
    }
}

/// Returns the length of the common beginning of two texts.
fn common(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Returns what follows the end of another text, as much of it as is found, in a text.
fn behind_suffix<'a>(text: &'a str, other: &str) -> Option<&'a str> {
    [64, 32, 16, 8, 4].into_iter().find_map(|length| {
        let suffix = other.get(other.len().checked_sub(length)?..)?;
        Some(&text[text.rfind(suffix)? + length..])
    })
}
