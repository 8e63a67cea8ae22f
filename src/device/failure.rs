//! The first failure of a device, kept with its place.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Lane, Work};
use crate::base::{Error, Result};

/// Whether a device has failed, and by what: one for all its lanes.
#[derive(Debug, Default)]
pub struct Failure {
    /// From its setting on, tasks are passed over.
    failed: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    /// Keeps an error if it is the first.
    pub fn keep(&self, error: Error) {
        self.first.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether there was one.
    pub fn is_set(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The first one as an error.
    pub fn outcome(&self) -> Result<()> {
        if !self.is_set() {
            return Ok(());
        }
        self.first.lock().clone().map_or(Ok(()), Err)
    }
}

/// Runs a task; its panic becomes an error.
pub fn attempt(work: &dyn Work, lane: Lane, task: u64) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| work.run(lane, task))).unwrap_or_else(|panic| {
        let place = work.describe(task);
        Err(Error::internal(format!("{place} of lane {lane} panicked: {}", text_of(&*panic))))
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is no text")
}
