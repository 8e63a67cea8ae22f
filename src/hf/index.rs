//! Finds the weight files of a folder.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::base::format::several;
use crate::base::{Error, Result, Status, json};
use crate::hf::{INDEX, SINGLE, contents, shards};
use crate::host::input;

/// Largest index that is read; enough for a million tensors.
const BYTES_MAX: u64 = 1 << 26;

/// A parsed `model.safetensors.index.json` with checked file names.
#[derive(Debug, Deserialize)]
pub struct Index {
    weight_map: HashMap<String, String>,
}

impl Index {
    /// Parses the text of an index, which may begin with a byte order mark.
    ///
    /// Errors: `BadFormat` if it is not an index, or a file name leads out of its folder.
    pub fn parse(text: &[u8]) -> Result<Index> {
        let bad = |message: String| Error::new(Status::BadFormat, message);
        json::check_size(text)?;
        let index: Index = serde_json::from_slice(json::without_mark(text))
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

/// The weight files of a folder.
pub(super) struct Sources {
    pub paths: Vec<PathBuf>,
    pub index: Option<Index>,
    /// Remarks for the user.
    pub notes: Vec<String>,
}

/// Returns the weight files of a folder; a single file takes precedence over an index, as in
/// transformers. Without both, all shards of one set.
pub(super) fn sources(folder: &Path) -> Result<Sources> {
    let mut notes = Vec::new();
    let index = folder.join(INDEX);
    let (paths, index) = if input::is_there(&folder.join(SINGLE)) {
        (vec![folder.join(SINGLE)], None)
    } else if let Some(text) = input::read_if_there(&index, BYTES_MAX)? {
        contents::refuse_placeholder(&index, &text)?;
        let listed = Index::parse(&text).map_err(|error| error.within(index.display()))?;
        (listed.files().into_iter().map(|name| folder.join(name)).collect(), Some(listed))
    } else {
        let names = shards_without_index(folder)?;
        let files = several(names.len(), "weight file");
        notes.push(format!("{INDEX} is missing; the complete set of {files} is read"));
        (names.into_iter().map(|name| folder.join(name)).collect(), None)
    };
    if let (Some(path), Some(_)) = (paths.iter().find(|path| !input::is_there(path)), &index) {
        return Err(Error::new(
            Status::NotFound,
            format!("{} does not exist, but is listed in {INDEX}; download it", path.display()),
        ));
    }
    if folder.join(contents::ADAPTER).exists() {
        notes.push(format!(
            "{} describes an adapter, which is not applied: only the folder's own weights are read",
            contents::ADAPTER
        ));
    }
    Ok(Sources { paths, index, notes })
}

/// Returns the names `model-00001-of-00003.safetensors` and so on of a folder without an index.
/// Errors: there are none, one is missing, or they are of several sets.
fn shards_without_index(folder: &Path) -> Result<Vec<String>> {
    const LISTED: usize = 8;
    let names = contents::names(folder);
    let count_of = |name: &String| {
        let (number, count) =
            name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
        [number, count].iter().all(|digits| digits.len() == 5).then(|| count.parse::<usize>().ok())?
    };
    let counts: BTreeSet<usize> = names.iter().filter_map(count_of).collect();
    let Some(&count) = counts.first() else { return Err(contents::no_weights(folder)) };
    let shards: Vec<_> = (0..count).map(|number| shards::shard_name(number, count)).collect();
    let missing: Vec<_> = shards.iter().filter(|shard| !names.contains(shard)).collect();
    let problem = if counts.len() > 1 {
        "and has weight files of several sets".to_owned()
    } else if !missing.is_empty() {
        let listed: Vec<_> = missing.iter().take(LISTED).map(|name| &name[..]).collect();
        let more = if missing.len() > LISTED { ", …" } else { "" };
        format!("and {} of {count} weight files are missing: {}{more}", missing.len(), listed.join(", "))
    } else {
        return Ok(shards);
    };
    let folder = folder.display();
    Err(Error::new(Status::NotFound, format!("{folder} has no {INDEX}, {problem}; download the files again")))
}
