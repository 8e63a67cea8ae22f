//! L9, Hugging Face folders: `config.json` and safetensors, in and out.
//!
//! A family of models is a row of [`FAMILIES`]. What a config says that this model cannot compute is refused by
//! name, never ignored; a weight file is checked against its own length and the model before the first tensor is read;
//! an export appears under its final name whole or not at all.
#![forbid(unsafe_code)]

mod companions;
mod config;
mod export;
mod family;
mod index;
mod shards;
mod weights;

pub use companions::Companions;
pub use config::FolderConfig;

#[doc(hidden)]
pub use export::MARKER;
pub use export::{ExportTarget, SHARD_BYTES, export, export_bytes};
pub use family::{FAMILIES, Family};
#[doc(hidden)]
pub use index::Index;
#[doc(hidden)]
pub use weights::Header;
pub use weights::Weights;

/// The weights in one file.
const SINGLE: &str = "model.safetensors";
/// Which file of several each tensor is in.
const INDEX: &str = "model.safetensors.index.json";

/// JSON as people read it in a file.
fn file_text(json: &serde_json::Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

/// A trainer of a small model, for tests.
#[cfg(test)]
fn trainer_of(model: &crate::model::ModelConfig) -> crate::engine::Trainer {
    use crate::engine::{Trainer, TrainerOptions};
    let shape = crate::base::Shape { b: 1, t: 4 };
    Trainer::open(model, &TrainerOptions { shape, threads: Some(2), ..TrainerOptions::default() }).unwrap()
}
