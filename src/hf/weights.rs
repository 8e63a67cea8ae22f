//! Weights out of safetensors files, single or sharded.
//!
//! Files are mapped, their headers checked against their lengths and every tensor against the model before
//! anything is read. Then pieces go from the maps straight into the store, by the trainer's threads; what has been
//! read of a map is given back, so that extra memory is a few pieces whatever the size of the model.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use crate::base::{Error, Progress, Result, Status};
use crate::engine::{TensorSlice, Trainer};
use crate::hf::INDEX;
use crate::hf::index::sources;
use crate::host::files::MappedFile;
use crate::model::Layout;

/// The weights of a folder, checked against a model and ready to be read.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightFile>,
    /// Every tensor of the model, in the layout's order.
    tensors: Vec<TensorLocation>,
}

/// Where a tensor is.
#[derive(Debug)]
struct TensorLocation {
    name: String,
    file: usize,
    /// In that file.
    bytes: Range<usize>,
    dtype: Dtype,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    bytes: MappedFile,
    header: Header,
}

/// The header of a safetensors file, checked against the file's length.
#[derive(Debug)]
pub struct Header {
    metadata: Metadata,
    /// Where tensors start: behind the header and its 8-byte length.
    data: usize,
}

impl Header {
    /// Reads the header of a whole file.
    ///
    /// Errors: `BadFormat` where the file is not as long as it says, or its tensors do not fill it end to end.
    pub fn parse(file: &[u8]) -> Result<Header> {
        let (header, metadata) = SafeTensors::read_metadata(file).map_err(|error| {
            let found = format!("{} bytes are not a whole safetensors file", file.len());
            let message = match promised(file) {
                Some(promised) if promised != file.len() as u64 => {
                    let what = if promised > file.len() as u64 { "truncated" } else { "too long" };
                    format!("{found}: it is {what}, its header promises {promised}")
                }
                _ => format!("{found}: {error}"),
            };
            Error::new(Status::BadFormat, message)
        })?;
        Ok(Header { metadata, data: header + 8 })
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.metadata.tensors().into_keys()
    }

    /// The bytes of a tensor in the file, its dtype and its shape; nothing if there is no such tensor.
    pub fn tensor(&self, name: &str) -> Option<(Range<usize>, Dtype, &[usize])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        Some((self.data + start..self.data + end, info.dtype, &info.shape))
    }
}

/// How long a safetensors file says it is, if its header can be read.
fn promised(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let header: Metadata = serde_json::from_slice(bytes.get(8..end)?).ok()?;
    (end as u64).checked_add(header.data_len() as u64)
}

impl Weights {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// Errors name file and tensor: not found, truncated, a dtype other than bf16, f16 or f32, a shape other
    /// than the model's, missing, or not of the model. A copy of the embedding under `lm_head.weight` in a tied
    /// model, and the rotary frequencies that old checkpoints carry, may be there and are not read.
    pub fn open(folder: &Path, layout: &Layout) -> Result<Weights> {
        let (paths, index) = sources(folder)?;
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>>>()?;
        let mut found = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.header.names() {
                if let Some(other) = found.insert(name.clone(), number) {
                    let other: &WeightFile = &files[other];
                    return Err(file.bad(format!("{name} is also in {}", other.path.display())));
                }
            }
        }
        if let Some(index) = index {
            let stray = index.names().find(|name| !found.contains_key(*name));
            if let Some(name) = stray {
                return Err(bad(&folder.join(INDEX), format!("{name} is in none of the files it lists")));
            }
        }
        let mut tensors = Vec::new();
        for (_, tensor) in layout.tensors() {
            let Some(number) = found.remove(&tensor.name) else {
                return Err(bad(folder, format!("{} is missing from the weights", tensor.name)));
            };
            tensors.push(files[number].place(number, &tensor.name, &tensor.shape)?);
        }
        let weights = Weights { files, tensors };
        weights.refuse_leftovers(layout, &found)?;
        Ok(weights)
    }

    /// Puts every tensor into a trainer of this model, in the order of the files. f32 arrives exactly, and so do bf16
    /// and f16. Moments stay as they are. Waits for the lanes, and for the disk.
    ///
    /// Errors: a value that is not finite, named with its place; the weights are then a mixture. What `progress`
    /// answers.
    pub fn load(&self, trainer: &mut Trainer, progress: Progress) -> Result<()> {
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_by_key(|&index| (self.tensors[index].file, self.tensors[index].bytes.start));
        let total = self.tensors.iter().map(|place| place.bytes.len() as u64).sum();
        let done = AtomicU64::new(0);
        trainer.each_slice(&order, &|slice| {
            let bytes = self.read_piece(slice)?;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total)
        })
    }

    /// Gives the bytes read.
    fn read_piece(&self, slice: &mut TensorSlice) -> Result<u64> {
        let place = &self.tensors[slice.index];
        let (file, size) = (&self.files[place.file], place.bytes.len() / slice.tensor.elements());
        let from = place.bytes.start + slice.elements.start * size;
        let part = from..from + slice.elements.len() * size;
        // The pieces that other threads are about to take.
        file.bytes.fetch(part.clone(), 2 * part.len());
        let finite = copy(slice, place.dtype, &file.bytes[part.clone()]);
        file.bytes.release(part.clone());
        match finite {
            Ok(()) => Ok(part.len() as u64),
            Err((at, value)) => {
                Err(file.bad(format!("element {} of {} is {value}", slice.elements.start + at, place.name)))
            }
        }
    }

    fn refuse_leftovers(&self, layout: &Layout, leftovers: &BTreeMap<String, usize>) -> Result<()> {
        for (name, &number) in leftovers {
            let file = &self.files[number];
            if name.ends_with(".rotary_emb.inv_freq") {
                continue;
            }
            if layout.tied && name == "lm_head.weight" {
                let embedding = &self.tensors[0];
                let (bytes, dtype, _) = file.header.tensor(name).expect("the name came from this file");
                if dtype == embedding.dtype
                    && same(&file.bytes, bytes, &self.files[embedding.file].bytes, embedding.bytes.clone())
                {
                    continue;
                }
                return Err(file.bad(format!(
                    "{name} differs from {}, and the config ties them (tie_word_embeddings)",
                    embedding.name
                )));
            }
            return Err(file.bad(format!("{name} is no tensor of the model that config.json describes")));
        }
        Ok(())
    }
}

/// Whether parts of two files hold the same bytes. Gives back what it has read of them.
fn same(one: &MappedFile, one_part: Range<usize>, other: &MappedFile, other_part: Range<usize>) -> bool {
    const BLOCK: usize = 1 << 22;
    one_part.len() == other_part.len()
        && (0..one_part.len()).step_by(BLOCK).all(|at| {
            let count = BLOCK.min(one_part.len() - at);
            let [a, b] = [one_part.start, other_part.start].map(|start| start + at..start + at + count);
            let same = one[a.clone()] == other[b.clone()];
            one.release(a);
            other.release(b);
            same
        })
}

/// Numbers copied at a time: they stay in the first cache.
const RUN: usize = 1024;

/// Copies a piece out of a file's bytes. The error is the first element that is not finite, counted in the piece, and
/// its value; what stands before its run is written.
fn copy(slice: &mut TensorSlice, dtype: Dtype, bytes: &[u8]) -> Result<(), (usize, f32)> {
    match dtype {
        Dtype::BF16 => {
            let mut run = [0u16; RUN];
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let run = &mut run[..bytes.len()];
                run.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = u16::from_le_bytes(*bytes));
                finite(number * RUN, run, |half| f32::from_bits(u32::from(half) << 16))?;
                slice.write_bf16(number * RUN, run);
            }
        }
        Dtype::F16 => {
            let (mut run, mut values) = ([f16::ZERO; RUN], [0f32; RUN]);
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let (run, values) = (&mut run[..bytes.len()], &mut values[..bytes.len()]);
                run.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = f16::from_le_bytes(*bytes));
                run.convert_to_f32_slice(values);
                finite(number * RUN, values, |value| value)?;
                slice.write(number * RUN, values);
            }
        }
        _ => {
            let mut run = [0f32; RUN];
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let run = &mut run[..bytes.len()];
                run.iter_mut().zip(bytes).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
                finite(number * RUN, run, |value| value)?;
                slice.write(number * RUN, run);
            }
        }
    }
    Ok(())
}

/// The first element of a run that is not finite, counted from `first`, is the error.
fn finite<T: Copy>(first: usize, run: &[T], value: impl Fn(T) -> f32) -> Result<(), (usize, f32)> {
    // Without an early end, which would keep the loop from being vectorised.
    if run.iter().fold(true, |all, &element| all & value(element).is_finite()) {
        return Ok(());
    }
    let at = run.iter().position(|&element| !value(element).is_finite()).expect("one is not finite");
    Err((first + at, value(run[at])))
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<WeightFile> {
        let bytes = MappedFile::open(&path)?;
        let header = Header::parse(&bytes).map_err(|error| error.within(path.display()))?;
        Ok(WeightFile { path, bytes, header })
    }

    fn bad(&self, message: String) -> Error {
        bad(&self.path, message)
    }

    /// Where a tensor of this file is, if it is what the model has.
    fn place(&self, file: usize, name: &str, model_shape: &[usize]) -> Result<TensorLocation> {
        let (bytes, dtype, shape) = self.header.tensor(name).expect("the name came from this file");
        if shape != model_shape {
            return Err(self.bad(format!("{name} has shape {shape:?}; the model's is {model_shape:?}")));
        }
        match dtype {
            Dtype::BF16 | Dtype::F16 | Dtype::F32 => {
                Ok(TensorLocation { name: name.to_owned(), file, bytes, dtype })
            }
            other => Err(Error::new(
                Status::Unsupported,
                format!("{}: {name} is stored as {other:?}; bf16, f16 and f32 are read", self.path.display()),
            )),
        }
    }
}

fn bad(path: &Path, message: String) -> Error {
    Error::new(Status::BadFormat, format!("{}: {message}", path.display()))
}

#[cfg(test)]
mod tests;
