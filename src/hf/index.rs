//! Which files a folder's weights are in.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::base::{Error, Result, Status};
use crate::hf::{INDEX, SINGLE};

/// `model.safetensors.index.json`, its file names checked.
#[derive(Debug, Deserialize)]
pub struct Index {
    weight_map: HashMap<String, String>,
}

impl Index {
    /// Reads the text of an index.
    ///
    /// Errors: `BadFormat` for what is no index, or lists anything but names of files in its own folder.
    pub fn parse(text: &[u8]) -> Result<Index> {
        let bad = |message: String| Error::new(Status::BadFormat, message);
        let index: Index =
            serde_json::from_slice(text).map_err(|error| bad(format!("not an index: {error}")))?;
        for name in index.files() {
            if !is_plain(name) {
                return Err(bad(format!("{name:?} is not the name of a file in this folder")));
            }
        }
        Ok(index)
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.weight_map.keys()
    }

    /// The names of its files, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Whether a path is one plain name: no separator, no parent, no root.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let only = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    only && !name.contains('\0')
}

/// The weight files of a folder; a single file goes before an index, as in transformers.
pub(super) fn sources(folder: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok((vec![single], None));
    }
    if !index.exists() {
        return Err(nothing_to_read(folder));
    }
    let text = fs::read(&index).map_err(|error| Error::reading(&index, &error))?;
    let listed = Index::parse(&text).map_err(|error| error.within(index.display()))?;
    let paths: Vec<_> = listed.files().into_iter().map(|name| folder.join(name)).collect();
    match paths.iter().find(|path| !path.exists()) {
        Some(path) => Err(Error::new(
            Status::NotFound,
            format!("{} is listed in {INDEX} and not there", path.display()),
        )),
        None => Ok((paths, Some(listed))),
    }
}

fn nothing_to_read(folder: &Path) -> Error {
    let legacy = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"]
        .into_iter()
        .find(|name| folder.join(name).exists());
    match legacy {
        Some(name) => Error::new(
            Status::Unsupported,
            format!("{} has {name}; weights are read from safetensors: convert it first", folder.display()),
        ),
        None => Error::new(
            Status::NotFound,
            format!(
                "{} has neither {SINGLE} nor {INDEX}; `horizon train --init` starts from fresh weights",
                folder.display()
            ),
        ),
    }
}
