//! The types of RoPE scaling.

use serde_json::{Map, Value, json};

use crate::base::{Error, Result, check_f32};
use crate::hf::config::keys::{Reader, missing};
use crate::hf::family::{Family, unsupported};
use crate::model::{ModelConfig, RopeScaling};
use crate::ops::QueryScaling;

pub const ORIGINAL: &str = "original_max_position_embeddings";
pub const BETA: &str = "llama_4_scaling_beta";

/// Keys that some types of scaling have. Type `default` has none and ignores them, as transformers
/// does; other types ignore a value of 1, and the original length.
const SCALING_KEYS: [&str; 14] = [
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "finetuned",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    ORIGINAL,
    "short_factor",
    "truncate",
];

/// The family and the config around parameters.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub family: &'a Family,
    pub config: Reader<'a>,
}

/// The parameters of a type.
#[derive(PartialEq)]
pub struct Parameters {
    pub scaling: RopeScaling,
    /// The value of `rope_scaling` for exports, where `scaling` does not describe it.
    pub carried: Option<Value>,
    pub queries: Option<QueryScaling>,
}

impl Surroundings<'_> {
    /// Reads one object of parameters, except the base and the rotating share. Adds a note about each
    /// key that is ignored or missing to `notes`.
    pub fn read(self, parameters: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Parameters> {
        let reader = Reader(parameters);
        let kinds = [reader.text("rope_type")?, reader.text("type")?];
        let kind = match kinds {
            [Some(new), Some(old)] if new != old => {
                return Err(Error::argument(format!(
                    "rope_type is {new} and type is {old}; they must agree"
                )));
            }
            [None, Some(old)] if self.family.rotary.windowed.is_some() && old != "default" => {
                return Err(unsupported(format!(
                    "type is {old} without rope_type: in {} transformers 4 scales frequencies by it, and \
                     transformers 5 does not; name the key rope_type, or remove it",
                    self.family.name
                )));
            }
            [new, old] => new.or(old),
        };
        let kind = kind.as_deref().unwrap_or("default");
        let rotary = &self.family.rotary;
        let supported: &[&str] = match (rotary.only_long, &rotary.windowed) {
            (Some(_), _) => &["default", "longrope"],
            (None, None) if !rotary.query_scaling => {
                &["default", "linear", "dynamic", "llama3", "yarn", "longrope"]
            }
            _ => &["default", "linear", "llama3", "yarn", "longrope"],
        };
        // The name of LongRoPE in Phi-3's first configs.
        let kind = if kind == "su" { "longrope" } else { kind };
        if !supported.contains(&kind) {
            return Err(unsupported(format!(
                "rope_type is {kind:?}; supported are {}",
                supported.join(", ")
            )));
        }
        let (scaling, known) = self.scaling(kind, reader, notes)?;
        let carried = match kind {
            "dynamic" => Some(json!({ "rope_type": kind, "factor": number(reader, "factor")? })),
            _ => None,
        };
        let queries = if rotary.query_scaling { Some(self.queries(reader, notes)?) } else { None };
        let mut known = known.to_vec();
        known.extend(["rope_theta", "rope_type", "type", "max_position_embeddings"]);
        known.extend(rotary.partial.map(|_| "partial_rotary_factor"));
        if rotary.query_scaling {
            known.extend([BETA, ORIGINAL]);
        }
        for (key, value) in
            parameters.iter().filter(|(key, value)| !known.contains(&&***key) && !value.is_null())
        {
            // A factor of 1 has no effect with any type.
            let neutral = value.as_f64() == Some(1.0);
            let is_default = kind == "default";
            if SCALING_KEYS.contains(&&**key) && (is_default || neutral || key == ORIGINAL) {
                if !neutral {
                    notes.push(format!("{key} has no effect with rope_type {kind}"));
                }
            } else if !(neutral && key == "partial_rotary_factor") {
                return Err(unsupported(format!("{key} is {value}, but this rope_type has no such key")));
            }
        }
        Ok(Parameters { scaling, carried, queries })
    }

    /// Reads the scaling of a supported type, and returns the keys of the type.
    fn scaling(
        self,
        kind: &str,
        reader: Reader,
        notes: &mut Vec<String>,
    ) -> Result<(RopeScaling, &'static [&'static str])> {
        Ok(match kind {
            "linear" => (RopeScaling::Linear { factor: number(reader, "factor")? }, &["factor"]),
            // Up to max_position_embeddings, the longest sequence that is trained on, the
            // frequencies are not scaled.
            "dynamic" => {
                RopeScaling::Linear { factor: number(reader, "factor")? }.validate(1)?;
                (RopeScaling::None, &["factor"])
            }
            "llama3" => (
                RopeScaling::Llama3 {
                    factor: number(reader, "factor")?,
                    low: number(reader, "low_freq_factor")?,
                    high: number(reader, "high_freq_factor")?,
                    original_positions: self.original_positions(reader, notes)?,
                },
                &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL],
            ),
            "yarn" => (
                self.yarn(reader, notes)?,
                &[
                    "attention_factor",
                    "beta_fast",
                    "beta_slow",
                    "factor",
                    "finetuned",
                    "mscale",
                    "mscale_all_dim",
                    ORIGINAL,
                    "truncate",
                ],
            ),
            "longrope" => (
                self.long(reader, notes)?,
                &["attention_factor", "factor", "long_factor", ORIGINAL, "short_factor"],
            ),
            _ => (RopeScaling::None, &[]),
        })
    }

    fn yarn(self, reader: Reader, notes: &mut Vec<String>) -> Result<RopeScaling> {
        let nonzero = |key| Ok::<_, Error>(reader.number(key)?.filter(|&number| number != 0.0));
        let factor = number(reader, "factor")?;
        let attention_factor = match (reader.number("attention_factor")?, nonzero("mscale")?) {
            (Some(stated), _) => stated,
            (None, Some(scale)) if nonzero("mscale_all_dim")?.is_some() => {
                yarn_attention(factor, scale) / yarn_attention(factor, number(reader, "mscale_all_dim")?)
            }
            _ => yarn_attention(factor, 1.0),
        };
        let truncate = reader.flag("truncate")?.unwrap_or(true);
        if !truncate && self.family.rotary.windowed.is_some() {
            // transformers 5 does not find this key where `rope_parameters` are nested.
            return Err(unsupported(format!(
                "truncate is false, which is not supported in {}",
                self.family.name
            )));
        }
        Ok(RopeScaling::Yarn {
            factor,
            fast: nonzero("beta_fast")?.unwrap_or(YARN_FAST),
            slow: nonzero("beta_slow")?.unwrap_or(YARN_SLOW),
            original_positions: self.original_positions(reader, notes)?,
            attention_factor,
            truncate,
        })
    }

    fn long(self, reader: Reader, notes: &mut Vec<String>) -> Result<RopeScaling> {
        let list = |key| reader.numbers(key)?.ok_or_else(|| missing(key));
        let original_positions = self.original_positions(reader, notes)?;
        if original_positions < 2 {
            return Err(Error::argument(format!(
                "{ORIGINAL} is {original_positions}; with longrope it must be at least 2"
            )));
        }
        let ratio = self.positions_max()? as f64 / original_positions as f64;
        let factor = reader.number("factor")?.unwrap_or(ratio);
        let stated = reader.number("attention_factor")?;
        Ok(RopeScaling::Long {
            short: list("short_factor")?,
            long: list("long_factor")?,
            original_positions,
            attention_factor: stated.unwrap_or_else(|| long_attention(factor, original_positions)),
        })
    }

    fn queries(self, reader: Reader, notes: &mut Vec<String>) -> Result<QueryScaling> {
        let beta = number(reader, BETA)?;
        check_f32(BETA, beta, 0.0)?;
        let positions = match reader.size(ORIGINAL)? {
            Some(positions) => positions,
            None => self.original_positions(reader, notes)?,
        };
        Ok(QueryScaling { beta: beta as f32, positions })
    }

    fn positions_max(self) -> Result<usize> {
        Ok(self.config.size("max_position_embeddings")?.unwrap_or(self.family.absent.positions_max))
    }

    /// The sequence length before scaling, from the parameters or, as transformers 5 reads it, from
    /// the config around them, where `max_position_embeddings` takes its place (with a note).
    fn original_positions(self, parameters: Reader, notes: &mut Vec<String>) -> Result<usize> {
        let outer = self.config.size(ORIGINAL)?.or(self.family.rotary.only_long);
        match (parameters.size(ORIGINAL)?, outer) {
            (Some(inner), Some(outer)) if inner != outer => Err(Error::argument(format!(
                "{ORIGINAL} is {inner} here and {outer} in the config; transformers 4 uses the first, \
                 transformers 5 the second: they must agree"
            ))),
            (None, Some(outer))
                if self.family.rotary.windowed.is_some() && outer != self.positions_max()? =>
            {
                Err(Error::argument(format!(
                    "{ORIGINAL} is missing here and {outer} in the config, where transformers 5 does not read \
                     it in {}; give it here",
                    self.family.name
                )))
            }
            (Some(positions), _) | (None, Some(positions)) => Ok(positions),
            (None, None) => {
                let positions = self.positions_max()?;
                let note = format!(
                    "{ORIGINAL} is missing: max_position_embeddings, {positions}, is used, as in transformers 5"
                );
                if !notes.contains(&note) {
                    notes.push(note);
                }
                Ok(positions)
            }
        }
    }
}

/// Defaults of `beta_fast` and `beta_slow`.
const YARN_FAST: f64 = 32.0;
const YARN_SLOW: f64 = 1.0;

fn number(reader: Reader, key: &str) -> Result<f64> {
    reader.number(key)?.ok_or_else(|| missing(key))
}

/// YaRN's factor of queries and keys.
fn yarn_attention(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// LongRoPE's factor of queries and keys.
fn long_attention(factor: f64, original_positions: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_positions as f64).ln()).sqrt() }
}

/// Returns the parameters of a scaling, without `rope_theta`, as both versions of transformers read
/// them; `None` without scaling.
pub fn json(family: &Family, model: &ModelConfig) -> Option<Map<String, Value>> {
    let mut json = match &model.rope.scaling {
        RopeScaling::None => return None,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low, high, original_positions } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            ORIGINAL: original_positions,
        }),
        RopeScaling::Yarn { factor, fast, slow, original_positions, attention_factor, truncate } => {
            let mut json = json!({
                "rope_type": "yarn",
                "factor": factor,
                "beta_fast": fast,
                "beta_slow": slow,
                ORIGINAL: original_positions,
            });
            if *attention_factor == 1.0 {
                // Programs that do not know `attention_factor` read these keys.
                json["mscale"] = 1.0.into();
                json["mscale_all_dim"] = 1.0.into();
            } else if *attention_factor != yarn_attention(*factor, 1.0) {
                json["attention_factor"] = (*attention_factor).into();
            }
            if !truncate {
                json["truncate"] = false.into();
            }
            json
        }
        RopeScaling::Long { short, long, original_positions, attention_factor } => {
            let mut json = json!({ "short_factor": short, "long_factor": long });
            // transformers 4 allows no other keys in Phi-3.
            if family.rotary.only_long.is_some() {
                json["type"] = "longrope".into();
            } else {
                json["rope_type"] = "longrope".into();
                json[ORIGINAL] = (*original_positions).into();
            }
            let ratio = model.positions_max as f64 / *original_positions as f64;
            if *attention_factor != long_attention(ratio, *original_positions) {
                json["attention_factor"] = (*attention_factor).into();
            }
            json
        }
    };
    json.as_object_mut().map(std::mem::take)
}
