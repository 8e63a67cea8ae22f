//! L2: the device interface, and its CPU and CUDA implementations.
//!
//! A device has one memory arena of limited size and several **lanes**, ordered queues of work. The
//! engine issues *tasks* to lanes; a task is a number that the engine's [`Work`] knows how to run.
//! This level does not know the content of a task, the units of a model, or the reason of a wait.
//!
//! There are two kinds of lane. On a *thread lane* (the host and disk lanes of every device, and
//! all lanes of the CPU device) a task runs when the lane reaches it. On a *CUDA stream lane* it
//! runs immediately on the issuing thread and enqueues kernels and copies. In both cases a task's
//! effects are ordered after the earlier tasks of its lane and after every tick it waits for.
//!
//! After the first failure the device skips later tasks, except those of thread lanes that
//! [survive](Work::survives) it. Their ticks still arrive, so waiting threads wake up and get the
//! first error, which names the failed task.

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
    /// Computation on device memory.
    Compute,
    /// Copies from host memory to device memory.
    H2d,
    /// Copies from device memory to host memory.
    D2h,
    /// CPU workers on host memory: the optimizer.
    Host,
    /// Writing host memory to files: checkpoints.
    Disk,
}

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 5;
    /// All lanes, in index order.
    pub const ALL: [Lane; Lane::COUNT] = [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host, Lane::Disk];

    /// The index in arrays of per-lane values.
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

/// A point in a lane's progress: it has arrived once the first `count` tasks of the lane are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    /// The lane.
    pub lane: Lane,
    /// The number of tasks, counted from the opening of the lanes.
    pub count: u64,
}

/// Runs the tasks of lanes. Implemented by the engine, called by the device.
pub trait Work: Send + Sync {
    /// Runs a task, or enqueues it on a CUDA stream lane. After an error the device skips all later
    /// tasks that do not [survive](Work::survives) it.
    fn run(&self, lane: Lane, task: u64) -> Result<()>;

    /// Returns true if a task of a thread lane runs although the device has failed, unless a task
    /// that it waits for failed or was skipped: it needs nothing of the device.
    fn survives(&self, _lane: Lane, _task: u64) -> bool {
        false
    }

    /// The name of a task in messages.
    fn describe(&self, task: u64) -> String {
        format!("task {task}")
    }
}

/// A span of device memory. [`Span`] states the rules.
pub type DeviceSpan = Span<side::Device>;

/// Properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Display name, e.g. `cpu (2 threads, avx512)`.
    pub name: String,
    /// The driver's name for the hardware, e.g. `NVIDIA H200`; none for the CPU device.
    pub hardware: Option<String>,
    /// The number of a CUDA device; none for the CPU device.
    pub ordinal: Option<usize>,
    /// Bytes of device memory; for the CPU device the RAM that this process may use.
    pub memory: usize,
    /// Bytes of device memory that are available for an arena now: on CUDA the free memory less a
    /// margin for kernels.
    pub memory_free: usize,
}

/// The recorded execution of a task, for traces. Times are in nanoseconds, on one clock per device.
#[derive(Clone, Copy, Debug)]
pub struct TaskSpan {
    /// Its lane.
    pub lane: Lane,
    /// The engine's number of the task.
    pub task: u64,
    /// Its position among the lane's tasks, counted from 1; also its tick's count.
    pub count: u64,
    /// The time at which the lane reached the task, before its waits.
    pub ready_ns: u64,
    /// The time at which its waits were over and it started.
    pub start_ns: u64,
    /// The time at which it was done.
    pub end_ns: u64,
}

impl TaskSpan {
    /// The tick that arrives when the task is done.
    pub fn tick(&self) -> Tick {
        Tick { lane: self.lane, count: self.count }
    }
}

/// A device: memory, copies, lanes. Dropping the last handle frees the arena.
///
/// # Safety
/// [`Device::reserve`] returns initialized memory of the requested length, not aliased and valid as
/// long as the device. The lanes of [`Device::open`] keep the contract of [`Lanes`]: a task starts
/// after everything that it waits for, and a tick arrives after its task. [`Device::wire_memory`]
/// returns a valid [`Pin`](crate::host::Pin).
pub unsafe trait Device: Send + Sync {
    /// Name, hardware and free memory; the free memory is 0 if the device cannot report it.
    fn info(&self) -> DeviceInfo;

    /// The largest arena in bytes that [`Device::reserve`] accepts now. Errors: the device cannot
    /// report it.
    fn capacity(&self) -> Result<usize> {
        Ok(self.info().memory_free)
    }

    /// Allocates the device's only arena, zeroed. Errors: a second call (`InvalidState`), too
    /// little memory (`OutOfDeviceMemory`, with needed and available bytes).
    fn reserve(&self, bytes: usize) -> Result<DeviceSpan>;

    /// Starts the lanes, which run tasks through `work`. `work` is dropped after the lanes.
    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>>;

    /// Copies host memory to device memory. Called inside a task of [`Lane::H2d`], or before the
    /// lanes are opened; then the copy is done when this returns. Errors: the lengths differ.
    ///
    /// # Safety
    /// [Rules of spans](Span) until the task is done: `from` may be read, and `to`, on this
    /// device, may be written.
    unsafe fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()>;

    /// Returns true if [`Device::scrub`] overwrites memory; otherwise callers need not compute
    /// spans to scrub.
    fn scrubs(&self) -> bool {
        false
    }

    /// Marks memory as unused. Called inside the task that used it last, on its lane. Devices for
    /// tests overwrite it with NaN patterns, which exposes reads that come too late or of memory
    /// that was never written.
    ///
    /// # Safety
    /// [Rules of spans](Span) until the task is done: the span, on this device, may be written.
    unsafe fn scrub(&self, _lane: Lane, _span: DeviceSpan) -> Result<()> {
        Ok(())
    }

    /// Copies device memory to host memory. Called inside a task of [`Lane::D2h`]. Errors: the
    /// lengths differ.
    ///
    /// # Safety
    /// [Rules of spans](Span) until the task is done: `from`, on this device, may be read, and
    /// `to` may be written.
    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()>;

    /// Returns true if the work of a lane occupies CPU cores.
    fn runs_on_cores(&self, _lane: Lane) -> bool {
        true
    }

    /// The kind of host memory for fast copies to and from this device (pinned on CUDA), for an
    /// arena of `bytes` bytes.
    fn wire_memory(&self, _bytes: usize) -> MemoryKind {
        MemoryKind::Plain
    }
}

/// Returns the length of a copy. Errors: the lengths of source and target differ (`Internal`).
fn same_length(copy: &str, to: usize, from: usize) -> Result<usize> {
    if to == from {
        return Ok(from);
    }
    Err(Error::internal(format!("the {copy} of {from} bytes has a target span of {to} bytes")))
}

/// The open lanes of a device. One thread issues tasks. Dropping waits for all issued tasks.
pub trait Lanes: Send + Sync {
    /// Appends a task to a lane and returns its tick. The task starts after the lane's earlier
    /// tasks and after every tick in `waits`. `signal` is true if another lane will wait for the
    /// tick; otherwise only [`Lanes::reach`] and the lane's own order may use it. Blocks only while
    /// the lane's bounded queue is full.
    fn issue(&self, lane: Lane, task: u64, waits: &[Tick], signal: bool) -> Tick;

    /// Blocks until the tick has arrived. Returns the first failure of the device, if any.
    fn reach(&self, tick: Tick) -> Result<()>;

    /// The last issued tick of a lane.
    fn last(&self, lane: Lane) -> Tick;

    /// Returns the task spans recorded since the last call; empty if the lanes were opened without
    /// tracing.
    fn take_spans(&self) -> Vec<TaskSpan>;

    /// The origin of the spans' times; `None` if the lanes were opened without tracing.
    fn origin(&self) -> Option<Instant>;
}
