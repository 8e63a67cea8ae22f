//! The list of installed files, by which they are removed.
//!
//! A line with `prefix` and the prefix. A line for each folder that was created, parents first:
//! `folder` and its path. Then a line for each file: the identity of its content and its path; a file
//! that an interrupted install may have replaced has two. Paths are relative to the prefix, so an
//! installation may be moved; those outside are absolute, without the staging folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use horizon::base::{Error, Result, Status};
use horizon::host::input;

use super::entry::{Loaded, identity, remove_partial};
use super::folders::{Folders, cannot_write};

/// Largest list that is read.
const LIST_BYTES_MAX: u64 = 1 << 24;

#[derive(Clone, Default)]
pub struct List {
    pub folders: BTreeSet<PathBuf>,
    /// Each file with the identities that it may have.
    pub files: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl List {
    /// Reads the list of an earlier install; empty if there is none.
    ///
    /// Errors: the list is of another prefix and has files outside it, which this prefix may not own.
    pub fn read(folders: &Folders) -> Result<List> {
        let path = folders.on_disk(&folders.list());
        if !input::is_there(&path) {
            return Ok(List::default());
        }
        let text = input::read_text(&path, LIST_BYTES_MAX)?;
        let bad = |line, no| {
            let why = format!("{}: line {line} names no {no}", path.display());
            Error::new(Status::BadFormat, why)
        };
        let prefix = text.lines().next().and_then(|line| line.strip_prefix("prefix "));
        let prefix = prefix.ok_or_else(|| bad(1, "prefix: remove the list"))?;
        let (mut list, mut outside) = (List::default(), None);
        for (number, line) in text.lines().enumerate().skip(1) {
            let (kind, name) = line.split_once(' ').unwrap_or_default();
            if name.is_empty() || Path::new(name).components().any(|part| part == Component::ParentDir) {
                return Err(bad(number + 1, "installed file: remove it"));
            }
            // Without the `.` of the prefix itself.
            let listed: PathBuf = folders.prefix.join(name).components().collect();
            match kind {
                "folder" => drop(list.folders.insert(listed)),
                identity => {
                    outside = outside.or(name.starts_with('/').then_some(name));
                    list.files.entry(listed).or_default().insert(identity.into());
                }
            }
        }
        match outside {
            Some(file) if !folders.is_prefix(Path::new(prefix)) => Err(Error::argument(format!(
                "{} is of an installation in {prefix} with files elsewhere, e.g. {file}: give --prefix {prefix}, or \
                 remove these files and their lines by hand",
                path.display()
            ))),
            _ => Ok(list),
        }
    }

    pub fn write(&self, folders: &Folders) -> Result<()> {
        let path = folders.on_disk(&folders.list());
        let name = |path: &Path| match path.strip_prefix(&folders.prefix) {
            Ok(below) if below.as_os_str().is_empty() => ".".to_owned(),
            Ok(below) => below.display().to_string(),
            Err(_) => path.display().to_string(),
        };
        let mut text = format!("prefix {}\n", folders.prefix.display());
        for folder in &self.folders {
            text += &format!("folder {}\n", name(folder));
        }
        for (file, identities) in &self.files {
            for identity in identities {
                text += &format!("{identity} {}\n", name(file));
            }
        }
        let list = Loaded::File { bytes: text.into(), mode: 0o644 };
        remove_partial(&path);
        if list.is_at(&path)? {
            return Ok(());
        }
        list.put(&path)
    }

    /// Returns whether a file may have this identity.
    pub fn has(&self, path: &Path, identity: &str) -> bool {
        self.files.get(path).is_some_and(|listed| listed.contains(identity))
    }

    /// This list with the folders and files of another.
    pub fn with(mut self, other: &List) -> List {
        self.folders.extend(other.folders.iter().cloned());
        for (file, identities) in &other.files {
            self.files.entry(file.clone()).or_default().extend(identities.iter().cloned());
        }
        self
    }

    /// Removes the files, except those that `stays` selects. Files that were changed since they were
    /// installed stay, too; they alone remain in the list. Returns the number of missing files.
    pub fn remove_files(&mut self, folders: &Folders, stays: impl Fn(&Path) -> bool) -> Result<usize> {
        let mut missing = 0;
        for (path, listed) in std::mem::take(&mut self.files).into_iter().filter(|(path, _)| !stays(path)) {
            let at = folders.on_disk(&path);
            remove_partial(&at);
            match identity(&at)? {
                Some(found) if listed.contains(&found) => {
                    fs::remove_file(&at).map_err(|error| cannot_write(&at, &error))?;
                }
                Some(_) => {
                    message!("warning: {} stays: it is not what was installed", at.display());
                    self.files.insert(path, listed);
                }
                None => missing += 1,
            }
        }
        Ok(missing)
    }

    /// Removes the files, the list, and the folders that are empty then. Files that were changed
    /// stay and remain listed. Returns the number of missing files.
    pub fn remove(&mut self, folders: &Folders) -> Result<usize> {
        let missing = self.remove_files(folders, |_| false)?;
        if self.files.is_empty() {
            let list = folders.on_disk(&folders.list());
            remove_partial(&list);
            fs::remove_file(&list).map_err(|error| cannot_write(&list, &error))?;
        } else {
            self.write(folders)?;
        }
        for folder in self.folders.iter().rev() {
            // A folder with other files stays.
            let _ = fs::remove_dir(folders.on_disk(folder));
        }
        Ok(missing)
    }
}
