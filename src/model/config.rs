//! The configuration of a decoder.

use crate::base::format::several;
use crate::base::{Dims, Error, Result, phrase};
use crate::model::RopeScaling;

/// A pre-norm decoder: RMSNorm, RoPE, causal grouped-query attention (GQA), SwiGLU, and the options
/// of its model family.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The sizes.
    pub dims: Dims,
    /// True if embedding and LM head are one tensor.
    pub tied: bool,
    /// ε of every RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// RoPE scaling for long sequences.
    pub rope_scaling: RopeScaling,
    /// The longest supported sequence; longer ones are refused.
    pub positions_max: usize,
    /// The projections with a bias.
    pub biases: Biases,
    /// True if every query and key head is normalised by an RMSNorm before RoPE (QK-norm, as in
    /// Qwen3).
    pub qk_norm: bool,
    /// Sliding-window attention of some layers; none if every layer attends to the whole sequence.
    pub window: Option<Window>,
    /// True if a layer is two units, attention and MLP, with a boundary between them. This halves
    /// the weights on the device at a time and doubles the boundaries. It changes no bit.
    pub split_layers: bool,
}

/// The projections with a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// The attention output projection.
    pub o: bool,
    /// Gate, up and down projections.
    pub mlp: bool,
}

/// A sliding window of attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Window size in positions, counting the row itself: row i sees key j if i − j < size.
    pub size: usize,
    /// True for each layer with the window.
    pub layers: Vec<bool>,
}

/// The largest size, except of layers and positions. Far beyond any decoder, and small enough that
/// the bytes of a model's state fit 60 bits.
pub const SIZE_MAX: usize = 1 << 20;

/// Maximum number of layers, more than any decoder has. It bounds the memory of a layout, and the
/// time that a search for a placement takes.
pub const LAYERS_MAX: usize = 1 << 10;

impl ModelConfig {
    /// A plain Llama with these sizes: untied, ε 1e-5, RoPE base 10000 without scaling, sequences
    /// up to 2048, no biases, no QK-norm, no window.
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

    /// The window of decoder layer `layer`: positions that a row sees, counting itself; 0 means no
    /// window.
    pub fn window_of(&self, layer: usize) -> usize {
        self.window.as_ref().filter(|window| window.layers[layer]).map_or(0, |window| window.size)
    }

    /// Refuses invalid values (`InvalidArgument`), naming field and value.
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
                _ => SIZE_MAX,
            };
            if !(1..=most).contains(&size) {
                let valid =
                    if most == usize::MAX { "at least 1".to_owned() } else { format!("1 … {most}") };
                return Err(Error::argument(format!("{name} is {size}; it must be {valid}")));
            }
        }
        if h % g != 0 {
            return Err(Error::argument(format!(
                "num_attention_heads is {h}; it must be a multiple of num_key_value_heads, {g}"
            )));
        }
        // The most heads may have the fewest values.
        let width_max = 2 * SIZE_MAX;
        if h * d > width_max {
            return Err(Error::argument(format!(
                "num_attention_heads × head_dim is {h} × {d}; it must be at most {width_max}"
            )));
        }
        if d % 2 != 0 {
            return Err(Error::argument(format!("head_dim is {d}; it must be even for rotary positions")));
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
                Err(Error::argument("sliding_window is 0; it must be at least 1"))
            }
            Some(Window { layers, .. }) if layers.len() != l => Err(Error::argument(format!(
                "{} has {}, but num_hidden_layers is {l}",
                phrase("layer_types", "full_attention_layers", "window.layers"),
                several(layers.len(), "layer")
            ))),
            _ => Ok(()),
        }
    }
}
