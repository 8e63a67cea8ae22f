//! The CUDA device: lanes are streams and threads, device memory is one piece of the device's.
//!
//! `compute`, `h2d` and `d2h` are streams: a task runs at once on the issuing thread and enqueues its work. Every
//! other lane is a thread, as on the CPU device. Who waits for whom, and by what:
//!
//! | waits | for a stream lane | for a thread lane |
//! |---|---|---|
//! | a stream lane | `cudaStreamWaitEvent` on the tick's event | `cuStreamWaitValue32` on the lane's word |
//! | a thread lane | looks at the lane's word, sleeping in between | its bell |
//!
//! Where stream memory operations are missing or turned off (`HZ_CUDA_STREAM_MEMORY_OPS=off`), a thread lane polls the
//! tick's event. The issuing thread waits for the thread lane before it issues a dependent task; this delays that lane and
//! later tasks, not work already queued.
//!
//! Nothing is made in a step: events are pooled per lane, one for each of the last ticks, and a tick's event is used
//! again only when the tick has arrived. Copies are asynchronous, from and to memory that [`Device::wire_memory`] pins.
//!
//! **Progress.** A task is issued only after all that it waits for, so the oldest unfinished task can always run,
//! provided that no thread is stuck inside CUDA. CUDA holds a lock of the context, sometimes for as long as the device
//! has work: a thread that loads a kernel at its first launch does, and one whose stream's queue is full may. So
//! kernels are launched once before the first step ([`Kernels::warms_up`](crate::ops::Kernels::warms_up)), a
//! [`Stream`] bounds its outstanding commands, and no thread waits inside CUDA: threads look at words in host memory,
//! which no lock guards. What remains is a call that CUDA holds up for reasons of its own; with words, a thread lane
//! makes no calls, and so cannot be held up with it.
//!
//! **Failures.** The first call that fails names its task and poisons the device. Work that fails later is
//! reported by whatever call comes next, if only that of the thread that watches the device. The message names the tasks
//! that were running, read from the words that streams write after every task. After a failure nothing
//! more is enqueued, ticks still arrive, and closing waits for what the device still does. Without words the message names
//! only a task by whose end the failure had happened.

mod lanes;
mod pin;
mod stream_lane;
mod timing;
mod words;

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Device, DeviceInfo, DeviceSpan, Lane, Lanes, Work};
use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::host::{HostSpan, MemoryKind, Pin, Pinning, Topology, node_of_pci};
use crate::sys::cuda::{
    DeviceMemory, Direction, Driver, Stream, compute_capability, copy, fill, memory_info, need_device,
    pci_bus_id, set_device,
};
use pin::CudaPin;
use words::Words;

/// The oldest devices that the kernels run on.
const COMPUTE_CAPABILITY_MIN: (i32, i32) = (8, 0);

/// Bytes of device memory that a plan leaves, at most a sixteenth of all: kernels are loaded when they are first
/// launched, cuBLASLt's among them, at some MiB each. Half of it may be taken between planning and reserving the arena.
const MARGIN: usize = 1 << 30;

/// The lanes that are streams, in the order of their index.
const STREAM_LANES: [Lane; 3] = [Lane::Compute, Lane::H2d, Lane::D2h];

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// The most memory to take; by default what is free, less a margin.
    pub memory_limit: Option<usize>,
    /// How host memory is pinned.
    pub pinning: Pinning,
    /// Whether memory that is of no use any more is overwritten, for tests.
    pub scrubs: bool,
}

/// Properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// For people, e.g. `NVIDIA H200`.
    pub name: String,
    /// Its place on the bus, as sysfs names it: `0000:3b:00.0`.
    pub pci_bus_id: String,
    /// Major and minor, for example (9, 0).
    pub compute_capability: (i32, i32),
}

/// One CUDA device. Opened by ordinal; it makes its device the calling thread's current one whenever it is used.
#[derive(Debug)]
pub struct CudaDevice {
    // Dropped in this order: the streams are idle before the arena goes.
    streams: [Arc<Stream>; STREAM_LANES.len()],
    arena: Mutex<Option<Taken>>,
    pin: Arc<CudaPin>,
    driver: Driver,
    /// Set once the lanes are opened: uploads before that wait for their copy.
    opened: AtomicBool,
    ordinal: usize,
    properties: Properties,
    options: CudaOptions,
}

#[derive(Debug)]
struct Taken {
    _memory: DeviceMemory,
    bytes: usize,
}

impl CudaDevice {
    /// Opens `cuda:<ordinal>`.
    ///
    /// Errors: no driver, one that is too old, no such device, one that is too old (`DeviceUnavailable`, with the
    /// remedy); whatever CUDA answers.
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Arc<Self>> {
        need_device(ordinal)?;
        set_device(ordinal)?;
        let driver = Driver::open()?;
        let properties = Properties {
            name: driver.device_name(ordinal)?,
            pci_bus_id: pci_bus_id(ordinal)?,
            compute_capability: compute_capability(ordinal)?,
        };
        if properties.compute_capability < COMPUTE_CAPABILITY_MIN {
            let ((major, minor), (major_min, minor_min)) =
                (properties.compute_capability, COMPUTE_CAPABILITY_MIN);
            return Err(Error::new(
                Status::DeviceUnavailable,
                format!(
                    "cuda:{ordinal} ({}) has compute capability {major}.{minor}; bf16 products need {major_min}.{minor_min} \
                     or later: choose another device, or --device cpu",
                    properties.name
                ),
            ));
        }
        let stream = || Stream::new().map(Arc::new);
        Ok(Arc::new(CudaDevice {
            streams: [stream()?, stream()?, stream()?],
            arena: Mutex::new(None),
            pin: CudaPin::new(ordinal),
            driver,
            opened: AtomicBool::new(false),
            ordinal,
            properties,
            options,
        }))
    }

    /// The driver.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The NUMA node it is attached to, where the system tells.
    pub fn node(&self) -> Option<u32> {
        let nearest = |node| Topology::read().nearest_memory(node);
        node_of_pci(&self.properties.pci_bus_id).and_then(nearest)
    }

    /// True if streams wait for thread lanes by stream memory operations.
    pub fn has_words(&self) -> Result<bool> {
        self.select()?;
        Ok(Words::take(self.driver, self.stream(Lane::Compute))?.is_some())
    }

    /// The stream of a lane that is one; kernels go to that of [`Lane::Compute`].
    ///
    /// # Panics
    /// If the lane is a thread.
    pub fn stream(&self, lane: Lane) -> &Arc<Stream> {
        let at = STREAM_LANES.iter().position(|stream| *stream == lane);
        &self.streams[at.expect("only stream lanes have one")]
    }

    /// Free bytes of device memory less a fraction of the margin, within the limit.
    fn free_less(&self, fraction: usize) -> Result<usize> {
        self.select()?;
        let (free, total) = memory_info()?;
        let least = free.saturating_sub(MARGIN.min(total / 16) / fraction);
        Ok(self.options.memory_limit.map_or(least, |limit| limit.min(least)))
    }

    fn select(&self) -> Result<()> {
        set_device(self.ordinal)
    }
}

/// The two ends of a copy; nothing where there is nothing to copy.
fn ends(to: *mut u8, from: *mut u8, bytes: usize) -> Option<(NonNull<u8>, NonNull<u8>)> {
    NonNull::new(to).zip(NonNull::new(from)).filter(|_| bytes > 0)
}

// SAFETY: memory is an allocation that lies in the device and is reserved once; streams and events order tasks and ticks as told
// above; `CudaPin` is a pin.
unsafe impl Device for CudaDevice {
    fn info(&self) -> DeviceInfo {
        let (ordinal, Properties { name, .. }) = (self.ordinal, &self.properties);
        DeviceInfo {
            name: format!("cuda:{ordinal} ({name})"),
            hardware: Some(name.clone()),
            memory_free: self.free_less(1).unwrap_or(0),
        }
    }

    fn capacity(&self) -> Result<usize> {
        self.free_less(2)
    }

    fn reserve(&self, bytes: usize) -> Result<DeviceSpan> {
        let mut arena = self.arena.lock();
        if let Some(taken) = &*arena {
            return Err(Error::new(
                Status::InvalidState,
                format!("the device's one arena is taken already ({})", Size(taken.bytes)),
            ));
        }
        let have = self.capacity()?;
        if bytes > have {
            let limit = match self.options.memory_limit {
                Some(limit) if limit == have => "--device-mem",
                _ => {
                    "what is free on the device, less a margin for kernels; nvidia-smi shows who uses the rest"
                }
            };
            return Err(Error::new(
                Status::OutOfDeviceMemory,
                format!(
                    "{} of device memory are needed, {} may be taken ({limit}): {} bytes too many",
                    Size(bytes),
                    Size(have),
                    bytes - have
                ),
            ));
        }
        let memory = DeviceMemory::take(bytes.max(1))?;
        let base = memory.base();
        let stream = self.stream(Lane::Compute);
        // SAFETY: the new memory, whole, which nobody knows yet; the next line waits for the end of it.
        let zeroed = unsafe { fill(base, 0, bytes.max(1), stream) };
        zeroed.and_then(|()| stream.synchronize())?;
        *arena = Some(Taken { _memory: memory, bytes });
        // SAFETY: the memory that was taken, whole.
        Ok(unsafe { DeviceSpan::new(base, bytes) })
    }

    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>> {
        self.opened.store(true, Ordering::Relaxed);
        Ok(Box::new(lanes::CudaLanes::start(self, work, tracing)?))
    }

    unsafe fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        let bytes = super::same_length("upload", to.bytes(), from.bytes())?;
        let Some((to, from)) = ends(to.address(), from.address(), bytes) else { return Ok(()) };
        let stream = self.stream(Lane::H2d);
        // SAFETY: the lengths are equal, and the caller keeps both ends until the task is done.
        unsafe { copy(to, from, bytes, Direction::HostToDevice, stream)? };
        // Before the lanes are opened, nothing else waits for it.
        if self.opened.load(Ordering::Relaxed) { Ok(()) } else { stream.synchronize() }
    }

    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        let bytes = super::same_length("download", to.bytes(), from.bytes())?;
        let Some((to, from)) = ends(to.address(), from.address(), bytes) else { return Ok(()) };
        // SAFETY: as in `upload`, with source and target exchanged.
        unsafe { copy(to, from, bytes, Direction::DeviceToHost, self.stream(Lane::D2h)) }
    }

    fn scrubs(&self) -> bool {
        self.options.scrubs
    }

    unsafe fn scrub(&self, lane: Lane, span: DeviceSpan) -> Result<()> {
        if !self.scrubs() || !STREAM_LANES.contains(&lane) {
            return Ok(());
        }
        let Some((to, _)) = ends(span.address(), span.address(), span.bytes()) else { return Ok(()) };
        // SAFETY: the caller may write the span until its task is done, of which this is enqueued as a part.
        unsafe { fill(to, 0xff, span.bytes(), self.stream(lane)) }
    }

    fn runs_on_cores(&self, lane: Lane) -> bool {
        !STREAM_LANES.contains(&lane)
    }

    fn wire_memory(&self, bytes: usize) -> MemoryKind {
        let topology = Topology::read();
        let holds = |node: &u32| topology.node(*node).is_some_and(|node| node.available_bytes >= bytes);
        let pin: Arc<dyn Pin> = self.pin.clone();
        MemoryKind::Pinned { pin, by: self.options.pinning, node: self.node().filter(holds) }
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // Handles are released on the thread that drops them; a device that is lost releases nothing anyway.
        let _ = self.select();
        for stream in &self.streams {
            let _ = stream.synchronize();
        }
    }
}
