//! Memory that a device may copy from and to at full speed.

use std::fmt;

use super::HostSpan;
use crate::base::Result;

/// How a device keeps pages where they are, so that its copy engines can reach them without the CPU. The device
/// hands it in; an [`Arena`](super::Arena) of kind `Pinned` asks it once, and undoes it when the arena is dropped.
pub trait Pin: fmt::Debug + Send + Sync {
    /// Pins the pages of a span, which have their RAM and stay mapped until [`Pin::unpin`].
    ///
    /// Errors: the device's, with what it sought and found; nothing is pinned then.
    fn pin(&self, pages: HostSpan) -> Result<()>;

    /// Undoes a [`Pin::pin`] that succeeded, for the same span. Nothing copies any more.
    fn unpin(&self, pages: HostSpan);

    /// Whether the kernel counts what this pins against `RLIMIT_MEMLOCK`, as `mlock` and RDMA drivers do.
    fn counts_as_locked(&self) -> bool;
}
