//! Loads weights from safetensors files, single or sharded.
//!
//! Headers are checked against the lengths of their files, and every tensor against the model,
//! before the first tensor is read. The trainer's threads then read slices through a small buffer
//! each into the store, so the additional memory is less than a MiB per thread for a model of any
//! size.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

use crate::base::format::several;
use crate::base::{Error, Meter, Progress, Result, Status, find_non_finite, master};
use crate::engine::{TensorSlice, Trainer};
use crate::hf::config::QUANTIZED;
use crate::hf::family::unsupported;
use crate::hf::index::{Index, Sources, sources};
use crate::hf::names::{self, Names};
use crate::hf::tensors::{self, StoredTensor};
use crate::hf::{Family, INDEX, contents};
use crate::host::input::InputFile;
use crate::model::Layout;

/// The weights of a folder, checked against a model and ready to be read.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightFile>,
    /// Every tensor of the model, in the layout's order.
    tensors: Vec<TensorLocation>,
    notes: Vec<String>,
}

/// Name of the LM head.
const HEAD: &str = "lm_head.weight";

/// The tensors of all files by their names without wrappers: file, and name there.
type Found = BTreeMap<String, (usize, String)>;

/// Location of a tensor, which may be a part of a tensor of the file.
#[derive(Debug)]
struct TensorLocation {
    /// Name in the file.
    name: String,
    file: usize,
    /// Byte range in that file.
    bytes: Range<u64>,
    /// Elements before it in the tensor of the file.
    start: usize,
    dtype: Dtype,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: InputFile,
    header: Header,
}

/// The header of a safetensors file, checked against the file's length.
#[derive(Debug)]
pub struct Header {
    metadata: Metadata,
    /// Byte offset of the tensors, after the header and its 8-byte length.
    data: u64,
}

impl Header {
    /// Largest header that is read, as in the crate `safetensors`.
    const BYTES_MAX: u64 = 100_000_000;

    /// Reads the header of a file of `bytes` bytes; `read_at` fills a slice from an offset on.
    ///
    /// Errors: `BadFormat` if the file's length differs from the header's, or the tensors do not
    /// cover the file exactly; those of `read_at`.
    pub fn read(bytes: u64, read_at: impl Fn(u64, &mut [u8]) -> Result<()>) -> Result<Header> {
        let incomplete = |why: &dyn Display| {
            let message = format!("not a complete safetensors file ({bytes} bytes): {why}");
            Error::new(Status::BadFormat, message)
        };
        let Some(after_length) = bytes.checked_sub(8) else { return Err(incomplete(&"it has no header")) };
        let mut length = [0; 8];
        read_at(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > after_length.min(Header::BYTES_MAX) {
            return Err(incomplete(&format_args!("its header would have {length} bytes")));
        }
        let mut text = vec![0; length as usize];
        read_at(8, &mut text)?;
        let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| incomplete(&error))?;
        let tensors = cover(&metadata).map_err(|name| incomplete(&format_args!("{name} is misplaced")))?;
        let data = 8 + length;
        match data.checked_add(tensors) {
            Some(stated) if stated == bytes => Ok(Header { metadata, data }),
            Some(stated) => {
                let kind = if stated > bytes { "truncated" } else { "too long" };
                let message = format!("the file is {kind}: it has {bytes} bytes, its header states {stated}");
                Err(Error::new(Status::BadFormat, message))
            }
            None => Err(incomplete(&"its header states too many bytes")),
        }
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.metadata.tensors().into_keys().collect::<BTreeSet<_>>().into_iter()
    }

    /// Returns the byte range, dtype and shape of a tensor; `None` if there is no such tensor.
    pub fn tensor(&self, name: &str) -> Option<(Range<u64>, Dtype, &[usize])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        Some((self.data + start as u64..self.data + end as u64, info.dtype, &info.shape))
    }
}

/// Checks that tensors follow each other and have the bytes of their shapes; returns the bytes of
/// all. The error is the name of the first other tensor.
fn cover(metadata: &Metadata) -> Result<u64, String> {
    let mut end = 0;
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).expect("the name came from this header");
        let elements = info.shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
        let bits = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize()));
        let (start, stop) = info.data_offsets;
        let fits =
            bits.is_some_and(|bits| bits.is_multiple_of(8) && stop.checked_sub(start) == Some(bits / 8));
        if start != end || !fits {
            return Err(name);
        }
        end = stop;
    }
    Ok(end as u64)
}

impl Weights {
    /// Opens `model.safetensors`, the shards of `model.safetensors.index.json`, or, without an
    /// index, a complete set of shards.
    ///
    /// Names may begin with the names of wrappers (`_orig_mod.`, `module.`, …), and `model.` may be
    /// missing, as transformers allows. Tensors that belong to training or to another head are left
    /// out, as is a copy of the embedding named `lm_head.weight` in a tied model, exact or
    /// rounded. [`Weights::notes`] reports all but an exact copy.
    ///
    /// Tensors have the names of the family. Tensors that it stores as one are also read if they are
    /// stored separately, under the names of the layout.
    ///
    /// Errors name file and tensor: the file is missing or truncated; the dtype is not bf16, f16 or
    /// f32; the shape differs from the model's; a tensor of the model is missing, or a tensor does
    /// not belong to it; weights are quantized, or have LoRA tensors that are not merged.
    pub fn open(folder: &Path, family: &Family, layout: &Layout) -> Result<Weights> {
        let Sources { paths, index, mut notes } = sources(folder)?;
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>>>()?;
        let is_there = |name: &&String| files.iter().any(|file| file.header.tensor(name).is_some());
        let listed = index.iter().flat_map(Index::names);
        if let Some(name) = listed.filter(|name| !is_there(name)).min() {
            notes.push(format!("{INDEX} lists tensors that its files do not have, e.g. {name}"));
        }
        let stored = family.tensors.stored(layout);
        let layout_names = layout.tensors().map(|(_, tensor)| &tensor.name[..]);
        let known: HashSet<&str> =
            stored.iter().map(|tensor| &tensor.name[..]).chain(layout_names).chain([HEAD]).collect();
        let mut names = Names::new(|name| known.contains(name));
        let mut found = Found::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.header.names() {
                let clean = names.clean(&name);
                file.refuse_unfinished(&name, &clean, &known)?;
                if let Some((other, first)) = found.insert(clean, (number, name.clone())) {
                    let other = files[other].path.display();
                    return Err(file.bad(if first == name {
                        format!("tensor {name} is also in {other}")
                    } else {
                        format!("tensor {name} is {first} in {other} under another name; remove one of them")
                    }));
                }
            }
        }
        let embedding = layout.tensors().next().map_or("", |(_, tensor)| &tensor.name[..]);
        if layout.tied
            && !found.contains_key(embedding)
            && let Some(head) = found.remove(HEAD)
        {
            found.insert(embedding.to_owned(), head);
            notes.push(format!("{HEAD} is read as {embedding}, since config.json ties them"));
        }
        notes.extend(names.into_notes());
        let (stored, separate) = tensors::or_separate(stored, layout, |name| found.contains_key(name));
        notes.extend(separate);
        refuse_missing(folder, &stored, &found)?;
        let mut tensors = Vec::new();
        for tensor in &stored {
            let (number, name) = found.remove(&tensor.name).expect("no tensor is missing");
            files[number].locate(number, &name, tensor, &mut tensors)?;
        }
        let mut weights = Weights { files, tensors, notes };
        weights.leave_out(layout, &found)?;
        Ok(weights)
    }

    /// Remarks for the user: files and names that were read although they are not as transformers
    /// writes them, and tensors that were left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        let total = self.tensors.iter().map(|location| length(&location.bytes)).sum();
        let meter = Meter::new(total, progress);
        trainer.each_slice(&order, &|slice| meter.add(self.read_slice(slice)?))?;
        self.files.iter().try_for_each(|file| file.file.check_unchanged())
    }

    /// Fills a slice from its file; returns the bytes read.
    fn read_slice(&self, slice: &mut TensorSlice) -> Result<u64> {
        let location = &self.tensors[slice.index];
        let (file, elements) = (&self.files[location.file], slice.elements.clone());
        let size = length(&location.bytes) / slice.tensor.elements() as u64;
        let start = location.bytes.start + elements.start as u64 * size;
        let bytes = elements.len() as u64 * size;
        // Also the slices that other threads take next.
        file.file.prefetch(start..start + 3 * bytes);
        let mut done = 0;
        file.each_block(start..start + bytes, |block| {
            copy(slice, done, location.dtype, block).map_err(|(at, value)| {
                let (element, name) = (location.start + elements.start + at, &location.name);
                file.bad(format!("element {element} of {name} is {value}; weights must be finite"))
            })?;
            done += block.len() / size as usize;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Notes the tensors that are left out; refuses others that do not belong to the model.
    fn leave_out(&mut self, layout: &Layout, leftovers: &Found) -> Result<()> {
        let mut left_out: BTreeMap<_, (usize, &str)> = BTreeMap::new();
        let mut note = None;
        for (clean, (number, name)) in leftovers {
            let file = &self.files[*number];
            if let Some(kind) = names::left_out(clean) {
                left_out.entry(kind).or_insert((0, name)).0 += 1;
            } else if !(layout.tied && clean == HEAD) {
                return Err(
                    file.bad(format!("{name} is not a tensor of the model that config.json describes"))
                );
            } else {
                note = match self.is_embedding(file, name)? {
                    Equality::Exact => None,
                    Equality::Rounded => Some(format!(
                        "{name} has the values of {}, rounded; it is left out, since config.json ties them",
                        self.tensors[0].name
                    )),
                    Equality::None => return Err(file.differs(name, &self.tensors[0].name)),
                };
            }
        }
        self.notes.extend(note);
        self.notes.extend(left_out.into_iter().map(|((_, reason), (count, first))| match count {
            1 => format!("1 tensor is left out: {first} ({reason})"),
            _ => format!("{count} tensors are left out, e.g. {first} ({reason})"),
        }));
        Ok(())
    }

    /// Compares a tensor of a file with the embedding.
    fn is_embedding(&self, file: &WeightFile, name: &str) -> Result<Equality> {
        let embedding = &self.tensors[0];
        let (bytes, dtype, _) = file.header.tensor(name).expect("the name came from this file");
        let copy = Values { file: &file.file, bytes, dtype };
        let original = &self.files[embedding.file].file;
        copy.equality(&Values { file: original, bytes: embedding.bytes.clone(), dtype: embedding.dtype })
    }
}

/// Refuses weights without all tensors of the model, and says what is there instead.
fn refuse_missing(folder: &Path, stored: &[StoredTensor], found: &Found) -> Result<()> {
    let names: Vec<&str> = stored.iter().map(|tensor| &tensor.name[..]).collect();
    let layers = |names: &mut dyn Iterator<Item = &str>| {
        names.filter_map(names::layer).max().map_or(0, |last| last.saturating_add(1))
    };
    let expected = layers(&mut names.iter().copied());
    let layers_found = layers(&mut found.keys().map(String::as_str));
    let missing: Vec<&str> = names.iter().copied().filter(|name| !found.contains_key(*name)).collect();
    let instead = || {
        let known: HashSet<&str> = names.iter().copied().chain([HEAD]).collect();
        let other = found.keys().find(|name| !known.contains(&name[..]));
        other.map_or(String::new(), |other| format!("; they have {other}, which is not of the model"))
    };
    let message = match missing[..] {
        _ if layers_found > 0 && layers_found != expected => format!(
            "the weights have {}, but num_hidden_layers of config.json is {expected}: take the config.json of \
             these weights",
            several(layers_found, "layer")
        ),
        [] => return Ok(()),
        [HEAD] => format!(
            "tensor {HEAD} is missing from the weights; if the embedding is the head, set tie_word_embeddings of \
             config.json to true"
        ),
        [name] => format!("tensor {name} is missing from the weights{}", instead()),
        [first, ..] => format!(
            "{} of the model's {} tensors are missing from the weights, e.g. {first}{}",
            missing.len(),
            names.len(),
            instead()
        ),
    };
    Err(bad(folder, message))
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// The values of a tensor in a file.
struct Values<'a> {
    file: &'a InputFile,
    bytes: Range<u64>,
    dtype: Dtype,
}

/// The relation of two tensors' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Equality {
    Exact,
    /// Equal once the values of the wider dtype are rounded to the other.
    Rounded,
    None,
}

impl Values<'_> {
    /// Compares values; −0.0 equals 0.0, and the dtypes may differ.
    fn equality(&self, other: &Values) -> Result<Equality> {
        let (Some(size), Some(other_size)) = (bytes_of(self.dtype), bytes_of(other.dtype)) else {
            return Ok(Equality::None);
        };
        let elements = length(&self.bytes) / size;
        if elements != length(&other.bytes) / other_size {
            return Ok(Equality::None);
        }
        let mut all = Equality::Exact;
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for at in (0..elements).step_by(BLOCK_BYTES) {
            let count = (BLOCK_BYTES as u64).min(elements - at);
            self.read(at * size, count * size, &mut one)?;
            other.read(at * other_size, count * other_size, &mut two)?;
            if self.dtype != other.dtype || one != two {
                let (one, two) = (widened(&one, self.dtype), widened(&two, other.dtype));
                all = all.max(equality((&one, self.dtype), (&two, other.dtype)));
            }
            if all == Equality::None {
                break;
            }
        }
        Ok(all)
    }

    /// Reads bytes of the tensor.
    fn read(&self, from: u64, bytes: u64, out: &mut Vec<u8>) -> Result<()> {
        out.resize(bytes as usize, 0);
        self.file.read_at(self.bytes.start + from, out)
    }
}

/// Compares values, given with the dtypes that they were widened from.
fn equality((one, one_dtype): (&[f32], Dtype), (two, two_dtype): (&[f32], Dtype)) -> Equality {
    let rounds = |wide: &[f32], narrow: &[f32], dtype| {
        wide.iter().zip(narrow).all(|(wide, narrow)| rounded(*wide, dtype) == *narrow)
    };
    if one == two {
        Equality::Exact
    } else if (one_dtype == Dtype::F32 && rounds(one, two, two_dtype))
        || (two_dtype == Dtype::F32 && rounds(two, one, one_dtype))
    {
        Equality::Rounded
    } else {
        Equality::None
    }
}

/// Rounds a value to a supported dtype, to nearest even as PyTorch does.
fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        Dtype::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Bytes per value of the supported dtypes.
fn bytes_of(dtype: Dtype) -> Option<u64> {
    match dtype {
        Dtype::BF16 | Dtype::F16 => Some(2),
        Dtype::F32 => Some(4),
        _ => None,
    }
}

/// Returns values of a supported dtype as f32.
fn widened(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let halves = || bytes.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
    match dtype {
        Dtype::BF16 => halves().map(master::widen).collect(),
        Dtype::F16 => halves().map(|half| f16::from_bits(half).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
    }
}

/// Elements copied at a time; they stay in the L1 cache.
const RUN: usize = 1024;

/// Copies a file's bytes into a slice, from its element `first` on. The error is index (in the slice)
/// and value of the first element that is not finite; the runs before it have then been written.
fn copy(slice: &mut TensorSlice, first: usize, dtype: Dtype, bytes: &[u8]) -> Result<(), (usize, f32)> {
    let at = |number: usize| first + number * RUN;
    match dtype {
        Dtype::BF16 => {
            let mut run = [0u16; RUN];
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let run = &mut run[..bytes.len()];
                run.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = u16::from_le_bytes(*bytes));
                finite(at(number), run, master::widen)?;
                slice.write_bf16(at(number), run);
            }
        }
        Dtype::F16 => {
            let (mut run, mut values) = ([f16::ZERO; RUN], [0f32; RUN]);
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let (run, values) = (&mut run[..bytes.len()], &mut values[..bytes.len()]);
                run.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = f16::from_le_bytes(*bytes));
                run.convert_to_f32_slice(values);
                finite(at(number), values, |value| value)?;
                slice.write(at(number), values);
            }
        }
        _ => {
            let mut run = [0f32; RUN];
            for (number, bytes) in bytes.as_chunks().0.chunks(RUN).enumerate() {
                let run = &mut run[..bytes.len()];
                run.iter_mut().zip(bytes).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
                finite(at(number), run, |value| value)?;
                slice.write(at(number), run);
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

/// Bytes that a thread reads at a time; they stay in the L2 cache.
const BLOCK_BYTES: usize = 1 << 18;

thread_local! {
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<WeightFile> {
        let file = InputFile::open(&path)?;
        let mut head = vec![0; file.bytes().min(contents::HEAD_BYTES) as usize];
        file.read_at(0, &mut head)?;
        contents::refuse_weights(&path, &head)?;
        let read_at = |offset, out: &mut [u8]| file.read_at(offset, out);
        let header = Header::read(file.bytes(), read_at).map_err(|error| error.within(path.display()))?;
        Ok(WeightFile { path, file, header })
    }

    /// Calls `take` with consecutive blocks of a range.
    fn each_block(&self, range: Range<u64>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        BLOCK.with_borrow_mut(|buffer| {
            buffer.resize(BLOCK_BYTES, 0);
            for start in range.clone().step_by(BLOCK_BYTES) {
                let block = &mut buffer[..(range.end - start).min(BLOCK_BYTES as u64) as usize];
                self.file.read_at(start, block)?;
                take(block)?;
            }
            Ok(())
        })
    }

    fn bad(&self, message: String) -> Error {
        bad(&self.path, message)
    }

    /// The error of a head that is not the embedding that `config.json` ties it to.
    fn differs(&self, head: &str, embedding: &str) -> Error {
        self.bad(format!(
            "{head} differs from {embedding}, but config.json ties them: to train both, as transformers 5 does, set \
             tie_word_embeddings to false; to train {embedding} alone, remove {head}"
        ))
    }

    /// Refuses tensors that must be merged or dequantized first.
    fn refuse_unfinished(&self, name: &str, clean: &str, known: &HashSet<&str>) -> Result<()> {
        let path = self.path.display();
        if names::is_lora(name) {
            return Err(unsupported(format!(
                "{path}: {name} is a LoRA tensor: merge it first, with merge_and_unload() of peft and then \
                 save_pretrained"
            )));
        }
        if !known.contains(clean) && names::is_quantized(name) {
            return Err(unsupported(format!("{path} has {name}: {QUANTIZED}")));
        }
        Ok(())
    }

    /// Appends the locations of a stored tensor's parts in this file, the file `number`, where it is
    /// named `name`. Errors: the shape differs from the model's, or an unsupported dtype.
    fn locate(
        &self,
        number: usize,
        name: &str,
        tensor: &StoredTensor,
        locations: &mut Vec<TensorLocation>,
    ) -> Result<()> {
        let (bytes, dtype, shape) = self.header.tensor(name).expect("the name came from this file");
        let Some(size) = bytes_of(dtype) else {
            let remedy = if dtype == Dtype::F64 { "supported are bf16, f16 and f32" } else { QUANTIZED };
            return Err(unsupported(format!(
                "{}: {name} has dtype {dtype:?}; {remedy}",
                self.path.display()
            )));
        };
        if shape != tensor.shape {
            let expected = &tensor.shape;
            return Err(
                self.bad(format!("{name} has shape {shape:?}, but by config.json it must be {expected:?}"))
            );
        }
        let at = |element: usize| bytes.start + element as u64 * size;
        locations.extend(tensor.parts.iter().map(|part| TensorLocation {
            name: name.to_owned(),
            file: number,
            bytes: at(part.start)..at(part.end),
            start: part.start,
            dtype,
        }));
        Ok(())
    }
}

fn bad(path: &Path, message: String) -> Error {
    Error::new(Status::BadFormat, format!("{}: {message}", path.display()))
}

#[cfg(test)]
mod tests;
