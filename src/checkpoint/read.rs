//! Reads checkpoints: checks them, then restores their state into a trainer.

use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::base::{DType, Error, Meter, Progress, Result, Status};
use crate::checkpoint::agree::{Changes, model_fields, numeric, same_model};
use crate::checkpoint::folder::{cause, is_step, read_latest, steps};
use crate::checkpoint::manifest::{Checksum, MANIFEST, Manifest, StoredFile};
use crate::engine::{Fill, StateSpan, Trainer};
use crate::host::files::retried;
use crate::host::input::{self, InputFile};
use crate::model::ModelConfig;

// Spans are written as they are in memory.
const _: () = assert!(cfg!(target_endian = "little"), "the files of checkpoints are little-endian");

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Largest manifest that is read; enough for thousands of units.
const MANIFEST_BYTES_MAX: u64 = 1 << 24;

/// Largest other file that is read; larger than any tokenizer.
const FILE_BYTES_MAX: u64 = 1 << 28;

/// A checkpoint whose files exist and have the sizes in its manifest. The checksums of state files
/// are checked when they are read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
}

/// Opens a checkpoint. `path` is its own folder, or a folder of checkpoints: then the one named by
/// `latest` is opened or, if there is no such file, the newest complete one.
///
/// Errors: `NotFound` if there is no checkpoint, also because a run has just removed it; `BadFormat`
/// if a file is damaged; a file is missing or cannot be read. Errors name the file and the newest
/// complete checkpoint in the same folder of checkpoints.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let (opened, folder) = if is_step(path) || input::is_there(&path.join(MANIFEST)) {
        (Checkpoint::open_step(path), path.parent())
    } else {
        (latest(path), Some(path))
    };
    opened.map_err(|error| match folder {
        Some(folder) => with_alternative(cause(error, folder), newest(folder, None)),
        None => error,
    })
}

fn latest(folder: &Path) -> Result<Checkpoint> {
    let none = |reason: &str| Error::new(Status::NotFound, format!("{} {reason}", folder.display()));
    if !folder.is_dir() {
        return Err(none(if folder.exists() {
            "is a file, not a folder with a checkpoint"
        } else {
            "does not exist; give a folder with a checkpoint"
        }));
    }
    match read_latest(folder)? {
        Some(latest) => Checkpoint::open_step(&latest),
        None => newest(folder, None).ok_or_else(|| {
            let has_model = folder.join("config.json").exists();
            none(if has_model { "has a model, but no checkpoint" } else { "has no complete checkpoint" })
        }),
    }
}

/// Returns the newest complete checkpoint of a folder, except `excluded`.
fn newest(folder: &Path, excluded: Option<&Path>) -> Option<Checkpoint> {
    let found = steps(folder).ok()?;
    found
        .into_iter()
        .rev()
        .filter(|(_, folder)| Some(folder.as_path()) != excluded)
        .find_map(|(_, folder)| Checkpoint::open_step(&folder).ok())
}

/// Adds to an error the checkpoint from which the run can be resumed instead.
fn with_alternative(error: Error, complete: Option<Checkpoint>) -> Error {
    let Some(complete) = complete else { return error };
    let (step, folder) = (complete.manifest.step, complete.folder.display());
    error.map(|message| format!("{message}. The checkpoint of step {step} is complete; resume from {folder}"))
}

impl Checkpoint {
    /// Opens a checkpoint's own folder.
    pub(super) fn open_step(folder: &Path) -> Result<Checkpoint> {
        let path = folder.join(MANIFEST);
        let text = InputFile::open_unlinked(&path)?.into_content(MANIFEST_BYTES_MAX)?;
        let manifest = Manifest::parse(&text).map_err(|error| error.within(path.display()))?;
        let checkpoint = Checkpoint { folder: folder.to_owned(), manifest };
        for (name, bytes) in checkpoint.manifest.all_files() {
            checkpoint.file(name, bytes)?;
        }
        checkpoint.manifest.files.iter().try_for_each(|file| checkpoint.check_content(file))?;
        Ok(checkpoint)
    }

    /// The checkpoint's folder. It also has all files of a model folder except the weights.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of checkpoints that has this one, without links.
    ///
    /// Errors: the checkpoint was removed (`NotFound`, or as [`open`]).
    pub fn parent(&self) -> Result<PathBuf> {
        let beside = self.folder.parent().unwrap_or(&self.folder);
        let cannot = |error| cause(Error::reading(&self.folder, &error), beside);
        let real = retried(|| fs::canonicalize(&self.folder)).map_err(cannot)?;
        Ok(real.parent().unwrap_or(&real).to_owned())
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Refuses another model, and values of `given` that differ from the checkpoint's, unless
    /// `changes` allows them. `given` has [values that change bits](crate::checkpoint::numeric),
    /// and those that the caller stored with the checkpoint.
    ///
    /// Errors: `InvalidArgument`, with every field that differs, its value and the checkpoint's.
    pub fn agrees(&self, model: &ModelConfig, given: &Map<String, Value>, changes: &Changes) -> Result<()> {
        changes.check(&self.manifest, given)?;
        same_model(&self.manifest.model, &model_fields(model), &self.folder)?;
        changes.agree(&self.manifest.numeric, given)
    }

    /// Restores the state into a trainer, which then resumes from there. The trainer must have the
    /// same model and, except for `changes`, the same [values that change
    /// bits](crate::checkpoint::numeric); its placement may differ. `progress` counts the bytes
    /// read.
    ///
    /// Errors: fields differ (`InvalidArgument`; the trainer is unchanged); a file is damaged or
    /// cannot be read (`BadFormat`, `Io`), or any error of `progress`; the trainer has then failed,
    /// see [`Trainer::restore`].
    pub fn restore_into(&self, trainer: &mut Trainer, changes: &Changes, progress: Progress) -> Result<()> {
        let manifest = &self.manifest;
        let given = numeric(trainer);
        self.agrees(trainer.config(), &given, changes)?;
        let given = trainer.layout().units.iter().map(|unit| unit.elements as u64);
        if !manifest.units.iter().map(|unit| unit.elements).eq(given) {
            return Err(self.bad(MANIFEST, "the units do not match its model"));
        }
        let total = manifest.units.iter().map(|unit| unit.bytes).sum();
        let meter = Meter::new(total, progress);
        trainer.restore(manifest.step, manifest.tokens, &|to| {
            let filled = self.fill(to).map_err(|error| {
                let other = self.folder.parent().and_then(|folder| newest(folder, Some(&self.folder)));
                with_alternative(error, other)
            });
            meter.add(filled?)
        })
    }

    /// Reads all state files and checks their checksums.
    ///
    /// Errors: a file is damaged or cannot be read (`BadFormat`, `Io`).
    pub fn verify(&self) -> Result<()> {
        for unit in 0..self.manifest.units.len() {
            let mut spans = StateSpan::all(self.manifest.optimizer());
            spans.try_for_each(|span| self.read_span(unit, span, |_, _| ()).map(drop))?;
        }
        Ok(())
    }

    /// Fills one span of a trainer, converting moments if their dtype differs; returns the bytes
    /// read.
    fn fill(&self, to: &mut Fill) -> Result<u64> {
        let (stored, wanted) = (to.span.dtype(self.manifest.optimizer()), to.span.dtype(to.optimizer));
        self.read_span(to.unit.at(), to.span, |at, bytes| match (stored, wanted) {
            (Some(DType::F32), Some(DType::Bf16)) => write_rounded(&mut to.bytes[at / 2..], bytes),
            (Some(DType::Bf16), Some(DType::F32)) => write_widened(&mut to.bytes[at * 2..], bytes),
            _ => to.bytes[at..][..bytes.len()].copy_from_slice(bytes),
        })
    }

    /// Calls `take` with consecutive chunks of a span and their offsets, then checks the checksum;
    /// returns the span's size.
    fn read_span(&self, unit: usize, span: StateSpan, mut take: impl FnMut(usize, &[u8])) -> Result<u64> {
        let unit = &self.manifest.units[unit];
        let file = self.file(&unit.name, unit.bytes)?;
        let (start, bytes) = self.manifest.locate(unit, span).expect("the manifest has been checked");
        let mut buffer = vec![0u8; bytes.min(CHUNK as u64) as usize];
        let (mut at, mut hash) = (0, Xxh3::new());
        while at < bytes {
            let chunk = &mut buffer[..(bytes - at).min(CHUNK as u64) as usize];
            file.read_at(start + at, chunk)?;
            hash.update(chunk);
            take(at as usize, chunk);
            at += chunk.len() as u64;
        }
        let name = span.name(self.manifest.optimizer());
        let expected = unit.checksums.of(name).expect("the manifest has been checked");
        let found = Checksum(hash.digest());
        if found == expected {
            return Ok(bytes);
        }
        let message = format!("`{name}` is damaged: its checksum is {found}, but must be {expected}");
        Err(self.bad(&unit.name, message))
    }

    /// Opens a regular file of this size; a link could lead out of the folder.
    fn file(&self, name: &str, bytes: u64) -> Result<InputFile> {
        let file = InputFile::open_unlinked(&self.folder.join(name))?;
        if file.bytes() == bytes {
            return Ok(file);
        }
        let kind = if file.bytes() < bytes { "truncated" } else { "too long" };
        Err(self.bad(name, format!("it is {kind}: {} bytes instead of {bytes}", file.bytes())))
    }

    fn check_content(&self, file: &StoredFile) -> Result<()> {
        let content = self.file(&file.name, file.bytes)?.into_content(FILE_BYTES_MAX)?;
        let found = Checksum::of(&content);
        if found == file.checksum {
            return Ok(());
        }
        let message = format!("it is damaged: its checksum is {found}, but must be {}", file.checksum);
        Err(self.bad(&file.name, message))
    }

    fn bad(&self, name: &str, message: impl std::fmt::Display) -> Error {
        Error::new(Status::BadFormat, format!("{}: {message}", self.folder.join(name).display()))
    }
}

/// Rounds f32 moments to the nearest bf16, ties to even.
fn write_rounded(to: &mut [u8], bytes: &[u8]) {
    let values = bytes.as_chunks().0.iter().map(|value| bf16::from_f32(f32::from_le_bytes(*value)));
    to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
}

/// Widens bf16 moments to f32, which is exact.
fn write_widened(to: &mut [u8], bytes: &[u8]) {
    let values = bytes.as_chunks().0.iter().map(|half| bf16::from_le_bytes(*half).to_f32());
    to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
}
