//! RoPE in configs: `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters`
//! (transformers 5).

use serde_json::{Map, Value, json};

use crate::base::{Error, Result};
use crate::hf::config::keys::{Reader, missing};
use crate::hf::family::unsupported;
use crate::model::{ModelConfig, RopeScaling};

const THETA_DEFAULT: f64 = 10_000.0;

/// Keys that some types of scaling have. Type `default` has none and ignores them, as transformers
/// does; other types ignore a value of 1, and the original length.
const SCALING_KEYS: [&str; 11] = [
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "finetuned",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mrope_section",
    "original_max_position_embeddings",
    "short_factor",
];

/// RoPE as a config describes it.
pub struct Rope {
    /// Base of the rotary frequencies.
    pub theta: f64,
    pub scaling: RopeScaling,
    /// The value of `rope_scaling` that an export has, where `scaling` alone does not describe it.
    pub carried: Option<Value>,
}

/// Reads RoPE from the keys of either version of transformers. Adds ignored keys to `notes`.
pub fn read(keys: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Rope> {
    let mut theta = Reader(keys).number("rope_theta")?;
    let mut found: Option<(RopeScaling, Option<Value>)> = None;
    for name in ["rope_parameters", "rope_scaling"] {
        let parameters = match keys.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(parameters)) => parameters,
            Some(other) => {
                return Err(unsupported(format!("{name} is {other}; it must be an object or null")));
            }
        };
        let nested = Reader(parameters).number("rope_theta").map_err(|error| error.within(name))?;
        if let (Some(plain), Some(nested)) = (theta, nested)
            && plain != nested
        {
            return Err(Error::argument(format!(
                "rope_theta is {plain} and {name}.rope_theta is {nested}; they must agree"
            )));
        }
        theta = theta.or(nested);
        let mut remarks = Vec::new();
        let scaling = scaling_of(parameters, keys, &mut remarks).map_err(|error| error.within(name))?;
        notes.extend(remarks.iter().map(|note| format!("{name}.{note}")));
        if found.as_ref().is_some_and(|found| *found != scaling) {
            return Err(Error::argument("rope_parameters and rope_scaling differ; they must agree"));
        }
        found = Some(scaling);
    }
    let (scaling, carried) = found.unwrap_or_default();
    Ok(Rope { theta: theta.unwrap_or(THETA_DEFAULT), scaling, carried })
}

/// Reads the scaling, and the value that an export carries. Adds a note about each key that is
/// ignored or missing to `notes`.
fn scaling_of(
    parameters: &Map<String, Value>,
    config: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<(RopeScaling, Option<Value>)> {
    let reader = Reader(parameters);
    let kinds = [reader.text("rope_type")?, reader.text("type")?];
    let kind = match kinds {
        [Some(new), Some(old)] if new != old => {
            return Err(Error::argument(format!("rope_type is {new} and type is {old}; they must agree")));
        }
        [new, old] => new.or(old),
    };
    let number = |key: &str| reader.number(key)?.ok_or_else(|| missing(key));
    let kind = kind.as_deref().unwrap_or("default");
    let (scaling, carried, known): (_, _, &[&str]) = match kind {
        "default" => (RopeScaling::None, None, &[]),
        "linear" => (RopeScaling::Linear { factor: number("factor")? }, None, &["factor"]),
        // Up to max_position_embeddings, the longest sequence that is trained on, the frequencies
        // are not scaled.
        "dynamic" => {
            let factor = number("factor")?;
            RopeScaling::Linear { factor }.validate(1)?;
            (RopeScaling::None, Some(json!({ "rope_type": "dynamic", "factor": factor })), &["factor"])
        }
        "llama3" => (
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original_positions: original_positions(reader, Reader(config), notes)?,
            },
            None,
            &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL],
        ),
        other => {
            return Err(unsupported(format!(
                "rope_type is {other:?}; supported are default, linear, dynamic and llama3"
            )));
        }
    };
    for (key, value) in parameters {
        let whole = key == "partial_rotary_factor" && value.as_f64() == Some(1.0);
        let read =
            ["rope_theta", "rope_type", "type"].contains(&key.as_str()) || known.contains(&key.as_str());
        if read || whole || value.is_null() {
            continue;
        }
        // A factor of 1 has no effect with any type.
        let neutral = value.as_f64() == Some(1.0);
        if SCALING_KEYS.contains(&key.as_str()) && (known.is_empty() || neutral || key == ORIGINAL) {
            if !neutral {
                notes.push(format!("{key} has no effect with rope_type {kind}"));
            }
            continue;
        }
        return Err(unsupported(format!("{key} is {value}, but this rope_type has no such key")));
    }
    Ok((scaling, carried))
}

const ORIGINAL: &str = "original_max_position_embeddings";

/// The sequence length before scaling, from the parameters or, as transformers 5 reads it, from the
/// config around them, where `max_position_embeddings` takes its place (with a note).
fn original_positions(parameters: Reader, config: Reader, notes: &mut Vec<String>) -> Result<usize> {
    match (parameters.size(ORIGINAL)?, config.size(ORIGINAL)?) {
        (Some(inner), Some(outer)) if inner != outer => Err(Error::argument(format!(
            "{ORIGINAL} is {inner} here and {outer} in the config; transformers 4 uses the first, \
             transformers 5 the second: they must agree"
        ))),
        (Some(positions), _) | (None, Some(positions)) => Ok(positions),
        (None, None) => {
            let positions = config.size("max_position_embeddings")?.ok_or_else(|| missing(ORIGINAL))?;
            notes.push(format!(
                "{ORIGINAL} is missing: max_position_embeddings, {positions}, is used, as in transformers 5"
            ));
            Ok(positions)
        }
    }
}

/// Returns the value of `rope_scaling`, without `rope_theta`; both versions of transformers read
/// it.
pub fn scaling_json(model: &ModelConfig) -> Value {
    match model.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low, high, original_positions } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original_positions,
        }),
        RopeScaling::Yarn { .. } | RopeScaling::Long { .. } => todo!(),
    }
}
