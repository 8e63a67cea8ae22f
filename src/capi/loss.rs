//! `hz_trainer_logprobs`, and `hz_trainer_step_with_loss`: steps with a loss function of the
//! caller.

use crate::base::{Error, Result, Status};
use crate::capi::argument::{ArrayOut, User};
use crate::capi::config::{hz_batch_t, hz_step_report_t};
use crate::capi::handle::Handle;
use crate::capi::process;
use crate::capi::sized::{In, Out};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{all_batches, hz_trainer_t, raw_batches, step_report, with};

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
            match returned {
                0 => Ok(value),
                other => Err(Error::new(
                    Status::Cancelled,
                    format!(
                        "the loss function returned {other}: the step was cancelled, nothing was updated"
                    ),
                )),
            }
        };
        let report = state.trainer.step_with_loss(&all_batches(&raw)?, lr, &mut call)?;
        out.write(step_report(report));
        Ok(())
    })
}
