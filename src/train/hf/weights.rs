//! Weights out of safetensors files, single or sharded.
//!
//! Files are mapped, their headers checked against their lengths and every tensor against the model before
//! anything is read; then one tensor at a time is widened to f32 and handed on, so extra memory is one tensor.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde::Deserialize;

use crate::base::{Error, Result, Status, master};
use crate::host::files::MappedFile;
use crate::model::Layout;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights of a folder, checked against a model and ready to be read.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightFile>,
    /// For every tensor of the model, in forward order: its name and its file.
    places: Vec<(String, usize)>,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    bytes: MappedFile,
    metadata: Metadata,
    /// Where tensors start: behind the header and its 8-byte length.
    data: usize,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
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
            for name in file.metadata.tensors().into_keys() {
                if let Some(other) = found.insert(name.clone(), number) {
                    let other: &WeightFile = &files[other];
                    return Err(file.bad(format!("{name} is also in {}", other.path.display())));
                }
            }
        }
        if let Some(index) = index {
            let stray = index.weight_map.keys().find(|name| !found.contains_key(*name));
            if let Some(name) = stray {
                return Err(bad(&folder.join(INDEX), format!("{name} is in none of the files it lists")));
            }
        }
        let mut places = Vec::new();
        for (_, tensor) in layout.tensors() {
            let Some(number) = found.remove(&tensor.name) else {
                return Err(bad(folder, format!("{} is missing from the weights", tensor.name)));
            };
            files[number].check(&tensor.name, &tensor.shape)?;
            places.push((tensor.name.clone(), number));
        }
        let weights = Weights { files, places };
        weights.refuse_leftovers(layout, &found)?;
        Ok(weights)
    }

    /// Hands every tensor to `write`, in forward order, as f32 `[out, in]` row-major.
    ///
    /// Errors: a value that is not finite, named with its place, or what `write` answers.
    pub fn load(&self, mut write: impl FnMut(&str, &[f32]) -> Result<()>) -> Result<()> {
        let mut values = Vec::new();
        for (name, number) in &self.places {
            let file = &self.files[*number];
            file.widen(name, &mut values)?;
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                return Err(file.bad(format!("element {place} of {name} is {}", values[place])));
            }
            write(name, &values)?;
        }
        Ok(())
    }

    fn refuse_leftovers(&self, layout: &Layout, leftovers: &BTreeMap<String, usize>) -> Result<()> {
        for (name, &number) in leftovers {
            let file = &self.files[number];
            if name.ends_with(".rotary_emb.inv_freq") {
                continue;
            }
            if layout.tied && name == "lm_head.weight" {
                let (embedding, place) = &self.places[0];
                if file.tensor(name) == self.files[*place].tensor(embedding) {
                    continue;
                }
                return Err(file.bad(format!(
                    "{name} differs from {embedding}, and the config ties them (tie_word_embeddings)"
                )));
            }
            return Err(file.bad(format!("{name} is no tensor of the model that config.json describes")));
        }
        Ok(())
    }
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<WeightFile> {
        let bytes = MappedFile::open(&path)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            let found = format!("{} bytes are not a whole safetensors file", bytes.len());
            bad(
                &path,
                match promised(&bytes) {
                    Some(promised) if promised != bytes.len() as u64 => {
                        let what = if promised > bytes.len() as u64 { "truncated" } else { "too long" };
                        format!("{found}: it is {what}, its header promises {promised}")
                    }
                    _ => format!("{found}: {error}"),
                },
            )
        })?;
        let data = header + 8;
        Ok(WeightFile { path, bytes, metadata, data })
    }

    fn bad(&self, message: String) -> Error {
        bad(&self.path, message)
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let info = self.metadata.info(name).expect("the name came from this file");
        if info.shape != shape {
            return Err(self.bad(format!("{name} has shape {:?}; the model's is {shape:?}", info.shape)));
        }
        match info.dtype {
            Dtype::BF16 | Dtype::F16 | Dtype::F32 => Ok(()),
            other => Err(Error::new(
                Status::Unsupported,
                format!("{}: {name} is stored as {other:?}; bf16, f16 and f32 are read", self.path.display()),
            )),
        }
    }

    fn tensor(&self, name: &str) -> (Dtype, &[u8]) {
        let info = self.metadata.info(name).expect("the name came from this file");
        let (start, end) = info.data_offsets;
        (info.dtype, &self.bytes[self.data + start..self.data + end])
    }

    fn widen(&self, name: &str, out: &mut Vec<f32>) -> Result<()> {
        let (dtype, bytes) = self.tensor(name);
        let halves = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        out.clear();
        match dtype {
            Dtype::BF16 => out.extend(halves.map(master::widen)),
            Dtype::F16 => {
                let halves: Vec<f16> = halves.map(f16::from_bits).collect();
                out.resize(halves.len(), 0.0);
                halves.convert_to_f32_slice(out);
            }
            Dtype::F32 => {
                out.extend(
                    bytes
                        .chunks_exact(4)
                        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])),
                );
            }
            other => return Err(Error::internal(format!("{name} was checked and is {other:?}"))),
        }
        Ok(())
    }
}

/// How long a safetensors file says it is, if its header can be read.
fn promised(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let header: Metadata = serde_json::from_slice(bytes.get(8..end)?).ok()?;
    Some(end as u64 + header.data_len() as u64)
}

fn bad(path: &Path, message: String) -> Error {
    Error::new(Status::BadFormat, format!("{}: {message}", path.display()))
}

/// The weight files of a folder; a single file goes before an index, as in transformers.
fn sources(folder: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok((vec![single], None));
    }
    if !index.exists() {
        let legacy =
            ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"]
                .into_iter()
                .find(|name| folder.join(name).exists());
        return Err(match legacy {
            Some(name) => Error::new(
                Status::Unsupported,
                format!(
                    "{} has {name}; weights are read from safetensors: convert it first",
                    folder.display()
                ),
            ),
            None => Error::new(
                Status::NotFound,
                format!(
                    "{} has neither {SINGLE} nor {INDEX}; --init starts from fresh weights",
                    folder.display()
                ),
            ),
        });
    }
    let text =
        fs::read(&index).map_err(|error| Error::io(format!("cannot read {}", index.display()), &error))?;
    let listed: Index =
        serde_json::from_slice(&text).map_err(|error| bad(&index, format!("not an index: {error}")))?;
    let names: BTreeSet<&str> = listed.weight_map.values().map(String::as_str).collect();
    let mut paths = Vec::new();
    for name in names {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(bad(&index, format!("{name:?} is not the name of a file in this folder")));
        }
        let path = folder.join(name);
        if !path.exists() {
            return Err(Error::new(
                Status::NotFound,
                format!("{} is listed in {INDEX} and not there", path.display()),
            ));
        }
        paths.push(path);
    }
    Ok((paths, Some(listed)))
}

#[cfg(test)]
mod tests;
