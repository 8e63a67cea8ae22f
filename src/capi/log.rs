//! The log callback: the one way for messages out of the library.

use std::cell::Cell;
use std::ffi::c_char;

use parking_lot::Mutex;

use crate::base::{Error, Status};
use crate::capi::argument::User;
use crate::capi::status::{c_string, hz_status_t};
use crate::capi::wall::wall;

/// `HZ_LOG_ERROR`.
const ERROR: i32 = 1;
/// `HZ_LOG_WARNING`.
const WARNING: i32 = 2;
/// `HZ_LOG_INFO`.
const INFO: i32 = 3;

/// The C function that gets messages.
pub type hz_log_callback_t = Option<unsafe extern "C" fn(level: i32, message: *const c_char, user: User)>;

struct Callback {
    function: unsafe extern "C" fn(i32, *const c_char, User),
    user: User,
}

// SAFETY: the user pointer is handed back to the caller's function and never followed; the header asks that
// function to bear any thread.
unsafe impl Send for Callback {}

/// Held while the callback runs, so that whoever replaces it knows that the old one is done.
static CALLBACK: Mutex<Option<Callback>> = Mutex::new(None);

thread_local! {
    /// Whether this thread is inside the callback, where the lock is already held.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A failure that somebody should see even if nobody looks at statuses.
pub fn error(message: &str) {
    send(ERROR, message);
}

/// Something runs otherwise than expected.
pub fn warning(message: &str) {
    send(WARNING, message);
}

/// What was opened.
pub fn info(message: &str) {
    send(INFO, message);
}

fn send(level: i32, message: &str) {
    if INSIDE.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    let callback = CALLBACK.lock();
    if let Some(callback) = &*callback {
        let text = c_string(message);
        INSIDE.set(true);
        // SAFETY: the function is the one the caller set, which by the header stays callable until it is
        // replaced; replacing waits for the lock held here. The text outlives the call.
        unsafe { (callback.function)(level, text.as_ptr(), callback.user) };
        INSIDE.set(false);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_set_log_callback(callback: hz_log_callback_t, user: User) -> hz_status_t {
    wall(|| {
        if INSIDE.get() {
            return Err(Error::new(
                Status::InvalidState,
                "the log callback cannot be replaced from inside a log callback",
            ));
        }
        *CALLBACK.lock() = callback.map(|function| Callback { function, user });
        Ok(())
    })
}
