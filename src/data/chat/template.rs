//! The Jinja template of a model folder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use minijinja::{Environment, Error as JinjaError, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};

use super::source::{Source, rewrite};
use super::{Conversation, Rendered, check, python, spans, time};
use crate::base::{Error, Result, Status};
use crate::data::tokenizer::{SpecialTokens, read, read_json};
use crate::data::warning::Warnings;

/// Begin and end of a turn tagged by the template: Unicode noncharacters, "for internal use".
pub(super) const TURN_BEGINS: char = '\u{fdd0}';
pub(super) const TURN_ENDS: char = '\u{fdd1}';
/// Replaces a turn's text while the turn is searched for.
pub(super) const MARK: char = '\u{fdd2}';

const NAME: &str = "chat_template";

/// A chat template, rendered with the Jinja settings of transformers.
///
/// `strftime_now` formats the time at which the template was opened, in UTC. Set
/// `SOURCE_DATE_EPOCH` to make the text independent of the day.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    /// Texts of the tokens that end a turn.
    ends: Vec<String>,
    source: String,
    /// True if the template has `{% generation %}` tags.
    has_tags: bool,
}

impl ChatTemplate {
    /// Opens the template of a folder: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json` (if that is a list, the one named `default`). `None` if the folder
    /// has none.
    pub fn of_folder(folder: &Path, time: Option<i64>) -> Result<Option<ChatTemplate>> {
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            return ChatTemplate::open(&file, Some(folder), time).map(Some);
        }
        let path = folder.join("tokenizer_config.json");
        let Some(config) = read_json::<Value>(&path)? else { return Ok(None) };
        let source = match &config["chat_template"] {
            Value::String(source) => source,
            Value::Array(named) => {
                let default = named.iter().find(|one| one["name"] == "default").map(|one| &one["template"]);
                default.and_then(Value::as_str).ok_or_else(|| {
                    let message = format!(
                        "{}: `chat_template` is a list without a template named default; choose one \
                         (--chat-template FILE)",
                        path.display()
                    );
                    Error::new(Status::BadFormat, message)
                })?
            }
            _ => return Ok(None),
        };
        let template = ChatTemplate::new(source, SpecialTokens::read(folder)?, time);
        template.map(Some).map_err(|error| error.within(format!("{}: chat_template", path.display())))
    }

    /// Opens a template file. Special tokens come from `folder`; without a folder there are none.
    pub fn open(file: &Path, folder: Option<&Path>, time: Option<i64>) -> Result<ChatTemplate> {
        let bytes = read(file)?;
        let source = String::from_utf8_lossy(&bytes);
        let special = folder.map(SpecialTokens::read).transpose()?.unwrap_or_default();
        ChatTemplate::new(&source, special, time).map_err(|error| error.within(file.display()))
    }

    pub(super) fn new(source: &str, special: SpecialTokens, time: Option<i64>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        python::configure(&mut environment);
        environment.add_filter("generation", |turn: String| format!("{TURN_BEGINS}{turn}{TURN_ENDS}"));
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        let now = time::at(time)?;
        environment.add_function("strftime_now", move |format: String| time::format(now, &format));
        // Jinja reads every kind of line ending as `\n`.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let Source { text, has_tags } = rewrite(&source)
            .map_err(|message| Error::new(Status::BadFormat, format!("chat template: {message}")))?;
        environment.add_template_owned(NAME, text).map_err(jinja)?;
        let ends = end_tokens(&special);
        Ok(ChatTemplate { environment, special, ends, source, has_tags })
    }

    /// Renders a conversation and finds the assistant's turns.
    ///
    /// Warnings: a trained turn is not as its message says, or the template does not read what the
    /// conversation has. Errors: `BadFormat` if the template refuses the conversation or an
    /// assistant's turn cannot be found.
    pub fn render(&self, conversation: &Conversation, warnings: &mut Warnings) -> Result<Rendered> {
        let turns = spans::render(self, conversation, self.has_tags)?;
        check::check(self, conversation, &turns, warnings);
        let ranges = turns.ranges.into_iter().map(|(range, _)| range).collect();
        Ok(Rendered { text: turns.text, turns: ranges })
    }

    /// Renders messages with the generation prompt.
    pub fn prompt(&self, messages: &[Value]) -> Result<String> {
        let text = self.text(messages, true, &Map::new())?;
        Ok(text.replace([TURN_BEGINS, TURN_ENDS], ""))
    }

    /// Returns true if the template names a variable or a field.
    pub(super) fn names(&self, word: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.source.match_indices(word).any(|(at, _)| {
            !self.source[..at].ends_with(is_part) && !self.source[at + word.len()..].starts_with(is_part)
        })
    }

    /// Returns a turn without the token that ends it, and true if it had one.
    pub(super) fn without_end<'a>(&self, turn: &'a str) -> (&'a str, bool) {
        let inside = self.ends.iter().find_map(|end| turn.strip_suffix(&end[..]));
        (inside.unwrap_or(turn), inside.is_some())
    }

    /// Returns the length of the token that ends a turn at the beginning of a text, or 0.
    pub(super) fn end_before(&self, text: &str) -> usize {
        self.ends.iter().find(|end| text.starts_with(&end[..])).map_or(0, String::len)
    }

    /// Returns true if a text ends with a special token.
    pub(super) fn ends_special(&self, text: &str) -> bool {
        self.special.0.iter().any(|token| text.ends_with(&token.text))
    }

    /// Renders messages; the result still contains the marks of tagged turns.
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
        let given = variables.iter().map(|(key, value)| pair(key, python::value(value)));
        let context: Jinja = [pair("tools", Jinja::from(())), pair("documents", Jinja::from(()))]
            .into_iter()
            .chain(special)
            .chain(given)
            .chain([
                pair("messages", messages.iter().map(python::value).collect()),
                pair("add_generation_prompt", Jinja::from(add_generation_prompt)),
            ])
            .collect();
        let render = || self.environment.get_template(NAME).and_then(|template| template.render(context));
        // Templates are untrusted input; a panic of the engine must not end the process.
        catch_unwind(AssertUnwindSafe(render)).unwrap_or_else(|_| Err(engine_failed())).map_err(jinja)
    }
}

/// Returns the EOS token, and the special tokens that neither begin something nor stand within a
/// turn.
fn end_tokens(special: &SpecialTokens) -> Vec<String> {
    const WITHIN: [&str; 7] = ["start", "begin", "bos", "header", "think", "tool", "unk"];
    let named = |name: &str| special.0.iter().find(|token| token.name.as_deref() == Some(name));
    let eos = named("eos_token").map(|token| &token.text);
    let others = ["bos_token", "unk_token", "mask_token", "sep_token", "cls_token"];
    let other = |text: &String| others.iter().filter_map(|name| named(name)).any(|token| token.text == *text);
    let texts = special.0.iter().map(|token| &token.text);
    let ends = texts.filter(|text| {
        let lower = text.to_lowercase();
        !other(text) && !WITHIN.iter().any(|word| lower.contains(word))
    });
    eos.into_iter().chain(ends).cloned().collect()
}

fn engine_failed() -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, "the template engine failed")
}

fn jinja(error: JinjaError) -> Error {
    let line = error.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::new(Status::BadFormat, format!("chat template: {message}{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found_where_transformers_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let prompt = || {
            let template = ChatTemplate::of_folder(dir.path(), None).unwrap();
            template.map(|template| template.prompt(&[]).unwrap())
        };
        assert_eq!(prompt(), None);
        put("tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
        assert_eq!(prompt(), None);
        put("tokenizer_config.json", r#"{"eos_token": "</s>", "chat_template": "one {{ eos_token }}"}"#);
        assert_eq!(prompt().unwrap(), "one </s>");
        let several = r#"{"chat_template": [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]}"#;
        put("tokenizer_config.json", several);
        assert_eq!(prompt().unwrap(), "a");
        put("chat_template.jinja", "file");
        assert_eq!(prompt().unwrap(), "file");
        put("chat_template.jinja", "{% if %}");
        let error = ChatTemplate::of_folder(dir.path(), None).unwrap_err();
        assert!(error.message().contains("chat_template.jinja"), "{error}");
    }

    #[test]
    fn windows_line_endings_are_read() {
        let template =
            ChatTemplate::new("{% if true %}\r\na\r\nb{% endif %}\r\n", SpecialTokens::default(), None);
        assert_eq!(template.unwrap().prompt(&[]).unwrap(), "a\nb");
    }

    /// minijinja's own slices with a negative step panic on empty values, so they are replaced.
    #[test]
    fn lists_and_texts_are_reversed_even_when_empty() {
        let source = "{% for m in messages[1:][::-1] %}{{ m.content[::-1] }}.{% endfor %}{{ ''[::-1] }}";
        let template = ChatTemplate::new(source, SpecialTokens::default(), None).unwrap();
        let rendered = |contents: &[&str]| {
            let messages: Vec<_> = contents.iter().map(|text| serde_json::json!({"content": text})).collect();
            template.prompt(&messages).unwrap()
        };
        assert_eq!(rendered(&[]), "");
        assert_eq!(rendered(&["ab"]), "");
        assert_eq!(rendered(&["ab", "cd", "", "éf"]), "fé..dc.");
    }

    #[test]
    fn an_exception_of_a_template_is_reported() {
        let source = "\n{{ raise_exception('roles must alternate') }}";
        let template = ChatTemplate::new(source, SpecialTokens::default(), None).unwrap();
        let error = template.prompt(&[]).unwrap_err();
        assert!(error.message().contains("roles must alternate (line 2"), "{error}");
    }
}
