//! A lane that is a thread: a bounded queue in, ticks out.
//!
//! A ring of entries, two counters and two bells. `issued` counts what was put in, `done` what was finished; both
//! only grow, and `done` *is* the lane's tick. Entries are atomics, so no lock and no `unsafe` stands between the
//! issuer and the lane. A wait is a number per other lane; of several ticks of one lane only the last matters.
//!
//! After a failure a lane still waits for the ticks of each task, then passes the task over (its trace span is
//! empty) and counts it as done: order and wake-ups stay what they were.
//!
//! Why nothing can hang: a tick exists only after its task was issued, so whatever a task waits for stands
//! already in a queue, before it in the order of issue; by induction the oldest unfinished task can run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::trace::Trace;
use super::{Lane, TaskSpan, Tick};
use crate::base::{Error, Result};
use crate::host::Doorbell;

/// Tasks a lane's queue holds: an issuer may run this far ahead of a lane.
const QUEUE: usize = 1024;

/// A number of tasks of each lane: what an issued task waits for.
pub type Counts = [u64; Lane::COUNT];

/// What the waits of a task come to.
///
/// # Panics
/// If a tick was not issued. `issued` tells the last count of a lane.
pub fn counts(lane: Lane, task: u64, waits: &[Tick], issued: impl Fn(Lane) -> u64) -> Counts {
    let mut counts = [0; Lane::COUNT];
    for tick in waits.iter().filter(|tick| tick.lane != lane) {
        let issued = issued(tick.lane);
        assert!(tick.count <= issued, "task {task} of lane {lane} waits for {tick:?}, {issued} are issued");
        counts[tick.lane.at()] = tick.count.max(counts[tick.lane.at()]);
    }
    counts
}

/// An issued task: what to run, and the count to wait for on every lane.
#[derive(Default)]
struct Entry {
    task: AtomicU64,
    waits: [AtomicU64; Lane::COUNT],
}

/// What happens around and in the tasks of a lane, on its thread.
pub trait Serve {
    /// Returns when these counts have arrived.
    fn await_counts(&mut self, counts: &Counts);
    /// Runs a task, or passes it over.
    fn run(&mut self, task: u64);
    /// The lane has done so many tasks; called before anybody who sleeps for that is woken.
    fn done(&mut self, count: u64);
}

/// The queue of one lane. On cache lines of its own, since every lane writes its counters all the time.
#[repr(align(128))]
pub struct ThreadLane {
    lane: Lane,
    queue: Box<[Entry]>,
    /// Held while a task is put in, so that issuing from two threads is orderly too.
    issuing: Mutex<()>,
    issued: AtomicU64,
    /// Rung when `issued` grows or the lane closes.
    came: Doorbell,
    done: AtomicU64,
    /// Rung when `done` grows.
    went: Doorbell,
    closing: AtomicBool,
    trace: Option<Trace>,
}

impl ThreadLane {
    /// An empty queue; `tracing` gives the origin of times.
    pub fn new(lane: Lane, tracing: Option<Instant>) -> ThreadLane {
        ThreadLane {
            lane,
            queue: (0..QUEUE).map(|_| Entry::default()).collect(),
            issuing: Mutex::new(()),
            issued: AtomicU64::new(0),
            came: Doorbell::new(),
            done: AtomicU64::new(0),
            went: Doorbell::new(),
            closing: AtomicBool::new(false),
            trace: tracing.map(Trace::new),
        }
    }

    /// Starts the thread that works the queue off: it ends when the lane is closed and empty.
    pub fn start<S: Serve + Send + 'static>(self: Arc<Self>, mut serve: S) -> Result<JoinHandle<()>> {
        let lane = self.lane;
        thread::Builder::new()
            .name(format!("hz-{lane}"))
            .spawn(move || self.work_off(&mut serve))
            .map_err(|error| Error::io(format!("cannot start the thread of lane {lane}"), &error))
    }

    /// Puts a task in, after a place is free; gives its count.
    pub fn issue(&self, task: u64, waits: &Counts) -> u64 {
        let _issuing = self.issuing.lock();
        let count = self.issued.load(Ordering::Relaxed);
        self.reach((count + 1).saturating_sub(QUEUE as u64));
        let entry = self.entry(count);
        entry.task.store(task, Ordering::Relaxed);
        for (place, wait) in entry.waits.iter().zip(waits) {
            place.store(*wait, Ordering::Relaxed);
        }
        self.issued.store(count + 1, Ordering::Release);
        self.came.ring_all();
        count + 1
    }

    /// How many tasks were put in.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// How many tasks are done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// What the first task waits for that is not done, if there is one; it may be under way.
    pub fn next(&self) -> Option<Counts> {
        let done = self.done();
        let waits = &self.entry(done).waits;
        (self.issued() > done).then(|| std::array::from_fn(|at| waits[at].load(Ordering::Relaxed)))
    }

    /// Sleeps until `count` tasks are done.
    pub fn reach(&self, count: u64) {
        self.went.wait(|| self.done() >= count);
    }

    /// Nothing more will be issued: the thread ends when the queue is empty.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.came.ring_all();
    }

    /// When the clock of its spans stood at 0, if it records any.
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

    /// The time, where it is asked for.
    fn now(&self) -> u64 {
        self.trace.as_ref().map_or(0, Trace::now)
    }

    /// What the lane's thread does.
    fn work_off(&self, serve: &mut impl Serve) {
        for count in 0u64.. {
            let mut none_left = false;
            self.came.wait(|| {
                // Closing is read first: nothing is issued after it is set.
                let closing = self.closing.load(Ordering::Acquire);
                let here = self.issued() > count;
                none_left = closing && !here;
                here || closing
            });
            if none_left {
                return;
            }
            let ready_ns = self.now();
            let entry = self.entry(count);
            let task = entry.task.load(Ordering::Relaxed);
            serve.await_counts(&std::array::from_fn(|at| entry.waits[at].load(Ordering::Relaxed)));
            let start_ns = self.now();
            serve.run(task);
            if let Some(trace) = &self.trace {
                let (lane, end_ns) = (self.lane, trace.now());
                trace.record(TaskSpan { lane, task, count: count + 1, ready_ns, start_ns, end_ns });
            }
            serve.done(count + 1);
            self.done.store(count + 1, Ordering::Release);
            self.went.ring_all();
        }
    }
}
