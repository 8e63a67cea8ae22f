//! The queues of the fake CUDA and what runs them.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Manner, Setting};

/// An address that may go to another thread.
#[derive(Clone, Copy, Debug)]
pub struct Pointer(pub *mut u8);

// SAFETY: an address; whoever uses it says why it may.
unsafe impl Send for Pointer {}

impl Pointer {
    /// Itself: a closure that calls this takes the pointer and not its field.
    pub fn whole(self) -> Pointer {
        self
    }
}

/// What stands in a stream's queue.
pub enum Op {
    Work(Box<dyn FnOnce() + Send>),
    /// The event, and which of its recordings this is.
    Record(usize, u64),
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
    pub at_ns: u64,
}

impl EventState {
    pub fn is_done(&self) -> bool {
        self.reached == self.recorded
    }
}

pub struct Machine {
    manner: Manner,
    random: ChaCha8Rng,
    failing_work: Option<(u64, u32)>,
    calls_fail: bool,
    origin: Instant,
    pub streams: Vec<VecDeque<Op>>,
    pub events: Vec<EventState>,
    pub pinned: Vec<Range<usize>>,
    pub violations: Vec<String>,
    pub device_bytes: usize,
    pub calls: u64,
    pub made: usize,
    pub worked: u64,
    /// The device has failed with this status.
    pub lost: Option<u32>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fake CUDA after {} calls", self.calls)
    }
}

impl Machine {
    pub fn new(setting: &Setting) -> Machine {
        let seed = if let Manner::Random(seed) = setting.manner { seed } else { 0 };
        Machine {
            manner: setting.manner,
            random: ChaCha8Rng::seed_from_u64(seed),
            failing_work: setting.failing_work,
            calls_fail: setting.failing_call.is_some(),
            origin: Instant::now(),
            streams: Vec::new(),
            events: Vec::new(),
            pinned: Vec::new(),
            violations: Vec::new(),
            device_bytes: 0,
            calls: 0,
            made: 0,
            worked: 0,
            lost: None,
        }
    }

    /// Runs all that is queued, as CUDA does before memory goes. Who relies on that is noted, unless calls fail.
    pub fn drain(&mut self, what: &str) {
        let has_work = |machine: &Machine| machine.streams.iter().any(|queue| !queue.is_empty());
        if self.lost.is_some() || !has_work(self) {
            return;
        }
        if !self.calls_fail {
            self.violations.push(format!("{what} while work was queued"));
        }
        while self.advance_any() {}
        if has_work(self) {
            self.violations.push(format!("{what} while work waited that will never run"));
        }
    }

    pub fn after_enqueuing(&mut self) {
        match self.manner {
            Manner::Eager => while self.advance_any() {},
            Manner::Lazy => {}
            Manner::Random(_) => {
                for _ in 0..self.random.random_range(0..3) {
                    self.advance_any();
                }
            }
        }
    }

    /// Runs something on the way to the end of a stream's queue; false when nothing can.
    pub fn advance_for(&mut self, stream: usize) -> bool {
        match self.manner {
            Manner::Lazy => self.advance_needed(stream),
            _ => self.advance_any(),
        }
    }

    fn advance_any(&mut self) -> bool {
        let streams = self.streams.len();
        let first = self.random.random_range(0..streams.max(1));
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
        let waits = match self.streams[stream].front() {
            None => true,
            _ if self.lost.is_some() => true,
            Some(Op::WaitEvent(event, recording)) => self.events[*event].reached < *recording,
            Some(Op::WaitWord(word, value)) => (word_at(*word).wrapping_sub(*value) as i32) < 0,
            Some(_) => false,
        };
        if waits {
            return false;
        }
        match self.streams[stream].pop_front() {
            Some(Op::Work(work)) => {
                self.worked += 1;
                match self.failing_work {
                    Some((number, code)) if number == self.worked => self.lost = Some(code),
                    _ => work(),
                }
            }
            Some(Op::Record(event, recording)) => {
                let at_ns = self.origin.elapsed().as_nanos() as u64;
                let event = &mut self.events[event];
                (event.reached, event.at_ns) = (recording, at_ns);
            }
            Some(Op::WriteWord(word, value)) => {
                // SAFETY: the caller of write_word keeps the word until the stream has passed.
                unsafe { AtomicU32::from_ptr(word.0.cast()) }.store(value, Ordering::Release);
            }
            Some(Op::WaitEvent(..) | Op::WaitWord(..)) | None => {}
        }
        true
    }
}

fn word_at(word: Pointer) -> u32 {
    // SAFETY: the caller of wait_word keeps the word until the stream has passed.
    unsafe { AtomicU32::from_ptr(word.0.cast()) }.load(Ordering::Acquire)
}
