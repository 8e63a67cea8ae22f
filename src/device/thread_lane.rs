//! A lane with a thread: a bounded queue of tasks.
//!
//! The queue is a ring buffer of entries with two counters and two doorbells. `issued` counts the
//! tasks put in, `done` the finished tasks; both only grow, and `done` is the lane's tick. Entries
//! are atomics, so issuer and lane need neither a lock nor `unsafe`. A wait is one count per other
//! lane: of several ticks of one lane only the last matters.
//!
//! After a failure a lane still waits for the ticks of each task, then skips the task (its trace
//! span is empty) and counts it as done, so order and wake-ups are unchanged. A task that survives
//! the failure runs, if nothing that it waits for failed or was skipped.
//!
//! No deadlock: a tick exists only after its task was issued, so everything a task waits for was
//! issued before it. By induction the oldest unfinished task can run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;

use super::trace::Trace;
use super::{Lane, TaskSpan, Tick};
use crate::base::Result;
use crate::host::{Doorbell, start_thread};

/// The capacity of a lane's queue: an issuer can be this many tasks ahead.
const QUEUE: usize = 1024;

/// The number of tasks of each lane for which an issued task waits.
pub type Counts = [u64; Lane::COUNT];

/// Combines the waits of a task into one count per lane. `issued` returns the number of issued
/// tasks of a lane.
///
/// # Panics
/// If a tick was not issued.
pub fn counts(lane: Lane, task: u64, waits: &[Tick], issued: impl Fn(Lane) -> u64) -> Counts {
    let mut counts = [0; Lane::COUNT];
    for tick in waits.iter().filter(|tick| tick.lane != lane) {
        let issued = issued(tick.lane);
        assert!(tick.count <= issued, "task {task} of lane {lane} waits for {tick:?}, {issued} are issued");
        counts[tick.lane.at()] = tick.count.max(counts[tick.lane.at()]);
    }
    counts
}

/// An issued task and its waits.
#[derive(Default)]
struct Entry {
    task: AtomicU64,
    waits: [AtomicU64; Lane::COUNT],
}

/// Executes the tasks of a lane on its thread.
pub trait Serve {
    /// Blocks until these counts have arrived.
    fn await_counts(&mut self, counts: &Counts);
    /// Runs a task, or skips it after a failure. Returns false if it failed or was skipped.
    fn run(&mut self, task: u64) -> bool;
    /// Called when the lane has done `count` tasks, before threads that wait for this are woken.
    fn done(&mut self, count: u64);
}

/// The queue of one lane. Aligned to two cache lines to avoid false sharing of its counters.
#[repr(align(128))]
pub struct ThreadLane {
    lane: Lane,
    queue: Box<[Entry]>,
    /// Held while a task is put in, so that two threads can issue.
    issuing: Mutex<()>,
    issued: AtomicU64,
    /// Rung when `issued` grows or the lane closes.
    issued_bell: Doorbell,
    done: AtomicU64,
    /// The number of tasks done before the first that failed or was skipped.
    intact: AtomicU64,
    /// Rung when `done` grows.
    done_bell: Doorbell,
    closing: AtomicBool,
    trace: Option<Trace>,
}

impl ThreadLane {
    /// An empty queue. `tracing` is the origin of trace times; `None` disables tracing.
    pub fn new(lane: Lane, tracing: Option<Instant>) -> ThreadLane {
        ThreadLane {
            lane,
            queue: (0..QUEUE).map(|_| Entry::default()).collect(),
            issuing: Mutex::new(()),
            issued: AtomicU64::new(0),
            issued_bell: Doorbell::new(),
            done: AtomicU64::new(0),
            intact: AtomicU64::new(0),
            done_bell: Doorbell::new(),
            closing: AtomicBool::new(false),
            trace: tracing.map(Trace::new),
        }
    }

    /// Starts the lane's thread, which ends when the lane is closed and its queue empty.
    pub fn start<S: Serve + Send + 'static>(self: Arc<Self>, mut serve: S) -> Result<JoinHandle<()>> {
        start_thread(self.lane, move || self.run_tasks(&mut serve))
    }

    /// Puts a task in and returns its count. Blocks while the queue is full.
    pub fn issue(&self, task: u64, waits: &Counts) -> u64 {
        let _issuing = self.issuing.lock();
        let count = self.issued.load(Ordering::Relaxed);
        self.reach((count + 1).saturating_sub(QUEUE as u64));
        let entry = self.entry(count);
        entry.task.store(task, Ordering::Relaxed);
        for (stored, wait) in entry.waits.iter().zip(waits) {
            stored.store(*wait, Ordering::Relaxed);
        }
        self.issued.store(count + 1, Ordering::Release);
        self.issued_bell.ring_all();
        count + 1
    }

    /// The number of issued tasks.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// The number of finished tasks.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Returns true if `count` tasks are done, and none of them failed or was skipped.
    pub fn is_intact(&self, count: u64) -> bool {
        self.intact.load(Ordering::Acquire) >= count
    }

    /// The waits of the first unfinished task, which may be running; `None` if all are done.
    pub fn next(&self) -> Option<Counts> {
        let done = self.done();
        let waits = &self.entry(done).waits;
        (self.issued() > done).then(|| std::array::from_fn(|at| waits[at].load(Ordering::Relaxed)))
    }

    /// Blocks until `count` tasks are done.
    pub fn reach(&self, count: u64) {
        self.done_bell.wait(|| self.done() >= count);
    }

    /// Closes the lane: no task is issued afterwards, and the thread ends when the queue is empty.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.issued_bell.ring_all();
    }

    /// The origin of the spans' times; `None` without tracing.
    pub fn origin(&self) -> Option<Instant> {
        self.trace.as_ref().map(Trace::origin)
    }

    /// Moves the recorded spans to the end of `out`.
    pub fn take_spans(&self, out: &mut Vec<TaskSpan>) {
        if let Some(trace) = &self.trace {
            trace.take(out);
        }
    }

    fn entry(&self, count: u64) -> &Entry {
        &self.queue[(count % QUEUE as u64) as usize]
    }

    /// The trace time in nanoseconds; 0 without tracing.
    fn now(&self) -> u64 {
        self.trace.as_ref().map_or(0, Trace::now)
    }

    /// The main loop of the lane's thread.
    fn run_tasks(&self, serve: &mut impl Serve) {
        for count in 0u64.. {
            let mut none_left = false;
            self.issued_bell.wait(|| {
                // `closing` is read first: no task is issued after it is set.
                let closing = self.closing.load(Ordering::Acquire);
                let available = self.issued() > count;
                none_left = closing && !available;
                available || closing
            });
            if none_left {
                return;
            }
            let ready_ns = self.now();
            let entry = self.entry(count);
            let task = entry.task.load(Ordering::Relaxed);
            serve.await_counts(&std::array::from_fn(|at| entry.waits[at].load(Ordering::Relaxed)));
            let start_ns = self.now();
            if serve.run(task) && self.intact.load(Ordering::Relaxed) == count {
                self.intact.store(count + 1, Ordering::Release);
            }
            if let Some(trace) = &self.trace {
                let (lane, end_ns) = (self.lane, trace.now());
                trace.record(TaskSpan { lane, task, count: count + 1, ready_ns, start_ns, end_ns });
            }
            serve.done(count + 1);
            self.done.store(count + 1, Ordering::Release);
            self.done_bell.ring_all();
        }
    }
}
