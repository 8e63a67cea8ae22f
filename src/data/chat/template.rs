//! The Jinja template of a model folder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use minijinja::{Environment, Error as JinjaError, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};

use super::{Conversation, Rendered, python, spans, time};
use crate::base::{Error, Result, Status};
use crate::data::tokenizer::{SpecialTokens, read, read_json};

/// Where a turn that the template marks itself begins and ends: noncharacters of Unicode, "for internal use".
pub(super) const TURN_BEGINS: char = '\u{fdd0}';
pub(super) const TURN_ENDS: char = '\u{fdd1}';
/// What stands for a turn's text.
pub(super) const MARK: char = '\u{fdd2}';

const NAME: &str = "chat_template";

/// A chat template, set up as transformers sets up Jinja.
///
/// `strftime_now` tells the time at which the template was opened, in UTC; `SOURCE_DATE_EPOCH` sets it, so that
/// a run on another day sees the same text.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    /// Whether it says itself what the assistant generates.
    marks_turns: bool,
}

impl ChatTemplate {
    /// The template of a folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (of several
    /// the one named `default`). `None` if it has none.
    pub fn of_folder(folder: &Path) -> Result<Option<ChatTemplate>> {
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            return ChatTemplate::open(&file, Some(folder)).map(Some);
        }
        let path = folder.join("tokenizer_config.json");
        let Some(config) = read_json::<Value>(&path)? else { return Ok(None) };
        let source = match &config["chat_template"] {
            Value::String(source) => source,
            Value::Array(named) => {
                let default = named.iter().find(|one| one["name"] == "default").map(|one| &one["template"]);
                default.and_then(Value::as_str).ok_or_else(|| {
                    let message = format!("{}: no chat_template is named default", path.display());
                    Error::new(Status::BadFormat, message)
                })?
            }
            _ => return Ok(None),
        };
        let template = ChatTemplate::new(source, SpecialTokens::read(folder)?);
        template.map(Some).map_err(|error| error.within(format!("{}: chat_template", path.display())))
    }

    /// A template in a file; special tokens are the folder's, where there is one.
    pub fn open(file: &Path, folder: Option<&Path>) -> Result<ChatTemplate> {
        let bytes = read(file)?;
        let source = String::from_utf8_lossy(&bytes);
        let special = folder.map(SpecialTokens::read).transpose()?.unwrap_or_default();
        ChatTemplate::new(&source, special).map_err(|error| error.within(file.display()))
    }

    pub(super) fn new(source: &str, special: SpecialTokens) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(python::method);
        environment.set_formatter(python::print);
        environment.add_filter("tojson", python::to_json);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_filter("generation", |turn: String| format!("{TURN_BEGINS}{turn}{TURN_ENDS}"));
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        let now = time::now()?;
        environment.add_function("strftime_now", move |format: String| time::format(now, &format));
        // Jinja reads every end of a line as one.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = source.replace("[::-1]", &format!(".{}()", python::REVERSED));
        let (source, marks_turns) = with_generation_as_filter(&source);
        environment.add_template_owned(NAME, source).map_err(jinja)?;
        Ok(ChatTemplate { environment, special, marks_turns })
    }

    /// The text of a conversation, and where in it the assistant speaks.
    ///
    /// Errors: `BadFormat` when the template refuses the conversation, or when a turn of the assistant cannot be found.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered> {
        spans::render(self, conversation, self.marks_turns)
    }

    /// The text that the assistant is to continue.
    pub fn prompt(&self, messages: &[Value]) -> Result<String> {
        let text = self.text(messages, true, &Map::new())?;
        Ok(text.replace([TURN_BEGINS, TURN_ENDS], ""))
    }

    /// Whether a text ends with a special token.
    pub(super) fn ends_special(&self, text: &str) -> bool {
        self.special.0.iter().any(|token| text.ends_with(&token.text))
    }

    /// What the template makes of messages; marks are in it.
    pub(super) fn text(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
        variables: &Map<String, Value>,
    ) -> Result<String> {
        let pair = |key: &str, value: Jinja| (key.to_owned(), value);
        let special = self.special.0.iter();
        let special =
            special.filter_map(|token| Some(pair(token.name.as_ref()?, Jinja::from(token.text.as_str()))));
        let given = variables.iter().map(|(key, value)| pair(key, Jinja::from_serialize(value)));
        let context: Jinja = [pair("tools", Jinja::from(())), pair("documents", Jinja::from(()))]
            .into_iter()
            .chain(special)
            .chain(given)
            .chain([
                pair("messages", Jinja::from_serialize(messages)),
                pair("add_generation_prompt", Jinja::from(add_generation_prompt)),
            ])
            .collect();
        let render = || self.environment.get_template(NAME).and_then(|template| template.render(context));
        // A template comes from anywhere, and the engine that runs it has bugs (see `python::method`).
        catch_unwind(AssertUnwindSafe(render)).unwrap_or_else(|_| Err(engine_failed())).map_err(jinja)
    }
}

fn engine_failed() -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, "it makes the template engine fail")
}

fn jinja(error: JinjaError) -> Error {
    let line = error.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::new(Status::BadFormat, format!("the chat template refuses it: {message}{line}"))
}

/// Writes the tags `generation` and `endgeneration`, which only transformers' Jinja knows, as a filter of that name.
/// Gives whether there was one.
fn with_generation_as_filter(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(at) = rest.find("{%") {
        let body = at + 2;
        out.push_str(&rest[..body]);
        rest = &rest[body..];
        let Some(end) = rest.find("%}") else { break };
        let tag = &rest[..end];
        let word = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let filter = match word {
            "generation" => "filter generation",
            "endgeneration" => "endfilter",
            _ => continue,
        };
        found = true;
        out.push_str(&tag.replacen(word, filter, 1));
        rest = &rest[end..];
    }
    out.push_str(rest);
    (out, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_becomes_a_filter_and_keeps_its_dashes() {
        let (source, found) = with_generation_as_filter(
            "{%- generation -%}x{% endgeneration +%}{% if a %}generation{% endif %}{%",
        );
        assert!(found);
        assert_eq!(source, "{%- filter generation -%}x{% endfilter +%}{% if a %}generation{% endif %}{%");
        assert!(!with_generation_as_filter("{% set generation = 1 %}").1);
    }

    #[test]
    fn templates_are_found_where_transformers_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let says = || {
            let template = ChatTemplate::of_folder(dir.path()).unwrap();
            template.map(|template| template.prompt(&[]).unwrap())
        };
        assert_eq!(says(), None);
        put("tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
        assert_eq!(says(), None);
        put("tokenizer_config.json", r#"{"eos_token": "</s>", "chat_template": "one {{ eos_token }}"}"#);
        assert_eq!(says().unwrap(), "one </s>");
        let several = r#"{"chat_template": [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]}"#;
        put("tokenizer_config.json", several);
        assert_eq!(says().unwrap(), "a");
        put("chat_template.jinja", "file");
        assert_eq!(says().unwrap(), "file");
        put("chat_template.jinja", "{% if %}");
        let error = ChatTemplate::of_folder(dir.path()).unwrap_err();
        assert!(error.message().contains("chat_template.jinja"), "{error}");
    }

    #[test]
    fn lines_may_end_as_on_windows() {
        let template = ChatTemplate::new("{% if true %}\r\na\r\nb{% endif %}\r\n", SpecialTokens::default());
        assert_eq!(template.unwrap().prompt(&[]).unwrap(), "a\nb");
    }

    /// The engine's own slices of a negative step panic on what is empty.
    #[test]
    fn lists_and_texts_are_reversed_even_when_empty() {
        let source = "{% for m in messages[1:][::-1] %}{{ m.content[::-1] }}.{% endfor %}{{ ''[::-1] }}";
        let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
        let said = |contents: &[&str]| {
            let messages: Vec<_> = contents.iter().map(|text| serde_json::json!({"content": text})).collect();
            template.prompt(&messages).unwrap()
        };
        assert_eq!(said(&[]), "");
        assert_eq!(said(&["ab"]), "");
        assert_eq!(said(&["ab", "cd", "", "éf"]), "fé..dc.");
        let template = ChatTemplate::new("{{ messages[ ::-1]|list }}", SpecialTokens::default()).unwrap();
        let error = template.prompt(&[]).unwrap_err();
        assert!(error.message().contains("makes the template engine fail"), "{error}");
    }

    #[test]
    fn what_a_template_raises_is_told() {
        let source = "\n{{ raise_exception('roles must alternate') }}";
        let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
        let error = template.prompt(&[]).unwrap_err();
        assert!(error.message().contains("roles must alternate (line 2"), "{error}");
    }
}
