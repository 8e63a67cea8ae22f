//! Read-only constants shared by all layers, made on the host when a model is opened and kept on
//! the device.

use crate::base::DType;
use crate::model::ModelConfig;

/// Bytes of the constants: the rotary frequencies, f32 `[R/2]` for each table.
pub fn constant_bytes(config: &ModelConfig) -> usize {
    config.rope.table_count() * config.rope.rotating(config.dims.d) / 2 * DType::F32.bytes()
}

/// The values of the constants, for sequences of `t` tokens.
pub fn constants(config: &ModelConfig, t: usize) -> Vec<f32> {
    config.rope.tables(config.dims.d, t).concat()
}
