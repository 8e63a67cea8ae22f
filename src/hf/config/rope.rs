//! RoPE in configs: `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters`
//! (transformers 5), which some families nest by layer type.

mod scaling;

use serde_json::{Map, Value, json};

use crate::base::format::shortest;
use crate::base::{Dims, Error, Result};
use crate::hf::config::keys::Reader;
use crate::hf::config::layers::{FULL, SLIDING};
use crate::hf::family::{Family, Windowed, unsupported};
use crate::model::{ModelConfig, Rope, RopeScaling};
pub use scaling::ORIGINAL;
use scaling::{BETA, Parameters, Surroundings};

const PARTIAL: &str = "partial_rotary_factor";
const PARAMETERS: &str = "rope_parameters";

/// Reads RoPE from the keys of either version of transformers; and the value of `rope_scaling` for
/// exports, where the model does not describe it. All layers rotate in the result. Adds ignored keys
/// to `notes`.
pub fn read(
    family: &Family,
    keys: &Map<String, Value>,
    dims: &Dims,
    has_windows: bool,
    notes: &mut Vec<String>,
) -> Result<(Rope, Option<Value>)> {
    let config = Reader(keys);
    let surroundings = Surroundings { family, config };
    let (mut places, windowed) = places(family, keys)?;
    let absent = family.rotary.parameters.map(|text| serde_json::from_str(text).expect("a table's JSON"));
    if let Some(absent) = absent.as_ref().filter(|_| places.is_empty()) {
        places.push((format!("the default {PARAMETERS}"), absent));
    }
    let mut theta = config.number("rope_theta")?;
    let mut partial = config.number(PARTIAL)?.filter(|_| family.rotary.partial.is_some());
    let mut found: Option<Parameters> = None;
    for (name, stated) in places {
        let mut remarks = Vec::new();
        let parameters = surroundings.read(stated, &mut remarks).map_err(|error| error.within(&name))?;
        notes.extend(remarks.iter().map(|note| format!("{name}.{note}")));
        let nested = Reader(stated);
        theta = agreed("rope_theta", theta, &name, nested.number("rope_theta"))?;
        partial = agreed(PARTIAL, partial, &name, nested.number(PARTIAL))?;
        if found.as_ref().is_some_and(|found| *found != parameters) {
            return Err(Error::argument("rope_parameters and rope_scaling differ; they must agree"));
        }
        found = Some(parameters);
    }
    let windowed_theta = match &family.rotary.windowed {
        Some(own) => Some(windowed_theta(own, theta, windowed, surroundings)?),
        None => None,
    };
    let theta = theta.unwrap_or(family.rotary.theta);
    let Parameters { scaling, carried, queries } = match found {
        Some(found) => found,
        None => surroundings.read(&Map::new(), notes)?,
    };
    let differs = |own: &f64| has_windows && (*own != theta || scaling != RopeScaling::None);
    let rope = Rope {
        theta,
        windowed_theta: windowed_theta.filter(differs),
        rotated: rotated(partial.or(family.rotary.partial), dims.d)?,
        interleaved: family.rotary.interleaved,
        without: None,
        queries,
        scaling,
    };
    Ok((rope, carried))
}

/// An object of parameters with its name.
type Place<'a> = (String, &'a Map<String, Value>);

/// The parameters of layers without a window, and of those with one, if they have their own.
fn places<'a>(family: &Family, keys: &'a Map<String, Value>) -> Result<(Vec<Place<'a>>, Option<Place<'a>>)> {
    let (mut full, mut windowed) = (Vec::new(), None);
    for name in [PARAMETERS, "rope_scaling"] {
        let Some(parameters) = object(name, keys.get(name))? else { continue };
        if name != PARAMETERS || family.rotary.windowed.is_none() {
            full.push((name.to_owned(), parameters));
            continue;
        }
        for (kind, value) in parameters {
            let name = format!("{name}.{kind}");
            if ![FULL, SLIDING].contains(&kind.as_str()) {
                return Err(unsupported(format!(
                    "{name}: the rope_parameters of {} are those of {FULL} and {SLIDING}",
                    family.name
                )));
            }
            let Some(parameters) = object(&name, Some(value))? else { continue };
            if kind == FULL {
                full.push((name, parameters));
            } else {
                windowed = Some((name, parameters));
            }
        }
    }
    Ok((full, windowed))
}

fn object<'a>(name: &str, value: Option<&'a Value>) -> Result<Option<&'a Map<String, Value>>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(parameters)) => Ok(Some(parameters)),
        Some(other) => Err(unsupported(format!("{name} is {other}; it must be an object or null"))),
    }
}

/// The value of a key of the config that may also be nested.
fn agreed(key: &str, plain: Option<f64>, name: &str, nested: Result<Option<f64>>) -> Result<Option<f64>> {
    match (plain, nested.map_err(|error| error.within(name))?) {
        (Some(plain), Some(nested)) if plain != nested => {
            Err(Error::argument(format!("{key} is {plain} and {name}.{key} is {nested}; they must agree")))
        }
        (plain, nested) => Ok(plain.or(nested)),
    }
}

/// The base of layers with a window. `theta` is that of the others, if it is stated.
fn windowed_theta(
    own: &Windowed,
    theta: Option<f64>,
    stated: Option<Place>,
    surroundings: Surroundings,
) -> Result<f64> {
    let key = own.key.unwrap_or_default();
    let plain = surroundings.config.number(key)?;
    let Some((name, parameters)) = stated else {
        // transformers 4 has the base of all layers then, transformers 5 its default.
        if let (None, Some(theta)) = (own.key, theta.filter(|theta| *theta != own.theta)) {
            return Err(unsupported(format!(
                "rope_theta is {theta}, but transformers 5 has {} in layers with a window: state the rope_theta \
                 of both in {PARAMETERS}.{FULL} and {PARAMETERS}.{SLIDING}",
                own.theta
            )));
        }
        return Ok(plain.unwrap_or(own.theta));
    };
    let scaling =
        surroundings.read(parameters, &mut Vec::new()).map_err(|error| error.within(&name))?.scaling;
    if scaling != RopeScaling::None {
        return Err(unsupported(format!("{name} has RoPE scaling, which is supported in {FULL} alone")));
    }
    let nested = Reader(parameters).number("rope_theta").map_err(|error| error.within(&name))?;
    match (plain, nested) {
        (_, Some(nested)) if !(nested.is_finite() && nested > 0.0) => {
            Err(Error::argument(format!("{name}.rope_theta is {nested}; it must be finite, > 0")))
        }
        (Some(plain), Some(nested)) if plain != nested => Err(Error::argument(format!(
            "{key} is {plain} and {name}.rope_theta is {nested}; they must agree"
        ))),
        (plain, nested) => Ok(nested.or(plain).unwrap_or(own.theta)),
    }
}

/// The elements of a head of `d` that rotate; `None` means all.
fn rotated(partial: Option<f64>, d: usize) -> Result<Option<usize>> {
    let Some(share) = partial else { return Ok(None) };
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::argument(format!("{PARTIAL} is {share}; it must be above 0, at most 1")));
    }
    let rotated = (d as f64 * share) as usize;
    if rotated == 0 || !rotated.is_multiple_of(2) {
        return Err(Error::argument(format!(
            "{PARTIAL} is {share}, which makes {rotated} elements of a head of {d} rotate; their number must be \
             even, at least 2"
        )));
    }
    Ok(Some(rotated).filter(|&rotated| rotated != d))
}

/// The share of which [`rotated`] makes `r`.
fn share(r: usize, d: usize) -> f64 {
    let share = r as f64 / d as f64;
    if (d as f64 * share) as usize == r { share } else { (r as f64 + 0.5) / d as f64 }
}

/// Adds the keys of RoPE, except those of layers without it.
pub fn write(family: &Family, model: &ModelConfig, keys: &mut Map<String, Value>) {
    let (rope, rotary) = (&model.rope, &family.rotary);
    let scaling = scaling::json(family, model);
    let nested = |theta: f64, scaling: &Option<Map<String, Value>>| {
        let mut parameters = scaling.clone().unwrap_or_default();
        parameters.entry("rope_type").or_insert(json!("default"));
        parameters.insert("rope_theta".into(), theta.into());
        parameters
    };
    keys.insert("rope_theta".into(), rope.theta.into());
    if rotary.parameters.is_none() {
        keys.insert("rope_scaling".into(), json!(scaling));
    } else {
        let mut parameters = nested(rope.theta, &scaling);
        if let Some(queries) = rope.queries {
            parameters.insert(BETA.into(), shortest(queries.beta).into());
            parameters.insert(ORIGINAL.into(), queries.positions.into());
        }
        keys.insert(PARAMETERS.into(), parameters.into());
    }
    if let Some(own) = &rotary.windowed {
        let theta = match rope.windowed_theta {
            Some(theta) => theta,
            None if model.window.is_some() => rope.theta,
            None => own.theta,
        };
        let parameters = json!({ FULL: nested(rope.theta, &scaling), SLIDING: nested(theta, &None) });
        keys.insert(PARAMETERS.into(), parameters);
        keys.extend(own.key.map(|key| (key.to_owned(), theta.into())));
    }
    if rotary.partial.is_some() {
        let d = model.dims.d;
        keys.insert(PARTIAL.into(), share(rope.rotating(d), d).into());
    }
    if let RopeScaling::Long { original_positions, .. } = rope.scaling {
        keys.insert(ORIGINAL.into(), original_positions.into());
    }
}
