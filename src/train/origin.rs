//! The origin of a checkpoint: its run, and the folder in which it was written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Error, Result, RunId};
use crate::checkpoint::Checkpoint;
use crate::sys::linux;

/// The field of a checkpoint's note with its origin.
const FIELD: &str = "run";

/// The owner and the place of a checkpoint, as far as its noted paths may be used.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It belongs to the user of this process, and is in the folder in which it was written.
    Own(Origin),
    /// It is a copy, restored from a backup, or on another file system than it was written to.
    Copy(Origin),
    /// Another user owns it, or its folder.
    OtherUser,
    /// It notes no origin, as those of earlier versions and of programs that use the library.
    Unnoted,
}

impl Standing {
    /// Returns the standing of a checkpoint. A folder that was renamed is still the same, and so is
    /// one whose file system was mounted anew, which can change the device's number. Two clones of
    /// a whole file system (snapshots of a virtual machine) have the same inodes, so both count as
    /// the folder in which the checkpoint was written.
    pub fn of(checkpoint: &Checkpoint) -> Result<Standing> {
        let folder = checkpoint.parent()?;
        let is_mine = |path: &Path| fs::metadata(path).is_ok_and(|facts| facts.uid() == linux::user());
        if !is_mine(checkpoint.folder()) || !is_mine(&folder) {
            return Ok(Standing::OtherUser);
        }
        let Some(origin) = Origin::of(checkpoint) else { return Ok(Standing::Unnoted) };
        let now = Origin::new(origin.id, &folder)?;
        let is_same =
            now.inode == origin.inode && (now.device == origin.device || now.folder == origin.folder);
        Ok(if is_same { Standing::Own(origin) } else { Standing::Copy(origin) })
    }
}

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

    /// Returns the place of a path after it was moved together with the folder of checkpoints, which
    /// is now `folder`; `None` if they have only the root in common.
    pub fn moved(&self, path: &Path, folder: &Path) -> Option<PathBuf> {
        let (mut before, mut now) = (Path::new(&self.folder), folder);
        while before.parent().is_some() {
            if let Ok(rest) = path.strip_prefix(before) {
                return Some(now.join(rest));
            }
            (before, now) = (before.parent()?, now.parent()?);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_move_with_the_folder_of_checkpoints() {
        let origin =
            Origin { id: RunId::from_bits(1), folder: "/home/a/runs/one".to_owned(), device: 1, inode: 1 };
        let moved = |path: &str, folder: &str| origin.moved(Path::new(path), Path::new(folder));
        for (path, folder, expected) in [
            ("/home/a/runs/one/final", "/home/a/runs/two", Some("/home/a/runs/two/final")),
            ("/home/a/runs/log", "/home/b/runs/one", Some("/home/b/runs/log")),
            ("/home/a/data/x", "/disk/runs/one", Some("/disk/data/x")),
            ("/data/x", "/disk/a/b/c/one", None),
            ("/home/a/data/x", "/one", None),
        ] {
            assert_eq!(moved(path, folder), expected.map(PathBuf::from), "{path} {folder}");
        }
    }
}
