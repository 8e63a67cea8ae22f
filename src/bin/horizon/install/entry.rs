//! An installed file: its path, its content, and how it is written.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use horizon::base::{Error, Result};
use horizon::host::folder::{NewFile, Sweep, replace_link};
use horizon::host::input;
use xxhash_rust::xxh3::xxh3_64;

use super::folders::Folders;

/// Largest file that is installed.
const FILE_BYTES_MAX: u64 = 1 << 32;

pub struct Entry {
    /// Without the staging folder.
    pub path: PathBuf,
    pub content: Content,
}

pub enum Content {
    Bytes(Vec<u8>),
    /// A copy of a file.
    Copy(PathBuf),
    /// A copy of a program or shared library, with permission to execute it.
    Program(PathBuf),
    /// A symlink to a file in the same folder.
    Link(String),
}

/// Content in memory.
pub enum Loaded {
    File { bytes: Vec<u8>, mode: u32 },
    Link(String),
}

impl Entry {
    /// Finds out whether the file can be written. Changes nothing.
    pub fn check(&self, folders: &Folders) -> Result<()> {
        let at = folders.on_disk(&self.path);
        if let (Content::Copy(from), Ok(target)) = (&self.content, fs::symlink_metadata(&at))
            && fs::metadata(from).is_ok_and(|data| (data.dev(), data.ino()) == (target.dev(), target.ino()))
        {
            return Err(Error::argument(format!(
                "{} is a source file, which an uninstall would remove: --prefix must name another folder than the \
                 clone",
                at.display()
            )));
        }
        folders.check_writable(&self.path)
    }
}

impl Content {
    pub fn load(&self) -> Result<Loaded> {
        let read = |path| input::read_whole(path, FILE_BYTES_MAX);
        Ok(match self {
            Content::Bytes(bytes) => Loaded::File { bytes: bytes.clone(), mode: 0o644 },
            Content::Copy(from) => Loaded::File { bytes: read(from)?, mode: 0o644 },
            Content::Program(from) => Loaded::File { bytes: read(from)?, mode: 0o755 },
            Content::Link(to) => Loaded::Link(to.clone()),
        })
    }
}

impl Loaded {
    /// A text without spaces that differs for different contents.
    pub fn identity(&self) -> String {
        match self {
            Loaded::File { bytes, .. } => format!("{:016x}", xxh3_64(bytes)),
            Loaded::Link(to) => format!("link:{to}"),
        }
    }

    /// Returns whether the file is installed already, with its permissions.
    pub fn is_at(&self, path: &Path) -> Result<bool> {
        let has_mode = match self {
            Loaded::File { mode, .. } => {
                fs::symlink_metadata(path).is_ok_and(|data| data.permissions().mode() & 0o777 == *mode)
            }
            Loaded::Link(_) => true,
        };
        Ok(has_mode && identity(path)?.is_some_and(|found| found == self.identity()))
    }

    /// Creates the file or replaces it atomically.
    pub fn put(&self, path: &Path) -> Result<()> {
        let (folder, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        match self {
            Loaded::File { bytes, mode } => {
                let mut file = NewFile::create_in(folder, name)?;
                file.put(bytes)?;
                file.finish_as(*mode)
            }
            Loaded::Link(to) => replace_link(path, to).map_err(|error| Error::writing(path, &error)),
        }
    }
}

/// Removes what a killed install left of a file. The folder of the list is locked.
pub fn remove_partial(path: &Path) {
    Sweep { sole: true, may_replace: None }.next_to(path);
}

/// The identity of a file or symlink, or `other` for what is neither; none if there is nothing.
pub fn identity(path: &Path) -> Result<Option<String>> {
    let reading = |error: io::Error| Error::reading(path, &error);
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => return Err(reading(error)),
    };
    Ok(Some(if data.is_symlink() {
        Loaded::Link(fs::read_link(path).map_err(reading)?.to_string_lossy().into_owned()).identity()
    } else if data.is_file() {
        Loaded::File { bytes: input::read_whole(path, FILE_BYTES_MAX)?, mode: 0 }.identity()
    } else {
        "other".to_owned()
    }))
}
