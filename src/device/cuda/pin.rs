//! Pinned host memory for a CUDA device.

use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::Result;
use crate::host::{HostSpan, Pin};
use crate::sys::cuda::{PinnedMemory, register, set_device, unregister};

/// Pins host memory through one CUDA device.
#[derive(Debug)]
pub struct CudaPin {
    ordinal: usize,
    /// Allocations of [`Pin::allocate`] that are not freed yet.
    allocated: Mutex<Vec<PinnedMemory>>,
}

impl CudaPin {
    /// A `CudaPin` for the device with this ordinal.
    pub fn new(ordinal: usize) -> Arc<Self> {
        Arc::new(CudaPin { ordinal, allocated: Mutex::new(Vec::new()) })
    }
}

/// The address of the first byte.
fn base(pages: HostSpan) -> NonNull<u8> {
    NonNull::new(pages.address()).expect("a span has an address")
}

// SAFETY: memory from `allocate` is initialized, as argued there, and stays in the list until
// `free`.
unsafe impl Pin for CudaPin {
    unsafe fn pin(&self, pages: HostSpan) -> Result<()> {
        set_device(self.ordinal)?;
        // SAFETY: the caller guarantees that the pages stay mapped until they are unpinned.
        unsafe { register(base(pages), pages.bytes()) }
    }

    unsafe fn unpin(&self, pages: HostSpan) {
        // On a lost device this fails; the pages are then unpinned at the end of the process.
        // SAFETY: the caller guarantees that they were pinned and that no copy is in flight.
        let _ = set_device(self.ordinal).and_then(|()| unsafe { unregister(base(pages)) });
    }

    fn allocate(&self, bytes: usize) -> Result<HostSpan> {
        set_device(self.ordinal)?;
        let memory = PinnedMemory::take(bytes)?;
        let base = memory.base();
        self.allocated.lock().push(memory);
        // SAFETY: new memory of that length, initialized: its pages were zeroed by the kernel or
        // written by this process earlier.
        Ok(unsafe { HostSpan::new(base, bytes) })
    }

    unsafe fn free(&self, memory: HostSpan) {
        let _ = set_device(self.ordinal);
        self.allocated.lock().retain(|own| own.base() != base(memory));
    }

    fn counts_as_locked(&self) -> bool {
        // The driver pins pages without counting them against RLIMIT_MEMLOCK.
        false
    }
}
