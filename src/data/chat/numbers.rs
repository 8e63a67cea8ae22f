//! Renders a conversation with the number of each message in its texts, to see which text of the
//! rendering is whose.

use std::ops::Range;

use serde_json::{Map, Value};

use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
use super::{ChatTemplate, Conversation};
use crate::base::json::{NUMBER, SURROGATE};

/// Digits of a message's number between two [`MARK`]s.
const ZERO: char = NUMBER;
const ONE: char = SURROGATE;

/// A rendering, and where the texts of messages end in it.
pub struct Numbered {
    /// The rendering without numbers; tags are kept.
    pub text: String,
    /// Offsets in the text without tags, each with its message.
    pub ends: Vec<(usize, usize)>,
}

impl Numbered {
    /// Renders the first `count` messages of a conversation, some with their numbers; `None` if the
    /// template fails.
    pub fn render(
        template: &ChatTemplate,
        conversation: &Conversation,
        with_number: &[usize],
        count: usize,
        generation_prompt: bool,
    ) -> Option<Numbered> {
        let mut messages = conversation.messages[..count].to_vec();
        for &index in with_number.iter().filter(|&&index| index < count) {
            messages[index] = numbered(&messages[index], index);
        }
        let text = template.text(&messages, generation_prompt, &conversation.variables).ok()?;
        let (text, ends) = without_numbers(&text);
        Some(Numbered { text, ends })
    }

    /// The messages with texts that end inside a range.
    pub fn inside(&self, range: &Range<usize>) -> impl Iterator<Item = usize> {
        let is_inside = |(end, _): &&(usize, usize)| range.start < *end && *end <= range.end;
        self.ends.iter().filter(is_inside).map(|(_, index)| *index)
    }

    /// Returns the offset behind the last text of a message.
    pub fn end_of(&self, message: usize) -> Option<usize> {
        self.ends.iter().filter(|(_, of)| *of == message).map(|(end, _)| *end).max()
    }
}

/// Returns a message with its number behind the last visible character of every text.
fn numbered(message: &Value, index: usize) -> Value {
    match message {
        Value::String(text) if !text.starts_with(NUMBER) => {
            let end = text.trim_end().len();
            if end == 0 {
                return message.clone();
            }
            let digits = format!("{index:b}");
            let bits: String = digits.chars().map(|bit| if bit == '0' { ZERO } else { ONE }).collect();
            Value::String(format!("{}{MARK}{bits}{MARK}{}", &text[..end], &text[end..]))
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
