//! Reads and writes `config.json` of transformers 4 and 5 for the families of
//! [`FAMILIES`](super::FAMILIES).
//!
//! Every key must be known: it describes the model, has a supported value, or does not affect the
//! arithmetic. Any other key is refused unless it is null, false or empty, since an ignored key
//! might be a soft-cap, a scale or an expert.

mod json;
mod keys;
mod rope;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::format::shortest;
use crate::base::{DType, Dims, Error, Result, check_f32};
use crate::hf::companions::{CHAT_TEMPLATE, Companions, GENERATION};
use crate::hf::family::{AttentionBias, Family, WINDOW_DEFAULT, WINDOW_LAYERS_DEFAULT, Windows, unsupported};
use crate::hf::{CONFIG_BYTES_MAX, contents, file_text};
use crate::host::input;
use crate::model::{Biases, LAYERS_MAX, ModelConfig, Rope, Window};
use crate::ops::NormSpan;
pub(super) use keys::QUANTIZED;
use keys::{CARRIED, Reader, refuse_unknown};

/// The contents of a model folder, except the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderConfig {
    /// The model.
    pub model: ModelConfig,
    /// Its family.
    pub family: &'static Family,
    /// Keys copied to an export (`bos_token_id`, …); they do not affect the arithmetic.
    pub carried: Map<String, Value>,
    /// Files copied to an export (`tokenizer.json`, …).
    pub companions: Companions,
    /// Parts of `config.json` that were ignored, and why; for the user.
    pub notes: Vec<String>,
}

impl FolderConfig {
    /// Reads a folder's `config.json` and the files that an export copies. Errors start with a
    /// path.
    pub fn open(folder: &Path) -> Result<FolderConfig> {
        let path = folder.join("config.json");
        let text = input::read_if_there(&path, CONFIG_BYTES_MAX)?;
        let text = text.ok_or_else(|| contents::no_config(folder))?;
        contents::refuse_placeholder(&path, &text)?;
        let config = FolderConfig::parse(&text).map_err(|error| error.within(path.display()))?;
        let mut config = FolderConfig { companions: Companions::read(folder)?, ..config };
        config.notes.extend(config.notes_of_end_tokens());
        config.notes.extend(contents::note_of_templates(folder));
        Ok(config)
    }

    /// Makes the config of a model without a folder. Its family is the simplest one that has its
    /// features.
    ///
    /// Errors: `Unsupported` if no family has this combination of features.
    pub fn of(model: ModelConfig) -> Result<FolderConfig> {
        let family = Family::of(&model)?;
        let (carried, companions, notes) = Default::default();
        Ok(FolderConfig { model, family, carried, companions, notes })
    }

    /// Parses the text of a `config.json`.
    pub fn parse(text: &[u8]) -> Result<FolderConfig> {
        let mut notes = Vec::new();
        let keys = json::object(text)?;
        let family = Family::named(&keys, &mut notes)?;
        let reader = Reader(&keys);
        let dims = dims(family, reader)?;
        let rope = rope::read(&keys, &mut notes)?;
        let norm_eps = reader.number("rms_norm_eps")?.unwrap_or(1e-6);
        check_f32("rms_norm_eps", norm_eps, 0.0)?;
        let model = ModelConfig {
            dims,
            tied: reader.flag("tie_word_embeddings")?.unwrap_or(false),
            norm_eps: norm_eps as f32,
            rope: Rope { theta: rope.theta, scaling: rope.scaling, ..Rope::default() },
            positions_max: reader.size("max_position_embeddings")?.unwrap_or(family.positions_max),
            biases: biases(family, reader)?,
            qk_norm: family.qk_norm.then_some(NormSpan::Head),
            // `validate` refuses a larger number of layers; nothing may be allocated for it before.
            window: if dims.l <= LAYERS_MAX { window(family, reader, dims.l)? } else { None },
            split_layers: false,
            ..ModelConfig::llama(dims)
        };
        refuse_unknown(&keys, &dims)?;
        model.validate()?;
        let mut carried: Map<_, _> = CARRIED
            .iter()
            .filter_map(|&key| keys.get(key).map(|value| (key.to_owned(), value.clone())))
            .collect();
        carried.extend(rope.carried.map(|scaling| ("rope_scaling".to_owned(), scaling)));
        Ok(FolderConfig { model, family, carried, companions: Companions::default(), notes })
    }

    /// Returns the `config.json` for weights stored as `dtype`, readable by transformers 4 and 5.
    pub fn json(&self, dtype: DType) -> Value {
        let model = &self.model;
        let dims = &model.dims;
        let mut config = json!({
            "architectures": [self.family.architecture],
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": null,
            "hidden_act": "silu",
            "hidden_size": dims.c,
            "initializer_range": 0.02,
            "intermediate_size": dims.f,
            "max_position_embeddings": model.positions_max,
            "model_type": self.family.model_type,
            "num_attention_heads": dims.h,
            "num_hidden_layers": dims.l,
            "num_key_value_heads": dims.g,
            "rms_norm_eps": shortest(model.norm_eps),
            "rope_scaling": rope::scaling_json(model),
            "rope_theta": model.rope.theta,
            "tie_word_embeddings": model.tied,
            "torch_dtype": match dtype {
                DType::F32 => "float32",
                DType::Bf16 => "bfloat16",
            },
            "vocab_size": dims.v,
        });
        let keys = config.as_object_mut().expect("an object was just made");
        // Some families' classes do not know `head_dim`; it is written only if it differs from the
        // default.
        let even = dims.c.is_multiple_of(dims.h).then(|| dims.c / dims.h);
        if self.family.head_dim.or(even) != Some(dims.d) {
            keys.insert("head_dim".into(), dims.d.into());
        }
        if self.family.attention_bias == AttentionBias::Key {
            keys.insert("attention_bias".into(), model.biases.qkv.into());
        }
        if self.family.mlp_bias {
            keys.insert("mlp_bias".into(), model.biases.mlp.into());
        }
        self.window_keys(keys);
        keys.extend(self.carried.iter().map(|(key, value)| (key.clone(), value.clone())));
        config
    }

    fn window_keys(&self, keys: &mut Map<String, Value>) {
        let window = self.model.window.as_ref();
        if self.family.windows == Windows::Never {
            return;
        }
        keys.insert("sliding_window".into(), json!(window.map(|window| window.size)));
        if self.family.windows == Windows::Chosen {
            let layers = window.map_or(vec![false; self.model.dims.l], |window| window.layers.clone());
            // Versions of transformers that do not read `layer_types` use the window in the last
            // layers.
            let last = layers.iter().rev().take_while(|&&holds| holds).count();
            let types: Vec<_> = layers.iter().map(|&holds| if holds { SLIDING } else { FULL }).collect();
            keys.insert("layer_types".into(), json!(types));
            keys.insert("max_window_layers".into(), json!(layers.len() - last));
            keys.insert("use_sliding_window".into(), window.is_some().into());
        }
    }

    /// Replaces the chat template of the folder. Returns whether it differs from the folder's
    /// `chat_template.jinja`.
    pub fn set_chat_template(&mut self, template: Vec<u8>) -> bool {
        let differs = self.companions.get(CHAT_TEMPLATE) != Some(&template[..]);
        self.companions.put(CHAT_TEMPLATE, template);
        differs
    }

    /// Returns names and contents of all files of the model folder except weights, for weights
    /// stored as `dtype`.
    pub fn files(&self, dtype: DType) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![("config.json", file_text(&self.json(dtype)))];
        if !self.companions.has(GENERATION) {
            files.push((GENERATION, file_text(&self.generation_json())));
        }
        files.extend(self.companions.files().map(|(name, content)| (name, content.to_vec())));
        files
    }

    /// Returns the `generation_config.json` for a folder without one: the known ids of special
    /// tokens.
    pub fn generation_json(&self) -> Value {
        let mut config = json!({ "_from_model_config": true });
        let keys = config.as_object_mut().expect("an object was just made");
        let tokens =
            self.carried.iter().filter(|(key, value)| key.ends_with("_token_id") && !value.is_null());
        keys.extend(tokens.map(|(key, value)| (key.clone(), value.clone())));
        config
    }
}

/// Entries of `layer_types`.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

fn dims(family: &Family, reader: Reader) -> Result<Dims> {
    let (c, h) = (reader.required("hidden_size")?, reader.required("num_attention_heads")?);
    let head_dim = reader.size_or("head_dim", family.head_dim)?;
    if head_dim.is_none() && (h == 0 || c % h != 0) {
        return Err(Error::argument(format!(
            "hidden_size is {c}; without head_dim it must be a multiple of num_attention_heads ({h})"
        )));
    }
    Ok(Dims {
        c,
        h,
        g: reader.size_or("num_key_value_heads", family.kv_heads)?.unwrap_or(h),
        d: head_dim.unwrap_or_else(|| c / h),
        f: reader.required("intermediate_size")?,
        v: reader.required("vocab_size")?,
        l: reader.required("num_hidden_layers")?,
    })
}

fn biases(family: &Family, reader: Reader) -> Result<Biases> {
    let name = family.architecture;
    let stated = reader.flag("attention_bias")?;
    let (qkv, o) = match (family.attention_bias, stated) {
        (AttentionBias::Key, stated) => (stated.unwrap_or(false), stated.unwrap_or(false)),
        (AttentionBias::Never, Some(true)) => {
            return Err(unsupported(format!(
                "attention_bias is true, but the attention projections of {name} have no bias"
            )));
        }
        (AttentionBias::Never, _) => (false, false),
        (AttentionBias::Qkv, Some(false)) => {
            return Err(unsupported(format!(
                "attention_bias is false, but the query, key and value projections of {name} have a bias"
            )));
        }
        (AttentionBias::Qkv, _) => (true, false),
    };
    let mlp = reader.flag("mlp_bias")?.unwrap_or(false);
    if mlp && !family.mlp_bias {
        return Err(unsupported(format!("mlp_bias is true, but the MLP projections of {name} have no bias")));
    }
    Ok(Biases { qkv, o, mlp })
}

/// Returns the sliding window; `None` if no layer has one.
fn window(family: &Family, reader: Reader, l: usize) -> Result<Option<Window>> {
    let name = family.architecture;
    let types = match reader.texts("layer_types")? {
        None => None,
        Some(types) => Some(types.iter().map(|kind| layer_type(kind)).collect::<Result<Vec<_>>>()?),
    };
    if let Some(types) = types.as_ref().filter(|types| types.len() != l) {
        return Err(Error::argument(format!(
            "layer_types has {} entries, but num_hidden_layers is {l}; they must agree",
            types.len()
        )));
    }
    let switch = reader.flag("use_sliding_window")?;
    let stated = reader.size_or("sliding_window", Some(WINDOW_DEFAULT))?;
    let (size, layers) = match family.windows {
        Windows::Never => {
            if let Some(size) = reader.size("sliding_window")?.filter(|_| switch != Some(false)) {
                return Err(unsupported(format!(
                    "sliding_window is {size}, but {name} does not support a sliding window"
                )));
            }
            (None, vec![false; l])
        }
        Windows::Every => {
            if let (Some(size), Some(false)) = (stated, switch) {
                return Err(unsupported(format!(
                    "use_sliding_window is false, but {name} ignores this key and would use sliding_window \
                     {size}; set sliding_window to null, or remove use_sliding_window"
                )));
            }
            (stated, vec![stated.is_some(); l])
        }
        Windows::Chosen => {
            let size = stated.filter(|_| switch == Some(true));
            let from = reader.size("max_window_layers")?.unwrap_or(WINDOW_LAYERS_DEFAULT);
            let layers = (0..l).map(|layer| size.is_some() && layer >= from).collect();
            (size, types.clone().unwrap_or(layers))
        }
    };
    if types.is_some_and(|types| types != layers) {
        return Err(unsupported(format!(
            "layer_types contradicts the sliding window that {name} would use; they must agree"
        )));
    }
    match size {
        Some(size) if layers.contains(&true) => Ok(Some(Window { size, layers })),
        None if layers.contains(&true) => Err(Error::argument(format!(
            "layer_types has {SLIDING}, but there is no window; set use_sliding_window to true and \
             sliding_window to a number"
        ))),
        _ => Ok(None),
    }
}

fn layer_type(kind: &str) -> Result<bool> {
    match kind {
        FULL => Ok(false),
        SLIDING => Ok(true),
        other => Err(unsupported(format!("layer_types has {other:?}; supported are {FULL} and {SLIDING}"))),
    }
}

#[cfg(test)]
mod tests;
