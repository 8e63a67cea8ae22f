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
    /// Reads the files that the folder has. Links are followed as `check_link` allows.
    ///
    /// Errors start with a path: a file is too large, is a link to another file, or cannot be read.
    pub fn read(folder: &Path) -> Result<Companions> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for (name, bytes_max) in NAMES {
            let path = folder.join(name);
            let Some(content) = input::read_if_there(&path, bytes_max)? else { continue };
            check_link(folder, name)?;
            contents::refuse_placeholder(&path, &content)?;
            // Those that are parsed as a whole.
            if bytes_max == CONFIG_BYTES_MAX && name.ends_with(".json") {
                json::check_size(&content).map_err(|error| error.within(path.display()))?;
            }
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
/// - of the same name, as between folders of models that share a tokenizer;
/// - whose name has a hash, as in the stores of git-annex and DVC. Of 32 digits DVC keeps two in the
///   name of a folder.
fn check_link(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    // Opening the file has named all other errors.
    let (Ok(folder), Ok(target)) = (fs::canonicalize(folder), fs::canonicalize(&path)) else { return Ok(()) };
    let snapshots =
        folder.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let in_cache = snapshots.is_some_and(|snapshots| target.starts_with(snapshots.with_file_name("blobs")));
    let target_name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut digits = target_name.split(|c: char| !c.is_ascii_hexdigit());
    let has_hash = digits.any(|digits| digits.len() >= 30);
    if in_cache || target.starts_with(&folder) || target_name == name || has_hash {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_files_of_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        fs::create_dir(&folder).unwrap();
        let hash = "0123456789abcdef".repeat(4);
        for (target, allowed) in [
            // DVC, git-annex, Nix.
            (format!("md5/ab/{}", &hash[..30]), true),
            (format!("objects/SHA256E-s2--{hash}.json"), true),
            ("store/0a1b2c3d-model/generation_config.json".to_owned(), true),
            (format!("{hash}/settings.json"), false),
            ("passwd".to_owned(), false),
            (hash[..29].to_owned(), false),
        ] {
            let path = dir.path().join(&target);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "{}").unwrap();
            symlink(&path, folder.join(GENERATION)).unwrap();
            let read = Companions::read(&folder);
            assert_eq!(read.is_ok(), allowed, "{target}");
            assert!(
                read.map_or_else(|error| error.message().contains("is a link to"), |it| it.has(GENERATION))
            );
            fs::remove_file(folder.join(GENERATION)).unwrap();
        }
    }
}
