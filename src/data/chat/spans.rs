//! Finds the assistant's turns in a rendered conversation.

use std::borrow::Cow;
use std::mem;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::numbers::Numbered;
use super::tags::{Owners, without_tags};
use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
use super::values::Values;
use super::{ChatTemplate, alike};
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
    /// Returns the text of the turn of each of `count` messages, empty if it has none; `None` if it
    /// is not known.
    pub fn texts(&self, count: usize) -> Option<Vec<Cow<'_, str>>> {
        let mut texts = vec![Cow::Borrowed(""); count];
        for (range, message) in &self.ranges {
            let (text, part) = (&mut texts[(*message)?], &self.text[range.clone()]);
            *text = if text.is_empty() { Cow::Borrowed(part) } else { mem::take(text) + part };
        }
        Some(texts)
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
pub fn render(values: &Values, warnings: &mut Warnings) -> Result<Turns> {
    let Values { template, conversation, .. } = *values;
    let unread = refuse_marks(template, &conversation.messages, &conversation.variables)?;
    let count = conversation.messages.len();
    let whole = values.text(count, false)?;
    if let Some(place) = unread.filter(|_| whole.contains([MARK, SURROGATE])) {
        return Err(has_marks(&place));
    }
    if template.has_tags {
        let (text, ranges) = without_tags(&whole);
        let ranges = Owners { values, whole: &whole }.of(ranges, warnings)?;
        return Ok(Turns { text, ranges });
    }
    let finder = Finder { values, whole: &whole };
    let mut ranges: Vec<(Range<usize>, Option<usize>)> = Vec::new();
    let trained: Vec<usize> = (0..count).filter(|&index| conversation.trains(index)).collect();
    for (found, &index) in alike::found(&finder, &trained).into_iter().zip(&trained) {
        let (turn, header) = match found {
            Some((turn, header)) => (turn, Some(header)),
            None if values.is_exhausted() => return Err(exhausted(index)),
            None => (finder.turn(index).ok_or_else(|| not_found(index))?, None),
        };
        if ranges.last().is_some_and(|(before, _)| before.end > turn.start) {
            return Err(not_found(index));
        }
        let turn = finder.behind_header(index, turn, header, warnings);
        ranges.push((finder.without_closing(index, turn), Some(index)));
    }
    Ok(Turns { text: whole, ranges })
}

fn exhausted(index: usize) -> Error {
    Error::new(
        Status::BadFormat,
        format!(
            "message {index}: the chat template renders the turns of this long conversation too differently to find \
             them all; split the conversation, or give a template with {{% generation %}} tags (--chat-template FILE)"
        ),
    )
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

/// Searches for one turn at a time.
pub struct Finder<'a> {
    pub values: &'a Values<'a>,
    /// The rendered conversation.
    pub whole: &'a str,
}

impl Finder<'_> {
    /// Returns the number of messages.
    fn count(&self) -> usize {
        self.values.conversation.messages.len()
    }

    /// Returns the byte range of message `index`, including the token that ends the turn.
    pub fn turn(&self, index: usize) -> Option<Range<usize>> {
        let before = self.begins(index, true);
        let upto = self.begins(index + 1, false);
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

    /// Returns the length of the first messages if their text is a prefix of the whole text.
    fn begins(&self, count: usize, generation_prompt: bool) -> Option<usize> {
        if count == self.count() && !generation_prompt {
            return Some(self.whole.len());
        }
        let text = self.values.text(count, generation_prompt).ok()?;
        self.whole.starts_with(&text).then_some(text.len())
    }

    /// Returns the end of a turn rendered as `start..upto`. Whitespace after the token that ends
    /// the turn belongs to the template.
    fn closed(&self, start: usize, upto: usize) -> usize {
        let trimmed = self.whole[..upto].trim_end().len();
        if trimmed > start && self.values.template.ends_special(&self.whole[start..trimmed]) {
            trimmed
        } else {
            upto
        }
    }

    /// Returns the start and end of the turn's text, found by rendering a mark as its content.
    fn around_mark(&self, index: usize) -> Option<(usize, usize)> {
        let marked = self.marked(self.count(), index)?;
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
        let Ok(prompt) = self.values.text(index, true) else { return before.len() };
        let pairs = prompt.bytes().rev().zip(before.bytes().rev());
        if pairs.take_while(|(a, b)| a == b).take(SURE).count() == SURE {
            return before.len();
        }
        let ends = |text: &str| self.values.template.has_end(text);
        if let Some(generation) =
            self.values.text(index, false).as_deref().ok().and_then(|all| prompt.strip_prefix(all))
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

    /// Returns the text from the start of a turn to the text of its message, `None` if it cannot be
    /// found or the template has a generation prompt.
    pub fn header_of(&self, index: usize, start: usize) -> Option<String> {
        if self.values.template.reads.names("add_generation_prompt") {
            return None;
        }
        let marked = self.marked(index + 1, index)?;
        let header = marked.split_once(MARK)?.0.strip_prefix(&self.whole[..start])?;
        Some(header.to_owned())
    }

    /// Returns a turn without its header, which a template without a generation prompt begins it
    /// with. `header` is [`Finder::header_of`] the turn if that is known.
    fn behind_header(
        &self,
        index: usize,
        turn: Range<usize>,
        header: Option<Option<String>>,
        warnings: &mut Warnings,
    ) -> Range<usize> {
        let text = &self.whole[turn.clone()];
        let content = self.message(index)["content"].as_str().unwrap_or_default().trim();
        if self.values.template.reads.names("add_generation_prompt")
            || (!content.is_empty() && text.trim_start().starts_with(content))
        {
            return turn;
        }
        match header.unwrap_or_else(|| self.header_of(index, turn.start)) {
            Some(header) if header.trim().is_empty() => turn,
            Some(header) if text.starts_with(&header) && !header.contains("think") => {
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
        let text = &self.whole[turn.clone()];
        let inside = self.values.template.without_special(text).map(str::trim_end);
        let Some(inside) =
            inside.filter(|inside| index + 1 == self.count() && self.values.template.ends_special(inside))
        else {
            return turn;
        };
        let question = json!({"role": "user", "content": MARK.to_string()});
        let end = turn.start + inside.len();
        match self.values.text_with(self.count(), false, [(self.count(), question)]) {
            Ok(longer) if longer.starts_with(&self.whole[..turn.end]) => turn,
            Ok(longer) if longer.starts_with(&self.whole[..end]) => turn.start..end,
            _ => turn,
        }
    }

    /// Returns the text after the turn's text if the turn is the last.
    fn after_mark(&self, index: usize) -> Option<String> {
        let last = self.marked(index + 1, index)?;
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
            .find(|ending| self.values.template.ends_special(ending))
            .map_or_else(|| self.values.template.end_before(after), str::len)
    }

    /// Returns the turn from where the message before ends to where its own texts end, each with
    /// the text that follows. Templates that render the last question otherwise need this for turns
    /// with tool calls.
    fn around_numbers(&self, index: usize) -> Option<Range<usize>> {
        let before = index.checked_sub(1)?;
        let numbered = |count: usize, generation_prompt: bool| {
            Numbered::render(self.values, &[before, index], count, generation_prompt)
        };
        let whole = numbered(self.count(), false).filter(|all| all.text == self.whole)?;
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

    fn message(&self, index: usize) -> &Value {
        &self.values.conversation.messages[index]
    }

    /// Renders the first messages with the content of one replaced by a mark.
    fn marked(&self, count: usize, index: usize) -> Option<String> {
        let mark = MARK.to_string();
        let content = match self.message(index)["content"] {
            Value::Array(_) => json!([{"type": "text", "text": mark}]),
            _ => mark.into(),
        };
        let message = json!({"role": "assistant", "content": content});
        self.values.text_with(count, false, [(index, message)]).ok()
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
