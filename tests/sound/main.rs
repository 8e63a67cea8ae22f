//! Safe code cannot crash: a program that may not say `unsafe` and abuses the public types, hidden ones included.
//!
//! Each use below is a mistake: things outlive what they were made from, calls come in the wrong order or from several threads,
//! sizes are 0 or absurd. It must end in an error or a panic. A crash ends the whole program, so that all tests fail.
//!
//! `every_public_type_is_abused` holds that the types of the levels that contain `unsafe` are all named here. What only C can make
//! (the handles and pointers of `capi`) is not reachable, and `Device`, `Pin` and `Plain` cannot be implemented without `unsafe`.
#![forbid(unsafe_code)]

mod device;
mod memory;
mod names;
mod trainer;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a mistake that may end in anything but a crash.
fn survives<R>(mistake: impl FnOnce() -> R) {
    let _ = catch_unwind(AssertUnwindSafe(mistake));
}

/// Runs a mistake that must panic.
#[track_caller]
fn panics<R>(mistake: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(mistake)).is_err(), "it was accepted");
}
