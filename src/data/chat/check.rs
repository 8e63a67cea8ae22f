//! Compares what a template rendered with the messages. A template may trim whitespace; all else
//! that is missing is a warning. If a text does not show it, another rendering does: of the
//! conversation without the part in doubt.

use serde_json::{Map, Value};

use super::spans::Turns;
use super::template::{MARK, TURN_BEGINS, TURN_ENDS};
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
/// Shorter texts are found by chance.
const SHORT: usize = 6;

/// Adds a warning for everything that is missing in the text.
pub fn check(template: &ChatTemplate, conversation: &Conversation, turns: &Turns, warnings: &mut Warnings) {
    let Conversation { messages, variables, .. } = conversation;
    let check = Check { template, conversation, turns };
    for (index, message) in messages.iter().enumerate() {
        check_fields(template, message, warnings);
        if conversation.trains(index) {
            if index > 0 && conversation.trains(index - 1) {
                warnings.add(Warning::AdjacentTurns, format_args!("message {index}"));
            }
            if let Some(turn) = turns.text_of(index) {
                check.calls(index, &turn, warnings);
                check_turn(template, message, &turn, warnings);
            }
        } else {
            check.context(index, warnings);
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
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    turns: &'a Turns,
}

impl Check<'_> {
    /// Renders a changed conversation; `None` if the template refuses it.
    fn rendered(&self, messages: &[Value], variables: &Map<String, Value>) -> Option<String> {
        let text = self.template.text(messages, false, variables).ok()?;
        Some(text.replace([TURN_BEGINS, TURN_ENDS], ""))
    }

    /// Checks that a turn shows its tool calls.
    fn calls(&self, index: usize, turn: &str, warnings: &mut Warnings) {
        let Conversation { messages, variables, .. } = self.conversation;
        let calls = messages[index]["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        let is_shown = |name: &str| {
            let count = calls.iter().filter(|call| tool_name(call) == Some(name)).count();
            name.len() >= SHORT
                && turn.matches(name).count() == count
                && !contents(&messages[index]).any(|content| content.contains(name))
        };
        let ignored = (0..calls.len()).find(|&at| {
            !tool_name(&calls[at]).is_some_and(is_shown) && {
                let others: Vec<Value> = calls
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != at)
                    .map(|(_, call)| call.clone())
                    .collect();
                let mut messages = messages.clone();
                match &mut messages[index] {
                    Value::Object(message) if others.is_empty() => drop(message.remove("tool_calls")),
                    message => message["tool_calls"] = others.into(),
                }
                self.rendered(&messages, variables).is_some_and(|text| text == self.turns.text)
            }
        });
        if let Some(at) = ignored {
            warnings.add(Warning::ToolCallsIgnored, tool_example(&calls[at]));
        }
    }

    /// Checks that the text has the content of a message that is not trained on.
    fn context(&self, index: usize, warnings: &mut Warnings) {
        let Conversation { messages, variables, .. } = self.conversation;
        let text = &self.turns.text;
        let missing = contents(&messages[index]).map(str::trim).find(|content| {
            !text.contains(content) && !fragment(content).is_some_and(|part| text.contains(part))
        });
        let Some(content) = missing else { return };
        let mut marked = messages.clone();
        marked[index]["content"] = MARK.to_string().into();
        if self.rendered(&marked, variables).is_some_and(|text| !text.contains(MARK)) {
            let role = messages[index]["role"].as_str().unwrap_or_default();
            warnings.add(Warning::MessageIgnored(role.to_owned()), beginning(content));
        }
    }

    /// Checks that the text shows the tools.
    fn tools(&self, warnings: &mut Warnings) {
        let Conversation { messages, variables, .. } = self.conversation;
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
            let mut variables = variables.clone();
            variables.remove("tools");
            self.rendered(messages, &variables).is_some_and(|text| text == self.turns.text)
        };
        if unnamed || !self.template.reads.names("tools") || (!tools.iter().any(is_shown) && is_ignored()) {
            warnings.add(Warning::ToolsIgnored, tool_example(first));
        }
    }
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
