//! Nothing passes but a status: errors become numbers, panics become errors, a handle that failed stays
//! failed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;

use parking_lot::Mutex;

use crate::base::{Error, Result, Status};
use crate::capi::log;
use crate::capi::status::{self, hz_status_t};

thread_local! {
    /// Calls of this thread that are inside the wall, nested by a log callback that calls in again.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic of this thread was raised.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of an `extern "C"` function and gives its status; the message goes to `hz_last_error`.
pub fn wall(body: impl FnOnce() -> Result<()>) -> hz_status_t {
    match catch(body) {
        Ok(()) => Status::Ok as hz_status_t,
        Err(error) => {
            status::remember(&error);
            error.status() as hz_status_t
        }
    }
}

/// A panic of `body` as an error.
fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    quieten();
    DEPTH.set(DEPTH.get() + 1);
    // What a panic may leave half-done is either dropped here with `body` or behind a `Guarded`, which lets
    // nobody see it again.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    outcome.unwrap_or_else(|payload| {
        let place = PLACE.take().map_or(String::new(), |place| format!(" at {place}"));
        Err(Error::new(
            Status::Panic,
            format!("the library panicked{place}: {}; this is a bug, please report it", text(&*payload)),
        ))
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Rust prints panics to stderr; a library does not print. Ours go to the log callback instead. A Rust
/// program that uses this crate keeps its own hook for its own threads.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo| {
            let ours = DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
                || thread::current().name().is_some_and(|name| name.starts_with("hz-"));
            if !ours {
                return previous(info);
            }
            let place = info.location().map(ToString::to_string);
            log::error(&format!(
                "panic at {}: {}",
                place.as_deref().unwrap_or("an unknown place"),
                text(info.payload())
            ));
            let _ = PLACE.try_with(|last| last.replace(place));
        }));
    });
}

/// The state behind a handle: one call at a time, and none after the first that breaks it.
pub struct Guarded<T>(Mutex<State<T>>);

struct State<T> {
    value: T,
    failed: Option<Error>,
}

impl<T> Guarded<T> {
    /// A state that works.
    pub fn new(value: T) -> Self {
        Guarded(Mutex::new(State { value, failed: None }))
    }

    /// Runs a call on the state; errors as [`Guarded::attempt`], or [`busy`].
    pub fn run<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        self.attempt(body).unwrap_or_else(|| Err(busy()))
    }

    /// Runs a call on the state, or none while another call runs.
    ///
    /// Errors: the first error that broke the state, for ever after; those of `body`, of which the ones after
    /// which the state cannot be trusted break it.
    pub fn attempt<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Option<Result<R>> {
        let mut state = self.0.try_lock()?;
        if let Some(first) = &state.failed {
            return Some(Err(first.clone()));
        }
        let value = &mut state.value;
        let outcome = catch(|| body(value));
        if let Err(error) = &outcome
            && breaks(error.status())
        {
            log::error(&format!("the trainer has failed and stays failed: {error}"));
            state.failed = Some(error.clone());
        }
        Some(outcome)
    }
}

/// What a second call gets while one is running.
pub fn busy() -> Error {
    Error::new(
        Status::InvalidState,
        "another call is running on this handle: one thread uses a trainer at a time",
    )
}

/// Whether a state that met this error may be wrong.
fn breaks(status: Status) -> bool {
    matches!(status, Status::DeviceFailed | Status::Internal | Status::Panic)
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_error() -> String {
        // SAFETY: the pointer is never NULL and its text lives until the next failure on this thread.
        unsafe { CStr::from_ptr(status::hz_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn an_error_becomes_its_number_and_its_message() {
        assert_eq!(wall(|| Err(Error::argument("too long"))), 100);
        assert_eq!(last_error(), "too long");
        assert_eq!(wall(|| Ok(())), 0);
        assert_eq!(last_error(), "too long", "success leaves the message alone");
    }

    #[test]
    fn a_panic_becomes_a_status_and_fails_the_handle_for_good() {
        let state = Guarded::new(());
        let call = |body: fn(&mut ()) -> Result<()>| wall(|| state.run(body));
        assert_eq!(call(|_| Ok(())), 0);
        assert_eq!(call(|_| panic!("the sky fell")), 901);
        let first = last_error();
        assert!(first.contains("the sky fell") && first.contains("wall.rs"), "{first}");
        assert_eq!(call(|_| unreachable!("a failed state is not touched")), 901);
        assert_eq!(last_error(), first);
    }

    #[test]
    fn a_callers_mistake_leaves_the_handle_usable_and_a_failed_device_does_not() {
        let state = Guarded::new(());
        let call = |status| state.run(|_| Err::<(), _>(Error::new(status, "no"))).unwrap_err().status();
        assert_eq!(call(Status::NonFinite), Status::NonFinite);
        assert!(state.run(|_| Ok(())).is_ok());
        assert_eq!(call(Status::DeviceFailed), Status::DeviceFailed);
        assert_eq!(call(Status::NotFound), Status::DeviceFailed, "the first error is kept");
    }

    #[test]
    fn a_second_call_is_refused_while_one_runs() {
        let state = Guarded::new(());
        let inner = state.run(|_| Ok(state.run(|_| Ok(())).unwrap_err().status())).unwrap();
        assert_eq!(inner, Status::InvalidState);
        assert!(state.run(|_| Ok(())).is_ok());
    }
}
