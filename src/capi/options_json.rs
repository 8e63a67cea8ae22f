//! `hz_options_json`: the structs of the header, with types, defaults and limits of their fields,
//! and its enums, as JSON. All of it comes from `sized_struct!` and [`Enum`](super::enums::Enum).

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::capi::adam::{self, hz_adam_arrays_t, hz_adam_options_t};
use crate::capi::arena::{self, hz_arena_info_t, hz_arena_options_t};
use crate::capi::device::{DEVICES, hz_device_info_t};
use crate::capi::enums::Names;
use crate::capi::lane::LANES;
use crate::capi::log::LEVELS;
use crate::capi::model::{ACTIVATIONS, NORMS, ROPES, hz_model_config_t};
use crate::capi::options::{
    ADAM_TIMES, DTYPES, MODES, PINNINGS, PLACES, RECOMPUTES, hz_layer_placement_t, hz_trainer_options_t,
};
use crate::capi::plan::hz_plan_summary_t;
use crate::capi::progress::WORKS;
use crate::capi::sized::{Field, SizedStruct};
use crate::capi::status::{STATUSES, c_string};
use crate::capi::steps::{hz_batch_t, hz_eval_report_t, hz_step_report_t};
use crate::capi::trainer::hz_trainer_stats_t;
use crate::capi::weights::{hz_tensor_info_t, hz_tensor_options_t};
use crate::host::threads_max;

/// All enums of the header, in its order.
pub(super) static ENUMS: [&(dyn Names + Sync); 17] = [
    &STATUSES,
    &LEVELS,
    &DEVICES,
    &ROPES,
    &NORMS,
    &ACTIVATIONS,
    &MODES,
    &DTYPES,
    &ADAM_TIMES,
    &PINNINGS,
    &RECOMPUTES,
    &PLACES,
    &LANES,
    &WORKS,
    &adam::MODES,
    &arena::KINDS,
    &arena::PAGES,
];

/// The constants of an enum.
fn constants(names: &dyn Names) -> Value {
    let numbers = names.numbers().into_iter().map(|(name, number)| (name.to_owned(), number.into()));
    Value::Object(numbers.collect())
}

/// A number as a field's type writes it.
fn number(value: f64, kind: &str) -> Value {
    if kind == "double" { json!(value) } else { json!(value as i64) }
}

/// The unit of a field; the header defines these endings of names.
fn unit(field: &Field) -> Option<&'static str> {
    let endings = [("_bytes", "bytes"), ("_mem", "bytes"), ("_seconds", "seconds"), ("bytes", "bytes")];
    let named = endings.iter().find(|(ending, _)| field.name.ends_with(ending));
    field.values.unit.or(named.map(|(_, unit)| *unit))
}

fn describe(field: &Field, default: &Value) -> Value {
    let values = field.values;
    let mut described = Map::new();
    let mut set = |key: &str, value: Value| described.insert(key.to_owned(), value);
    set("name", json!(field.name));
    set("type", json!(values.names.map_or(field.kind, |names| names.name())));
    set("default", default.clone());
    if let Some(names) = values.names {
        set("values", constants(names));
    }
    let [min, max] = values.range;
    let most = if values.below { "below" } else { "max" };
    for (key, value) in [("min", min), (most, max), ("or", values.special)] {
        if let Some(value) = value {
            set(key, number(value, field.kind));
        }
    }
    if let Some(unit) = unit(field) {
        set("unit", json!(unit));
    }
    Value::Object(described)
}

/// The fields of a struct, `struct_size` excepted.
fn fields<T: SizedStruct>() -> (String, Value) {
    let defaults = T::defaults().json();
    let fields = T::FIELDS[1..].iter().zip(&defaults).map(|(field, default)| describe(field, default));
    (T::NAME.to_owned(), fields.collect())
}

fn options() -> Value {
    macro_rules! structs {
        ($($name:ident),* $(,)?) => { Value::Object(Map::from_iter([$(fields::<$name>()),*])) };
    }
    let structs = structs!(
        hz_model_config_t,
        hz_trainer_options_t,
        hz_layer_placement_t,
        hz_plan_summary_t,
        hz_tensor_info_t,
        hz_tensor_options_t,
        hz_batch_t,
        hz_step_report_t,
        hz_eval_report_t,
        hz_trainer_stats_t,
        hz_device_info_t,
        hz_adam_options_t,
        hz_adam_arrays_t,
        hz_arena_options_t,
        hz_arena_info_t,
    );
    let enums = ENUMS.iter().map(|names| (names.name().to_owned(), constants(*names)));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "structs": structs,
        "enums": Value::Object(enums.collect()),
        "machine": { "threads_max": threads_max() },
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_options_json() -> *const c_char {
    static JSON: OnceLock<CString> = OnceLock::new();
    JSON.get_or_init(|| c_string(&options().to_string())).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Result, Status};
    use crate::capi::adam::hz_adam_t;
    use crate::capi::arena::hz_arena_t;
    use crate::capi::device::device_choice;
    use crate::capi::model::model_config;
    use crate::capi::options::{DTYPES, layer_placement, trainer_options};
    use crate::capi::values::reserved;
    use crate::capi::weights::tensor_options;
    use crate::engine::Trainer;
    use crate::model::preset;

    /// A struct with one field set.
    fn with<T: SizedStruct>(mut value: T, field: &Field, number: f64) -> T {
        // SAFETY: by the contract of `SizedStruct` the field lies in the struct, has this type, and
        // any bits are valid for it.
        unsafe {
            let at = (&raw mut value).cast::<u8>().add(field.offset);
            match field.kind {
                "uint32_t" => at.cast::<u32>().write(number as u32),
                "uint64_t" => at.cast::<u64>().write(number as u64),
                "double" => at.cast::<f64>().write(number),
                kind => panic!("{} has limits, and the type {kind}", field.name),
            }
        }
        value
    }

    /// The next number on either side, as far as the field's type has it.
    fn neighbours(field: &Field, number: f64) -> [Option<f64>; 2] {
        match field.kind {
            // Some are used as f32.
            "double" => {
                let number = number as f32;
                [Some(number.next_down().into()), Some(number.next_up().into())]
            }
            _ => [(number > 0.0).then_some(number - 1.0), Some(number + 1.0)],
        }
    }

    /// Sets every field with limits to values at their ends and to every number of its enum, which
    /// `take` accepts, and to values beyond, which it refuses. `good` is a struct that it accepts.
    fn walk<T: SizedStruct>(good: T, take: impl Fn(&T) -> Result<()>) {
        let accepts = |field: &Field, number: f64, expected: bool| {
            let outcome = take(&with(good, field, number));
            // A device or a kind of pages may be missing here.
            let accepted =
                outcome.as_ref().err().is_none_or(|error| error.status() != Status::InvalidArgument);
            assert_eq!(accepted, expected, "{}.{} = {number}: {outcome:?}", T::NAME, field.name);
        };
        take(&good).unwrap();
        for field in &T::FIELDS[1..] {
            let values = field.values;
            if let Some(names) = values.names {
                let taken: Vec<u32> = names.numbers().into_iter().map(|(_, number)| number).collect();
                for number in 0..2 + taken[taken.len() - 1] {
                    accepts(field, number.into(), taken.contains(&number));
                }
            }
            let [min, max] = values.range;
            for (end, side) in [(min, 0), (max, 1)] {
                let Some(end) = end else { continue };
                let at = neighbours(field, end);
                let inside = if side == 1 && values.below { at[0].unwrap() } else { end };
                accepts(field, inside, true);
                let outside = if side == 1 && values.below { Some(end) } else { at[side] };
                if let Some(outside) = outside.filter(|value| values.special != Some(*value)) {
                    accepts(field, outside, false);
                }
            }
            values.special.into_iter().for_each(|special| accepts(field, special, true));
        }
    }

    #[test]
    fn limits_of_models_are_those_of_model_config() {
        let small = hz_model_config_t {
            hidden_size: 8,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 2,
            intermediate_size: 8,
            vocab_size: 8,
            num_hidden_layers: 1,
            max_position_embeddings: 8,
            rope_factor: 1.0,
            rope_low_freq_factor: 1.0,
            rope_high_freq_factor: 2.0,
            rope_original_positions: 1,
            rope_short_factor: [1.0; 128],
            rope_long_factor: [1.0; 128],
            ..hz_model_config_t::defaults()
        };
        walk(small, |raw| {
            // A divisor is at most as large.
            let num_attention_heads = raw.num_attention_heads.max(raw.num_key_value_heads);
            let heads = if raw.num_attention_heads == 0 { 0 } else { num_attention_heads };
            model_config(&hz_model_config_t { num_attention_heads: heads, ..*raw }).map(drop)
        });
    }

    #[test]
    fn limits_of_trainers_are_those_of_opening() {
        let config = preset("tiny").unwrap();
        let take = |raw: &hz_trainer_options_t| {
            // Each sweep needs a micro-batch.
            let micros_max = raw.micros_max.max(if raw.micros_max > 0 { raw.sweeps.into() } else { 0 });
            let options = trainer_options(&hz_trainer_options_t { micros_max, ..*raw }, config.dims.l)?;
            Trainer::plan_for(&config, &options).map(drop)
        };
        walk(
            hz_trainer_options_t { sequence_length: 1, clip: 0.0, ..hz_trainer_options_t::defaults() },
            take,
        );
        walk(hz_layer_placement_t::defaults(), |raw| layer_placement(raw, 0, 3).map(drop));
    }

    #[test]
    fn limits_of_the_other_options_are_those_of_their_functions() {
        walk(hz_tensor_options_t::defaults(), |raw| tensor_options(raw)?.check());
        walk(hz_adam_options_t { threads: 1, ..hz_adam_options_t::defaults() }, |raw| {
            hz_adam_t::open(raw).map(drop)
        });
        let arena = hz_arena_options_t { kind: 1, ..hz_arena_options_t::defaults() };
        walk(arena, |raw| hz_arena_t::open(raw, 4096).map(drop));
        walk(hz_batch_t::defaults(), |raw| reserved(raw.reserved, "reserved"));
        let arrays = hz_adam_arrays_t { gradient_dtype: 1, ..hz_adam_arrays_t::defaults() };
        walk(arrays, |raw| DTYPES.required(raw.gradient_dtype, "gradient_dtype").map(drop));
        walk(hz_device_info_t::defaults(), |raw| {
            device_choice(raw.kind, 0, "kind").and_then(|_| reserved(raw.reserved, "reserved"))
        });
    }
}
