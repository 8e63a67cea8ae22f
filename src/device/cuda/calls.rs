//! The calls of CUDA that the device makes, narrowly: what a test puts in CUDA's place.

use std::fmt;
use std::ptr::NonNull;

use crate::base::Result;
use crate::host::HostSpan;
use crate::sys::cuda_status::Presence;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// For people, e.g. `NVIDIA H200`.
    pub name: String,
    /// Its place on the bus, as sysfs names it: `0000:3b:00.0`.
    pub pci_bus_id: String,
    /// Major and minor, for example (9, 0).
    pub compute_capability: (i32, i32),
}

/// CUDA, or what stands in for it. Every call may be made from any thread that has [selected](Calls::select) the
/// device; handles are released when they are dropped, by whichever thread.
///
/// Streams run their work in order and by themselves. An event is the end of what its stream had been given when it
/// was recorded last; a stream that waits for an event waits for what was recorded then, whatever comes later.
///
/// Errors carry the statuses of [`crate::sys::cuda_status`]. Work that fails after its call had returned makes every
/// later call fail, on whatever stream.
pub trait Calls: fmt::Debug + Send + Sync + 'static {
    /// A queue of work on the device.
    type Stream: fmt::Debug + Send + Sync + 'static;
    /// A point in a stream's work.
    type Event: fmt::Debug + Send + Sync + 'static;
    /// A piece of device memory.
    type Memory: fmt::Debug + Send + Sync + 'static;
    /// A piece of page-locked host memory.
    type Pinned: fmt::Debug + Send + Sync + 'static;

    /// Drivers and devices. Works without either.
    fn presence(&self) -> Result<Presence>;
    /// Name, place and kind of a device that is there.
    fn properties(&self, device: usize) -> Result<Properties>;
    /// Makes a device the calling thread's current one.
    fn select(&self, device: usize) -> Result<()>;
    /// Bytes of the current device's memory that are free.
    fn memory_free(&self) -> Result<usize>;

    /// Takes device memory, with any content. `bytes` is not 0.
    fn take_memory(&self, bytes: usize) -> Result<Self::Memory>;
    /// Its first byte.
    fn memory_base(&self, memory: &Self::Memory) -> NonNull<u8>;
    /// Takes page-locked host memory, cached by the CPU, with any content. `bytes` is not 0.
    fn take_pinned(&self, bytes: usize) -> Result<Self::Pinned>;
    /// Its first byte, for the host.
    fn pinned_base(&self, pinned: &Self::Pinned) -> NonNull<u8>;
    /// Page-locks somebody else's memory.
    ///
    /// # Safety
    /// The pages are mapped, and stay so until [`Calls::unregister`] or the end of the process.
    unsafe fn register(&self, pages: HostSpan) -> Result<()>;
    /// Undoes a [`Calls::register`].
    ///
    /// # Safety
    /// The pages were registered, and no copy of theirs is under way.
    unsafe fn unregister(&self, pages: HostSpan) -> Result<()>;

    /// A stream that waits for no other unless it is told to.
    fn new_stream(&self) -> Result<Self::Stream>;
    /// Blocks until the stream's work is done.
    fn synchronize_stream(&self, stream: &Self::Stream) -> Result<()>;
    /// An event; `timing` says whether [`Calls::ns_since`] may be asked.
    fn new_event(&self, timing: bool) -> Result<Self::Event>;
    /// The event is now the end of what the stream has been given so far.
    fn record(&self, event: &Self::Event, stream: &Self::Stream) -> Result<()>;
    /// Later work of the stream waits for the event's last recording; not at all for an event never recorded.
    fn wait_event(&self, stream: &Self::Stream, event: &Self::Event) -> Result<()>;
    /// Whether the event's last recording is reached.
    fn is_done(&self, event: &Self::Event) -> Result<bool>;
    /// Blocks until the event's last recording is reached.
    fn synchronize_event(&self, event: &Self::Event) -> Result<()>;
    /// Nanoseconds from one event to a later one (negative if it was earlier); both are reached.
    fn ns_since(&self, event: &Self::Event, earlier: &Self::Event) -> Result<i64>;

    /// Later work of the stream waits until the word at `offset` bytes, counted round its 2^32 values, has reached
    /// `value`.
    ///
    /// # Safety
    /// The word lies in the memory, 4-byte aligned; the memory lives until the stream has passed the wait.
    unsafe fn wait_word(
        &self,
        stream: &Self::Stream,
        words: &Self::Pinned,
        offset: usize,
        value: u32,
    ) -> Result<()>;
    /// When the stream gets there, the word at `offset` bytes becomes `value`.
    ///
    /// # Safety
    /// As for [`Calls::wait_word`]; others use the word atomically.
    unsafe fn write_word(
        &self,
        stream: &Self::Stream,
        words: &Self::Pinned,
        offset: usize,
        value: u32,
    ) -> Result<()>;

    /// Queues a copy from host to device. Page-locked memory is copied asynchronously.
    ///
    /// # Safety
    /// Both ends are `bytes` long and live until the stream has passed the copy; until then nobody writes `from`,
    /// and nobody uses `to`, without order.
    unsafe fn copy_in(
        &self,
        stream: &Self::Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()>;
    /// Queues a copy from device to host.
    ///
    /// # Safety
    /// As for [`Calls::copy_in`].
    unsafe fn copy_out(
        &self,
        stream: &Self::Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()>;
    /// Queues setting device memory to a byte.
    ///
    /// # Safety
    /// As for the target of [`Calls::copy_in`].
    unsafe fn fill(&self, stream: &Self::Stream, to: NonNull<u8>, value: u8, bytes: usize) -> Result<()>;
}
