//! The configuration of a decoder.

use crate::base::format::several;
use crate::base::{Dims, Error, Result, Shape, Status, phrase};
use crate::model::Rope;
use crate::ops::cuda::workspace;
use crate::ops::{Activation, NormSpan};

/// A decoder: RMSNorm, RoPE, causal grouped-query attention (GQA), a gated MLP, and the options of
/// its model family.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The sizes.
    pub dims: Dims,
    /// True if embedding and LM head are one tensor.
    pub tied: bool,
    /// ε of every RMSNorm.
    pub norm_eps: f32,
    /// The places of the norms in a layer.
    pub norms: Norms,
    /// True if every norm multiplies by 1 + weight (Gemma) instead of the weight.
    pub norms_plus_one: bool,
    /// The rotary positions.
    pub rope: Rope,
    /// The longest supported sequence; longer ones are refused.
    pub positions_max: usize,
    /// The projections with a bias.
    pub biases: Biases,
    /// The columns of queries and keys that an RMSNorm before RoPE normalises together (QK-norm);
    /// `None` without it.
    pub qk_norm: Option<NormSpan>,
    /// Sliding-window attention of some layers; none if every layer attends to the whole sequence.
    pub window: Option<Window>,
    /// The activation of the MLP's gate.
    pub activation: Activation,
    /// Constant factors.
    pub multipliers: Multipliers,
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

/// The places of the norms in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Norms {
    /// In front of attention and MLP: x + f(norm(x)).
    #[default]
    Before,
    /// After them: x + norm(f(x)) (OLMo 2).
    After,
    /// In front and after: x + norm(f(norm(x))) (Gemma 2, GLM-4).
    Around,
}

/// Constant factors of a decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of the token embeddings.
    pub embedding: f32,
    /// Of what attention and MLP add to the residual stream.
    pub residual: f32,
    /// Of the scores of attention; `None` means 1/√D.
    pub scores: Option<f32>,
    /// Of the logits.
    pub logits: f32,
}

impl Default for Multipliers {
    fn default() -> Multipliers {
        Multipliers { embedding: 1.0, residual: 1.0, scores: None, logits: 1.0 }
    }
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
    /// A plain Llama with these sizes: untied, ε 1e-5, norms in front, RoPE base 10000 without
    /// scaling, sequences up to 2048, no biases, no QK-norm, no window, SwiGLU, no multipliers.
    pub fn llama(dims: Dims) -> ModelConfig {
        ModelConfig {
            dims,
            tied: false,
            norm_eps: 1e-5,
            norms: Norms::Before,
            norms_plus_one: false,
            rope: Rope::default(),
            positions_max: 2048,
            biases: Biases::default(),
            qk_norm: None,
            window: None,
            activation: Activation::Silu,
            multipliers: Multipliers::default(),
            split_layers: false,
        }
    }

    /// The number added to the weight of every norm.
    pub fn norm_offset(&self) -> f32 {
        if self.norms_plus_one { 1.0 } else { 0.0 }
    }

    /// The factor of attention scores.
    pub fn score_scale(&self) -> f32 {
        self.multipliers.scores.unwrap_or_else(|| 1.0 / (self.dims.d as f32).sqrt())
    }

    /// The window of decoder layer `layer`: positions that a row sees, counting itself; 0 means no
    /// window.
    pub fn window_of(&self, layer: usize) -> usize {
        self.window.as_ref().filter(|window| window.layers[layer]).map_or(0, |window| window.size)
    }

    /// Refuses models that the CUDA kernels do not support (`Unsupported`), for micro-batches of this
    /// shape.
    pub fn check_cuda(&self, shape: Shape) -> Result<()> {
        workspace::supports(&self.dims, self.rope.rotating(self.dims.d), self.qk_norm, shape)
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
        self.rope.validate(d, l)?;
        let Multipliers { embedding, residual, scores, logits } = self.multipliers;
        let factors = [
            ("embedding_multiplier", "embedding_multiplier", "multipliers.embedding", embedding),
            ("residual_multiplier", "residual_multiplier", "multipliers.residual", residual),
            ("attention_multiplier", "attention_multiplier", "multipliers.scores", scores.unwrap_or(1.0)),
            ("logits_scaling", "logits_multiplier", "multipliers.logits", logits),
        ];
        for (config, c, rust, factor) in factors {
            if !(factor.is_finite() && factor > 0.0) {
                let name = phrase(config, c, rust);
                return Err(Error::argument(format!("{name} is {factor}; it must be finite, > 0")));
            }
        }
        if residual != 1.0 && (self.biases.o || self.biases.mlp) {
            return Err(Error::new(
                Status::Unsupported,
                format!(
                    "a residual multiplier ({residual}) is not supported with biases of the projections that it \
                     multiplies"
                ),
            ));
        }
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
