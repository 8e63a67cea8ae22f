//! Properties of all layers: biases, the activation, and constant factors.

use serde_json::{Map, Value, json};

use crate::base::format::shortest;
use crate::base::{Dims, Error, Result, check_f32};
use crate::hf::config::keys::Reader;
use crate::hf::family::{
    AttentionBias, Factors, Family, QUERY_SCALAR_DEFAULT, inverse_root, query_scalar, root, unsupported,
};
use crate::model::{Biases, ModelConfig, Multipliers, SIZE_MAX};
use crate::ops::Activation;

pub fn biases(family: &Family, reader: Reader) -> Result<Biases> {
    let name = family.architecture;
    let stated = reader.flag("attention_bias")?;
    let (qkv, o) = match (family.attention_bias, stated) {
        (AttentionBias::Key, stated) => (stated.unwrap_or(false), stated.unwrap_or(false)),
        (AttentionBias::KeyOfQkv { absent }, stated) => (stated.unwrap_or(absent), false),
        (AttentionBias::Keys, stated) => {
            (stated.unwrap_or(true), reader.flag("attention_out_bias")?.unwrap_or(false))
        }
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

pub fn activation(family: &Family, reader: Reader) -> Result<Activation> {
    let (key, absent) = family.activation;
    Ok(match reader.text(key)?.as_deref() {
        None => absent,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_pytorch_tanh") => Activation::GeluTanh,
        Some(other) => {
            return Err(unsupported(format!("{key} is {other:?}; supported are silu and gelu_pytorch_tanh")));
        }
    })
}

pub fn multipliers(family: &Family, reader: Reader, dims: &Dims) -> Result<Multipliers> {
    let plain = Multipliers::default();
    Ok(match family.factors {
        Factors::Plain => plain,
        Factors::Gemma => {
            let scalar = reader.size("query_pre_attn_scalar")?.unwrap_or(QUERY_SCALAR_DEFAULT);
            if !(1..=SIZE_MAX).contains(&scalar) {
                return Err(Error::argument(format!(
                    "query_pre_attn_scalar is {scalar}; it must be 1 … {SIZE_MAX}"
                )));
            }
            let scores = (scalar != dims.d).then(|| inverse_root(scalar));
            Multipliers { embedding: root(dims.c), scores, ..plain }
        }
        Factors::Granite => {
            let factor = |key: &str| -> Result<f64> {
                let factor = reader.number(key)?.unwrap_or(1.0);
                check_f32(key, factor, 0.0)?;
                Ok(factor)
            };
            let scores = factor("attention_multiplier")? as f32;
            let divisor = factor("logits_scaling")?;
            if !((1.0 / divisor) as f32).is_finite() {
                return Err(Error::argument(format!(
                    "logits_scaling is {divisor}; logits are divided by it, so it must be above 0"
                )));
            }
            Multipliers {
                embedding: factor("embedding_multiplier")? as f32,
                residual: factor("residual_multiplier")? as f32,
                scores: (scores != 1.0 / (dims.d as f32).sqrt()).then_some(scores),
                logits: (1.0 / divisor) as f32,
            }
        }
    })
}

/// Adds the keys of biases, activation and factors.
pub fn write(family: &Family, model: &ModelConfig, keys: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    put(family.activation.0, model.activation.name().into());
    match family.attention_bias {
        AttentionBias::Never | AttentionBias::Qkv => {}
        AttentionBias::Key | AttentionBias::KeyOfQkv { .. } => {
            put("attention_bias", model.biases.qkv.into());
        }
        AttentionBias::Keys => {
            put("attention_bias", model.biases.qkv.into());
            put("attention_out_bias", model.biases.o.into());
        }
    }
    if family.mlp_bias {
        put("mlp_bias", model.biases.mlp.into());
    }
    let Multipliers { embedding, residual, scores, logits } = model.multipliers;
    match family.factors {
        Factors::Plain => {}
        Factors::Gemma => {
            put("query_pre_attn_scalar", json!(scores.and_then(query_scalar).unwrap_or(model.dims.d)));
        }
        Factors::Granite => {
            put("attention_multiplier", json!(shortest(model.score_scale())));
            put("embedding_multiplier", json!(shortest(embedding)));
            put("logits_scaling", json!(inverse(logits)));
            put("residual_multiplier", json!(shortest(residual)));
        }
    }
}

/// The shortest number whose inverse is `factor`.
fn inverse(factor: f32) -> f64 {
    let short = shortest(1.0 / factor);
    if (1.0 / short) as f32 == factor { short } else { 1.0 / f64::from(factor) }
}
