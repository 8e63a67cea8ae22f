//! Host memory taken once, carved, sealed.

use std::ptr::NonNull;

/// A piece of host memory. A plain address: it owns nothing; the [`Arena`] it was carved from must outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSpan {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a span is an address and a length; reading or writing through it is `unsafe` and argued there.
unsafe impl Send for HostSpan {}
// SAFETY: as above, a shared span gives no access by itself.
unsafe impl Sync for HostSpan {}

impl HostSpan {
    /// A span over `bytes` bytes at `base`.
    ///
    /// # Safety
    /// The memory is allocated, initialised, and outlives every use of the span.
    pub unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        HostSpan { base, bytes }
    }

    /// The address.
    pub fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part from byte `offset`, `bytes` long.
    ///
    /// # Panics
    /// If the part leaves the span.
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "a part of {bytes} bytes at {offset} leaves a host span of {} bytes",
            self.bytes
        );
        // SAFETY: `offset` is within the span, so the sum stays inside (or one past) the same allocation.
        let base = unsafe { self.base.add(offset) };
        HostSpan { base, bytes }
    }
}

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
    /// All of it. Its spans must not be used after the arena is dropped.
    pub fn whole(&self) -> HostSpan {
        self.whole
    }
}
