//! Lanes as threads: bounded queues in, ticks out.
//!
//! Each lane is a ring of entries, two counters and two bells. `issued` counts what was put in, `done` what was
//! finished; both only grow, and `done` *is* the lane's tick. Entries are atomics, so no lock and no `unsafe`
//! stands between the issuer and the lane. A wait is a number per other lane; of several ticks of one lane
//! only the last matters.
//!
//! After a failure a lane still waits for the ticks of each task, then passes the task over (its trace span is
//! empty) and counts it as done: order and wake-ups stay what they were.
//!
//! Why nothing can hang: a tick exists only after its task was issued, so whatever a task waits for stands
//! already in a queue, before it in the order of issue; by induction the oldest unfinished task can run.

use std::any::Any;
use std::array;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::CpuDevice;
use super::adversary::Adversary;
use super::trace::Trace;
use crate::base::{Error, Result};
use crate::device::{Lane, Lanes, TaskSpan, Tick, Work};
use crate::host::Doorbell;

/// Tasks a lane's queue holds: an issuer may run this far ahead of a lane.
const QUEUE: usize = 1024;

/// An issued task: what to run, and the count to wait for on every lane.
#[derive(Default)]
struct Entry {
    task: AtomicU64,
    waits: [AtomicU64; Lane::COUNT],
}

/// On cache lines of its own, since every lane writes its counters all the time.
#[repr(align(128))]
struct LaneState {
    queue: Box<[Entry]>,
    /// Held while a task is put in, so that issuing from two threads is orderly too.
    issuing: Mutex<()>,
    issued: AtomicU64,
    /// Rung when `issued` grows or the lanes close.
    came: Doorbell,
    done: AtomicU64,
    /// Rung when `done` grows.
    went: Doorbell,
    /// Whether it lets all other lanes go first at this moment.
    polite: AtomicBool,
    trace: Option<Trace>,
}

impl LaneState {
    fn new(tracing: Option<Instant>) -> LaneState {
        LaneState {
            queue: (0..QUEUE).map(|_| Entry::default()).collect(),
            issuing: Mutex::new(()),
            issued: AtomicU64::new(0),
            came: Doorbell::new(),
            done: AtomicU64::new(0),
            went: Doorbell::new(),
            polite: AtomicBool::new(false),
            trace: tracing.map(Trace::new),
        }
    }

    fn entry(&self, count: u64) -> &Entry {
        &self.queue[(count % QUEUE as u64) as usize]
    }

    /// Sleeps until `count` tasks are done.
    fn reach(&self, count: u64) {
        self.went.wait(|| self.done.load(Ordering::Acquire) >= count);
    }

    /// The time, where it is asked for.
    fn now(&self) -> u64 {
        self.trace.as_ref().map_or(0, Trace::now)
    }
}

struct Shared {
    lanes: [LaneState; Lane::COUNT],
    work: Arc<dyn Work>,
    /// Set with the first failure; from then on tasks are passed over.
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    closing: AtomicBool,
    /// Keeps the arena as long as a lane may touch it.
    _device: Arc<CpuDevice>,
}

impl Shared {
    /// What a lane's thread does.
    fn serve(&self, lane: Lane, mut adversary: Option<Adversary>) {
        let state = &self.lanes[lane.at()];
        for count in 0u64.. {
            let mut none_left = false;
            state.came.wait(|| {
                // Closing is read first: nothing is issued after it is set.
                let closing = self.closing.load(Ordering::Acquire);
                let here = state.issued.load(Ordering::Acquire) > count;
                none_left = closing && !here;
                here || closing
            });
            if none_left {
                return;
            }
            let ready_ns = state.now();
            let entry = state.entry(count);
            let task = entry.task.load(Ordering::Relaxed);
            for other in Lane::ALL {
                self.lanes[other.at()].reach(entry.waits[other.at()].load(Ordering::Relaxed));
            }
            if let Some(adversary) = &mut adversary {
                let polite = |is| state.polite.store(is, Ordering::Release);
                adversary.delay(polite, || self.others_can(lane));
            }
            let start_ns = state.now();
            if !self.failed.load(Ordering::Acquire) {
                self.run(lane, task);
            }
            if let Some(trace) = &state.trace {
                let end_ns = trace.now();
                trace.record(TaskSpan { lane, task, count: count + 1, ready_ns, start_ns, end_ns });
            }
            state.done.store(count + 1, Ordering::Release);
            state.went.ring_all();
        }
    }

    /// Whether another lane is at work, or has work that waits for nothing; those that are polite themselves have none.
    fn others_can(&self, lane: Lane) -> bool {
        Lane::ALL.iter().filter(|other| **other != lane).any(|other| {
            let state = &self.lanes[other.at()];
            let done = state.done.load(Ordering::Acquire);
            let arrived = |awaited: Lane| {
                let count = state.entry(done).waits[awaited.at()].load(Ordering::Relaxed);
                self.lanes[awaited.at()].done.load(Ordering::Acquire) >= count
            };
            !state.polite.load(Ordering::Acquire)
                && state.issued.load(Ordering::Acquire) > done
                && Lane::ALL.into_iter().all(arrived)
        })
    }

    /// Runs one task; keeps its failure if it is the first.
    fn run(&self, lane: Lane, task: u64) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work.run(lane, task)));
        let failure = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(panic) => {
                Error::internal(format!("task {task} of lane {lane} panicked: {}", panic_text(&*panic)))
            }
        };
        self.failure.lock().get_or_insert(failure);
        self.failed.store(true, Ordering::Release);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is no text")
}

/// The open lanes of a [`CpuDevice`].
pub struct CpuLanes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl CpuLanes {
    /// Starts one thread per lane. `seed` makes them adversarial; `tracing` gives the origin of times.
    pub fn start(
        device: Arc<CpuDevice>,
        work: Arc<dyn Work>,
        seed: Option<u64>,
        tracing: Option<Instant>,
    ) -> Result<CpuLanes> {
        let shared = Arc::new(Shared {
            lanes: array::from_fn(|_| LaneState::new(tracing)),
            work,
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            closing: AtomicBool::new(false),
            _device: device,
        });
        let mut lanes = CpuLanes { shared, threads: Vec::with_capacity(Lane::COUNT) };
        for lane in Lane::ALL {
            let shared = lanes.shared.clone();
            let adversary = seed.map(|seed| Adversary::new(seed, lane));
            let thread = thread::Builder::new()
                .name(format!("hz-{lane}"))
                .spawn(move || shared.serve(lane, adversary))
                .map_err(|error| Error::io(format!("cannot start the thread of lane {lane}"), &error))?;
            lanes.threads.push(thread);
        }
        Ok(lanes)
    }
}

impl Lanes for CpuLanes {
    fn issue(&self, lane: Lane, task: u64, waits: &[Tick], _signal: bool) -> Tick {
        let state = &self.shared.lanes[lane.at()];
        let mut counts = [0; Lane::COUNT];
        for tick in waits.iter().filter(|tick| tick.lane != lane) {
            let issued = self.last(tick.lane).count;
            assert!(
                tick.count <= issued,
                "task {task} of lane {lane} waits for {tick:?}, {issued} are issued"
            );
            counts[tick.lane.at()] = tick.count.max(counts[tick.lane.at()]);
        }
        let _issuing = state.issuing.lock();
        let count = state.issued.load(Ordering::Relaxed);
        state.reach((count + 1).saturating_sub(QUEUE as u64));
        let entry = state.entry(count);
        entry.task.store(task, Ordering::Relaxed);
        for (place, wait) in entry.waits.iter().zip(counts) {
            place.store(wait, Ordering::Relaxed);
        }
        state.issued.store(count + 1, Ordering::Release);
        state.came.ring_all();
        Tick { lane, count: count + 1 }
    }

    fn reach(&self, tick: Tick) -> Result<()> {
        let issued = self.last(tick.lane).count;
        assert!(tick.count <= issued, "nobody issued {tick:?}, {issued} are issued");
        self.shared.lanes[tick.lane.at()].reach(tick.count);
        if !self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.shared.failure.lock().clone().map_or(Ok(()), Err)
    }

    fn last(&self, lane: Lane) -> Tick {
        Tick { lane, count: self.shared.lanes[lane.at()].issued.load(Ordering::Acquire) }
    }

    fn take_spans(&self) -> Vec<TaskSpan> {
        let mut spans = Vec::new();
        self.shared
            .lanes
            .iter()
            .filter_map(|lane| lane.trace.as_ref())
            .for_each(|trace| trace.take(&mut spans));
        spans
    }
}

impl Drop for CpuLanes {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.lanes.iter().for_each(|lane| lane.came.ring_all());
        for thread in self.threads.drain(..) {
            // A task's panic became an error, so a lane ends by returning.
            let _ = thread.join();
        }
    }
}
