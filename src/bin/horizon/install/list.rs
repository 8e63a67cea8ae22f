//! The list of installed files, by which they are removed.
//!
//! A line for each folder that was created, parents first: `folder` and its path. Then a line for
//! each file: the identity of its content and its path. Paths are without the staging folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use horizon::base::{Error, Result, Status};

use super::entry::{Loaded, identity};
use super::folders::{Folders, cannot_write};

#[derive(Default)]
pub struct List {
    pub folders: Vec<PathBuf>,
    /// Each file with the identity that it had when it was installed.
    pub files: Vec<(String, PathBuf)>,
}

impl List {
    /// Reads the list of an earlier install; empty if there is none.
    pub fn read(folders: &Folders) -> Result<List> {
        let path = folders.on_disk(&folders.list());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(List::default()),
            Err(error) => return Err(Error::reading(&path, &error)),
        };
        let mut list = List::default();
        for (number, line) in text.lines().enumerate() {
            match line.split_once(' ') {
                Some(("folder", path)) if path.starts_with('/') => list.folders.push(path.into()),
                Some((identity, path)) if path.starts_with('/') => {
                    list.files.push((identity.into(), path.into()));
                }
                _ => {
                    let why =
                        format!("{}: line {} names no installed file: remove it", path.display(), number + 1);
                    return Err(Error::new(Status::BadFormat, why));
                }
            }
        }
        Ok(list)
    }

    pub fn write(&self, folders: &Folders) -> Result<()> {
        let path = folders.on_disk(&folders.list());
        let mut text = String::new();
        for folder in &self.folders {
            text += &format!("folder {}\n", folder.display());
        }
        for (identity, file) in &self.files {
            text += &format!("{identity} {}\n", file.display());
        }
        let list = Loaded::File { bytes: text.into(), mode: 0o644 };
        if list.is_at(&path)? {
            return Ok(());
        }
        list.put(&path).map_err(|error| cannot_write(&path, &error))
    }

    pub fn identity(&self, path: &Path) -> Option<&str> {
        self.files.iter().find(|(_, listed)| listed == path).map(|(identity, _)| identity.as_str())
    }

    /// Removes the files, except those that `stays` selects. Files that were changed since they were
    /// installed stay, too; they alone remain in the list.
    pub fn remove_files(&mut self, folders: &Folders, stays: impl Fn(&Path) -> bool) -> Result<()> {
        for (listed, path) in std::mem::take(&mut self.files).into_iter().filter(|(_, path)| !stays(path)) {
            let at = folders.on_disk(&path);
            match identity(&at)? {
                Some(found) if found == listed => {
                    fs::remove_file(&at).map_err(|error| cannot_write(&at, &error))?;
                }
                Some(_) => {
                    eprintln!("warning: {} stays: it was changed after it was installed", at.display());
                    self.files.push((listed, path));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Removes the files, the list, and the folders that are empty then. Files that were changed
    /// stay and remain listed.
    pub fn remove(&mut self, folders: &Folders) -> Result<()> {
        self.remove_files(folders, |_| false)?;
        if self.files.is_empty() {
            let list = folders.on_disk(&folders.list());
            fs::remove_file(&list).map_err(|error| cannot_write(&list, &error))?;
        } else {
            self.write(folders)?;
        }
        for folder in self.folders.iter().rev() {
            // A folder with other files stays.
            let _ = fs::remove_dir(folders.on_disk(folder));
        }
        Ok(())
    }
}
