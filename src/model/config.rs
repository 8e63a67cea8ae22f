//! The description of a decoder.

use crate::base::{Dims, Error, Result};
use crate::model::RopeScaling;

/// A pre-norm decoder: RMSNorm, RoPE, grouped-query causal attention, SwiGLU; and what model families add to it.
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
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Longest sequence the model is meant for; longer ones are refused.
    pub positions_max: usize,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Whether every query and key head passes an RMSNorm of its own before it is rotated (Qwen3).
    pub qk_norm: bool,
    /// Layers whose attention looks back a limited way; none when every layer sees the whole sequence.
    pub window: Option<Window>,
    /// Whether a layer is two units, attention and feed-forward network, with a boundary between them: half the weights are on the
    /// device at a time, for twice the boundaries. It changes no bit.
    pub split_layers: bool,
}

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Biases {
    /// Those of queries, keys and values.
    pub qkv: bool,
    /// That of attention's output.
    pub o: bool,
    /// Those of gate, up and down.
    pub mlp: bool,
}

/// A sliding window of attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Positions that a row sees, its own counted: row i sees key j when i − j < size.
    pub size: usize,
    /// By layer: whether the window holds there.
    pub layers: Vec<bool>,
}

/// More layers than any decoder has: what a layout takes for their names stays far below what a model takes.
pub const LAYERS_MAX: usize = 1 << 16;

impl ModelConfig {
    /// A plain Llama of these sizes: untied, ε 1e-5, RoPE base 10000 and not scaled, sequences up to 2048, no bias,
    /// no QK norm, no window.
    pub fn llama(dims: Dims) -> ModelConfig {
        ModelConfig {
            dims,
            tied: false,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            positions_max: 2048,
            biases: Biases::default(),
            qk_norm: false,
            window: None,
            split_layers: false,
        }
    }

    /// Positions that a row of decoder layer `layer` sees, its own counted; 0 when it sees all before it.
    pub fn window_of(&self, layer: usize) -> usize {
        self.window.as_ref().filter(|window| window.layers[layer]).map_or(0, |window| window.size)
    }

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
        for (name, size) in sizes {
            let most = match name {
                "max_position_embeddings" => usize::MAX,
                "num_hidden_layers" => LAYERS_MAX,
                // Far beyond any decoder, and small enough that no product of three sizes overflows.
                _ => 1 << 20,
            };
            if !(1..=most).contains(&size) {
                return Err(Error::argument(format!("{name} is {size}; it must be 1 … {most}")));
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
        self.rope_scaling.validate()?;
        match &self.window {
            Some(Window { size: 0, .. }) => {
                Err(Error::argument("sliding_window is 0; a row sees at least itself"))
            }
            Some(Window { layers, .. }) if layers.len() != l => Err(Error::argument(format!(
                "layer_types names {} layers; num_hidden_layers is {l}",
                layers.len()
            ))),
            _ => Ok(()),
        }
    }
}
