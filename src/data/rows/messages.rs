//! Rows of messages: conversations, prompts with completions, and instructions.

use std::slice::from_ref;

use serde_json::{Map, Value, json};

use super::Row;
use super::fields::{Entry, Fields, bad, integer, shown, spelled};
use super::formats::{
    COMPLETION, CONTENT, DOCUMENTS, FUNCTION_CALL, FUNCTIONS, Field, HISTORY, INSTRUCTION, KWARGS, MASKED,
    PROMPT, REASONING, ROLE, SPANS, SYSTEM, TOOL_CALLS, TOOLS, TRAINED,
};
use super::tools;
use crate::base::Result;
use crate::data::chat::Conversation;
use crate::data::warning::{Warning, Warnings};

/// Reads a row that is a list of messages.
pub fn chat(fields: &mut Fields, list: &Field) -> Result<Vec<Row>> {
    let list = fields.needed(list)?;
    let mut turns = Turns::default();
    turns.extend(list, true, fields.warnings)?;
    turns.within_row(fields, list.name)
}

/// Reads `prompt` and `completion`, both texts or both messages.
pub fn pair(fields: &mut Fields) -> Result<Vec<Row>> {
    let (prompt, completion) = (fields.needed(&PROMPT)?, fields.needed(&COMPLETION)?);
    if prompt.value.is_string() {
        return Ok(vec![Row::Pair(prompt.text()?.to_owned(), completion.text()?.to_owned())]);
    }
    let mut turns = Turns::default();
    turns.extend(prompt, false, fields.warnings)?;
    turns.extend(completion, true, fields.warnings)?;
    turns.within_row(fields, completion.name)
}

/// Reads an instruction with a text that extends it and the answer.
pub fn instruction(fields: &mut Fields, input: &Field, output: &Field) -> Result<Vec<Row>> {
    let mut turns = Turns::default();
    let asked = fields.needed(&INSTRUCTION)?.text()?;
    let input = fields.get(input)?.map_or(Ok(""), Entry::text)?;
    let output = fields.needed(output)?.text()?;
    for (index, pair) in fields.get(&HISTORY)?.map_or(Ok(&[][..]), Entry::list)?.iter().enumerate() {
        let Some([asked, answered]) = pair.as_array().map(Vec::as_slice) else {
            return Err(bad(format!("`history`[{index}] is {}; it must be a pair of strings", shown(pair))));
        };
        let text = |value| Entry { name: "history", value }.text();
        turns.say("user", text(asked)?.to_owned());
        turns.say("assistant", text(answered)?.to_owned());
    }
    turns.begin_with_system(fields)?;
    let plain = turns.messages.is_empty().then(|| (alpaca(asked, input), output.to_owned()));
    turns.say("user", if input.is_empty() { asked.to_owned() } else { format!("{asked}\n\n{input}") });
    turns.say("assistant", output.to_owned());
    Ok(vec![Row::Instruction(turns.conversation(Map::new()), plain)])
}

/// The prompt of Stanford's Alpaca (`train.py` of tatsu-lab/stanford_alpaca), for models trained
/// with it.
fn alpaca(instruction: &str, input: &str) -> String {
    let (paired, input) = match input {
        "" => ("", String::new()),
        _ => (", paired with an input that provides further context", format!("### Input:\n{input}\n\n")),
    };
    format!(
        "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the \
         request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:"
    )
}

/// Returns the variables of the template.
fn variables(fields: &mut Fields) -> Result<Map<String, Value>> {
    let mut variables = Map::new();
    let (listed, functions) = (fields.get(&TOOLS)?, fields.get(&FUNCTIONS)?);
    let tools = match (listed, functions) {
        (Some(_), Some(_)) => {
            return Err(bad("both `tools` and `functions` are present; give `tools`"));
        }
        (Some(listed), None) => tools::tools(listed, fields.warnings)?,
        (None, Some(functions)) => tools::functions(functions, fields.warnings)?,
        (None, None) => None,
    };
    variables.extend(tools.map(|tools| ("tools".to_owned(), tools)));
    if let Some(documents) = fields.get(&DOCUMENTS)? {
        variables.extend(tools::documents(documents)?.map(|documents| ("documents".to_owned(), documents)));
    }
    if let Some(kwargs) = fields.get(&KWARGS)? {
        kwargs.without_surrogates()?;
        let more = kwargs.value.as_object().ok_or_else(|| kwargs.not("an object"))?;
        if let Some(key) = ["messages", "add_generation_prompt"].iter().find(|key| more.contains_key(**key)) {
            return Err(bad(format!(
                "`chat_template_kwargs` has `{key}`, which cannot be set there; remove it"
            )));
        }
        variables.extend(more.clone());
    }
    Ok(variables)
}

/// Messages, and which of them are trained on.
#[derive(Default)]
struct Turns {
    messages: Vec<Value>,
    trained: Vec<bool>,
    /// The field that excludes an assistant's turn.
    excluded: Option<&'static str>,
}

impl Turns {
    fn say(&mut self, role: &str, content: String) {
        self.messages.push(json!({"role": role, "content": content}));
        self.trained.push(role == "assistant");
    }

    /// Appends the messages of a field. `trainable`: the assistant's turns are trained on.
    fn extend(&mut self, list: Entry, trainable: bool, warnings: &mut Warnings) -> Result<()> {
        for (index, message) in list.list()?.iter().enumerate() {
            let read = self.push(message, trainable, warnings);
            read.map_err(|error| error.within(format!("`{}`[{index}]", list.name)))?;
        }
        Ok(())
    }

    fn push(&mut self, value: &Value, trainable: bool, warnings: &mut Warnings) -> Result<()> {
        let Value::Object(given) = value else {
            return Err(bad(format!("{} is not a JSON object", shown(value))));
        };
        let mark = mark(given)?;
        let message = message(given, warnings)?;
        let trainable = trainable && message["role"] == "assistant";
        match mark {
            Some((_, true)) if !trainable => {
                warnings.add(Warning::UntrainedRole, format_args!("role {}", shown(&message["role"])));
            }
            Some((name, false)) if trainable => self.excluded = Some(name),
            _ => {}
        }
        self.trained.push(trainable && mark.is_none_or(|(_, trained)| trained));
        self.messages.push(Value::Object(message));
        Ok(())
    }

    /// Inserts the field `system` as the first message, unless the messages begin with it.
    fn begin_with_system(&mut self, fields: &mut Fields) -> Result<()> {
        let text = fields.get(&SYSTEM)?.map_or(Ok(""), Entry::text)?;
        let first = self.messages.first().filter(|message| message["role"] == "system");
        if text.is_empty() || first.is_some_and(|first| first["content"] == text) {
            return Ok(());
        }
        if first.is_some() {
            fields.warnings.add(Warning::TwoSystemPrompts, "");
        }
        self.messages.insert(0, json!({"role": "system", "content": text}));
        self.trained.insert(0, false);
        Ok(())
    }

    /// Completes the row. `list` is the field with the turns trained on.
    fn within_row(mut self, fields: &mut Fields, list: &str) -> Result<Vec<Row>> {
        self.begin_with_system(fields)?;
        if !self.trained.contains(&true) {
            return Err(bad(match self.excluded {
                None => format!("`{list}` has no message with role assistant to train on"),
                Some(name) => format!(
                    "`{name}` excludes every message of `{list}` with role assistant, so nothing would be trained on; \
                     remove the row"
                ),
            }));
        }
        Ok(vec![Row::Chat(self.conversation(variables(fields)?))])
    }

    fn conversation(self, variables: Map<String, Value>) -> Conversation {
        Conversation { messages: self.messages, trained: self.trained, variables }
    }
}

/// Returns a message with `role` and `content` for the template. Null members are absent ones.
fn message(given: &Map<String, Value>, warnings: &mut Warnings) -> Result<Map<String, Value>> {
    let present = |name: &str| given.get(name).is_some_and(|value| !value.is_null());
    let name_of = |field: &Field| field.names.iter().copied().find(|name| present(name));
    let Some(role) = name_of(&ROLE) else {
        return Err(bad("`role` is missing; a message has `role` and `content`, or `from` and `value`"));
    };
    let null = || CONTENT.names.iter().copied().find(|name| given.contains_key(*name));
    let content = name_of(&CONTENT).or_else(null);
    if content.is_none()
        && [&TOOL_CALLS, &FUNCTION_CALL, &REASONING].into_iter().all(|field| name_of(field).is_none())
    {
        return Err(bad("`content` is missing; it must be a string or a list of text parts"));
    }
    let mut message = Map::new();
    for (key, value) in given {
        match &key[..] {
            key if Some(key) == content => {
                let text = text_of(Entry { name: content.unwrap_or_default(), value }, warnings)?;
                message.insert("content".to_owned(), text.into());
            }
            _ if value.is_null() => {}
            key if key == role => {
                message.insert("role".to_owned(), speaker(Entry { name: role, value })?.into());
            }
            "tool_calls" => {
                let calls = tools::calls(Entry { name: "tool_calls", value }, warnings)?;
                message.extend(calls.map(|calls| ("tool_calls".to_owned(), calls)));
            }
            "function_call" => {
                let calls = tools::function_call(Entry { name: "function_call", value }, warnings)?;
                message.insert("tool_calls".to_owned(), calls);
            }
            key if [&REASONING, &TRAINED, &MASKED, &SPANS].iter().any(|field| field.names.contains(&key)) => {
            }
            _ => {
                message.insert(key.clone(), value.clone());
            }
        }
    }
    if given[role] == "function_call" {
        turn_into_calls(&mut message, warnings)?;
    }
    if let Some(reasoning) = spelled(given, REASONING.names)? {
        let text = reasoning.text()?;
        let names = if text.is_empty() { from_ref(&reasoning.name) } else { REASONING.names };
        message.extend(names.iter().map(|name| ((*name).to_owned(), text.into())));
    }
    Ok(message)
}

/// Returns the role for a speaker of ShareGPT, or the role as it is.
fn speaker(entry: Entry<'_>) -> Result<&str> {
    match entry.text()? {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" | "model" | "chatgpt" | "bot" | "function_call" => Ok("assistant"),
        "tool" | "function" | "function_response" => Ok("tool"),
        "system" => Ok("system"),
        role if entry.name == "role" => Ok(role),
        "observation" => Ok("tool"),
        "developer" => Ok("developer"),
        other => Err(bad(format!(
            "`from` is {other:?}; it must be human, gpt, system, tool or one of their aliases (user, assistant, model, \
             chatgpt, bot, function_call, observation, function, function_response), or developer"
        ))),
    }
}

/// Returns the text of a message: a string, or the joined text parts.
fn text_of(entry: Entry, warnings: &mut Warnings) -> Result<String> {
    let Value::Array(parts) = entry.value else {
        return match entry.value {
            Value::Null => Ok(String::new()),
            Value::String(_) => entry.text().map(str::to_owned),
            _ => Err(entry.not("a string or a list of text parts")),
        };
    };
    let mut joined = String::new();
    for (index, part) in parts.iter().enumerate() {
        let text = text_of_part(part, entry.name, warnings);
        joined += text.map_err(|error| error.within(format!("`{}`[{index}]", entry.name)))?;
    }
    Ok(joined)
}

fn text_of_part<'a>(part: &'a Value, name: &'static str, warnings: &mut Warnings) -> Result<&'a str> {
    let Value::Object(members) = part else { return Entry { name, value: part }.text() };
    match members.get("type").unwrap_or(&Value::Null) {
        Value::Null => {}
        Value::String(kind) if ["text", "input_text", "output_text"].contains(&&kind[..]) => {}
        kind => {
            return Err(bad(format!(
                "a part of type {}; only parts of type text can be trained on",
                shown(kind)
            )));
        }
    }
    let value = members.get("text").unwrap_or(&Value::Null);
    for (key, value) in members {
        if !value.is_null() && !["type", "text"].contains(&&key[..]) {
            warnings.add(Warning::UnusedTurnField(format!("{name}[].{key}")), "");
        }
    }
    Entry { name: "text", value }.text()
}

/// Turns the JSON text of ShareGPT's `function_call` into tool calls.
fn turn_into_calls(message: &mut Map<String, Value>, warnings: &mut Warnings) -> Result<()> {
    let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
    match tools::calls_in_text(content, warnings)? {
        Some(calls) => {
            message.insert("content".to_owned(), "".into());
            message.insert("tool_calls".to_owned(), calls);
        }
        None if content.is_empty() => {}
        None => warnings.add(Warning::ToolArguments, shown(&content.into())),
    }
    Ok(())
}

/// Returns the field that says whether a turn is trained on, and its answer.
fn mark(given: &Map<String, Value>) -> Result<Option<(&'static str, bool)>> {
    let entries = |field: &Field| {
        field.names.iter().filter_map(|&name| {
            let value = given.get(name).filter(|value| !value.is_null())?;
            Some(Entry { name, value })
        })
    };
    if let Some(spans) = entries(&SPANS).find(|spans| *spans.value != json!([])) {
        return Err(bad(format!(
            "`{}` selects parts of a message, which is not supported; give `train`",
            spans.name
        )));
    }
    let mut found: Option<(Entry, bool)> = None;
    let marks =
        entries(&TRAINED).map(|entry| (entry, false)).chain(entries(&MASKED).map(|entry| (entry, true)));
    for (entry, inverted) in marks {
        let trained = switch(entry)? != inverted;
        match found {
            None => found = Some((entry, trained)),
            Some((other, before)) if before != trained => {
                return Err(bad(format!(
                    "`{}` is {}, but `{}` is {}; they contradict each other",
                    other.name,
                    shown(other.value),
                    entry.name,
                    shown(entry.value)
                )));
            }
            Some(_) => {}
        }
    }
    Ok(found.map(|(entry, trained)| (entry.name, trained)))
}

/// Reads a value that is on or off.
fn switch(entry: Entry) -> Result<bool> {
    match entry.value {
        Value::Bool(on) => Ok(*on),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        value => match integer(value) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ if value.is_number() => Err(entry.not("0 or 1: a turn is trained on or not, without a weight")),
            _ if value.is_array() => {
                Err(entry.not("0 or 1: a mask per token needs a row of `tokens` with `loss_mask`"))
            }
            _ => Err(entry.not("0 or 1, or false or true")),
        },
    }
}
