//! The list of installed files, by which they are removed.
//!
//! A line per file: the identity of its content, a space, its path without the staging folder.
//! Folders that were created are listed too, with [`FOLDER`] as identity, parents first.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use horizon::base::{Error, Result};

use super::entry::{Loaded, identity};
use super::folders::{Folders, cannot_write};

const FOLDER: &str = "folder";

#[derive(Default)]
pub struct List(Vec<(String, PathBuf)>);

impl List {
    /// Reads the list of an earlier install; empty if there is none.
    pub fn read(folders: &Folders) -> Result<List> {
        let path = folders.on_disk(&folders.list());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(List::default()),
            Err(error) => return Err(Error::reading(&path, &error)),
        };
        let entry = |line: &str| line.split_once(' ').map(|(identity, path)| (identity.into(), path.into()));
        Ok(List(text.lines().filter_map(entry).collect()))
    }

    pub fn write(&self, folders: &Folders) -> Result<()> {
        let path = folders.on_disk(&folders.list());
        let lines = self.0.iter().map(|(identity, path)| format!("{identity} {}\n", path.display()));
        let list = Loaded::File { bytes: lines.collect::<String>().into(), mode: 0o644 };
        list.put(&path).map_err(|error| cannot_write(&path, &error))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, identity: String, path: PathBuf) {
        self.0.push((identity, path));
    }

    pub fn push_folder(&mut self, path: PathBuf) {
        self.push(FOLDER.into(), path);
    }

    pub fn append(&mut self, mut other: List) {
        self.0.append(&mut other.0);
    }

    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|(identity, _)| identity != FOLDER).map(|(_, path)| path.as_path())
    }

    /// The identity that a file had when it was installed.
    pub fn identity(&self, path: &Path) -> Option<&str> {
        self.0.iter().find(|(_, listed)| listed == path).map(|(identity, _)| identity.as_str())
    }

    /// The folders in the list.
    pub fn folders_only(&self) -> List {
        List(self.0.iter().filter(|(identity, _)| identity == FOLDER).cloned().collect())
    }

    /// The entries whose paths another list does not contain.
    pub fn without(self, other: &List) -> List {
        List(self.0.into_iter().filter(|(_, path)| other.identity(path).is_none()).collect())
    }

    /// Removes the files. Returns those that stay because they were changed.
    pub fn remove(self, folders: &Folders) -> Result<List> {
        let mut kept = List::default();
        for (listed, path) in self.0.into_iter().filter(|(identity, _)| identity != FOLDER) {
            let at = folders.on_disk(&path);
            match identity(&at)? {
                None => {}
                Some(found) if found == listed => {
                    fs::remove_file(&at).map_err(|error| cannot_write(&at, &error))?;
                }
                Some(_) => kept.push(listed, path),
            }
        }
        Ok(kept)
    }

    /// Removes the files, the list, and the folders that are empty then. Returns the files that
    /// stay because they were changed; they remain listed.
    pub fn remove_all(self, folders: &Folders) -> Result<List> {
        let mut created = self.folders_only();
        let kept = self.remove(folders)?;
        if kept.is_empty() {
            let list = folders.on_disk(&folders.list());
            fs::remove_file(&list).map_err(|error| cannot_write(&list, &error))?;
        }
        for (_, folder) in created.0.iter().rev() {
            // A folder with other files stays.
            let _ = fs::remove_dir(folders.on_disk(folder));
        }
        if !kept.is_empty() {
            created.0.extend(kept.0.iter().cloned());
            created.write(folders)?;
        }
        Ok(kept)
    }
}
