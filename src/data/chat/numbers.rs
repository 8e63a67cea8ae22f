//! Renders a conversation with the number of each message in its texts, to see which text of the
//! rendering is whose.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::{Map, Value};

use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
use super::values::Values;
use crate::base::json::{NUMBER, SURROGATE};

/// Digits of a message's number between two [`MARK`]s.
const ZERO: char = NUMBER;
const ONE: char = SURROGATE;

/// A rendering, and where the texts of messages end in it.
pub struct Numbered {
    /// The rendering without numbers; tags are kept.
    pub text: String,
    /// Offsets in the text without tags, increasing, each with its message.
    pub ends: Vec<(usize, usize)>,
}

impl Numbered {
    /// Renders the first `count` messages of a conversation, some with their numbers; `None` if the
    /// template fails.
    pub fn render(
        values: &Values,
        with_number: &[usize],
        count: usize,
        generation_prompt: bool,
    ) -> Option<Numbered> {
        let messages = &values.conversation.messages;
        let with_number = with_number.iter().filter(|&&index| index < count);
        let numbered = with_number.map(|&index| (index, numbered(&messages[index], index)));
        let text = values.text_with(count, generation_prompt, numbered).ok()?;
        let (text, ends) = without_numbers(&text);
        Some(Numbered { text, ends })
    }

    /// The messages with texts that end inside a range.
    pub fn inside(&self, range: &Range<usize>) -> impl Iterator<Item = usize> {
        let behind = |offset: usize| self.ends.partition_point(|(end, _)| *end <= offset);
        let inside = behind(range.start)..behind(range.end).max(behind(range.start));
        self.ends[inside].iter().map(|(_, index)| *index)
    }

    /// Returns the offset behind the last text of a message.
    pub fn end_of(&self, message: usize) -> Option<usize> {
        self.ends.iter().filter(|(_, of)| *of == message).map(|(end, _)| *end).max()
    }
}

/// Returns a number as text that no rendering has.
pub fn mark(number: usize) -> String {
    let digits = format!("{number:b}");
    let bits: String = digits.chars().map(|bit| if bit == '0' { ZERO } else { ONE }).collect();
    format!("{MARK}{bits}{MARK}")
}

/// Returns the numbers of a text's [`mark`]s; `None` if some of them are not whole.
pub fn marks(text: &str) -> Option<HashSet<usize>> {
    let (_, numbers) = without_numbers(text);
    let are_whole = text.matches(MARK).count() == 2 * numbers.len();
    are_whole.then(|| numbers.into_iter().map(|(_, number)| number).collect())
}

/// Returns a message with its number behind the last visible character of every text.
fn numbered(message: &Value, index: usize) -> Value {
    match message {
        Value::String(text) if !text.starts_with(NUMBER) => {
            let end = text.trim_end().len();
            if end == 0 {
                return message.clone();
            }
            Value::String(format!("{}{}{}", &text[..end], mark(index), &text[end..]))
        }
        Value::Array(items) => items.iter().map(|item| numbered(item, index)).collect(),
        Value::Object(fields) => {
            let is_text = |key: &str| !["role", "type", "id", "tool_call_id"].contains(&key);
            let field = |(key, value): (&String, &Value)| {
                let value = if is_text(key) { numbered(value, index) } else { value.clone() };
                (key.clone(), value)
            };
            fields.iter().map(field).collect::<Map<String, Value>>().into()
        }
        _ => message.clone(),
    }
}

/// Returns the text without the numbers of [`numbered`], and these with their places in the text
/// without tags.
fn without_numbers(text: &str) -> (String, Vec<(usize, usize)>) {
    let (mut out, mut numbers, mut tags) = (String::with_capacity(text.len()), Vec::new(), 0);
    for (at, part) in text.split(MARK).enumerate() {
        if at % 2 == 0 {
            tags += part.matches([TURN_BEGINS, TURN_ENDS]).map(str::len).sum::<usize>();
            out.push_str(part);
        } else {
            let bits = part.replace(ZERO, "0").replace(ONE, "1");
            numbers.extend(usize::from_str_radix(&bits, 2).map(|number| (out.len() - tags, number)));
        }
    }
    (out, numbers)
}
