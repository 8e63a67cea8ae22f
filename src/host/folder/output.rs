//! Outputs that the user names.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{create_folder, is_stream, replaced_path};
use crate::base::{Error, Result, Status};
use crate::host::input::InputFile;

/// Checks that a path can be that of a file. Returns the file to which it leads, if it is a link.
///
/// Errors: it names a folder, a pipe, a socket or a block device.
pub fn check_target(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        let path = path.display();
        return Err(Error::argument(format!("cannot write {path}: it names a folder; name a file in it")));
    }
    replaced_path(path)
}

/// Creates the folder of a file, and its parents, where they are missing.
///
/// Errors, which name the folder: as [`check_target`], or it cannot be created.
pub fn create_folder_of(path: &Path) -> Result<()> {
    let target = check_target(path)?;
    let folder = target.parent().unwrap_or(Path::new(""));
    create_folder(folder).map_err(|error| {
        Error::io(format!("cannot create {}, the folder for {}", folder.display(), path.display()), &error)
    })
}

/// Checks that an output may have a path: nothing is there, an empty file, a file of the same
/// kind, an open descriptor or a character device. `is_own` gets its first bytes, at most `bytes_max`; `what` names the kind.
///
/// Errors: it is another file (`BadFormat`), or as [`check_target`].
pub fn check_own(path: &Path, what: &str, bytes_max: u64, is_own: impl FnOnce(&[u8]) -> bool) -> Result<()> {
    if is_stream(path) || !check_target(path)?.exists() {
        return Ok(());
    }
    let (mut head, file) = (Vec::new(), InputFile::open(path)?.into_file());
    file.take(bytes_max).read_to_end(&mut head).map_err(|error| Error::reading(path, &error))?;
    if head.is_empty() || is_own(&head) {
        return Ok(());
    }
    Err(Error::new(
        Status::BadFormat,
        format!("{} is not {what}, so {what} does not replace it; give another file", path.display()),
    ))
}
