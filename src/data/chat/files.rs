//! The files with chat templates: those of a model folder, and one that the user gives.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::time::now;
use crate::base::{Error, Result, Status, json};
use crate::data::tokenizer::{CONFIG_BYTES_MAX, SpecialTokens, read_json};
use crate::host::input;

const FIELD: &str = "chat_template";
/// Name of the template for rows with tools.
const TOOL_USE: &str = "tool_use";

/// The contents of the files from which a chat template is opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sources {
    pub templates: Templates,
    pub(super) special: SpecialTokens,
    /// The time that the template prints, in seconds since 1970.
    pub time: i64,
}

impl Sources {
    /// Reads the templates of a folder; `None` if it has none.
    pub fn of_folder(folder: &Path, time: Option<i64>) -> Result<Option<Sources>> {
        let Some(templates) = Templates::find(folder)? else { return Ok(None) };
        Sources::new(templates, Some(folder), time).map(Some)
    }

    /// Reads a template file, or JSON with a field `chat_template`, and the special tokens of a
    /// folder.
    pub fn of_file(file: &Path, folder: Option<&Path>, time: Option<i64>) -> Result<Sources> {
        let default = (file.display().to_string(), source_in(file, input::read_stream)?);
        Sources::new(Templates { default, tool_use: None }, folder, time)
    }

    fn new(templates: Templates, folder: Option<&Path>, time: Option<i64>) -> Result<Sources> {
        let special = folder.map(SpecialTokens::read).transpose()?.unwrap_or_default();
        Ok(Sources { templates, special, time: time.map_or_else(now, Ok)? })
    }
}

/// The templates of a model folder, each with its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Templates {
    pub default: (String, String),
    /// For rows with tools.
    pub tool_use: Option<(String, String)>,
}

impl Templates {
    /// Finds the templates as transformers does: `chat_template.jinja` with
    /// `additional_chat_templates/tool_use.jinja`, else `chat_template` of `tokenizer_config.json`,
    /// a text or a list of named templates. `None` if the folder has none.
    fn find(folder: &Path) -> Result<Option<Templates>> {
        let file = |name: &str| -> Result<Option<(String, String)>> {
            let path = folder.join(name);
            let text = input::read_if_there(&path, CONFIG_BYTES_MAX)?;
            text.map(|text| Ok((path.display().to_string(), text_of(&path, text)?))).transpose()
        };
        if let Some(default) = file("chat_template.jinja")? {
            let tool_use = file("additional_chat_templates/tool_use.jinja")?;
            return Ok(Some(Templates { default, tool_use }));
        }
        let path = folder.join("tokenizer_config.json");
        let Some(config) = read_json::<Map<String, Value>>(&path)? else { return Ok(None) };
        let field = config.get(FIELD).unwrap_or(&Value::Null);
        let place = |name: &str| format!("{}: {name}", path.display());
        match field {
            Value::String(source) => {
                let default = (place(FIELD), source.clone());
                Ok(Some(Templates { default, tool_use: None }))
            }
            Value::Array(_) => {
                let default = named(field, "default").ok_or_else(|| {
                    let message = format!(
                        "{}: `chat_template` is a list without a template named default; choose one \
                         (--chat-template FILE)",
                        path.display()
                    );
                    Error::new(Status::BadFormat, message)
                })?;
                let tool_use = named(field, TOOL_USE).map(|source| (place(TOOL_USE), source));
                Ok(Some(Templates { default: (place(FIELD), default), tool_use }))
            }
            _ => Ok(None),
        }
    }
}

/// Returns a template of a list by its name.
fn named(list: &Value, name: &str) -> Option<String> {
    let one = list.as_array()?.iter().find(|one| one["name"] == name)?;
    one["template"].as_str().map(str::to_owned)
}

/// Reads the source of a template from a file: all of it or, if it is JSON as
/// `tokenizer_config.json`, the field `chat_template`. Errors start with the path.
pub fn source_of(file: &Path) -> Result<String> {
    source_in(file, input::read_whole)
}

fn source_in(file: &Path, read: fn(&Path, u64) -> Result<Vec<u8>>) -> Result<String> {
    let bad = |message: &str| Error::new(Status::BadFormat, format!("{}: {message}", file.display()));
    if file.is_dir() {
        return Err(bad("it is a folder; give the file with the template, e.g. chat_template.jinja"));
    }
    let text = text_of(file, read(file, CONFIG_BYTES_MAX)?)?;
    json::check_size(text.as_bytes()).map_err(|error| error.within(file.display()))?;
    let Ok(Value::Object(fields)) = serde_json::from_str(&text) else { return Ok(text) };
    match &fields.get(FIELD) {
        Some(Value::String(source)) => Ok(source.clone()),
        Some(list @ Value::Array(all)) if all.len() == 1 => {
            named(list, "default").ok_or_else(|| bad("its `chat_template` has no template named default"))
        }
        Some(Value::Array(_)) => {
            Err(bad("its `chat_template` is a list of several templates; write one of them to a file"))
        }
        _ => Err(bad("it is JSON without a field `chat_template`; give a file with a Jinja template")),
    }
}

fn text_of(file: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("{}: byte {} is not UTF-8; save the file as UTF-8", file.display(), at + 1);
        Error::new(Status::BadFormat, message)
    })
}
