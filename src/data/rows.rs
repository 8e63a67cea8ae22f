//! Parses a line of a JSONL file.
//!
//! The first of these formats whose fields are present:
//!
//! | fields | supervised |
//! |---|---|
//! | `messages`: objects with `role` and `content` | the assistant's turns |
//! | `conversations`: objects with `from` and `value` (sharegpt), or as `messages` | the assistant's turns |
//! | `prompt`, `completion`: strings | the completion and the EOS token |
//! | `prompt`, `completion`: messages | the assistant's turns of the completion |
//! | `instruction`, `output`, optional `input` (alpaca) | the output |
//! | `tokens` (or `input_ids`), optional `labels` or `loss_mask` | every token, or those selected |
//! | `text` | all of it |
//!
//! With messages, `system` becomes the first message, and `tools`, `documents` and the members of
//! `chat_template_kwargs` are variables of the template. With `instruction`, `system` and `history`
//! (pairs of turns) are optional. `labels` follow Hugging Face datasets: one per token, the token
//! itself or −100 (not shifted). Other fields are ignored.

use serde_json::{Map, Value, json};

use crate::base::{Error, IGNORED_TARGET, Message, Result, Status};
use crate::data::chat::Conversation;
use crate::data::json;
use crate::data::warning::Warnings;

/// A parsed line, not yet tokenized.
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
        let _ = warnings;
        Row::read(object).map(|row| vec![row])
    }

    fn read(object: &Map<String, Value>) -> Result<Row> {
        let has = |field: &str| object.get(field).is_some_and(|value| !value.is_null());
        if has("messages") {
            return chat(object, "messages");
        }
        if has("conversations") {
            return chat(object, "conversations");
        }
        if has("prompt") && has("completion") {
            return pair(object);
        }
        if has("instruction") && has("output") {
            return instruction(object);
        }
        if let Some(field) = ["tokens", "input_ids"].into_iter().find(|field| has(field)) {
            return tokens(object, field);
        }
        if has("text") {
            return Ok(Row::Text(text(object, "text")?.to_owned()));
        }
        let found: Vec<&str> = object.keys().map(String::as_str).take(12).collect();
        Err(bad(format!(
            "no field to train on: there must be `messages`, `conversations`, `prompt` and `completion`, \
             `instruction` and `output`, `tokens`, or `text`; found {}",
            if found.is_empty() { "none".to_owned() } else { format!("`{}`", found.join("`, `")) }
        )))
    }
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

fn bad(message: impl Into<Message>) -> Error {
    Error::new(Status::BadFormat, message)
}

/// Returns the beginning of a value, for an error message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a str> {
    let value = object.get(field).unwrap_or(&Value::Null);
    value.as_str().ok_or_else(|| bad(format!("`{field}` is {}; it must be a string", shown(value))))
}

fn list<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a [Value]> {
    let value = object.get(field).unwrap_or(&Value::Null);
    match value.as_array() {
        Some(values) => Ok(values),
        None => Err(bad(format!("`{field}` is {}; it must be a list", shown(value)))),
    }
}

fn chat(object: &Map<String, Value>, field: &str) -> Result<Row> {
    let mut messages = system(object)?;
    for (index, message) in list(object, field)?.iter().enumerate() {
        messages.push(message_of(message).map_err(|error| error.within(format!("`{field}`[{index}]")))?);
    }
    if !messages.iter().any(|message| message["role"] == "assistant") {
        return Err(bad(format!("`{field}` has no message with role assistant to train on")));
    }
    Ok(Row::Chat(Conversation::new(messages, 0, variables(object)?)))
}

/// Returns the field `system`, if present and not empty, as the first message.
fn system(object: &Map<String, Value>) -> Result<Vec<Value>> {
    if object.get("system").is_none_or(|value| value.is_null() || value == "") {
        return Ok(Vec::new());
    }
    Ok(vec![json!({"role": "system", "content": text(object, "system")?})])
}

fn variables(object: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut variables = Map::new();
    for field in ["tools", "documents"] {
        match object.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::Array(values)) => {
                variables.insert(field.to_owned(), Value::Array(values.clone()));
            }
            // Some datasets store the list as a JSON string.
            Some(Value::String(json)) if json.trim().is_empty() => {}
            Some(Value::String(json)) => {
                let values: Vec<Value> = serde_json::from_str(json)
                    .map_err(|error| bad(format!("`{field}` is a string, but not a JSON list: {error}")))?;
                variables.insert(field.to_owned(), Value::Array(values));
            }
            Some(value) => return Err(bad(format!("`{field}` is {}; it must be a list", shown(value)))),
        }
    }
    match object.get("chat_template_kwargs") {
        None | Some(Value::Null) => {}
        Some(Value::Object(more)) => {
            if let Some(key) =
                ["messages", "add_generation_prompt"].iter().find(|key| more.contains_key(**key))
            {
                return Err(bad(format!(
                    "`chat_template_kwargs` has `{key}`, which cannot be set there; remove it"
                )));
            }
            variables.extend(more.clone());
        }
        Some(value) => {
            return Err(bad(format!("`chat_template_kwargs` is {}; it must be an object", shown(value))));
        }
    }
    Ok(variables)
}

/// Returns a message with `role` and `content`; converts `from` and `value` (sharegpt).
fn message_of(message: &Value) -> Result<Value> {
    let Value::Object(fields) = message else {
        return Err(bad(format!("{} is not a JSON object", shown(message))));
    };
    if fields.contains_key("from") && !fields.contains_key("role") {
        let role = match text(fields, "from")? {
            "human" | "user" => "user",
            "gpt" | "assistant" | "model" | "chatgpt" | "bot" | "function_call" => "assistant",
            "system" => "system",
            "tool" | "observation" | "function_response" => "tool",
            other => {
                return Err(bad(format!(
                    "`from` is {other:?}; it must be human, gpt, system, tool or one of their aliases (user, \
                     assistant, model, chatgpt, bot, function_call, observation, function_response)"
                )));
            }
        };
        return Ok(json!({"role": role, "content": text(fields, "value")?}));
    }
    text(fields, "role")?;
    match fields.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(message.clone()),
        None | Some(Value::Null) if fields.contains_key("tool_calls") => Ok(message.clone()),
        other => Err(bad(format!(
            "`content` is {}; it must be a string or a list",
            other.map_or("missing".to_owned(), shown)
        ))),
    }
}

fn pair(object: &Map<String, Value>) -> Result<Row> {
    if object["prompt"].is_string() {
        return Ok(Row::Pair(text(object, "prompt")?.to_owned(), text(object, "completion")?.to_owned()));
    }
    let mut messages = system(object)?;
    let mut supervised_from = 0;
    for field in ["prompt", "completion"] {
        supervised_from = messages.len();
        for (index, message) in list(object, field)?.iter().enumerate() {
            messages.push(message_of(message).map_err(|error| error.within(format!("`{field}`[{index}]")))?);
        }
    }
    if !messages[supervised_from..].iter().any(|message| message["role"] == "assistant") {
        return Err(bad("`completion` has no message with role assistant to train on"));
    }
    Ok(Row::Chat(Conversation::new(messages, supervised_from, variables(object)?)))
}

fn instruction(object: &Map<String, Value>) -> Result<Row> {
    let mut messages = system(object)?;
    if object.get("history").is_some_and(|history| !history.is_null()) {
        for (index, turns) in list(object, "history")?.iter().enumerate() {
            let texts: Option<Vec<&str>> =
                turns.as_array().map(|turns| turns.iter().filter_map(Value::as_str).collect());
            let Some([asked, answered]) = texts.as_deref() else {
                return Err(bad(format!(
                    "`history`[{index}] is {}; it must be a pair of strings",
                    shown(turns)
                )));
            };
            messages.push(json!({"role": "user", "content": asked}));
            messages.push(json!({"role": "assistant", "content": answered}));
        }
    }
    let asked = text(object, "instruction")?;
    let input = match object.get("input") {
        None | Some(Value::Null) => "",
        Some(_) => text(object, "input")?,
    };
    let output = text(object, "output")?;
    let plain = messages.is_empty().then(|| (alpaca(asked, input), output.to_owned()));
    let asked = if input.is_empty() { asked.to_owned() } else { format!("{asked}\n\n{input}") };
    messages.push(json!({"role": "user", "content": asked}));
    messages.push(json!({"role": "assistant", "content": output}));
    Ok(Row::Instruction(Conversation::new(messages, 0, Map::new()), plain))
}

fn tokens(object: &Map<String, Value>, field: &str) -> Result<Row> {
    let tokens = list(object, field)?
        .iter()
        .enumerate()
        .map(|(at, value)| {
            value
                .as_u64()
                .and_then(|id| i32::try_from(id).ok())
                .ok_or_else(|| bad(format!("`{field}`[{at}] is {}; it must be a token id", shown(value))))
        })
        .collect::<Result<Vec<i32>>>()?;
    let one_per_token = |name: &str| -> Result<Option<&[Value]>> {
        if object.get(name).is_none_or(Value::is_null) {
            return Ok(None);
        }
        let values = list(object, name)?;
        if values.len() != tokens.len() {
            return Err(bad(format!(
                "`{name}` has {} values, but `{field}` has {}; the counts must be equal",
                values.len(),
                tokens.len()
            )));
        }
        Ok(Some(values))
    };
    let supervised = match (one_per_token("labels")?, one_per_token("loss_mask")?) {
        (Some(_), Some(_)) => return Err(bad("both `labels` and `loss_mask` are present; give one of them")),
        (Some(labels), None) => labels
            .iter()
            .enumerate()
            .map(|(at, label)| match label.as_i64() {
                Some(label) if label == i64::from(IGNORED_TARGET) => Ok(false),
                Some(label) if label == i64::from(tokens[at]) => Ok(true),
                _ => Err(bad(format!(
                    "`labels`[{at}] is {}; it must be the token at that index, {}, or {IGNORED_TARGET}",
                    shown(label),
                    tokens[at]
                ))),
            })
            .collect::<Result<_>>()?,
        (None, Some(mask)) => mask
            .iter()
            .enumerate()
            .map(|(at, value)| match (value.as_bool(), value.as_u64()) {
                (Some(mask), _) => Ok(mask),
                (_, Some(0)) => Ok(false),
                (_, Some(1)) => Ok(true),
                _ => Err(bad(format!("`loss_mask`[{at}] is {}; it must be 0 or 1", shown(value)))),
            })
            .collect::<Result<_>>()?,
        (None, None) => vec![true; tokens.len()],
    };
    Ok(Row::Tokens(tokens, supervised))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str) -> Row {
        let mut rows = Row::parse(line.as_bytes(), &mut Warnings::default()).unwrap();
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    }

    fn chat_of(line: &str) -> Conversation {
        match row(line) {
            Row::Chat(conversation) | Row::Instruction(conversation, _) => conversation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn formats_are_recognized_by_their_fields() {
        assert_eq!(row(r#"{"text": "a", "meta": 1}"#), Row::Text("a".into()));
        assert_eq!(row(r#"{"prompt": "a", "completion": "b"}"#), Row::Pair("a".into(), "b".into()));
        assert_eq!(row(r#"{"tokens": [1, 2]}"#), Row::Tokens(vec![1, 2], vec![true, true]));
        let labels = r#"{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]}"#;
        assert_eq!(row(labels), Row::Tokens(vec![1, 2, 3], vec![false, true, true]));
        let mask = r#"{"tokens": [1, 2, 3], "loss_mask": [0, true, 1]}"#;
        assert_eq!(row(mask), Row::Tokens(vec![1, 2, 3], vec![false, true, true]));
        // A dataset may repeat the prompt of a conversation in a field of its own.
        let both = r#"{"prompt": "a", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        assert_eq!(chat_of(both).messages.len(), 2);
    }

    #[test]
    fn sharegpt_and_alpaca_become_messages() {
        let sharegpt = chat_of(
            r#"{"system": "be kind", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
                {"from": "observation", "value": "c"}, {"from": "gpt", "value": "d"}], "tools": "[{\"name\": \"f\"}]"}"#,
        );
        let roles: Vec<_> = sharegpt.messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
        assert_eq!(sharegpt.variables["tools"][0]["name"], "f");
        let Row::Instruction(conversation, Some((prompt, output))) =
            row(r#"{"instruction": "add", "input": "1 2", "output": "3"}"#)
        else {
            panic!("it is an instruction");
        };
        assert_eq!(conversation.messages[0]["content"], "add\n\n1 2");
        assert!(
            prompt.contains(", paired with") && prompt.ends_with("add\n\n### Input:\n1 2\n\n### Response:")
        );
        assert_eq!(output, "3");
        let history = r#"{"instruction": "c", "output": "d", "history": [["a", "b"]]}"#;
        assert!(matches!(row(history), Row::Instruction(_, None)));
        assert_eq!(chat_of(history).messages.len(), 4);
    }

    #[test]
    fn messages_of_a_prompt_are_not_supervised() {
        let pair = chat_of(
            r#"{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]}"#,
        );
        assert_eq!(pair.trained, [false, false, false, true]);
    }

    #[test]
    fn errors_name_the_field_and_its_value() {
        for (line, words) in [
            ("", &["not a JSON object", "EOF"][..]),
            ("[1]", &["not a JSON object"]),
            ("{}", &["no field to train on", "none"]),
            (r#"{"txt": "a"}"#, &["`txt`"]),
            (r#"{"text": 5}"#, &["`text` is 5", "a string"]),
            (r#"{"prompt": "a", "completion": 7}"#, &["`completion` is 7"]),
            (r#"{"prompt": 1, "completion": "b"}"#, &["`prompt` is 1"]),
            (r#"{"messages": "a"}"#, &["`messages` is \"a\"", "a list"]),
            (r#"{"messages": [{"role": "user", "content": "a"}]}"#, &["no message with role assistant"]),
            (r#"{"messages": [{"role": "user"}]}"#, &["`messages`[0]", "`content` is missing"]),
            (r#"{"messages": [{"content": "a"}]}"#, &["`messages`[0]", "`role` is null"]),
            (r#"{"messages": [3]}"#, &["`messages`[0]: 3 is not a JSON object"]),
            (r#"{"conversations": [{"from": "alien", "value": "a"}]}"#, &["`from` is \"alien\""]),
            (r#"{"tokens": [1, -2]}"#, &["`tokens`[1] is -2"]),
            (r#"{"tokens": [1, 4294967296]}"#, &["`tokens`[1] is 4294967296"]),
            (
                r#"{"tokens": [1], "labels": [2]}"#,
                &["`labels`[0] is 2", "the token at that index, 1, or -100"],
            ),
            (r#"{"tokens": [1, 2], "loss_mask": [1]}"#, &["`loss_mask` has 1 values", "`tokens` has 2"]),
            (r#"{"tokens": [1], "loss_mask": [2]}"#, &["`loss_mask`[0] is 2"]),
            (r#"{"tokens": [1], "loss_mask": [1], "labels": [1]}"#, &["both"]),
            (r#"{"instruction": "a", "output": "b", "history": [["a"]]}"#, &["`history`[0]"]),
            (r#"{"messages": [{"role": "assistant", "content": "a"}], "tools": {}}"#, &["`tools` is {}"]),
        ] {
            let error = Row::parse(line.as_bytes(), &mut Warnings::default()).unwrap_err();
            assert_eq!(error.status(), Status::BadFormat);
            for word in words {
                assert!(error.message().contains(word), "{line}: no {word:?} in {error}");
            }
        }
        let long = format!(r#"{{"text": [{}1]}}"#, "1, ".repeat(1000));
        assert!(Row::parse(long.as_bytes(), &mut Warnings::default()).unwrap_err().message().len() < 200);
    }
}
