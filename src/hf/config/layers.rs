//! Layers that differ: sliding windows, and layers without rotary positions (NoPE).

use serde_json::{Map, Value, json};

use crate::base::{Error, Result};
use crate::hf::config::keys::Reader;
use crate::hf::family::{Family, Pattern, WINDOW_LAYERS_DEFAULT, Windows, WithoutRope, unsupported};
use crate::model::{ModelConfig, Window};

/// Entries of `layer_types`.
pub const FULL: &str = "full_attention";
pub const SLIDING: &str = "sliding_attention";

/// The layers that differ from others.
#[derive(Default)]
pub struct Layers {
    /// `None` if no layer has a window.
    pub window: Option<Window>,
    /// `None` if all layers have rotary positions.
    pub without_rope: Option<Vec<bool>>,
}

/// Reads the layers that differ, of `l` layers.
pub fn read(family: &Family, reader: Reader, l: usize) -> Result<Layers> {
    let types = layer_types(reader, l)?;
    let listed = match family.rotary.without {
        WithoutRope::Listed => no_rope_layers(reader, l)?,
        WithoutRope::Never | WithoutRope::Full => vec![false; l],
    };
    let (size, layers) = windows(family, reader, types.as_deref(), &listed)?;
    let without = match family.rotary.without {
        WithoutRope::Full if size.is_some() => layers.iter().map(|holds| !holds).collect(),
        _ => listed,
    };
    if types.is_some_and(|types| types != layers) {
        return Err(unsupported(format!(
            "layer_types contradicts the sliding window that {} would use; they must agree",
            family.architecture
        )));
    }
    let window = match size {
        Some(size) if layers.contains(&true) => Some(Window { size, layers }),
        None if layers.contains(&true) => {
            let switch = match family.windows {
                Windows::Switched { .. } => "use_sliding_window to true and ",
                _ => "",
            };
            return Err(Error::argument(format!(
                "layer_types has {SLIDING}, but there is no window; set {switch}sliding_window to a number"
            )));
        }
        _ => None,
    };
    Ok(Layers { window, without_rope: without.contains(&true).then_some(without) })
}

/// The size of the window, and the layers that have it by the family's rule.
fn windows(
    family: &Family,
    reader: Reader,
    types: Option<&[bool]>,
    without_rope: &[bool],
) -> Result<(Option<usize>, Vec<bool>)> {
    let (name, l) = (family.architecture, without_rope.len());
    let switch = reader.flag("use_sliding_window")?;
    let chosen = |layers: Vec<bool>| types.map_or(layers, <[bool]>::to_vec);
    let size = |absent| reader.size_or("sliding_window", absent);
    Ok(match family.windows {
        Windows::Never => {
            if let Some(size) = size(None)?.filter(|_| switch != Some(false)) {
                return Err(unsupported(format!(
                    "sliding_window is {size}, but {name} does not support a sliding window"
                )));
            }
            (None, vec![false; l])
        }
        Windows::Every { absent } => {
            let size = size(absent)?;
            refuse_switched_off(name, size, switch)?;
            (size, vec![size.is_some(); l])
        }
        Windows::Switched { absent, pattern } => {
            let size = size(absent)?.filter(|_| switch == Some(true));
            let from = reader.size("max_window_layers")?.unwrap_or(WINDOW_LAYERS_DEFAULT);
            let holds = |layer| match pattern {
                Pattern::Last => layer >= from,
                Pattern::WithoutRope => without_rope[layer],
            };
            (size, chosen((0..l).map(|layer| size.is_some() && holds(layer)).collect()))
        }
        Windows::Periodic { absent, period, full, key } => {
            let size = size(Some(absent))?;
            refuse_switched_off(name, size, switch)?;
            let period = match types {
                // `sliding_window_pattern` has no effect, and may be a text.
                None if key => reader.size("sliding_window_pattern")?.unwrap_or(period),
                _ => period,
            };
            if period == 0 {
                return Err(Error::argument("sliding_window_pattern is 0; it must be at least 1"));
            }
            let full = if full == 0 { 0 } else { period - 1 };
            (size, chosen((0..l).map(|layer| size.is_some() && layer % period != full).collect()))
        }
    })
}

fn refuse_switched_off(name: &str, size: Option<usize>, switch: Option<bool>) -> Result<()> {
    match (size, switch) {
        (Some(size), Some(false)) => Err(unsupported(format!(
            "use_sliding_window is false, but {name} ignores this key and would use sliding_window {size}; set \
             sliding_window to null, or remove use_sliding_window"
        ))),
        _ => Ok(()),
    }
}

fn layer_types(reader: Reader, l: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = reader.texts("layer_types")? else { return Ok(None) };
    let types = types.iter().map(|kind| layer_type(kind)).collect::<Result<Vec<_>>>()?;
    if types.len() != l {
        return Err(Error::argument(format!(
            "layer_types has {} entries, but num_hidden_layers is {l}; they must agree",
            types.len()
        )));
    }
    Ok(Some(types))
}

fn layer_type(kind: &str) -> Result<bool> {
    match kind {
        FULL => Ok(false),
        SLIDING => Ok(true),
        other => Err(unsupported(format!("layer_types has {other:?}; supported are {FULL} and {SLIDING}"))),
    }
}

/// The layers without rotary positions, by the keys of SmolLM3. A list may be longer than needed.
fn no_rope_layers(reader: Reader, l: usize) -> Result<Vec<bool>> {
    if let Some(rotate) = reader.flags("no_rope_layers")? {
        if rotate.len() < l {
            return Err(Error::argument(format!(
                "no_rope_layers has {} entries, but num_hidden_layers is {l}",
                rotate.len()
            )));
        }
        return Ok(rotate[..l].iter().map(|rotates| !rotates).collect());
    }
    match reader.size("no_rope_layer_interval")?.unwrap_or(4) {
        0 => Err(Error::argument("no_rope_layer_interval is 0; it must be at least 1")),
        interval => Ok((1..=l).map(|layer| layer.is_multiple_of(interval)).collect()),
    }
}

/// Adds the keys of the layers that differ.
pub fn write(family: &Family, model: &ModelConfig, keys: &mut Map<String, Value>) {
    let l = model.dims.l;
    if family.rotary.without == WithoutRope::Listed {
        let rotate: Vec<_> = (0..l).map(|layer| u8::from(model.rope.rotates(layer))).collect();
        keys.insert("no_rope_layers".into(), json!(rotate));
    }
    let size = model.window.as_ref().map(|window| window.size);
    let size = match family.windows {
        Windows::Never => return,
        Windows::Every { .. } | Windows::Switched { .. } => size,
        // A number means that layers without a window have no rotary positions.
        Windows::Periodic { absent, .. } if family.rotary.without == WithoutRope::Full => {
            size.or(model.rope.without.as_ref().map(|_| absent))
        }
        // transformers makes a mask with the window even if no layer has one.
        Windows::Periodic { absent, .. } => Some(size.unwrap_or(absent)),
    };
    keys.insert("sliding_window".into(), json!(size));
    if matches!(family.windows, Windows::Every { .. }) {
        return;
    }
    let layers = model.window.as_ref().map_or(vec![false; l], |window| window.layers.clone());
    let types: Vec<_> = layers.iter().map(|&holds| if holds { SLIDING } else { FULL }).collect();
    keys.insert("layer_types".into(), json!(types));
    if let Windows::Switched { pattern, .. } = family.windows {
        keys.insert("use_sliding_window".into(), model.window.is_some().into());
        if pattern == Pattern::Last {
            // Versions of transformers that do not read `layer_types` use the window in the last
            // layers.
            let last = layers.iter().rev().take_while(|&&holds| holds).count();
            keys.insert("max_window_layers".into(), json!(l - last));
        }
    }
}
