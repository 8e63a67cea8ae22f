//! The origin of a checkpoint: its run, and the folder in which it was written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Error, Result, RunId};
use crate::checkpoint::Checkpoint;
use crate::sys::linux;

/// The field of a checkpoint's note with its origin.
const FIELD: &str = "run";

/// The run that wrote a checkpoint, and the identity of its folder of checkpoints. A copy of the
/// folder has another identity, and so has one from an archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The run.
    pub id: RunId,
    /// The folder's path without links.
    folder: String,
    device: u64,
    inode: u64,
}

impl Origin {
    /// Returns the origin of the checkpoints that a run writes to a folder.
    pub fn new(id: RunId, folder: &Path) -> Result<Origin> {
        let reading = |error| Error::reading(folder, &error);
        let path = fs::canonicalize(folder).map_err(reading)?;
        let facts = fs::metadata(&path).map_err(reading)?;
        let folder = path.to_string_lossy().into_owned();
        Ok(Origin { id, folder, device: facts.dev(), inode: facts.ino() })
    }

    /// Returns the origin that a checkpoint notes; `None` if it has none, as those of earlier
    /// versions and of programs that use the library.
    pub fn of(checkpoint: &Checkpoint) -> Option<Origin> {
        serde_json::from_value(checkpoint.manifest().note.get(FIELD)?.clone()).ok()
    }

    /// Adds the origin to the note of a checkpoint.
    pub fn put(&self, note: &mut Map<String, Value>) {
        note.insert(FIELD.to_owned(), json!(self));
    }

    /// Returns true if a checkpoint and its folder belong to the user of this process, and it is
    /// still in the folder in which it was written, also after the folder was renamed, and after its
    /// file system was mounted anew, which can change the device's number.
    pub fn has(&self, checkpoint: &Checkpoint) -> Result<bool> {
        let is_mine = |path: &Path| fs::metadata(path).is_ok_and(|facts| facts.uid() == linux::user());
        if !is_mine(checkpoint.folder()) || !is_mine(&checkpoint.parent()?) {
            return Ok(false);
        }
        let now = Origin::new(self.id, &checkpoint.parent()?)?;
        Ok(now.inode == self.inode && (now.device == self.device || now.folder == self.folder))
    }
}
