//! The caller's process: its floating-point environment, its forks, and calls of its functions.

use std::cell::Cell;
use std::mem;
use std::process::abort;

use crate::base::{Error, Result, Status};
use crate::capi::log;
use crate::sys::float::Environment;
use crate::sys::fork;

thread_local! {
    /// The caller's floating-point environment while one of its calls runs on this thread.
    static CALLER: Cell<Option<Environment>> = const { Cell::new(None) };
}

/// Refuses a call in a child of the process that used the library.
pub fn refuse_children() -> Result<()> {
    if fork::is_child() {
        return Err(Error::new(
            Status::InvalidState,
            "this process was forked after its parent used the library: use the library in the process that \
             opened it, or in this one after exec",
        ));
    }
    fork::watch()
        .map_err(|error| Error::io("no memory for the fork handler (pthread_atfork); free some", &error))
}

/// Runs a call of C in the default floating-point environment, on which bits depend, then restores
/// the caller's. Rust requires the former, so this makes calls from any environment sound.
pub fn in_default_environment<R>(body: impl FnOnce() -> R) -> R {
    let _restore = Restore(CALLER.replace(Some(Environment::replace_by_default())));
    not_inlined(body)
}

/// A function of its own, so that the compiler moves no arithmetic of `body` out of the environment.
#[inline(never)]
fn not_inlined<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// Ends a call: restores the environment of its caller, and [`CALLER`] of the call around it.
struct Restore(Option<Environment>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(caller) = CALLER.replace(self.0) {
            // SAFETY: the call returns to C, or to the callback of C from which it came.
            unsafe { caller.set() };
        }
    }
}

/// Calls a function of the caller: in the caller's floating-point environment if the call runs on
/// its thread. An exception that leaves the function ends the process, since Rust cannot catch it
/// and a handle cannot be left in the middle of a step.
pub fn callback<R>(function: impl FnOnce() -> R) -> R {
    let caller = CALLER.get();
    let unwinding = AbortOnDrop;
    if let Some(caller) = caller {
        // SAFETY: only the function, which is foreign, runs in this environment.
        unsafe { caller.set() };
    }
    let result = function();
    let left = Environment::replace_by_default();
    if caller.is_some() {
        CALLER.set(Some(left));
    }
    mem::forget(unwinding);
    result
}

struct AbortOnDrop;

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        log::error("an exception left a callback, which ends the process: catch it inside the callback");
        abort();
    }
}

/// Returns `Cancelled` unless the caller's function `name` returned 0.
pub fn may_continue(returned: i32, name: &str, consequence: &str) -> Result<()> {
    if returned == 0 {
        return Ok(());
    }
    Err(Error::new(Status::Cancelled, format!("the {name} function returned {returned}: {consequence}")))
}
