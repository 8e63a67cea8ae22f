//! Compares what a template rendered with the messages. A template may trim whitespace; all else
//! that is missing is a warning. If a text does not show it, another rendering does: of the
//! conversation without the part in doubt.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::numbers::{mark, marks};
use super::spans::Turns;
use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
use super::values::Values;
use super::{ChatTemplate, Conversation};
use crate::base::json::{NUMBER, SURROGATE};
use crate::data::rows::formats::{REASONING, is_irrelevant};
use crate::data::rows::is_empty;
use crate::data::warning::{Warning, Warnings};

/// Fields of a message that Horizon or most templates read.
pub const KNOWN: [&str; 8] =
    ["role", "content", "tool_calls", "tool_call_id", "name", "reasoning", "reasoning_content", "thinking"];
const REASONING_ENDS: &str = "</think>";
/// Characters of an example.
const EXCERPT: usize = 40;
/// If more parts are in doubt, one rendering shows all of them.
const FEW: usize = 32;
/// Shorter texts are found by chance.
const SHORT: usize = 6;

/// Adds a warning for everything that is missing in the text.
pub fn check(values: &Values, turns: &Turns, warnings: &mut Warnings) {
    let Values { template, conversation, .. } = *values;
    let Conversation { messages, variables, .. } = conversation;
    let check = Check { values, turns };
    let texts = turns.texts(messages.len());
    let calls = texts.as_ref().map(|texts| check.ignored_calls(texts)).unwrap_or_default();
    let hidden = check.hidden_messages();
    for (index, message) in messages.iter().enumerate() {
        check_fields(template, message, warnings);
        if conversation.trains(index) {
            if index > 0 && conversation.trains(index - 1) {
                warnings.add(Warning::AdjacentTurns, format_args!("message {index}"));
            }
            if let Some(texts) = &texts {
                if let Some(at) = (0..calls_of(message).len()).find(|&at| calls.contains(&(index, at))) {
                    warnings.add(Warning::ToolCallsIgnored, tool_example(&calls_of(message)[at]));
                }
                check_turn(template, message, &texts[index], warnings);
            }
        } else if let Some(content) = hidden.get(&index) {
            let role = message["role"].as_str().unwrap_or_default();
            warnings.add(Warning::MessageIgnored(role.to_owned()), beginning(content));
        }
    }
    check.tools(warnings);
    for name in variables.keys().filter(|name| *name != "tools" && !template.reads.names(name)) {
        let field = if name == "documents" { name.clone() } else { format!("chat_template_kwargs.{name}") };
        warnings.add(Warning::UnusedField(field), "");
    }
}

fn check_fields(template: &ChatTemplate, message: &Value, warnings: &mut Warnings) {
    for (key, value) in message.as_object().into_iter().flatten() {
        if !template.reads_field(key) && !is_empty(value) && !is_irrelevant(key) {
            warnings.add(Warning::UnusedTurnField(key.clone()), beginning(&written(value)));
        }
    }
}

fn check_turn(template: &ChatTemplate, message: &Value, turn: &str, warnings: &mut Warnings) {
    let (inside, end) = template.without_end(turn.trim_end());
    if inside.trim().is_empty() {
        warnings.add(Warning::EmptyTurn, beginning(&written(message)));
        return;
    }
    match end {
        None => warnings.add(Warning::NoEndToken, ending(turn)),
        Some(end) => {
            let content = contents(message).last().unwrap_or_default().trim_end();
            if content.ends_with(end) && inside.trim_end().ends_with(end) {
                warnings.add(Warning::EndTwice, ending(turn));
            }
        }
    }
    let has = |part: &str| turn.contains(part.trim());
    let mut reasoning = REASONING.names.iter().find_map(|field| message[*field].as_str()).is_none_or(has);
    for content in contents(message).filter(|content| !has(content)) {
        // A template may write the reasoning within the content otherwise, or leave it out.
        let (thought, answer) = content.rsplit_once(REASONING_ENDS).unwrap_or(("", content));
        reasoning &= has(thought.trim_start().trim_start_matches("<think>"));
        if !has(answer) {
            warnings.add(Warning::ContentMissing, beginning(answer));
        }
    }
    if !reasoning {
        warnings.add(Warning::ReasoningIgnored, beginning(turn));
    }
}

struct Check<'a> {
    values: &'a Values<'a>,
    turns: &'a Turns,
}

impl Check<'_> {
    /// Renders the conversation with some messages replaced; `None` if the template refuses it.
    fn rendered(&self, replaced: impl IntoIterator<Item = (usize, Value)>) -> Option<String> {
        let text = self.values.text_with(self.messages().len(), false, replaced).ok()?;
        Some(text.replace([TURN_BEGINS, TURN_ENDS], ""))
    }

    fn messages(&self) -> &[Value] {
        &self.values.conversation.messages
    }

    /// Returns tool calls that the turns do not show, each as the message and its place there; of a
    /// message, the first of them at least.
    fn ignored_calls(&self, turns: &[Cow<str>]) -> HashSet<(usize, usize)> {
        let trained = (0..turns.len()).filter(|&index| self.values.conversation.trains(index));
        let mut doubtful: Vec<(usize, usize)> =
            trained.flat_map(|index| self.doubtful_calls(index, &turns[index])).collect();
        if doubtful.len() > FEW {
            if self.is_same_without(&doubtful) {
                return doubtful.into_iter().collect();
            }
            let shown = self.shown_calls(&doubtful);
            doubtful.retain(|call| !shown.contains(call));
        }
        let mut ignored = HashSet::new();
        let mut last = None;
        for (index, at) in doubtful {
            if last != Some(index) && !self.values.is_exhausted() && self.is_same_without(&[(index, at)]) {
                ignored.insert((index, at));
                last = Some(index);
            }
        }
        ignored
    }

    /// The calls of a message that the text of its turn does not surely show.
    fn doubtful_calls(&self, index: usize, turn: &str) -> Vec<(usize, usize)> {
        let message = &self.messages()[index];
        let calls = calls_of(message);
        let is_shown = |name: &str| {
            let count = calls.iter().filter(|call| tool_name(call) == Some(name)).count();
            name.len() >= SHORT
                && turn.matches(name).count() == count
                && !contents(message).any(|content| content.contains(name))
        };
        let doubtful = (0..calls.len()).filter(|&at| !tool_name(&calls[at]).is_some_and(is_shown));
        doubtful.map(|at| (index, at)).collect()
    }

    /// Returns true if the text is the same without some calls, which are in the order of messages.
    fn is_same_without(&self, removed: &[(usize, usize)]) -> bool {
        let without = removed.chunk_by(|(a, _), (b, _)| a == b).map(|of_message| {
            let index = of_message[0].0;
            let mut message = self.messages()[index].clone();
            let calls = calls_of(&message).iter().enumerate();
            let is_left = |at: usize| !of_message.contains(&(index, at));
            let left: Vec<Value> =
                calls.filter(|(at, _)| is_left(*at)).map(|(_, call)| call.clone()).collect();
            match &mut message {
                Value::Object(message) if left.is_empty() => drop(message.remove("tool_calls")),
                message => message["tool_calls"] = left.into(),
            }
            (index, message)
        });
        self.rendered(without).is_some_and(|text| text == self.turns.text)
    }

    /// Returns those of some calls, which are in the order of messages, whose names the template
    /// shows.
    fn shown_calls(&self, calls: &[(usize, usize)]) -> HashSet<(usize, usize)> {
        let mut number = 0..;
        let marked = calls.chunk_by(|(a, _), (b, _)| a == b).map(|of_message| {
            let index = of_message[0].0;
            let mut message = self.messages()[index].clone();
            for ((_, at), number) in of_message.iter().zip(&mut number) {
                let call = &mut message["tool_calls"][at];
                let named = if call["function"]["name"].is_string() { &mut call["function"] } else { call };
                if let Some(name) = named.get_mut("name") {
                    *name = mark(number).into();
                }
            }
            (index, message)
        });
        let shown = self.rendered(marked).and_then(|text| marks(&text)).unwrap_or_default();
        shown.into_iter().filter_map(|number| calls.get(number).copied()).collect()
    }

    /// Returns the messages that are not trained on and whose content the template does not show,
    /// each with its content.
    fn hidden_messages(&self) -> HashMap<usize, &str> {
        let mut text = Searched { text: &self.turns.text, next: 0 };
        let mut doubtful: Vec<(usize, &str)> = Vec::new();
        for (index, message) in self.messages().iter().enumerate() {
            if !self.values.conversation.trains(index) {
                let mut contents = contents(message).map(str::trim);
                let missing = contents.find(|content| {
                    !text.has(content) && !fragment(content).is_some_and(|part| text.has(part))
                });
                doubtful.extend(missing.map(|content| (index, content)));
            }
        }
        let with_content = |index: usize, content: String| {
            let mut message = self.messages()[index].clone();
            message["content"] = content.into();
            (index, message)
        };
        let of_all = (doubtful.len() > FEW).then(|| {
            let marked = doubtful.iter().map(|&(index, _)| with_content(index, mark(index)));
            marks(&self.rendered(marked)?)
        });
        let is_hidden = |index: usize| match of_all.as_ref().and_then(Option::as_ref) {
            Some(shown) => !shown.contains(&index),
            None => {
                let marked = [with_content(index, MARK.to_string())];
                !self.values.is_exhausted() && self.rendered(marked).is_some_and(|text| !text.contains(MARK))
            }
        };
        doubtful.into_iter().filter(|(index, _)| is_hidden(*index)).collect()
    }

    /// Checks that the text shows the tools.
    fn tools(&self, warnings: &mut Warnings) {
        let Values { template, conversation: Conversation { messages, variables, .. }, .. } = self.values;
        let Some(tools @ [first, ..]) = variables.get("tools").and_then(Value::as_array).map(Vec::as_slice)
        else {
            return;
        };
        let of_messages = |text: &str| messages.iter().any(|message| mentions(message, text));
        let is_shown = |tool: &Value| {
            let description = tool["function"]["description"].as_str().or(tool["description"].as_str());
            description
                .into_iter()
                .chain(tool_name(tool))
                .any(|part| part.len() >= SHORT && self.turns.text.contains(part) && !of_messages(part))
        };
        let mut names = tools.iter().filter_map(tool_name).peekable();
        let unnamed = names.peek().is_some() && !names.any(|name| self.turns.text.contains(name));
        let is_ignored = || {
            let text = self.values.text_without_tools();
            text.is_ok_and(|text| text.replace([TURN_BEGINS, TURN_ENDS], "") == self.turns.text)
        };
        if unnamed || !template.reads.names("tools") || (!tools.iter().any(is_shown) && is_ignored()) {
            warnings.add(Warning::ToolsIgnored, tool_example(first));
        }
    }
}

/// A text in which the contents of messages are searched for in order.
struct Searched<'a> {
    text: &'a str,
    /// The end of the part found last: the next one likely follows.
    next: usize,
}

impl Searched<'_> {
    fn has(&mut self, part: &str) -> bool {
        let behind = self.text[self.next..].find(part).map(|at| self.next + at);
        let found = behind.or_else(|| self.text.find(part));
        self.next = found.map_or(self.next, |at| at + part.len());
        found.is_some()
    }
}

/// The tool calls of a message.
fn calls_of(message: &Value) -> &[Value] {
    message["tool_calls"].as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a message's content.
fn contents(message: &Value) -> impl Iterator<Item = &str> {
    let content = &message["content"];
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(parts)
}

/// Returns the name of a tool or a tool call.
fn tool_name(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str().or(tool["name"].as_str())
}

/// A tool or a tool call as an example: its name, if it has one.
fn tool_example(tool: &Value) -> String {
    tool_name(tool).map_or_else(|| beginning(&written(tool)), |name| format!("`{name}`"))
}

/// Returns true if a value has a text in it.
fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text),
        Value::Array(values) => values.iter().any(|value| mentions(value, text)),
        Value::Object(fields) => fields.values().any(|value| mentions(value, text)),
        _ => false,
    }
}

/// Returns a part of a text that JSON and other notations leave as it is; `None` if it is short.
fn fragment(text: &str) -> Option<&str> {
    let parts = text.split(|c: char| !c.is_ascii() || c.is_ascii_control() || "\"\\'<>&".contains(c));
    parts.max_by_key(|part| part.len()).map(str::trim).filter(|part| part.len() >= SHORT)
}

/// Writes JSON for the user: the numbers and texts of `base::json` without marks.
fn written(value: &Value) -> String {
    let text = value.to_string().replace(SURROGATE, "\u{fffd}");
    let number = format!("\"{NUMBER}");
    let mut parts = text.split(&number);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + &part.replacen('"', "", 1))
}

/// The beginning of a text.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((cut, _)) => format!("{} …", one_line(&text[..cut])),
        None => one_line(text),
    }
}

/// The end of a text.
fn ending(text: &str) -> String {
    match text.char_indices().rev().nth(EXCERPT) {
        Some((cut, _)) => format!("… {}", one_line(&text[cut..])),
        None => one_line(text),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}
