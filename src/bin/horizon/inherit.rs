//! The paths that a resumed run takes from the checkpoint, and the id of the run.
//!
//! Four options that a checkpoint notes are paths. They are used as far as the checkpoint is trusted:
//!
//! | checkpoint | id of the run | `data`, `val` | `log`, `out` |
//! |---|---|---|---|
//! | continued in the folder in which it was written | the same | read | written to, if nothing is there, or what is there has the run's id |
//! | branch: `--checkpoint-dir` names another folder | new | read | left out |
//! | in another folder than it was written to, of another user, or of an earlier version | new | must be given | left out |
//!
//! [`Standing`] distinguishes them. A folder that was renamed is still the same; paths that moved
//! with it are found at their new place. A copy, a backup, a file system that changes its inodes and
//! one that hides the owner are not: paths are given anew. If the log or the export given then has
//! the id that the checkpoint notes, the run keeps this id and continues them. Warnings name all
//! that is left out. A checkpoint of another user therefore makes the command read its own files, and
//! write nothing but what the command line names.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use horizon::base::format::{quoted, shown};
use horizon::base::{Error, Result, RunId, Status};
use horizon::checkpoint::Checkpoint;
use horizon::data::DataPath;
use horizon::hf::run_of_export;
use horizon::host::files::{entries, retried};
use horizon::train::{Log, Origin, Standing};

use crate::options::TrainOptions;
use crate::paths::is_same;
use crate::resume::Given;

/// Options whose paths are read.
pub const READ: [&str; 2] = ["data", "val"];
/// Options whose paths are written to.
const WRITTEN: [&str; 2] = ["log", "out"];

/// Removes the noted paths that the run does not use, and finds those that were moved. `options` are
/// those of the command line alone. Returns the id of the run, and warnings of the paths that are
/// not written to.
///
/// Errors: paths to read are among those not used, or are gone.
pub fn inherit(
    noted: &mut Given,
    checkpoint: &Checkpoint,
    options: &TrainOptions,
) -> Result<(RunId, Vec<String>)> {
    let had_out = noted.contains_key("out");
    let folder = options.checkpoint_dir.as_deref();
    let continues = folder.map_or(Ok(true), |folder| is_same(folder, &checkpoint.parent()?))?;
    let shown = shown(checkpoint.folder());
    let standing = Standing::of(checkpoint)?;
    let (origin, why) = match &standing {
        Standing::Own(origin) if continues => {
            (Some(origin), "what is there now is not of this run, or the folder above it is gone".to_owned())
        }
        Standing::Own(_) => (None, format!("it branches off from the run in {shown}")),
        Standing::Copy(origin) => {
            let why = "is a copy: restored from a backup, or moved from another file system";
            (Some(origin), format!("{shown} {why}"))
        }
        Standing::OtherUser => (None, format!("{shown} belongs to another user")),
        Standing::Unnoted => (None, format!("{shown} is of an earlier version, which noted no run")),
    };
    if let Standing::Own(origin) = &standing {
        find(noted, origin, checkpoint)?;
    } else {
        let unread = take(noted, |name, _| Ok(READ.contains(&name)))?;
        if !unread.is_empty() {
            return Err(Error::argument(format!(
                "{why}; so the paths that it notes are not used; if they are right, add {}",
                unread.join(" ")
            )));
        }
    }
    let own = origin.map(|origin| origin.id).filter(|_| matches!(standing, Standing::Own(_)));
    let left_out = take(noted, |name, path| {
        Ok(WRITTEN.contains(&name) && !own.map_or(Ok(false), |run| is_usable(name, path, run))?)
    })?;
    let copied = origin.map(|origin| origin.id).filter(|&run| continues && names_outputs(options, run));
    let run = own.or(copied).unwrap_or_else(new_id);
    if had_out && !noted.contains_key("out") {
        noted.remove("export-dtype");
    }
    let names: Vec<&str> =
        left_out.iter().map(|option| option.split(' ').next().unwrap_or_default()).collect();
    let warning = (!left_out.is_empty()).then(|| {
        format!(
            "warning: this run does not write to {}, as the run before did: {why}; to continue or replace what is \
             there, or to write elsewhere, add {}",
            left_out.join(" and "),
            names.join(" and ").replace("--log", "--log FILE").replace("--out", "--out DIR")
        )
    });
    Ok((run, warning.into_iter().collect()))
}

/// A new id.
pub fn new_id() -> RunId {
    RunId::from_bits(rand::random())
}

/// Replaces noted paths by those to which they were moved together with the folder of checkpoints. An
/// output that is not there yet is moved only if it lies in this folder, or data was moved, too.
///
/// Errors: a path to read is gone (`NotFound`).
fn find(noted: &mut Given, origin: &Origin, checkpoint: &Checkpoint) -> Result<()> {
    let folder = checkpoint.parent()?;
    let mut has_moved = false;
    for name in READ {
        for value in noted.get_mut(name).into_iter().flatten() {
            let DataPath { path, weight } = DataPath::parse(value)?;
            if path.exists() {
                continue;
            }
            let moved = origin.moved(&path, &folder).filter(|moved| moved.exists()).ok_or_else(|| {
                Error::new(
                    Status::NotFound,
                    format!(
                        "{} is gone, which the run in {} read as --{name}; if it was moved, add --{name} PATH",
                        path.display(),
                        checkpoint.folder().display()
                    ),
                )
            })?;
            *value = with_weight(&moved, weight);
            has_moved = true;
        }
    }
    for name in WRITTEN {
        for value in noted.get_mut(name).into_iter().flatten() {
            let Some(moved) = origin.moved(Path::new(value), &folder) else { continue };
            let is_new = || {
                let is_near = has_moved || moved.starts_with(&folder);
                Ok::<_, Error>(is_near && !is_usable(name, Path::new(value), origin.id)?)
            };
            if is_usable(name, &moved, origin.id)? && (moved.exists() || is_new()?) {
                *value = moved.display().to_string();
            }
        }
    }
    Ok(())
}

/// A path of data with its weight, as on a command line.
pub fn with_weight(path: &Path, weight: f64) -> String {
    if weight == 1.0 { path.display().to_string() } else { format!("{}:{weight}", path.display()) }
}

/// Removes the options that `is_taken` selects by name and path. Returns them as on a command line.
fn take(noted: &mut Given, is_taken: impl Fn(&str, &Path) -> Result<bool>) -> Result<Vec<String>> {
    let (mut taken, mut left) = (Given::default(), Given::default());
    for (name, values) in std::mem::take(noted) {
        let mut is_any = false;
        for value in &values {
            is_any |= is_taken(&name, Path::new(value))?;
        }
        if is_any { &mut taken } else { &mut left }.insert(name, values);
    }
    *noted = left;
    let spelled = |(name, values): (String, Vec<String>)| {
        let values: Vec<String> = values.iter().map(quoted).collect();
        format!("--{name} {}", values.join(" "))
    };
    Ok(taken.into_iter().map(spelled).collect())
}

/// Returns true if a path of `--log` or `--out` has nothing, in a folder that exists, or the output
/// of this run. Errors: what is there cannot be read, and may be the run's.
fn is_usable(option: &str, path: &Path, run: RunId) -> Result<bool> {
    if !path.parent().map_or(Ok(false), is_folder)? {
        return Ok(false);
    }
    if option == "log" {
        return Log::is_of(path, run);
    }
    if !is_folder(path)? {
        return path.try_exists().map(|exists| !exists).map_err(|error| Error::reading(path, &error));
    }
    let entries = entries(path).map_err(|error| Error::reading(path, &error))?;
    Ok(entries.is_empty() || run_of_export(path)? == Some(run))
}

/// Errors: this cannot be found out.
fn is_folder(path: &Path) -> Result<bool> {
    match retried(|| fs::metadata(path)) {
        Ok(facts) => Ok(facts.is_dir()),
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(false),
        Err(error) => Err(Error::reading(path, &error)),
    }
}

/// Returns true if the log or the export that the command line names is this run's.
fn names_outputs(options: &TrainOptions, run: RunId) -> bool {
    let has_records = |log: &Path| fs::metadata(log).is_ok_and(|facts| facts.is_file() && facts.len() > 0);
    options.log.as_deref().is_some_and(|log| has_records(log) && Log::is_of(log, run).is_ok_and(|own| own))
        || options.out.as_deref().is_some_and(|out| run_of_export(out).is_ok_and(|of| of == Some(run)))
}
