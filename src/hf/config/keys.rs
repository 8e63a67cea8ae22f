//! The keys of a config and their allowed values.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status};
use crate::hf::family::unsupported;

/// Keys that an export copies unchanged: they do not affect a training step. `max_window_layers`
/// has no effect without a window or with `layer_types`.
pub const CARRIED: &[&str] =
    &["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_window_layers"];

/// Keys that describe the model; read, or checked against the family's fixed properties.
const READ: &[&str] = &[
    "attention_bias",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// Keys that do not affect a training step and are not exported.
const HARMLESS: &[&str] = &[
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "transformers.js_config",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "chunk_size_feed_forward",
    "pretraining_tp",
    "is_llama_config",
    "name_or_path",
    "original_max_position_embeddings",
    "max_sequence_length",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "tokenizer_class",
    "torchscript",
    "unsloth_version",
    "unsloth_fixed",
    // Generation options, which transformers 4 stores in config.json.
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Keys with only some supported values, and the reason shown in errors; null is always allowed.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("hidden_act", &["\"silu\"", "\"swish\""], "only the SiLU activation is supported"),
    ("attention_dropout", &["0", "0.0"], "dropout is not supported"),
    ("hidden_dropout", &["0", "0.0"], "dropout is not supported"),
    ("rope_interleaved", &["false"], "interleaved RoPE is not supported"),
    ("partial_rotary_factor", &["1", "1.0"], "partial RoPE is not supported"),
    ("quantization_config", &[], "quantized weights are not supported"),
];

/// Refuses unknown keys, and unsupported values of known keys.
///
/// An unknown key may be null or false, since that means that a feature is off.
pub fn refuse_unknown(keys: &Map<String, Value>) -> Result<()> {
    for (key, value) in keys {
        let name = key.as_str();
        let known = [READ, CARRIED, HARMLESS].iter().any(|table| table.contains(&name));
        if known || name.starts_with('_') || fixed(name, value)? {
            continue;
        }
        if !(value.is_null() || *value == Value::Bool(false)) {
            return Err(unsupported(format!(
                "{key} is {value}, but this key is not known; if it does not change the model's arithmetic, \
                 remove the line"
            )));
        }
    }
    Ok(())
}

/// Returns true if `key` is in [`FIXED`] and has a supported value; false if it is not in the
/// table.
fn fixed(key: &str, value: &Value) -> Result<bool> {
    let Some((_, allowed, reason)) = FIXED.iter().find(|(name, ..)| *name == key) else {
        return Ok(false);
    };
    let text = value.to_string();
    if value.is_null() || allowed.contains(&text.as_str()) {
        return Ok(true);
    }
    Err(unsupported(format!("{key} is {text}; {reason}")))
}

/// Typed access to an object's keys; null counts as absent.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a Map<String, Value>);

impl Reader<'_> {
    fn get<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(found) => Ok(Some(found)),
                None => Err(Error::new(Status::BadFormat, format!("{key} is {value}; it must be {kind}"))),
            },
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number", |value| value.as_u64().and_then(|size| usize::try_from(size).ok()))
    }

    pub fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| missing(key))
    }

    /// Returns a key's value, `absent` if there is no such key, or `None` if it is null.
    pub fn size_or(&self, key: &str, absent: Option<usize>) -> Result<Option<usize>> {
        if self.0.contains_key(key) { self.size(key) } else { Ok(absent) }
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", Value::as_f64)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.get(key, "a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }
}

pub fn missing(key: &str) -> Error {
    Error::new(Status::BadFormat, format!("{key} is missing"))
}
