//! L5, the decoder model.
//!
//! Contains the config, the modules and the programs they emit. From these follow the layout (the
//! only source of sizes and offsets) and the passes that the engine runs. Knows nothing about
//! schedules, placement or the store.
#![forbid(unsafe_code)]

mod config;
mod constants;
mod decoder;
mod init;
mod layout;
mod modules;
mod passes;
mod presets;
mod program;
mod rope;

pub use config::{Biases, LAYERS_MAX, ModelConfig, Multipliers, Norms, SIZE_MAX, Window};
pub use constants::{constant_bytes, constants};
pub use decoder::{Sizes, UnitKind};
pub use init::{FRESH_BLOCK, fresh_values};
pub use layout::{Layout, Run, TensorLayout, UnitLayout};
pub use modules::HeadTask;
pub use passes::{PassId, Passes, matmul_parameters};
pub use presets::{preset, preset_names, shape, shape_id, shape_names};
pub use program::{Base, Builder, External, Location, Owner, Pass, Program, Recompute, Value};
pub use rope::{Rope, RopeScaling};
