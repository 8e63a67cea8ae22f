//! Steps and evaluations of an `hz_trainer_t`.

use crate::base::{Error, Result};
use crate::capi::argument::{Array, ArrayOut, User};
use crate::capi::guard::guard;
use crate::capi::handle::Handle;
use crate::capi::process;
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{hz_trainer_t, with};
use crate::capi::values::{Values, chosen_size, reserved, size};
use crate::engine::{Batch, EvalReport, StepReport, Trainer};

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

/// The C loss function.
pub type hz_loss_callback_t = Option<
    unsafe extern "C-unwind" fn(
        logprobs: *const f32,
        dlogprobs: *mut f32,
        count: usize,
        out_loss: *mut f64,
        user: User,
    ) -> i32,
>;

/// A micro-batch with its arrays. `name` is the text before the fields' names.
fn batch<'a>(raw: &'a hz_batch_t, name: &str) -> Result<Batch<'a>> {
    reserved(raw.reserved, &format!("{name}reserved"))?;
    let rows = size(raw.rows, &format!("{name}rows"))?;
    Ok(Batch {
        tokens: raw.tokens.get(rows, &format!("{name}tokens"))?,
        targets: raw.targets.get(rows, &format!("{name}targets"))?,
        weights: raw.weights.optional(rows, &format!("{name}weights"))?,
        starts: raw.starts.optional(rows, &format!("{name}starts"))?,
        sequence_length: chosen_size(raw.sequence_length, &format!("{name}sequence_length"))?,
    })
}

/// The micro-batches of a call on `trainer`. Their number is checked before they are read.
fn raw_batches(batches: In<hz_batch_t>, count: usize, trainer: &Trainer) -> Result<Vec<hz_batch_t>> {
    let max = trainer.plan().micros_max;
    if count == 0 || count > max {
        return Err(Error::argument(format!("count is {count}; it must be 1 … micros_max, {max}")));
    }
    batches.read_all(count, "batches")
}

fn all_batches(raw: &[hz_batch_t]) -> Result<Vec<Batch<'_>>> {
    raw.iter().enumerate().map(|(index, raw)| batch(raw, &format!("batches[{index}]."))).collect()
}

fn step_report(report: StepReport) -> hz_step_report_t {
    let StepReport { step, loss, grad_norm, micros, tokens, targets } = report;
    let micros = micros as u32;
    hz_step_report_t { micros, step, loss, grad_norm, tokens, targets, ..hz_step_report_t::defaults() }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_accumulate(
    trainer: Handle<hz_trainer_t>,
    micro_batch: In<hz_batch_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let raw = micro_batch.read("batch")?;
        state.trainer.accumulate(&batch(&raw, "batch->")?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_announce(
    trainer: Handle<hz_trainer_t>,
    tokens: Array<i32>,
    count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.announce(tokens.get(count, "tokens")?))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_update(
    trainer: Handle<hz_trainer_t>,
    lr: f64,
    out_report: Out<hz_step_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        state.need_weights()?;
        out.write(step_report(state.trainer.update(lr)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_discard(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.discard())
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_step(
    trainer: Handle<hz_trainer_t>,
    batches: In<hz_batch_t>,
    count: usize,
    lr: f64,
    out_report: Out<hz_step_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        let raw = raw_batches(batches, count, &state.trainer)?;
        let batches = all_batches(&raw)?;
        state.need_weights()?;
        out.write(step_report(state.trainer.step(&batches, lr)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_eval(
    trainer: Handle<hz_trainer_t>,
    batches: In<hz_batch_t>,
    count: usize,
    out_report: Out<hz_eval_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        let raw = raw_batches(batches, count, &state.trainer)?;
        let batches = all_batches(&raw)?;
        state.need_weights()?;
        let EvalReport { loss, targets } = state.trainer.eval(&batches)?;
        let micros = raw.len() as u32;
        out.write(hz_eval_report_t { micros, loss, targets, ..hz_eval_report_t::defaults() });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_logits(
    trainer: Handle<hz_trainer_t>,
    tokens: Array<i32>,
    count: usize,
    mut logits: ArrayOut,
    logits_count: usize,
) -> hz_status_t {
    with(&trainer, |handle, state| {
        let tokens = tokens.get(count, "tokens")?;
        let logits = logits.get(logits_count, "logits")?;
        let vocabulary = handle.model.dims.v;
        if logits.len() != vocabulary {
            return Err(Error::argument(format!(
                "logits_count is {logits_count}; it must be vocab_size, {vocabulary}"
            )));
        }
        state.need_weights()?;
        logits.copy_from_slice(&state.trainer.logits(tokens)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_logprobs(
    trainer: Handle<hz_trainer_t>,
    batches: In<hz_batch_t>,
    count: usize,
    mut logprobs: ArrayOut,
    logprobs_count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let raw = raw_batches(batches, count, &state.trainer)?;
        let batches = all_batches(&raw)?;
        let rows: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        let out = logprobs.get(logprobs_count, "logprobs")?;
        if out.len() != rows {
            return Err(Error::argument(format!(
                "logprobs_count is {logprobs_count}; it must be the rows of all batches, {rows}"
            )));
        }
        state.need_weights()?;
        out.copy_from_slice(&state.trainer.logprobs(&batches)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_step_with_loss(
    trainer: Handle<hz_trainer_t>,
    batches: In<hz_batch_t>,
    count: usize,
    lr: f64,
    loss: hz_loss_callback_t,
    user: User,
    out_report: Out<hz_step_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        let loss = loss.ok_or_else(|| Error::argument("loss is NULL"))?;
        let raw = raw_batches(batches, count, &state.trainer)?;
        let mut call = |logprobs: &[f32], dlogprobs: &mut [f32]| -> Result<f64> {
            let mut value = f64::NAN;
            // SAFETY: horizon.h requires that the caller's function reads and writes at most `count` floats
            // and writes one double; these outlive the call.
            let returned = process::callback(|| unsafe {
                loss(logprobs.as_ptr(), dlogprobs.as_mut_ptr(), logprobs.len(), &raw mut value, user)
            });
            process::may_continue(returned, "loss", "the step was cancelled, nothing was updated")?;
            Ok(value)
        };
        let batches = all_batches(&raw)?;
        state.need_weights()?;
        let report = state.trainer.step_with_loss(&batches, lr, &mut call)?;
        out.write(step_report(report));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_cancel(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    guard(|| {
        trainer.get("trainer")?.canceller.cancel();
        Ok(())
    })
}
