//! Memory that a device may copy from and to at full speed.

use std::fmt;

use super::HostSpan;
use crate::base::Result;

/// How the pages of a pinned arena come to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Pages of the arena's own, huge where they can be had, touched by all threads; then the device registers them.
    #[default]
    Registered,
    /// Memory of the device's own allocator, taken under the memory policy of the node.
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

/// How a device keeps pages where they are, so that its copy engines can reach them without the CPU. The device
/// hands it in; an [`Arena`](super::Arena) of kind `Pinned` asks it once, and undoes it when the arena is dropped.
///
/// # Safety
/// [`Pin::allocate`] gives memory of that length, initialised, which nobody else has and which stays until [`Pin::free`].
pub unsafe trait Pin: fmt::Debug + Send + Sync {
    /// Fixed the pages of a span, which have their RAM and stay mapped until [`Pin::unpin`].
    ///
    /// Errors: the device's, with what it sought and found; nothing is pinned then.
    ///
    /// # Safety
    /// The pages are there, and are unpinned before they go.
    unsafe fn pin(&self, pages: HostSpan) -> Result<()>;

    /// Undoes a [`Pin::pin`] that succeeded.
    ///
    /// # Safety
    /// The span is the one that was pinned, and nothing copies from or to it any more.
    unsafe fn unpin(&self, pages: HostSpan);

    /// Takes memory that is pinned from the start, page-aligned, with any content. `bytes` is not 0.
    ///
    /// Errors: the device's.
    fn allocate(&self, bytes: usize) -> Result<HostSpan>;

    /// Gives back what [`Pin::allocate`] gave.
    ///
    /// # Safety
    /// The span is the one that was given, whole, and nothing uses it any more.
    unsafe fn free(&self, memory: HostSpan);

    /// Whether the kernel counts what this pins against `RLIMIT_MEMLOCK`, as `mlock` and RDMA drivers do.
    fn counts_as_locked(&self) -> bool;
}
