//! The model families: what each says by its name alone, and which keys of its `config.json` say the rest.
//!
//! A family is a row of [`FAMILIES`]. Every row describes the same decoder ([`ModelConfig`]) with the same tensor
//! names; rows differ in what is always there (Qwen2's bias, Qwen3's norms), in the keys that are read, and in
//! what a key stands for when it is left out. The source of a row is the family's configuration class in
//! transformers, versions 4 and 5.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status};
use crate::model::{Biases, ModelConfig};

/// One family.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `model_type` of its configs.
    pub model_type: &'static str,
    /// What `architectures` names.
    pub architecture: &'static str,
    pub(super) attention_bias: AttentionBias,
    /// Whether `mlp_bias` is read.
    pub(super) mlp_bias: bool,
    /// Whether heads of queries and keys are normalised.
    pub(super) qk_norm: bool,
    pub(super) windows: Windows,
    /// `num_key_value_heads` where the key is absent; without a number, and where the key is null, as many as
    /// query heads.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim` where the key is absent; without a number hidden_size / num_attention_heads.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings` where the key is absent.
    pub(super) positions_max: usize,
}

/// What says whether attention's projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttentionBias {
    /// They have none.
    Never,
    /// `attention_bias`: all four or none.
    Key,
    /// Queries, keys and values have one, the output has none.
    Qkv,
}

/// What says how far attention looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// Always to the beginning.
    Never,
    /// `sliding_window`, in every layer.
    Every,
    /// `sliding_window` if `use_sliding_window`, in the layers that `layer_types` names, or else from
    /// `max_window_layers` on.
    Chosen,
}

/// `sliding_window` where a family that reads it finds no key.
pub(super) const WINDOW_DEFAULT: usize = 4096;
/// `max_window_layers` where the key is absent.
pub(super) const WINDOW_LAYERS_DEFAULT: usize = 28;

/// Every family, the plainest first.
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
    },
];

impl Family {
    /// The family that a config names, by `architectures` or, without it, by `model_type`; both must agree.
    pub(super) fn named(keys: &Map<String, Value>) -> Result<&'static Family> {
        let missing =
            || Error::new(Status::BadFormat, "neither architectures nor model_type says what the model is");
        let mut named = None;
        if let Some(architectures) = keys.get("architectures").filter(|value| !value.is_null()) {
            let names = architectures.as_array().map_or(&[][..], Vec::as_slice);
            for name in names {
                let family = find("architecture", name, |family| family.architecture)?;
                if named.is_some_and(|named| named != family) {
                    return Err(unsupported(format!(
                        "architectures is {architectures}; one at a time is read"
                    )));
                }
                named = Some(family);
            }
        }
        match keys.get("model_type") {
            None | Some(Value::Null) => named.ok_or_else(missing),
            Some(kind) => {
                let family = find("model_type", kind, |family| family.model_type)?;
                match named {
                    Some(named) if named != family => Err(Error::argument(format!(
                        "architectures names {} and model_type {kind}; they must agree",
                        named.architecture
                    ))),
                    _ => Ok(family),
                }
            }
        }
    }

    /// The plainest family whose configs can say what a model is.
    ///
    /// Errors: `Unsupported` when no family puts these features together.
    pub fn of(model: &ModelConfig) -> Result<&'static Family> {
        FAMILIES.iter().find(|family| family.can_say(model)).ok_or_else(|| {
            unsupported(format!(
                "no family of Hugging Face models puts {:?}, QK norm {} and a sliding window of {} together",
                model.biases,
                if model.qk_norm { "on" } else { "off" },
                model.window.as_ref().map_or("none".to_owned(), |window| window.size.to_string())
            ))
        })
    }

    fn can_say(&self, model: &ModelConfig) -> bool {
        // Every field by name: a new one is either said by `config.json` or judged here.
        let ModelConfig {
            dims: _,
            tied: _,
            norm_eps: _,
            rope_theta: _,
            rope_scaling: _,
            positions_max: _,
            biases: Biases { qkv, o, mlp },
            qk_norm,
            window,
            split_layers: _,
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
        biases && (self.mlp_bias || !mlp) && self.qk_norm == *qk_norm && window
    }
}

fn find(key: &str, name: &Value, of: fn(&Family) -> &'static str) -> Result<&'static Family> {
    FAMILIES.iter().find(|family| name == of(family)).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(of).collect();
        unsupported(format!("{key} {name} is not known; {} are", known.join(", ")))
    })
}

pub(super) fn unsupported(message: String) -> Error {
    Error::new(Status::Unsupported, message)
}
