//! Keys of a config and what may stand under them.

use serde_json::{Map, Value};

use crate::base::{Error, Result, Status};
use crate::hf::family::unsupported;

/// Keys that an export says again as the folder said them: what does not change a training step, and
/// `max_window_layers`, which says nothing where there is no window or a list of layers.
pub const CARRIED: &[&str] =
    &["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_window_layers"];

/// Keys that the model is made of, in one family or another; read, or checked against what the family says.
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

/// Keys that do not change what a training step computes, and are of no use to an export.
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
    // How text is generated; configs of transformers 4 hold it.
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

/// Keys that must have a value this model computes; null always does.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("hidden_act", &["\"silu\"", "\"swish\""], "the feed-forward activation is SiLU"),
    ("attention_dropout", &["0", "0.0"], "there is no dropout"),
    ("hidden_dropout", &["0", "0.0"], "there is no dropout"),
    ("rope_interleaved", &["false"], "RoPE turns halves, not pairs"),
    ("partial_rotary_factor", &["1", "1.0"], "RoPE turns whole heads"),
    ("quantization_config", &[], "weights are not quantised"),
];

/// Refuses a key that stands for something the model does not compute, or that nobody knows.
///
/// An unknown key may be null or false: it says that something is off.
pub fn refuse_unknown(keys: &Map<String, Value>) -> Result<()> {
    for (key, value) in keys {
        let name = key.as_str();
        let known = [READ, CARRIED, HARMLESS].iter().any(|table| table.contains(&name));
        if known || name.starts_with('_') || fixed(name, value)? {
            continue;
        }
        if !(value.is_null() || *value == Value::Bool(false)) {
            return Err(unsupported(format!(
                "{key} is {value}; what it does is not known. If it does not change the model's arithmetic, \
                 remove the line"
            )));
        }
    }
    Ok(())
}

/// Whether `key` must have one of a few values; an error if it has another.
fn fixed(key: &str, value: &Value) -> Result<bool> {
    let Some((_, allowed, reason)) = FIXED.iter().find(|(name, ..)| *name == key) else {
        return Ok(false);
    };
    let text = value.to_string();
    if value.is_null() || allowed.contains(&text.as_str()) {
        return Ok(true);
    }
    Err(unsupported(format!("{key} is {text}; here {reason}")))
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

    /// The value under a key, or what an absent key stands for; null stands for nothing.
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
        self.get(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.get(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }
}

pub fn missing(key: &str) -> Error {
    Error::new(Status::BadFormat, format!("{key} is missing"))
}
