//! The log callback, the only output of the library.

use std::cell::Cell;
use std::ffi::c_char;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::base::{Error, Status};
use crate::capi::argument::User;
use crate::capi::guard::guard;
use crate::capi::status::{c_string, hz_status_t};

/// `HZ_LOG_NONE`.
const NONE: i32 = 0;
/// `HZ_LOG_ERROR`.
const ERROR: i32 = 1;
/// `HZ_LOG_WARNING`.
const WARNING: i32 = 2;
/// `HZ_LOG_INFO`.
const INFO: i32 = 3;
/// `HZ_LOG_DEBUG`.
const DEBUG: i32 = 4;

/// The C function that receives messages.
pub type hz_log_callback_t = Option<unsafe extern "C" fn(level: i32, message: *const c_char, user: User)>;

struct Callback {
    function: unsafe extern "C" fn(i32, *const c_char, User),
    user: User,
}

// SAFETY: the user pointer is only passed to the caller's function; horizon.h requires that it may
// run on any thread.
unsafe impl Send for Callback {}

/// Locked while the callback runs, so that replacing it waits for the old one to return.
static CALLBACK: Mutex<Option<Callback>> = Mutex::new(None);

/// True if there is a callback.
static LISTENED: AtomicBool = AtomicBool::new(false);

/// The highest level of messages to send.
static LEVEL: AtomicI32 = AtomicI32::new(INFO);

thread_local! {
    /// True while this thread is inside the callback and holds the lock.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Logs a failure that the caller may miss in a status.
pub fn error(message: &str) {
    send(ERROR, message);
}

/// Logs something unexpected that is not an error.
pub fn warning(message: impl Display) {
    send(WARNING, message);
}

/// Logs that a handle was opened.
pub fn info(message: impl Display) {
    send(INFO, message);
}

/// Logs details for a bug report.
pub fn debug(message: impl Display) {
    send(DEBUG, message);
}

/// True if [`debug`] messages are received. Otherwise callers need not gather them.
pub fn receives_debug() -> bool {
    receives(DEBUG)
}

fn receives(level: i32) -> bool {
    LISTENED.load(Relaxed) && level <= LEVEL.load(Relaxed)
}

/// Formats a message, if it is received, and passes it to the callback.
fn send(level: i32, message: impl Display) {
    if !receives(level) || INSIDE.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    let text = c_string(&message.to_string());
    let callback = CALLBACK.lock();
    if let Some(callback) = &*callback {
        INSIDE.set(true);
        // SAFETY: horizon.h requires that the caller's function is callable until it is replaced, which
        // waits for the lock held here. The text outlives the call.
        unsafe { (callback.function)(level, text.as_ptr(), callback.user) };
        INSIDE.set(false);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_set_log_callback(callback: hz_log_callback_t, user: User) -> hz_status_t {
    guard(|| {
        if INSIDE.get() {
            return Err(Error::new(
                Status::InvalidState,
                "hz_set_log_callback was called inside a log callback: call it elsewhere",
            ));
        }
        let mut current = CALLBACK.lock();
        *current = callback.map(|function| Callback { function, user });
        LISTENED.store(current.is_some(), Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_set_log_level(level: i32) -> hz_status_t {
    guard(|| {
        if !(NONE..=DEBUG).contains(&level) {
            return Err(Error::argument(format!("level is {level}, an unknown HZ_LOG_* value")));
        }
        LEVEL.store(level, Relaxed);
        Ok(())
    })
}
