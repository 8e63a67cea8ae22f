//! Host memory that the device's copy engines reach by themselves.

use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::Result;
use crate::host::{HostSpan, Pin};
use crate::sys::cuda::{PinnedMemory, register, set_device, unregister};

/// Pins host memory for one CUDA device.
#[derive(Debug)]
pub struct CudaPin {
    ordinal: usize,
    /// What [`Pin::allocate`] gave and [`Pin::free`] has not taken back.
    allocated: Mutex<Vec<PinnedMemory>>,
}

impl CudaPin {
    /// For the device of an ordinal.
    pub fn new(ordinal: usize) -> Arc<Self> {
        Arc::new(CudaPin { ordinal, allocated: Mutex::new(Vec::new()) })
    }
}

/// The first byte of pages.
fn base(pages: HostSpan) -> NonNull<u8> {
    NonNull::new(pages.address()).expect("a span has an address")
}

impl Pin for CudaPin {
    fn pin(&self, pages: HostSpan) -> Result<()> {
        set_device(self.ordinal)?;
        // SAFETY: an arena keeps its pages mapped until it has asked to unpin them.
        unsafe { register(base(pages), pages.bytes()) }
    }

    fn unpin(&self, pages: HostSpan) {
        // SAFETY: `pin` succeeded for these pages, and the arena's owner has closed the lanes that copy.
        // A device that is lost cannot answer, and the end of the process unpins what it does not.
        let _ = set_device(self.ordinal).and_then(|()| unsafe { unregister(base(pages)) });
    }

    fn allocate(&self, bytes: usize) -> Result<HostSpan> {
        set_device(self.ordinal)?;
        let memory = PinnedMemory::take(bytes)?;
        let base = memory.base();
        self.allocated.lock().push(memory);
        // SAFETY: new memory of that length, which stays in the list above until `free`. The allocator hands out
        // pages that the kernel has cleared, or that this process has written before: initialised either way.
        Ok(unsafe { HostSpan::new(base, bytes) })
    }

    fn free(&self, memory: HostSpan) {
        let _ = set_device(self.ordinal);
        self.allocated.lock().retain(|own| own.base() != base(memory));
    }

    fn counts_as_locked(&self) -> bool {
        // The driver pins on its own account: RLIMIT_MEMLOCK is not asked.
        false
    }
}
