//! `hz_trainer_save`: a callback receives the state of every unit while training continues.

use std::ffi::c_void;

use crate::base::{Error, Result};
use crate::capi::argument::User;
use crate::capi::handle::Handle;
use crate::capi::process;
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{hz_trainer_t, with_failed};
use crate::engine::{Sink, UnitState};

type SaveFunction = unsafe extern "C-unwind" fn(
    unit: u32,
    elements: u64,
    weights: *const u16,
    residual: *const i16,
    m: *const c_void,
    v: *const c_void,
    user: User,
) -> i32;

/// The C function that receives a unit.
pub type hz_save_callback_t = Option<SaveFunction>;

/// A sink that calls the C function.
struct Callback {
    save: SaveFunction,
    user: User,
}

// SAFETY: horizon.h requires that the function may be called with `user` on a thread of the
// library.
unsafe impl Send for Callback {}

impl Sink for Callback {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        // SAFETY: horizon.h requires that the caller's function reads at most `elements` elements of each
        // array; the spans have as many, and AdamW of the unit waits until this returns.
        let returned = process::callback(|| unsafe {
            (self.save)(
                state.unit.0,
                (state.weights.len() / 2) as u64,
                state.weights.as_ptr().cast(),
                state.residual.as_ptr().cast(),
                state.state[0].as_ptr().cast(),
                state.state[1].as_ptr().cast(),
                self.user,
            )
        });
        process::may_continue(returned, "save", "the save was cancelled")
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_save(
    trainer: Handle<hz_trainer_t>,
    save: hz_save_callback_t,
    user: User,
) -> hz_status_t {
    with_failed(&trainer, |state| {
        let save = save.ok_or_else(|| Error::argument("save is NULL"))?;
        state.need_weights()?;
        state.trainer.save(Box::new(Callback { save, user }))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_save_wait(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    with_failed(&trainer, |state| state.trainer.save_wait())
}
