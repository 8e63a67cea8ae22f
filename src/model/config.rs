//! The description of a decoder.

use crate::base::{Dims, Error, Result};

/// A Llama-style decoder: RMSNorm, RoPE, grouped-query causal attention, SwiGLU, no biases.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The sizes.
    pub dims: Dims,
    /// Whether embedding and LM head are one tensor.
    pub tied: bool,
    /// ε of every RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence the model is meant for; longer ones are refused.
    pub positions_max: usize,
}

impl ModelConfig {
    /// Refuses sizes no decoder can have, naming field and value.
    pub fn validate(&self) -> Result<()> {
        let Dims { c, h, g, d, f, v, l } = self.dims;
        let sizes = [
            ("hidden_size", c),
            ("num_attention_heads", h),
            ("num_key_value_heads", g),
            ("head_dim", d),
            ("intermediate_size", f),
            ("vocab_size", v),
            ("num_hidden_layers", l),
            ("max_position_embeddings", self.positions_max),
        ];
        // Far beyond any decoder, and small enough that no product of three sizes overflows.
        const SIZE_MAX: usize = 1 << 20;
        for (name, size) in sizes {
            if size == 0 || (size > SIZE_MAX && name != "max_position_embeddings") {
                return Err(Error::argument(format!("{name} is {size}; it must be 1 … {SIZE_MAX}")));
            }
        }
        if h % g != 0 {
            return Err(Error::argument(format!(
                "num_attention_heads is {h}; it must be a multiple of num_key_value_heads, {g}"
            )));
        }
        if d % 2 != 0 {
            return Err(Error::argument(format!("head_dim is {d}; rotary positions need an even one")));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::argument(format!(
                "rms_norm_eps is {}; it must be finite, ≥ 0",
                self.norm_eps
            )));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(Error::argument(format!(
                "rope_theta is {}; it must be finite, > 0",
                self.rope_theta
            )));
        }
        Ok(())
    }
}
