//! Exports a model to a Hugging Face folder, completely or not at all.
//!
//! The trainer's threads write weights from the store to the files slice by slice, so an export
//! needs little additional memory. [`MARKER`] identifies a folder as an earlier export and lists
//! its files; a folder with any other file is not replaced.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::base::{
    DType, Error, Meter, Progress, Result, RunId, Status, find_non_finite, master, non_finite,
};
use crate::engine::{TensorSlice, Trainer};
use crate::hf::shards::{self, Shard};
use crate::hf::tensors::StoredTensor;
use crate::hf::{FolderConfig, INDEX, file_text};
use crate::host::files::{entries, retried};
use crate::host::folder::{Filling, NewFolder, SizedFile, open_folder};
use crate::host::input::read_whole;
use crate::model::Layout;

/// Name of the file that marks a folder as an export.
pub const MARKER: &str = "horizon.json";

/// Largest marker that is read; enough for thousands of files.
const MARKER_BYTES_MAX: u64 = 1 << 20;

/// Default maximum of tensor bytes per file, as in transformers.
pub const SHARD_BYTES: u64 = 5_000_000_000;

#[derive(Serialize, Deserialize)]
struct Marker {
    /// Version of Horizon that wrote the folder.
    horizon: String,
    /// The run that trained the model, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
    /// Names of the files written, except this one.
    files: Vec<String>,
}

impl Marker {
    /// Reads the marker of a folder; `None` if it has no valid one. Errors: it cannot be read.
    fn of(folder: &Path) -> Result<Option<Marker>> {
        match read_whole(&folder.join(MARKER), MARKER_BYTES_MAX) {
            Err(error) if error.status() == Status::Io => Err(error),
            read => Ok(read.ok().and_then(|text| serde_json::from_slice(&text).ok())),
        }
    }
}

/// Returns the run that exported a folder; `None` if none is noted there. Errors: the note cannot be
/// read.
#[doc(hidden)]
pub fn run_of_export(folder: &Path) -> Result<Option<RunId>> {
    Ok(Marker::of(folder)?.and_then(|marker| marker.run))
}

/// The target folder of an export: new, empty, or an earlier export.
#[derive(Clone, Debug)]
pub struct ExportTarget {
    new: NewFolder,
    run: Option<RunId>,
}

impl ExportTarget {
    /// Checks a target before training starts, so that a long run does not fail at its end. Creates
    /// missing parents. If `folder` is a link, the folder to which it leads is replaced.
    ///
    /// Errors: the target is a file, or a folder with other files than an earlier export's; it
    /// cannot be written to; the file system has less than `bytes` free.
    pub fn check(folder: &Path, bytes: u64) -> Result<ExportTarget> {
        // Without a slash at the end, which would hide a link.
        let folder = folder.components().as_path();
        let cannot = |error| Error::io(format!("cannot export to {}", folder.display()), &error);
        let real =
            if folder.is_symlink() { &retried(|| fs::canonicalize(folder)).map_err(cannot)? } else { folder };
        let new = NewFolder::plan(real, bytes, ExportTarget::may_replace)?;
        Ok(ExportTarget { new, run: None })
    }

    /// Returns the target with the run to note in the export.
    #[doc(hidden)]
    pub fn of_run(self, run: RunId) -> ExportTarget {
        ExportTarget { run: Some(run), ..self }
    }

    /// The target's path.
    pub fn folder(&self) -> &Path {
        self.new.folder()
    }

    /// Returns true if a folder is an earlier export, false if it is missing or empty. Errors: it has
    /// other files, or is a link.
    fn may_replace(folder: &Path) -> Result<bool> {
        let cannot = |error: &io::Error| Error::io(format!("cannot export to {}", folder.display()), error);
        // Not through a link: the folder is removed when it is replaced.
        let entries = match open_folder(folder, false).and_then(|_| entries(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(cannot(&error)),
        };
        let marker = Marker::of(folder)?;
        let mut has_entries = false;
        for entry in entries {
            has_entries = true;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = marker.as_ref().is_some_and(|marker| name == MARKER || marker.files.contains(&name));
            if !ours {
                return Err(Error::new(
                    Status::InvalidArgument,
                    format!(
                        "{} contains {name}, which is not from an export; an export only replaces an earlier export: \
                         give another folder, or move the file away",
                        folder.display()
                    ),
                ));
            }
        }
        Ok(has_entries)
    }
}

/// Returns the bytes of a model's weights stored as `dtype`.
pub fn export_bytes(layout: &Layout, dtype: DType) -> u64 {
    layout.parameters() as u64 * dtype.bytes() as u64
}

/// Writes a trainer's model to `target`, as bf16 weights or f32 master weights, in files of at most
/// `shard_bytes` bytes of tensors ([`SHARD_BYTES`]), with the tensors and names of the config's
/// family. Waits for the lanes and for the disk.
///
/// Errors: a weight that is not finite as `dtype` (`NonFinite`, with the first such tensor in the
/// files); any error of `progress`; the disk. After an error the target is as it was before.
///
/// Several exports to one folder at the same time, by threads or processes, all work: the folder is
/// always one complete export, in the end that of the last to finish.
pub fn export(
    target: &ExportTarget,
    config: &FolderConfig,
    trainer: &mut Trainer,
    dtype: DType,
    shard_bytes: u64,
    progress: Progress,
) -> Result<()> {
    let stored = config.family.tensors.stored(trainer.layout());
    let shards = shards::cut(&stored, dtype, shard_bytes);
    let cannot = format_args!("cannot export to {}", target.folder().display());
    target.new.write(|filling| {
        small_files(filling, config, &stored, dtype, &shards, target.run)
            .and_then(|()| weights(filling, trainer, &stored, dtype, &shards, progress))
            .map_err(|error| error.within(cannot))
    })
}

fn small_files(
    filling: &Filling,
    config: &FolderConfig,
    stored: &[StoredTensor],
    dtype: DType,
    shards: &[Shard],
    run: Option<RunId>,
) -> Result<()> {
    let mut files = config.files(dtype);
    if shards.len() > 1 {
        files.push((INDEX, file_text(&shards::index(stored, dtype, shards))));
    }
    let names = files.iter().map(|(name, _)| (*name).to_owned());
    let files_written = names.chain(shards.iter().map(|shard| shard.name.clone())).collect();
    let marker = Marker { horizon: env!("CARGO_PKG_VERSION").to_owned(), run, files: files_written };
    files.push((MARKER, file_text(&json!(marker))));
    files.iter().try_for_each(|(name, content)| filling.whole(name, content))
}

fn weights(
    filling: &Filling,
    trainer: &mut Trainer,
    stored: &[StoredTensor],
    dtype: DType,
    shards: &[Shard],
    progress: Progress,
) -> Result<()> {
    let total = export_bytes(trainer.layout(), dtype);
    // For each tensor of the layout, in its order: its file and its first byte there.
    let mut locations: Vec<Option<(&SizedFile, u64)>> = vec![None; trainer.layout().tensors().count()];
    let files =
        shards.iter().map(|shard| filling.sized(&shard.name, shard.bytes)).collect::<Result<Vec<_>>>()?;
    let mut order = Vec::new();
    for (shard, file) in shards.iter().zip(&files) {
        file.write_at(0, &shard.header)?;
        for &(index, offset) in &shard.tensors {
            for (tensor, elements) in stored[index].tensors() {
                order.push(tensor);
                locations[tensor] = Some((file, offset + (elements.start * dtype.bytes()) as u64));
            }
        }
    }
    let meter = Meter::new(total, progress);
    trainer.read_each_slice(&order, &|slice| {
        let (file, offset) = locations[slice.index].expect("every tensor has a file");
        meter.add(write_slice(slice, dtype, file, offset)?)
    })?;
    files.iter().try_for_each(SizedFile::sync)
}

/// Elements converted and written at a time; the converted bytes stay in the cache.
const RUN: usize = 1 << 16;

thread_local! {
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes a slice of the tensor that starts at byte `tensor` of the file; returns the bytes
/// written. Refuses values that are not finite.
fn write_slice(slice: &TensorSlice, dtype: DType, file: &SizedFile, tensor: u64) -> Result<u64> {
    let size = dtype.bytes();
    let (mut halves, mut values) = ([0u16; 1024], [0f32; 1024]);
    BYTES.with_borrow_mut(|bytes| {
        for from in (0..slice.elements.len()).step_by(RUN) {
            let count = RUN.min(slice.elements.len() - from);
            bytes.resize(count * size, 0);
            for (number, bytes) in bytes.chunks_mut(1024 * size).enumerate() {
                let (at, count) = (from + number * 1024, bytes.len() / size);
                match dtype {
                    DType::Bf16 => {
                        slice.read_bf16(at, &mut halves[..count]);
                        finite(slice, at, &halves[..count], master::widen)?;
                        bytes
                            .as_chunks_mut()
                            .0
                            .iter_mut()
                            .zip(halves)
                            .for_each(|(b, v)| *b = v.to_le_bytes());
                    }
                    DType::F32 => {
                        slice.read(at, &mut values[..count]);
                        finite(slice, at, &values[..count], |value| value)?;
                        bytes
                            .as_chunks_mut()
                            .0
                            .iter_mut()
                            .zip(values)
                            .for_each(|(b, v)| *b = v.to_le_bytes());
                    }
                }
            }
            file.write_at(tensor + ((slice.elements.start + from) * size) as u64, bytes)?;
        }
        Ok((slice.elements.len() * size) as u64)
    })
}

/// Refuses values from element `from` of a slice, read as they are exported, if one is not finite.
fn finite<T: Copy>(slice: &TensorSlice, from: usize, run: &[T], widen: impl Fn(T) -> f32) -> Result<()> {
    let Some((at, value)) = find_non_finite(run, widen) else { return Ok(()) };
    Err(non_finite(&slice.tensor.name, slice.elements.start + from + at, value))
}

#[cfg(test)]
mod tests;
