//! The model families: their fixed properties, the `config.json` keys they read, and the defaults
//! of absent keys.
//!
//! A family is a row of [`FAMILIES`]. All rows describe the same decoder ([`ModelConfig`]) with the
//! same tensor names. They differ in fixed properties (Qwen2's bias, Qwen3's norms), in the keys
//! that are read, and in the defaults of absent keys. Source of a row: the family's configuration
//! class in transformers, versions 4 and 5.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status, phrase};
use crate::hf::tensors::TensorNames;
use crate::model::{Biases, ModelConfig};

/// A model family.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `model_type` of its configs.
    pub model_type: &'static str,
    /// Its name in `architectures`.
    pub architecture: &'static str,
    pub(super) attention_bias: AttentionBias,
    /// True if the key `mlp_bias` is read.
    pub(super) mlp_bias: bool,
    /// True if query and key heads are normalized (QK norm).
    pub(super) qk_norm: bool,
    pub(super) windows: Windows,
    /// Default of `num_key_value_heads`; `None`, and a null in the config, mean the number of query
    /// heads.
    pub(super) kv_heads: Option<usize>,
    /// Default of `head_dim`; `None` means hidden_size / num_attention_heads.
    pub(super) head_dim: Option<usize>,
    /// Default of `max_position_embeddings`.
    pub(super) positions_max: usize,
    /// Its tensors in weight files.
    pub(super) tensors: &'static TensorNames,
}

/// Biases of the attention projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttentionBias {
    /// No projection has a bias.
    Never,
    /// The key `attention_bias`: all four projections or none.
    Key,
    /// Query, key and value projections have a bias, the output projection has none.
    Qkv,
}

/// Sliding-window attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// No layer has a window.
    Never,
    /// `sliding_window` applies to every layer.
    Every,
    /// If `use_sliding_window`, `sliding_window` applies to the layers chosen by `layer_types`, or
    /// else to those from `max_window_layers`.
    Chosen,
}

/// Default of `sliding_window`.
pub(super) const WINDOW_DEFAULT: usize = 4096;
/// Default of `max_window_layers`.
pub(super) const WINDOW_LAYERS_DEFAULT: usize = 28;

/// All families, the simplest first.
pub static FAMILIES: [Family; 4] = [
    Family {
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        attention_bias: AttentionBias::Key,
        mlp_bias: true,
        qk_norm: false,
        windows: Windows::Never,
        kv_heads: None,
        head_dim: None,
        positions_max: 2048,
        tensors: &TensorNames::LLAMA,
    },
    Family {
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        qk_norm: false,
        windows: Windows::Every,
        kv_heads: Some(8),
        head_dim: None,
        positions_max: 4096 * 32,
        tensors: &TensorNames::LLAMA,
    },
    Family {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        attention_bias: AttentionBias::Qkv,
        mlp_bias: false,
        qk_norm: false,
        windows: Windows::Chosen,
        kv_heads: Some(32),
        head_dim: None,
        positions_max: 32768,
        tensors: &TensorNames::LLAMA,
    },
    Family {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        attention_bias: AttentionBias::Key,
        mlp_bias: false,
        qk_norm: true,
        windows: Windows::Chosen,
        kv_heads: Some(32),
        head_dim: Some(128),
        positions_max: 32768,
        tensors: &TensorNames::LLAMA,
    },
];

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
            let Biases { qkv, o, mlp } = model.biases;
            let switch = |c: &str, rust: &str, on: bool| {
                let rust = format!("{rust} = {on}");
                phrase(&rust, format!("{c} = {}", u8::from(on)), &rust)
            };
            unsupported(format!(
                "no family of Hugging Face models combines {}, {}, {}, {} and a sliding window of {}",
                switch("qkv_bias", "biases.qkv", qkv),
                switch("o_bias", "biases.o", o),
                switch("mlp_bias", "biases.mlp", mlp),
                switch("qk_norm", "qk_norm", model.qk_norm.is_some()),
                model.window.as_ref().map_or(0, |window| window.size)
            ))
        })
    }

    fn can_describe(&self, model: &ModelConfig) -> bool {
        // Every field by name: a new field must be written to `config.json` or checked here.
        let ModelConfig {
            dims: _,
            tied: _,
            norm_eps: _,
            positions_max: _,
            biases: Biases { qkv, o, mlp },
            qk_norm,
            window,
            split_layers: _,
            ..
        } = model;
        let (&qkv, &o, &mlp) = (qkv, o, mlp);
        let biases = match self.attention_bias {
            AttentionBias::Never => !qkv && !o,
            AttentionBias::Key => qkv == o,
            AttentionBias::Qkv => qkv && !o,
        };
        let window = match (self.windows, window) {
            (_, None) | (Windows::Chosen, _) => true,
            (Windows::Never, Some(_)) => false,
            (Windows::Every, Some(window)) => window.layers.iter().all(|&holds| holds),
        };
        biases && (self.mlp_bias || !mlp) && self.qk_norm == qk_norm.is_some() && window
    }
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
