//! Progress callbacks for reading and writing weights.

use std::fmt;

use parking_lot::Mutex;

use crate::base::{Error, Result};

/// A callback that receives the bytes done so far and the total, on any thread, one call at a time.
/// The bytes done grow and end at the total. If it returns an error, the operation stops and fails
/// with that error.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> Result<()> + Sync);

/// A [`Progress`] that does nothing.
pub fn unwatched(_done: u64, _total: u64) -> Result<()> {
    Ok(())
}

/// A [`Progress`] that an operation keeps.
pub type OwnedProgress = Box<dyn Fn(u64, u64) -> Result<()> + Send + Sync>;

/// Counts the bytes of an operation that several threads do, and reports them.
pub struct Meter<P> {
    total: u64,
    progress: P,
    /// Bytes done, or the error after which nothing is reported.
    done: Mutex<Result<u64>>,
}

impl<P: Fn(u64, u64) -> Result<()>> Meter<P> {
    /// A meter for `total` bytes.
    pub fn new(total: u64, progress: P) -> Self {
        Meter { total, progress, done: Mutex::new(Ok(0)) }
    }

    /// Counts and reports further bytes. Errors: the first error of the callback.
    pub fn add(&self, bytes: u64) -> Result<()> {
        let mut done = self.done.lock();
        let sum = done.as_ref().map_err(Error::clone)? + bytes;
        *done = (self.progress)(sum, self.total).map(|()| sum);
        done.as_ref().map(drop).map_err(Error::clone)
    }
}

impl<P> fmt::Debug for Meter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("total", &self.total).field("done", &self.done).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::base::Status;

    #[test]
    fn progress_is_reported_in_order_until_an_error() {
        let calls = Mutex::new(Vec::new());
        let progress = |done, total| {
            calls.lock().push((done, total));
            if done < 400 { Ok(()) } else { Err(Error::new(Status::Cancelled, "enough")) }
        };
        let meter = Meter::new(500, progress);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| drop(meter.add(5))));
            }
        });
        assert_eq!(meter.add(5).unwrap_err().message(), "enough");
        assert_eq!(*calls.lock(), (1..=80).map(|call| (5 * call, 500)).collect::<Vec<_>>());
    }
}
