//! L2, the contract of a device: the transient compute engine that layers stream through.
//!
//! A device has one arena of memory of limited size and a few **lanes**, ordered queues of work. The
//! engine issues *tasks* to lanes; a task is a number that the engine's [`Work`] knows how to run. Nothing
//! here knows what a task does, what a unit is, or why a task waits.
//!
//! There are two kinds of lane behind the one contract. On a *thread lane* (the host and disk lanes of every
//! device) a task runs when the lane reaches it. On a *stream lane* (CUDA) it runs at once on the issuing thread
//! and enqueues kernels and copies on the stream. Either way a task's effects are ordered after the tasks before it
//! on its lane and after every tick it waits for.
//!
//! The first failure poisons the device: later tasks are passed over, ticks still arrive, so whoever waits
//! wakes up and gets the first error with its place.

pub mod cpu;
pub mod cuda;
mod failure;
mod thread_lane;
mod trace;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::base::{Error, Result};
use crate::host::{HostSpan, MemoryKind, Span, side};

/// An ordered queue of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Arithmetic on device memory.
    Compute,
    /// Copies from host memory to device memory.
    H2d,
    /// Copies from device memory to host memory.
    D2h,
    /// CPU workers on host memory: the optimizer.
    Host,
    /// One thread from host memory to files: saving.
    Disk,
}

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 5;
    /// All lanes, in index order.
    pub const ALL: [Lane; Lane::COUNT] = [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host, Lane::Disk];

    /// Position in arrays of per-lane values.
    pub fn at(self) -> usize {
        self as usize
    }

    /// The name in traces and messages.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Compute => "compute",
            Lane::H2d => "h2d",
            Lane::D2h => "d2h",
            Lane::Host => "host",
            Lane::Disk => "disk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The fact "the first `count` tasks of this lane are done". Ticks of a lane only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    /// The lane.
    pub lane: Lane,
    /// How many of its tasks, counted from the opening of the lanes.
    pub count: u64,
}

/// What lanes run. Implemented by the engine, called by the device.
pub trait Work: Send + Sync {
    /// Runs (or, on a stream lane, enqueues) a task on its lane. An error poisons the device.
    fn run(&self, lane: Lane, task: u64) -> Result<()>;

    /// What a task is, for messages about it.
    fn describe(&self, task: u64) -> String {
        format!("task {task}")
    }
}

/// Device memory. See [`Span`] for the law.
pub type DeviceSpan = Span<side::Device>;

/// What a device says of itself.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// For people, e.g. `cpu (2 threads, avx512)`.
    pub name: String,
    /// The driver's name for the hardware, e.g. `NVIDIA H200`; none for the CPU device.
    pub hardware: Option<String>,
    /// Bytes of device memory that an arena may take now.
    pub memory_free: usize,
}

/// One task as it happened, for traces. Times are nanoseconds on one clock per device.
#[derive(Clone, Copy, Debug)]
pub struct TaskSpan {
    /// Where it ran.
    pub lane: Lane,
    /// What the engine called it.
    pub task: u64,
    /// Which of its lane's tasks it was, counted from 1: its tick.
    pub count: u64,
    /// When the lane had come to it, before its waits.
    pub ready_ns: u64,
    /// When its waits were over and it started.
    pub start_ns: u64,
    /// When it was done.
    pub end_ns: u64,
}

impl TaskSpan {
    /// The tick that said it was done.
    pub fn tick(&self) -> Tick {
        Tick { lane: self.lane, count: self.count }
    }
}

/// A device: memory, copies, lanes. Dropping the last handle frees the arena.
///
/// # Safety
/// [`Device::reserve`] gives memory of that length, initialised, which nobody else has and which stays as long as the device. The
/// lanes of [`Device::open`] do what [`Lanes`] says: a task begins after what it waits for, and a tick arrives after its task.
/// [`Device::wire_memory`] gives a [`Pin`](crate::host::Pin) that is one.
pub unsafe trait Device: Send + Sync {
    /// Name and free memory; none where the device does not say how much.
    fn info(&self) -> DeviceInfo;

    /// Bytes that an arena may take now. Errors: the device does not say.
    fn capacity(&self) -> Result<usize> {
        Ok(self.info().memory_free)
    }

    /// Takes the device's one arena, zeroed. Errors: a second call (`InvalidState`), not enough memory
    /// (`OutOfDeviceMemory`, with need and have).
    fn reserve(&self, bytes: usize) -> Result<DeviceSpan>;

    /// Starts the lanes; tasks run through `work`. The device keeps `work` until the lanes are dropped.
    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>>;

    /// Copies host memory to device memory; called inside a task of [`Lane::H2d`], or before the lanes are opened,
    /// and then the copy is done when this returns. Errors when the lengths differ.
    ///
    /// # Safety
    /// The law of spans: until the task is done, `from` may be read and `to`, which is of this device, written.
    unsafe fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()>;

    /// Whether [`Device::scrub`] does anything, so that nobody need find out what to scrub otherwise.
    fn scrubs(&self) -> bool {
        false
    }

    /// What this memory holds is of no use any more; called inside the task that used it last, on its lane. A device made
    /// for tests overwrites it with NaN patterns, so that whoever reads too late, or what nobody wrote, shows.
    ///
    /// # Safety
    /// The law of spans: until the task is done, the span, which is of this device, may be written.
    unsafe fn scrub(&self, _lane: Lane, _span: DeviceSpan) -> Result<()> {
        Ok(())
    }

    /// Copies device memory to host memory; called inside a task of [`Lane::D2h`].
    /// Errors when the lengths differ.
    ///
    /// # Safety
    /// The law of spans: until the task is done, `from`, which is of this device, may be read and `to` written.
    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()>;

    /// Whether this machine's cores do the work of a lane, and are not free for others meanwhile.
    fn runs_on_cores(&self, _lane: Lane) -> bool {
        true
    }

    /// The kind of host memory that it copies from and to at full speed, for an arena of so many bytes.
    fn wire_memory(&self, _bytes: usize) -> MemoryKind {
        MemoryKind::Plain
    }
}

/// The length of a copy.
fn same_length(copy: &str, to: usize, from: usize) -> Result<usize> {
    if to == from {
        return Ok(from);
    }
    Err(Error::internal(format!("the {copy} of {from} bytes goes to a span of {to} bytes")))
}

/// The open lanes of a device. Issued to by one thread; dropping waits for all issued tasks.
pub trait Lanes: Send + Sync {
    /// Appends a task to a lane. It starts after the lane's earlier tasks and after every tick in `waits`.
    /// `signal` says that another lane will wait for it: without it, only [`Lanes::reach`] and the lane's
    /// own order may rely on the returned tick. Blocks only while the lane's bounded queue is full.
    fn issue(&self, lane: Lane, task: u64, waits: &[Tick], signal: bool) -> Tick;

    /// Blocks the caller until the tick has arrived; gives the first failure of the device, if any.
    fn reach(&self, tick: Tick) -> Result<()>;

    /// The last issued tick of a lane.
    fn last(&self, lane: Lane) -> Tick;

    /// Takes the task spans recorded since the last call, if the lanes were opened with tracing.
    fn take_spans(&self) -> Vec<TaskSpan>;

    /// When the clock of the spans stood at 0; `None` if the lanes were opened without tracing.
    fn origin(&self) -> Option<Instant>;
}
