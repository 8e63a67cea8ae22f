//! The model families: their fixed properties, the `config.json` keys they read, and the defaults
//! of absent keys.
//!
//! A family is a row of [`FAMILIES`]. All rows describe the same decoder ([`ModelConfig`]). They
//! differ in fixed properties (Qwen2's bias, Gemma's norms), in the keys that are read, and in the
//! defaults of absent keys. Sources of a row: the family's configuration class and its model in
//! transformers, versions 4 and 5.

mod table;

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status, phrase};
use crate::hf::tensors::TensorNames;
use crate::model::{Biases, ModelConfig, Multipliers, Norms, Rope, RopeScaling, Window};
use crate::ops::{Activation, NormSpan};
pub use table::FAMILIES;

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// Its name, for people.
    pub name: &'static str,
    /// `model_type` of its configs.
    pub model_type: &'static str,
    /// Its name in `architectures`.
    pub architecture: &'static str,
    pub(super) norms: Norms,
    /// True if norms multiply by 1 + weight.
    pub(super) norms_plus_one: bool,
    pub(super) qk_norm: Option<NormSpan>,
    /// The key of the MLP's activation, and its default.
    pub(super) activation: (&'static str, Activation),
    /// True if query heads have the width of the residual stream: `hidden_size`.
    pub(super) heads_fill_width: bool,
    pub(super) attention_bias: AttentionBias,
    /// True if the key `mlp_bias` is read.
    pub(super) mlp_bias: bool,
    pub(super) windows: Windows,
    pub(super) rotary: Rotary,
    pub(super) factors: Factors,
    /// Dropouts of its published configs. They are ignored with a note; those of other families are
    /// refused.
    pub(super) dropouts: &'static [&'static str],
    /// True if `bos_token_id` may be null in its configs.
    pub(super) null_bos: bool,
    pub(super) absent: Absent,
    /// Its tensors in weight files.
    pub(super) tensors: &'static TensorNames,
}

/// Biases of the attention projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttentionBias {
    /// No projection has a bias.
    Never,
    /// Query, key and value projections have a bias, the output projection has none.
    Qkv,
    /// The key `attention_bias`, false if absent: all four projections or none.
    Key,
    /// The key `attention_bias`: query, key and value projections or none.
    KeyOfQkv { absent: bool },
    /// The keys `attention_bias` of query, key and value projections, true if absent, and
    /// `attention_out_bias`, false if absent.
    Keys,
}

/// Sliding-window attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// No layer has a window.
    Never,
    /// `sliding_window` applies to every layer.
    Every { absent: Option<usize> },
    /// If `use_sliding_window`, `sliding_window` applies to the layers chosen by `layer_types`, or
    /// else by the pattern.
    Switched { absent: Option<usize>, pattern: Pattern },
    /// `sliding_window` applies to the layers chosen by `layer_types`, or else to all but those
    /// with number `full` of each `period`.
    Periodic {
        absent: usize,
        period: usize,
        full: usize,
        /// True if the key `sliding_window_pattern` is the period.
        key: bool,
    },
}

/// The layers with a window if `layer_types` does not tell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Those from `max_window_layers`.
    Last,
    /// Those without rotary positions.
    WithoutRope,
}

/// Rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rotary {
    /// Default of `rope_theta`.
    pub theta: f64,
    /// Default of `rope_parameters`, JSON. Families that have one are not in transformers 4, and are
    /// written with `rope_parameters` alone.
    pub parameters: Option<&'static str>,
    /// True if the pairs are (2i, 2i + 1).
    pub interleaved: bool,
    /// Default of `partial_rotary_factor`, if this key is read.
    pub partial: Option<f64>,
    /// The bases of layers with a window, if they have their own.
    pub windowed: Option<Windowed>,
    pub without: WithoutRope,
    /// True if `llama_4_scaling_beta` is read.
    pub query_scaling: bool,
    /// Default of `original_max_position_embeddings` next to `rope_scaling`, if LongRoPE is the only
    /// scaling (Phi-3).
    pub only_long: Option<usize>,
}

/// RoPE of the layers with a window. transformers 5 nests `rope_parameters` by layer type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Windowed {
    /// The key of the base in transformers 4; without it, it is `rope_theta`.
    pub key: Option<&'static str>,
    /// Default of the base.
    pub theta: f64,
}

/// Layers without rotary positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutRope {
    Never,
    /// Those with 0 in `no_rope_layers`, or else every `no_rope_layer_interval`th.
    Listed,
    /// If `sliding_window` is a number, the layers without a window.
    Full,
}

/// Constant factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Factors {
    /// Scores are multiplied by 1/√D.
    Plain,
    /// Embeddings are multiplied by √C, scores by 1/√`query_pre_attn_scalar`.
    Gemma,
    /// `embedding_multiplier`, `residual_multiplier`, `attention_multiplier`, and `logits_scaling`,
    /// which divides.
    Granite,
}

/// Defaults of absent keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Absent {
    /// `num_key_value_heads`; `None`, and a null in the config, mean the number of query heads.
    pub kv_heads: Option<usize>,
    /// `head_dim`; `None` means hidden_size / num_attention_heads.
    pub head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub positions_max: usize,
    /// `rms_norm_eps`.
    pub norm_eps: f64,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

/// Default of `max_window_layers`.
pub(super) const WINDOW_LAYERS_DEFAULT: usize = 28;
/// Default of `query_pre_attn_scalar`.
pub(super) const QUERY_SCALAR_DEFAULT: usize = 256;

impl Family {
    /// Returns the family of `model_type` or, without it, of `architectures`; if both are present
    /// they must agree. transformers reads `model_type` alone: a name in `architectures` that ends
    /// with the family's is accepted, and added to `notes`; so is that of a tied model without head.
    pub(super) fn named(keys: &Map<String, Value>, notes: &mut Vec<String>) -> Result<&'static Family> {
        let given = |key| keys.get(key).filter(|value: &&Value| !value.is_null());
        let names = given("architectures").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if let Some(name) = names.iter().find(|name| **name != names[0]) {
            return Err(unsupported(format!(
                "architectures names {} and {name}; it must name one architecture",
                names[0]
            )));
        }
        let (name, kind) = (names.first(), given("model_type"));
        let tied = given("tie_word_embeddings") == Some(&Value::Bool(true));
        name.and_then(Value::as_str).map_or(Ok(()), |name| refuse_other_heads(name, tied))?;
        let Some(kind) = kind else {
            let missing = || {
                Error::new(
                    Status::BadFormat,
                    "architectures and model_type are both missing; give one of them",
                )
            };
            return find("architecture", name.ok_or_else(missing)?, |family| family.architecture);
        };
        let family = find("model_type", kind, |family| family.model_type)?;
        let Some(name) = name.filter(|name| *name != family.architecture) else { return Ok(family) };
        let headless = family.architecture.replace("ForCausalLM", "Model");
        let ending = |name: &str| {
            name.to_lowercase().ends_with(&family.architecture.to_lowercase()) || (tied && name == headless)
        };
        if !name.as_str().is_some_and(ending) {
            return Err(unsupported(format!(
                "architectures is {name} and model_type is {kind}; they must agree: if the model is a {kind}, \
                 set architectures to [\"{}\"]",
                family.architecture
            )));
        }
        notes.push(format!(
            "the architecture {name} is read as {}, since model_type is {kind}",
            family.architecture
        ));
        Ok(family)
    }

    /// Returns the simplest family whose configs can describe the model.
    ///
    /// Errors: `Unsupported` if no family has this combination of features.
    pub fn of(model: &ModelConfig) -> Result<&'static Family> {
        FAMILIES.iter().find(|family| family.can_describe(model)).ok_or_else(|| {
            unsupported(format!("no family of Hugging Face models combines {}", features(model).join(", ")))
        })
    }

    /// True if a config of this family can describe the model.
    pub fn can_describe(&self, model: &ModelConfig) -> bool {
        // Every field by name: a new field must be written to `config.json` or checked here.
        let ModelConfig {
            dims,
            tied: _,
            norm_eps: _,
            norms,
            norms_plus_one,
            rope,
            positions_max: _,
            biases: Biases { qkv, o, mlp },
            qk_norm,
            window,
            activation: _,
            multipliers,
            split_layers: _,
        } = model;
        let (&qkv, &o, &mlp) = (qkv, o, mlp);
        let biases = match self.attention_bias {
            AttentionBias::Never => !qkv && !o,
            AttentionBias::Qkv => qkv && !o,
            AttentionBias::Key => qkv == o,
            AttentionBias::KeyOfQkv { .. } => !o,
            AttentionBias::Keys => true,
        };
        let windows = match (self.windows, window) {
            (_, None) | (Windows::Switched { .. } | Windows::Periodic { .. }, _) => true,
            (Windows::Never, Some(_)) => false,
            (Windows::Every { .. }, Some(window)) => window.layers.iter().all(|&holds| holds),
        };
        let factors = match self.factors {
            Factors::Granite => true,
            Factors::Plain => *multipliers == Multipliers::default(),
            Factors::Gemma => {
                let gemma = Multipliers { embedding: root(dims.c), scores: None, ..Multipliers::default() };
                Multipliers { scores: None, ..*multipliers } == gemma
                    && multipliers.scores.is_none_or(|scale| query_scalar(scale).is_some())
            }
        };
        let widths = !self.heads_fill_width || dims.attention_width() == dims.c;
        (self.norms, self.norms_plus_one, self.qk_norm) == (*norms, *norms_plus_one, *qk_norm)
            && widths
            && biases
            && (self.mlp_bias || !mlp)
            && windows
            && factors
            && self.rotary.can_describe(rope, window.as_ref())
    }

    /// True if the family reads this key of a config, and most others do not.
    pub(super) fn reads(&self, key: &str) -> bool {
        let Rotary { partial, windowed, without, .. } = &self.rotary;
        let multiplier = match self.factors {
            Factors::Plain => false,
            Factors::Gemma => key == "query_pre_attn_scalar",
            Factors::Granite => {
                ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"]
                    .contains(&key)
            }
        };
        match key {
            "attention_out_bias" => self.attention_bias == AttentionBias::Keys,
            "no_rope_layers" | "no_rope_layer_interval" => *without == WithoutRope::Listed,
            "partial_rotary_factor" => partial.is_some(),
            "sliding_window_pattern" => matches!(self.windows, Windows::Periodic { key: true, .. }),
            _ => {
                multiplier
                    || key == self.activation.0
                    || self.dropouts.contains(&key)
                    || windowed.as_ref().is_some_and(|windowed| windowed.key == Some(key))
            }
        }
    }
}

impl Rotary {
    fn can_describe(&self, rope: &Rope, window: Option<&Window>) -> bool {
        // Every field by name, as above.
        let Rope { theta: _, scaling, windowed_theta, rotated, interleaved, without, queries } = rope;
        let is_plain = *scaling == RopeScaling::None;
        let long = self.only_long.is_none() || is_plain || matches!(scaling, RopeScaling::Long { .. });
        let windowed = match (windowed_theta, window) {
            (Some(_), window) => window.is_some() && self.windowed.is_some(),
            (None, None) => true,
            (None, Some(_)) => is_plain || self.windowed.is_none(),
        };
        let without = match (self.without, without) {
            (WithoutRope::Listed, _) | (WithoutRope::Never, None) => true,
            (WithoutRope::Never, Some(_)) => false,
            (WithoutRope::Full, without) => match (window, without) {
                (None, None) => true,
                (None, Some(layers)) => layers.iter().all(|&without| without),
                (Some(window), None) => window.layers.iter().all(|&holds| holds),
                (Some(window), Some(layers)) => {
                    layers.iter().zip(&window.layers).all(|(without, holds)| without != holds)
                }
            },
        };
        let queries = match (queries, scaling) {
            (Some(queries), RopeScaling::Yarn { original_positions, .. })
            | (Some(queries), RopeScaling::Llama3 { original_positions, .. })
            | (Some(queries), RopeScaling::Long { original_positions, .. }) => {
                self.query_scaling && queries.positions == *original_positions
            }
            (queries, _) => queries.is_some() == self.query_scaling,
        };
        self.interleaved == *interleaved
            && (self.partial.is_some() || rotated.is_none())
            && long
            && windowed
            && without
            && queries
    }
}

/// √size, as Gemma multiplies embeddings of this size.
pub(super) fn root(size: usize) -> f32 {
    (size as f64).sqrt() as f32
}

/// 1/√scalar, as Gemma multiplies scores.
pub(super) fn inverse_root(scalar: usize) -> f32 {
    (scalar as f64).powf(-0.5) as f32
}

/// The scalar whose [`inverse_root`] is `scale`, if there is one.
pub(super) fn query_scalar(scale: f32) -> Option<usize> {
    let scalar = f64::from(scale).powi(-2).round() as usize;
    (scalar > 0 && inverse_root(scalar) == scale).then_some(scalar)
}

/// The features that a plain Llama does not have, and the biases, QK norm and window of all models.
fn features(model: &ModelConfig) -> Vec<String> {
    let Biases { qkv, o, mlp } = model.biases;
    let switch = |c: &str, rust: &str, on: bool| {
        let rust = format!("{rust} = {on}");
        phrase(&rust, format!("{c} = {}", u8::from(on)), &rust)
    };
    let mut features = vec![
        switch("qkv_bias", "biases.qkv", qkv),
        switch("o_bias", "biases.o", o),
        switch("mlp_bias", "biases.mlp", mlp),
        switch("qk_norm", "qk_norm", model.qk_norm.is_some()),
        format!("a sliding window of {}", model.window.as_ref().map_or(0, |window| window.size)),
    ];
    let Rope { scaling, windowed_theta, rotated, interleaved, without, queries, .. } = &model.rope;
    let others = [
        (model.norms != Norms::Before, format!("norms = {:?}", model.norms)),
        (model.norms_plus_one, "norms_plus_one = true".to_owned()),
        (model.qk_norm == Some(NormSpan::AllHeads), "QK norm over all heads".to_owned()),
        (*scaling != RopeScaling::None, "RoPE scaling".to_owned()),
        (windowed_theta.is_some(), "windowed_theta".to_owned()),
        (rotated.is_some(), "partial RoPE".to_owned()),
        (*interleaved, "interleaved RoPE".to_owned()),
        (without.is_some(), "layers without RoPE".to_owned()),
        (queries.is_some(), "scaled queries".to_owned()),
        (model.multipliers != Multipliers::default(), format!("{:?}", model.multipliers)),
    ];
    features.extend(others.into_iter().filter_map(|(has, name)| has.then_some(name)));
    features
}

/// Refuses architectures without a language model's head. The embedding is the head of a tied model.
fn refuse_other_heads(architecture: &str, tied: bool) -> Result<()> {
    let other = if architecture.ends_with("ForConditionalGeneration") {
        "a model of images or sound: extract its language model, with a config.json of its own"
    } else if architecture.contains("Classification") || architecture.ends_with("RewardModel") {
        "a classifier, without an LM head: take the model that it was made from"
    } else if architecture.ends_with("ForQuestionAnswering") {
        "a model that marks answers in a text, without an LM head: take the model that it was made from"
    } else if architecture.ends_with("Model") && !architecture.ends_with("LMHeadModel") && !tied {
        "the model without its LM head: take the model with its head, or, if the embedding is the head, set \
         tie_word_embeddings to true"
    } else {
        return Ok(());
    };
    Err(unsupported(format!("architecture {architecture} is {other}")))
}

fn find(key: &str, name: &Value, of: fn(&Family) -> &'static str) -> Result<&'static Family> {
    FAMILIES.iter().find(|family| name == of(family)).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(of).collect();
        unsupported(format!("{key} {name} is not supported; supported are {}", known.join(", ")))
    })
}

pub(super) fn unsupported(message: String) -> Error {
    Error::new(Status::Unsupported, message)
}
