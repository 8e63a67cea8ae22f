//! The CUDA device: lanes are streams and threads, device memory is one piece of the device's.
//!
//! `compute`, `h2d` and `d2h` are streams: a task runs at once on the issuing thread and enqueues its work. Every
//! other lane is a thread, as on the CPU device. Who waits for whom, and by what:
//!
//! | waits | for a stream lane | for a thread lane |
//! |---|---|---|
//! | a stream lane | `cudaStreamWaitEvent` on the tick's event | `cuStreamWaitValue32` on the lane's word |
//! | a thread lane | `cudaEventSynchronize`, which sleeps | its bell |
//!
//! Where streams cannot wait for words, the issuing thread waits for the thread lane itself before it issues the
//! task, which holds back that lane and what is issued later. The work before it runs on.
//!
//! Nothing is made in a step: events are pooled per lane, one for each of the last ticks, and a tick's event is used
//! again only when the tick has arrived. The device synchronises with the host in [`Lanes::reach`](super::Lanes)
//! alone; copies are asynchronous, from and to memory that [`Device::wire_memory`] pins.
//!
//! Nothing can hang: a task is issued only after all that it waits for, so whatever a stream or a thread waits for is
//! under way without the issuing thread. That also holds where CUDA itself makes the issuing thread wait for the whole
//! device, as when it loads a kernel at its first launch.
//!
//! **Failures.** The first call that fails names its task and poisons the device. Work that fails later is
//! reported by whatever call comes next; which tasks were running then is told by the words that streams write
//! behind every task, and stands in the message. After a failure nothing more is enqueued, ticks still arrive, and
//! closing waits for what the device still does.
//!
//! All of this is written against [`Calls`], so that every build has it and tests run it without a GPU.

mod calls;
mod lanes;
mod pin;
#[cfg(hz_cuda)]
mod real;
mod stream_lane;
mod timing;
mod words;

pub use calls::{Calls, Properties};
#[cfg(hz_cuda)]
pub use real::{Cuda, Mapped};

use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Device, DeviceInfo, DeviceSpan, Lane, Lanes, Work};
use crate::base::{Error, Result, Status};
use crate::host::{HostSpan, MemoryKind, Pin, Pinning, Size, Topology, node_of_pci};
use pin::CudaPin;

/// The oldest devices that the kernels run on.
const COMPUTE_CAPABILITY_MIN: (i32, i32) = (8, 0);

/// The lanes that are streams, in the order of their index.
const STREAM_LANES: [Lane; 3] = [Lane::Compute, Lane::H2d, Lane::D2h];

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// The most memory to take; by default what is free.
    pub memory_limit: Option<usize>,
    /// How host memory is pinned.
    pub pinning: Pinning,
    /// Whether memory that is of no use any more is overwritten, for tests.
    pub scrubs: bool,
}

/// One CUDA device. Opened by ordinal; it makes its device the calling thread's current one whenever it is used.
#[derive(Debug)]
pub struct CudaDevice<C: Calls> {
    // Dropped in this order: the streams are idle before the arena goes.
    streams: [C::Stream; STREAM_LANES.len()],
    arena: Mutex<Option<Taken<C>>>,
    pin: Arc<CudaPin<C>>,
    calls: Arc<C>,
    ordinal: usize,
    properties: Properties,
    options: CudaOptions,
}

#[derive(Debug)]
struct Taken<C: Calls> {
    _memory: C::Memory,
    bytes: usize,
}

impl<C: Calls> CudaDevice<C> {
    /// Opens `cuda:<ordinal>`.
    ///
    /// Errors: no driver, one that is too old, no such device, one that is too old (`DeviceUnavailable`, with the
    /// remedy); whatever CUDA answers.
    pub fn open(calls: C, ordinal: usize, options: CudaOptions) -> Result<Arc<Self>> {
        calls.presence()?.admit(ordinal)?;
        calls.select(ordinal)?;
        let properties = calls.properties(ordinal)?;
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
        let streams = [calls.new_stream()?, calls.new_stream()?, calls.new_stream()?];
        let calls = Arc::new(calls);
        let pin = CudaPin::new(calls.clone(), ordinal);
        Ok(Arc::new(CudaDevice {
            streams,
            arena: Mutex::new(None),
            pin,
            calls,
            ordinal,
            properties,
            options,
        }))
    }

    /// The calls it is made of.
    pub fn calls(&self) -> &C {
        &self.calls
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

    /// The stream of a lane that is one; kernels go to that of [`Lane::Compute`].
    ///
    /// # Panics
    /// If the lane is a thread.
    pub fn stream(&self, lane: Lane) -> &C::Stream {
        let at = STREAM_LANES.iter().position(|stream| *stream == lane);
        &self.streams[at.expect("only stream lanes have one")]
    }

    fn select(&self) -> Result<()> {
        self.calls.select(self.ordinal)
    }
}

/// The two ends of a copy; nothing where there is nothing to copy.
fn ends(to: *mut u8, from: *mut u8, bytes: usize) -> Option<(NonNull<u8>, NonNull<u8>)> {
    NonNull::new(to).zip(NonNull::new(from)).filter(|_| bytes > 0)
}

impl<C: Calls> Device for CudaDevice<C> {
    fn info(&self) -> DeviceInfo {
        let (ordinal, Properties { name, .. }) = (self.ordinal, &self.properties);
        DeviceInfo {
            name: format!("cuda:{ordinal} ({name})"),
            hardware: Some(name.clone()),
            memory_free: self.capacity().unwrap_or(0),
        }
    }

    fn capacity(&self) -> Result<usize> {
        self.select()?;
        let free = self.calls.memory_free()?;
        Ok(self.options.memory_limit.map_or(free, |limit| limit.min(free)))
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
                _ => "free on the device; nvidia-smi shows who uses the rest",
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
        let memory = self.calls.take_memory(bytes.max(1))?;
        let base = self.calls.memory_base(&memory);
        let stream = self.stream(Lane::Compute);
        // SAFETY: the new memory, whole, which nobody knows yet; the next line waits for the end of it.
        let zeroed = unsafe { self.calls.fill(stream, base, 0, bytes.max(1)) };
        zeroed.and_then(|()| self.calls.synchronize_stream(stream))?;
        *arena = Some(Taken { _memory: memory, bytes });
        // SAFETY: the memory lies in `self` and is freed only with the device, which whoever uses spans keeps.
        Ok(unsafe { DeviceSpan::new(base, bytes) })
    }

    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>> {
        Ok(Box::new(lanes::CudaLanes::start(self, work, tracing)?))
    }

    fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        let bytes = super::same_length("upload", to.bytes(), from.bytes())?;
        let Some((to, from)) = ends(to.address(), from.address(), bytes) else { return Ok(()) };
        // SAFETY: the lengths are equal, and the schedule keeps both ends for this task; arenas outlive the lanes.
        unsafe { self.calls.copy_in(self.stream(Lane::H2d), to, from, bytes) }
    }

    fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        let bytes = super::same_length("download", to.bytes(), from.bytes())?;
        let Some((to, from)) = ends(to.address(), from.address(), bytes) else { return Ok(()) };
        // SAFETY: as in `upload`; the host's end is read by nobody before this task's tick.
        unsafe { self.calls.copy_out(self.stream(Lane::D2h), to, from, bytes) }
    }

    fn scrubs(&self) -> bool {
        self.options.scrubs
    }

    fn scrub(&self, lane: Lane, span: DeviceSpan) -> Result<()> {
        if !self.scrubs() || !STREAM_LANES.contains(&lane) {
            return Ok(());
        }
        let Some((to, _)) = ends(span.address(), span.address(), span.bytes()) else { return Ok(()) };
        // SAFETY: the task that calls has the right to write the span until it is done, and this is enqueued as a
        // part of the task.
        unsafe { self.calls.fill(self.stream(lane), to, 0xff, span.bytes()) }
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

impl<C: Calls> Drop for CudaDevice<C> {
    fn drop(&mut self) {
        // Handles are released on the thread that drops them; a device that is lost releases nothing anyway.
        let _ = self.select();
        for stream in &self.streams {
            let _ = self.calls.synchronize_stream(stream);
        }
    }
}
