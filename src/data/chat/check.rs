//! Compares what a template rendered with the messages. A template may trim whitespace; all else
//! that is missing is a warning.

use serde_json::Value;

use super::spans::Turns;
use super::{ChatTemplate, Conversation};
use crate::data::warning::{Warning, Warnings};

/// Fields of a message that Horizon or most templates read.
const KNOWN: [&str; 8] =
    ["role", "content", "tool_calls", "tool_call_id", "name", "reasoning", "reasoning_content", "thinking"];
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
const REASONING_ENDS: &str = "</think>";
/// Characters of an example.
const EXCERPT: usize = 40;

/// Adds a warning for everything that is missing in the text.
pub fn check(template: &ChatTemplate, conversation: &Conversation, turns: &Turns, warnings: &mut Warnings) {
    let Conversation { messages, variables, .. } = conversation;
    for (index, message) in messages.iter().enumerate() {
        check_fields(template, message, warnings);
        if conversation.trains(index) {
            if index > 0 && conversation.trains(index - 1) {
                warnings.add(Warning::AdjacentTurns, format_args!("message {index}"));
            }
            if let Some(turn) = turns.text_of(index) {
                check_turn(template, message, &turn, warnings);
            }
        }
    }
    let tools = variables.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut names = tools.iter().filter_map(tool_name).peekable();
    if let Some(&first) = names.peek()
        && !names.any(|name| turns.text.contains(name))
    {
        warnings.add(Warning::ToolsIgnored, format_args!("`{first}`"));
    }
    for name in variables.keys().filter(|name| *name != "tools" && !template.names(name)) {
        let field = if name == "documents" { name.clone() } else { format!("chat_template_kwargs.{name}") };
        warnings.add(Warning::UnusedField(field), "");
    }
}

fn check_fields(template: &ChatTemplate, message: &Value, warnings: &mut Warnings) {
    let fields = message.as_object().into_iter().flatten();
    let unknown = fields.filter(|(key, value)| !KNOWN.contains(&&key[..]) && !value.is_null());
    for (key, value) in unknown.filter(|(key, _)| !template.names(key)) {
        warnings.add(Warning::UnusedTurnField(key.clone()), beginning(&value.to_string()));
    }
}

fn check_turn(template: &ChatTemplate, message: &Value, turn: &str, warnings: &mut Warnings) {
    let (inside, ended) = template.without_end(turn.trim_end());
    if inside.trim().is_empty() {
        warnings.add(Warning::EmptyTurn, beginning(&message.to_string()));
        return;
    }
    if !ended {
        warnings.add(Warning::NoEndToken, ending(turn));
    }
    let has = |part: &str| turn.contains(part.trim());
    let mut reasoning = REASONING.iter().find_map(|field| message[*field].as_str()).is_none_or(has);
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

/// The texts of a message's content.
fn contents(message: &Value) -> impl Iterator<Item = &str> {
    let content = &message["content"];
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(parts)
}

fn tool_name(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str().or(tool["name"].as_str())
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
