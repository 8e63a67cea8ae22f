//! The CPU device: lanes are threads, device memory is an arena of its own.
//!
//! The embedded default and the numerical reference. Nothing is taken short: weights are really copied into an
//! arena of limited size, lanes really run side by side, so the engine that works here really streams. The
//! [adversarial](CpuDevice::adversarial) device also delays tasks and reorders what nothing orders, so that a wait that
//! is missing shows as a wrong number, and [scrubs](Device::scrub) memory; the [painted](CpuDevice::painted) one
//! tells which of its memory has been used.

mod adversary;
mod lanes;

use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Device, DeviceInfo, DeviceSpan, Lane, Lanes, Work};
use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::host::{Arena, HostSpan, Isa, Limits, MemoryKind};

/// A device made of this machine's cores and a part of its RAM.
#[derive(Debug)]
pub struct CpuDevice {
    memory_limit: Option<usize>,
    arena: Mutex<Option<Arena>>,
    seed: Option<u64>,
    is_painted: bool,
    origin: Instant,
}

/// What a painted arena holds where nobody has written.
const PAINT: u8 = 0xa5;

/// Bytes that [`CpuDevice::written`] counts by.
pub const LINE: usize = 256;

impl CpuDevice {
    /// A device with at most `memory_limit` bytes of memory; without a limit, with what the host has.
    pub fn new(memory_limit: Option<usize>) -> Arc<CpuDevice> {
        CpuDevice::make(memory_limit, None, false)
    }

    /// A device whose lanes delay tasks and reorder what nothing orders, at random, by `seed`, and that scrubs what
    /// is of no use any more: for tests. Times change, results must not.
    pub fn adversarial(memory_limit: Option<usize>, seed: u64) -> Arc<CpuDevice> {
        CpuDevice::make(memory_limit, Some(seed), false)
    }

    /// A device whose arena is painted instead of zeroed, so that it can say afterwards what was
    /// [written](CpuDevice::written): for tests.
    pub fn painted(memory_limit: Option<usize>) -> Arc<CpuDevice> {
        CpuDevice::make(memory_limit, None, true)
    }

    fn make(memory_limit: Option<usize>, seed: Option<u64>, is_painted: bool) -> Arc<CpuDevice> {
        Arc::new(CpuDevice {
            memory_limit,
            arena: Mutex::new(None),
            seed,
            is_painted,
            origin: Instant::now(),
        })
    }

    /// Of a stretch of a painted arena the bytes that were written since it was reserved, in whole lines of [`LINE`]. A line
    /// counts once any byte of it has changed.
    ///
    /// # Panics
    /// If the device is not painted, if its lanes, or anybody else, still hold it, or beyond the arena.
    pub fn written(self: &mut Arc<Self>, offset: usize, bytes: usize) -> usize {
        let device = Arc::get_mut(self).expect("nobody else holds the device");
        assert!(device.is_painted, "only a painted device can tell");
        let arena = device.arena.get_mut().as_mut().expect("the arena was reserved");
        let memory = &arena.bytes_mut()[offset..][..bytes];
        let touched = memory.chunks(LINE).filter(|line| line.iter().any(|&byte| byte != PAINT));
        touched.map(<[u8]>::len).sum()
    }

    /// Bytes that an arena may have, and what says so.
    fn capacity(&self) -> (usize, &'static str) {
        match self.memory_limit {
            Some(bytes) => (bytes, "--device-mem"),
            None => (Limits::read(None).bytes, "free host memory"),
        }
    }
}

// SAFETY: memory is an arena that lies in the device and is reserved once; a lane is a thread with a queue, which counts a tick
// when its task has returned; nothing is pinned.
unsafe impl Device for CpuDevice {
    fn info(&self) -> DeviceInfo {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let isa = Isa::chosen().unwrap_or(Isa::Portable);
        let taken = self.arena.lock().as_ref().map_or(0, |arena| arena.whole().bytes());
        // Without a limit, what an arena has taken is already missing from the host's free memory.
        let memory_free = match self.memory_limit {
            Some(limit) => limit.saturating_sub(taken),
            None => Limits::read(None).bytes,
        };
        DeviceInfo { name: format!("cpu ({threads} threads, {isa})"), hardware: None, memory_free }
    }

    fn reserve(&self, bytes: usize) -> Result<DeviceSpan> {
        let mut arena = self.arena.lock();
        if let Some(taken) = &*arena {
            return Err(Error::new(
                Status::InvalidState,
                format!("the device's one arena is taken already ({})", Size(taken.whole().bytes())),
            ));
        }
        let (have, limit) = self.capacity();
        if bytes > have {
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
        let taken = arena.insert(Arena::take(bytes, MemoryKind::Plain)?);
        if self.is_painted {
            taken.bytes_mut().fill(PAINT);
        }
        let whole = taken.whole();
        let base = ptr::NonNull::new(whole.address()).expect("an arena has an address");
        // SAFETY: the arena, whole.
        Ok(unsafe { DeviceSpan::new(base, bytes) })
    }

    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>> {
        let (seed, origin) = (self.seed, self.origin);
        Ok(Box::new(lanes::CpuLanes::start(self, work, seed, tracing.then_some(origin))?))
    }

    unsafe fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        super::same_length("upload", to.bytes(), from.bytes())?;
        // SAFETY: the lengths are equal; the caller may read the one and write the other, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(from.address(), to.address(), from.bytes()) }
        Ok(())
    }

    fn scrubs(&self) -> bool {
        self.seed.is_some()
    }

    unsafe fn scrub(&self, _lane: Lane, span: DeviceSpan) -> Result<()> {
        if !self.scrubs() {
            return Ok(());
        }
        // SAFETY: the span lies in this device's arena, and the caller may write it.
        unsafe { ptr::write_bytes(span.address(), 0xff, span.bytes()) }
        Ok(())
    }

    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        super::same_length("download", to.bytes(), from.bytes())?;
        // SAFETY: as in `upload`: equal lengths, and the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from.address(), to.address(), from.bytes()) }
        Ok(())
    }
}
