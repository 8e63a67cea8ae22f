//! L9, Hugging Face folders: reads and writes `config.json` and safetensors.
//!
//! - A model family is a row of [`FAMILIES`]. A config key whose value is not supported is an error
//!   that names the key.
//! - Folders as other tools leave them are read where their meaning is certain, by the table below.
//!   [`FolderConfig::notes`] and [`Weights::notes`] report what was ignored. The command prints them
//!   as warnings, and `hz_trainer_load_hf` logs them.
//! - A weight file is checked against its own length and against the model before the first tensor
//!   is read.
//! - Files may be links, as in the Hugging Face cache, but only to regular files. A file that is
//!   copied to exports ([`Companions`]) must lie in the folder or the cache, or have its name or a
//!   hash there.
//! - An export appears under its final name completely or not at all.
//! - Names of tensors on disk are those of the family (`tensors.rs`). In the rest of the library, in
//!   the C API and in options of the command they are the layout's, in every family.
//!
//! | in the folder | effect |
//! |---|---|
//! | config keys without arithmetic (`auto_map`, `*_token_id`, …) | ignored in silence |
//! | `architectures` that ends as the family's, e.g. `FSDPQwen2ForCausalLM` | read, with a note |
//! | `architectures` without LM head, e.g. `LlamaModel`, of a tied model | read, with a note |
//! | RoPE of type `default` with keys of other types | the keys are ignored, with a note |
//! | dropout of a family whose published configs have it (Seed-OSS) | not applied, with a note |
//! | RoPE of type `llama3` or `yarn` without original length | `max_position_embeddings`, with a note |
//! | RoPE of type `dynamic` | unscaled up to `max_position_embeddings`; exported as it was |
//! | names of tensors with `_orig_mod.`, `module.`, … | read without it, with a note |
//! | names of tensors without `model.`, or with one more | read as in transformers, with a note |
//! | tensors of other names than the library's, e.g. GLM-4's norms | translated, here alone |
//! | fused tensors, e.g. Phi-3's `qkv_proj` | read as their parts; exported fused |
//! | the parts of a fused tensor instead of it | read, with a note |
//! | `_extra_state`, `v_head.*`, `score.weight`, `inv_freq`, … | left out, with a note |
//! | `lm_head.weight` with the values of a tied embedding, in any dtype | left out |
//! | the same with rounded values | left out, with a note |
//! | `lm_head.weight` without the embedding it is tied to | is the embedding, with a note |
//! | all shards without an index, or an index with more tensors | read, with a note |
//! | `eos_token_id` outside the vocabulary | left out, with a note |
//! | quantized weights, LoRA, GGUF, Git LFS pointers, … | refused, with the remedy |
#![forbid(unsafe_code)]

mod companions;
mod config;
mod contents;
mod end_tokens;
mod export;
mod family;
mod index;
mod names;
mod shards;
mod tensors;
mod weights;

pub use companions::Companions;
pub use config::FolderConfig;

pub use export::{ExportTarget, SHARD_BYTES, export, export_bytes};
#[doc(hidden)]
pub use export::{MARKER, run_of_export};
pub use family::{FAMILIES, Family};
#[doc(hidden)]
pub use index::Index;
#[doc(hidden)]
pub use weights::Header;
pub use weights::Weights;

/// Name of the weight file, if there is one.
const SINGLE: &str = "model.safetensors";
/// Name of the index that maps tensors to files, if there are several.
const INDEX: &str = "model.safetensors.index.json";

/// Largest JSON file of settings that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 24;

/// Formats JSON with indentation.
fn file_text(json: &serde_json::Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

/// Opens a trainer of a small model for tests.
#[cfg(test)]
fn trainer_of(model: &crate::model::ModelConfig) -> crate::engine::Trainer {
    use crate::engine::{Trainer, TrainerOptions};
    let shape = crate::base::Shape { b: 1, t: 4 };
    Trainer::open(model, &TrainerOptions { shape, threads: Some(2), ..TrainerOptions::default() }).unwrap()
}
