//! A folder of checkpoints: which there are, which is the latest, and which go.

use std::fs::{self, File, TryLockError};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};
use crate::checkpoint::manifest::Checksum;
use crate::checkpoint::read::Checkpoint;
use crate::host::folder::replace_file;

/// The file that names the newest checkpoint.
pub const LATEST: &str = "latest";
const LOCK: &str = ".lock";
const PREFIX: &str = "step-";
/// How the hidden name begins under which [`LATEST`] is written.
const PARTIAL_LATEST: &str = "latest.partial-";

/// The name of a step's folder. Names sort as steps do, to 10⁸ steps.
pub fn step_name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// The step whose folder has this name.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix(PREFIX)?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// Whether a path is named as the folder of a step is.
pub fn is_step(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(step_of).is_some()
}

/// Folders named after steps, by step: checkpoints, or what is left of some.
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

/// What `latest` says; nothing where there is no such file. Errors name it.
pub fn read_latest(folder: &Path) -> Result<Option<PathBuf>> {
    let path = folder.join(LATEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::reading(&path, &error)),
    };
    let name = std::str::from_utf8(&text).ok().and_then(|text| text.split_once(' ')).map(|(name, _)| name);
    match name.filter(|name| step_of(name).is_some() && latest_text(name).as_bytes() == text) {
        Some(name) => Ok(Some(folder.join(name))),
        None => Err(Error::new(
            Status::BadFormat,
            format!("{} is damaged: it is not the name of a checkpoint and its checksum", path.display()),
        )),
    }
}

fn latest_text(name: &str) -> String {
    format!("{name} {}\n", Checksum::of(name.as_bytes()))
}

/// Whether a name in a folder of checkpoints is one of ours.
fn is_ours(name: &str) -> bool {
    let hidden = name.strip_prefix('.').unwrap_or("");
    name == LOCK
        || name == LATEST
        || step_of(name).is_some()
        || hidden.starts_with(PREFIX)
        || hidden.starts_with(PARTIAL_LATEST)
}

/// A file for which a folder cannot become one of checkpoints; one that is one already may hold others, such as an export.
fn stranger(folder: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut strangers = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_ours(&name) {
            return Ok(None);
        }
        strangers.push(name);
    }
    Ok(strangers.into_iter().min())
}

/// A folder of checkpoints that this process writes, and no other. It is given back when this is dropped.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: Option<NonZeroUsize>,
    /// Names and contents of the files stored with every checkpoint.
    pub(super) companions: Vec<(&'static str, Vec<u8>)>,
    /// Held as long as it is open; nothing where the file system has no locks.
    lock: Option<File>,
}

impl Checkpoints {
    /// Opens a folder for writing, or makes it. `companions` are names and contents of the files stored with every checkpoint:
    /// config and tokenizer. `keep` is the number of checkpoints that stay; all if `None`. Half-written files of a killed process
    /// are removed.
    ///
    /// Errors: it holds other files and was never a folder of checkpoints (`InvalidArgument`); another process, or another
    /// such value, writes there (`InvalidState`); it cannot be written to.
    pub fn create(
        folder: &Path,
        companions: Vec<(&'static str, Vec<u8>)>,
        keep: Option<NonZeroUsize>,
    ) -> Result<Checkpoints> {
        let cannot = |error: io::Error| Error::io(format!("cannot write to {}", folder.display()), &error);
        let folder = std::path::absolute(folder).map_err(cannot)?;
        if let Some(name) = stranger(&folder).map_err(cannot)? {
            return Err(Error::argument(format!(
                "{} holds {name} and is no folder of checkpoints: name a new or an empty folder for them",
                folder.display()
            )));
        }
        fs::create_dir_all(&folder).map_err(cannot)?;
        let lock = File::create(folder.join(LOCK)).map_err(cannot)?;
        let lock = match lock.try_lock() {
            Ok(()) => Some(lock),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Status::InvalidState,
                    format!(
                        "another run writes its checkpoints to {}: wait for it, or name another folder",
                        folder.display()
                    ),
                ));
            }
            // A file system without locks cannot tell; then nothing is removed either.
            Err(TryLockError::Error(_)) => None,
        };
        let checkpoints = Checkpoints { folder, keep, companions, lock };
        checkpoints.clean().map_err(cannot)?;
        Ok(checkpoints)
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes sure that what is written here next belongs to what is here already: to nothing, or to the run that goes on
    /// from `resumed`, which lies here. Gives whether that does.
    ///
    /// Errors: there are checkpoints of another run (`InvalidState`).
    pub fn belong_to(&self, resumed: Option<&Checkpoint>) -> Result<bool> {
        let whole = |folder: &Path| fs::canonicalize(folder).map_err(|error| Error::reading(folder, &error));
        if let Some(resumed) = resumed
            && whole(resumed.folder())?.parent() == Some(&whole(&self.folder)?)
        {
            return Ok(true);
        }
        if steps(&self.folder)?.is_empty() {
            return Ok(false);
        }
        Err(Error::new(
            Status::InvalidState,
            format!(
                "{} holds checkpoints of another run: go on from them (--resume), or name another folder",
                self.folder.display()
            ),
        ))
    }

    /// Points `latest` at a step's folder, which is there.
    pub fn set_latest(&self, step: u64) -> Result<()> {
        let path = self.folder.join(LATEST);
        let text = latest_text(&step_name(step));
        replace_file(&path, |out| {
            out.write_all(text.as_bytes()).map_err(|error| Error::writing(&path, &error))
        })
    }

    /// Removes hidden files and folders of ours. While the lock is held nobody fills them.
    fn clean(&self) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let hidden = name.to_str().and_then(|name| name.strip_prefix('.'));
            if hidden.is_some_and(|name| name.starts_with(PREFIX)) {
                fs::remove_dir_all(entry.path())?;
            } else if hidden.is_some_and(|name| name.starts_with(PARTIAL_LATEST)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the oldest beyond what is kept, after `step` has become the latest. Those of later steps are what
    /// is left of a run that went on otherwise, and count as the oldest. What is not whole is neither counted nor removed.
    pub(super) fn retire(&self, step: u64) -> Result<()> {
        let Some(keep) = self.keep else { return Ok(()) };
        let mut whole = steps(&self.folder)?;
        whole.retain(|(_, folder)| Checkpoint::open_step(folder).is_ok());
        whole.sort_by_key(|&(one, _)| (one <= step, one));
        for (old, folder) in whole.iter().take(whole.len().saturating_sub(keep.get())) {
            // Under a hidden name first: what is half gone must not look like a checkpoint.
            let hidden = self.folder.join(format!(".{}.removed-{}", step_name(*old), std::process::id()));
            fs::rename(folder, &hidden).and_then(|()| fs::remove_dir_all(&hidden)).map_err(|error| {
                let latest = step_name(step);
                Error::io(
                    format!("{latest} is whole, but the old {} cannot be removed", folder.display()),
                    &error,
                )
            })?;
        }
        Ok(())
    }
}
