//! `config.json`, as transformers 4 (`rope_theta`) and 5 (`rope_parameters`) write it for `LlamaForCausalLM`.
//!
//! Every key is accounted for: it is a size, or it must have the one value this model computes, or it is known
//! not to touch the arithmetic. Any other key is refused unless it is null or false, since a config says what
//! it needs and a key passed over may be a soft-cap, a scale or an expert.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::{DType, Dims, Error, Result, Status};
use crate::model::ModelConfig;

/// A model as its folder describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderConfig {
    /// What is trained.
    pub model: ModelConfig,
    /// Keys that do not touch the arithmetic (`bos_token_id`, …), carried over to an export.
    pub carried: Map<String, Value>,
}

/// The one architecture read so far.
const ARCHITECTURE: &str = "LlamaForCausalLM";

/// Keys that do not change what a training step computes, and are carried over to an export.
const CARRIED: &[&str] = &["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"];

/// Keys that do not change what a training step computes, and are of no use to an export.
const HARMLESS: &[&str] = &[
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "chunk_size_feed_forward",
    "pretraining_tp",
    "name_or_path",
    "original_max_position_embeddings",
    "max_length",
    "max_sequence_length",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "torchscript",
    "unsloth_version",
    "unsloth_fixed",
];

/// Keys that must have a value this model computes; null always does.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("hidden_act", &["\"silu\"", "\"swish\""], "the feed-forward activation is SiLU"),
    ("attention_bias", &["false"], "attention projections have no bias"),
    ("mlp_bias", &["false"], "feed-forward projections have no bias"),
    ("attention_dropout", &["0", "0.0"], "there is no dropout"),
    ("hidden_dropout", &["0", "0.0"], "there is no dropout"),
    ("rope_scaling", &["{\"rope_type\":\"default\"}", "{\"type\":\"default\"}"], "RoPE is not scaled yet"),
    ("rope_interleaved", &["false"], "RoPE turns halves, not pairs"),
    ("partial_rotary_factor", &["1", "1.0"], "RoPE turns whole heads"),
    ("sliding_window", &[], "attention sees the whole sequence"),
    ("layer_types", &[], "every layer is the same"),
    ("quantization_config", &[], "weights are not quantised"),
];

/// Keys of `rope_parameters` besides the base itself.
const ROPE_FIXED: &[(&str, &[&str], &str)] = &[
    ("rope_type", &["\"default\""], "RoPE is not scaled yet"),
    ("type", &["\"default\""], "RoPE is not scaled yet"),
    ("partial_rotary_factor", &["1", "1.0"], "RoPE turns whole heads"),
];

impl FolderConfig {
    /// Reads `config.json` of a folder. Errors open with its path.
    pub fn open(folder: &Path) -> Result<FolderConfig> {
        let path = folder.join("config.json");
        let text =
            fs::read(&path).map_err(|error| Error::io(format!("cannot read {}", path.display()), &error))?;
        FolderConfig::parse(&text).map_err(|error| error.within(path.display()))
    }

    /// Reads the text of a `config.json`.
    pub fn parse(text: &[u8]) -> Result<FolderConfig> {
        let keys: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| Error::new(Status::BadFormat, format!("not a JSON object: {error}")))?;
        architecture(&keys)?;
        let mut reader = Reader { keys: &keys };
        let (c, h) = (reader.required("hidden_size")?, reader.required("num_attention_heads")?);
        let head_dim = reader.size("head_dim")?;
        if head_dim.is_none() && (h == 0 || c % h != 0) {
            return Err(Error::argument(format!(
                "hidden_size is {c}; without head_dim it must be a multiple of num_attention_heads, {h}"
            )));
        }
        let dims = Dims {
            c,
            h,
            g: reader.size("num_key_value_heads")?.unwrap_or(h),
            d: head_dim.unwrap_or_else(|| c / h),
            f: reader.required("intermediate_size")?,
            v: reader.required("vocab_size")?,
            l: reader.required("num_hidden_layers")?,
        };
        let model = ModelConfig {
            dims,
            tied: reader.flag("tie_word_embeddings")?.unwrap_or(false),
            norm_eps: reader.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta: rope_theta(&keys, &mut reader)?,
            positions_max: reader.size("max_position_embeddings")?.unwrap_or(2048),
        };
        refuse_unknown(&keys)?;
        model.validate()?;
        let carried = CARRIED
            .iter()
            .filter_map(|&key| keys.get(key).map(|value| (key.to_owned(), value.clone())))
            .collect();
        Ok(FolderConfig { model, carried })
    }

    /// The `config.json` of this model, for weights stored as `dtype`; transformers 4 and 5 both read it.
    pub fn json(&self, dtype: DType) -> Value {
        let ModelConfig { dims, tied, norm_eps, rope_theta, positions_max } = &self.model;
        let mut config = json!({
            "architectures": [ARCHITECTURE],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": null,
            "head_dim": dims.d,
            "hidden_act": "silu",
            "hidden_size": dims.c,
            "initializer_range": 0.02,
            "intermediate_size": dims.f,
            "max_position_embeddings": positions_max,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": dims.h,
            "num_hidden_layers": dims.l,
            "num_key_value_heads": dims.g,
            "rms_norm_eps": shortest(*norm_eps),
            "rope_scaling": null,
            "rope_theta": rope_theta,
            "tie_word_embeddings": tied,
            "torch_dtype": match dtype {
                DType::F32 => "float32",
                DType::Bf16 => "bfloat16",
            },
            "vocab_size": dims.v,
        });
        let keys = config.as_object_mut().expect("an object was just made");
        keys.extend(self.carried.iter().map(|(key, value)| (key.clone(), value.clone())));
        config
    }

    /// The `generation_config.json` beside it: the special tokens, as far as they are known.
    pub fn generation_json(&self) -> Value {
        let mut config = json!({ "_from_model_config": true });
        let keys = config.as_object_mut().expect("an object was just made");
        let tokens =
            self.carried.iter().filter(|(key, value)| key.ends_with("_token_id") && !value.is_null());
        keys.extend(tokens.map(|(key, value)| (key.clone(), value.clone())));
        config
    }
}

impl From<ModelConfig> for FolderConfig {
    /// A model that comes from no folder.
    fn from(model: ModelConfig) -> Self {
        FolderConfig { model, carried: Map::new() }
    }
}

/// An f32 as the f64 with its shortest decimal form: 1e-5, not 0.000009999999747378752.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("a printed f32 is an f64")
}

fn unsupported<T>(message: String) -> Result<T> {
    Err(Error::new(Status::Unsupported, message))
}

fn architecture(keys: &Map<String, Value>) -> Result<()> {
    let named = keys.get("architectures").and_then(Value::as_array);
    if let Some(other) = named.and_then(|names| names.iter().find(|&name| name != ARCHITECTURE)) {
        return unsupported(format!("architecture {other} is not known; {ARCHITECTURE} is"));
    }
    match keys.get("model_type") {
        Some(Value::String(kind)) if kind == "llama" => Ok(()),
        None if named.is_some_and(|names| !names.is_empty()) => Ok(()),
        Some(other) => unsupported(format!("model_type {other} is not known; \"llama\" is")),
        None => {
            Err(Error::new(Status::BadFormat, "neither architectures nor model_type says what the model is"))
        }
    }
}

/// The base of the rotary frequencies, where either version of transformers puts it.
fn rope_theta(keys: &Map<String, Value>, reader: &mut Reader) -> Result<f64> {
    let plain = reader.number("rope_theta")?;
    let nested = match keys.get("rope_parameters") {
        None | Some(Value::Null) => None,
        Some(Value::Object(parameters)) => {
            for (key, value) in parameters {
                if key != "rope_theta" && !fixed(ROPE_FIXED, key, value).map_err(in_rope)? {
                    return unsupported(format!("rope_parameters says {key}: {value}, which is not known"));
                }
            }
            Reader { keys: parameters }.number("rope_theta").map_err(in_rope)?
        }
        Some(other) => return unsupported(format!("rope_parameters is {other}, which is not known")),
    };
    match (plain, nested) {
        (Some(plain), Some(nested)) if plain != nested => Err(Error::argument(format!(
            "rope_theta is {plain} and rope_parameters.rope_theta is {nested}; they must agree"
        ))),
        _ => Ok(nested.or(plain).unwrap_or(10_000.0)),
    }
}

fn in_rope(error: Error) -> Error {
    error.within("rope_parameters")
}

/// Whether `key` is of a fixed table; an error if its value is not one of the table's.
fn fixed(table: &[(&str, &[&str], &str)], key: &str, value: &Value) -> Result<bool> {
    let Some((_, allowed, reason)) = table.iter().find(|(name, ..)| *name == key) else {
        return Ok(false);
    };
    let text = value.to_string();
    if value.is_null() || allowed.contains(&text.as_str()) {
        return Ok(true);
    }
    unsupported(format!("{key} is {text}; here {reason}"))
}

fn refuse_unknown(keys: &Map<String, Value>) -> Result<()> {
    const SIZES: &[&str] = &[
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "num_hidden_layers",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "rope_theta",
        "rope_parameters",
    ];
    for (key, value) in keys {
        let name = key.as_str();
        let known = SIZES.contains(&name) || CARRIED.contains(&name) || HARMLESS.contains(&name);
        if known || name.starts_with('_') || fixed(FIXED, name, value)? {
            continue;
        }
        if !(value.is_null() || *value == Value::Bool(false)) {
            return unsupported(format!(
                "{key} is {value}; what it does is not known. If it does not change the model's arithmetic, \
                 remove the line"
            ));
        }
    }
    Ok(())
}

/// Typed access to an object's keys; null counts as absent.
struct Reader<'a> {
    keys: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn get<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(found) => Ok(Some(found)),
                None => Err(Error::new(Status::BadFormat, format!("{key} is {value}; it must be {kind}"))),
            },
        }
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number", |value| value.as_u64().and_then(|size| usize::try_from(size).ok()))
    }

    fn required(&mut self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::new(Status::BadFormat, format!("{key} is missing")))
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", Value::as_f64)
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As transformers 4.46 writes it.
    const V4: &str = r#"{
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 1376,
        "max_position_embeddings": 4096, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 8,
        "num_hidden_layers": 3, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": null, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.46.0", "use_cache": true, "vocab_size": 1000}"#;

    fn with(key: &str, value: Value) -> Result<FolderConfig> {
        let mut config: Value = serde_json::from_str(V4).unwrap();
        config[key] = value;
        FolderConfig::parse(config.to_string().as_bytes())
    }

    fn without(key: &str) -> Result<FolderConfig> {
        let mut config: Value = serde_json::from_str(V4).unwrap();
        config.as_object_mut().unwrap().remove(key);
        FolderConfig::parse(config.to_string().as_bytes())
    }

    #[test]
    fn both_versions_of_transformers_are_read() {
        let v4 = FolderConfig::parse(V4.as_bytes()).unwrap();
        let model = &v4.model;
        assert_eq!(model.dims, Dims { c: 512, h: 8, g: 2, d: 64, f: 1376, v: 1000, l: 3 });
        assert_eq!((model.tied, model.norm_eps, model.rope_theta), (true, 1e-5, 500_000.0));
        assert_eq!(model.positions_max, 4096);
        assert_eq!(v4.carried["eos_token_id"], json!([128001, 128009]));

        let mut v5: Value = serde_json::from_str(V4).unwrap();
        let keys = v5.as_object_mut().unwrap();
        keys.remove("rope_theta");
        keys.remove("rope_scaling");
        keys.remove("torch_dtype");
        keys.insert("dtype".into(), json!("bfloat16"));
        keys.insert("rope_parameters".into(), json!({"rope_theta": 500000.0, "rope_type": "default"}));
        assert_eq!(FolderConfig::parse(v5.to_string().as_bytes()).unwrap(), v4);
    }

    #[test]
    fn what_is_left_out_has_transformers_defaults() {
        let model = |key| without(key).unwrap().model;
        assert_eq!(model("num_key_value_heads").dims.g, 8);
        assert_eq!(model("head_dim").dims.d, 64);
        assert_eq!(model("rms_norm_eps").norm_eps, 1e-6);
        assert_eq!(model("rope_theta").rope_theta, 10_000.0);
        assert!(!model("tie_word_embeddings").tied);
        assert_eq!(model("max_position_embeddings").positions_max, 2048);
        assert!(without("architectures").is_ok() && without("model_type").is_ok());
        assert_eq!(with("head_dim", json!(32)).unwrap().model.dims.d, 32);
    }

    #[test]
    fn what_would_change_the_arithmetic_is_refused_by_name() {
        for (key, value) in [
            ("architectures", json!(["MixtralForCausalLM"])),
            ("model_type", json!("qwen2")),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("attention_dropout", json!(0.1)),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
            ("rope_scaling", json!({"rope_type": "default", "factor": 8.0})),
            ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 500000.0})),
            ("rope_parameters", json!({"factor": 2.0, "rope_theta": 500000.0})),
            ("rope_parameters", json!([1])),
            ("rope_parameters", json!({"rope_theta": 1.0})),
            ("partial_rotary_factor", json!(0.5)),
            ("sliding_window", json!(4096)),
            ("layer_types", json!(["full_attention"])),
            ("quantization_config", json!({"quant_method": "gptq"})),
            ("num_local_experts", json!(8)),
            ("attn_logit_softcapping", json!(50.0)),
            ("logit_scale", json!(0.5)),
        ] {
            let error = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
            let subject = if key == "architectures" { "Mixtral" } else { key.split('.').next().unwrap() };
            let named = error.message().contains(subject) || error.message().contains("rope_theta");
            assert!(named, "{key}: {error}");
        }
        // Harmless, absent or switched off.
        for (key, value) in [
            ("rope_scaling", json!({"rope_type": "default"})),
            ("sliding_window", Value::Null),
            ("use_qk_norm", json!(false)),
            ("_name_or_path", json!("somewhere")),
            ("pad_token_id", json!(0)),
            ("hidden_act", json!("swish")),
        ] {
            with(key, value.clone()).unwrap_or_else(|error| panic!("{key}: {value}: {error}"));
        }
    }

    #[test]
    fn sizes_are_not_trusted() {
        for (key, value) in [
            ("vocab_size", json!(-1)),
            ("vocab_size", json!("many")),
            ("vocab_size", json!(1e30)),
            ("num_hidden_layers", json!(2.5)),
            ("num_hidden_layers", json!(0)),
            ("num_key_value_heads", json!(3)),
            ("hidden_size", json!(u64::MAX)),
            ("rms_norm_eps", json!(-1.0)),
            ("rope_theta", json!(0)),
        ] {
            let error = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
            assert!(error.message().contains(key), "{error}");
        }
        assert!(without("vocab_size").unwrap_err().message().contains("vocab_size is missing"));
        assert_eq!(FolderConfig::parse(b"{\"a\": ").unwrap_err().status(), Status::BadFormat);
        assert_eq!(FolderConfig::parse(b"[]").unwrap_err().status(), Status::BadFormat);
        assert_eq!(FolderConfig::parse(b"{}").unwrap_err().status(), Status::BadFormat);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = FolderConfig::parse(V4.as_bytes()).unwrap();
        let json = config.json(DType::Bf16);
        assert_eq!(json["torch_dtype"], "bfloat16");
        assert_eq!(json["rms_norm_eps"].as_f64(), Some(1e-5));
        assert_eq!(FolderConfig::parse(json.to_string().as_bytes()).unwrap(), config);
        assert_eq!(config.generation_json()["eos_token_id"], json!([128001, 128009]));
    }
}
