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

    /// The values that belong in [`Constants::bytes`] bytes: theta^(−2i/D), rounded once.
    pub fn values(config: &ModelConfig) -> Vec<f32> {
        let d = config.dims.d;
        let frequency = |i: usize| config.rope_theta.powf(-((2 * i) as f64) / d as f64) as f32;
        (0..d / 2).map(frequency).collect()
    }

    /// The constants whose values `memory` holds.
    ///
    /// # Panics
    /// If the memory is shorter than [`Constants::bytes`].
    pub fn carve(memory: DeviceSpan, config: &ModelConfig) -> Self {
        Constants { inv_freq: memory.part(0, Constants::bytes(config)) }
    }
}
