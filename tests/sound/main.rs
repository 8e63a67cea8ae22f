//! Soundness: a program without `unsafe` misuses the public types, hidden ones included, and must
//! not crash.
//!
//! Each use is a mistake: values outlive their origin, calls come in the wrong order or from
//! several threads, sizes are 0 or absurd. It must end in an error or a panic. A crash ends the
//! whole program, so that all tests fail.
//!
//! `every_public_type_is_misused` asserts that all public types of the levels that contain `unsafe`
//! occur here. Two kinds are out of reach: handles and pointers of `capi`, which only C can make,
//! and implementations of `Device`, `Pin` and `Plain`, which need `unsafe`.
#![forbid(unsafe_code)]

mod device;
mod memory;
mod names;
mod trainer;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a mistake that may succeed, fail or panic, but not crash.
fn survives<R>(mistake: impl FnOnce() -> R) {
    let _ = catch_unwind(AssertUnwindSafe(mistake));
}

/// Runs a mistake that must panic.
#[track_caller]
fn panics<R>(mistake: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(mistake)).is_err(), "it did not panic");
}
