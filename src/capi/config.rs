//! The structs of the header and what they mean: fields to Rust values, each refused by its own name.

use std::thread;

use crate::base::{DType, Error, Result, Shape};
use crate::capi::argument::{Array, LentText, size};
use crate::capi::sized::{SizedStruct, sized_struct};
use crate::engine::{AdamOptions, TrainerOptions};
use crate::schedule::{AdamWhen, Mode};

sized_struct! {
    hz_trainer_options_t {
        device: u32 = Device::Auto as u32,
        mode: u32 = mode_number(TrainerOptions::default().mode),
        grad_dtype: u32 = dtype_number(TrainerOptions::default().grad_dtype),
        adam_when: u32 = ADAM_AUTO,
        tracing: u32 = 0,
        sequences: u64 = TrainerOptions::default().shape.b as u64,
        sequence_length: u64 = TrainerOptions::default().shape.t as u64,
        micros_max: u64 = TrainerOptions::default().micros_max as u64,
        logits_chunk: u64 = 0,
        weight_slots: u64 = TrainerOptions::default().weight_slots as u64,
        slabs: u64 = TrainerOptions::default().slabs as u64,
        device_mem: u64 = 0,
        host_mem: u64 = 0,
        threads: u64 = 0,
        beta1: f64 = AdamOptions::default().beta1,
        beta2: f64 = AdamOptions::default().beta2,
        eps: f64 = AdamOptions::default().eps,
        weight_decay: f64 = AdamOptions::default().weight_decay,
        clip: f64 = TrainerOptions::default().clip,
    }
}

sized_struct! {
    hz_plan_summary_t {
        adam_when: u32 = 0,
        parameters: u64 = 0,
        logits_chunk: u64 = 0,
        device_bytes: u64 = 0,
        device_bytes_per_micro: u64 = 0,
        host_bytes: u64 = 0,
        host_wire_bytes: u64 = 0,
        host_state_bytes: u64 = 0,
        ram_bytes: u64 = 0,
    }
}

sized_struct! {
    hz_tensor_t {
        rank: u32 = 0,
        name: LentText = LentText::NULL,
        shape: [u64; SHAPE_MAX] = [0; SHAPE_MAX],
        elements: u64 = 0,
    }
}

sized_struct! {
    hz_batch_t {
        reserved: u32 = 0,
        rows: u64 = 0,
        tokens: Array<i32> = Array::NULL,
        targets: Array<i32> = Array::NULL,
        weights: Array<f32> = Array::NULL,
        starts: Array<i32> = Array::NULL,
    }
}

sized_struct! {
    hz_step_report_t {
        micros: u32 = 0,
        step: u64 = 0,
        loss: f64 = 0.0,
        grad_norm: f64 = 0.0,
        tokens: u64 = 0,
        targets: u64 = 0,
    }
}

sized_struct! {
    hz_eval_report_t {
        micros: u32 = 0,
        loss: f64 = 0.0,
        targets: u64 = 0,
    }
}

sized_struct! {
    hz_stats_t {
        threads: u32 = 0,
        steps: u64 = 0,
        tokens: u64 = 0,
        device_bytes: u64 = 0,
        host_bytes: u64 = 0,
    }
}

/// Dimensions that `hz_tensor_t` has room for.
pub const SHAPE_MAX: usize = 4;

/// `HZ_ADAM_AUTO`; the others are those of [`adam_number`].
const ADAM_AUTO: u32 = 0;

/// `HZ_DEVICE_*`.
#[derive(Clone, Copy)]
enum Device {
    Auto = 0,
    Cpu = 1,
}

/// `HZ_MODE_*`.
fn mode_number(mode: Mode) -> u32 {
    match mode {
        Mode::Exact => 1,
        Mode::Streamed => 2,
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

/// The value of a list whose number is `number`.
pub(super) fn choose<T: Copy>(
    number: u32,
    values: &[T],
    of: fn(T) -> u32,
    field: &str,
    prefix: &str,
) -> Result<T> {
    values.iter().copied().find(|&value| of(value) == number).ok_or_else(|| {
        Error::argument(format!("{field} is {number}, which is none of the {prefix}* this library knows"))
    })
}

/// A dtype from its number.
pub fn dtype(number: u32, field: &str) -> Result<DType> {
    choose(number, &[DType::Bf16, DType::F32], dtype_number, field, "HZ_DTYPE_")
}

pub(super) fn flag(value: u32, field: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::argument(format!("{field} is {other}; it must be 0 or 1"))),
    }
}

/// A size of which 0 means "the library decides".
pub(super) fn chosen_size(value: u64, field: &str) -> Result<Option<usize>> {
    Ok(Some(size(value, field)?).filter(|&value| value != 0))
}

/// A number of threads of which 0 means all that this process may run on.
pub(super) fn threads_or_all(value: u64) -> Result<usize> {
    const THREADS_MAX: usize = 4096;
    match chosen_size(value, "threads")? {
        Some(threads) if threads > THREADS_MAX => {
            Err(Error::argument(format!("threads is {threads}; it must be at most {THREADS_MAX}")))
        }
        Some(threads) => Ok(threads),
        None => Ok(thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// The options a caller gives; none is all defaults.
pub fn trainer_options(raw: Option<hz_trainer_options_t>) -> Result<TrainerOptions> {
    let raw = raw.unwrap_or_else(hz_trainer_options_t::defaults);
    choose(raw.device, &[Device::Auto, Device::Cpu], |device| device as u32, "device", "HZ_DEVICE_")?;
    let adam_when = match raw.adam_when {
        ADAM_AUTO => None,
        number => {
            let values = [AdamWhen::AfterNorm, AdamWhen::UnderBackward];
            Some(choose(number, &values, adam_number, "adam_when", "HZ_ADAM_")?)
        }
    };
    Ok(TrainerOptions {
        mode: choose(raw.mode, &[Mode::Exact, Mode::Streamed], mode_number, "mode", "HZ_MODE_")?,
        grad_dtype: dtype(raw.grad_dtype, "grad_dtype")?,
        shape: Shape {
            b: size(raw.sequences, "sequences")?,
            t: size(raw.sequence_length, "sequence_length")?,
        },
        micros_max: size(raw.micros_max, "micros_max")?,
        logits_chunk: chosen_size(raw.logits_chunk, "logits_chunk")?,
        weight_slots: size(raw.weight_slots, "weight_slots")?,
        slabs: size(raw.slabs, "slabs")?,
        adam_when,
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
        ..TrainerOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_engine() {
        let engine = format!("{:?}", TrainerOptions::default());
        for raw in [None, Some(hz_trainer_options_t::defaults())] {
            assert_eq!(format!("{:?}", trainer_options(raw).unwrap()), engine);
        }
    }

    #[test]
    fn numbers_that_name_nothing_are_refused_by_field() {
        let good = hz_trainer_options_t::defaults();
        let cases = [
            ("device", hz_trainer_options_t { device: 2, ..good }),
            ("mode", hz_trainer_options_t { mode: 0, ..good }),
            ("grad_dtype", hz_trainer_options_t { grad_dtype: 3, ..good }),
            ("adam_when", hz_trainer_options_t { adam_when: 3, ..good }),
            ("tracing", hz_trainer_options_t { tracing: 2, ..good }),
        ];
        for (field, raw) in cases {
            let error = trainer_options(Some(raw)).unwrap_err();
            assert!(error.message().contains(field), "{field}: {error}");
        }
    }
}
