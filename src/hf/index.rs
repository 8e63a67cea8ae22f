//! Finds the weight files of a folder.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::base::{Error, Name, Result, Status};
use crate::hf::{INDEX, SINGLE};

/// A parsed `model.safetensors.index.json` with checked file names.
#[derive(Debug, Deserialize)]
pub struct Index {
    weight_map: HashMap<String, String>,
}

impl Index {
    /// Parses the text of an index.
    ///
    /// Errors: `BadFormat` if it is not an index, or a file name leads out of its folder.
    pub fn parse(text: &[u8]) -> Result<Index> {
        let bad = |message: String| Error::new(Status::BadFormat, message);
        let index: Index = serde_json::from_slice(text)
            .map_err(|error| bad(format!("not an index of weight files: {error}")))?;
        for name in index.files() {
            if !is_plain(name) {
                return Err(bad(format!("{name:?} is not the name of a file in this folder")));
            }
        }
        Ok(index)
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.weight_map.keys()
    }

    /// Names of the files, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Returns true if a path is a plain file name: no separator, no parent, no root.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    let only = matches!((first, components.next()), (Some(Component::Normal(file)), None) if file == name);
    only && !name.contains('\0')
}

/// Returns the weight files of a folder; a single file takes precedence over an index, as in
/// transformers.
pub(super) fn sources(folder: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok((vec![single], None));
    }
    if !index.exists() {
        return Err(no_weights(folder));
    }
    let text = fs::read(&index).map_err(|error| Error::reading(&index, &error))?;
    let listed = Index::parse(&text).map_err(|error| error.within(index.display()))?;
    let paths: Vec<_> = listed.files().into_iter().map(|name| folder.join(name)).collect();
    match paths.iter().find(|path| !path.exists()) {
        Some(path) => Err(Error::new(
            Status::NotFound,
            format!("{} does not exist, but is listed in {INDEX}; download it", path.display()),
        )),
        None => Ok((paths, Some(listed))),
    }
}

fn no_weights(folder: &Path) -> Error {
    let legacy = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"]
        .into_iter()
        .find(|name| folder.join(name).exists());
    match legacy {
        Some(name) => Error::new(
            Status::Unsupported,
            format!(
                "{} has its weights in {name}, but only safetensors are supported; convert them first",
                folder.display()
            ),
        ),
        None => Error::new(
            Status::NotFound,
            format!(
                "{} has neither {SINGLE} nor {INDEX}; to start from random weights, use {}",
                folder.display(),
                Name::Fresh
            ),
        ),
    }
}
