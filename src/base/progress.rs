//! Progress of reading and writing weights.

use crate::base::Result;

/// A callback with the bytes done so far and their total. Any thread calls it. An error it returns ends the work, which then
/// fails with that error.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> Result<()> + Sync);

/// A [`Progress`] that does nothing.
pub fn unwatched(_done: u64, _total: u64) -> Result<()> {
    Ok(())
}
