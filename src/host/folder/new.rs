//! Folders that appear or are replaced completely or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::hidden::{Held, Hidden, Kind, Sweep};
use super::{create_folder, facts, keep_access, sync_parent};
use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::host::files::{self, retried};

/// Returns true if what is at a path may be replaced and removed, and false if nothing is there, or
/// an empty folder. Errors: it must be kept. It may have another path while it is replaced.
pub type MayReplace = fn(&Path) -> Result<bool>;

/// A folder to be written.
#[derive(Clone, Debug)]
pub struct NewFolder {
    folder: PathBuf,
    may_replace: MayReplace,
    /// Most permissions of a folder that replaces none.
    mode: u32,
}

/// Attempts to publish a folder while other writers publish theirs to the same path.
const ATTEMPTS: usize = 100;

impl NewFolder {
    /// Checks that a folder of at most `bytes` bytes can be written. Creates missing parents, and
    /// removes what killed writers of the same folder left. `folder` is not followed if it is a
    /// link.
    ///
    /// Errors: those of `may_replace`; the path cannot name a folder, the parent is not writable,
    /// too little disk space (`DiskFull`).
    pub fn plan(folder: &Path, bytes: u64, may_replace: MayReplace) -> Result<NewFolder> {
        let cannot = |error: &io::Error| Error::io(format!("cannot write to {}", folder.display()), error);
        let whole = std::path::absolute(folder).map_err(|error| cannot(&error))?;
        let (Some(parent), Some(_)) = (whole.parent(), whole.file_name()) else {
            return Err(Error::argument(format!("{} cannot name a new folder", folder.display())));
        };
        create_folder(parent).map_err(|error| cannot(&error))?;
        Sweep { sole: false, may_replace: Some(may_replace) }.next_to(&whole);
        may_replace(&whole)?;
        let free = Hidden::folder(&whole, 0o700).and_then(|hidden| files::free_bytes(hidden.path()));
        let free = free.map_err(|error| cannot(&error))?;
        if free < bytes {
            return Err(Error::new(
                Status::DiskFull,
                format!(
                    "{} needs {} of disk space, {} are free there",
                    folder.display(),
                    Size(bytes as usize),
                    Size(free as usize)
                ),
            ));
        }
        Ok(NewFolder { folder: whole, may_replace, mode: 0o777 })
    }

    /// Returns the same folder, to which others get at most the permissions in `mode`, unless it
    /// replaces one.
    pub fn limited(self, mode: u32) -> NewFolder {
        NewFolder { mode: 0o700 | mode & 0o777, ..self }
    }

    /// The final path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fills the folder with `fill`, then publishes it as [`Filling::publish`]. If `fill` fails, the
    /// final path is unchanged.
    pub fn write(&self, fill: impl FnOnce(&Filling) -> Result<()>) -> Result<()> {
        let filling = self.begin()?;
        fill(&filling)?;
        filling.publish()
    }

    /// Creates the hidden folder. It is removed again if the result is dropped before
    /// [`Filling::publish`].
    pub fn begin(&self) -> Result<Filling> {
        let mode = if self.old().is_some() { 0o700 } else { self.mode };
        let hidden = Hidden::folder(&self.folder, mode).map_err(|error| self.cannot(&error))?;
        Ok(Filling { new: self.clone(), hidden })
    }

    /// The folder to be replaced.
    fn old(&self) -> Option<fs::Metadata> {
        facts(&self.folder).ok().filter(fs::Metadata::is_dir)
    }

    fn cannot(&self, error: &io::Error) -> Error {
        Error::io(format!("cannot write to {}", self.folder.display()), error)
    }

    /// Gives the final path to a complete folder, and takes it from an existing one. A crash in
    /// between leaves one of them at the final path or, on a file system that cannot exchange
    /// names, both under hidden names, of which a sweep restores one.
    fn replace(&self, hidden: &mut Hidden) -> Result<Option<Held>, Failed> {
        hidden.rename(Kind::Replaced.path(&self.folder)?)?;
        let (new, folder) = (hidden.path().to_owned(), &*self.folder);
        if files::exchange(&new, folder).is_ok() {
            // The old folder has the hidden path now.
            hidden.keep(true);
            return self.checked(&new).or_else(|failed| {
                files::exchange(&new, folder)?;
                hidden.keep(false);
                Err(failed)
            });
        }
        let aside = Kind::Replaced.path(folder)?;
        retried(|| fs::rename(folder, &aside))?;
        let old =
            self.checked(&aside).and_then(|old| hidden.publish(folder).map(|()| old).map_err(Failed::Rename));
        old.or_else(|failed| match retried(|| fs::rename(&aside, folder)) {
            // Another writer has published its folder.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Err(error.into()),
            back => back.map_err(Failed::Rename).and(Err(failed)),
        })
    }

    /// Locks the folder that was at the final path, so that no sweep removes it; `None` if one has.
    /// Errors: another process put something there that must be kept, after the first check.
    fn checked(&self, old: &Path) -> Result<Option<Held>, Failed> {
        let held = match Held::wait(old) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            held => held?,
        };
        (self.may_replace)(old).map_err(Failed::Kept)?;
        Ok(Some(held))
    }
}

/// Why a folder could not be published.
enum Failed {
    /// A call failed; another writer may have been faster.
    Rename(io::Error),
    /// The existing folder must be kept, and is.
    Kept(Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Rename(error)
    }
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct Filling {
    new: NewFolder,
    hidden: Hidden,
}

impl Filling {
    /// Writes and syncs a file with this content. Errors name the file.
    pub fn whole(&self, name: &str, content: &[u8]) -> Result<()> {
        let file = self.sized(name, content.len() as u64)?;
        file.write_at(0, content)?;
        file.sync()
    }

    /// Creates a file of `bytes` bytes, which any threads may then write. It gets the permissions of
    /// the file of that name in the folder that is replaced. Errors name the file.
    pub fn sized(&self, name: &str, bytes: u64) -> Result<SizedFile> {
        let path = self.hidden.path().join(name);
        let old = facts(&self.new.folder.join(name)).ok().filter(fs::Metadata::is_file);
        let create = || {
            let mode = if old.is_some() { 0o600 } else { 0o666 & self.new.mode };
            let file = File::options().write(true).create_new(true).mode(mode).open(&path)?;
            old.map_or(Ok(()), |old| keep_access(&file, &old))?;
            files::allocate(&file, bytes)?;
            Ok(file)
        };
        let file = create().map_err(|error| Error::writing(&path, &error))?;
        Ok(SizedFile { path, file, bytes })
    }

    /// Gives the folder its final name, then removes the folder that it replaces. Every file has
    /// been synced.
    ///
    /// Errors: those of `may_replace`; the final path is then unchanged.
    pub fn publish(mut self) -> Result<()> {
        let Filling { new, hidden } = &mut self;
        let prepare = || {
            new.old().map_or(Ok(()), |old| keep_access(hidden.opened(), &old))?;
            hidden.opened().sync_all()
        };
        prepare().map_err(|error| new.cannot(&error))?;
        let mut attempts = 1..=ATTEMPTS;
        let old = loop {
            let renamed = match (new.may_replace)(&new.folder)? {
                true => new.replace(hidden),
                false => hidden.publish(&new.folder).map(|()| None).map_err(Failed::Rename),
            };
            match renamed {
                Ok(old) => break old,
                Err(Failed::Kept(error)) => return Err(error),
                // Another writer has published or replaced the folder in between.
                Err(Failed::Rename(error)) if is_race(&error) && attempts.next().is_some() => {}
                Err(Failed::Rename(error)) => {
                    hidden.keep(true);
                    let (folder, hidden) = (new.folder.display(), hidden.path().display());
                    let what = format!(
                        "{folder} is written completely as {hidden}, but renaming it failed; move it before \
                         anything else is written to {folder}"
                    );
                    return Err(Error::io(what, &error));
                }
            }
        };
        sync_parent(&new.folder).map_err(|error| new.cannot(&error))?;
        old.map_or(Ok(()), |old| old.remove()).map_err(|error| {
            let folder = new.folder.display();
            Error::io(
                format!("{folder} is complete, but the folder that it replaces cannot be removed"),
                &error,
            )
        })
    }
}

/// True for an error of a rename that another writer may have caused.
fn is_race(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty)
}

/// A file with its final length, written in any order.
#[derive(Debug)]
pub struct SizedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl SizedFile {
    /// Writes `content` at `offset`.
    ///
    /// # Panics
    /// If the range exceeds the file.
    pub fn write_at(&self, offset: u64, content: &[u8]) -> Result<()> {
        let end = offset.checked_add(content.len() as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "a write exceeds {}", self.path.display());
        self.file.write_all_at(content, offset).map_err(|error| Error::writing(&self.path, &error))
    }

    /// Syncs the file to disk. Must be called before [`Filling::publish`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::writing(&self.path, &error))
    }
}
