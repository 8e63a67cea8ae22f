//! The Jinja template of a model folder.

use std::borrow::Cow;
use std::path::Path;

use minijinja::{Environment, Error as JinjaError, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};

use super::files::{Sources, Templates, source_of};
use super::jinja::{GENERATION, Source, rewrite};
use super::reads::Reads;
use super::values::Values;
use super::{Conversation, Rendered, check, jinja, spans, time};
use crate::base::{Error, Result, Status, caught};
use crate::data::tokenizer::SpecialTokens;
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
    /// The fields and variables that it reads.
    pub(super) reads: Reads,
    /// True if the template has `{% generation %}` tags.
    pub(super) has_tags: bool,
    /// The model's template for rows with tools.
    tool_use: Option<Box<ChatTemplate>>,
}

impl ChatTemplate {
    /// Opens the templates of a folder, where transformers finds them: `chat_template.jinja` with
    /// `additional_chat_templates/tool_use.jinja`, else `chat_template` of `tokenizer_config.json`
    /// (if that is a list: those named `default` and `tool_use`). Rows with tools are rendered by
    /// `tool_use`. `None` if the folder has none.
    pub fn of_folder(folder: &Path, time: Option<i64>) -> Result<Option<ChatTemplate>> {
        Sources::of_folder(folder, time)?.map(ChatTemplate::of).transpose()
    }

    /// Opens a template file, or JSON with a field `chat_template`. Special tokens come from
    /// `folder`; without a folder there are none.
    pub fn open(file: &Path, folder: Option<&Path>, time: Option<i64>) -> Result<ChatTemplate> {
        ChatTemplate::of(Sources::of_file(file, folder, time)?)
    }

    /// Opens templates from the contents of their files.
    pub(super) fn of(sources: Sources) -> Result<ChatTemplate> {
        let Sources { templates: Templates { default, tool_use }, special, time } = sources;
        let open = |(place, source): (String, String)| {
            ChatTemplate::new(&source, special.clone(), Some(time)).map_err(|error| error.within(place))
        };
        let tool_use = tool_use.map(open).transpose()?.map(Box::new);
        Ok(ChatTemplate { tool_use, ..open(default)? })
    }

    /// Returns the source of the template in a file that [`ChatTemplate::open`] reads.
    pub fn source_of(file: &Path) -> Result<String> {
        source_of(file)
    }

    pub(super) fn new(source: &str, special: SpecialTokens, time: Option<i64>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        jinja::configure(&mut environment);
        environment.add_filter(GENERATION, |turn: String| format!("{TURN_BEGINS}{turn}{TURN_ENDS}"));
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        let now = time::at(time)?;
        environment.add_function("strftime_now", move |format: String| time::format(now, &format));
        // Jinja reads every kind of line ending as `\n`.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let Source { text, has_tags } = rewrite(&source)
            .map_err(|message| Error::new(Status::BadFormat, format!("chat template: {message}")))?;
        environment.add_template_owned(NAME, text).map_err(refused)?;
        let ends = end_tokens(&special);
        Ok(ChatTemplate { environment, special, ends, reads: Reads::of(&source), has_tags, tool_use: None })
    }

    /// Renders a conversation and finds the assistant's turns.
    ///
    /// Warnings: a trained turn is not as its message says, or the template does not read what the
    /// conversation has. Errors: `BadFormat` if the template refuses the conversation or an
    /// assistant's turn cannot be found.
    pub fn render(&self, conversation: &Conversation, warnings: &mut Warnings) -> Result<Rendered> {
        let template = self.for_variables(&conversation.variables);
        let conversation = &*template.adapted(conversation);
        let values = Values::new(template, conversation);
        let turns = spans::render(&values, warnings)?;
        check::check(&values, &turns, warnings);
        Ok(Rendered { turns: turns.joined(), text: turns.text })
    }

    /// Renders messages with the generation prompt.
    pub fn prompt(&self, messages: &[Value]) -> Result<String> {
        let conversation = Conversation { messages: messages.to_vec(), ..Conversation::default() };
        let conversation = &*self.adapted(&conversation);
        let text = Values::new(self, conversation).text(messages.len(), true)?;
        Ok(text.replace([TURN_BEGINS, TURN_ENDS], ""))
    }

    /// Returns the template for a row: with tools, the model's template for tools.
    fn for_variables(&self, variables: &Map<String, Value>) -> &ChatTemplate {
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        self.tool_use.as_deref().filter(|_| has_tools).unwrap_or(self)
    }

    /// Returns a conversation as this template reads content.
    fn adapted<'a>(&self, conversation: &'a Conversation) -> Cow<'a, Conversation> {
        let mut conversation = Cow::Borrowed(conversation);
        for index in 0..conversation.messages.len() {
            if let Some(message) = self.other(&conversation.messages[index]) {
                conversation.to_mut().messages[index] = message;
            }
        }
        conversation
    }

    /// Returns a message with other content: text in place of null or of a list of parts, unless
    /// the template asks for them. `None`: the message is as it should be.
    fn other(&self, message: &Value) -> Option<Value> {
        let text = match &message["content"] {
            Value::Null if message.get("content").is_some() && !self.reads.null_content => String::new(),
            Value::Array(parts) if !self.reads.content_parts => parts
                .iter()
                .map(|part| part.as_str().or(part["text"].as_str()))
                .collect::<Option<String>>()?,
            _ => return None,
        };
        let mut message = message.clone();
        message["content"] = text.into();
        Some(message)
    }

    /// Returns a turn without the token that ends it, and that token if it has one.
    pub(super) fn without_end<'a>(&self, turn: &'a str) -> (&'a str, Option<&str>) {
        let found = self.ends.iter().find_map(|end| Some((turn.strip_suffix(&end[..])?, Some(&end[..]))));
        found.unwrap_or((turn, None))
    }

    /// Returns the length of the token that ends a turn at the beginning of a text, or 0.
    pub(super) fn end_before(&self, text: &str) -> usize {
        self.ends.iter().find(|end| text.starts_with(&end[..])).map_or(0, String::len)
    }

    /// Returns true if a text has a token that ends a turn.
    pub(super) fn has_end(&self, text: &str) -> bool {
        self.ends.iter().any(|end| text.contains(&end[..]))
    }

    /// Returns a text without the special token at its end; `None` if it has none.
    pub(super) fn without_special<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.special.0.iter().find_map(|token| text.strip_suffix(&token.text[..]))
    }

    /// Returns true if the template reads a field of messages. Nearly all read those that Horizon
    /// knows.
    pub(super) fn reads_field(&self, field: &str) -> bool {
        check::KNOWN.contains(&field) || self.reads.field(field)
    }

    /// Returns true if a text ends with a special token.
    pub(super) fn ends_special(&self, text: &str) -> bool {
        self.special.0.iter().any(|token| text.ends_with(&token.text))
    }

    /// The named special tokens, which are variables of the template.
    pub(super) fn special_values(&self) -> impl Iterator<Item = (&str, Jinja)> {
        let special = self.special.0.iter();
        special.filter_map(|token| Some((token.name.as_deref()?, Jinja::from(token.text.as_str()))))
    }

    /// Renders the template with all its variables.
    pub(super) fn text(&self, context: Jinja) -> Result<String> {
        let render = || self.environment.get_template(NAME).and_then(|template| template.render(context));
        // Templates are untrusted input; a panic of the engine must not end the process.
        caught(render).unwrap_or_else(|| Err(engine_failed())).map_err(refused)
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

fn refused(error: JinjaError) -> Error {
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
    fn names_that_only_minijinja_has_are_errors() {
        for source in [
            "{{ debug() }}",
            "{{ 'ab' | split }}",
            "{{ 'a' | lines }}",
            "{{ [1] | zip([2]) }}",
            "{{ [1] | chain([2]) }}",
            "{{ 1 | bool }}",
            "{{ 1 is int }}",
            "{{ 'a' is safe }}",
            "{{ 'a' is startingwith 'a' }}",
            "{{ ['a'] | select('endingwith', 'a') }}",
            "{{ 'a' | generation }}",
        ] {
            let opened = ChatTemplate::new(source, SpecialTokens::default(), None);
            let error = opened.and_then(|template| template.prompt(&[])).unwrap_err();
            assert!(error.message().contains("unknown"), "{source}: {error}");
        }
    }

    #[test]
    fn an_exception_of_a_template_is_reported() {
        let source = "\n{{ raise_exception('roles must alternate') }}";
        let template = ChatTemplate::new(source, SpecialTokens::default(), None).unwrap();
        let error = template.prompt(&[]).unwrap_err();
        assert!(error.message().contains("roles must alternate (line 2"), "{error}");
    }
}
