//! RoPE in configs: `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters`
//! (transformers 5).

use serde_json::{Map, Value, json};

use crate::base::{Error, Result};
use crate::hf::config::keys::{Reader, missing};
use crate::hf::family::unsupported;
use crate::model::{ModelConfig, RopeScaling};

const THETA_DEFAULT: f64 = 10_000.0;

/// Reads the base of the rotary frequencies and their scaling from the keys of either version of
/// transformers.
pub fn read(keys: &Map<String, Value>) -> Result<(f64, RopeScaling)> {
    let mut theta = Reader(keys).number("rope_theta")?;
    let mut scaling = None;
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
        let found = scaling_of(parameters).map_err(|error| error.within(name))?;
        if scaling.is_some_and(|scaling| scaling != found) {
            return Err(Error::argument("rope_parameters and rope_scaling differ; they must agree"));
        }
        scaling = Some(found);
    }
    Ok((theta.unwrap_or(THETA_DEFAULT), scaling.unwrap_or_default()))
}

fn scaling_of(parameters: &Map<String, Value>) -> Result<RopeScaling> {
    let reader = Reader(parameters);
    let kinds = [reader.text("rope_type")?, reader.text("type")?];
    let kind = match kinds {
        [Some(new), Some(old)] if new != old => {
            return Err(Error::argument(format!("rope_type is {new} and type is {old}; they must agree")));
        }
        [new, old] => new.or(old),
    };
    let number = |key: &str| reader.number(key)?.ok_or_else(|| missing(key));
    let (scaling, known): (_, &[&str]) = match kind.as_deref() {
        None | Some("default") => (RopeScaling::None, &[]),
        Some("linear") => (RopeScaling::Linear { factor: number("factor")? }, &["factor"]),
        Some("llama3") => (
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original_positions: reader.required("original_max_position_embeddings")?,
            },
            &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        ),
        Some(other) => {
            return Err(unsupported(format!(
                "rope_type is {other:?}; supported are default, linear and llama3"
            )));
        }
    };
    for (key, value) in parameters {
        let whole = key == "partial_rotary_factor" && value.as_f64() == Some(1.0);
        let read =
            ["rope_theta", "rope_type", "type"].contains(&key.as_str()) || known.contains(&key.as_str());
        if !(read || whole || value.is_null()) {
            return Err(unsupported(format!("{key} is {value}, but this rope_type has no such key")));
        }
    }
    Ok(scaling)
}

/// Returns the value of `rope_scaling`, without `rope_theta`; both versions of transformers read
/// it.
pub fn scaling_json(model: &ModelConfig) -> Value {
    match model.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low, high, original_positions } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original_positions,
        }),
    }
}
