//! Read-only constants shared by all layers, made on the host when a model is opened and kept on
//! the device.

use crate::base::DType;
use crate::model::ModelConfig;

/// Bytes of the constants: the rotary frequencies, f32 `[D/2]`.
pub fn constant_bytes(config: &ModelConfig) -> usize {
    config.dims.d / 2 * DType::F32.bytes()
}

/// The values of the constants.
pub fn constants(config: &ModelConfig) -> Vec<f32> {
    config.rope_scaling.inv_freq(config.rope_theta, config.dims.d)
}
