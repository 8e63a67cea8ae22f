//! Finds the turns that a template tags with `{% generation %}`, and their messages.

use std::collections::HashSet;
use std::ops::Range;

use super::numbers::Numbered;
use super::spans::joined;
use super::template::{TURN_BEGINS, TURN_ENDS};
use super::values::Values;
use crate::base::{Error, Result, Status};
use crate::data::warning::{Warning, Warnings};

/// Returns the text without tags, and the byte ranges they enclosed, also empty ones.
pub fn without_tags(whole: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(whole.len());
    let mut turns: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for part in whole.split_inclusive([TURN_BEGINS, TURN_ENDS]) {
        text.push_str(part.trim_end_matches([TURN_BEGINS, TURN_ENDS]));
        if part.ends_with(TURN_BEGINS) {
            start = Some(text.len());
        } else if let Some(start) = start.take().filter(|_| part.ends_with(TURN_ENDS)) {
            turns.push(start..text.len());
        }
    }
    (text, turns)
}

/// A range and its message, `None` if that is not known.
type Owned = (Range<usize>, Option<usize>);

/// Finds the messages of tagged ranges.
pub struct Owners<'a> {
    pub values: &'a Values<'a>,
    /// The rendering with tags.
    pub whole: &'a str,
}

impl Owners<'_> {
    /// Returns the ranges that are trained on, each with its message: all of them if all of the
    /// assistant's messages are trained on.
    pub fn of(&self, ranges: Vec<Range<usize>>, warnings: &mut Warnings) -> Result<Vec<Owned>> {
        let conversation = self.values.conversation;
        let assistant: Vec<usize> = conversation.assistant().collect();
        let all = assistant.iter().all(|&index| conversation.trains(index));
        let one_each = ranges.len() == assistant.len();
        let numbered = if all && one_each { None } else { self.numbered() };
        let mut owned: Vec<Owned> =
            if one_each && numbered.as_ref().is_none_or(|numbered| agrees(numbered, &ranges, &assistant)) {
                ranges.into_iter().zip(assistant.into_iter().map(Some)).collect()
            } else {
                match self.by_numbers(numbered, &ranges) {
                    Ok(owned) => owned,
                    Err(_) if all => ranges.into_iter().map(|range| (range, None)).collect(),
                    Err(error) => return Err(error),
                }
            };
        owned.retain(|(_, message)| {
            let Some(message) = *message else { return true };
            let role = conversation.messages[message]["role"].as_str().unwrap_or_default();
            if all && role != "assistant" {
                warnings.add(Warning::RoleTagged(role.to_owned()), format_args!("message {message}"));
                return true;
            }
            conversation.trains(message)
        });
        Ok(owned)
    }

    /// Renders once more, with the number of each message in its texts, or else of each of the
    /// assistant's; `None` if the template does not render texts as they are.
    fn numbered(&self) -> Option<Numbered> {
        let conversation = self.values.conversation;
        let count = conversation.messages.len();
        [(0..count).collect(), conversation.assistant().collect::<Vec<usize>>()].iter().find_map(|messages| {
            Numbered::render(self.values, messages, count, false)
                .filter(|numbered| numbered.text == self.whole)
        })
    }

    /// Returns the ranges by the numbers in them; those that touch are joined if need be.
    fn by_numbers(&self, numbered: Option<Numbered>, ranges: &[Range<usize>]) -> Result<Vec<Owned>> {
        let numbered = numbered.ok_or_else(|| unclear("the template does not render texts as they are"))?;
        let filled: Vec<Range<usize>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let own = |ranges: Vec<Range<usize>>| {
            let owners = self.owners(&numbered, &ranges)?;
            Ok(ranges.into_iter().zip(owners.into_iter().map(Some)).collect())
        };
        let whole = joined(&filled);
        own(filled).or_else(|_: Error| own(whole))
    }

    fn owners(&self, numbered: &Numbered, ranges: &[Range<usize>]) -> Result<Vec<usize>> {
        let mut owners: Vec<Option<usize>> = Vec::new();
        for range in ranges {
            let mut inside = numbered.inside(range);
            let owner = inside.next();
            if inside.any(|index| Some(index) != owner) {
                return Err(unclear("one range has texts of several messages"));
            }
            owners.push(owner);
        }
        // A range without text of a message is that of an empty turn.
        let filled: HashSet<usize> = owners.iter().flatten().copied().collect();
        let mut empty: Vec<usize> = self.values.conversation.assistant().collect();
        empty.retain(|index| !filled.contains(index));
        let without = owners.iter().filter(|owner| owner.is_none()).count();
        if without > 0 && without != empty.len() {
            return Err(unclear("the numbers of ranges and turns differ"));
        }
        empty.reverse();
        let owners: Vec<usize> =
            owners.into_iter().filter_map(|owner| owner.or_else(|| empty.pop())).collect();
        if !owners.is_sorted() {
            return Err(unclear("the ranges are not in the order of the messages"));
        }
        Ok(owners)
    }
}

/// True if no range has a text of another message than the one of its place.
fn agrees(numbered: &Numbered, ranges: &[Range<usize>], messages: &[usize]) -> bool {
    ranges.iter().zip(messages).all(|(range, message)| numbered.inside(range).all(|index| index == *message))
}

fn unclear(reason: &str) -> Error {
    Error::new(
        Status::BadFormat,
        format!(
            "some turns of the assistant are not trained on, and the {{% generation %}} tags of the chat template \
             do not tell which text is whose: {reason}; tag each turn for itself (--chat-template FILE)"
        ),
    )
}
