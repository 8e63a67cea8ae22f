//! Hidden files and folders: their names, their locks, and the removal of those left behind.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::{MayReplace, facts, open_folder, sync_parent};
use crate::host::files::{entries, remove_folder, retried, try_lock};

/// Meaning of a hidden name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Being written.
    Partial,
    /// A complete folder, on its way to the final name or away from it.
    Replaced,
    /// Being removed.
    Removed,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Partial, Kind::Replaced, Kind::Removed];

    fn word(self) -> &'static str {
        match self {
            Kind::Partial => "partial",
            Kind::Replaced => "replaced",
            Kind::Removed => "removed",
        }
    }

    /// Returns a new hidden path next to `target`.
    pub fn path(self, target: &Path) -> io::Result<PathBuf> {
        let mut name = OsString::from(".");
        name.push(target.file_name().ok_or(ErrorKind::InvalidFilename)?);
        name.push(format!(".{}-{}-{:016x}", self.word(), std::process::id(), rand::random::<u64>()));
        Ok(target.with_file_name(name))
    }

    /// Parses a hidden name, also one without random bits. Returns the name of its target.
    pub fn parse(name: &str) -> Option<(&str, Kind)> {
        let (target, end) = name.strip_prefix('.')?.rsplit_once('.')?;
        let mut parts = end.split('-');
        let word = parts.next()?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        let [process, random, more] = [parts.next(), parts.next(), parts.next()];
        let is_process = match process {
            Some(process) => process.parse::<u32>().is_ok(),
            None => kind == Kind::Replaced,
        };
        let is_random =
            |text: &str| text.len() == 16 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        (!target.is_empty() && is_process && random.is_none_or(is_random) && more.is_none())
            .then_some((target, kind))
    }
}

/// Attempts to create a hidden name. More than one is needed only if another process removes it
/// before it is locked.
const ATTEMPTS: usize = 16;

/// A hidden file or folder of this process, locked. It is removed when dropped, unless it was
/// published.
#[derive(Debug)]
pub struct Hidden {
    path: PathBuf,
    file: File,
    is_folder: bool,
    kept: bool,
}

impl Hidden {
    /// Creates a file next to `target`. `private`: only its owner may read it.
    pub(super) fn file(target: &Path, private: bool) -> io::Result<Hidden> {
        let mode = if private { 0o600 } else { 0o666 };
        Hidden::create(target, false, |path| {
            let flags = OFlag::O_NOFOLLOW.bits();
            File::options().write(true).create_new(true).mode(mode).custom_flags(flags).open(path)
        })
    }

    /// Creates a folder next to `target` with at most these permissions.
    pub(super) fn folder(target: &Path, mode: u32) -> io::Result<Hidden> {
        Hidden::create(target, true, |path| {
            retried(|| DirBuilder::new().mode(mode).create(path))?;
            open_folder(path, false).inspect_err(|_| {
                // Best effort: that error is reported, not this one.
                let _ = fs::remove_dir(path);
            })
        })
    }

    fn create(
        target: &Path,
        is_folder: bool,
        make: impl Fn(&Path) -> io::Result<File>,
    ) -> io::Result<Hidden> {
        let mut last = io::Error::from(ErrorKind::AlreadyExists);
        for _ in 0..ATTEMPTS {
            let path = Kind::Partial.path(target)?;
            let file = match make(&path) {
                Ok(file) => file,
                Err(error) if [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()) => {
                    last = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A sweep may have locked or removed it before this lock. Then it is given up.
            let is_ours = !matches!(try_lock(&file), Ok(false));
            let hidden = Hidden { path, file, is_folder, kept: false };
            if is_ours && facts(&hidden.path).is_ok() {
                return Ok(hidden);
            }
            last = ErrorKind::WouldBlock.into();
        }
        Err(last)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn opened(&self) -> &File {
        &self.file
    }

    /// Gives it another hidden name.
    pub(super) fn rename(&mut self, path: PathBuf) -> io::Result<()> {
        retried(|| fs::rename(&self.path, &path))?;
        self.path = path;
        Ok(())
    }

    /// Gives it its final name, atomically. A file replaces a file; a folder, an empty folder.
    pub(super) fn publish(&mut self, target: &Path) -> io::Result<()> {
        retried(|| fs::rename(&self.path, target))?;
        self.keep(true);
        Ok(())
    }

    /// Chooses whether what has the hidden path stays when this is dropped.
    pub(super) fn keep(&mut self, keep: bool) {
        self.kept = keep;
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Best effort: after an error that error is reported, and a sweep repeats the removal.
        // Closing the file would not unlock it while a forked child has it open.
        if !self.kept {
            let _ = remove(&self.path, self.is_folder);
        }
        let _ = self.file.unlock();
    }
}

fn remove(path: &Path, is_folder: bool) -> io::Result<()> {
    if is_folder { remove_folder(path) } else { retried(|| fs::remove_file(path)) }
}

/// A file or folder of another writer, locked until it is dropped.
pub(super) struct Held {
    path: PathBuf,
    /// `None` for a link, which cannot be opened.
    file: Option<File>,
    is_folder: bool,
}

impl Held {
    /// Opens a file, folder or link itself; `None` for anything else.
    fn open(path: &Path) -> io::Result<Option<Held>> {
        let kind = facts(path)?.file_type();
        let file = if kind.is_dir() {
            Some(open_folder(path, false)?)
        } else if kind.is_file() {
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            // For writing: NFS gives no exclusive lock otherwise.
            Some(File::options().read(true).write(true).custom_flags(flags.bits()).open(path)?)
        } else if kind.is_symlink() {
            None
        } else {
            return Ok(None);
        };
        Ok(Some(Held { path: path.to_owned(), file, is_folder: kind.is_dir() }))
    }

    /// Waits for the lock of a folder. On a file system without locks it is not locked.
    pub(super) fn wait(path: &Path) -> io::Result<Held> {
        let held = Held { path: path.to_owned(), file: Some(open_folder(path, false)?), is_folder: true };
        // An error: there are no locks.
        let _ = held.file.as_ref().map(|file| retried(|| file.lock()));
        Ok(held)
    }

    /// Locks what no living writer has locked. `sole`: there are no other writers, so that what
    /// cannot be locked is free, too.
    fn take(path: &Path, sole: bool) -> Option<Held> {
        let held = Held::open(path).ok()??;
        let free = held.file.as_ref().and_then(|file| try_lock(file).ok()).unwrap_or(sole);
        free.then_some(held)
    }

    /// Removes it. Links in it, and a link itself, are not followed. If this is interrupted, a sweep
    /// removes the rest.
    pub(super) fn remove(&self) -> io::Result<()> {
        let removed = self.named_for_removal().and_then(|path| remove(&path, self.is_folder));
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Renames a replaced folder, which a sweep keeps once it is incomplete; returns its path.
    fn named_for_removal(&self) -> io::Result<PathBuf> {
        match self.path.file_name().and_then(|name| name.to_str()).and_then(Kind::parse) {
            Some((target, Kind::Replaced)) => {
                let path = Kind::Removed.path(&self.path.with_file_name(target))?;
                retried(|| fs::rename(&self.path, &path))?;
                Ok(path)
            }
            _ => Ok(self.path.clone()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // As for `Hidden`.
        let _ = self.file.as_ref().map(File::unlock);
    }
}

/// Removal of the hidden files and folders that killed writers left.
#[derive(Debug)]
pub struct Sweep {
    /// There are no other writers: a lock of the caller keeps them out.
    pub sole: bool,
    /// Tells whether a folder that was being replaced may be removed or, if nothing is at its path,
    /// restored. `None`: such folders stay.
    pub may_replace: Option<MayReplace>,
}

impl Sweep {
    /// Removes what killed writers of `target` left. Best effort: what remains takes space, and the
    /// next sweep tries again.
    pub fn next_to(&self, target: &Path) {
        let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return };
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.all(parent.unwrap_or(Path::new(".")), |other| other == name);
    }

    /// Removes what killed writers of the names that `is_target` selects left in a folder.
    pub fn all(&self, folder: &Path, is_target: impl Fn(&str) -> bool) {
        for entry in entries(folder).unwrap_or_default() {
            let name = entry.file_name();
            if let Some((target, kind)) = name.to_str().and_then(Kind::parse)
                && is_target(target)
                && let Some(held) = Held::take(&entry.path(), self.sole)
            {
                // Best effort.
                let _ = self.one(&held, &folder.join(target), kind);
            }
        }
    }

    fn one(&self, held: &Held, target: &Path, kind: Kind) -> io::Result<()> {
        if kind != Kind::Replaced {
            return held.remove();
        }
        let Some(may_replace) = self.may_replace.filter(|_| held.is_folder) else { return Ok(()) };
        let Ok(is_full) = may_replace(&held.path) else { return Ok(()) };
        if is_full && facts(target).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            // The writer was killed between two renames.
            retried(|| fs::rename(&held.path, target))?;
            return sync_parent(target);
        }
        held.remove()
    }
}
