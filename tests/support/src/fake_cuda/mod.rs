//! Fake CUDA: streams, events, wait words and memory that behave as CUDA's contract says and as unkindly as
//! it allows.
//!
//! Work is queued and runs when somebody waits (`Lazy`: only what that needs, as late as can be), at once
//! (`Eager`), or when chance wants (`Random`). It runs on whatever thread drives it, one piece at a time, so that
//! the order is the only thing that a test has to fear. Copies are two pieces. The n-th call can be made to fail,
//! and the n-th piece of work to take the device down.
//!
//! What a correct user never does is noted in [`FakeCuda::violations`]: calls from threads that did not select the
//! device, copies of memory that is not page-locked, memory given back while work is queued.

mod kernels;
mod machine;

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use horizon::base::Result;
use horizon::device::cuda::{Calls, Properties};
use horizon::host::HostSpan;
use horizon::sys::cuda_status::{self, Presence, Versions};
use parking_lot::Mutex;

pub use kernels::backend;
use machine::{Machine, Op, Pointer};

/// When queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As soon as nothing holds it.
    Eager,
    /// When somebody waits for it.
    Lazy,
    /// When a seed says so.
    Random(u64),
}

/// Properties of a fake CUDA.
#[derive(Clone, Debug)]
pub struct Setting {
    pub manner: Manner,
    /// The call that fails, counted from 1, and its status.
    pub failing_call: Option<(u64, u32)>,
    /// The piece of work that fails, counted from 1, and the status of every call from then on.
    pub failing_work: Option<(u64, u32)>,
    /// Whether streams can wait for words.
    pub words: bool,
    /// Device memory.
    pub memory: usize,
    /// Whether host memory can be page-locked.
    pub pins: Option<u32>,
    pub presence: Presence,
    pub compute_capability: (i32, i32),
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            manner: Manner::Eager,
            failing_call: None,
            failing_work: None,
            words: true,
            memory: 1 << 30,
            pins: None,
            presence: Presence {
                versions: Versions { driver: 13000, runtime: 13000 },
                code: cuda_status::SUCCESS,
                text: "cudaSuccess (no error)".into(),
                count: 1,
            },
            compute_capability: (9, 0),
        }
    }
}

/// Fake CUDA. Clones share one machine.
#[derive(Clone, Debug)]
pub struct FakeCuda {
    setting: Arc<Setting>,
    machine: Arc<Mutex<Machine>>,
}

thread_local! {
    static SELECTED: Cell<bool> = const { Cell::new(false) };
}

const ALIGNMENT: usize = 256;

#[derive(Debug)]
pub struct Stream(usize);

#[derive(Debug)]
pub struct Event(usize);

/// Memory of either side.
#[derive(Debug)]
pub struct Memory {
    /// A multiple of 256 bytes lies among its first, as CUDA's memory begins at one.
    words: Box<[u64]>,
    bytes: usize,
    machine: Arc<Mutex<Machine>>,
    pinned: bool,
}

impl Memory {
    fn base(&self) -> NonNull<u8> {
        let start: *mut u8 = self.words.as_ptr().cast_mut().cast();
        NonNull::new(start.wrapping_add(start.align_offset(ALIGNMENT))).unwrap()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut machine = self.machine.lock();
        machine.drain("memory was given back");
        machine.device_bytes -= if self.pinned { 0 } else { self.bytes };
        let base = self.base().as_ptr() as usize;
        machine.pinned.retain(|range| range.start != base);
    }
}

fn text(code: u32) -> String {
    format!("cudaError{code} (a fault of the fake CUDA)")
}

impl FakeCuda {
    pub fn new(setting: Setting) -> FakeCuda {
        let machine = Arc::new(Mutex::new(Machine::new(&setting)));
        FakeCuda { setting: Arc::new(setting), machine }
    }

    pub fn in_manner(manner: Manner) -> FakeCuda {
        FakeCuda::new(Setting { manner, ..Setting::default() })
    }

    /// What was done that must not be.
    pub fn violations(&self) -> Vec<String> {
        self.machine.lock().violations.clone()
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.machine.lock().calls
    }

    /// Streams, events and pieces of memory made so far.
    pub fn made(&self) -> usize {
        self.machine.lock().made
    }

    /// Pieces of work done so far.
    pub fn worked(&self) -> u64 {
        self.machine.lock().worked
    }

    /// Bytes of device memory taken and not given back.
    pub fn device_bytes(&self) -> usize {
        self.machine.lock().device_bytes
    }

    /// Pieces of host memory that are page-locked now.
    pub fn pinned(&self) -> usize {
        self.machine.lock().pinned.len()
    }

    /// Enqueues a kernel.
    pub fn launch(&self, stream: &Stream, kernel: impl FnOnce() + Send + 'static) -> Result<()> {
        self.enqueue("launch a kernel", stream, [Op::Work(Box::new(kernel))])
    }

    /// Counts a call that does `what`; fails the one that shall.
    fn call(&self, what: &str) -> Result<()> {
        let mut machine = self.machine.lock();
        machine.calls += 1;
        if !SELECTED.get() {
            machine.violations.push(format!("a thread that selected no device wanted to {what}"));
        }
        if let Some(code) = machine.lost {
            return Err(cuda_status::error(code, what, text(code)));
        }
        match self.setting.failing_call {
            Some((call, code)) if call == machine.calls => Err(cuda_status::error(code, what, text(code))),
            _ => Ok(()),
        }
    }

    fn enqueue<const N: usize>(&self, what: &str, stream: &Stream, ops: [Op; N]) -> Result<()> {
        self.call(what)?;
        let mut machine = self.machine.lock();
        ops.into_iter().for_each(|op| machine.streams[stream.0].push_back(op));
        machine.after_enqueuing();
        Ok(())
    }

    /// Runs work until `reached`.
    fn drive(&self, what: &str, stream: usize, reached: impl Fn(&Machine) -> bool) -> Result<()> {
        self.call(what)?;
        loop {
            let mut machine = self.machine.lock();
            while !reached(&machine) && machine.lost.is_none() && machine.advance_for(stream) {}
            if let Some(code) = machine.lost {
                return Err(cuda_status::error(code, what, text(code)));
            }
            if reached(&machine) {
                return Ok(());
            }
            drop(machine);
            // A word is waited for, which another thread writes.
            thread::sleep(Duration::from_micros(20));
        }
    }

    fn take(&self, bytes: usize, pinned: bool) -> Memory {
        let mut machine = self.machine.lock();
        machine.made += 1;
        // Painted, as new memory holds anything.
        let words = vec![0xa5a5_a5a5_a5a5_a5a5u64; (bytes + ALIGNMENT).div_ceil(8)].into_boxed_slice();
        let memory = Memory { words, bytes, machine: self.machine.clone(), pinned };
        match pinned {
            true => {
                let base = memory.base().as_ptr() as usize;
                machine.pinned.push(base..base + bytes);
            }
            false => machine.device_bytes += bytes,
        }
        memory
    }

    fn copy(
        &self,
        stream: &Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
        host: NonNull<u8>,
    ) -> Result<()> {
        let host = host.as_ptr() as usize;
        let is_pinned = |machine: &Machine| {
            machine.pinned.iter().any(|range| range.start <= host && host + bytes <= range.end)
        };
        {
            let mut machine = self.machine.lock();
            if !is_pinned(&machine) {
                machine.violations.push(format!("a copy of {bytes} bytes that are not page-locked"));
            }
        }
        let half = bytes / 2;
        let part = |start: usize, bytes: usize| {
            let (to, from) = (Pointer(to.as_ptr()), Pointer(from.as_ptr()));
            Op::Work(Box::new(move || {
                let (Pointer(to), Pointer(from)) = (to.whole(), from.whole());
                // SAFETY: the caller of copy_in or copy_out keeps both ends until the stream has passed.
                unsafe { std::ptr::copy_nonoverlapping(from.add(start), to.add(start), bytes) }
            }))
        };
        self.enqueue("copy", stream, [part(0, half), part(half, bytes - half)])
    }
}

impl Calls for FakeCuda {
    type Stream = Stream;
    type Event = Event;
    type Memory = Memory;
    type Pinned = Memory;

    fn presence(&self) -> Result<Presence> {
        Ok(self.setting.presence.clone())
    }

    fn properties(&self, _device: usize) -> Result<Properties> {
        self.call("read properties")?;
        Ok(Properties {
            name: "fake CUDA".into(),
            pci_bus_id: "0000:00:00.0".into(),
            compute_capability: self.setting.compute_capability,
        })
    }

    fn select(&self, device: usize) -> Result<()> {
        SELECTED.set(true);
        self.setting.presence.admit(device)?;
        self.call("select a device")
    }

    fn memory_free(&self) -> Result<usize> {
        self.call("read the free memory")?;
        Ok(self.setting.memory - self.device_bytes())
    }

    fn take_memory(&self, bytes: usize) -> Result<Memory> {
        self.call("take device memory")?;
        if self.device_bytes() + bytes > self.setting.memory {
            let code = cuda_status::MEMORY_ALLOCATION;
            return Err(cuda_status::error(code, "take device memory", text(code)));
        }
        Ok(self.take(bytes, false))
    }

    fn memory_base(&self, memory: &Memory) -> NonNull<u8> {
        memory.base()
    }

    fn take_pinned(&self, bytes: usize) -> Result<Memory> {
        self.call("take page-locked memory")?;
        if let Some(code) = self.setting.pins.filter(|_| bytes > 4096) {
            return Err(cuda_status::pinning_error(code, "take page-locked memory", text(code)));
        }
        Ok(self.take(bytes, true))
    }

    fn pinned_base(&self, pinned: &Memory) -> NonNull<u8> {
        pinned.base()
    }

    unsafe fn register(&self, pages: HostSpan) -> Result<()> {
        self.call("page-lock memory")?;
        if let Some(code) = self.setting.pins {
            return Err(cuda_status::pinning_error(code, "page-lock memory", text(code)));
        }
        let base = pages.address() as usize;
        self.machine.lock().pinned.push(base..base + pages.bytes());
        Ok(())
    }

    unsafe fn unregister(&self, pages: HostSpan) -> Result<()> {
        let mut machine = self.machine.lock();
        machine.drain("memory was unlocked");
        let (before, base) = (machine.pinned.len(), pages.address() as usize);
        machine.pinned.retain(|range| *range != (base..base + pages.bytes()));
        if machine.pinned.len() + 1 != before {
            machine.violations.push("memory was unlocked that was not locked".into());
        }
        drop(machine);
        self.call("unlock memory")
    }

    fn new_stream(&self) -> Result<Stream> {
        self.call("make a stream")?;
        let mut machine = self.machine.lock();
        machine.made += 1;
        machine.streams.push(Default::default());
        Ok(Stream(machine.streams.len() - 1))
    }

    fn synchronize_stream(&self, stream: &Stream) -> Result<()> {
        self.drive("wait for a stream", stream.0, |machine| machine.streams[stream.0].is_empty())
    }

    fn new_event(&self, _timing: bool) -> Result<Event> {
        self.call("make an event")?;
        let mut machine = self.machine.lock();
        machine.made += 1;
        machine.events.push(Default::default());
        Ok(Event(machine.events.len() - 1))
    }

    fn record(&self, event: &Event, stream: &Stream) -> Result<()> {
        self.call("record an event")?;
        let mut machine = self.machine.lock();
        let state = &mut machine.events[event.0];
        state.recorded += 1;
        state.stream = stream.0;
        let recording = state.recorded;
        machine.streams[stream.0].push_back(Op::Record(event.0, recording));
        machine.after_enqueuing();
        Ok(())
    }

    fn wait_event(&self, stream: &Stream, event: &Event) -> Result<()> {
        let recorded = self.machine.lock().events[event.0].recorded;
        self.enqueue("make a stream wait", stream, [Op::WaitEvent(event.0, recorded)])
    }

    fn is_done(&self, event: &Event) -> Result<bool> {
        self.call("ask an event")?;
        Ok(self.machine.lock().events[event.0].is_done())
    }

    fn synchronize_event(&self, event: &Event) -> Result<()> {
        let (recorded, stream) = {
            let machine = self.machine.lock();
            (machine.events[event.0].recorded, machine.events[event.0].stream)
        };
        self.drive("wait for an event", stream, |machine| machine.events[event.0].reached >= recorded)
    }

    fn ns_since(&self, event: &Event, earlier: &Event) -> Result<i64> {
        self.call("read the time between events")?;
        let machine = self.machine.lock();
        let at = |event: &Event| machine.events[event.0].at_ns as i64;
        Ok(at(event) - at(earlier))
    }

    unsafe fn wait_word(&self, stream: &Stream, words: &Memory, offset: usize, value: u32) -> Result<()> {
        if !self.setting.words {
            let code = cuda_status::NOT_SUPPORTED;
            return Err(cuda_status::error(code, "make a stream wait for a word", text(code)));
        }
        let word = Pointer(words.base().as_ptr().wrapping_add(offset));
        self.enqueue("make a stream wait for a word", stream, [Op::WaitWord(word, value)])
    }

    unsafe fn write_word(&self, stream: &Stream, words: &Memory, offset: usize, value: u32) -> Result<()> {
        let word = Pointer(words.base().as_ptr().wrapping_add(offset));
        self.enqueue("make a stream write a word", stream, [Op::WriteWord(word, value)])
    }

    unsafe fn copy_in(
        &self,
        stream: &Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()> {
        self.copy(stream, to, from, bytes, from)
    }

    unsafe fn copy_out(
        &self,
        stream: &Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()> {
        self.copy(stream, to, from, bytes, to)
    }

    unsafe fn fill(&self, stream: &Stream, to: NonNull<u8>, value: u8, bytes: usize) -> Result<()> {
        let to = Pointer(to.as_ptr());
        let fill = move || {
            let Pointer(to) = to.whole();
            // SAFETY: the caller keeps the memory until the stream has passed.
            unsafe { std::ptr::write_bytes(to, value, bytes) }
        };
        self.enqueue("fill memory", stream, [Op::Work(Box::new(fill))])
    }
}
