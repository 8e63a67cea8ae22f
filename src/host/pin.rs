//! Pinned host memory: the interface that a device implements.

use std::fmt;

use super::HostSpan;
use crate::base::Result;

/// The way in which a pinned arena allocates and pins its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// The arena maps the pages, huge pages if available, and touches them with all threads; the
    /// device then registers them.
    #[default]
    Registered,
    /// The device's allocator provides pinned memory, with a preference for the NUMA node.
    Allocated,
}

impl fmt::Display for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pinning::Registered => "pages registered with the device",
            Pinning::Allocated => "the device's allocator",
        })
    }
}

/// Pins host memory for a device's copy engines. Implemented by the device; an
/// [`Arena`](super::Arena) of kind `Pinned` pins once and unpins when it is dropped.
///
/// # Safety
/// [`Pin::allocate`] returns initialized memory of the requested length, not aliased and valid
/// until [`Pin::free`].
pub unsafe trait Pin: fmt::Debug + Send + Sync {
    /// Pins the pages of a span, which are backed by RAM.
    ///
    /// Errors: those of the device; nothing is pinned then.
    ///
    /// # Safety
    /// The pages are mapped, and are unpinned before they are unmapped.
    unsafe fn pin(&self, pages: HostSpan) -> Result<()>;

    /// Unpins pages that [`Pin::pin`] pinned.
    ///
    /// # Safety
    /// The span is the one that was pinned, and no copy from or to it is in flight.
    unsafe fn unpin(&self, pages: HostSpan);

    /// Allocates `bytes` bytes (not 0) of pinned memory, page-aligned, with any content.
    ///
    /// Errors: those of the device.
    fn allocate(&self, bytes: usize) -> Result<HostSpan>;

    /// Frees memory that [`Pin::allocate`] returned.
    ///
    /// # Safety
    /// The span is a whole allocation, and nothing uses it any more.
    unsafe fn free(&self, memory: HostSpan);

    /// Returns true if the kernel counts pinned pages against `RLIMIT_MEMLOCK`, as for `mlock` and
    /// RDMA drivers.
    fn counts_as_locked(&self) -> bool;
}
