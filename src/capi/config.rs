//! The structs of the header and their conversion to Rust values. Errors name the field.

use std::ops::Range;
use std::path::Path;
use std::thread;

use crate::base::{DType, Error, Result, Shape};
use crate::capi::argument::{Array, LentText, Text, size};
use crate::capi::sized::{In, SizedStruct, sized_struct};
use crate::capi::values::{Enum, Values};
use crate::engine::{AdamOptions, DeviceChoice, TrainerOptions};
use crate::host::Pinning;
use crate::optim::EPS_MIN;
use crate::plan::Fixed;
use crate::schedule::{
    Accumulator, AdamWhen, Boundary, COUNT_MAX, GradWait, LayerPlacement, Mode, Recompute,
};

sized_struct! {
    hz_trainer_options_t, hz_trainer_options_init {
        device: u32 = Device::Auto as u32 => Values::of(&DEVICES),
        mode: u32 = mode_number(TrainerOptions::default().mode) => Values::of(&MODES),
        grad_dtype: u32 = dtype_number(TrainerOptions::default().grad_dtype) => Values::of(&DTYPES),
        adam_when: u32 = ADAM_AUTO => Values::of(&ADAM_TIMES),
        tracing: u32 = 0 => Values::FLAG,
        device_index: u32 = 0,
        pinning: u32 = pinning_number(TrainerOptions::default().pinning) => Values::of(&PINNINGS),
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
        weight_decay: f64 = AdamOptions::default().weight_decay => Values::at_least(0.0),
        clip: f64 = TrainerOptions::default().clip => Values::at_least(0.0),
        grad_place: u32 = PLACE_AUTO => Values::of(&PLACES),
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
        recompute: u32 = recompute_number(LayerPlacement::default().recompute) => Values::of(&RECOMPUTES),
        boundary: u32 = PLACE_AUTO => Values::of(&PLACES),
        resident: u32 = 0 => Values::FLAG,
        accumulator: u32 = PLACE_AUTO => Values::of(&PLACES),
        reserved: u32 = 0 => Values::RESERVED,
        first: u64 = 0,
        count: u64 = 0,
    }
}

sized_struct! {
    hz_plan_summary_t, hz_plan_summary_init {
        adam_when: u32 = 0 => Values::of(&ADAM_TIMES),
        parameters: u64 = 0,
        logits_chunk: u64 = 0 => Values::ANY.unit("rows"),
        device_bytes: u64 = 0,
        device_bytes_per_micro: u64 = 0,
        host_bytes: u64 = 0,
        host_wire_bytes: u64 = 0,
        host_state_bytes: u64 = 0,
        ram_bytes: u64 = 0,
        step_seconds: f64 = 0.0,
        tokens_per_second: f64 = 0.0 => Values::ANY.unit("tokens/s"),
        tflops: f64 = 0.0 => Values::ANY.unit("10^12 FLOP/s"),
    }
}

sized_struct! {
    hz_tensor_t, hz_tensor_init {
        rank: u32 = 0,
        name: LentText = LentText::NULL,
        shape: [u64; SHAPE_MAX] = [0; SHAPE_MAX],
        elements: u64 = 0,
    }
}

sized_struct! {
    hz_batch_t, hz_batch_init {
        reserved: u32 = 0 => Values::RESERVED,
        rows: u64 = 0,
        tokens: Array<i32> = Array::NULL,
        targets: Array<i32> = Array::NULL,
        weights: Array<f32> = Array::NULL,
        starts: Array<i32> = Array::NULL,
        sequence_length: u64 = 0,
    }
}

sized_struct! {
    hz_step_report_t, hz_step_report_init {
        micros: u32 = 0,
        step: u64 = 0,
        loss: f64 = 0.0 => Values::ANY.unit("nats"),
        grad_norm: f64 = 0.0,
        tokens: u64 = 0,
        targets: u64 = 0,
    }
}

sized_struct! {
    hz_eval_report_t, hz_eval_report_init {
        micros: u32 = 0,
        loss: f64 = 0.0 => Values::ANY.unit("nats"),
        targets: u64 = 0,
    }
}

sized_struct! {
    hz_stats_t, hz_stats_init {
        threads: u32 = 0,
        steps: u64 = 0,
        tokens: u64 = 0,
        device_bytes: u64 = 0,
        host_bytes: u64 = 0,
    }
}

/// `HZ_DEVICE_*`.
pub(super) static DEVICES: Enum = Enum {
    name: "hz_device_t",
    values: &[("HZ_DEVICE_AUTO", 0), ("HZ_DEVICE_CPU", 1), ("HZ_DEVICE_CUDA", 2)],
};

/// `HZ_MODE_*`.
static MODES: Enum = Enum {
    name: "hz_mode_t",
    values: &[("HZ_MODE_EXACT", 1), ("HZ_MODE_STREAMED", 2), ("HZ_MODE_COMPACT", 3)],
};

/// `HZ_DTYPE_*`.
pub(super) static DTYPES: Enum =
    Enum { name: "hz_dtype_t", values: &[("HZ_DTYPE_UNSET", 0), ("HZ_DTYPE_BF16", 1), ("HZ_DTYPE_F32", 2)] };

/// `HZ_ADAM_*`.
static ADAM_TIMES: Enum = Enum {
    name: "hz_adam_when_t",
    values: &[("HZ_ADAM_AUTO", 0), ("HZ_ADAM_AFTER_NORM", 1), ("HZ_ADAM_UNDER_BACKWARD", 2)],
};

/// `HZ_PINNING_*`.
static PINNINGS: Enum =
    Enum { name: "hz_pinning_t", values: &[("HZ_PINNING_REGISTERED", 0), ("HZ_PINNING_ALLOCATED", 1)] };

/// `HZ_RECOMPUTE_*`.
static RECOMPUTES: Enum = Enum {
    name: "hz_recompute_t",
    values: &[
        ("HZ_RECOMPUTE_FULL", 1),
        ("HZ_RECOMPUTE_SELECTIVE", 2),
        ("HZ_RECOMPUTE_NONE", 3),
        ("HZ_RECOMPUTE_LINEARS", 4),
        ("HZ_RECOMPUTE_MLP", 5),
    ],
};

/// `HZ_PLACE_*`.
static PLACES: Enum = Enum {
    name: "hz_place_t",
    values: &[("HZ_PLACE_AUTO", 0), ("HZ_PLACE_HOST", 1), ("HZ_PLACE_DEVICE", 2)],
};

/// Decays of AdamW's moments.
pub(super) const BETA: Values = Values::below(0.0, 1.0);

/// The eps of AdamW, which is positive as an f32.
pub(super) const EPS: Values = Values::at_least(EPS_MIN);

/// Length of `shape` in `hz_tensor_t`.
pub const SHAPE_MAX: usize = 4;

/// `HZ_ADAM_AUTO`; see [`adam_number`] for the others.
const ADAM_AUTO: u32 = 0;

/// `HZ_PLACE_AUTO`.
const PLACE_AUTO: u32 = 0;

/// `HZ_PLACE_HOST` and `HZ_PLACE_DEVICE`.
#[derive(Clone, Copy)]
enum Side {
    Host = 1,
    Device = 2,
}

/// The value for an `HZ_PLACE_*`.
fn place<T>(number: u32, field: &str, auto: T, host: T, device: T) -> Result<T> {
    if number == PLACE_AUTO {
        return Ok(auto);
    }
    Ok(match choose(number, &[Side::Host, Side::Device], |side| side as u32, field, "HZ_PLACE_")? {
        Side::Host => host,
        Side::Device => device,
    })
}

/// `HZ_RECOMPUTE_*`.
fn recompute_number(recompute: Recompute) -> u32 {
    match recompute {
        Recompute::Full => 1,
        Recompute::Selective => 2,
        Recompute::None => 3,
        Recompute::Linears => 4,
        Recompute::Mlp => 5,
    }
}

/// `HZ_DEVICE_*`.
#[derive(Clone, Copy)]
pub(super) enum Device {
    Auto = 0,
    Cpu = 1,
    Cuda = 2,
}

/// The device for an `HZ_DEVICE_*`. `index` is the number of a CUDA device.
pub(super) fn device_choice(kind: u32, index: u32, field: &str) -> Result<DeviceChoice> {
    let kinds = [Device::Auto, Device::Cpu, Device::Cuda];
    Ok(match choose(kind, &kinds, |kind| kind as u32, field, "HZ_DEVICE_")? {
        Device::Auto => DeviceChoice::Auto,
        Device::Cpu => DeviceChoice::Cpu,
        Device::Cuda => DeviceChoice::Cuda(index as usize),
    })
}

/// `HZ_PINNING_*`.
fn pinning_number(pinning: Pinning) -> u32 {
    match pinning {
        Pinning::Registered => 0,
        Pinning::Allocated => 1,
    }
}

/// `HZ_MODE_*`.
fn mode_number(mode: Mode) -> u32 {
    match mode {
        Mode::Exact => 1,
        Mode::Streamed => 2,
        Mode::Compact => 3,
    }
}

/// `HZ_DTYPE_*`.
fn dtype_number(dtype: DType) -> u32 {
    match dtype {
        DType::Bf16 => 1,
        DType::F32 => 2,
    }
}

/// `HZ_ADAM_AFTER_NORM`, `HZ_ADAM_UNDER_BACKWARD`.
pub fn adam_number(when: AdamWhen) -> u32 {
    match when {
        AdamWhen::AfterNorm => 1,
        AdamWhen::UnderBackward => 2,
    }
}

/// The value with number `number`.
pub(super) fn choose<T: Copy>(
    number: u32,
    values: &[T],
    of: fn(T) -> u32,
    field: &str,
    prefix: &str,
) -> Result<T> {
    values
        .iter()
        .copied()
        .find(|&value| of(value) == number)
        .ok_or_else(|| Error::argument(format!("{field} is {number}, an unknown {prefix}* value")))
}

/// A dtype from its number.
pub fn dtype(number: u32, field: &str) -> Result<DType> {
    choose(number, &[DType::Bf16, DType::F32], dtype_number, field, "HZ_DTYPE_")
}

pub fn flag(value: u32, field: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::argument(format!("{field} is {other}; it must be 0 or 1"))),
    }
}

/// Checks a reserved field.
pub fn reserved(value: u32, field: &str) -> Result<()> {
    if value == 0 { Ok(()) } else { Err(Error::argument(format!("{field} is {value}; it must be 0"))) }
}

/// A size; `None` for 0.
pub(super) fn chosen_size(value: u64, field: &str) -> Result<Option<usize>> {
    Ok(Some(size(value, field)?).filter(|&value| value != 0))
}

/// A number of threads; for 0 all that this process may run on. The pool checks the maximum.
pub(super) fn threads_or_all(value: u64) -> Result<usize> {
    let threads = chosen_size(value, "threads")?;
    Ok(threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)))
}

/// The time at which AdamW runs; `None` for `HZ_ADAM_AUTO`.
fn adam_when(raw: &hz_trainer_options_t) -> Result<Option<AdamWhen>> {
    if raw.adam_when == ADAM_AUTO {
        return Ok(None);
    }
    let values = [AdamWhen::AfterNorm, AdamWhen::UnderBackward];
    choose(raw.adam_when, &values, adam_number, "adam_when", "HZ_ADAM_").map(Some)
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
            "layers[{index}].first is {first} and layers[{index}].count is {}; num_hidden_layers is {layers}",
            raw.count
        )));
    }
    let auto = LayerPlacement::default();
    let recompute = field("recompute");
    let placement = LayerPlacement {
        recompute: choose(raw.recompute, &Recompute::ALL, recompute_number, &recompute, "HZ_RECOMPUTE_")?,
        boundary: place(raw.boundary, &field("boundary"), auto.boundary, Boundary::Spilled, Boundary::Kept)?,
        resident: flag(raw.resident, &field("resident"))?,
        accumulator: place(
            raw.accumulator,
            &field("accumulator"),
            auto.accumulator,
            Accumulator::Spilled,
            Accumulator::OnDevice,
        )?,
    };
    Ok((first..end, placement))
}

/// The options for a model with `layers` layers; `None` means all defaults.
pub fn trainer_options(raw: Option<hz_trainer_options_t>, layers: usize) -> Result<TrainerOptions> {
    let raw = raw.unwrap_or_else(hz_trainer_options_t::defaults);
    let defaults = TrainerOptions::default();
    let pinnings = [Pinning::Registered, Pinning::Allocated];
    let modes = [Mode::Exact, Mode::Streamed, Mode::Compact];
    reserved(raw.reserved, "reserved")?;
    Ok(TrainerOptions {
        device: device_choice(raw.device, raw.device_index, "device")?,
        pinning: choose(raw.pinning, &pinnings, pinning_number, "pinning", "HZ_PINNING_")?,
        mode: choose(raw.mode, &modes, mode_number, "mode", "HZ_MODE_")?,
        grad_dtype: dtype(raw.grad_dtype, "grad_dtype")?,
        shape: Shape {
            b: size(raw.sequences, "sequences")?,
            t: size(raw.sequence_length, "sequence_length")?,
        },
        micros_max: size(raw.micros_max, "micros_max")?,
        logits_chunk: chosen_size(raw.logits_chunk, "logits_chunk")?,
        weight_slots: chosen_size(raw.weight_slots, "weight_slots")?.unwrap_or(defaults.weight_slots),
        slabs: chosen_size(raw.slabs, "slabs")?.unwrap_or(defaults.slabs),
        adam_when: adam_when(&raw)?,
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
        grad_wait: place(raw.grad_place, "grad_place", GradWait::Host, GradWait::Host, GradWait::Device)?,
        sweeps: raw.sweeps.max(1) as usize,
        layers: layer_placements(raw.layers, raw.layers_count, layers)?,
        gemm_table: raw.gemm_table.optional_path("gemm_table")?.map(Path::to_owned),
    })
}

/// The part of the placement that the options fix for a model with `layers` layers; a plan search
/// chooses the rest. `options` is the result of [`trainer_options`].
pub fn fixed(raw: Option<hz_trainer_options_t>, options: &TrainerOptions, layers: usize) -> Result<Fixed> {
    let raw = raw.unwrap_or_else(hz_trainer_options_t::defaults);
    let mut fixed = Fixed {
        weight_slots: chosen_size(raw.weight_slots, "weight_slots")?,
        slabs: chosen_size(raw.slabs, "slabs")?,
        sweeps: chosen_size(raw.sweeps.into(), "sweeps")?,
        grad_wait: (raw.grad_place != PLACE_AUTO).then_some(options.grad_wait),
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
    use crate::capi::header::assert_enum;

    #[test]
    fn defaults_are_those_of_the_engine() {
        // Except the device: C programs get the best one.
        let engine = TrainerOptions { device: DeviceChoice::Auto, ..TrainerOptions::default() };
        let engine = format!("{engine:?}");
        for raw in [None, Some(hz_trainer_options_t::defaults())] {
            assert_eq!(format!("{:?}", trainer_options(raw, 3).unwrap()), engine);
        }
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_enum(
            "hz_device_t",
            &[
                ("HZ_DEVICE_AUTO", Device::Auto as u32),
                ("HZ_DEVICE_CPU", Device::Cpu as u32),
                ("HZ_DEVICE_CUDA", Device::Cuda as u32),
            ],
        );
        assert_enum(
            "hz_mode_t",
            &[
                ("HZ_MODE_EXACT", mode_number(Mode::Exact)),
                ("HZ_MODE_STREAMED", mode_number(Mode::Streamed)),
                ("HZ_MODE_COMPACT", mode_number(Mode::Compact)),
            ],
        );
        assert_enum(
            "hz_dtype_t",
            &[
                ("HZ_DTYPE_UNSET", 0),
                ("HZ_DTYPE_BF16", dtype_number(DType::Bf16)),
                ("HZ_DTYPE_F32", dtype_number(DType::F32)),
            ],
        );
        assert!(dtype(0, "dtype").is_err());
        assert_enum(
            "hz_adam_when_t",
            &[
                ("HZ_ADAM_AUTO", ADAM_AUTO),
                ("HZ_ADAM_AFTER_NORM", adam_number(AdamWhen::AfterNorm)),
                ("HZ_ADAM_UNDER_BACKWARD", adam_number(AdamWhen::UnderBackward)),
            ],
        );
        assert_enum(
            "hz_pinning_t",
            &[
                ("HZ_PINNING_REGISTERED", pinning_number(Pinning::Registered)),
                ("HZ_PINNING_ALLOCATED", pinning_number(Pinning::Allocated)),
            ],
        );
        assert_enum(
            "hz_recompute_t",
            &[
                ("HZ_RECOMPUTE_FULL", recompute_number(Recompute::Full)),
                ("HZ_RECOMPUTE_SELECTIVE", recompute_number(Recompute::Selective)),
                ("HZ_RECOMPUTE_NONE", recompute_number(Recompute::None)),
                ("HZ_RECOMPUTE_LINEARS", recompute_number(Recompute::Linears)),
                ("HZ_RECOMPUTE_MLP", recompute_number(Recompute::Mlp)),
            ],
        );
        assert_enum(
            "hz_place_t",
            &[
                ("HZ_PLACE_AUTO", PLACE_AUTO),
                ("HZ_PLACE_HOST", Side::Host as u32),
                ("HZ_PLACE_DEVICE", Side::Device as u32),
            ],
        );
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
            let error = trainer_options(Some(raw), 3).unwrap_err();
            assert!(error.message().contains(field), "{field}: {error}");
        }
    }
}
