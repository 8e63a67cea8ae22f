//! What every layer reads and nobody writes: made on the host when a model is opened, kept on the device.

use crate::base::DType;
use crate::device::DeviceSpan;
use crate::model::ModelConfig;

/// The constants of a model on the device.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// f32 `[D/2]`: the rotary frequencies, by which a position is multiplied.
    pub inv_freq: DeviceSpan,
}

impl Constants {
    /// Bytes of the constants.
    pub fn bytes(config: &ModelConfig) -> usize {
        config.dims.d / 2 * DType::F32.bytes()
    }

    /// The values that belong in [`Constants::bytes`] bytes.
    pub fn values(config: &ModelConfig) -> Vec<f32> {
        config.rope_scaling.inv_freq(config.rope_theta, config.dims.d)
    }

    /// The constants whose values `memory` holds.
    ///
    /// # Panics
    /// If the memory is shorter than [`Constants::bytes`].
    pub fn carve(memory: DeviceSpan, config: &ModelConfig) -> Self {
        Constants { inv_freq: memory.part(0, Constants::bytes(config)) }
    }
}
