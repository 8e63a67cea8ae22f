//! A folder of checkpoints: lists them, records the latest, removes old ones.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{Error, Name, Result, Status, phrase};
use crate::checkpoint::manifest::Checksum;
use crate::checkpoint::read::Checkpoint;
use crate::host::files::{entries, remove_folder, retried, try_lock};
use crate::host::folder::{Kind, NewFile, Sweep, create_folder, open_folder, open_lock, sync_parent};
use crate::host::input;

/// Name of the file that names the newest checkpoint.
pub const LATEST: &str = "latest";
/// Largest such file that is read; it has 31 bytes.
const LATEST_BYTES_MAX: u64 = 1 << 10;
const LOCK: &str = ".lock";
const PREFIX: &str = "step-";
/// Errors of a path that leads to no folder.
const GONE: [io::ErrorKind; 2] = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];

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
    for entry in entries(folder).map_err(cannot)? {
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
    match retried(|| fs::symlink_metadata(path)) {
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
    let entries = match entries(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut foreign = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
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
    /// The folder itself. Its path may lead to another one later.
    folder: File,
    /// The folder and [`LOCK`], as far as the file system can lock them. NFS cannot lock folders; a
    /// file may be removed by the user while it is locked.
    files: Vec<File>,
    state: Mutex<State>,
}

/// The part of this process in a folder of checkpoints.
#[derive(Debug, Default)]
struct State {
    /// Steps of checkpoints that the run has left behind: it resumed before them.
    obsolete: BTreeSet<u64>,
    /// The last step whose checkpoint was written.
    written: Option<u64>,
    /// The last step that `latest` was made to name.
    latest: Option<u64>,
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
        let opened = open_folder(folder, true)?;
        let mut files = vec![opened.try_clone()?, open_lock(&folder.join(LOCK))?];
        let locked: Vec<_> = files.iter().map(try_lock).collect();
        if locked.iter().any(|locked| matches!(locked, Ok(false))) {
            return Ok(None);
        }
        let mut locked = locked.iter().map(Result::is_ok);
        files.retain(|_| locked.next() == Some(true));
        Ok(Some(Lock { folder: opened, files, state: Mutex::default() }))
    }
}

/// The error for a folder that is locked.
fn is_written(folder: &Path) -> Error {
    Error::new(
        Status::InvalidState,
        format!(
            "another run writes its checkpoints to {}; wait until it has ended, or give another folder",
            folder.display()
        ),
    )
}

/// Returns an error in reading from a folder of checkpoints. If something is missing and the folder
/// is locked, it says that a run may just have removed it.
pub fn cause(error: Error, folder: &Path) -> Error {
    let is_locked = error.status() == Status::NotFound
        && open_folder(folder, true).is_ok_and(|folder| matches!(try_lock(&folder), Ok(false)));
    if !is_locked {
        return error;
    }
    let folder = folder.display();
    error.map(|message| {
        format!("{message}: a run writes its checkpoints to {folder} now, and may just have removed it")
    })
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
            return Err(is_written(&folder));
        };
        // Without a lock, another process may be writing: what it holds is not removed.
        Sweep { sole: !lock.files.is_empty(), may_replace: Some(may_replace_step) }.all(&folder, is_target);
        NewFile::create_in(&folder, LATEST)?;
        let checkpoints = Checkpoints { folder, keep, companions, lock: Arc::new(lock) };
        checkpoints.check_place()?;
        Ok(checkpoints)
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

    /// Checks that the path still leads to the folder that is locked. Called before anything is
    /// written or removed.
    ///
    /// Errors: the folder was moved or removed (`InvalidState`).
    pub fn check_place(&self) -> Result<()> {
        let cannot = |error| Error::reading(&self.folder, &error);
        let id = |facts: &Metadata| (facts.dev(), facts.ino());
        let locked = retried(|| self.lock.folder.metadata()).map_err(cannot)?;
        let is_in_place = match retried(|| fs::metadata(&self.folder)) {
            Ok(found) => id(&found) == id(&locked),
            Err(error) if GONE.contains(&error.kind()) => false,
            Err(error) => return Err(cannot(error)),
        };
        if is_in_place {
            return Ok(());
        }
        Err(Error::new(
            Status::InvalidState,
            format!(
                "{} was moved or removed while a run wrote its checkpoints there; nothing more is written to it",
                self.folder.display()
            ),
        ))
    }

    /// Returns an error in writing, or that of [`Checkpoints::check_place`], which explains it.
    pub(super) fn explained(&self, error: Error) -> Error {
        self.check_place().err().unwrap_or(error)
    }

    /// Most permissions of a new checkpoint: those of the folder.
    pub(super) fn mode(&self) -> Result<u32> {
        let facts = retried(|| self.lock.folder.metadata());
        Ok(facts.map_err(|error| Error::reading(&self.folder, &error))?.mode())
    }

    /// The folder's path without links.
    pub fn real_folder(&self) -> Result<PathBuf> {
        retried(|| fs::canonicalize(&self.folder)).map_err(|error| Error::reading(&self.folder, &error))
    }

    /// Checks, before the run writes to the folder, that it has no checkpoints of another run.
    /// `last` is the step of the run's last checkpoint here: the one that it wrote, or from which
    /// it resumed; checkpoints of later steps become obsolete. `None`: the run has none here.
    /// Returns the steps of those that became obsolete.
    ///
    /// Errors: there are checkpoints, and `last` is `None` (`InvalidState`); a link or a file has
    /// the name of a later step.
    pub fn continue_run(&self, last: Option<u64>) -> Result<Vec<u64>> {
        let mut found = steps(&self.folder)?;
        if let Some(last) = last {
            found.retain(|&(step, _)| step > last);
            found.iter().try_for_each(|(_, folder)| may_replace_step(folder).map(drop))?;
            let later: Vec<u64> = found.into_iter().map(|(step, _)| step).collect();
            self.lock.state.lock().obsolete.extend(&later);
            return Ok(later);
        }
        if found.is_empty() {
            return Ok(Vec::new());
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
        self.check_place()?;
        let mut file = NewFile::create_in(&self.folder, LATEST)?;
        file.put(latest_text(&step_name(step)).as_bytes())?;
        file.finish()?;
        self.lock.state.lock().latest = Some(step);
        Ok(())
    }

    /// Notes that the checkpoint of a step has its name.
    pub(super) fn set_written(&self, step: u64) {
        let mut state = self.lock.state.lock();
        state.obsolete.remove(&step);
        state.written = Some(step);
    }

    /// The last step whose checkpoint was written here.
    pub fn written(&self) -> Option<u64> {
        self.lock.state.lock().written
    }

    /// Returns true unless a checkpoint was written here and `latest` could not be made to name it.
    pub fn is_latest(&self) -> bool {
        let state = self.lock.state.lock();
        state.written.is_none() || state.written == state.latest
    }

    /// Removes all but the newest `keep` checkpoints, after `step` has become the latest.
    /// Checkpoints of later steps, and others that the run left behind when it resumed before
    /// them, count as the oldest. Incomplete checkpoints and links are neither counted nor removed.
    pub fn remove_old(&self, step: u64) -> Result<()> {
        let Some(keep) = self.keep else { return Ok(()) };
        let mut complete = steps(&self.folder)?;
        complete.retain(|(_, folder)| !folder.is_symlink() && Checkpoint::open_step(folder).is_ok());
        let obsolete = self.lock.state.lock().obsolete.clone();
        complete.sort_by_key(|&(one, _)| (one <= step && !obsolete.contains(&one), one));
        for (_, folder) in complete.iter().take(complete.len().saturating_sub(keep.get())) {
            self.check_place()?;
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
    retried(|| fs::rename(folder, &hidden))?;
    sync_parent(folder)?;
    remove_folder(&hidden)
}
