//! Rows of messages: conversations, prompts with completions, and instructions.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::Row;
use super::content::{content, joined};
use super::fields::{Entry, Fields, bad, integer, is_empty, is_hollow, shown, spelled};
use super::formats::{
    COMPLETION, CONTENT, DOCUMENTS, FUNCTION_CALL, FUNCTIONS, Field, HISTORY, INSTRUCTION, KWARGS, MASKED,
    OBSERVATION, PROMPT, REASONING, ROLE, ROLES, SPANS, SYSTEM, TEXT, TOOL_CALLS, TOOLS, TRAINED,
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
    let asked = turns.messages.iter().find(|message| message["role"] == "user");
    fields.repeated(&PROMPT, |prompt| asked.is_some_and(|asked| joined(&asked["content"]) == prompt));
    turns.within_row(fields, list.name)
}

/// Reads `prompt` and `completion`, both texts or both messages.
pub fn pair(fields: &mut Fields) -> Result<Vec<Row>> {
    let (prompt, completion) = (fields.needed(&PROMPT)?, fields.needed(&COMPLETION)?);
    if prompt.value.is_string() {
        let (prompt, completion) = (prompt.text()?.to_owned(), completion.text()?.to_owned());
        fields.count_untrained(completion.is_empty(), "`completion` is empty");
        return Ok(vec![Row::Pair(prompt, completion)]);
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
    let output = fields.needed(output)?;
    let answer = output.text()?;
    for (index, pair) in fields.get(&HISTORY)?.map_or(Ok(&[][..]), Entry::list)?.iter().enumerate() {
        Entry { name: "history", value: pair }.without_surrogates()?;
        let text = |value| Entry { name: "history", value }.text().ok();
        let texts = match pair.as_array().map(Vec::as_slice) {
            Some([asked, answered]) => text(asked).zip(text(answered)),
            _ => None,
        };
        let Some((asked, answered)) = texts else {
            return Err(bad(format!("`history`[{index}] is {}; it must be a pair of strings", shown(pair))));
        };
        turns.say("user", asked.to_owned());
        turns.say("assistant", answered.to_owned());
    }
    turns.begin_with_system(fields)?;
    let plain = turns.messages.is_empty().then(|| (alpaca(asked, input), answer.to_owned()));
    let question: Vec<&str> = [asked, input].into_iter().filter(|text| !text.is_empty()).collect();
    turns.say("user", question.join("\n\n"));
    turns.say("assistant", answer.to_owned());
    fields.repeated(&TEXT, |text| text.contains(asked) && text.contains(answer));
    fields.count_untrained(plain.is_some() && answer.is_empty(), format_args!("`{}` is empty", output.name));
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
    let mut given = |name: &str, value: Option<Value>| match (variables.get(name), value) {
        (_, None) => Ok(()),
        (Some(before), Some(value)) if !is_empty(before) && !is_empty(&value) && *before != value => {
            Err(bad(format!("`{name}` is given twice, with different values; give it once")))
        }
        (Some(before), Some(value)) if !is_empty(before) && is_empty(&value) => Ok(()),
        (_, Some(value)) => {
            variables.insert(name.to_owned(), value);
            Ok(())
        }
    };
    if let Some(listed) = fields.get(&TOOLS)? {
        given("tools", tools::tools(listed, fields.warnings)?)?;
    }
    if let Some(functions) = fields.get(&FUNCTIONS)? {
        let found = tools::functions(functions, fields.warnings)?;
        given("tools", found).map_err(|error| error.within("`functions`"))?;
    }
    if let Some(documents) = fields.get(&DOCUMENTS)? {
        given("documents", tools::documents(documents)?)?;
    }
    if let Some(kwargs) = fields.get(&KWARGS)? {
        kwargs.without_surrogates()?;
        let more = kwargs.value.as_object().ok_or_else(|| kwargs.not_json("an object"))?;
        if let Some(key) = ["messages", "add_generation_prompt"].iter().find(|key| more.contains_key(**key)) {
            return Err(bad(format!(
                "`chat_template_kwargs` has `{key}`, which cannot be set there; remove it"
            )));
        }
        for (name, value) in more {
            let value = match &name[..] {
                "tools" => tools::tools(Entry { name: "tools", value }, fields.warnings),
                "documents" => tools::documents(Entry { name: "documents", value }),
                _ => Ok(Some(value.clone())),
            };
            value
                .and_then(|value| given(name, value))
                .map_err(|error| error.within("`chat_template_kwargs`"))?;
        }
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
            // Some datasets have `masked: false` in every message.
            Some((name, true)) if !trainable && !MASKED.names.contains(&name) => {
                warnings.add(Warning::UntrainedRole, format_args!("role {}", shown(&message["role"])));
            }
            Some((name, false)) if trainable => self.excluded = Some(name),
            _ => {}
        }
        self.trained.push(trainable && mark.is_none_or(|(_, trained)| trained));
        self.messages.push(Value::Object(message));
        Ok(())
    }

    /// Inserts the field `system` as the first message, unless a system message says the same. Of
    /// equal system messages at the beginning one is kept.
    fn begin_with_system(&mut self, fields: &mut Fields) -> Result<()> {
        let prompt = |message: &Value| joined(&message["content"]).trim().to_owned();
        let is_system = |message: &Value| message["role"] == "system";
        let leading = self.messages.iter().take_while(|message| is_system(message)).count();
        let mut prompts = HashSet::new();
        let mut system = self.messages.drain(..leading).collect::<Vec<Value>>();
        system.retain(|message| prompts.insert(prompt(message)));
        self.trained.drain(..leading - system.len());
        let mut several = system.len() > 1;
        self.messages.splice(..0, system);
        if let Some(system) = fields.get(&SYSTEM)? {
            let message = json!({"role": "system", "content": content(system, fields.warnings)?});
            let text = prompt(&message);
            let mut others = self.messages.iter().filter(|message| is_system(message)).map(prompt).peekable();
            let is_new = !text.is_empty() && others.clone().all(|other| other != text);
            several |= is_new && others.peek().is_some();
            if is_new {
                self.messages.insert(0, message);
                self.trained.insert(0, false);
            }
        }
        if several {
            fields.warnings.add(Warning::TwoSystemPrompts, "");
        }
        Ok(())
    }

    /// Completes the row. `list` is the field with the turns trained on.
    fn within_row(mut self, fields: &mut Fields, list: &str) -> Result<Vec<Row>> {
        self.begin_with_system(fields)?;
        if !self.trained.contains(&true) {
            let Some(excluded) = self.excluded else {
                return Err(bad(format!(
                    "`{list}` has no message with role assistant to train on; {}",
                    self.roles()
                )));
            };
            fields.count_untrained(true, format_args!("`{excluded}` excludes every message"));
        }
        Ok(vec![Row::Chat(self.conversation(variables(fields)?))])
    }

    /// Names the roles, for an error.
    fn roles(&self) -> String {
        let mut seen = HashSet::new();
        let roles = self.messages.iter().map(|message| shown(&message["role"]));
        let roles: Vec<String> = roles.filter(|role| seen.insert(role.clone())).collect();
        if roles.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("its roles are {}", roles.join(", "))
        }
    }

    fn conversation(self, variables: Map<String, Value>) -> Conversation {
        Conversation { messages: self.messages, trained: self.trained, variables }
    }
}

/// Returns a message with `role` and `content` for the template. Null members are absent ones. The
/// content is null if it is absent and there are tool calls.
fn message(given: &Map<String, Value>, warnings: &mut Warnings) -> Result<Map<String, Value>> {
    let (role, calls_as_text) = role(given)?;
    let (mut calls, reasoning) = (calls(given, warnings)?, spelled(given, REASONING.names)?);
    let has_calls = calls.as_ref().is_some_and(|calls| !is_empty(calls));
    let mut text = match spelled(given, CONTENT.names)? {
        Some(entry) => content(entry, warnings)?,
        None if has_calls => Value::Null,
        None if reasoning.is_none() && CONTENT.names.iter().all(|name| !given.contains_key(*name)) => {
            return Err(bad("`content` is missing; it must be a string or a list of text parts"));
        }
        None => "".into(),
    };
    if calls_as_text && !has_calls {
        calls = calls_in(&joined(&text), warnings)?;
        text = if calls.is_some() { "".into() } else { text };
    }
    // As transformers does it, so that a template that prints a whole message prints the same.
    let reasoning = reasoning.map(|entry| entry.text().map(Value::from)).transpose()?;
    let mut message = Map::with_capacity(given.len() + 2);
    message.extend(reasoning.clone().map(|reasoning| ("thinking".to_owned(), reasoning)));
    for (key, value) in given {
        let is = |field: &Field| field.names.contains(&&key[..]);
        if is(&CONTENT) {
            message.entry("content").or_insert_with(|| text.take());
        } else if value.is_null() || [&TRAINED, &MASKED, &SPANS].into_iter().any(is) {
        } else if is(&ROLE) {
            message.insert("role".to_owned(), role.into());
        } else if is(&TOOL_CALLS) || is(&FUNCTION_CALL) {
            message.extend(calls.clone().map(|calls| ("tool_calls".to_owned(), calls)));
        } else if is(&REASONING) {
            message.extend(reasoning.clone().map(|reasoning| (key.clone(), reasoning)));
        } else {
            message.insert(key.clone(), value.clone());
        }
    }
    message.entry("content").or_insert(text);
    if let Some(calls) = calls {
        message.entry("tool_calls").or_insert(calls);
    }
    message.extend(reasoning.map(|reasoning| ("reasoning_content".to_owned(), reasoning)));
    Ok(message)
}

/// Returns the role, and true if the text of the message is a call.
fn role(given: &Map<String, Value>) -> Result<(&str, bool)> {
    let mut found: Option<(Entry, &str)> = None;
    for name in ROLE.names {
        let Some(value) = given.get(*name).filter(|value| !value.is_null() && *value != "") else { continue };
        let entry = Entry { name, value };
        let role = speaker(entry)?;
        match found {
            Some((other, before)) if before != role => return Err(other.differs(entry)),
            _ => found = Some((entry, role)),
        }
    }
    let missing = || bad("`role` is missing; a message has `role` and `content`, or `from` and `value`");
    let (entry, role) = found.ok_or_else(missing)?;
    Ok((role, entry.value == "function_call"))
}

/// Returns the role for a name of a speaker, or, of the field `role`, the role as it is.
fn speaker(entry: Entry<'_>) -> Result<&str> {
    let name = entry.text()?;
    let is_name = |alias: &&str| alias.eq_ignore_ascii_case(name);
    match ROLES.iter().find(|(_, names)| names.iter().any(is_name)) {
        Some((role, _)) => Ok(role),
        None if entry.name == "role" => Ok(name),
        None if is_name(&OBSERVATION) => Ok("tool"),
        None => {
            let names: Vec<&str> = ROLES.iter().flat_map(|(_, names)| *names).copied().collect();
            Err(entry.not(&format!("one of {}, {OBSERVATION}", names.join(", "))))
        }
    }
}

/// Returns the tool calls of a message.
fn calls(given: &Map<String, Value>, warnings: &mut Warnings) -> Result<Option<Value>> {
    let mut entry = |field: &Field, read: fn(Entry, &mut Warnings) -> Result<Option<Value>>| {
        let name = field.names[0];
        let value = given.get(name).filter(|value| !is_hollow(value));
        value.map_or(Ok(None), |value| read(Entry { name, value }, warnings))
    };
    let calls = entry(&TOOL_CALLS, tools::calls)?;
    let older = entry(&FUNCTION_CALL, tools::function_call)?;
    match (calls, older) {
        (calls, None) => Ok(calls),
        (Some(calls), Some(older)) if !is_empty(&calls) => {
            let functions = |calls: &Value| -> Vec<Value> {
                calls.as_array().into_iter().flatten().map(|call| call["function"].clone()).collect()
            };
            match functions(&calls) == functions(&older) {
                true => Ok(Some(calls)),
                false => Err(bad("`tool_calls` and `function_call` are different calls; give `tool_calls`")),
            }
        }
        (_, older) => Ok(older),
    }
}

/// Returns the tool calls in the text of ShareGPT's `function_call`.
fn calls_in(text: &str, warnings: &mut Warnings) -> Result<Option<Value>> {
    let calls = tools::calls_in_text(text, warnings)?;
    if calls.is_none() && !text.is_empty() {
        warnings.add(Warning::ToolArguments, shown(&text.into()));
    }
    Ok(calls)
}

/// Returns the field that says whether a turn is trained on, and its answer.
fn mark(given: &Map<String, Value>) -> Result<Option<(&'static str, bool)>> {
    let is_mark =
        |key: &String| [&TRAINED, &MASKED, &SPANS].iter().any(|field| field.names.contains(&&key[..]));
    if !given.keys().any(is_mark) {
        return Ok(None);
    }
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

/// Reads a value that is on or off; a text is read as the value that it writes.
fn switch(entry: Entry) -> Result<bool> {
    let written = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        number => number.parse::<f64>().ok().map(Value::from),
    };
    let written = entry.value.as_str().and_then(written);
    match written.as_ref().unwrap_or(entry.value) {
        Value::Bool(on) => Ok(*on),
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
