//! Finds the turns that a template tags with `{% generation %}`, and their messages.

use std::ops::Range;

use super::numbers::Numbered;
use super::template::{TURN_BEGINS, TURN_ENDS};
use super::{ChatTemplate, Conversation};
use crate::base::{Error, Result, Status};

/// Returns the text without tags, and the byte ranges they enclosed; ranges that touch are one.
pub fn without_tags(whole: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(whole.len());
    let mut turns: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for part in whole.split_inclusive([TURN_BEGINS, TURN_ENDS]) {
        text.push_str(part.trim_end_matches([TURN_BEGINS, TURN_ENDS]));
        if part.ends_with(TURN_BEGINS) {
            start = Some(text.len());
        } else if let Some(start) = start.take().filter(|_| part.ends_with(TURN_ENDS)) {
            match turns.last_mut().filter(|before| before.end == start) {
                Some(before) => before.end = text.len(),
                None if start < text.len() => turns.push(start..text.len()),
                None => {}
            }
        }
    }
    (text, turns)
}

/// Finds the messages of tagged ranges.
pub struct Owners<'a> {
    pub template: &'a ChatTemplate,
    pub conversation: &'a Conversation,
    /// The rendering with tags.
    pub whole: &'a str,
}

impl Owners<'_> {
    /// Returns each range with its message. If all of the assistant's messages are trained on, all
    /// ranges are; one for each message is the usual case.
    pub fn of(&self, ranges: Vec<Range<usize>>) -> Result<Vec<(Range<usize>, Option<usize>)>> {
        let conversation = self.conversation;
        let all = conversation.assistant().all(|index| conversation.trains(index));
        let owners: Vec<Option<usize>> = if all && ranges.len() == conversation.assistant().count() {
            conversation.assistant().map(Some).collect()
        } else {
            match self.by_numbers(&ranges) {
                Ok(owners) => owners.into_iter().map(Some).collect(),
                Err(_) if all => vec![None; ranges.len()],
                Err(error) => return Err(error),
            }
        };
        Ok(ranges.into_iter().zip(owners).collect())
    }

    /// Renders once more, with the number of each of the assistant's messages in its texts.
    fn by_numbers(&self, ranges: &[Range<usize>]) -> Result<Vec<usize>> {
        let Owners { template, conversation, .. } = self;
        let assistant: Vec<usize> = conversation.assistant().collect();
        let numbered =
            Numbered::render(template, conversation, &assistant, conversation.messages.len(), false)
                .filter(|numbered| numbered.text == self.whole)
                .ok_or_else(|| unclear("the template does not render texts as they are"))?;
        let mut owners: Vec<Option<usize>> = Vec::new();
        for range in ranges {
            let mut inside = numbered.ends.iter().filter(|(end, _)| range.start < *end && *end <= range.end);
            let owner = inside.next().map(|(_, index)| *index);
            if inside.any(|(_, index)| Some(*index) != owner) {
                return Err(unclear("one range has texts of several messages"));
            }
            owners.push(owner);
        }
        // A range without text of a message is that of an empty turn.
        let mut empty = assistant;
        empty.retain(|index| !owners.contains(&Some(*index)));
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

fn unclear(reason: &str) -> Error {
    Error::new(
        Status::BadFormat,
        format!(
            "some turns of the assistant are not trained on, and the {{% generation %}} tags of the chat template \
             do not tell which text is whose: {reason}; tag each turn for itself (--chat-template FILE)"
        ),
    )
}
