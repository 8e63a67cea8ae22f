//! A model out into a Hugging Face folder, whole or not at all.
//!
//! Everything is written and synced under a hidden name beside the target and renamed at the end. Over an
//! earlier export the two folders change places in one step (`renameat2`, Linux), then the old one is
//! removed; on a file system that cannot, the old one steps aside first. [`MARKER`] is how an earlier
//! export is known: it lists the files, and a folder that holds any other file is left alone.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::{DType, Error, Result, Status, master};
use crate::host::Size;
use crate::host::files;
use crate::model::{Layout, TensorLayout};
use crate::train::hf::FolderConfig;

/// The file by which an export knows an earlier one.
pub const MARKER: &str = "horizon.json";

const WEIGHTS: &str = "model.safetensors";

#[derive(Serialize, Deserialize)]
struct Marker {
    /// The version that wrote the folder.
    horizon: String,
    /// What it wrote, this file left out.
    files: Vec<String>,
}

/// A folder that an export may take the place of.
#[derive(Clone, Debug)]
pub struct ExportTarget {
    folder: PathBuf,
    parent: PathBuf,
    partial: PathBuf,
}

impl ExportTarget {
    /// Looks at a target before there is anything to write, so that a long run does not end in an error that
    /// was known at its beginning.
    ///
    /// Refused: a folder that holds anything but an earlier export, a file, a place that cannot be written to,
    /// a file system with less than `bytes` free. Creates missing parents.
    pub fn check(folder: &Path, bytes: u64) -> Result<ExportTarget> {
        let cannot = |error: &io::Error| Error::io(format!("cannot write to {}", folder.display()), error);
        let whole = std::path::absolute(folder).map_err(|error| cannot(&error))?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(Error::argument(format!("{} cannot be replaced by an export", folder.display())));
        };
        fs::create_dir_all(parent).map_err(|error| cannot(&error))?;
        let name = name.to_string_lossy();
        let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
        let target = ExportTarget { folder: whole.clone(), parent: parent.to_owned(), partial };
        target.may_replace()?;
        fs::create_dir(&target.partial).map_err(|error| cannot(&error))?;
        let free = files::free_bytes(&target.partial);
        fs::remove_dir(&target.partial).map_err(|error| cannot(&error))?;
        let free = free.map_err(|error| cannot(&error))?;
        if free < bytes {
            return Err(Error::new(
                Status::DiskFull,
                format!(
                    "the export to {} needs {} of disk space, {} are free there",
                    folder.display(),
                    Size(bytes as usize),
                    Size(free as usize)
                ),
            ));
        }
        Ok(target)
    }

    /// The folder as it will be named.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether an earlier export (or nothing) stands where the new one goes.
    fn may_replace(&self) -> Result<bool> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(Error::io(format!("cannot export to {}", self.folder.display()), &error));
            }
        };
        let marker = fs::read(self.folder.join(MARKER)).ok();
        let marker: Option<Marker> = marker.and_then(|text| serde_json::from_slice(&text).ok());
        let mut has_entries = false;
        for entry in entries {
            let entry = entry
                .map_err(|error| Error::io(format!("cannot export to {}", self.folder.display()), &error))?;
            has_entries = true;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = marker.as_ref().is_some_and(|marker| name == MARKER || marker.files.contains(&name));
            if !ours {
                return Err(Error::new(
                    Status::InvalidArgument,
                    format!(
                        "{} holds {name}, which no export wrote; an export replaces only an earlier export: \
                         name another folder or move it away",
                        self.folder.display()
                    ),
                ));
            }
        }
        Ok(has_entries)
    }

    /// Gives the finished partial folder the target's name.
    fn publish(&self) -> io::Result<()> {
        sync_folder(&self.partial)?;
        let replaces = self.may_replace().map_err(|error| io::Error::other(error.to_string()))?;
        if !replaces {
            // Renaming over an empty folder is one step, too.
            fs::rename(&self.partial, &self.folder)?;
            return sync_folder(&self.parent);
        }
        match files::exchange(&self.partial, &self.folder) {
            Ok(()) => {
                sync_folder(&self.parent)?;
                fs::remove_dir_all(&self.partial)
            }
            Err(_) => {
                let aside = self.partial.with_extension("replaced");
                fs::rename(&self.folder, &aside)?;
                if let Err(error) = fs::rename(&self.partial, &self.folder) {
                    fs::rename(&aside, &self.folder)?;
                    return Err(error);
                }
                sync_folder(&self.parent)?;
                fs::remove_dir_all(&aside)
            }
        }
    }
}

/// Bytes of the weights of a model stored as `dtype`.
pub fn export_bytes(layout: &Layout, dtype: DType) -> u64 {
    layout.parameters() as u64 * dtype.bytes() as u64
}

/// Writes a model to `target`: as bf16, the weight that is streamed, or as its f32 master. `read` fills a
/// tensor's f32 values by name. On any error nothing stands under the target's name that was not there before.
pub fn export(
    target: &ExportTarget,
    config: &FolderConfig,
    layout: &Layout,
    dtype: DType,
    read: impl FnMut(&str, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let cannot =
        |error: io::Error| Error::io(format!("cannot export to {}", target.folder.display()), &error);
    fs::create_dir(&target.partial).map_err(cannot)?;
    fill(&target.partial, config, layout, dtype, read).map_err(|failure| {
        // Best effort: the export has failed already, and its error is the one to tell.
        let _ = fs::remove_dir_all(&target.partial);
        match failure {
            Failure::Io(error) => cannot(error),
            Failure::Read(error) => error,
        }
    })?;
    target.publish().map_err(|error| {
        let whole = format!("the export to {} is whole and stands in", target.folder.display());
        Error::io(format!("{whole} {}, but could not take its place", target.partial.display()), &error)
    })
}

/// Why an export failed: writing files, or reading the model.
enum Failure {
    Io(io::Error),
    Read(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

fn fill(
    folder: &Path,
    config: &FolderConfig,
    layout: &Layout,
    dtype: DType,
    read: impl FnMut(&str, &mut [f32]) -> Result<()>,
) -> Result<(), Failure> {
    let marker = Marker {
        horizon: env!("CARGO_PKG_VERSION").to_owned(),
        files: ["config.json", "generation_config.json", WEIGHTS].map(str::to_owned).to_vec(),
    };
    for (name, json) in [
        ("config.json", config.json(dtype)),
        ("generation_config.json", config.generation_json()),
        (MARKER, json!(marker)),
    ] {
        write_file(&folder.join(name), |file| Ok(writeln!(file, "{json:#}")?))?;
    }
    write_file(&folder.join(WEIGHTS), |file| write_weights(file, layout, dtype, read))
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(|error| error.into_error())?;
    Ok(file.sync_all()?)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes header and tensors sorted by name, which is the order the safetensors library writes, too.
fn write_weights(
    file: &mut impl Write,
    layout: &Layout,
    dtype: DType,
    mut read: impl FnMut(&str, &mut [f32]) -> Result<()>,
) -> Result<(), Failure> {
    let mut tensors: Vec<&TensorLayout> = layout.tensors().map(|(_, tensor)| tensor).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    file.write_all(&header(&tensors, dtype))?;
    let mut values = Vec::new();
    for tensor in tensors {
        values.resize(tensor.elements(), 0.0f32);
        read(&tensor.name, &mut values).map_err(Failure::Read)?;
        match dtype {
            DType::Bf16 => write_all(file, &values, |value| master::round(value).to_le_bytes())?,
            DType::F32 => write_all(file, &values, f32::to_le_bytes)?,
        }
    }
    Ok(())
}

fn write_all<const W: usize>(
    file: &mut impl Write,
    values: &[f32],
    bytes: impl Fn(f32) -> [u8; W],
) -> io::Result<()> {
    const BLOCK: usize = 1 << 16;
    let mut block = Vec::with_capacity(BLOCK * W);
    for values in values.chunks(BLOCK) {
        block.clear();
        values.iter().for_each(|&value| block.extend_from_slice(&bytes(value)));
        file.write_all(&block)?;
    }
    Ok(())
}

/// The safetensors header: its length in 8 bytes, then JSON padded by spaces to a multiple of 8.
fn header(tensors: &[&TensorLayout], dtype: DType) -> Vec<u8> {
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.elements() * dtype.bytes();
        let info = TensorInfo {
            dtype: match dtype {
                DType::Bf16 => Dtype::BF16,
                DType::F32 => Dtype::F32,
            },
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        let info = serde_json::to_string(&info).expect("a tensor's facts are JSON");
        json.push_str(&format!(",{}:{info}", Value::from(tensor.name.as_str())));
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header
}

#[cfg(test)]
mod tests;
