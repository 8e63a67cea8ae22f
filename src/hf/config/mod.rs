//! Reads and writes `config.json` of transformers 4 and 5 for the families of
//! [`FAMILIES`](super::FAMILIES).
//!
//! Every key must be known: it describes the model, has a supported value, or does not affect the
//! arithmetic. Any other key is refused unless it is null, false or empty, since an ignored key
//! might be a soft-cap, a scale or an expert.

mod factors;
mod json;
mod keys;
mod layers;
mod rope;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::format::shortest;
use crate::base::{DType, Dims, Error, Result, check_f32};
use crate::hf::companions::{CHAT_TEMPLATE, Companions, GENERATION};
use crate::hf::family::{Family, unsupported};
use crate::hf::{CONFIG_BYTES_MAX, contents, file_text};
use crate::host::input;
use crate::model::{LAYERS_MAX, ModelConfig, Rope, RopeScaling};
pub(super) use keys::QUANTIZED;
use keys::{CARRIED, Reader, refuse_unknown};
use layers::Layers;

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
        let absent = &family.absent;
        let norm_eps = reader.number("rms_norm_eps")?.unwrap_or(absent.norm_eps);
        check_f32("rms_norm_eps", norm_eps, 0.0)?;
        // `validate` refuses a larger number of layers; nothing may be allocated for it before.
        let layers =
            if dims.l <= LAYERS_MAX { layers::read(family, reader, dims.l)? } else { Layers::default() };
        let (rope, carried_scaling) = rope::read(family, &keys, &dims, layers.window.is_some(), &mut notes)?;
        let model = ModelConfig {
            dims,
            tied: reader.flag("tie_word_embeddings")?.unwrap_or(absent.tied),
            norm_eps: norm_eps as f32,
            norms: family.norms,
            norms_plus_one: family.norms_plus_one,
            rope: Rope { without: layers.without_rope, ..rope },
            positions_max: reader.size("max_position_embeddings")?.unwrap_or(absent.positions_max),
            biases: factors::biases(family, reader)?,
            qk_norm: family.qk_norm,
            window: layers.window,
            activation: factors::activation(family, reader)?,
            multipliers: factors::multipliers(family, reader, &dims)?,
            split_layers: false,
        };
        refuse_unknown(family, &keys, &dims)?;
        notes.extend(dropout_notes(family, reader)?);
        model.validate()?;
        // transformers reads this key of Phi-3 in generation, also without scaling.
        let original = family.rotary.only_long.filter(|_| model.rope.scaling == RopeScaling::None);
        let mut carried: Map<_, _> = CARRIED
            .iter()
            .copied()
            .chain(original.map(|_| rope::ORIGINAL))
            .filter_map(|key| Some((key.to_owned(), keys.get(key).filter(|value| !value.is_null())?.clone())))
            .collect();
        carried.extend(carried_scaling.map(|scaling| ("rope_scaling".to_owned(), scaling)));
        Ok(FolderConfig { model, family, carried, companions: Companions::default(), notes })
    }

    /// Returns the `config.json` for weights stored as `dtype`, readable by transformers 4 and 5.
    pub fn json(&self, dtype: DType) -> Value {
        let model = &self.model;
        let dims = &model.dims;
        let mut config = json!({
            "architectures": [self.family.architecture],
            "attention_dropout": 0.0,
            "eos_token_id": null,
            "hidden_size": dims.c,
            "initializer_range": 0.02,
            "intermediate_size": dims.f,
            "max_position_embeddings": model.positions_max,
            "model_type": self.family.model_type,
            "num_attention_heads": dims.h,
            "num_hidden_layers": dims.l,
            "num_key_value_heads": dims.g,
            "pad_token_id": null,
            "rms_norm_eps": shortest(model.norm_eps),
            "tie_word_embeddings": model.tied,
            "torch_dtype": match dtype {
                DType::F32 => "float32",
                DType::Bf16 => "bfloat16",
            },
            "vocab_size": dims.v,
        });
        let keys = config.as_object_mut().expect("an object was just made");
        if self.family.null_bos {
            keys.insert("bos_token_id".into(), Value::Null);
        }
        // Some families' classes do not know `head_dim`: they have it only if it differs from the
        // default.
        let even = dims.c.is_multiple_of(dims.h).then(|| dims.c / dims.h);
        if self.family.absent.head_dim.is_some() || even != Some(dims.d) {
            keys.insert("head_dim".into(), dims.d.into());
        }
        keys.extend(self.family.dropouts.iter().map(|&key| (key.to_owned(), 0.0.into())));
        factors::write(self.family, model, keys);
        layers::write(self.family, model, keys);
        rope::write(self.family, model, keys);
        keys.extend(self.carried.iter().map(|(key, value)| (key.clone(), value.clone())));
        config
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

fn dims(family: &Family, reader: Reader) -> Result<Dims> {
    let (c, h) = (reader.required("hidden_size")?, reader.required("num_attention_heads")?);
    let head_dim = reader.size_or("head_dim", family.absent.head_dim)?;
    if head_dim.is_none() && (h == 0 || c % h != 0) {
        return Err(Error::argument(format!(
            "hidden_size is {c}; without head_dim it must be a multiple of num_attention_heads ({h})"
        )));
    }
    let d = head_dim.unwrap_or_else(|| c / h);
    if family.heads_fill_width && h.checked_mul(d) != Some(c) {
        return Err(unsupported(format!(
            "num_attention_heads × head_dim is {h} × {d}; in {} it must be hidden_size, {c}",
            family.name
        )));
    }
    Ok(Dims {
        c,
        h,
        g: reader.size_or("num_key_value_heads", family.absent.kv_heads)?.unwrap_or(h),
        d,
        f: reader.required("intermediate_size")?,
        v: reader.required("vocab_size")?,
        l: reader.required("num_hidden_layers")?,
    })
}

/// Notes about dropouts that are not applied.
fn dropout_notes(family: &Family, reader: Reader) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for key in family.dropouts {
        if let Some(share) = reader.number(key)?.filter(|&share| share != 0.0) {
            notes.push(format!("{key} is {share}, but dropout is not supported: training is without it"));
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests;
