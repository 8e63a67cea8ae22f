//! The GEMM autotune table: the algorithm of each GEMM by device, library version and shape, and
//! the attention kernel by device and head dimension. Pure.
//!
//! `horizon calibrate` measures and writes it. A checkpoint holds its checksum, so that a resumed
//! run uses the same algorithms. Opening a trainer measures nothing, so the same table gives the
//! same bits. Its file is next to the machine description: `here.json` and `here.gemm.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, Name, Result, Status};
use crate::host::input;
use crate::ops::cuda::gemm::Gemm;

/// Largest file that is read; enough for 100,000 GEMMs.
const FILE_BYTES_MAX: u64 = 1 << 26;

/// The key of a choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The device's name, e.g. `NVIDIA H200`.
    pub device: String,
    /// cuBLASLt's version, e.g. 130101.
    pub library: usize,
    /// The GEMM.
    pub gemm: Gemm,
}

/// An algorithm as cuBLASLt encodes it: 64 opaque bytes, valid for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// cuBLASLt's encoding.
    pub algorithm: [u64; 8],
    /// Bytes of workspace that the algorithm needs.
    pub workspace_bytes: usize,
}

/// The two attention kernels. They sum in different orders, so their bits differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attention {
    /// `csrc/attention.cu`: `mma` of one warp, on every device.
    #[default]
    Mma,
    /// `csrc/attention_wgmma.cu`: `wgmma` of four warps, on Hopper, for head dimensions
    /// [`WGMMA_HEADS`].
    Wgmma,
}

impl Attention {
    /// The name of the matrix instruction.
    pub fn name(self) -> &'static str {
        match self {
            Attention::Mma => "mma",
            Attention::Wgmma => "wgmma",
        }
    }
}

/// Head dimensions supported by [`Attention::Wgmma`].
pub const WGMMA_HEADS: [usize; 2] = [64, 128];

/// Choices by key. A GEMM without a choice uses the first algorithm of cuBLASLt's heuristic; a head
/// dimension without one uses [`Attention::Wgmma`] where available
/// ([`wgmma_heads`](crate::ops::cuda::attention::wgmma_heads)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    gemms: BTreeMap<Key, Choice>,
    /// By device and head dimension.
    attention: BTreeMap<(String, usize), Attention>,
}

const FORMAT: u32 = 3;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    attention: Vec<AttentionLine>,
    choices: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttentionLine {
    device: String,
    head_dim: usize,
    by: Attention,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    device: String,
    library: usize,
    gemm: Gemm,
    /// 128 hexadecimal digits, because JSON numbers are not exact for 64 bits everywhere.
    algorithm: String,
    workspace_bytes: usize,
}

impl Table {
    /// The path of the table that belongs to a machine description.
    pub fn beside(machine: &Path) -> PathBuf {
        machine.with_extension("gemm.json")
    }

    /// Reads a table file.
    ///
    /// Errors: the file does not exist (`NotFound`) or cannot be read (`Io`); those of
    /// [`Table::from_json`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = input::read_text(path, FILE_BYTES_MAX)
            .map_err(|error| error.within("the GEMM autotune table"))?;
        Table::from_json(&text, &path.display().to_string())
    }

    /// Refuses a table without entries for this device and library version (`InvalidArgument`): it
    /// was made elsewhere and would be ignored silently. `name` is its origin, for the message.
    pub fn admit(&self, name: impl Display, device: &str, library: usize) -> Result<()> {
        let made = |key: &Key| format!("{} with cuBLASLt {}", key.device, key.library);
        if self.gemms.keys().any(|key| key.device == device && key.library == library) {
            return Ok(());
        }
        let elsewhere: BTreeSet<String> = self.gemms.keys().map(made).collect();
        let found = match elsewhere.is_empty() {
            true => "is empty".to_owned(),
            false => format!("was made for {}", elsewhere.into_iter().collect::<Vec<_>>().join(" and ")),
        };
        Err(Error::argument(format!(
            "the GEMM autotune table {name} {found}, but this is {device} with cuBLASLt {library}: run `horizon calibrate` here, \
             or leave {} out to use cuBLASLt's default algorithms",
            Name::GemmTable
        )))
    }

    /// The choice for a key.
    pub fn get(&self, key: &Key) -> Option<Choice> {
        self.gemms.get(key).copied()
    }

    /// Inserts a choice; returns the one it replaces.
    pub fn insert(&mut self, key: Key, choice: Choice) -> Option<Choice> {
        self.gemms.insert(key, choice)
    }

    /// The attention kernel of a device for this head dimension.
    pub fn attention(&self, device: &str, head_dim: usize) -> Attention {
        self.attention.get(&(device.to_owned(), head_dim)).copied().unwrap_or_default()
    }

    /// Selects the attention kernel of a device for this head dimension.
    pub fn choose_attention(&mut self, device: &str, head_dim: usize, by: Attention) {
        self.attention.insert((device.to_owned(), head_dim), by);
    }

    /// Selects [`Attention::Wgmma`] on a device for all supported head dimensions without a choice.
    pub fn prefer_wgmma(&mut self, device: &str) {
        for head_dim in WGMMA_HEADS {
            self.attention.entry((device.to_owned(), head_dim)).or_insert(Attention::Wgmma);
        }
    }

    /// All GEMM choices, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Choice)> {
        self.gemms.iter()
    }

    /// The table as JSON, sorted by key.
    pub fn to_json(&self) -> String {
        let line = |(key, choice): (&Key, &Choice)| Line {
            device: key.device.clone(),
            library: key.library,
            gemm: key.gemm,
            algorithm: choice.algorithm.iter().map(|word| format!("{word:016x}")).collect(),
            workspace_bytes: choice.workspace_bytes,
        };
        let attention = |((device, head_dim), by): (&(String, usize), &Attention)| AttentionLine {
            device: device.clone(),
            head_dim: *head_dim,
            by: *by,
        };
        let text = Text {
            format: FORMAT,
            attention: self.attention.iter().map(attention).collect(),
            choices: self.gemms.iter().map(line).collect(),
        };
        serde_json::to_string_pretty(&text).expect("strings and numbers are JSON")
    }

    /// Parses the output of [`Table::to_json`]. `name` is its origin, for messages.
    ///
    /// Errors (`BadFormat`): not JSON, another format, an invalid algorithm, invalid sizes, two
    /// choices for one key.
    pub fn from_json(json: &str, name: &str) -> Result<Self> {
        let bad = |what: String| Error::new(Status::BadFormat, format!("GEMM autotune table {name}: {what}"));
        let text: Text = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        if text.format != FORMAT {
            return Err(bad(format!(
                "format {} is not supported, only {FORMAT}; run `horizon calibrate` again",
                text.format
            )));
        }
        let mut table = Table::default();
        for AttentionLine { device, head_dim, by } in text.attention {
            if by == Attention::Wgmma && !WGMMA_HEADS.contains(&head_dim) {
                return Err(bad(format!(
                    "wgmma attention supports head dimensions {WGMMA_HEADS:?}, not {head_dim}"
                )));
            }
            table.attention.insert((device, head_dim), by);
        }
        for (index, line) in text.choices.into_iter().enumerate() {
            let algorithm = algorithm(&line.algorithm).ok_or_else(|| {
                bad(format!(
                    "choice {index}: an algorithm is 128 hexadecimal digits, not `{}`",
                    line.algorithm
                ))
            })?;
            line.gemm.check().map_err(|e| bad(format!("choice {index}: {e}")))?;
            let key = Key { device: line.device, library: line.library, gemm: line.gemm };
            if table.insert(key, Choice { algorithm, workspace_bytes: line.workspace_bytes }).is_some() {
                return Err(bad(format!("choice {index} has the same key as an earlier choice")));
            }
        }
        Ok(table)
    }
}

fn algorithm(digits: &str) -> Option<[u64; 8]> {
    if digits.len() != 128 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut words = [0; 8];
    for (word, digits) in words.iter_mut().zip(digits.as_bytes().chunks_exact(16)) {
        *word = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(words)
}
