//! Parses a line of a JSONL file. [`formats`] has the table of row formats and fields.

mod content;
mod fields;
pub mod formats;
mod messages;
mod tokens;
mod tools;

use serde_json::{Map, Value};

use crate::base::json;
use crate::base::{Error, Result};
use crate::data::chat::Conversation;
use crate::data::warning::Warnings;
pub(in crate::data) use fields::is_empty;
use fields::{Fields, bad, decoded, readable};
use formats::{FORMATS, Field, Format, Kind, QUESTIONS, TEXT};

/// A parsed line, not yet tokenized.
///
#[doc = include_str!("../formats.md")]
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A document supervised throughout.
    Text(String),
    /// Prompt, and the completion, which is supervised.
    Pair(String, String),
    /// Messages for the chat template.
    Chat(Conversation),
    /// An instruction as messages for the chat template and, for a model without a template, as
    /// Alpaca's prompt and the output; `None` if it has a `system` message or a `history`, for
    /// which that prompt has no place.
    Instruction(Conversation, Option<(String, String)>),
    /// Token ids and loss mask.
    Tokens(Vec<i32>, Vec<bool>),
}

impl Row {
    /// Parses a line: one row, or several if its tokens are several documents. Errors name the field
    /// and its value.
    pub fn parse(line: &[u8], warnings: &mut Warnings) -> Result<Vec<Row>> {
        Row::of(&json::object(line)?, warnings)
    }

    /// Parses an object.
    pub fn of(object: &Map<String, Value>, warnings: &mut Warnings) -> Result<Vec<Row>> {
        let object = &*decoded(object);
        let format = format(object).ok_or_else(|| unknown(object))?;
        let mut fields = Fields::new(object, format, warnings);
        let rows = (format.read)(&mut fields)?;
        fields.report_unread();
        Ok(rows)
    }
}

/// Returns the first format whose fields are present and not empty, else whose fields are present.
fn format(object: &Map<String, Value>) -> Option<&'static Format> {
    let has = |field: &Field, is: &dyn Fn(&Value) -> bool| {
        field.names.iter().any(|name| object.get(*name).is_some_and(|value| !value.is_null() && is(value)))
    };
    let present = |format: &&Format| format.needs.iter().all(|field| has(field, &|_| true));
    let filled = |format: &&Format| {
        let lists = format.needs.iter().filter(|field| field.kind == Kind::Json);
        present(format)
            && lists.clone().all(|field| has(field, &|value| value.is_array() && !is_empty(value)))
            && format.needs.iter().any(|field| has(field, &|value| !is_empty(value)))
    };
    FORMATS.iter().find(filled).or_else(|| FORMATS.iter().find(present))
}

fn text(fields: &mut Fields) -> Result<Vec<Row>> {
    let text = fields.needed(&TEXT)?.text()?.to_owned();
    fields.count_untrained(text.is_empty(), "`text` is empty");
    Ok(vec![Row::Text(text)])
}

/// Returns the error for a row without a format, with the change that gives it one.
fn unknown(object: &Map<String, Value>) -> Error {
    let has = |field: &str| object.get(field).is_some_and(|value| !value.is_null());
    if has("chosen") && has("rejected") {
        return bad(
            "`chosen` and `rejected` are a preference pair, which cannot be trained on; to train on the better answer \
             alone, rename `chosen` to `messages`, or, with a `prompt`, to `completion`",
        );
    }
    if let Some((asked, answer)) = QUESTIONS.iter().find(|(asked, answer)| has(asked) && has(answer)) {
        return bad(format!(
            "`{asked}` and `{answer}` may be a chat or plain text; rename them to `instruction` and `output` for a \
             chat, or to `prompt` and `completion` for plain text"
        ));
    }
    let found = object.iter().take(12).map(|(name, value)| {
        let null = if value.is_null() { ", which is null" } else { "" };
        format!("`{}`{null}", readable(name))
    });
    let found: Vec<String> = found.collect();
    bad(format!(
        "no field to train on: there must be `messages`, `conversations`, `prompt` and `completion`, `instruction` and \
         `output`, `tokens`, `input_ids`, or `text`; found {}",
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    ))
}

#[cfg(test)]
mod tests;
