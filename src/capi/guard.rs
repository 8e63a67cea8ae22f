//! The guard around every `extern "C"` function: panics become errors, errors become statuses, and a
//! failed handle stays failed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;

use parking_lot::Mutex;

use crate::base::{Error, Result, Status};
use crate::capi::log;
use crate::capi::process;
use crate::capi::status::{self, hz_status_t};

thread_local! {
    /// Guarded calls on this thread; nested if a log callback calls the library.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Source location of the last panic on this thread.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of an `extern "C"` function and returns its status; `hz_last_error` returns the
/// message.
pub fn guard(body: impl FnOnce() -> Result<()>) -> hz_status_t {
    process::in_default_environment(|| match process::refuse_children().and_then(|()| catch(body)) {
        Ok(()) => Status::Ok as hz_status_t,
        Err(error) => {
            status::remember(&error);
            error.status() as hz_status_t
        }
    })
}

/// Runs `body` and returns a panic as an error.
fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    set_panic_hook();
    DEPTH.set(DEPTH.get() + 1);
    // State that a panic leaves inconsistent is dropped with `body`, or is in a `Guarded`, which does
    // not run again.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    outcome.unwrap_or_else(|payload| {
        let location = LOCATION.take().map_or(String::new(), |location| format!(" at {location}"));
        Err(Error::new(
            Status::Panic,
            format!("the library panicked{location}: {}; this is a bug, please report it", text(&*payload)),
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

/// Sends panics of this library to the log callback instead of stderr. Other threads of a Rust
/// program keep its hook.
fn set_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo| {
            let ours = DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
                || thread::current().name().is_some_and(|name| name.starts_with("hz-"));
            if !ours {
                return previous(info);
            }
            let location = info.location().map(ToString::to_string);
            log::error(format!(
                "panic at {}: {}",
                location.as_deref().unwrap_or("an unknown location"),
                text(info.payload())
            ));
            let _ = LOCATION.try_with(|last| last.replace(location));
        }));
    });
}

/// A value that can tell that it has failed for good.
pub trait Failing {
    /// True if every later call would return the same error.
    fn has_failed(&self) -> bool;
}

/// The state of a handle: runs one call at a time, and none after one that breaks it.
pub struct Guarded<T>(Mutex<State<T>>);

struct State<T> {
    /// `None` after the end.
    value: Option<T>,
    failed: Option<Error>,
}

impl<T: Failing> Guarded<T> {
    /// Wraps a value for calls; none has failed yet.
    pub fn new(value: T) -> Self {
        Guarded(Mutex::new(State { value: Some(value), failed: None }))
    }

    /// Runs a call on the state.
    ///
    /// Errors: those of `body`; [`busy`] while another call runs; [`closed`]. After one that
    /// [breaks](breaks) the state, or after which it has [failed](Failing), every call returns it
    /// again.
    pub fn run<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        self.0.try_lock().ok_or_else(busy)?.run(false, body)
    }

    /// Like [`Guarded::run`], but also runs on a state that [has failed](Failing), which then itself
    /// refuses a call that it cannot serve.
    pub fn run_failed<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        self.0.try_lock().ok_or_else(busy)?.run(true, body)
    }

    /// Ends the state: runs a last call on it, and drops it. Returns the outcome of that call.
    ///
    /// Errors: [`busy`] while another call runs; [`closed`].
    pub fn end(&self, last: impl FnOnce(&mut T) -> Result<()>) -> Result<Result<()>> {
        let mut state = self.0.try_lock().ok_or_else(busy)?;
        if state.value.is_none() {
            return Err(closed());
        }
        let outcome = state.run(false, last);
        state.value = None;
        Ok(outcome)
    }
}

impl<T: Failing> State<T> {
    fn run<R>(&mut self, also_failed: bool, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        if let Some(first) = &self.failed
            && !(also_failed && self.value.as_ref().is_some_and(Failing::has_failed))
        {
            return Err(first.clone());
        }
        let value = self.value.as_mut().ok_or_else(closed)?;
        let outcome = catch(|| body(value));
        if let Err(error) = &outcome
            && self.failed.is_none()
            && (breaks(error.status()) || value.has_failed())
        {
            log::error(error.clone().within("the trainer has failed permanently").into_message());
            self.failed = Some(error.clone());
        }
        outcome
    }
}

/// The error of a second call while one is running.
fn busy() -> Error {
    Error::new(
        Status::InvalidState,
        "another call is running on this trainer (a callback of it, or another thread): call again after it has \
         returned, and use a trainer from one thread at a time",
    )
}

/// The error of a call that found the trainer open, and began after another thread closed it.
fn closed() -> Error {
    Error::argument("trainer is not an open trainer: it was closed")
}

/// True for errors after which the state may be wrong.
fn breaks(status: Status) -> bool {
    matches!(status, Status::DeviceFailed | Status::Internal | Status::Panic)
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    impl Failing for () {
        fn has_failed(&self) -> bool {
            false
        }
    }

    /// A state whose calls tell whether it has failed.
    impl Failing for bool {
        fn has_failed(&self) -> bool {
            *self
        }
    }

    fn last_error() -> String {
        // SAFETY: the pointer is never NULL and its text lives until the next failure on this thread.
        unsafe { CStr::from_ptr(status::hz_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn an_error_becomes_its_number_and_its_message() {
        assert_eq!(guard(|| Err(Error::argument("too long"))), 100);
        assert_eq!(last_error(), "too long");
        assert_eq!(guard(|| Ok(())), 0);
        assert_eq!(last_error(), "too long", "success keeps the message");
    }

    #[test]
    fn a_panic_becomes_a_status_and_fails_the_handle_for_good() {
        let state = Guarded::new(());
        let call = |body: fn(&mut ()) -> Result<()>| guard(|| state.run(body));
        assert_eq!(call(|_| Ok(())), 0);
        assert_eq!(call(|_| panic!("the first panic")), 901);
        let first = last_error();
        assert!(first.contains("the first panic") && first.contains("guard.rs"), "{first}");
        assert_eq!(call(|_| unreachable!("a failed state does not run calls")), 901);
        assert_eq!(last_error(), first);
    }

    #[test]
    fn errors_of_the_caller_keep_the_handle_usable_and_device_failures_do_not() {
        let state = Guarded::new(());
        let call = |status| state.run(|_| Err::<(), _>(Error::new(status, "no"))).unwrap_err().status();
        assert_eq!(call(Status::NonFinite), Status::NonFinite);
        assert!(state.run(|_| Ok(())).is_ok());
        assert_eq!(call(Status::DeviceFailed), Status::DeviceFailed);
        assert_eq!(call(Status::NotFound), Status::DeviceFailed, "the first error is returned again");
    }

    #[test]
    fn the_error_of_the_call_that_fails_the_value_is_returned_again() {
        let state = Guarded::new(false);
        let call = |status, fails| {
            let body = |failed: &mut bool| {
                *failed = fails;
                Err::<(), _>(Error::new(status, "no"))
            };
            state.run(body).unwrap_err().status()
        };
        assert_eq!(call(Status::Cancelled, false), Status::Cancelled);
        assert_eq!(call(Status::BadFormat, true), Status::BadFormat);
        assert_eq!(call(Status::NotFound, true), Status::BadFormat);
    }

    #[test]
    fn a_failed_value_may_be_read_and_a_broken_state_may_not() {
        let failed = Guarded::new(false);
        let fail = |failed: &mut bool| {
            *failed = true;
            Err::<(), _>(Error::new(Status::DeviceFailed, "gone"))
        };
        failed.run(fail).unwrap_err();
        assert!(failed.run_failed(|_| Ok(())).is_ok());
        assert_eq!(
            failed.run_failed(|_| Err::<(), _>(Error::new(Status::DiskFull, "no"))).unwrap_err().status(),
            Status::DiskFull
        );
        assert_eq!(failed.run(|_| Ok(())).unwrap_err().status(), Status::DeviceFailed);
        let broken = Guarded::new(false);
        broken.run(|_| -> Result<()> { panic!("on the way") }).unwrap_err();
        assert_eq!(broken.run_failed(|_| Ok(())).unwrap_err().status(), Status::Panic);
    }

    #[test]
    fn a_second_call_fails_while_one_runs() {
        let state = Guarded::new(());
        let inner = state.run(|_| Ok(state.run(|_| Ok(())).unwrap_err().status())).unwrap();
        assert_eq!(inner, Status::InvalidState);
        assert!(state.run(|_| Ok(())).is_ok());
        let inner = state.run(|_| Ok(state.end(|_| Ok(())).unwrap_err().status())).unwrap();
        assert_eq!(inner, Status::InvalidState, "a state in use does not end");
        assert!(state.run(|_| Ok(())).is_ok());
    }

    #[test]
    fn a_state_ends_once_with_the_outcome_of_its_last_call() {
        let state = Guarded::new(());
        let last = state.end(|_| Err(Error::new(Status::Io, "no"))).unwrap();
        assert_eq!(last.unwrap_err().status(), Status::Io);
        for late in [state.run(|_| Ok(())).unwrap_err(), state.end(|_| Ok(())).unwrap_err()] {
            assert_eq!(late.status(), Status::InvalidArgument);
        }
    }
}
