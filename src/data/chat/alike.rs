//! Finds most turns of a long conversation without a search for each.
//!
//! A search renders the conversation again, so its time grows with the number of messages. Turns of
//! one kind have messages with the same fields and the same whitespace. Of each kind the first, the
//! last and the middle turn are searched for. If these begin and end with the same text between the
//! texts of the messages, the turns between them do, too, and are found where the conversation has
//! that text; if not, more of them are searched for.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::ChatTemplate;
use super::numbers::Numbered;
use super::spans::Finder;

/// A conversation with at most as many turns is searched turn by turn.
const FEW: usize = 32;
/// Messages without text between a turn and the text before it.
const NEAR: usize = 8;

/// A turn, and its header if the template has no generation prompt.
pub type Found = (Range<usize>, Option<String>);

/// Returns the turns of messages, `None` for those that must be searched for.
pub fn found(finder: &Finder, trained: &[usize]) -> Vec<Option<Found>> {
    let mut alike = Alike { finder, trained, places: Vec::new(), found: vec![None; trained.len()] };
    if trained.len() > FEW
        && let Some(places) = places(finder)
    {
        alike.places = places;
        for members in alike.kinds().into_values() {
            alike.search(&members);
        }
    }
    alike.found
}

/// The offsets where the text before a message's text ends, and where its own ends.
#[derive(Clone)]
struct Place {
    before: usize,
    /// The message with the text before.
    message_before: Option<usize>,
    end: usize,
}

/// Returns the place of every message whose texts follow each other in the conversation; `None` if
/// the template does not render texts as they are.
fn places(finder: &Finder) -> Option<Vec<Option<Place>>> {
    let count = finder.values.conversation.messages.len();
    let all: Vec<usize> = (0..count).collect();
    let numbered = Numbered::render(finder.values, &all, count, false)?;
    let mut places: Vec<Option<Place>> = vec![None; count];
    let mut seen = vec![false; count];
    let (mut before, mut message_before) = (0, None);
    for run in numbered.ends.chunk_by(|(_, a), (_, b)| a == b) {
        let &(end, message) = run.last()?;
        let is_first = !std::mem::replace(seen.get_mut(message)?, true);
        places[message] = is_first.then_some(Place { before, message_before, end });
        (before, message_before) = (end, Some(message));
    }
    (numbered.text == finder.whole).then_some(places)
}

/// Turns as indices of `trained`.
struct Alike<'a> {
    finder: &'a Finder<'a>,
    trained: &'a [usize],
    /// One per message.
    places: Vec<Option<Place>>,
    found: Vec<Option<Found>>,
}

impl Alike<'_> {
    /// Returns the turns of each kind.
    fn kinds(&self) -> BTreeMap<String, Vec<usize>> {
        let messages = &self.finder.values.conversation.messages;
        let mut kinds: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, &index) in self.trained.iter().enumerate() {
            let Some(place) = &self.places[index] else { continue };
            let first = place.message_before.unwrap_or_default();
            if first > index || first + NEAR < index {
                continue;
            }
            let mut kind = place.message_before.map_or("first", |_| "").to_owned();
            for message in &messages[first..=index] {
                add_shape(self.finder.values.template, message, &mut kind);
            }
            kind += &messages.get(index + 1).map_or(String::new(), |next| next["role"].to_string());
            kinds.entry(kind).or_default().push(at);
        }
        kinds
    }

    /// Finds turns of one kind.
    fn search(&mut self, members: &[usize]) {
        let (middle, last) = (members.len() / 2, members.len() - 1);
        for at in [0, middle, last] {
            self.search_one(members[at]);
        }
        self.search_between(&members[..=middle]);
        self.search_between(&members[middle..]);
    }

    /// Finds turns of one kind whose first and last are searched for.
    fn search_between(&mut self, members: &[usize]) {
        let [first, between @ .., last] = members else { return };
        if between.is_empty() {
            return;
        }
        let (Some(start), Some(end)) = (self.surroundings(*first), self.surroundings(*last)) else { return };
        if start.are_like(&end) {
            let alike: Vec<_> = between.iter().map(|&at| (at, self.by_surroundings(at, &start))).collect();
            alike.into_iter().for_each(|(at, found)| self.found[at] = found);
        } else {
            let middle = members.len() / 2;
            self.search_one(members[middle]);
            self.search_between(&members[..=middle]);
            self.search_between(&members[middle..]);
        }
    }

    fn search_one(&mut self, at: usize) {
        let index = self.trained[at];
        if self.found[at].is_none() && !self.finder.values.is_exhausted() {
            self.found[at] = self.finder.turn(index).map(|turn| {
                let header = self.finder.header_of(index, turn.start);
                (turn, header)
            });
        }
    }

    fn surroundings(&self, at: usize) -> Option<Surroundings<'_>> {
        let (turn, header) = self.found[at].as_ref()?;
        let index = self.trained[at];
        let place = self.places[index].as_ref()?;
        Some(Surroundings {
            before: self.finder.whole.get(place.before..turn.start)?,
            behind: self.finder.whole.get(place.end..turn.end)?,
            next: self.up_to_next(index),
            header: header.clone(),
        })
    }

    /// Returns the text between the texts of a message and of the next one, if that is seen.
    fn up_to_next(&self, index: usize) -> Option<&str> {
        let end = self.places[index].as_ref()?.end;
        let next = self.places.get(index + 1)?.as_ref().filter(|next| next.message_before == Some(index))?;
        let content = self.finder.values.conversation.messages[index + 1]["content"].as_str()?.trim();
        let both = self.finder.whole.get(end..next.end)?;
        both.rfind(content).map(|at| &both[..at])
    }

    /// Returns a turn with the surroundings of another one.
    fn by_surroundings(&self, at: usize, of: &Surroundings) -> Option<Found> {
        let index = self.trained[at];
        let place = self.places[index].as_ref()?;
        let whole = self.finder.whole;
        let has = whole[place.before..].starts_with(of.before)
            && whole[place.end..].starts_with(of.behind)
            && may_be_equal(of.next, self.up_to_next(index));
        let turn = place.before + of.before.len()..place.end + of.behind.len();
        (has && turn.start <= place.end).then(|| (turn, of.header.clone()))
    }
}

/// The texts around a message's own text.
struct Surroundings<'a> {
    /// From the text before the turn to the turn.
    before: &'a str,
    /// From the message's own text to the end of the turn.
    behind: &'a str,
    /// From the message's own text to that of the next message.
    next: Option<&'a str>,
    header: Option<String>,
}

impl Surroundings<'_> {
    fn are_like(&self, other: &Surroundings) -> bool {
        (self.before, self.behind, &self.header) == (other.before, other.behind, &other.header)
            && may_be_equal(self.next, other.next)
    }
}

/// Returns false if two texts are known and differ.
fn may_be_equal(a: Option<&str>, b: Option<&str>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// Adds what may change how a template renders a message: its role, its fields, and the look of
/// their texts.
fn add_shape(template: &ChatTemplate, message: &Value, shape: &mut String) {
    for (key, value) in message.as_object().into_iter().flatten() {
        *shape += &format!("{key:?}");
        match value {
            Value::Bool(_) | Value::Null => *shape += &value.to_string(),
            _ if ["role", "type"].contains(&&key[..]) => *shape += &value.to_string(),
            _ => add_look(template, value, shape),
        }
    }
    shape.push(';');
}

/// Adds the look of the texts of a value.
fn add_look(template: &ChatTemplate, value: &Value, look: &mut String) {
    match value {
        Value::String(text) => {
            let visible = text.trim_end();
            let looks = [
                (visible.is_empty(), 'e'),
                (text.starts_with(char::is_whitespace), 'w'),
                (text.contains("<|") || text.contains("</"), 'm'),
                (text.contains("think>"), 't'),
                (template.ends_special(visible), 's'),
            ];
            look.extend(looks.iter().filter(|(is, _)| *is).map(|(_, letter)| letter));
            look.push_str(&text[visible.len()..]);
        }
        Value::Array(items) => {
            look.push(if items.is_empty() { '0' } else { '[' });
            items.iter().for_each(|item| add_look(template, item, look));
        }
        Value::Object(fields) => {
            look.push(if fields.is_empty() { '0' } else { '{' });
            fields.values().for_each(|field| add_look(template, field, look));
        }
        _ => look.push('n'),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Map, json};

    use super::*;
    use crate::data::chat::values::Values;
    use crate::data::chat::{Conversation, spans};
    use crate::data::tokenizer::SpecialTokens;
    use crate::data::warning::Warnings;

    /// Questions and answers, some of them with reasoning.
    fn talk(count: usize) -> Conversation {
        let message = |index: usize| {
            let role = ["user", "assistant"][index % 2];
            let reasoning = if index % 6 == 5 { "<think>\nwhy\n</think>\n\n" } else { "" };
            json!({"role": role, "content": format!("{reasoning}text {index}")})
        };
        Conversation::new((0..count).map(message).collect(), 0, Map::new())
    }

    /// The templates of `tests/data/chat`, without tags.
    fn templates() -> Vec<(String, ChatTemplate)> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat");
        let special = SpecialTokens::read(&data.join("byte_level")).unwrap();
        let files = fs::read_dir(data.join("templates")).unwrap().map(|file| file.unwrap().path());
        let open = |file: std::path::PathBuf| {
            let mut source = fs::read_to_string(&file).unwrap();
            for tag in ["{%- generation %}", "{%- endgeneration %}"] {
                source = source.replace(tag, "");
            }
            (file.display().to_string(), ChatTemplate::new(&source, special.clone(), Some(0)).unwrap())
        };
        files.map(open).collect()
    }

    #[test]
    fn turns_found_by_likeness_are_those_of_a_search() {
        let conversation = talk(90);
        for (name, template) in templates() {
            let values = Values::new(&template, &conversation);
            let whole = values.text(90, false).unwrap();
            let finder = Finder { values: &values, whole: &whole };
            let trained: Vec<usize> = (1..90).step_by(2).collect();
            let found = found(&finder, &trained);
            assert!(found.iter().all(Option::is_some), "{name}");
            for (found, index) in found.into_iter().flatten().zip(trained) {
                let turn = finder.turn(index).unwrap();
                let header = finder.header_of(index, turn.start);
                assert_eq!(found, (turn, header), "{name}, message {index}");
            }
        }
    }

    #[test]
    fn the_number_of_renderings_does_not_grow_with_the_number_of_turns() {
        for (name, template) in templates() {
            let renderings = |count: usize| {
                let conversation = talk(count);
                let values = Values::new(&template, &conversation);
                let turns = spans::render(&values, &mut Warnings::default()).unwrap();
                assert_eq!(turns.ranges.len(), count / 2);
                values.rendered().div_ceil(count)
            };
            let few = renderings(120);
            assert!(few < 40, "{name}: {few}");
            assert!(renderings(480) <= few, "{name}");
        }
    }

    /// A turn whose text differs from that of its kind is searched for.
    #[test]
    fn turns_that_are_unlike_others_are_found() {
        let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }};{{ '!' if loop.index0 == 41 }}\
                      {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        let template = ChatTemplate::new(source, SpecialTokens::default(), None).unwrap();
        let conversation = talk(90);
        let values = Values::new(&template, &conversation);
        let turns = spans::render(&values, &mut Warnings::default()).unwrap();
        assert_eq!(turns.ranges.len(), 45);
        for (turn, message) in &turns.ranges {
            let content = conversation.messages[message.unwrap()]["content"].as_str().unwrap();
            let end = if *message == Some(41) { ";!" } else { ";" };
            assert_eq!(turns.text[turn.clone()], format!("{content}{end}"));
        }
    }

    #[test]
    fn the_search_for_turns_that_differ_too_much_ends() {
        let source = "{% for m in messages %}{{ m.content | length }}{{ m.content }};{% endfor %}";
        let template = ChatTemplate::new(source, SpecialTokens::default(), None).unwrap();
        let conversation = talk(90);
        let found = |rendered: usize| {
            let values = Values::new(&template, &conversation);
            values.count_rendered(rendered);
            spans::render(&values, &mut Warnings::default()).map(|turns| turns.ranges.len())
        };
        assert_eq!(found(0).unwrap(), 45);
        assert!(found(1 << 23).unwrap_err().message().contains("message 1: "));
    }
}
