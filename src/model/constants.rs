//! What every layer reads and nobody writes: made on the host when a model is opened, kept on the device.

use crate::base::DType;
use crate::model::ModelConfig;

/// Bytes of the constants: f32 `[D/2]`, the rotary frequencies, by which a position is multiplied.
pub fn constant_bytes(config: &ModelConfig) -> usize {
    config.dims.d / 2 * DType::F32.bytes()
}

/// The values that belong there.
pub fn constants(config: &ModelConfig) -> Vec<f32> {
    config.rope_scaling.inv_freq(config.rope_theta, config.dims.d)
}
