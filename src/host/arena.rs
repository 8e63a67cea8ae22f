//! Host memory taken once, carved, sealed.

use std::ptr::NonNull;

use super::{HostSpan, Limits, Size};
use crate::base::{Error, Result, Status};
use crate::sys::linux;

/// What an arena's memory is. A required argument: nobody pins, binds or write-combines by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Anonymous pages of this process.
    Plain,
}

/// One stretch of host memory, zeroed, page-aligned, taken at once and returned at drop.
#[derive(Debug)]
pub struct Arena {
    whole: HostSpan,
}

impl Arena {
    /// Takes `bytes` bytes, exactly. Pages get RAM when they are first touched: whoever plans the memory asks
    /// [`Limits`] before, because the kernel answers a touch too many by killing.
    ///
    /// Errors: the kernel refuses (`OutOfHostMemory`, with need and have).
    pub fn take(bytes: usize, kind: MemoryKind) -> Result<Arena> {
        let MemoryKind::Plain = kind;
        if bytes == 0 {
            // SAFETY: no byte is ever read or written through a span of length 0.
            return Ok(Arena { whole: unsafe { HostSpan::new(NonNull::dangling(), 0) } });
        }
        let base = linux::map_anonymous(bytes).map_err(|error| {
            Error::new(
                Status::OutOfHostMemory,
                format!(
                    "an arena of {} was refused by the system ({error}); {}",
                    Size(bytes),
                    Limits::read(None)
                ),
            )
        })?;
        // SAFETY: a fresh mapping of `bytes` zeroed bytes, unmapped only when the arena is dropped.
        Ok(Arena { whole: unsafe { HostSpan::new(base, bytes) } })
    }

    /// All of it. Its spans must not be used after the arena is dropped.
    pub fn whole(&self) -> HostSpan {
        self.whole
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(base) = NonNull::new(self.whole.address()).filter(|_| self.whole.bytes() != 0) {
            // SAFETY: the mapping that `take` made, whole; spans must not be used after the arena.
            unsafe { linux::unmap(base, self.whole.bytes()) }
        }
    }
}
