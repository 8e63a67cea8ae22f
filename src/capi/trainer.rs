//! `hz_trainer_t`: opening, stepping, looking in, closing.

use std::ffi::{CString, c_char};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::base::{Error, Result};
use crate::capi::argument::{array, array_out, handle, optional_array, path, place, size};
use crate::capi::config::{
    hz_batch_t, hz_eval_report_t, hz_model_config_t, hz_stats_t, hz_step_report_t, hz_trainer_options_t,
    model_config, trainer_options,
};
use crate::capi::log;
use crate::capi::sized::{Output, SizedStruct, read};
use crate::capi::status::{c_string, hz_status_t};
use crate::capi::wall::{Guarded, busy, wall};
use crate::engine::{Batch, EvalReport, StepReport, Trainer, TrainerOptions};
use crate::host::{Limit, Limits, Size};
use crate::model::ModelConfig;
use crate::train::hf::FolderConfig;

/// A trainer as C holds it.
pub struct hz_trainer_t {
    /// Names and shapes, in the layout's order; here, so that a name lives as long as the handle.
    pub(super) tensors: Vec<(CString, Vec<usize>)>,
    /// The description; like the tensors it never changes, so reading it needs no turn.
    pub(super) model: ModelConfig,
    pub(super) state: Guarded<State>,
}

/// What one call at a time may touch.
pub struct State {
    pub(super) trainer: Trainer,
    /// What an export's `config.json` says: the model, and what a loaded folder said beside it.
    pub(super) folder: FolderConfig,
}

impl hz_trainer_t {
    fn open(config: ModelConfig, options: &TrainerOptions) -> Result<Self> {
        let limits = Limits::read(options.host_mem);
        if limits.limit == Limit::Stated && limits.bytes > limits.reported_bytes {
            log::warning(&format!("host memory: {limits}"));
        }
        let trainer = Trainer::open(&config, options)?;
        let stats = trainer.stats();
        log::info(&format!(
            "trainer opened: {} parameters in {} of host memory, {} of device memory, {} threads",
            trainer.layout().parameters(),
            Size(stats.host_bytes),
            Size(stats.device_bytes),
            stats.threads
        ));
        let tensors =
            trainer.layout().tensors().map(|(_, tensor)| (c_string(&tensor.name), tensor.shape.clone())).collect();
        let folder = FolderConfig::from(config.clone());
        Ok(hz_trainer_t { tensors, model: config, state: Guarded::new(State { trainer, folder }) })
    }
}

/// Runs a call on an open trainer.
///
/// # Safety
/// `trainer` is NULL, or comes from `hz_trainer_open` and is not closed before this returns.
pub(super) unsafe fn with(
    trainer: *const hz_trainer_t,
    body: impl FnOnce(&hz_trainer_t, &mut State) -> Result<()>,
) -> hz_status_t {
    wall(|| {
        // SAFETY: the promise of this function's caller; what changes behind the handle is behind its lock.
        let handle = unsafe { handle(trainer, "trainer") }?;
        handle.state.run(|state| body(handle, state))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_open(
    model: *const hz_model_config_t,
    options: *const hz_trainer_options_t,
    out_trainer: *mut *mut hz_trainer_t,
) -> hz_status_t {
    wall(|| {
        let out = place(out_trainer, "out_trainer")?;
        // SAFETY: the header asks for a struct that was initialised with its macro.
        let config = unsafe { model_config(model) }?;
        // SAFETY: the same, or NULL.
        let options = unsafe { trainer_options(options) }?;
        let trainer = Box::new(hz_trainer_t::open(config, &options)?);
        // SAFETY: `place` has looked at the pointer, and the header gives it to this call alone.
        unsafe { out.write(Box::into_raw(trainer)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_close(trainer: *mut hz_trainer_t) -> hz_status_t {
    if trainer.is_null() {
        return wall(|| Ok(()));
    }
    wall(|| {
        // SAFETY: from `hz_trainer_open` and not closed, as the header asks.
        let state = unsafe { &handle(trainer, "trainer")?.state };
        let Some(synced) = state.attempt(|state| state.trainer.sync()) else {
            return Err(busy());
        };
        // SAFETY: from `Box::into_raw` in `hz_trainer_open`; nobody else is inside, and the header allows one close.
        drop(unsafe { Box::from_raw(trainer) });
        synced
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_model(
    trainer: *const hz_trainer_t,
    out_config: *mut hz_model_config_t,
) -> hz_status_t {
    wall(|| {
        // SAFETY: a trainer that is not closed, as the header asks; the field read never changes.
        let trainer = unsafe { handle(trainer, "trainer") }?;
        // SAFETY: the header asks for a struct initialised with its macro, the caller's alone during the call.
        let out = unsafe { Output::new(out_config, "out_config") }?;
        out.write(hz_model_config_t::from(&trainer.model));
        Ok(())
    })
}

/// A caller's micro-batch, its arrays borrowed for the call. `what` is the parameter's name.
///
/// # Safety
/// `pointer` is as the header asks: a struct initialised with its macro, arrays of `rows` elements or NULL, all
/// left alone for `'a`.
unsafe fn batch<'a>(pointer: *const hz_batch_t, what: &str) -> Result<Batch<'a>> {
    // SAFETY: the promise of this function's caller.
    let raw = unsafe { read(pointer, what) }?;
    if raw.reserved != 0 {
        return Err(Error::argument(format!("{what}->reserved is {}; it must be 0", raw.reserved)));
    }
    let rows = size(raw.rows, &format!("{what}->rows"))?;
    // SAFETY: arrays of `rows` elements, the promise of this function's caller.
    unsafe {
        Ok(Batch {
            tokens: array(raw.tokens, rows, &format!("{what}->tokens"))?,
            targets: array(raw.targets, rows, &format!("{what}->targets"))?,
            weights: optional_array(raw.weights, rows, &format!("{what}->weights"))?,
            starts: optional_array(raw.starts, rows, &format!("{what}->starts"))?,
        })
    }
}

/// A caller's micro-batches. All have the `struct_size` of the first, which is how far they are apart.
///
/// # Safety
/// As [`batch`], `count` times.
unsafe fn batches<'a>(pointer: *const hz_batch_t, count: usize) -> Result<Vec<Batch<'a>>> {
    if count == 0 {
        return Err(Error::argument("count is 0: at least one micro-batch is needed"));
    }
    // SAFETY: there is at least one, by the promise of this function's caller.
    let stride = unsafe { read(pointer, "batches") }?.struct_size as usize;
    if stride.checked_mul(count).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::argument(format!("batches cannot have {count} elements: no memory holds them")));
    }
    (0..count)
        .map(|index| {
            // SAFETY: `index` is below `count`, and `count` structs of this size are there.
            let element = unsafe { pointer.byte_add(index * stride) };
            let what = format!("batches[{index}]");
            // SAFETY: one of the caller's structs, as above.
            let size = unsafe { read(element, &what) }?.struct_size as usize;
            if size != stride {
                return Err(Error::argument(format!(
                    "{what}.struct_size is {size}, that of batches[0] is {stride}: all must be the same"
                )));
            }
            // SAFETY: one of the caller's structs, as above.
            unsafe { batch(element, &what) }
        })
        .collect()
}

fn step_report(report: StepReport, trainer: &Trainer) -> hz_step_report_t {
    let StepReport { step, loss, grad_norm, tokens, targets } = report;
    let micros = (tokens / trainer.plan().policy.numeric.shape.n() as u64) as u32;
    hz_step_report_t { micros, step, loss, grad_norm, tokens, targets, ..hz_step_report_t::defaults() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_accumulate(
    trainer: *mut hz_trainer_t,
    micro_batch: *const hz_batch_t,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for what `batch` asks for, during the call.
        let batch = unsafe { batch(micro_batch, "batch") }?;
        state.trainer.accumulate(&batch)
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_update(
    trainer: *mut hz_trainer_t,
    lr: f64,
    out_report: *mut hz_step_report_t,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a struct initialised with its macro, the caller's alone during the call.
        let out = unsafe { Output::new(out_report, "out_report") }?;
        let report = state.trainer.update(lr)?;
        out.write(step_report(report, &state.trainer));
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_step(
    trainer: *mut hz_trainer_t,
    micro_batches: *const hz_batch_t,
    count: usize,
    lr: f64,
    out_report: *mut hz_step_report_t,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a struct initialised with its macro, the caller's alone during the call.
        let out = unsafe { Output::new(out_report, "out_report") }?;
        // SAFETY: the header asks for `count` micro-batches, left alone during the call.
        let batches = unsafe { batches(micro_batches, count) }?;
        let report = state.trainer.step(&batches, lr)?;
        out.write(step_report(report, &state.trainer));
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_eval(
    trainer: *mut hz_trainer_t,
    micro_batches: *const hz_batch_t,
    count: usize,
    out_report: *mut hz_eval_report_t,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a struct initialised with its macro, the caller's alone during the call.
        let out = unsafe { Output::new(out_report, "out_report") }?;
        // SAFETY: the header asks for `count` micro-batches, left alone during the call.
        let batches = unsafe { batches(micro_batches, count) }?;
        let EvalReport { loss, targets } = state.trainer.eval(&batches)?;
        out.write(hz_eval_report_t {
            micros: batches.len() as u32,
            loss,
            targets,
            ..hz_eval_report_t::defaults()
        });
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_logits(
    trainer: *mut hz_trainer_t,
    tokens: *const i32,
    count: usize,
    logits: *mut f32,
    logits_count: usize,
) -> hz_status_t {
    let body = |handle: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for `count` tokens, left alone during the call.
        let tokens = unsafe { array(tokens, count, "tokens") }?;
        // SAFETY: the header asks for `logits_count` floats, the caller's alone during the call.
        let logits = unsafe { array_out(logits, logits_count, "logits") }?;
        let vocabulary = handle.model.dims.v;
        if logits.len() != vocabulary {
            return Err(Error::argument(format!(
                "logits_count is {logits_count}; the vocabulary has {vocabulary} tokens"
            )));
        }
        logits.copy_from_slice(&state.trainer.logits(tokens)?);
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_sync(trainer: *mut hz_trainer_t) -> hz_status_t {
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, |_, state| state.trainer.sync()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_stats(
    trainer: *mut hz_trainer_t,
    out_stats: *mut hz_stats_t,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a struct initialised with its macro, the caller's alone during the call.
        let out = unsafe { Output::new(out_stats, "out_stats") }?;
        let stats = state.trainer.stats();
        out.write(hz_stats_t {
            threads: stats.threads as u32,
            steps: stats.steps,
            tokens: stats.tokens,
            device_bytes: stats.device_bytes as u64,
            host_bytes: stats.host_bytes as u64,
            ..hz_stats_t::defaults()
        });
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_trace(trainer: *mut hz_trainer_t, file: *const c_char) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a NUL-terminated string that stays as it is during the call.
        let file = unsafe { path(file, "path") }?;
        write_whole(file, |out| state.trainer.trace(out))
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

/// Writes a file that appears under its name when it is whole, and not at all after an error.
fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::io(format!("cannot write {}", path.display()), &error);
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let file = File::create(&partial).map_err(failed)?;
    let written = (|| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.flush().map_err(failed)?;
        fs::rename(&partial, path).map_err(failed)
    })();
    if written.is_err() {
        // The error above is what is reported; that the partial file may stay behind changes nothing about it.
        let _ = fs::remove_file(&partial);
    }
    written
}
