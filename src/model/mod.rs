//! F5, what a decoder is.
//!
//! Knows the config, the layout (the only source of sizes and offsets) and how a layer and the ends are
//! computed out of ops, forward and backward. Knows nothing of when or where: no schedule, no store.
#![forbid(unsafe_code)]

mod block;
mod config;
mod constants;
mod ends;
mod init;
mod layout;
mod linear;
mod presets;
mod rope;
mod scratch;

pub use block::{layer_backward, layer_forward};
pub use config::{Biases, LAYERS_MAX, ModelConfig, Window};
pub use constants::Constants;
pub use ends::{
    HeadSpans, embed_backward, embed_forward, head_backward, head_forward, head_forward_backward,
    head_logits, head_logprobs,
};
pub use init::{FRESH_BLOCK, fresh_values};
pub use layout::{Layout, TensorLayout, UnitKind, UnitLayout};
pub use linear::{LayerLinears, head_linear, products};
pub use presets::{preset, preset_names, shape, shape_names};
pub use rope::RopeScaling;
pub use scratch::{HeadScratch, LayerScratch, Recompute};
