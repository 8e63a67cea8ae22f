//! `hz_trainer_set_progress`: a callback for loading, exporting, resuming and saving.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::Result;
use crate::capi::argument::User;
use crate::capi::enums::Enum;
use crate::capi::handle::Handle;
use crate::capi::process;
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{hz_trainer_t, with};

/// The work of a callback.
#[derive(Clone, Copy, PartialEq)]
pub enum Work {
    Load,
    Export,
    Resume,
    Save,
}

/// `HZ_PROGRESS_*`.
pub static WORKS: Enum<Work> = Enum {
    name: "hz_progress_t",
    constants: &[
        (c"HZ_PROGRESS_LOAD", 1, Work::Load),
        (c"HZ_PROGRESS_EXPORT", 2, Work::Export),
        (c"HZ_PROGRESS_RESUME", 3, Work::Resume),
        (c"HZ_PROGRESS_SAVE", 4, Work::Save),
    ],
};

impl Work {
    /// The end of the message when it is cancelled.
    fn cancelled(self) -> &'static str {
        match self {
            Work::Load => "the weights are partly loaded: load or initialize them again",
            Work::Export => "the export was cancelled, the folder is as it was before",
            Work::Resume => "the state is partly loaded",
            Work::Save => "the save was cancelled, no checkpoint was written",
        }
    }
}

type ProgressFunction = unsafe extern "C-unwind" fn(work: u32, done: u64, total: u64, user: User) -> i32;

/// The C function that receives progress.
pub type hz_progress_callback_t = Option<ProgressFunction>;

struct Callback {
    progress: ProgressFunction,
    user: User,
    /// Held during a call: a save runs at the same time as other work.
    calling: Mutex<()>,
}

// SAFETY: horizon.h requires that the function may be called with `user` on any thread, one call at
// a time; `calling` sees to the latter.
unsafe impl Send for Callback {}
// SAFETY: as for `Send`.
unsafe impl Sync for Callback {}

/// The progress callback of a trainer, if it has one.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<Callback>>);

impl Watcher {
    /// The [`Progress`](crate::base::Progress) of some work.
    pub fn of(&self, work: Work) -> impl Fn(u64, u64) -> Result<()> + Send + Sync + use<> {
        let watcher = self.clone();
        move |done, total| watcher.call(work, done, total)
    }

    fn call(&self, work: Work, done: u64, total: u64) -> Result<()> {
        let Some(Callback { progress, user, calling }) = self.0.as_deref() else { return Ok(()) };
        let _calling = calling.lock();
        // SAFETY: horizon.h requires that the caller's function accepts any numbers and its `user`.
        let returned = process::callback(|| unsafe { progress(WORKS.number(work), done, total, *user) });
        process::may_continue(returned, "progress", work.cancelled())
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_set_progress(
    trainer: Handle<hz_trainer_t>,
    callback: hz_progress_callback_t,
    user: User,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let callback = callback.map(|progress| Callback { progress, user, calling: Mutex::new(()) });
        state.watcher = Watcher(callback.map(Arc::new));
        Ok(())
    })
}
