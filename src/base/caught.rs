//! Panics of other crates that are caught and become errors.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Calls code that may panic on untrusted input; `None` if it did.
pub fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = CATCHING.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(before);
    outcome.ok()
}

/// Keeps the hook of the process from printing panics that [`caught`] catches. A program calls it
/// once, at its start; a library leaves the hook to its host.
pub fn hide_caught_panics() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !CATCHING.try_with(Cell::get).unwrap_or(false) {
            previous(panic);
        }
    }));
}
