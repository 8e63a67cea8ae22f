//! Checkpoints read: checked, then streamed into a trainer.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::base::{DType, Error, Progress, Result, Status};
use crate::checkpoint::agree::{Changes, model_fields, numeric, same_model};
use crate::checkpoint::folder::{is_step, read_latest, steps};
use crate::checkpoint::manifest::{Checksum, MANIFEST, Manifest, StoredFile};
use crate::engine::{Fill, StateSpan, Trainer};
use crate::model::ModelConfig;

// States are written as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "the files of checkpoints are little-endian");

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// A manifest that is longer is refused unread; that of a model of thousands of units is not.
const MANIFEST_BYTES_MAX: u64 = 1 << 26;

/// The same for files that are kept whole: more than any tokenizer takes.
const FILE_BYTES_MAX: u64 = 1 << 28;

/// A checkpoint whose files are there, in full length, as its manifest says. What is in the states of units is checked
/// as it is read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
}

/// Opens a checkpoint's own folder, or of a folder of checkpoints the one that `latest` names: where there is no such
/// file, the newest that is whole.
///
/// Errors: there is none (`NotFound`); a file that is damaged (`BadFormat`), not there or cannot be read is named, and
/// so is the newest checkpoint beside it that is whole.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let (opened, folder) = if is_step(path) || path.join(MANIFEST).exists() {
        (Checkpoint::open_step(path), path.parent())
    } else {
        (latest(path), Some(path))
    };
    opened.map_err(|error| or_from(error, folder.and_then(|folder| newest(folder, None))))
}

fn latest(folder: &Path) -> Result<Checkpoint> {
    let none = |what: &str| Error::new(Status::NotFound, format!("{} {what}", folder.display()));
    if !folder.is_dir() {
        let is_there = folder.exists();
        return Err(none(if is_there {
            "is a file and no checkpoint"
        } else {
            "is not there and holds no checkpoint"
        }));
    }
    match read_latest(folder)? {
        Some(latest) => Checkpoint::open_step(&latest),
        None => newest(folder, None).ok_or_else(|| {
            let holds_model = folder.join("config.json").exists();
            none(if holds_model {
                "holds a model and no checkpoint"
            } else {
                "holds no checkpoint that is whole"
            })
        }),
    }
}

/// The newest of a folder's checkpoints that is whole, one left out.
fn newest(folder: &Path, but: Option<&Path>) -> Option<Checkpoint> {
    let found = steps(folder).ok()?;
    found
        .into_iter()
        .rev()
        .filter(|(_, folder)| Some(folder.as_path()) != but)
        .find_map(|(_, folder)| Checkpoint::open_step(&folder).ok())
}

fn or_from(error: Error, whole: Option<Checkpoint>) -> Error {
    let Some(whole) = whole else { return error };
    let (step, folder) = (whole.manifest.step, whole.folder.display());
    Error::new(
        error.status(),
        format!("{error}. The checkpoint of step {step} is whole: resume from {folder}"),
    )
}

impl Checkpoint {
    /// Opens a checkpoint's own folder.
    pub(super) fn open_step(folder: &Path) -> Result<Checkpoint> {
        let path = folder.join(MANIFEST);
        let text = read_whole(&path, MANIFEST_BYTES_MAX)?;
        let manifest = Manifest::parse(&text).map_err(|error| error.within(path.display()))?;
        let checkpoint = Checkpoint { folder: folder.to_owned(), manifest };
        for (name, bytes) in checkpoint.manifest.all_files() {
            checkpoint.is_there(name, bytes)?;
        }
        checkpoint.manifest.files.iter().try_for_each(|file| checkpoint.is_sound(file))?;
        Ok(checkpoint)
    }

    /// Its folder. Together with `config.json` it holds all files of a model but the weights.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Refuses another model, and values of `given` that are not the checkpoint's, unless they may change. They are
    /// the [options that change bits](crate::checkpoint::numeric), and the others that were noted when it was saved.
    ///
    /// Errors: every field that differs is named, with its value and the checkpoint's (`InvalidArgument`).
    pub fn agrees(&self, model: &ModelConfig, given: &Map<String, Value>, changes: &Changes) -> Result<()> {
        changes.check(&self.manifest)?;
        same_model(&self.manifest.model, &model_fields(model))?;
        changes.agree(&self.manifest.numeric, given)
    }

    /// Puts its state into a trainer, which goes on from there: the same model, under any placement, and with the same
    /// [numbers](crate::checkpoint::numeric) but for `changes`. `progress` is told of the bytes that are read.
    ///
    /// Errors: what differs is named, by field, value and the checkpoint's value (`InvalidArgument`; the trainer is as it
    /// was). What is damaged in a file or cannot be read is named (`BadFormat`, `Io`); then the trainer has failed, see
    /// [`Trainer::restore`].
    pub fn restore_into(&self, trainer: &mut Trainer, changes: &Changes, progress: Progress) -> Result<()> {
        let manifest = &self.manifest;
        let given = numeric(trainer);
        self.agrees(trainer.config(), &given, changes)?;
        let given = trainer.layout().units.iter().map(|unit| unit.elements as u64);
        if !manifest.units.iter().map(|unit| unit.elements).eq(given) {
            return Err(self.bad(MANIFEST, "the units are not those of its model"));
        }
        let total = manifest.units.iter().map(|unit| unit.bytes).sum();
        let done = AtomicU64::new(0);
        let restored = trainer.restore(manifest.step, manifest.tokens, &|to| {
            let bytes = self.fill(to)?;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total)
        });
        restored.map_err(|error| {
            let beside = self.folder.parent().and_then(|folder| newest(folder, Some(&self.folder)));
            or_from(error, beside)
        })
    }

    /// Reads all of it as a trainer would, and keeps nothing.
    ///
    /// Errors: as [`Checkpoint::restore_into`] where something is damaged.
    pub fn verify(&self) -> Result<()> {
        for unit in 0..self.manifest.units.len() {
            let mut spans = StateSpan::all(self.manifest.optimizer());
            spans.try_for_each(|span| self.stream(unit, span, |_, _| ()).map(drop))?;
        }
        Ok(())
    }

    /// Gives the bytes read.
    fn fill(&self, to: &mut Fill) -> Result<u64> {
        let (stored, kept) = (to.span.dtype(self.manifest.optimizer()), to.span.dtype(to.optimizer));
        self.stream(to.unit.at(), to.span, |at, bytes| match (stored, kept) {
            (Some(DType::F32), Some(DType::Bf16)) => write_rounded(&mut to.bytes[at / 2..], bytes),
            (Some(DType::Bf16), Some(DType::F32)) => write_widened(&mut to.bytes[at * 2..], bytes),
            _ => to.bytes[at..][..bytes.len()].copy_from_slice(bytes),
        })
    }

    /// Hands a span out in order, and checks it meanwhile. Gives its bytes.
    fn stream(&self, unit: usize, span: StateSpan, mut give: impl FnMut(usize, &[u8])) -> Result<u64> {
        let unit = &self.manifest.units[unit];
        let path = self.folder.join(&unit.name);
        let cannot = |error| Error::reading(&path, &error);
        let (start, bytes) = self.manifest.place(unit, span).expect("the manifest has been checked");
        let file = File::open(&path).map_err(cannot)?;
        let mut chunk = vec![0u8; bytes.min(CHUNK as u64) as usize];
        let (mut at, mut sum) = (0, Xxh3::new());
        while at < bytes {
            let part = &mut chunk[..(bytes - at).min(CHUNK as u64) as usize];
            file.read_exact_at(part, start + at).map_err(cannot)?;
            sum.update(part);
            give(at as usize, part);
            at += part.len() as u64;
        }
        let name = span.name(self.manifest.optimizer());
        let written = unit.checksums.of(name).expect("the manifest has been checked");
        let found = Checksum(sum.digest());
        if found == written {
            return Ok(bytes);
        }
        let what = format!("`{name}` is not what was written: its checksum is {found}, it was {written}");
        Err(self.bad(&unit.name, what))
    }

    /// Refuses what is not a plain file of this length: a link may lead anywhere.
    fn is_there(&self, name: &str, bytes: u64) -> Result<()> {
        let path = self.folder.join(name);
        let facts = fs::symlink_metadata(&path).map_err(|error| Error::reading(&path, &error))?;
        if !facts.is_file() {
            return Err(self.bad(name, "it is not a file"));
        }
        if facts.len() != bytes {
            let what = if facts.len() < bytes { "truncated" } else { "too long" };
            return Err(self.bad(name, format!("it is {what}: {} bytes instead of {bytes}", facts.len())));
        }
        Ok(())
    }

    fn is_sound(&self, file: &StoredFile) -> Result<()> {
        let content = read_whole(&self.folder.join(&file.name), FILE_BYTES_MAX)?;
        let found = Checksum::of(&content);
        if found == file.checksum {
            return Ok(());
        }
        let what = format!("it is not what was written: its checksum is {found}, it was {}", file.checksum);
        Err(self.bad(&file.name, what))
    }

    fn bad(&self, name: &str, what: impl std::fmt::Display) -> Error {
        Error::new(Status::BadFormat, format!("{}: {what}", self.folder.join(name).display()))
    }
}

/// A whole file of at most so many bytes.
fn read_whole(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut content));
    read.map_err(|error| Error::reading(path, &error))?;
    if content.len() as u64 > bytes_max {
        return Err(Error::new(
            Status::BadFormat,
            format!(
                "{}: it is longer than the {bytes_max} bytes that such a file has at most",
                path.display()
            ),
        ));
    }
    Ok(content)
}

/// Writes f32 moments as bf16: the nearest, ties to even.
fn write_rounded(to: &mut [u8], bytes: &[u8]) {
    let values = bytes.as_chunks().0.iter().map(|value| bf16::from_f32(f32::from_le_bytes(*value)));
    to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
}

/// Writes bf16 moments as f32, which is exact.
fn write_widened(to: &mut [u8], bytes: &[u8]) {
    let values = bytes.as_chunks().0.iter().map(|half| bf16::from_le_bytes(*half).to_f32());
    to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
}
