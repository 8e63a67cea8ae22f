//! The CUDA device: lanes are CUDA streams and threads, and device memory is one allocation.
//!
//! `compute`, `h2d` and `d2h` are CUDA streams: a task runs immediately on the issuing thread and
//! enqueues its work. The other lanes are threads, as on the CPU device. Waits between lanes:
//!
//! | waiting lane | for a CUDA stream lane | for a thread lane |
//! |---|---|---|
//! | a CUDA stream lane | `cudaStreamWaitEvent` on the tick's event | `cuStreamWaitValue32` on the lane's word |
//! | a thread lane | polls the lane's word, with sleeps | the lane's doorbell |
//!
//! If stream memory operations are missing or turned off (`HZ_CUDA_STREAM_MEMORY_OPS=off`), there
//! are no words. A thread lane then polls the tick's event, and the issuing thread waits for a
//! thread lane before it issues a dependent task. This delays that task and later ones, but not
//! work already enqueued.
//!
//! No CUDA object is created during a step. Each lane has a ring buffer of events, one per tick; an
//! event is reused only after its tick has arrived. Copies are asynchronous, from and to memory
//! that [`Device::wire_memory`] pins.
//!
//! **Progress.** A task is issued after everything it waits for, so the oldest unfinished task can
//! always run, provided that no thread is blocked inside CUDA. CUDA may hold a context lock as long
//! as the device has work, for example while it loads a kernel at its first launch, or while the
//! queue of a CUDA stream is full. Therefore kernels are launched once before the first step
//! ([`Kernels::warms_up`](crate::ops::Kernels::warms_up)), a [`Stream`] bounds its outstanding
//! commands, and no thread waits inside CUDA: threads poll words in host memory without a lock.
//! CUDA may still block a call for other reasons. With words, a thread lane makes no CUDA calls and
//! is not affected.
//!
//! **Failures.** The first failing call names its task, and the device skips all later tasks.
//! Asynchronous failures are reported by the next call, at the latest by that of the thread that
//! watches the device. The message names the tasks that were running, as read from the words that
//! CUDA streams write after every task; without words, it names a task before whose end the failure
//! occurred. After a failure nothing more is enqueued, ticks still arrive, and closing waits for
//! work in flight.

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
use crate::base::format::{Size, several};
use crate::base::{Error, Name, Result, Status};
use crate::host::{HostSpan, MemoryKind, Pin, Pinning, Topology, node_of_pci};
use crate::sys::cuda::{
    DeviceMemory, Direction, Driver, Stream, compute_capability, copy, fill, memory_info, need_device,
    pci_bus_id, set_device,
};
use crate::sys::linux;
use pin::CudaPin;
use words::Words;

/// The minimum compute capability.
const COMPUTE_CAPABILITY_MIN: (i32, i32) = (8, 0);

/// Device memory that a plan leaves free, in bytes; at most 1/16 of the total. Kernels, including
/// cuBLASLt's, are loaded at their first launch and take some MiB each. Half of it may be used up
/// between planning and reserving the arena.
const MARGIN: usize = 1 << 30;

/// The lanes that are CUDA streams, in index order.
const STREAM_LANES: [Lane; 3] = [Lane::Compute, Lane::H2d, Lane::D2h];

/// Options for opening a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// The largest arena in bytes; by default the free device memory less a margin.
    pub memory_limit: Option<usize>,
    /// The way in which host memory is pinned.
    pub pinning: Pinning,
    /// Overwrites unused memory with NaN patterns, for tests.
    pub scrubs: bool,
}

/// Properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Display name, e.g. `NVIDIA H200`.
    pub name: String,
    /// PCI bus id in sysfs notation: `0000:3b:00.0`.
    pub pci_bus_id: String,
    /// Major and minor version, e.g. (9, 0).
    pub compute_capability: (i32, i32),
}

/// A CUDA device, opened by ordinal. Its functions make it the calling thread's current device.
#[derive(Debug)]
pub struct CudaDevice {
    // Dropped in this order: the CUDA streams are idle before the arena is freed.
    streams: [Arc<Stream>; STREAM_LANES.len()],
    arena: Mutex<Option<Taken>>,
    pin: Arc<CudaPin>,
    driver: Driver,
    /// Set when the lanes are opened. Earlier uploads are synchronous.
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
    /// Errors: the driver is missing or too old, the device does not exist or is too old
    /// (`DeviceUnavailable`, with a remedy); other errors of CUDA.
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Arc<Self>> {
        // The driver starts threads, which inherit the mask.
        linux::blocking_signals(|| need_device(ordinal).and_then(|()| set_device(ordinal)))?;
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
                    "cuda:{ordinal} ({}) has compute capability {major}.{minor}; bf16 GEMMs need \
                     {major_min}.{minor_min} or later: choose another device, or {}",
                    properties.name,
                    Name::Device.is("cpu")
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

    /// The device's properties.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The device's number.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The NUMA node with memory that is nearest to the device; `None` if the system does not
    /// report it.
    pub fn node(&self) -> Option<u32> {
        let nearest = |node| Topology::read().nearest_memory(node);
        node_of_pci(&self.properties.pci_bus_id).and_then(nearest)
    }

    /// Returns true if CUDA streams wait for thread lanes with stream memory operations.
    pub fn has_words(&self) -> Result<bool> {
        self.select()?;
        Ok(Words::take(self.driver, self.stream(Lane::Compute))?.is_some())
    }

    /// The CUDA stream of a lane. Kernels run on that of [`Lane::Compute`].
    ///
    /// # Panics
    /// If the lane is a thread.
    pub fn stream(&self, lane: Lane) -> &Arc<Stream> {
        let at = STREAM_LANES.iter().position(|stream| *stream == lane);
        &self.streams[at.expect("a lane that is a CUDA stream")]
    }

    /// Free device memory less `1 / divisor` of the margin, at most the limit, in bytes.
    fn free_less(&self, divisor: usize) -> Result<usize> {
        self.select()?;
        let (free, total) = memory_info()?;
        let available = free.saturating_sub(MARGIN.min(total / 16) / divisor);
        Ok(self.options.memory_limit.map_or(available, |limit| limit.min(available)))
    }

    fn select(&self) -> Result<()> {
        set_device(self.ordinal)
    }
}

/// The target and source of a copy; `None` if there is nothing to copy.
fn ends(to: *mut u8, from: *mut u8, bytes: usize) -> Option<(NonNull<u8>, NonNull<u8>)> {
    NonNull::new(to).zip(NonNull::new(from)).filter(|_| bytes > 0)
}

// SAFETY: the memory is an allocation that the device owns and reserves once; CUDA streams, events
// and words order tasks and ticks as described above; `CudaPin` is a valid `Pin`.
unsafe impl Device for CudaDevice {
    fn info(&self) -> DeviceInfo {
        let (ordinal, Properties { name, .. }) = (self.ordinal, &self.properties);
        DeviceInfo {
            name: format!("cuda:{ordinal} ({name})"),
            hardware: Some(name.clone()),
            ordinal: Some(ordinal),
            memory: self.select().and_then(|()| memory_info()).map_or(0, |(_, total)| total),
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
                format!("the device's arena is already allocated ({})", Size(taken.bytes)),
            ));
        }
        let have = self.capacity()?;
        if bytes > have {
            let limit = match self.options.memory_limit {
                Some(limit) if limit == have => Name::DeviceMem.to_string(),
                _ => "free device memory less a margin for kernels; nvidia-smi shows which processes use the rest"
                    .to_owned(),
            };
            return Err(Error::new(
                Status::OutOfDeviceMemory,
                format!(
                    "{} of device memory are needed, {} may be taken ({limit}): {} too many",
                    Size(bytes),
                    Size(have),
                    several(bytes - have, "byte")
                ),
            ));
        }
        let memory = DeviceMemory::take(bytes.max(1))?;
        let base = memory.base();
        let stream = self.stream(Lane::Compute);
        // SAFETY: the whole new allocation, not shared yet; the next line waits for completion.
        let zeroed = unsafe { fill(base, 0, bytes.max(1), stream) };
        zeroed.and_then(|()| stream.synchronize())?;
        *arena = Some(Taken { _memory: memory, bytes });
        // SAFETY: the span is the whole allocation.
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
        // SAFETY: the lengths are equal, and the caller keeps both spans valid until the task is done.
        unsafe { copy(to, from, bytes, Direction::HostToDevice, stream)? };
        // Before the lanes are opened, no task waits for the copy.
        if self.opened.load(Ordering::Relaxed) { Ok(()) } else { stream.synchronize() }
    }

    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        let bytes = super::same_length("download", to.bytes(), from.bytes())?;
        let Some((to, from)) = ends(to.address(), from.address(), bytes) else { return Ok(()) };
        // SAFETY: equal lengths; the caller keeps source and target valid until the task is done.
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
        // SAFETY: the caller may write the span until its task is done, and this is enqueued as
        // part of the task.
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
        // CUDA objects are released on this thread, with the device current. Errors mean that the
        // device is lost.
        let _ = self.select();
        for stream in &self.streams {
            let _ = stream.synchronize();
        }
    }
}
