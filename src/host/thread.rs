//! The only place where the library starts threads.
//!
//! The process belongs to the caller, so a thread of the library blocks the caller's signals (the
//! mask is set before it exists), has a name that begins with `hz-`, and computes in the default
//! floating-point environment, which it would otherwise inherit.

use std::fmt::Display;
use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::base::{Error, Result, Status};
use crate::sys::float::Environment;
use crate::sys::linux;

/// Starts the thread `hz-{name}`.
///
/// Errors: the system refuses it (`Io`).
pub fn start_thread<T, F>(name: impl Display, body: F) -> Result<JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    create(name, |builder| builder.spawn(in_default_environment(body)))
}

/// As [`start_thread`], with a stack of `stack_bytes`.
pub fn start_deep_thread<T, F>(name: impl Display, stack_bytes: usize, body: F) -> Result<JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    create(name, |builder| builder.stack_size(stack_bytes).spawn(in_default_environment(body)))
}

/// Starts the thread `hz-{name}`, which may borrow from outside the scope. Callers join it: the end
/// of a scope waits for the body only.
///
/// Errors: the system refuses it (`Io`).
pub fn start_scoped_thread<'scope, T, F>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Display,
    body: F,
) -> Result<ScopedJoinHandle<'scope, T>>
where
    T: Send + 'scope,
    F: FnOnce() -> T + Send + 'scope,
{
    create(name, |builder| builder.spawn_scoped(scope, in_default_environment(body)))
}

fn in_default_environment<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        Environment::replace_by_default();
        body()
    }
}

fn create<H>(name: impl Display, spawn: impl FnOnce(Builder) -> io::Result<H>) -> Result<H> {
    let builder = Builder::new().name(format!("hz-{name}"));
    linux::blocking_signals(|| spawn(builder)).map_err(|error| {
        Error::new(
            Status::Io,
            format!(
                "the system refused the thread hz-{name} ({error}): use fewer threads, free memory, or raise \
                 `ulimit -u` or the container's pids.max"
            ),
        )
    })
}
