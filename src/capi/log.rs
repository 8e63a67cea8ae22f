//! The log callback, the only output of the library.

use std::cell::Cell;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::base::{Error, Front, Message, Status};
use crate::capi::argument::User;
use crate::capi::enums::Enum;
use crate::capi::guard::guard;
use crate::capi::process;
use crate::capi::status::{c_string, hz_status_t};

/// Levels of messages, ascending.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Level {
    None,
    Error,
    Warning,
    Info,
    Debug,
}

/// `HZ_LOG_*`.
pub(super) static LEVELS: Enum<Level> = Enum {
    name: "hz_log_level_t",
    constants: &[
        (c"HZ_LOG_NONE", 0, Level::None),
        (c"HZ_LOG_ERROR", 1, Level::Error),
        (c"HZ_LOG_WARNING", 2, Level::Warning),
        (c"HZ_LOG_INFO", 3, Level::Info),
        (c"HZ_LOG_DEBUG", 4, Level::Debug),
    ],
};

type LogFunction = unsafe extern "C-unwind" fn(level: u32, message: *const c_char, user: User);

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

/// True if there is a callback.
static LISTENED: AtomicBool = AtomicBool::new(false);

/// The highest level of messages to send.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

thread_local! {
    /// True while this thread is inside the callback and holds the lock.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Logs a failure that the caller may miss in a status.
pub fn error(message: impl Into<Message>) {
    send(Level::Error, message);
}

/// Logs something unexpected that is not an error.
pub fn warning(message: impl Into<Message>) {
    send(Level::Warning, message);
}

/// Logs that a handle was opened.
pub fn info(message: impl Into<Message>) {
    send(Level::Info, message);
}

/// Logs details for a bug report.
pub fn debug(message: impl Into<Message>) {
    send(Level::Debug, message);
}

/// True if [`debug`] messages are received. Otherwise callers need not gather them.
pub fn receives_debug() -> bool {
    receives(Level::Debug)
}

fn receives(level: Level) -> bool {
    LISTENED.load(Relaxed) && level as u8 <= LEVEL.load(Relaxed)
}

/// Formats a message, if it is received, and passes it to the callback.
fn send(level: Level, message: impl Into<Message>) {
    if !receives(level) || INSIDE.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    let text = c_string(&message.into().render(Front::C));
    let callback = CALLBACK.lock();
    if let Some(callback) = &*callback {
        INSIDE.set(true);
        // SAFETY: horizon.h requires that the caller's function is callable until it is replaced, which
        // waits for the lock held here. The text outlives the call.
        process::callback(|| unsafe {
            (callback.function)(LEVELS.number(level), text.as_ptr(), callback.user)
        });
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
pub extern "C" fn hz_set_log_level(level: u32) -> hz_status_t {
    guard(|| {
        LEVEL.store(LEVELS.value(level, "level")? as u8, Relaxed);
        Ok(())
    })
}
