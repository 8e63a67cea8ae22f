//! An installed file: its path, its content, and how it is written.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use horizon::base::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

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

impl Content {
    pub fn load(&self) -> Result<Loaded> {
        let read = |path| fs::read(path).map_err(|error| Error::reading(path, &error));
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
    pub fn put(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        let written = match self {
            Loaded::File { bytes, mode } => fs::write(&partial, bytes)
                .and_then(|()| fs::set_permissions(&partial, Permissions::from_mode(*mode))),
            Loaded::Link(to) => symlink(to, &partial),
        };
        written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
            // Best effort: the error of the write is reported, not this one.
            let _ = fs::remove_file(&partial);
        })
    }
}

/// The identity of a file or symlink; none if there is no file.
pub fn identity(path: &Path) -> Result<Option<String>> {
    let read = || -> io::Result<Loaded> {
        Ok(if fs::symlink_metadata(path)?.is_symlink() {
            Loaded::Link(fs::read_link(path)?.to_string_lossy().into_owned())
        } else {
            Loaded::File { bytes: fs::read(path)?, mode: 0 }
        })
    };
    match read() {
        Ok(found) => Ok(Some(found.identity())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::reading(path, &error)),
    }
}
