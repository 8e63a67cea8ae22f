//! A folder of checkpoints: lists them, records the latest, removes old ones.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{Error, Name, Result, Status, phrase};
use crate::checkpoint::manifest::Checksum;
use crate::checkpoint::read::Checkpoint;
use crate::host::folder::{Kind, NewFile, Sweep, create_folder, open_folder, open_lock, sync_parent};
use crate::host::input;

/// Name of the file that names the newest checkpoint.
pub const LATEST: &str = "latest";
/// Largest such file that is read; it has 31 bytes.
const LATEST_BYTES_MAX: u64 = 1 << 10;
const LOCK: &str = ".lock";
const PREFIX: &str = "step-";

/// Returns the name of a step's folder. Names sort like steps up to 10⁸ steps.
pub fn step_name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// Returns the step whose folder has this name.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix(PREFIX)?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// Returns true if a path is named like the folder of a step.
pub fn is_step(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(step_of).is_some()
}

/// Returns the folders named after steps, sorted by step: complete checkpoints and remains of
/// others.
pub fn steps(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let cannot = |error| Error::reading(folder, &error);
    let mut steps = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        if let Some(step) = entry.file_name().to_str().and_then(step_of) {
            steps.push((step, entry.path()));
        }
    }
    steps.sort();
    Ok(steps)
}

/// Returns the checkpoint that `latest` names; `None` if there is no such file. Errors name the
/// file.
pub fn read_latest(folder: &Path) -> Result<Option<PathBuf>> {
    let path = folder.join(LATEST);
    let Some(text) = input::read_if_there(&path, LATEST_BYTES_MAX)? else { return Ok(None) };
    let name = std::str::from_utf8(&text).ok().and_then(|text| text.split_once(' ')).map(|(name, _)| name);
    match name.filter(|name| step_of(name).is_some() && latest_text(name).as_bytes() == text) {
        Some(name) => Ok(Some(folder.join(name))),
        None => Err(Error::new(
            Status::BadFormat,
            format!(
                "{} is damaged: it must contain the name of a checkpoint and its checksum",
                path.display()
            ),
        )),
    }
}

fn latest_text(name: &str) -> String {
    format!("{name} {}\n", Checksum::of(name.as_bytes()))
}

/// Returns true for the names that this module writes into a folder of checkpoints.
fn is_ours(name: &str) -> bool {
    name == LOCK || is_target(name) || Kind::parse(name).is_some_and(|(target, _)| is_target(target))
}

/// Returns true for the names that are written under a hidden name first.
fn is_target(name: &str) -> bool {
    name == LATEST || step_of(name).is_some()
}

/// Returns true if a step's path has a folder, which is replaced, and false if nothing is there.
/// Errors: it has something else, such as a link.
pub(super) fn may_replace_step(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => Ok(true),
        Ok(_) => Err(Error::argument(format!(
            "cannot write to {}: it is a link or a file, not a folder; move it away",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::reading(path, &error)),
    }
}

/// Returns a file that keeps a folder from becoming a folder of checkpoints. A folder that already
/// is one may contain other files, such as an export.
fn foreign_file(folder: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut foreign = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_ours(&name) {
            return Ok(None);
        }
        foreign.push(name);
    }
    Ok(foreign.into_iter().min())
}

/// The lock of a folder of checkpoints.
#[derive(Debug)]
struct Lock {
    /// The folder itself and [`LOCK`], as far as the file system can lock them. NFS cannot lock
    /// folders; a file may be removed by the user while it is locked.
    files: Vec<File>,
    /// Steps of checkpoints that the run has left behind: it resumed before them.
    obsolete: Mutex<BTreeSet<u64>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would not unlock it while a forked child has it open. An error leaves
        // the lock until then.
        self.files.iter().for_each(|file| drop(file.unlock()));
    }
}

impl Lock {
    /// Locks a folder; `None` if another process, or another lock of this process, has locked it.
    fn take(folder: &Path) -> io::Result<Option<Lock>> {
        let mut files = vec![open_folder(folder, true)?, open_lock(&folder.join(LOCK))?];
        let locked: Vec<_> = files.iter().map(File::try_lock).collect();
        if locked.iter().any(|locked| matches!(locked, Err(TryLockError::WouldBlock))) {
            return Ok(None);
        }
        let mut locked = locked.iter().map(Result::is_ok);
        files.retain(|_| locked.next() == Some(true));
        Ok(Some(Lock { files, obsolete: Mutex::default() }))
    }
}

/// A folder of checkpoints, locked for writing by this value and those that
/// [`Checkpoints::with`] made of it. Dropping all of them releases the lock.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: Option<NonZeroUsize>,
    /// Names and contents of the files stored with every checkpoint.
    pub(super) companions: Vec<(&'static str, Vec<u8>)>,
    lock: Arc<Lock>,
}

impl Checkpoints {
    /// Opens a folder for writing; creates it if necessary. `companions` are names and contents of
    /// the files stored with every checkpoint (config and tokenizer). `keep` is the number of
    /// checkpoints that are kept; `None` keeps all. Incomplete files of a killed process are
    /// removed.
    ///
    /// Errors: the folder has other files and is not a folder of checkpoints (`InvalidArgument`);
    /// another process, or another `Checkpoints` of this process, has locked it (`InvalidState`);
    /// it cannot be written to.
    pub fn create(
        folder: &Path,
        companions: Vec<(&'static str, Vec<u8>)>,
        keep: Option<NonZeroUsize>,
    ) -> Result<Checkpoints> {
        let cannot = |error: io::Error| Error::io(format!("cannot write to {}", folder.display()), &error);
        let folder = std::path::absolute(folder).map_err(cannot)?;
        if let Some(name) = foreign_file(&folder).map_err(cannot)? {
            return Err(Error::argument(format!(
                "{} contains {name} and is not a folder of checkpoints; give a new or empty folder",
                folder.display()
            )));
        }
        create_folder(&folder).map_err(cannot)?;
        let Some(lock) = Lock::take(&folder).map_err(cannot)? else {
            return Err(Error::new(
                Status::InvalidState,
                format!(
                    "another run writes its checkpoints to {}; wait until it has ended, or give another folder",
                    folder.display()
                ),
            ));
        };
        // Without a lock, another process may be writing: what it holds is not removed.
        Sweep { sole: !lock.files.is_empty(), may_replace: Some(may_replace_step) }.all(&folder, is_target);
        Ok(Checkpoints { folder, keep, companions, lock: Arc::new(lock) })
    }

    /// Returns the same folder, under the same lock, with other `companions` and another `keep`.
    pub fn with(&self, companions: Vec<(&'static str, Vec<u8>)>, keep: Option<NonZeroUsize>) -> Checkpoints {
        Checkpoints { folder: self.folder.clone(), keep, companions, lock: self.lock.clone() }
    }

    /// Returns the same folder, under the same lock, from which no checkpoint is removed.
    pub fn keeping_all(&self) -> Checkpoints {
        self.with(self.companions.clone(), None)
    }

    /// The folder's path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder's path without links.
    pub fn real_folder(&self) -> Result<PathBuf> {
        fs::canonicalize(&self.folder).map_err(|error| Error::reading(&self.folder, &error))
    }

    /// Checks, before the run writes to the folder, that it has no checkpoints of another run.
    /// `last` is the step of the run's last checkpoint here: the one that it wrote, or from which
    /// it resumed; checkpoints of later steps become obsolete. `None`: the run has none here.
    ///
    /// Errors: there are checkpoints, and `last` is `None` (`InvalidState`).
    pub fn continue_run(&self, last: Option<u64>) -> Result<()> {
        let found = steps(&self.folder)?;
        if let Some(last) = last {
            let later = found.into_iter().map(|(step, _)| step).filter(|&step| step > last);
            self.lock.obsolete.lock().extend(later);
            return Ok(());
        }
        if found.is_empty() {
            return Ok(());
        }
        let (folder, [command, c, rust]) = (self.folder.display(), Name::Resume.spellings());
        Err(Error::new(
            Status::InvalidState,
            format!(
                "{folder} has checkpoints already; to continue them: {}; or give another folder",
                phrase(format!("{command} {folder}"), c, rust)
            ),
        ))
    }

    /// Points `latest` at a step's folder, which must exist.
    pub fn set_latest(&self, step: u64) -> Result<()> {
        let mut file = NewFile::create_in(&self.folder, LATEST)?;
        file.put(latest_text(&step_name(step)).as_bytes())?;
        file.finish()
    }

    /// Removes all but the newest `keep` checkpoints, after `step` has become the latest.
    /// Checkpoints of later steps, and others that the run left behind when it resumed before
    /// them, count as the oldest. Incomplete checkpoints and links are neither counted nor removed.
    pub(super) fn remove_old(&self, step: u64) -> Result<()> {
        self.lock.obsolete.lock().remove(&step);
        let Some(keep) = self.keep else { return Ok(()) };
        let mut complete = steps(&self.folder)?;
        complete.retain(|(_, folder)| !folder.is_symlink() && Checkpoint::open_step(folder).is_ok());
        let obsolete = self.lock.obsolete.lock().clone();
        complete.sort_by_key(|&(one, _)| (one <= step && !obsolete.contains(&one), one));
        for (_, folder) in complete.iter().take(complete.len().saturating_sub(keep.get())) {
            remove(folder).map_err(|error| {
                let latest = step_name(step);
                Error::io(
                    format!("{latest} is complete, but the old {} cannot be removed", folder.display()),
                    &error,
                )
            })?;
        }
        Ok(())
    }
}

/// Removes a checkpoint. It is renamed first, so that a folder whose removal is interrupted, also by
/// a power cut, does not look like a checkpoint.
fn remove(folder: &Path) -> io::Result<()> {
    let hidden = Kind::Removed.path(folder)?;
    fs::rename(folder, &hidden)?;
    sync_parent(folder)?;
    fs::remove_dir_all(&hidden)
}
