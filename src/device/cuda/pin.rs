//! Host memory that the device's copy engines reach by themselves.

use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::Result;
use crate::host::{HostSpan, Pin};
use crate::sys::cuda::{PinnedMemory, register, set_device, unregister};

/// Fixed host memory for one CUDA device.
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

// SAFETY: what `allocate` gives stays in the list until `free`.
unsafe impl Pin for CudaPin {
    unsafe fn pin(&self, pages: HostSpan) -> Result<()> {
        set_device(self.ordinal)?;
        // SAFETY: by the caller's word the pages are there until they are unpinned.
        unsafe { register(base(pages), pages.bytes()) }
    }

    unsafe fn unpin(&self, pages: HostSpan) {
        // SAFETY: by the caller's word they were pinned, and nothing copies any more.
        // A device that is lost cannot answer, and the end of the process unpins what it does not.
        let _ = set_device(self.ordinal).and_then(|()| unsafe { unregister(base(pages)) });
    }

    fn allocate(&self, bytes: usize) -> Result<HostSpan> {
        set_device(self.ordinal)?;
        let memory = PinnedMemory::take(bytes)?;
        let base = memory.base();
        self.allocated.lock().push(memory);
        // SAFETY: new memory of that length. The allocator hands out pages that the kernel has cleared, or that this process
        // has written before: initialised either way.
        Ok(unsafe { HostSpan::new(base, bytes) })
    }

    unsafe fn free(&self, memory: HostSpan) {
        let _ = set_device(self.ordinal);
        self.allocated.lock().retain(|own| own.base() != base(memory));
    }

    fn counts_as_locked(&self) -> bool {
        // The driver pins on its own account: RLIMIT_MEMLOCK is not asked.
        false
    }
}
