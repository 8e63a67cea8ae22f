//! `hz_trainer_options_t` and `hz_layer_placement_t`. Errors name the field.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::{DType, Error, Result, Shape};
use crate::capi::argument::Text;
use crate::capi::device::{DEVICES, device_choice, device_numbers};
use crate::capi::enums::{Enum, Stated};
use crate::capi::log;
use crate::capi::sized::{In, SizedStruct, sized_struct};
use crate::capi::values::{Values, chosen_size, flag, reserved, size};
use crate::engine::{AdamOptions, DeviceChoice, TrainerOptions};
use crate::host::{Limits, Pinning};
use crate::optim::EPS_MIN;
use crate::plan::Fixed;
use crate::schedule::{
    Accumulator, AdamWhen, Boundary, COUNT_MAX, GradWait, LayerPlacement, Mode, Recompute,
};

sized_struct! {
    hz_trainer_options_t, hz_trainer_options_init {
        device: u32 = DEVICES.number(DeviceChoice::Auto) => Values::of(&DEVICES),
        mode: u32 = MODES.number(TrainerOptions::default().mode) => Values::of(&MODES),
        grad_dtype: u32 = DTYPES.number(Some(TrainerOptions::default().grad_dtype)) => Values::of(&STATED_DTYPES),
        adam_when: u32 = ADAM_TIMES.number(None) => Values::of(&ADAM_TIMES),
        tracing: u32 = 0 => Values::FLAG,
        device_index: u32 = 0,
        pinning: u32 = PINNINGS.number(TrainerOptions::default().pinning) => Values::of(&PINNINGS),
        sequences: u64 = TrainerOptions::default().shape.b as u64 => Values::at_least(1.0),
        sequence_length: u64 = TrainerOptions::default().shape.t as u64 => Values::at_least(1.0).unit("tokens"),
        micros_max: u64 = TrainerOptions::default().micros_max as u64 => Values::between(1.0, COUNT_MAX as f64),
        logits_chunk: u64 = 0 => Values::ANY.unit("rows"),
        weight_slots: u64 = 0 => Values::between(2.0, COUNT_MAX as f64).or(0.0),
        slabs: u64 = 0 => Values::between(2.0, COUNT_MAX as f64).or(0.0),
        device_mem: u64 = 0,
        host_mem: u64 = 0,
        threads: u64 = 0,
        beta1: f64 = AdamOptions::default().beta1 => BETA,
        beta2: f64 = AdamOptions::default().beta2 => BETA,
        eps: f64 = AdamOptions::default().eps => EPS,
        weight_decay: f64 = AdamOptions::default().weight_decay => Values::f32_at_least(0.0),
        clip: f64 = TrainerOptions::default().clip => Values::f32_at_least(0.0),
        grad_place: u32 = PLACES.number(None) => Values::of(&PLACES),
        sweeps: u32 = 0 => Values::between(0.0, COUNT_MAX as f64),
        layers: In<hz_layer_placement_t> = In::NULL,
        layers_count: u64 = 0,
        gemm_table: Text = Text::NULL,
        measuring: u32 = 0 => Values::FLAG,
        reserved: u32 = 0 => Values::RESERVED,
    }
}

sized_struct! {
    hz_layer_placement_t, hz_layer_placement_init {
        recompute: u32 = RECOMPUTES.number(LayerPlacement::default().recompute) => Values::of(&RECOMPUTES),
        boundary: u32 = PLACES.number(None) => Values::of(&PLACES),
        resident: u32 = 0 => Values::FLAG,
        accumulator: u32 = PLACES.number(None) => Values::of(&PLACES),
        reserved: u32 = 0 => Values::RESERVED,
        first: u64 = 0,
        count: u64 = 0,
    }
}

/// `HZ_MODE_*`.
pub(super) static MODES: Enum<Mode> = Enum {
    name: "hz_mode_t",
    constants: &[
        (c"HZ_MODE_EXACT", 1, Mode::Exact),
        (c"HZ_MODE_STREAMED", 2, Mode::Streamed),
        (c"HZ_MODE_COMPACT", 3, Mode::Compact),
    ],
};

/// `HZ_DTYPE_*`.
pub(super) static DTYPES: Enum<Option<DType>> = Enum {
    name: "hz_dtype_t",
    constants: &[
        (c"HZ_DTYPE_UNSET", 0, None),
        (c"HZ_DTYPE_BF16", 1, Some(DType::Bf16)),
        (c"HZ_DTYPE_F32", 2, Some(DType::F32)),
    ],
};

/// `HZ_DTYPE_*` except `HZ_DTYPE_UNSET`.
pub(super) static STATED_DTYPES: Stated<DType> = Stated(&DTYPES);

/// `HZ_ADAM_WHEN_*`.
pub(super) static ADAM_TIMES: Enum<Option<AdamWhen>> = Enum {
    name: "hz_adam_when_t",
    constants: &[
        (c"HZ_ADAM_WHEN_AUTO", 0, None),
        (c"HZ_ADAM_WHEN_AFTER_NORM", 1, Some(AdamWhen::AfterNorm)),
        (c"HZ_ADAM_WHEN_UNDER_BACKWARD", 2, Some(AdamWhen::UnderBackward)),
    ],
};

/// `HZ_PINNING_*`.
pub(super) static PINNINGS: Enum<Pinning> = Enum {
    name: "hz_pinning_t",
    constants: &[
        (c"HZ_PINNING_REGISTERED", 0, Pinning::Registered),
        (c"HZ_PINNING_ALLOCATED", 1, Pinning::Allocated),
    ],
};

/// `HZ_RECOMPUTE_*`.
pub(super) static RECOMPUTES: Enum<Recompute> = Enum {
    name: "hz_recompute_t",
    constants: &[
        (c"HZ_RECOMPUTE_FULL", 1, Recompute::Full),
        (c"HZ_RECOMPUTE_SELECTIVE", 2, Recompute::Selective),
        (c"HZ_RECOMPUTE_NONE", 3, Recompute::None),
        (c"HZ_RECOMPUTE_LINEARS", 4, Recompute::Linears),
        (c"HZ_RECOMPUTE_MLP", 5, Recompute::Mlp),
    ],
};

/// `HZ_PLACE_*`.
pub(super) static PLACES: Enum<Option<Side>> = Enum {
    name: "hz_place_t",
    constants: &[
        (c"HZ_PLACE_AUTO", 0, None),
        (c"HZ_PLACE_HOST", 1, Some(Side::Host)),
        (c"HZ_PLACE_DEVICE", 2, Some(Side::Device)),
    ],
};

/// The memory that holds something.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Host,
    Device,
}

/// Decays of AdamW's moments.
pub(super) const BETA: Values = Values::below(0.0, 1.0);

/// The eps of AdamW, which is positive as an f32.
pub(super) const EPS: Values = Values::f32_at_least(EPS_MIN);

/// The memory limits; logs a warning if `host_mem` exceeds what the machine reports.
pub(super) fn limits(stated: Option<usize>) -> Limits {
    let limits = Limits::read(stated);
    if let Some(warning) = limits.warning() {
        log::warning(warning);
    }
    limits
}

/// The value for an `HZ_PLACE_*`; `None` for `HZ_PLACE_AUTO`.
fn place<T>(number: u32, field: &str, host: T, device: T) -> Result<Option<T>> {
    Ok(PLACES.value(number, field)?.map(|side| match side {
        Side::Host => host,
        Side::Device => device,
    }))
}

/// The placement of each layer up to the last one named. Later elements override earlier ones.
fn layer_placements(
    given: In<hz_layer_placement_t>,
    count: u64,
    layers: usize,
) -> Result<Vec<LayerPlacement>> {
    let mut placements = Vec::new();
    let count = size(count, "layers_count")?;
    if count == 0 {
        return Ok(placements);
    }
    for (index, raw) in given.read_all(count, "layers")?.into_iter().enumerate() {
        let (range, placement) = layer_placement(&raw, index, layers)?;
        placements.resize(placements.len().max(range.end), LayerPlacement::default());
        placements[range].fill(placement);
    }
    Ok(placements)
}

/// The layers that element `index` names, and their placement.
pub(super) fn layer_placement(
    raw: &hz_layer_placement_t,
    index: usize,
    layers: usize,
) -> Result<(Range<usize>, LayerPlacement)> {
    let field = |name: &str| format!("layers[{index}].{name}");
    reserved(raw.reserved, &field("reserved"))?;
    let first = size(raw.first, &field("first"))?;
    let end = match chosen_size(raw.count, &field("count"))? {
        Some(count) => first.saturating_add(count),
        None => layers,
    };
    if first >= end || end > layers {
        return Err(Error::argument(format!(
            "layers[{index}].first is {first} and layers[{index}].count is {}; layers first .. first+count-1 must be in \
             0 .. {} (num_hidden_layers - 1)",
            raw.count,
            layers - 1
        )));
    }
    let auto = LayerPlacement::default();
    let placement = LayerPlacement {
        recompute: RECOMPUTES.value(raw.recompute, &field("recompute"))?,
        boundary: place(raw.boundary, &field("boundary"), Boundary::Spilled, Boundary::Kept)?
            .unwrap_or(auto.boundary),
        resident: flag(raw.resident, &field("resident"))?,
        accumulator: place(
            raw.accumulator,
            &field("accumulator"),
            Accumulator::Spilled,
            Accumulator::OnDevice,
        )?
        .unwrap_or(auto.accumulator),
    };
    Ok((first..end, placement))
}

/// The place where gradients wait; `None` for `HZ_PLACE_AUTO`.
fn grad_wait(raw: &hz_trainer_options_t) -> Result<Option<GradWait>> {
    place(raw.grad_place, "grad_place", GradWait::Host, GradWait::Device)
}

/// The options for a model with `layers` layers.
pub fn trainer_options(raw: &hz_trainer_options_t, layers: usize) -> Result<TrainerOptions> {
    let defaults = TrainerOptions::default();
    reserved(raw.reserved, "reserved")?;
    Ok(TrainerOptions {
        device: device_choice(raw.device, raw.device_index, "device")?,
        pinning: PINNINGS.value(raw.pinning, "pinning")?,
        mode: MODES.value(raw.mode, "mode")?,
        grad_dtype: DTYPES.required(raw.grad_dtype, "grad_dtype")?,
        shape: Shape {
            b: size(raw.sequences, "sequences")?,
            t: size(raw.sequence_length, "sequence_length")?,
        },
        micros_max: size(raw.micros_max, "micros_max")?,
        logits_chunk: chosen_size(raw.logits_chunk, "logits_chunk")?,
        weight_slots: chosen_size(raw.weight_slots, "weight_slots")?.unwrap_or(defaults.weight_slots),
        slabs: chosen_size(raw.slabs, "slabs")?.unwrap_or(defaults.slabs),
        adam_when: ADAM_TIMES.value(raw.adam_when, "adam_when")?,
        device_mem: chosen_size(raw.device_mem, "device_mem")?,
        host_mem: chosen_size(raw.host_mem, "host_mem")?,
        threads: chosen_size(raw.threads, "threads")?,
        adam: AdamOptions {
            beta1: raw.beta1,
            beta2: raw.beta2,
            eps: raw.eps,
            weight_decay: raw.weight_decay,
        },
        clip: raw.clip,
        tracing: flag(raw.tracing, "tracing")?,
        measuring: flag(raw.measuring, "measuring")?,
        grad_wait: grad_wait(raw)?.unwrap_or(GradWait::Host),
        sweeps: raw.sweeps.max(1) as usize,
        layers: layer_placements(raw.layers, raw.layers_count, layers)?,
        gemm_table: raw.gemm_table.optional_path("gemm_table")?.map(Path::to_owned),
    })
}

impl hz_trainer_options_t {
    /// The numbers of options: the inverse of [`trainer_options`]. Pointers are NULL.
    fn of(options: &TrainerOptions) -> Self {
        let (device, device_index) = device_numbers(options.device);
        let most = |value: Option<usize>| value.unwrap_or(0) as u64;
        hz_trainer_options_t {
            device,
            device_index,
            mode: MODES.number(options.mode),
            grad_dtype: DTYPES.number(Some(options.grad_dtype)),
            adam_when: ADAM_TIMES.number(options.adam_when),
            tracing: options.tracing.into(),
            pinning: PINNINGS.number(options.pinning),
            sequences: options.shape.b as u64,
            sequence_length: options.shape.t as u64,
            micros_max: options.micros_max as u64,
            logits_chunk: most(options.logits_chunk),
            weight_slots: options.weight_slots as u64,
            slabs: options.slabs as u64,
            device_mem: most(options.device_mem),
            host_mem: most(options.host_mem),
            threads: most(options.threads),
            beta1: options.adam.beta1,
            beta2: options.adam.beta2,
            eps: options.adam.eps,
            weight_decay: options.adam.weight_decay,
            clip: options.clip,
            grad_place: side(options.grad_wait == GradWait::Device),
            sweeps: options.sweeps as u32,
            layers_count: hz_layer_placement_t::runs(&options.layers).count() as u64,
            measuring: options.measuring.into(),
            ..hz_trainer_options_t::defaults()
        }
    }
}

impl hz_layer_placement_t {
    /// Runs of equally placed layers.
    fn runs(layers: &[LayerPlacement]) -> impl Iterator<Item = Self> {
        layers.chunk_by(|one, other| one == other).scan(0, |first, run| {
            let LayerPlacement { recompute, boundary, resident, accumulator } = run[0];
            let placement = hz_layer_placement_t {
                recompute: RECOMPUTES.number(recompute),
                boundary: side(boundary == Boundary::Kept),
                resident: resident.into(),
                accumulator: side(accumulator == Accumulator::OnDevice),
                first: *first,
                count: run.len() as u64,
                ..hz_layer_placement_t::defaults()
            };
            *first += placement.count;
            Some(placement)
        })
    }
}

/// `HZ_PLACE_DEVICE` or `HZ_PLACE_HOST`.
fn side(on_device: bool) -> u32 {
    PLACES.number(Some(if on_device { Side::Device } else { Side::Host }))
}

/// The fields of an `hz_trainer_options_t` as JSON; for its pointers the layers, and the name of
/// the file or null.
pub(super) fn options_json(options: &TrainerOptions) -> Map<String, Value> {
    let mut json: Map<String, Value> = hz_trainer_options_t::of(options).named().collect();
    let layers = hz_layer_placement_t::runs(&options.layers);
    json["layers"] = layers.map(|layer| Value::Object(layer.named().collect())).collect();
    json["gemm_table"] = json!(options.gemm_table.as_ref().map(|path| path.to_string_lossy()));
    json
}

/// Options as lines, `field = value`, with the names of the header.
pub(super) fn options_lines(options: &TrainerOptions) -> Vec<String> {
    let mut lines = hz_trainer_options_t::of(options).assignments();
    for (index, layer) in hz_layer_placement_t::runs(&options.layers).enumerate() {
        lines.push(format!("layers[{index}]: {}", layer.assignments().join(", ")));
    }
    lines.extend(options.gemm_table.as_ref().map(|path| format!("gemm_table = {}", path.display())));
    lines
}

/// The part of the placement that the options fix for a model with `layers` layers; a plan search
/// chooses the rest. `options` is the result of [`trainer_options`].
pub fn fixed(raw: &hz_trainer_options_t, options: &TrainerOptions, layers: usize) -> Result<Fixed> {
    let mut fixed = Fixed {
        weight_slots: chosen_size(raw.weight_slots, "weight_slots")?,
        slabs: chosen_size(raw.slabs, "slabs")?,
        sweeps: chosen_size(raw.sweeps.into(), "sweeps")?,
        grad_wait: grad_wait(raw)?,
        adam: options.adam_when,
        ..Fixed::default()
    };
    if raw.layers_count > 0 {
        fixed.place(options.placements(layers));
    }
    Ok(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_engine() {
        // Except the device: C programs get the best one.
        let engine = TrainerOptions { device: DeviceChoice::Auto, ..TrainerOptions::default() };
        let engine = format!("{engine:?}");
        assert_eq!(format!("{:?}", trainer_options(&hz_trainer_options_t::defaults(), 3).unwrap()), engine);
    }

    #[test]
    fn options_in_c_are_those_of_the_engine() {
        let raw = hz_trainer_options_t {
            device: 2,
            mode: 3,
            grad_dtype: 2,
            adam_when: 2,
            tracing: 1,
            device_index: 1,
            pinning: 1,
            sequences: 2,
            sequence_length: 3,
            micros_max: 4,
            logits_chunk: 5,
            weight_slots: 6,
            slabs: 7,
            device_mem: 8,
            host_mem: 9,
            threads: 10,
            beta1: 0.1,
            beta2: 0.2,
            eps: 0.3,
            weight_decay: 0.4,
            clip: 0.5,
            grad_place: 2,
            sweeps: 11,
            measuring: 1,
            ..hz_trainer_options_t::defaults()
        };
        let mut options = trainer_options(&raw, 3).unwrap();
        assert_eq!(hz_trainer_options_t::of(&options), raw);

        let layers = [(3, 2, 1, 2, 0, 2), (1, 1, 0, 1, 2, 1)].map(
            |(recompute, boundary, resident, accumulator, first, count)| hz_layer_placement_t {
                recompute,
                boundary,
                resident,
                accumulator,
                first,
                count,
                ..hz_layer_placement_t::defaults()
            },
        );
        for raw in &layers {
            let (range, layer) = layer_placement(raw, 0, 3).unwrap();
            options.layers.extend(range.map(|_| layer));
        }
        assert_eq!(hz_layer_placement_t::runs(&options.layers).collect::<Vec<_>>(), layers);
        let json = options_json(&options);
        assert_eq!((&json["layers_count"], &json["layers"][1]["first"]), (&json!(2), &json!(2)));
        let lines = options_lines(&options);
        for line in ["mode = HZ_MODE_COMPACT", "sweeps = 11", "layers_count = 2"] {
            assert!(lines.iter().any(|listed| listed == line), "no {line} in {lines:?}");
        }
        assert!(lines[lines.len() - 1].starts_with("layers[1]: recompute = HZ_RECOMPUTE_FULL, boundary = "));
    }

    #[test]
    fn errors_of_unknown_numbers_name_the_field() {
        let good = hz_trainer_options_t::defaults();
        let cases = [
            ("device", hz_trainer_options_t { device: 3, ..good }),
            ("pinning", hz_trainer_options_t { pinning: 2, ..good }),
            ("mode", hz_trainer_options_t { mode: 0, ..good }),
            ("grad_dtype", hz_trainer_options_t { grad_dtype: 3, ..good }),
            ("adam_when", hz_trainer_options_t { adam_when: 3, ..good }),
            ("tracing", hz_trainer_options_t { tracing: 2, ..good }),
            ("grad_place", hz_trainer_options_t { grad_place: 3, ..good }),
            ("layers", hz_trainer_options_t { layers_count: 1, ..good }),
        ];
        for (field, raw) in cases {
            let error = trainer_options(&raw, 3).unwrap_err();
            assert!(error.message().contains(field), "{field}: {error}");
        }
    }
}
