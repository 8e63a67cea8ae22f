//! The first failure of a device.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Lane, Work};
use crate::base::{Error, Result};

/// The first error of a device, shared by its lanes.
#[derive(Debug, Default)]
pub struct Failure {
    /// Once set, lanes skip tasks.
    failed: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    /// Records an error if it is the first.
    pub fn record(&self, error: Error) {
        self.first.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Returns true if the device has failed.
    pub fn is_set(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Returns the first error, if any.
    pub fn outcome(&self) -> Result<()> {
        if !self.is_set() {
            return Ok(());
        }
        self.first.lock().clone().map_or(Ok(()), Err)
    }
}

/// Runs a task; a panic becomes an error.
pub fn attempt(work: &dyn Work, lane: Lane, task: u64) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| work.run(lane, task))).unwrap_or_else(|panic| {
        let name = work.describe(task);
        Err(Error::internal(format!("{name} of lane {lane} panicked: {}", text_of(&*panic))))
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
