//! The calls, made for real.

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::calls::{Calls, Properties};
use crate::base::Result;
use crate::host::HostSpan;
use crate::sys::cuda::{self, DeviceMemory, Direction, Driver, Event, PinnedMemory, Stream, device_address};
use crate::sys::cuda_status::Presence;

/// CUDA itself.
#[derive(Debug, Default)]
pub struct Cuda {
    driver: OnceLock<Driver>,
}

impl Cuda {
    fn driver(&self) -> Result<&Driver> {
        match self.driver.get() {
            Some(driver) => Ok(driver),
            None => Driver::open().map(|driver| self.driver.get_or_init(|| driver)),
        }
    }
}

/// Page-locked memory, and where the device sees it.
#[derive(Debug)]
pub struct Mapped {
    memory: PinnedMemory,
    device: NonNull<u8>,
}

// SAFETY: the addresses of memory that belongs to the value; whoever uses them does so atomically or in order.
unsafe impl Send for Mapped {}
// SAFETY: a shared handle gives addresses, no access.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn word(&self, offset: usize) -> NonNull<u8> {
        assert!(offset + 4 <= self.memory.bytes(), "a word outside its memory");
        // SAFETY: inside the allocation, by the line above; the device's view of it is as long.
        unsafe { self.device.add(offset) }
    }
}

impl Calls for Cuda {
    type Stream = Arc<Stream>;
    type Event = Event;
    type Memory = DeviceMemory;
    type Pinned = Mapped;

    fn presence(&self) -> Result<Presence> {
        cuda::presence()
    }

    fn properties(&self, device: usize) -> Result<Properties> {
        Ok(Properties {
            name: self.driver()?.device_name(device)?,
            pci_bus_id: cuda::pci_bus_id(device)?,
            compute_capability: cuda::compute_capability(device)?,
        })
    }

    fn select(&self, device: usize) -> Result<()> {
        cuda::set_device(device)
    }

    fn memory_free(&self) -> Result<usize> {
        cuda::memory_info().map(|(free, _)| free)
    }

    fn take_memory(&self, bytes: usize) -> Result<DeviceMemory> {
        DeviceMemory::take(bytes)
    }

    fn memory_base(&self, memory: &DeviceMemory) -> NonNull<u8> {
        memory.base()
    }

    fn take_pinned(&self, bytes: usize) -> Result<Mapped> {
        let memory = PinnedMemory::take(bytes)?;
        Ok(Mapped { device: device_address(memory.base())?, memory })
    }

    fn pinned_base(&self, pinned: &Mapped) -> NonNull<u8> {
        pinned.memory.base()
    }

    // SAFETY: the trait asks of the caller what `cuda::register` asks.
    unsafe fn register(&self, pages: HostSpan) -> Result<()> {
        let base = NonNull::new(pages.address()).expect("a span has an address");
        // SAFETY: the pages stay until `unregister`, by the caller's word.
        unsafe { cuda::register(base, pages.bytes()) }
    }

    // SAFETY: the trait asks that no copy be under way, as `cuda::unregister` does.
    unsafe fn unregister(&self, pages: HostSpan) -> Result<()> {
        let base = NonNull::new(pages.address()).expect("a span has an address");
        // SAFETY: no copy is under way, by the caller's word.
        unsafe { cuda::unregister(base) }
    }

    fn new_stream(&self) -> Result<Arc<Stream>> {
        Stream::new().map(Arc::new)
    }

    fn synchronize_stream(&self, stream: &Arc<Stream>) -> Result<()> {
        stream.synchronize()
    }

    fn new_event(&self, timing: bool) -> Result<Event> {
        Event::new(timing)
    }

    fn record(&self, event: &Event, stream: &Arc<Stream>) -> Result<()> {
        event.record(stream)
    }

    fn wait_event(&self, stream: &Arc<Stream>, event: &Event) -> Result<()> {
        stream.wait(event)
    }

    fn is_done(&self, event: &Event) -> Result<bool> {
        event.is_done()
    }

    fn synchronize_event(&self, event: &Event) -> Result<()> {
        event.synchronize()
    }

    fn ns_since(&self, event: &Event, earlier: &Event) -> Result<i64> {
        event.ns_since(earlier)
    }

    // SAFETY: the trait's word is the driver's: aligned, and there until the stream has passed.
    unsafe fn wait_word(
        &self,
        stream: &Arc<Stream>,
        words: &Mapped,
        offset: usize,
        value: u32,
    ) -> Result<()> {
        // SAFETY: `word` keeps inside the memory, which the caller keeps alive.
        unsafe { self.driver()?.wait_value(stream, words.word(offset), value) }
    }

    // SAFETY: what the driver asks of the word, the trait asks of the caller.
    unsafe fn write_word(
        &self,
        stream: &Arc<Stream>,
        words: &Mapped,
        offset: usize,
        value: u32,
    ) -> Result<()> {
        // SAFETY: an address inside memory that the caller keeps until the stream has passed.
        unsafe { self.driver()?.write_value(stream, words.word(offset), value) }
    }

    // SAFETY: the trait states the kinds, lengths and lifetimes that a copy to the device needs.
    unsafe fn copy_in(
        &self,
        stream: &Arc<Stream>,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()> {
        // SAFETY: `to` is the device's and `from` the host's, and both stay: the trait's contract.
        unsafe { cuda::copy(to, from, bytes, Direction::HostToDevice, stream) }
    }

    // SAFETY: the trait states what a copy from the device needs.
    unsafe fn copy_out(
        &self,
        stream: &Arc<Stream>,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()> {
        // SAFETY: `from` is the device's and `to` the host's, and both stay: the trait's contract.
        unsafe { cuda::copy(to, from, bytes, Direction::DeviceToHost, stream) }
    }

    // SAFETY: the trait asks for device memory that is nobody else's.
    unsafe fn fill(&self, stream: &Arc<Stream>, to: NonNull<u8>, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller says that the memory is the device's, there, and nobody else's until then.
        unsafe { cuda::fill(to, value, bytes, stream) }
    }
}
