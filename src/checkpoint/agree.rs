//! Compares a resumed run's model and options with the checkpoint's.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::format::shortest;
use crate::base::{Error, Name, Result, phrase};
use crate::checkpoint::manifest::Manifest;
use crate::engine::{AdamOptions, Trainer};
use crate::model::{ModelConfig, Multipliers, Norms, Rope, RopeScaling};
use crate::ops::{Activation, NormSpan};
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

    /// Allows the named values to differ. A name is that of the field in
    /// [`TrainerOptions`](crate::TrainerOptions) or [`AdamOptions`] (`mode`, `shape.b`, `beta2`),
    /// in C (`sequences`) or in the command (`micro-batch`).
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Changes {
        let key = |name: String| Name::find(&name).map_or(name, |name| name.key().to_owned());
        Changes(names.into_iter().map(|name| key(name.into())).collect())
    }

    /// Refuses a name that the checkpoint does not have.
    pub(super) fn check(&self, manifest: &Manifest, given: &Map<String, Value>) -> Result<()> {
        match self.0.iter().find(|key| !manifest.numeric.contains_key(*key)) {
            Some(key) if Name::find(key).is_some_and(|name| PLACEMENT.contains(&name)) => {
                Err(Error::argument(format!(
                    "`{}` need not be listed among the changes: placement changes no bit; leave it out",
                    spelled(key)
                )))
            }
            Some(key) => Err(Error::argument(format!(
                "`{}` cannot change when a run is resumed; these can: {}",
                spelled(key),
                given.keys().map(|key| spelled(key)).collect::<Vec<_>>().join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Refuses values that differ from the checkpoint's without being allowed to; the error names
    /// all of them.
    pub(super) fn agree(&self, stored: &Map<String, Value>, given: &Map<String, Value>) -> Result<()> {
        let mut all: Vec<Difference> = differences(stored, given).collect();
        let is_of = |it: &Difference, names: &[Name]| names.iter().any(|name| name.key() == it.key);
        // The chunk of the logits is computed from the shape, and changes with it.
        if all.iter().any(|it| is_of(it, &[Name::Sequences, Name::SequenceLength])) {
            all.retain(|it| !is_of(it, &[Name::LogitsChunk]));
        }
        let refused = all.iter().filter(|it| !self.0.contains(it.key));
        let sentences: Vec<String> = refused.map(|it| it.sentence("checkpoint")).collect();
        if sentences.is_empty() {
            return Ok(());
        }
        // With those that are allowed already: a list to copy.
        let names: Vec<String> = all.iter().map(|it| spelled(it.key)).collect();
        // The command's windows have this length: the data would be other data.
        let of_command = all.iter().filter(|it| !is_of(it, &[Name::SequenceLength]));
        let of_command: Vec<String> = of_command.map(|it| spelled(it.key)).collect();
        let or_allow = |how: String| format!(", or allow the change ({how})");
        Err(Error::argument(format!(
            "options differ from the checkpoint's: {}; use the checkpoint's values{}",
            sentences.join("; "),
            phrase(
                if of_command.is_empty() {
                    String::new()
                } else {
                    or_allow(format!("--resume-change {}", of_command.join(",")))
                },
                or_allow(format!("changes = \"{}\"", names.join(", "))),
                or_allow(format!("Changes::of([\"{}\"])", names.join("\", \"")))
            )
        )))
    }
}

/// Settings of which none changes bits, so that a resumed run may choose them freely.
const PLACEMENT: &[Name] = &[
    Name::DeviceMem,
    Name::HostMem,
    Name::Pinning,
    Name::Threads,
    Name::Tracing,
    Name::MicrosMax,
    Name::WeightSlots,
    Name::Slabs,
    Name::Sweeps,
    Name::GradPlace,
    Name::AdamWhen,
    Name::Layers,
    Name::Recompute,
    Name::Boundary,
    Name::Resident,
    Name::Accumulator,
];

/// Refuses a model that differs from the checkpoint's in `folder`; the error names every field that
/// differs.
pub fn same_model(stored: &Map<String, Value>, given: &Map<String, Value>, folder: &Path) -> Result<()> {
    let differing: Vec<String> = differences(stored, given).map(|it| it.sentence("checkpoint")).collect();
    if differing.is_empty() {
        return Ok(());
    }
    let folder = folder.display();
    Err(Error::argument(format!(
        "{} has another model than the checkpoint: {}; {}",
        phrase("the run", "the trainer", "the trainer"),
        differing.join("; "),
        phrase(
            "leave out --model",
            format!("open the trainer with the result of hz_model_config_from_hf(\"{folder}\")"),
            format!("open the trainer with the model of FolderConfig::open(\"{folder}\")")
        )
    )))
}

/// Refuses another model than the trainer's; `place` has it. The error names every field that
/// differs.
pub fn same_model_as(trainer: &ModelConfig, given: &ModelConfig, place: impl fmt::Display) -> Result<()> {
    let (trainer, given) = (model_fields(trainer), model_fields(given));
    let differing: Vec<String> = differences(&trainer, &given).map(|it| it.sentence("trainer")).collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(Error::argument(format!("{place} has another model than the trainer: {}", differing.join("; "))))
}

/// Returns a setting or a model's field, by its key in a manifest, for a message.
fn spelled(key: &str) -> String {
    match (key, Name::find(key)) {
        ("attention_bias", _) => phrase(key, "qkv_bias, o_bias", "biases.qkv, biases.o"),
        ("sliding_layers", _) => phrase(key, "full_attention_layers", "window.layers"),
        (_, Some(name)) => {
            let [_, c, rust] = name.spellings();
            phrase(key, c, rust)
        }
        (_, None) => key.to_owned(),
    }
}

/// Returns the value of a setting or a model's field for a message.
fn shown(key: &str, value: &Value) -> String {
    match (value, Name::find(key)) {
        // Not a choice of the caller, but the kind of device and kernels.
        (Value::String(text), None | Some(Name::Device)) => text.clone(),
        (Value::String(text), Some(name)) => name.value(text),
        // `full_attention_layers` in C.
        (Value::Bool(yes), _) => phrase(yes, u8::from(*yes != (key == "sliding_layers")), yes),
        (Value::Null, _) => phrase("none", if key == "rope_scaling" { "HZ_ROPE_PLAIN" } else { "0" }, "None"),
        (Value::Array(values), _) => {
            values.iter().map(|value| shown(key, value)).collect::<Vec<_>>().join(", ")
        }
        (other, _) => other.to_string(),
    }
}

/// A value that differs, as text.
struct Difference<'a> {
    key: &'a str,
    given: String,
    /// `None` if it is not stored.
    stored: Option<String>,
}

impl Difference<'_> {
    /// Compares the value with that of `other`.
    fn sentence(&self, other: &str) -> String {
        let (name, given) = (spelled(self.key), &self.given);
        match &self.stored {
            Some(stored) => format!("{name} is {given}, the {other}'s is {stored}"),
            None => format!("{name} is {given}, the {other} has none"),
        }
    }
}

/// Returns the values in `given` that differ from `stored`.
fn differences<'a>(
    stored: &Map<String, Value>,
    given: &'a Map<String, Value>,
) -> impl Iterator<Item = Difference<'a>> {
    let differing = given.iter().filter(|(key, value)| stored.get(*key) != Some(value));
    differing.map(move |(key, value)| Difference {
        key,
        given: shown(key, value),
        stored: stored.get(key).map(|value| shown(key, value)),
    })
}

/// Returns the values of a trainer that change bits: those of [`planned`], and its
/// [arithmetic](Trainer::arithmetic) as `device`. The caller adds those of its data and learning
/// rates.
pub fn numeric(trainer: &Trainer) -> Map<String, Value> {
    let mut fields = planned(trainer.plan(), &trainer.adam(), trainer.clip());
    fields.insert(Name::Device.key().to_owned(), trainer.arithmetic().into());
    fields
}

/// Returns the values that change bits and are known before a trainer is opened, under their
/// [keys](Name::key): `mode`, `micro-batch`, `seq-len`, `logits-chunk`, `grad-dtype`, `clip`,
/// `weight-decay`, `beta1`, `beta2`, `eps`.
pub fn planned(plan: &Plan, adam: &AdamOptions, clip: f64) -> Map<String, Value> {
    let numeric = &plan.policy.numeric;
    let fields: [(Name, Value); 10] = [
        (Name::Mode, plan.policy.mode.name().into()),
        (Name::Sequences, numeric.shape.b.into()),
        (Name::SequenceLength, numeric.shape.t.into()),
        (Name::LogitsChunk, numeric.logits_chunk.into()),
        (Name::GradDtype, numeric.grad_dtype.name().into()),
        (Name::Clip, clip.into()),
        (Name::WeightDecay, adam.weight_decay.into()),
        (Name::Beta1, adam.beta1.into()),
        (Name::Beta2, adam.beta2.into()),
        (Name::Eps, adam.eps.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.key().to_owned(), value)).collect()
}

/// Returns the fields of a model under the names of `config.json`.
pub fn model_fields(config: &ModelConfig) -> Map<String, Value> {
    // Every field by name, so that a new one is considered here. `split_layers` changes no bits.
    let ModelConfig {
        dims,
        tied,
        norm_eps,
        norms,
        norms_plus_one,
        rope: Rope { theta, scaling, windowed_theta, rotated, interleaved, without, queries },
        positions_max,
        biases,
        qk_norm,
        window,
        activation,
        multipliers,
        split_layers: _,
    } = config;
    let mut fields = object(json!({
        "hidden_size": dims.c,
        "num_attention_heads": dims.h,
        "num_key_value_heads": dims.g,
        "head_dim": dims.d,
        "intermediate_size": dims.f,
        "vocab_size": dims.v,
        "num_hidden_layers": dims.l,
        "tie_word_embeddings": tied,
        "rms_norm_eps": shortest(*norm_eps),
        "rope_theta": theta,
        "rope_scaling": scaling_fields(scaling),
        "max_position_embeddings": positions_max,
        "attention_bias": [biases.qkv, biases.o],
        "mlp_bias": biases.mlp,
        "qk_norm": match qk_norm {
            None => json!(false),
            Some(NormSpan::Head) => json!(true),
            Some(NormSpan::AllHeads) => json!("all heads"),
        },
        "sliding_window": window.as_ref().map(|window| window.size),
        "sliding_layers": window.as_ref().map(|window| &window.layers),
    }));
    // These are absent where the model is as a Llama, as in checkpoints of earlier versions.
    let factors = (*multipliers != Multipliers::default()).then(|| {
        let Multipliers { embedding, residual, scores, logits } = *multipliers;
        json!([embedding, residual, scores, logits])
    });
    let options = json!({
        "norms": match norms {
            Norms::Before => None,
            Norms::After => Some("after"),
            Norms::Around => Some("around"),
        },
        "norms_plus_one": norms_plus_one.then_some(true),
        "rotary_dim": rotated,
        "rope_interleaved": interleaved.then_some(true),
        "sliding_rope_theta": windowed_theta,
        "no_rope_layers": without,
        "query_scaling": queries.map(|queries| json!([queries.beta, queries.positions])),
        "activation": (*activation != Activation::Silu).then(|| activation.name()),
        "multipliers": factors,
    });
    fields.extend(object(options).into_iter().filter(|(_, value)| !value.is_null()));
    fields
}

fn scaling_fields(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low, high, original_positions } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original_positions,
        }),
        RopeScaling::Yarn { factor, fast, slow, original_positions, attention_factor, truncate } => json!({
            "rope_type": "yarn", "factor": factor, "beta_fast": fast, "beta_slow": slow,
            "original_max_position_embeddings": original_positions, "attention_factor": attention_factor,
            "truncate": truncate,
        }),
        RopeScaling::Long { short, long, original_positions, attention_factor } => json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long,
            "original_max_position_embeddings": original_positions, "attention_factor": attention_factor,
        }),
    }
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
