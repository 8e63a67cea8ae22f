//! Progress callbacks for reading and writing weights.

use crate::base::Result;

/// A callback that receives the bytes done so far and the total. Any thread may call it. If it
/// returns an error, the operation stops and fails with that error.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> Result<()> + Sync);

/// A [`Progress`] that does nothing.
pub fn unwatched(_done: u64, _total: u64) -> Result<()> {
    Ok(())
}
