//! The queues of a fake device, and their execution.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ThreadId};
use std::time::Instant;

use horizon::sys::cuda_status::LAUNCH_TIMEOUT;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Manner, Setting};

/// Capacity of a CUDA stream's queue: enqueueing more blocks.
pub const QUEUE: usize = 1000;

/// An address that may be sent to another thread.
#[derive(Clone, Copy, Debug)]
pub struct Pointer(pub *mut u8);

// SAFETY: an address; its users justify each access.
unsafe impl Send for Pointer {}

/// A kernel or a copy; may hold addresses.
pub struct Work(pub Box<dyn FnOnce()>);

// SAFETY: CUDA may run it on any thread, so its addresses must be valid on all threads.
unsafe impl Send for Work {}

/// A command in the queue of a CUDA stream.
pub enum Op {
    Work(Work),
    /// Event, number of the recording, and how many turns it is late.
    Record(usize, u64, u32),
    WaitEvent(usize, u64),
    WaitWord(Pointer, u32),
    WriteWord(Pointer, u32),
}

#[derive(Debug, Default)]
pub struct EventState {
    /// Number of recordings so far.
    pub recorded: u64,
    /// The last recording that was reached.
    pub reached: u64,
    /// The CUDA stream of the last recording.
    pub stream: usize,
    pub timing: bool,
    pub at_ns: u64,
}

impl EventState {
    pub fn is_done(&self) -> bool {
        self.reached == self.recorded
    }
}

/// An allocation of device memory or pinned host memory.
#[derive(Debug)]
pub struct Taken {
    pub base: usize,
    pub layout: std::alloc::Layout,
    /// The requested size.
    pub bytes: usize,
}

pub struct Machine {
    manner: Manner,
    random: ChaCha8Rng,
    failing_work: Option<(u64, u32)>,
    calls_fail: bool,
    origin: Instant,
    pub streams: Vec<VecDeque<Op>>,
    pub events: Vec<EventState>,
    pub memory: Vec<Taken>,
    pub pinned: Vec<Range<usize>>,
    pub violations: Vec<String>,
    pub device_bytes: usize,
    /// CUDA streams, events and allocations made so far, and the number of those that still exist.
    pub made: usize,
    pub live: usize,
    pub worked: u64,
    pub words_used: u64,
    /// Kernels that have been launched, and the number of first launches.
    loaded: HashSet<usize>,
    pub loads: u64,
    /// The thread that holds the lock of the context while it loads a kernel.
    pub loading: Option<ThreadId>,
    /// While true, no work runs.
    pub held: bool,
    pub enqueued_at: Instant,
    pub progress_at: Instant,
    /// The error that made the device unusable.
    pub lost: Option<u32>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fake CUDA after {} kernels and copies", self.worked)
    }
}

impl Machine {
    pub fn new(setting: &Setting) -> Machine {
        let seed = if let Manner::Random(seed) = setting.manner { seed } else { 0 };
        let now = Instant::now();
        Machine {
            manner: setting.manner,
            random: ChaCha8Rng::seed_from_u64(seed),
            failing_work: setting.failing_work,
            calls_fail: setting.fault.is_some(),
            origin: now,
            // The default CUDA stream.
            streams: vec![VecDeque::new()],
            events: Vec::new(),
            memory: Vec::new(),
            pinned: Vec::new(),
            violations: Vec::new(),
            device_bytes: 0,
            made: 0,
            live: 0,
            worked: 0,
            words_used: 0,
            loaded: HashSet::new(),
            loads: 0,
            loading: None,
            held: false,
            enqueued_at: now,
            progress_at: now,
            lost: None,
        }
    }

    pub fn has_work(&self) -> bool {
        self.streams.iter().any(|queue| !queue.is_empty())
    }

    /// Returns true while another thread holds the lock of the context.
    pub fn is_locked(&self) -> bool {
        self.loading.is_some_and(|thread| thread != thread::current().id())
    }

    /// Returns true for the first launch of a kernel, which then counts as loaded.
    pub fn loads_now(&mut self, kernel: usize) -> bool {
        let new = self.loaded.insert(kernel);
        self.loads += u64::from(new);
        new
    }

    /// Records a deadlock, and releases all waiting threads by losing the device.
    pub fn deadlock(&mut self, what: &str) {
        self.violations.push(format!("deadlock: {what}"));
        self.lost = Some(LAUNCH_TIMEOUT);
    }

    /// Records a violation if work is queued when memory is freed, unless the test makes calls
    /// fail.
    pub fn note_work(&mut self, what: &str) {
        if self.lost.is_none() && self.has_work() && !self.calls_fail {
            self.violations.push(format!("{what} while work was queued"));
        }
    }

    pub fn push(&mut self, stream: usize, op: Op) {
        self.streams[stream].push_back(op);
        self.enqueued_at = Instant::now();
        self.progress_at = self.enqueued_at;
        match self.manner {
            Manner::Eager => self.run_all(),
            Manner::Lazy => {}
            Manner::Random(_) => self.run_some(),
        }
    }

    /// Delays an event by some turns, because an event may be reached some time after the work
    /// before it.
    pub fn lateness(&mut self) -> u32 {
        match self.manner {
            Manner::Eager => 0,
            Manner::Lazy => 2,
            Manner::Random(_) => self.random.random_range(0..4),
        }
    }

    pub fn run_all(&mut self) {
        while self.advance_any() {}
    }

    pub fn run_some(&mut self) {
        for _ in 0..self.random.random_range(0..3) {
            self.advance_any();
        }
    }

    /// Runs a command that brings a CUDA stream closer to its end; returns false if none can run.
    pub fn advance_for(&mut self, stream: usize) -> bool {
        match self.manner {
            Manner::Lazy => self.advance_needed(stream),
            _ => self.advance_any(),
        }
    }

    pub fn advance_any(&mut self) -> bool {
        let streams = self.streams.len();
        let first = self.random.random_range(0..streams);
        (0..streams).any(|at| self.advance((first + at) % streams))
    }

    /// Runs the first command of a CUDA stream, or of one that it waits for.
    fn advance_needed(&mut self, mut stream: usize) -> bool {
        loop {
            if self.advance(stream) {
                return true;
            }
            match self.streams[stream].front() {
                Some(Op::WaitEvent(event, _)) => stream = self.events[*event].stream,
                _ => return false,
            }
        }
    }

    /// Runs the first command of a CUDA stream, unless it has to wait.
    fn advance(&mut self, stream: usize) -> bool {
        let waits = match self.streams[stream].front_mut() {
            None => true,
            _ if self.lost.is_some() || self.held => true,
            Some(Op::WaitEvent(event, recording)) => self.events[*event].reached < *recording,
            Some(Op::WaitWord(word, value)) => (word_at(*word).wrapping_sub(*value) as i32) < 0,
            Some(Op::Record(_, _, late)) if *late > 0 => {
                *late -= 1;
                return true;
            }
            Some(_) => false,
        };
        if waits {
            return false;
        }
        match self.streams[stream].pop_front() {
            Some(Op::Work(Work(work))) => {
                self.worked += 1;
                match self.failing_work {
                    Some((number, code)) if number == self.worked => self.lost = Some(code),
                    _ => work(),
                }
            }
            Some(Op::Record(event, recording, _)) => {
                let at_ns = self.origin.elapsed().as_nanos() as u64;
                let event = &mut self.events[event];
                (event.reached, event.at_ns) = (recording, at_ns);
            }
            Some(Op::WriteWord(word, value)) => {
                // SAFETY: the caller of the driver function keeps the word until the CUDA stream has run the
                // command.
                unsafe { AtomicU32::from_ptr(word.0.cast()) }.store(value, Ordering::Release);
            }
            Some(Op::WaitEvent(..) | Op::WaitWord(..)) | None => {}
        }
        self.progress_at = Instant::now();
        true
    }
}

fn word_at(word: Pointer) -> u32 {
    // SAFETY: the caller of the driver function keeps the word until the CUDA stream has run the
    // command.
    unsafe { AtomicU32::from_ptr(word.0.cast()) }.load(Ordering::Acquire)
}
