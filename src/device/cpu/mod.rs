//! The CPU device: lanes are threads, and device memory is a separate arena in host RAM.
//!
//! It is the numerical reference and the default without CUDA. It takes no shortcuts: weights are
//! copied into an arena of limited size and lanes run concurrently, so it tests the whole engine.
//! For tests, the [adversarial](CpuDevice::adversarial) device delays and reorders unordered tasks
//! and [scrubs](Device::scrub) memory, so that a missing wait gives a wrong number; the
//! device [filled with a pattern](CpuDevice::pattern_filled) reports which memory was written.

mod adversary;
mod lanes;

use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Device, DeviceInfo, DeviceSpan, Lane, Lanes, Work};
use crate::base::format::{Size, several};
use crate::base::{Error, Name, Result, Status};
use crate::host::{Arena, HostSpan, Isa, Limits, MemoryKind, ram_bytes};

/// A device that uses this machine's cores and a part of its RAM.
#[derive(Debug)]
pub struct CpuDevice {
    memory_limit: Option<usize>,
    arena: Mutex<Option<Arena>>,
    seed: Option<u64>,
    is_pattern_filled: bool,
    origin: Instant,
}

/// The initial value of every byte of a pattern-filled arena.
const PATTERN: u8 = 0xa5;

/// The granularity of [`CpuDevice::written`] in bytes.
pub const LINE: usize = 256;

impl CpuDevice {
    /// A device with at most `memory_limit` bytes of memory; without a limit, with the free host
    /// memory.
    pub fn new(memory_limit: Option<usize>) -> Arc<CpuDevice> {
        CpuDevice::make(memory_limit, None, false)
    }

    /// A device for tests whose lanes delay and reorder unordered tasks at random, by `seed`, and
    /// that scrubs unused memory. Results must not depend on it.
    pub fn adversarial(memory_limit: Option<usize>, seed: u64) -> Arc<CpuDevice> {
        CpuDevice::make(memory_limit, Some(seed), false)
    }

    /// A device for tests whose arena is filled with a pattern instead of zeros, so that it can
    /// report which bytes were [written](CpuDevice::written).
    pub fn pattern_filled(memory_limit: Option<usize>) -> Arc<CpuDevice> {
        CpuDevice::make(memory_limit, None, true)
    }

    fn make(memory_limit: Option<usize>, seed: Option<u64>, is_pattern_filled: bool) -> Arc<CpuDevice> {
        Arc::new(CpuDevice {
            memory_limit,
            arena: Mutex::new(None),
            seed,
            is_pattern_filled,
            origin: Instant::now(),
        })
    }

    /// Returns the number of bytes in a range of a pattern-filled arena that were written since it
    /// was reserved, in whole lines of [`LINE`] bytes: a line counts if any of its bytes has
    /// changed.
    ///
    /// # Panics
    /// If the device is not pattern-filled, another handle to it exists (its lanes have one), or
    /// the range exceeds the arena.
    pub fn written(self: &mut Arc<Self>, offset: usize, bytes: usize) -> usize {
        let device = Arc::get_mut(self).expect("there is no other handle to the device");
        assert!(device.is_pattern_filled, "only a pattern-filled device records which memory was written");
        let arena = device.arena.get_mut().as_mut().expect("the arena was reserved");
        let memory = &arena.bytes_mut()[offset..][..bytes];
        let touched = memory.chunks(LINE).filter(|line| line.iter().any(|&byte| byte != PATTERN));
        touched.map(<[u8]>::len).sum()
    }

    /// The largest arena in bytes, and the source of the limit.
    fn capacity(&self) -> (usize, String) {
        match self.memory_limit {
            Some(bytes) => (bytes, Name::DeviceMem.to_string()),
            None => (Limits::read(None).bytes, "free host memory".to_owned()),
        }
    }
}

// SAFETY: the memory is an arena that the device owns and reserves once; a lane is a thread with a
// queue, whose tick arrives after its task has returned; nothing is pinned.
unsafe impl Device for CpuDevice {
    fn info(&self) -> DeviceInfo {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let isa = Isa::best();
        let taken = self.arena.lock().as_ref().map_or(0, |arena| arena.whole().bytes());
        // The host's free memory already excludes the arena.
        let memory_free = match self.memory_limit {
            Some(limit) => limit.saturating_sub(taken),
            None => Limits::read(None).bytes,
        };
        DeviceInfo {
            name: format!("cpu ({}, {isa})", several(threads, "thread")),
            hardware: None,
            ordinal: None,
            memory: ram_bytes(),
            memory_free,
        }
    }

    fn reserve(&self, bytes: usize) -> Result<DeviceSpan> {
        let mut arena = self.arena.lock();
        if let Some(taken) = &*arena {
            return Err(Error::new(
                Status::InvalidState,
                format!("the device's arena is already allocated ({})", Size(taken.whole().bytes())),
            ));
        }
        let (have, limit) = self.capacity();
        if bytes > have {
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
        let taken = arena.insert(Arena::take(bytes, MemoryKind::Plain)?);
        if self.is_pattern_filled {
            taken.bytes_mut().fill(PATTERN);
        }
        let whole = taken.whole();
        let base = ptr::NonNull::new(whole.address()).expect("an arena has an address");
        // SAFETY: the span is the whole arena.
        Ok(unsafe { DeviceSpan::new(base, bytes) })
    }

    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>> {
        let (seed, origin) = (self.seed, self.origin);
        Ok(Box::new(lanes::CpuLanes::start(self, work, seed, tracing.then_some(origin))?))
    }

    unsafe fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        super::same_length("upload", to.bytes(), from.bytes())?;
        // SAFETY: the lengths are equal; the caller may read `from` and write `to`, so they do not
        // overlap.
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
        // SAFETY: the span is in this device's arena, and the caller may write it.
        unsafe { ptr::write_bytes(span.address(), 0xff, span.bytes()) }
        Ok(())
    }

    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        super::same_length("download", to.bytes(), from.bytes())?;
        // SAFETY: equal lengths; the caller may read `from` and write `to`, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(from.address(), to.address(), from.bytes()) }
        Ok(())
    }
}
