//! The keys of a config and their allowed values.

use serde_json::{Map, Value};

use crate::base::{Dims, Error, Result, Status};
use crate::hf::family::{Family, unsupported};

/// Keys that an export copies unchanged: they do not affect a training step. `max_window_layers`
/// has no effect without a window or with `layer_types`.
pub const CARRIED: &[&str] =
    &["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_window_layers"];

/// Keys that describe the model; read, or checked against the family's fixed properties. Those that
/// few families read are [`Family::reads`].
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
const HARMLESS: &[&[&str]] = &[
    // The folder, its origin and its code.
    &[
        "architectures",
        "author",
        "auto_map",
        "base_model",
        "base_model_name_or_path",
        "description",
        "dtype",
        "is_llama_config",
        "language",
        "library_name",
        "license",
        "license_name",
        "merge_method",
        "mergekit",
        "model_id",
        "model_name",
        "model_type",
        "name_or_path",
        "pipeline_tag",
        "tags",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "trust_remote_code",
    ],
    // Tokens and lengths. Some types of RoPE read the original length.
    &[
        "add_bos_token",
        "add_eos_token",
        "add_prefix_space",
        "bos_token",
        "chat_template",
        "context_length",
        "eos_token",
        "max_context_length",
        "max_seq_len",
        "max_seq_length",
        "max_sequence_length",
        "model_max_length",
        "n_ctx",
        "n_positions",
        "original_max_position_embeddings",
        "pad_token",
        "seq_length",
        "unk_token",
    ],
    // Outputs, implementations with equal results, and parallelism.
    &[
        "attn_impl",
        "attn_implementation",
        "chunk_size_feed_forward",
        "experts_implementation",
        "is_decoder",
        "keys_to_ignore_at_inference",
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "return_dict",
        "sequence_parallel",
        "tensor_parallel_degree",
        "tensor_parallel_output",
        "tie_last_hidden_states",
        "torchscript",
        "use_cache",
        "use_flash_attention",
        "use_flash_attention_2",
        "use_flash_attn",
        "use_flash_attn_2",
        "use_flashattn",
        "use_liger_kernel",
        "use_sdpa",
        "use_xformers",
        "virtual_pp_degree",
    ],
    // Options of a training, and how the sizes were chosen.
    &[
        "bf16",
        "ffn_dim_multiplier",
        "fp16",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "ignore_index",
        "multiple_of",
        "neftune_noise_alpha",
        "use_bfloat16",
        "use_gradient_checkpointing",
        "use_recompute",
    ],
    // Tasks other than language modelling.
    &[
        "classifier_activation",
        "classifier_dropout",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "prefix",
        "problem_type",
        "task_specific_params",
        "tf_legacy_loss",
    ],
    // Generation options, which transformers 4 stores in config.json.
    &[
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "bad_words_ids",
        "begin_suppress_tokens",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "constraints",
        "disable_compile",
        "diversity_penalty",
        "do_sample",
        "dola_layers",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "exponential_decay_length_penalty",
        "force_words_ids",
        "guidance_scale",
        "is_assistant",
        "length_penalty",
        "low_memory",
        "max_cache_len",
        "max_length",
        "max_matching_ngram_size",
        "max_new_tokens",
        "max_time",
        "min_length",
        "min_new_tokens",
        "min_p",
        "no_repeat_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_logits",
        "output_scores",
        "penalty_alpha",
        "prefill_chunk_size",
        "prompt_lookup_num_tokens",
        "remove_invalid_values",
        "renormalize_logits",
        "repetition_penalty",
        "return_dict_in_generate",
        "sequence_bias",
        "stop_strings",
        "suppress_tokens",
        "target_lookbehind",
        "temperature",
        "token_healing",
        "top_h",
        "top_k",
        "top_p",
        "typical_p",
        "watermarking_config",
    ],
];

/// Beginnings and ends of harmless keys: private ones, ids of special tokens, and those of tools.
const HARMLESS_PREFIXES: &[&str] = &[
    "_",
    "axolotl_",
    "deepspeed_",
    "fuse_attention_",
    "summary_",
    "tokenizer_",
    "unsloth_",
    "use_fused_",
    "wandb_",
];
const HARMLESS_SUFFIXES: &[&str] = &["_token_id", "_token_ids", "_version"];

/// Keys with only some supported values, and the reason shown in errors. Null is allowed, too, but not
/// in place of [`TRUE`], since code may take it for false.
const FIXED: &[(&[&str], &[&str], &str)] = &[
    (&["hidden_act"], &["\"gelu_pytorch_tanh\""], "this family reads hidden_activation, which must agree"),
    (&["is_causal", "causal"], TRUE, "only causal attention is supported"),
    (&["use_bidirectional_attention"], &["false"], "only causal attention is supported"),
    (&["attn_logit_softcapping", "final_logit_softcapping"], &[], "soft caps are not supported"),
    (&["attention_out_bias", "lm_head_bias"], &["false"], "this bias is not supported"),
    (&["scale_attn_weights"], TRUE, "attention without scaled scores is not supported"),
    (&["use_rope"], TRUE, "only RoPE is supported"),
    (&["use_rmsnorm", "use_rms_norm"], TRUE, "only RMSNorm is supported"),
    (&["position_embedding_type"], &["\"rope\"", "\"rotary\""], "only RoPE is supported"),
    (&["rope_interleaved"], &["false"], "interleaved RoPE is not supported"),
    (
        &["partial_rotary_factor", "rotary_pct", "rotary_percent"],
        ONE,
        "partial RoPE is not supported in this family",
    ),
    (
        &["full_attn_mod", "interpolate_factor"],
        ONE,
        "another value of this key of Phi-4-mini is not supported",
    ),
    (&["rope_scaling_factor", "rope_ratio"], ONE, "give RoPE scaling as rope_scaling"),
    (
        &["embedding_multiplier", "scale_emb", "residual_multiplier", "logits_scaling", "logit_scale"],
        ONE,
        "scaled embeddings, residuals and logits are not supported in this family",
    ),
    (&["num_experts", "num_local_experts", "first_k_dense_replace"], ZERO, "experts are not supported"),
    (&["num_nextn_predict_layers", "num_mtp_layers", "mtp"], ZERO, "only the next token is predicted"),
    (&["label_smoothing", "z_loss", "layerdrop"], ZERO, "this option of a training is not supported"),
    (&["loss_type"], &["\"ForCausalLM\""], "only the loss of causal language models is supported"),
    (&["quantization_config", "quantization", "compression_config"], &[], QUANTIZED),
];
const TRUE: &[&str] = &["true"];
const ONE: &[&str] = &["1", "1.0"];
const ZERO: &[&str] = &["0", "0.0", "false"];

/// Returns the value of a key that is another name of a size; `None` for other keys.
fn other_size(key: &str, dims: &Dims) -> Option<usize> {
    Some(match key {
        "d_model" => dims.c,
        "ffn_hidden_size" => dims.f,
        "kv_channels" | "rotary_dim" => dims.d,
        "n_heads" => dims.h,
        "n_kv_heads" | "num_kv_heads" => dims.g,
        "n_layers" => dims.l,
        "num_key_value_groups" => dims.h / dims.g.max(1),
        "padded_vocab_size" => dims.v,
        _ => return None,
    })
}

/// The reason for refusing quantized weights, and the way to load the model.
pub const QUANTIZED: &str = "quantized weights cannot be trained: take the model's folder without quantization, or \
                             load it in transformers, call dequantize() and save it with save_pretrained";

/// Refuses unknown keys, and unsupported values of known keys.
///
/// An unknown key may be null, false or empty, since that means that a feature is off. Keys of
/// [`FIXED`] with [`TRUE`] are the features that every model has.
pub fn refuse_unknown(family: &Family, keys: &Map<String, Value>, dims: &Dims) -> Result<()> {
    for (key, value) in keys {
        let known =
            family.reads(key) || READ.contains(&&key[..]) || CARRIED.contains(&&key[..]) || is_harmless(key);
        if known || fixed(key, value)? || size(key, value, dims)? {
            continue;
        }
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        if !off {
            return Err(unsupported(format!(
                "{key} is {value}, but this key is not known; if it does not change the model's arithmetic, \
                 remove the line"
            )));
        }
    }
    Ok(())
}

fn is_harmless(key: &str) -> bool {
    HARMLESS.iter().any(|class| class.contains(&key))
        || HARMLESS_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        || HARMLESS_SUFFIXES.iter().any(|suffix| key.ends_with(suffix))
}

/// Returns true if `key` is in [`FIXED`], or a dropout, and has a supported value; false for other
/// keys.
fn fixed(key: &str, value: &Value) -> Result<bool> {
    let (allowed, reason) = match FIXED.iter().find(|(names, ..)| names.contains(&key)) {
        Some((_, allowed, reason)) => (*allowed, *reason),
        None if key.contains("dropout") || key.ends_with("_pdrop") => (ZERO, "dropout is not supported"),
        None => return Ok(false),
    };
    let text = value.to_string();
    if (value.is_null() && allowed != TRUE) || allowed.contains(&text.as_str()) {
        return Ok(true);
    }
    Err(unsupported(format!("{key} is {text}; {reason}")))
}

/// Returns true if `key` is another name of a size and has the model's value; false for other keys.
fn size(key: &str, value: &Value, dims: &Dims) -> Result<bool> {
    let Some(expected) = other_size(key, dims) else { return Ok(false) };
    if value.is_null() || value.as_u64() == Some(expected as u64) {
        return Ok(true);
    }
    Err(unsupported(format!("{key} is {value}, but by the other keys it is {expected}; they must agree")))
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

    /// Returns a list of true or false, which may be 1 and 0.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let flag = |item: &Value| match item {
            Value::Bool(flag) => Some(*flag),
            other => other.as_u64().filter(|&number| number <= 1).map(|number| number == 1),
        };
        self.get(key, "a list of 0 and 1", |value| value.as_array()?.iter().map(flag).collect())
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key, "a list of numbers", |value| value.as_array()?.iter().map(Value::as_f64).collect())
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
