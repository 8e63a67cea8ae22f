//! The files of a model's folder that are neither weights nor config, and go along with it.

use std::fs;
use std::io;
use std::path::Path;

use crate::base::format::Size;
use crate::base::{Error, Result, Status};

/// What goes along: how text is generated, and all that makes tokens.
const NAMES: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// More than any tokenizer takes.
const BYTES_MAX: u64 = 1 << 28;

/// Such files, read when the folder was opened: what becomes of the folder later does not matter.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Companions(Vec<(&'static str, Vec<u8>)>);

impl Companions {
    /// Reads those that a folder has. Errors open with a path.
    pub fn read(folder: &Path) -> Result<Companions> {
        let mut files = Vec::new();
        for name in NAMES {
            let path = folder.join(name);
            let read = || -> io::Result<(u64, Option<Vec<u8>>)> {
                let bytes = fs::metadata(&path)?.len();
                Ok((bytes, if bytes > BYTES_MAX { None } else { Some(fs::read(&path)?) }))
            };
            match read() {
                Ok((_, Some(content))) => files.push((name, content)),
                Ok((bytes, None)) => {
                    return Err(Error::new(
                        Status::BadFormat,
                        format!(
                            "{} has {}; such a file has at most {}",
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

    /// Whether a file of this name is among them.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| *found == name)
    }
}

impl std::fmt::Debug for Companions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, content)| (name, content.len()))).finish()
    }
}
