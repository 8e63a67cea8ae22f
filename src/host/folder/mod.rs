//! Atomic creation and replacement of folders and files: the only place that creates them.
//!
//! A [`NewFile`] or [`NewFolder`] is written under a hidden name next to its final name, synced to
//! disk and renamed; then its parent is synced. At any moment, also after a crash or a power cut,
//! the old content or the new content exists completely. What replaces a file or folder keeps its
//! permissions.
//!
//! # Hidden names
//! `.NAME.partial-PID-RANDOM`, with 64 random bits: threads, processes and containers with equal
//! ids do not collide, and no link can be planted at a name in advance. While its writer lives, a
//! hidden file or folder is locked (`flock`). The next writer of `NAME` removes those that are not
//! locked: their writer was killed. What the file system cannot lock (NFS: folders) is left alone.
//!
//! # Several writers of one name
//! They do not disturb each other: `NAME` is always complete, in the end that of the last to
//! finish.

mod file;
mod hidden;
mod new;
mod output;

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::base::{Error, Result};
use crate::host::files::retried;

pub use file::{
    NewFile, check_output, check_replaceable, is_stream, names_descriptor, open_stream, replace_file,
    replace_link, replaced_path, unnamed_file, write_output,
};
pub use hidden::{Kind, Sweep};
pub use new::{Filling, MayReplace, NewFolder, SizedFile};
pub use output::{check_own, create_folder_of};

/// Creates a folder and its missing parents, and syncs each new name to disk.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new(""));
    create_folder(parent)?;
    match retried(|| fs::create_dir(folder)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(folder),
    }
}

/// Checks that a folder is this user's alone, and not reached through a link; if `create`, it is
/// created with its parents if it does not exist.
pub fn private_folder(folder: &Path, create: bool) -> Result<()> {
    let cannot = |error: io::Error| Error::io(format!("cannot use {}", folder.display()), &error);
    if create {
        retried(|| DirBuilder::new().recursive(true).mode(0o700).create(folder)).map_err(cannot)?;
    }
    let metadata = facts(folder).map_err(cannot)?;
    let others = metadata.mode() & 0o077;
    if metadata.is_dir() && metadata.uid() == geteuid().as_raw() && others == 0 {
        return Ok(());
    }
    Err(Error::argument(format!("{} is not a folder of this user alone", folder.display())))
}

/// Opens a folder. `links`: also through a link.
pub fn open_folder(folder: &Path, links: bool) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | if links { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    File::options().read(true).custom_flags(flags.bits()).open(folder)
}

/// Opens a lock file, or creates it. It is never changed.
///
/// Errors: it is a link, or not a regular file.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(path);
    if facts(path).is_ok_and(|data| !data.is_file()) {
        return Err(io::Error::other(format!("{} is not a regular file; remove it", path.display())));
    }
    file
}

/// Syncs the folder of a path, and so the path's name.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    open_folder(parent.unwrap_or(Path::new(".")), true)?.sync_all()
}

/// Gives a new file or folder the permissions of the one that it replaces and, where this process
/// may, its owner and group. If the group cannot be kept, it gets no permissions.
fn keep_access(new: &File, old: &Metadata) -> io::Result<()> {
    let created = retried(|| new.metadata())?;
    if created.uid() != old.uid() {
        // Only root may give files away; otherwise the new owner is this user.
        let _ = fchown(new, Some(old.uid()), None);
    }
    let keeps_group = created.gid() == old.gid() || fchown(new, None, Some(old.gid())).is_ok();
    let mode = old.mode() & if keeps_group { 0o777 } else { 0o707 };
    if created.mode() & 0o777 == mode {
        return Ok(());
    }
    new.set_permissions(Permissions::from_mode(mode))
}

/// Returns what a path has itself, also if that is a link.
fn facts(path: &Path) -> io::Result<Metadata> {
    retried(|| fs::symlink_metadata(path))
}

#[cfg(test)]
mod tests;
