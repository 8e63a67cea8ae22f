//! Compares a resumed run's model and options with the checkpoint's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::base::format::shortest;
use crate::base::{Error, Result};
use crate::checkpoint::manifest::Manifest;
use crate::engine::{AdamOptions, Trainer};
use crate::model::{ModelConfig, RopeScaling};
use crate::plan::Plan;

/// Names in [`Manifest::numeric`] whose values may differ from the checkpoint's. The resumed run is
/// then not bit-equal to an uninterrupted one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeSet<String>);

impl Changes {
    /// Allows no changes: the resumed run is bit-equal to an uninterrupted one.
    pub fn none() -> Changes {
        Changes::default()
    }

    /// Allows the named values to differ.
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Changes {
        Changes(names.into_iter().map(Into::into).collect())
    }

    /// Refuses a name that the checkpoint does not have.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<()> {
        match self.0.iter().find(|name| !manifest.numeric.contains_key(*name)) {
            Some(name) => Err(Error::argument(format!(
                "`{name}` cannot change when a run is resumed; these can: {}",
                manifest.numeric.keys().cloned().collect::<Vec<_>>().join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Refuses values that differ from the checkpoint's without being allowed to; the error names
    /// all of them.
    pub(super) fn agree(&self, stored: &Map<String, Value>, given: &Map<String, Value>) -> Result<()> {
        let (names, sentences): (Vec<&str>, Vec<String>) =
            differences(stored, given).into_iter().filter(|(name, _)| !self.0.contains(*name)).unzip();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::argument(format!(
            "options differ from the checkpoint's: {}; use the checkpoint's values, or allow the change \
             (--resume-change {})",
            sentences.join("; "),
            names.join(",")
        )))
    }
}

/// Refuses a model that differs from the checkpoint's; the error names every field that differs.
pub fn same_model(stored: &Map<String, Value>, given: &Map<String, Value>) -> Result<()> {
    let differing: Vec<String> =
        differences(stored, given).into_iter().map(|(_, sentence)| sentence).collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(Error::argument(format!("the checkpoint holds another model: {}", differing.join("; "))))
}

/// Returns the names in `given` whose values differ from `stored`, each with a sentence for the
/// error.
fn differences<'a>(stored: &Map<String, Value>, given: &'a Map<String, Value>) -> Vec<(&'a str, String)> {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let differing = given.iter().filter(|(name, value)| stored.get(*name) != Some(value));
    let sentence = |(name, value): (&'a String, &Value)| {
        let was = stored.get(name).map_or("not stored in the checkpoint".to_owned(), shown);
        (name.as_str(), format!("{name} is {}, and was {was}", shown(value)))
    };
    differing.map(sentence).collect()
}

/// Returns the values of a trainer that change bits: those of [`planned`], and its
/// [arithmetic](Trainer::arithmetic) as `device`. The caller adds those of its data and learning
/// rates.
pub fn numeric(trainer: &Trainer) -> Map<String, Value> {
    let mut fields = planned(trainer.plan(), &trainer.adam(), trainer.clip());
    fields.insert("device".to_owned(), trainer.arithmetic().into());
    fields
}

/// Returns the values that change bits and are known before a trainer is opened, under the names of
/// the command's options: `mode`, `micro-batch`, `seq-len`, `logits-chunk`, `grad-dtype`, `clip`,
/// `weight-decay`, `beta1`, `beta2`, `eps`.
pub fn planned(plan: &Plan, adam: &AdamOptions, clip: f64) -> Map<String, Value> {
    let numeric = &plan.policy.numeric;
    let fields = json!({
        "mode": plan.policy.mode.name(),
        "micro-batch": numeric.shape.b,
        "seq-len": numeric.shape.t,
        "logits-chunk": numeric.logits_chunk,
        "grad-dtype": numeric.grad_dtype.name(),
        "clip": clip,
        "weight-decay": adam.weight_decay,
        "beta1": adam.beta1,
        "beta2": adam.beta2,
        "eps": adam.eps,
    });
    object(fields)
}

/// Returns the fields of a model under the names of `config.json`.
pub fn model_fields(config: &ModelConfig) -> Map<String, Value> {
    // Every field by name, so that a new one is considered here. `split_layers` changes no bits.
    let ModelConfig {
        dims,
        tied,
        norm_eps,
        rope_theta,
        rope_scaling,
        positions_max,
        biases,
        qk_norm,
        window,
        split_layers: _,
    } = config;
    object(json!({
        "hidden_size": dims.c,
        "num_attention_heads": dims.h,
        "num_key_value_heads": dims.g,
        "head_dim": dims.d,
        "intermediate_size": dims.f,
        "vocab_size": dims.v,
        "num_hidden_layers": dims.l,
        "tie_word_embeddings": tied,
        "rms_norm_eps": shortest(*norm_eps),
        "rope_theta": rope_theta,
        "rope_scaling": match rope_scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low, high, original_positions } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original_positions,
            }),
        },
        "max_position_embeddings": positions_max,
        "attention_bias": [biases.qkv, biases.o],
        "mlp_bias": biases.mlp,
        "qk_norm": qk_norm,
        "sliding_window": window.as_ref().map(|window| window.size),
        "sliding_layers": window.as_ref().map(|window| &window.layers),
    }))
}

/// Returns the map of a JSON object.
///
/// # Panics
/// If the value is not an object.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is not an object"),
    }
}
