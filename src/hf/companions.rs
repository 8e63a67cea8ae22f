//! Files of a model folder that an export or a checkpoint copies: tokenizer, chat template,
//! generation config.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::base::format::Size;
use crate::base::{Error, Result, Status, json};
use crate::hf::{CONFIG_BYTES_MAX, contents};
use crate::host::input;

/// Name of the file with the chat template. transformers 4 and 5 prefer it to `chat_template` of
/// `tokenizer_config.json`.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Name of the file with the options of generation.
pub const GENERATION: &str = "generation_config.json";

/// Largest vocabulary that is copied, and largest sum of all files; larger than any tokenizer.
const BYTES_MAX: u64 = 1 << 28;

/// Names of the copied files, with the most bytes that each may have.
const NAMES: [(&str, u64); 11] = [
    ("added_tokens.json", CONFIG_BYTES_MAX),
    (CHAT_TEMPLATE, CONFIG_BYTES_MAX),
    ("chat_template.json", CONFIG_BYTES_MAX),
    (GENERATION, CONFIG_BYTES_MAX),
    ("merges.txt", BYTES_MAX),
    ("special_tokens_map.json", CONFIG_BYTES_MAX),
    ("tokenizer.json", BYTES_MAX),
    ("tokenizer.model", BYTES_MAX),
    ("tokenizer_config.json", CONFIG_BYTES_MAX),
    ("vocab.json", BYTES_MAX),
    ("vocab.txt", BYTES_MAX),
];

/// Contents of these files, read when the folder is opened, so that later changes of the folder
/// have no effect.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Companions(Vec<(&'static str, Vec<u8>)>);

impl Companions {
    /// Reads the files that the folder has. Links are followed as [`check_link`] allows.
    ///
    /// Errors start with a path: a file is too large, is a link to another file, or cannot be read.
    pub fn read(folder: &Path) -> Result<Companions> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for (name, bytes_max) in NAMES {
            let path = folder.join(name);
            let Some(content) = input::read_if_there(&path, bytes_max)? else { continue };
            check_link(folder, name)?;
            contents::refuse_placeholder(&path, &content)?;
            bytes += content.len();
            if bytes as u64 > BYTES_MAX {
                let all = Size(BYTES_MAX as usize);
                let message =
                    format!("{}: the files of the tokenizer have more than {all}", folder.display());
                return Err(Error::new(Status::BadFormat, message));
            }
            files.push((name, content));
        }
        Ok(Companions(files))
    }

    /// Names and contents.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(name, content)| (*name, &content[..]))
    }

    /// Returns the contents of a file.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files().find(|(found, _)| *found == name).map(|(_, content)| content)
    }

    /// Parses a JSON file, which may begin with a byte order mark; `None` if it is missing or invalid.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(json::without_mark(self.get(name)?)).ok()
    }

    /// Adds a file, or replaces the one of this name.
    pub fn put(&mut self, name: &'static str, content: Vec<u8>) {
        self.0.retain(|(found, _)| *found != name);
        self.0.push((name, content));
    }

    /// Returns true if there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| *found == name)
    }
}

/// Refuses a link that would copy a foreign file into exports: a downloaded folder may have
/// `merges.txt -> /etc/passwd`. Allowed are links to a file
/// - below the folder, which itself may be named by a link;
/// - in `blobs` of the Hugging Face cache, if the folder is a snapshot there
///   (`snapshots/REVISION/NAME -> ../../blobs/HASH`);
/// - of the same name, as between folders of models that share a tokenizer.
fn check_link(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    // Opening the file has named all other errors.
    let (Ok(folder), Ok(target)) = (fs::canonicalize(folder), fs::canonicalize(&path)) else { return Ok(()) };
    let snapshots =
        folder.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let in_cache = snapshots.is_some_and(|snapshots| target.starts_with(snapshots.with_file_name("blobs")));
    if in_cache || target.starts_with(&folder) || target.file_name().is_some_and(|target| target == name) {
        return Ok(());
    }
    Err(Error::argument(format!(
        "{} is a link to {}, outside of its folder; exports would contain that file: copy it to {name} if it is the \
         model's, else remove the link",
        path.display(),
        target.display()
    )))
}

impl std::fmt::Debug for Companions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, content)| (name, content.len()))).finish()
    }
}
