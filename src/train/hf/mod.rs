//! Hugging Face folders: `config.json` and safetensors, in and out.
//!
//! What a config says that this model cannot compute is refused by name, never ignored; a weight file is
//! checked against its own length and the model before the first tensor is read; an export appears under
//! its final name whole or not at all.

mod companions;
mod config;
mod export;
mod family;
mod weights;

pub use companions::Companions;
pub use config::FolderConfig;
pub use export::{ExportTarget, MARKER, export, export_bytes};
pub use family::{FAMILIES, Family};
pub use weights::Weights;
