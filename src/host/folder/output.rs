//! Outputs that the user names.

use std::io::Read;
use std::path::Path;

use super::{create_folder, is_stream, replaced_path};
use crate::base::{Error, Result, Status};
use crate::host::input::InputFile;

/// Creates the folder of a file, and its parents, where they are missing.
///
/// Errors, which name the folder: as [`replaced_path`], or it cannot be created.
pub fn create_folder_of(path: &Path) -> Result<()> {
    let target = replaced_path(path)?;
    let folder = target.parent().unwrap_or(Path::new(""));
    create_folder(folder).map_err(|error| {
        Error::io(format!("cannot create {}, the folder for {}", folder.display(), path.display()), &error)
    })
}

/// Checks that an output may have a path: nothing is there, an empty file, a file of the same
/// kind, an open descriptor or a character device. `is_own` gets the first bytes of a file, at most
/// `bytes_max`; `what` names the kind.
///
/// Errors: it is another file (`BadFormat`), or as [`replaced_path`].
pub fn check_own(path: &Path, what: &str, bytes_max: u64, is_own: impl FnOnce(&[u8]) -> bool) -> Result<()> {
    if is_stream(path) || !replaced_path(path)?.exists() {
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
