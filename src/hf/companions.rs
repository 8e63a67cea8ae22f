//! Files of a model folder that an export or a checkpoint copies: tokenizer, chat template,
//! generation config.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::base::format::Size;
use crate::base::{Error, Result, Status, json};
use crate::hf::contents;

/// Name of the file with the chat template. transformers 4 and 5 prefer it to `chat_template` of
/// `tokenizer_config.json`.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Name of the file with the options of generation.
pub const GENERATION: &str = "generation_config.json";

/// Names of the copied files.
const NAMES: [&str; 11] = [
    "added_tokens.json",
    CHAT_TEMPLATE,
    "chat_template.json",
    GENERATION,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Largest file that is copied; larger than any tokenizer.
const BYTES_MAX: u64 = 1 << 28;

/// Contents of these files, read when the folder is opened, so that later changes of the folder
/// have no effect.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Companions(Vec<(&'static str, Vec<u8>)>);

impl Companions {
    /// Reads the files that the folder has. Errors start with a path.
    pub fn read(folder: &Path) -> Result<Companions> {
        let mut files = Vec::new();
        for name in NAMES {
            let path = folder.join(name);
            let read = || -> io::Result<(u64, Option<Vec<u8>>)> {
                let bytes = fs::metadata(&path)?.len();
                Ok((bytes, if bytes > BYTES_MAX { None } else { Some(fs::read(&path)?) }))
            };
            match read() {
                Ok((_, Some(content))) => {
                    contents::refuse_placeholder(&path, &content)?;
                    files.push((name, content));
                }
                Ok((bytes, None)) => {
                    return Err(Error::new(
                        Status::BadFormat,
                        format!(
                            "{} has {}; it may have at most {}",
                            path.display(),
                            Size(bytes as usize),
                            Size(BYTES_MAX as usize)
                        ),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::reading(&path, &error)),
            }
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

impl std::fmt::Debug for Companions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, content)| (name, content.len()))).finish()
    }
}
