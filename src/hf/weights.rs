//! Loads weights from safetensors files, single or sharded.
//!
//! Files are memory-mapped. Their headers are checked against their lengths, and every tensor
//! against the model, before the first tensor is read. The trainer's threads then copy slices from
//! the mappings into the store. Pages that have been read are released, so the additional memory is
//! a few slices for a model of any size.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use crate::base::{Error, Meter, Progress, Result, Status, find_non_finite, master};
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

/// Location of a tensor.
#[derive(Debug)]
struct TensorLocation {
    name: String,
    file: usize,
    /// Byte range in that file.
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
    /// Byte offset of the tensors, after the header and its 8-byte length.
    data: usize,
}

impl Header {
    /// Parses the header of a file, given all its bytes.
    ///
    /// Errors: `BadFormat` if the file's length differs from the header's, or the tensors do not
    /// cover the file exactly.
    pub fn parse(file: &[u8]) -> Result<Header> {
        let (header, metadata) = SafeTensors::read_metadata(file).map_err(|error| {
            let actual = file.len();
            let message = match stated_bytes(file) {
                Some(stated) if stated != actual as u64 => {
                    let kind = if stated > actual as u64 { "truncated" } else { "too long" };
                    format!("the file is {kind}: it has {actual} bytes, its header states {stated}")
                }
                _ => format!("not a complete safetensors file ({actual} bytes): {error}"),
            };
            Error::new(Status::BadFormat, message)
        })?;
        Ok(Header { metadata, data: header + 8 })
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.metadata.tensors().into_keys()
    }

    /// Returns the byte range, dtype and shape of a tensor; `None` if there is no such tensor.
    pub fn tensor(&self, name: &str) -> Option<(Range<usize>, Dtype, &[usize])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        Some((self.data + start..self.data + end, info.dtype, &info.shape))
    }
}

/// Returns the size that the header of a safetensors file states; `None` if the header cannot be
/// read.
fn stated_bytes(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let header: Metadata = serde_json::from_slice(bytes.get(8..end)?).ok()?;
    (end as u64).checked_add(header.data_len() as u64)
}

impl Weights {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// Errors name file and tensor: the file is missing or truncated; the dtype is not bf16, f16 or
    /// f32; the shape differs from the model's; a tensor of the model is missing, or a tensor does
    /// not belong to it. Two kinds of additional tensors are ignored: a copy of the embedding named
    /// `lm_head.weight` in a tied model, and the rotary frequencies in old checkpoints.
    pub fn open(folder: &Path, layout: &Layout) -> Result<Weights> {
        let (paths, index) = sources(folder)?;
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>>>()?;
        let mut found = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.header.names() {
                if let Some(other) = found.insert(name.clone(), number) {
                    let other: &WeightFile = &files[other];
                    return Err(file.bad(format!("tensor {name} is also in {}", other.path.display())));
                }
            }
        }
        if let Some(index) = index {
            let missing = index.names().find(|name| !found.contains_key(*name));
            if let Some(name) = missing {
                return Err(bad(
                    &folder.join(INDEX),
                    format!("tensor {name} is in none of the files it lists"),
                ));
            }
        }
        let mut tensors = Vec::new();
        for (_, tensor) in layout.tensors() {
            let Some(number) = found.remove(&tensor.name) else {
                return Err(bad(folder, format!("tensor {} is missing from the weights", tensor.name)));
            };
            tensors.push(files[number].locate(number, &tensor.name, &tensor.shape)?);
        }
        let weights = Weights { files, tensors };
        weights.refuse_leftovers(layout, &found)?;
        Ok(weights)
    }

    /// Writes every tensor into a trainer of this model, in the order of the files. bf16, f16 and
    /// f32 values arrive exactly as f32 master weights. Moments stay as they are. Waits for the
    /// lanes and for the disk.
    ///
    /// Errors: a value that is not finite, named with file, tensor and element; any error of
    /// `progress`. After an error the trainer has a mixture of old and new weights.
    pub fn load(&self, trainer: &mut Trainer, progress: Progress) -> Result<()> {
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_by_key(|&index| (self.tensors[index].file, self.tensors[index].bytes.start));
        let total = self.tensors.iter().map(|location| location.bytes.len() as u64).sum();
        let meter = Meter::new(total, progress);
        trainer.each_slice(&order, &|slice| meter.add(self.read_slice(slice)?))
    }

    /// Fills a slice from its file; returns the bytes read.
    fn read_slice(&self, slice: &mut TensorSlice) -> Result<u64> {
        let location = &self.tensors[slice.index];
        let (file, size) = (&self.files[location.file], location.bytes.len() / slice.tensor.elements());
        let from = location.bytes.start + slice.elements.start * size;
        let range = from..from + slice.elements.len() * size;
        // Also prefetches the slices that other threads take next.
        file.bytes.fetch(range.clone(), 2 * range.len());
        let finite = copy(slice, location.dtype, &file.bytes[range.clone()]);
        file.bytes.release(range.clone());
        match finite {
            Ok(()) => Ok(range.len() as u64),
            Err((at, value)) => Err(file.bad(format!(
                "element {} of {} is {value}; weights must be finite",
                slice.elements.start + at,
                location.name
            ))),
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
                    "{name} differs from {}, but config.json ties them (tie_word_embeddings); set it to \
                     false if they should differ",
                    embedding.name
                )));
            }
            return Err(file.bad(format!("{name} is not a tensor of the model that config.json describes")));
        }
        Ok(())
    }
}

/// Returns true if ranges of two files have equal bytes. Releases the pages it has read.
fn same(one: &MappedFile, one_range: Range<usize>, other: &MappedFile, other_range: Range<usize>) -> bool {
    const BLOCK: usize = 1 << 22;
    one_range.len() == other_range.len()
        && (0..one_range.len()).step_by(BLOCK).all(|at| {
            let count = BLOCK.min(one_range.len() - at);
            let [a, b] = [one_range.start, other_range.start].map(|start| start + at..start + at + count);
            let same = one[a.clone()] == other[b.clone()];
            one.release(a);
            other.release(b);
            same
        })
}

/// Elements copied at a time; they stay in the L1 cache.
const RUN: usize = 1024;

/// Copies a slice from a file's bytes. The error is index (in the slice) and value of the first
/// element that is not finite; the runs before it have then been written.
fn copy(slice: &mut TensorSlice, dtype: Dtype, bytes: &[u8]) -> Result<(), (usize, f32)> {
    match dtype {
        Dtype::BF16 => {
            let mut run = [0u16; RUN];
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let run = &mut run[..bytes.len()];
                run.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = u16::from_le_bytes(*bytes));
                finite(number * RUN, run, master::widen)?;
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

/// Returns index (counted from `first`) and value of the first element that is not finite as the
/// error.
fn finite<T: Copy>(first: usize, run: &[T], widen: impl Fn(T) -> f32) -> Result<(), (usize, f32)> {
    find_non_finite(run, widen).map_or(Ok(()), |(at, value)| Err((first + at, value)))
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

    /// Returns the location of a tensor in this file. Errors: the shape differs from the model's,
    /// or an unsupported dtype.
    fn locate(&self, file: usize, name: &str, model_shape: &[usize]) -> Result<TensorLocation> {
        let (bytes, dtype, shape) = self.header.tensor(name).expect("the name came from this file");
        if shape != model_shape {
            return Err(self
                .bad(format!("{name} has shape {shape:?}, but by config.json it must be {model_shape:?}")));
        }
        match dtype {
            Dtype::BF16 | Dtype::F16 | Dtype::F32 => {
                Ok(TensorLocation { name: name.to_owned(), file, bytes, dtype })
            }
            other => Err(Error::new(
                Status::Unsupported,
                format!(
                    "{}: {name} has dtype {other:?}; supported are bf16, f16 and f32",
                    self.path.display()
                ),
            )),
        }
    }
}

fn bad(path: &Path, message: String) -> Error {
    Error::new(Status::BadFormat, format!("{}: {message}", path.display()))
}

#[cfg(test)]
mod tests;
