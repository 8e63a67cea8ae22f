//! Host memory that the device's copy engines reach by themselves.

use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use super::calls::Calls;
use crate::base::Result;
use crate::host::{HostSpan, Pin};

/// Pins host memory for one CUDA device.
#[derive(Debug)]
pub struct CudaPin<C: Calls> {
    calls: Arc<C>,
    ordinal: usize,
    /// What [`Pin::allocate`] gave and [`Pin::free`] has not taken back, by address.
    allocated: Mutex<Vec<(usize, C::Pinned)>>,
}

impl<C: Calls> CudaPin<C> {
    /// For the device of an ordinal.
    pub fn new(calls: Arc<C>, ordinal: usize) -> Arc<Self> {
        Arc::new(CudaPin { calls, ordinal, allocated: Mutex::new(Vec::new()) })
    }
}

impl<C: Calls> Pin for CudaPin<C> {
    fn pin(&self, pages: HostSpan) -> Result<()> {
        self.calls.select(self.ordinal)?;
        // SAFETY: an arena keeps its pages mapped until it has asked to unpin them.
        unsafe { self.calls.register(pages) }
    }

    fn unpin(&self, pages: HostSpan) {
        // SAFETY: `pin` succeeded for these pages, and the arena's owner has closed the lanes that copy.
        // A device that is lost cannot answer, and the end of the process unpins what it does not.
        let _ = self.calls.select(self.ordinal).and_then(|()| unsafe { self.calls.unregister(pages) });
    }

    fn allocate(&self, bytes: usize) -> Result<HostSpan> {
        self.calls.select(self.ordinal)?;
        let memory = self.calls.take_pinned(bytes)?;
        let base: NonNull<u8> = self.calls.pinned_base(&memory);
        self.allocated.lock().push((base.as_ptr() as usize, memory));
        // SAFETY: new memory of that length, which stays in the list above until `free`. The allocator hands out
        // pages that the kernel has cleared, or that this process has written before: initialised either way.
        Ok(unsafe { HostSpan::new(base, bytes) })
    }

    fn free(&self, memory: HostSpan) {
        let _ = self.calls.select(self.ordinal);
        self.allocated.lock().retain(|(address, _)| *address != memory.address() as usize);
    }

    fn counts_as_locked(&self) -> bool {
        // The driver pins on its own account: RLIMIT_MEMLOCK is not asked.
        false
    }
}
