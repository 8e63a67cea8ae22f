//! The log callback, the only output of the library.

use std::cell::Cell;
use std::ffi::c_char;

use parking_lot::Mutex;

use crate::base::{Error, Front, Message, Status};
use crate::capi::argument::User;
use crate::capi::guard::guard;
use crate::capi::process;
use crate::capi::status::{c_string, hz_status_t};

/// `HZ_LOG_ERROR`.
const ERROR: i32 = 1;
/// `HZ_LOG_WARNING`.
const WARNING: i32 = 2;
/// `HZ_LOG_INFO`.
const INFO: i32 = 3;

type LogFunction = unsafe extern "C-unwind" fn(level: i32, message: *const c_char, user: User);

/// The C function that receives messages.
pub type hz_log_callback_t = Option<LogFunction>;

struct Callback {
    function: LogFunction,
    user: User,
}

// SAFETY: the user pointer is only passed to the caller's function; horizon.h requires that it may
// run on any thread.
unsafe impl Send for Callback {}

/// Locked while the callback runs, so that replacing it waits for the old one to return.
static CALLBACK: Mutex<Option<Callback>> = Mutex::new(None);

thread_local! {
    /// True while this thread is inside the callback and holds the lock.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Logs a failure that the caller may miss in a status.
pub fn error(message: impl Into<Message>) {
    send(ERROR, &message.into());
}

/// Logs something unexpected that is not an error.
pub fn warning(message: impl Into<Message>) {
    send(WARNING, &message.into());
}

/// Logs that a handle was opened.
pub fn info(message: impl Into<Message>) {
    send(INFO, &message.into());
}

fn send(level: i32, message: &Message) {
    if INSIDE.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    let callback = CALLBACK.lock();
    if let Some(callback) = &*callback {
        let text = c_string(&message.render(Front::C));
        INSIDE.set(true);
        // SAFETY: horizon.h requires that the caller's function is callable until it is replaced, which
        // waits for the lock held here. The text outlives the call.
        process::callback(|| unsafe { (callback.function)(level, text.as_ptr(), callback.user) });
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
        *CALLBACK.lock() = callback.map(|function| Callback { function, user });
        Ok(())
    })
}
