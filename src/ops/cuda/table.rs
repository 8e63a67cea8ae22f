//! Which algorithm multiplies which shape, and by which instructions attention multiplies: a table keyed by device, library
//! version and product, or head dimension. Pure.
//!
//! `horizon calibrate` measures and writes it; a checkpoint holds its checksum, so that a run goes on by the same. Opening a
//! trainer measures nothing, so the same table gives the same bits. As a file it lies beside the description of its machine:
//! `here.json` and `here.gemm.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result, Status};
use crate::ops::cuda::gemm::Gemm;

/// What a choice of algorithm holds for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The device's name, e.g. `NVIDIA H200`.
    pub device: String,
    /// cuBLASLt's version, e.g. 130101.
    pub library: usize,
    /// The product.
    pub gemm: Gemm,
}

/// An algorithm as cuBLASLt describes it: 64 bytes that mean the same wherever the key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The library's own words.
    pub algorithm: [u64; 8],
    /// Bytes of workspace it needs.
    pub workspace_bytes: usize,
}

/// Which of the two attentions: their sums differ in order, so in bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attention {
    /// `csrc/attention.cu`: a warp's `mma`, on every device.
    #[default]
    Mma,
    /// `csrc/attention_wgmma.cu`: four warps' `wgmma`, on Hopper, for heads of [`WGMMA_HEADS`].
    Wgmma,
}

impl Attention {
    /// The instruction that multiplies.
    pub fn name(self) -> &'static str {
        match self {
            Attention::Mma => "mma",
            Attention::Wgmma => "wgmma",
        }
    }
}

/// Head dimensions that [`Attention::Wgmma`] is built for.
pub const WGMMA_HEADS: [usize; 2] = [64, 128];

/// The choices that have been made. Where it holds none, the first algorithm of the library's heuristic is taken, and
/// [`Attention::Wgmma`] where there is code for it ([`wgmma_heads`](crate::ops::cuda::attention::wgmma_heads)).
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
    /// 128 hexadecimal digits: JSON's numbers would not carry 64 bits everywhere.
    algorithm: String,
    workspace_bytes: usize,
}

impl Table {
    /// Where the table of a machine lies that is described in a file.
    pub fn beside(machine: &Path) -> PathBuf {
        machine.with_extension("gemm.json")
    }

    /// Reads a table's file.
    ///
    /// Errors: it is not there (`NotFound`) or cannot be read (`Io`); those of [`Table::from_json`].
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Error::io(format!("cannot read the table of GEMM algorithms {name}"), &error))?;
        Table::from_json(&text, &name.to_string())
    }

    /// Refuses a table that says nothing of this device with this version of the library (`InvalidArgument`): it was
    /// made elsewhere, and would be passed over in silence. `name` says where it comes from.
    pub fn admit(&self, name: impl Display, device: &str, library: usize) -> Result<()> {
        let made = |key: &Key| format!("{} with cuBLASLt {}", key.device, key.library);
        if self.gemms.keys().any(|key| key.device == device && key.library == library) {
            return Ok(());
        }
        let elsewhere: BTreeSet<String> = self.gemms.keys().map(made).collect();
        let found = match elsewhere.is_empty() {
            true => "is empty".to_owned(),
            false => format!("is of {}", elsewhere.into_iter().collect::<Vec<_>>().join(" and of ")),
        };
        Err(Error::argument(format!(
            "the table of GEMM algorithms {name} {found}; here is {device} with cuBLASLt {library}: calibrate here, or leave \
             the table out: cuBLASLt's first choice is taken"
        )))
    }

    /// The choice for a key.
    pub fn get(&self, key: &Key) -> Option<Choice> {
        self.gemms.get(key).copied()
    }

    /// Makes a choice; gives the one it replaces.
    pub fn insert(&mut self, key: Key, choice: Choice) -> Option<Choice> {
        self.gemms.insert(key, choice)
    }

    /// By what attention multiplies on a device, for heads of this dimension.
    pub fn attention(&self, device: &str, head_dim: usize) -> Attention {
        self.attention.get(&(device.to_owned(), head_dim)).copied().unwrap_or_default()
    }

    /// Chooses the attention kernel of a device for heads of this dimension.
    pub fn choose_attention(&mut self, device: &str, head_dim: usize, by: Attention) {
        self.attention.insert((device.to_owned(), head_dim), by);
    }

    /// Chooses [`Attention::Wgmma`] on a device for the head dimensions it is built for, where nothing is chosen yet.
    pub fn prefer_wgmma(&mut self, device: &str) {
        for head_dim in WGMMA_HEADS {
            self.attention.entry((device.to_owned(), head_dim)).or_insert(Attention::Wgmma);
        }
    }

    /// All choices of algorithms, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Choice)> {
        self.gemms.iter()
    }

    /// The table as JSON, its choices in the order of their keys.
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

    /// Reads what [`Table::to_json`] wrote; `name` says where it comes from, for errors (`BadFormat`): not JSON,
    /// another format, an algorithm that is none, impossible sizes, two choices for one key.
    pub fn from_json(json: &str, name: &str) -> Result<Self> {
        let bad =
            |what: String| Error::new(Status::BadFormat, format!("table of GEMM algorithms {name}: {what}"));
        let text: Text = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        if text.format != FORMAT {
            return Err(bad(format!(
                "format {} was found, {FORMAT} is understood; calibrate anew",
                text.format
            )));
        }
        let mut table = Table::default();
        for AttentionLine { device, head_dim, by } in text.attention {
            if by == Attention::Wgmma && !WGMMA_HEADS.contains(&head_dim) {
                return Err(bad(format!(
                    "attention by wgmma is there for heads of {WGMMA_HEADS:?}, not of {head_dim}"
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
                return Err(bad(format!("choice {index} has the key of an earlier one")));
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
