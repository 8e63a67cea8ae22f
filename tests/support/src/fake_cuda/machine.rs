//! The queues of a fake device and what runs them.

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

/// Commands that a stream's queue holds: whoever enqueues more is blocked.
pub const QUEUE: usize = 1000;

/// An address that may go to another thread.
#[derive(Clone, Copy, Debug)]
pub struct Pointer(pub *mut u8);

// SAFETY: an address; whoever uses it says why it may.
unsafe impl Send for Pointer {}

/// A piece of work, which may hold addresses.
pub struct Work(pub Box<dyn FnOnce()>);

// SAFETY: a kernel or a copy, which CUDA runs on a thread of nobody's; its addresses are those of such memory.
unsafe impl Send for Work {}

/// A command in a stream's queue.
pub enum Op {
    Work(Work),
    /// The event, which of its recordings this is, and how late it is.
    Record(usize, u64, u32),
    WaitEvent(usize, u64),
    WaitWord(Pointer, u32),
    WriteWord(Pointer, u32),
}

#[derive(Debug, Default)]
pub struct EventState {
    /// Recordings so far.
    pub recorded: u64,
    /// The last that was reached.
    pub reached: u64,
    /// Where it was recorded last.
    pub stream: usize,
    pub timing: bool,
    pub at_ns: u64,
}

impl EventState {
    pub fn is_done(&self) -> bool {
        self.reached == self.recorded
    }
}

/// Memory of either side.
#[derive(Debug)]
pub struct Taken {
    pub base: usize,
    pub layout: std::alloc::Layout,
    /// What was asked for.
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
    /// Streams, events and pieces of memory made so far, and how many of them are there.
    pub made: usize,
    pub live: usize,
    pub worked: u64,
    pub words_used: u64,
    /// Kernels that have been launched before, and how often one had not.
    loaded: HashSet<usize>,
    pub loads: u64,
    /// The thread that has the lock of the context, as it loads a kernel.
    pub loading: Option<ThreadId>,
    /// Nothing runs by itself.
    pub held: bool,
    pub enqueued_at: Instant,
    pub progress_at: Instant,
    /// The device has failed with this status.
    pub lost: Option<u32>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fake CUDA after {} pieces of work", self.worked)
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
            // The default stream.
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

    /// Whether the calling thread is kept out by another, which loads a kernel.
    pub fn is_locked(&self) -> bool {
        self.loading.is_some_and(|thread| thread != thread::current().id())
    }

    /// Whether a kernel is launched for the first time; it counts as loaded from now on.
    pub fn loads_now(&mut self, kernel: usize) -> bool {
        let new = self.loaded.insert(kernel);
        self.loads += u64::from(new);
        new
    }

    /// Notes that threads wait for each other for good, and lets all of them go: the device is lost.
    pub fn deadlock(&mut self, what: &str) {
        self.violations.push(format!("deadlock: {what}"));
        self.lost = Some(LAUNCH_TIMEOUT);
    }

    /// Notes that somebody relies on CUDA running all work before memory goes, unless calls fail.
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

    /// Late by some turns, as an event is reached some time after the work before it.
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

    /// Runs something on the way to the end of a stream's queue; false when nothing can.
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

    /// Runs the head of a stream, or of the streams that it waits for.
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

    /// Runs the head of a stream, unless it has to wait.
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
                // SAFETY: whoever enqueued it keeps the word until the stream has passed.
                unsafe { AtomicU32::from_ptr(word.0.cast()) }.store(value, Ordering::Release);
            }
            Some(Op::WaitEvent(..) | Op::WaitWord(..)) | None => {}
        }
        self.progress_at = Instant::now();
        true
    }
}

fn word_at(word: Pointer) -> u32 {
    // SAFETY: whoever enqueued it keeps the word until the stream has passed.
    unsafe { AtomicU32::from_ptr(word.0.cast()) }.load(Ordering::Acquire)
}
