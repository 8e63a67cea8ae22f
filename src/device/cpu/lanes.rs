//! The lanes of the CPU device: one thread each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::CpuDevice;
use super::adversary::Adversary;
use crate::base::Result;
use crate::device::failure::{Failure, attempt};
use crate::device::thread_lane::{Counts, Serve, ThreadLane, counts};
use crate::device::{Lane, Lanes, TaskSpan, Tick, Work};

struct Shared {
    lanes: [Arc<ThreadLane>; Lane::COUNT],
    work: Arc<dyn Work>,
    failure: Failure,
    /// True while a lane's adversary delays it until no other lane can proceed.
    runs_last: [AtomicBool; Lane::COUNT],
    /// Keeps the arena alive while a lane may access it.
    _device: Arc<CpuDevice>,
}

impl Shared {
    /// Returns true if a lane is running a task or has one whose waits have arrived, and is not
    /// delayed as `runs_last`.
    fn can_run(&self, lane: Lane) -> bool {
        let arrived =
            |counts: Counts| Lane::ALL.iter().all(|of| self.lanes[of.at()].done() >= counts[of.at()]);
        !self.runs_last[lane.at()].load(Ordering::Acquire)
            && self.lanes[lane.at()].next().is_some_and(arrived)
    }
}

/// The state of a lane's thread.
struct Server {
    shared: Arc<Shared>,
    lane: Lane,
    adversary: Option<Adversary>,
    /// Nothing that the next task waits for failed or was skipped.
    is_intact: bool,
}

impl Serve for Server {
    fn await_counts(&mut self, counts: &Counts) {
        for other in Lane::ALL {
            self.shared.lanes[other.at()].reach(counts[other.at()]);
        }
        self.is_intact = Lane::ALL.iter().all(|of| self.shared.lanes[of.at()].is_intact(counts[of.at()]));
        if let Some(adversary) = &mut self.adversary {
            let (shared, lane) = (&self.shared, self.lane);
            let set_last = |last| shared.runs_last[lane.at()].store(last, Ordering::Release);
            let others_can_run = || Lane::ALL.into_iter().any(|other| other != lane && shared.can_run(other));
            adversary.delay(set_last, others_can_run);
        }
    }

    fn run(&mut self, task: u64) -> bool {
        let Shared { work, failure, .. } = &*self.shared;
        if failure.is_set() && !(self.is_intact && work.survives(self.lane, task)) {
            return false;
        }
        let ran = attempt(&**work, self.lane, task);
        ran.map_err(|error| failure.record(error)).is_ok()
    }

    fn done(&mut self, _count: u64) {}
}

/// The open lanes of a [`CpuDevice`].
pub struct CpuLanes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl CpuLanes {
    /// Starts one thread per lane. A `seed` makes them adversarial; `tracing` is the origin of
    /// trace times.
    pub fn start(
        device: Arc<CpuDevice>,
        work: Arc<dyn Work>,
        seed: Option<u64>,
        tracing: Option<Instant>,
    ) -> Result<CpuLanes> {
        let shared = Arc::new(Shared {
            lanes: Lane::ALL.map(|lane| Arc::new(ThreadLane::new(lane, tracing))),
            work,
            failure: Failure::default(),
            runs_last: Default::default(),
            _device: device,
        });
        let mut lanes = CpuLanes { shared, threads: Vec::with_capacity(Lane::COUNT) };
        for lane in Lane::ALL {
            let shared = lanes.shared.clone();
            let adversary = seed.map(|seed| Adversary::new(seed, lane));
            let queue = shared.lanes[lane.at()].clone();
            lanes.threads.push(queue.start(Server { shared, lane, adversary, is_intact: true })?);
        }
        Ok(lanes)
    }
}

impl Lanes for CpuLanes {
    fn issue(&self, lane: Lane, task: u64, waits: &[Tick], _signal: bool) -> Tick {
        let counts = counts(lane, task, waits, |other| self.last(other).count);
        Tick { lane, count: self.shared.lanes[lane.at()].issue(task, &counts) }
    }

    fn reach(&self, tick: Tick) -> Result<()> {
        let issued = self.last(tick.lane).count;
        assert!(tick.count <= issued, "{tick:?} was not issued, {issued} are issued");
        self.shared.lanes[tick.lane.at()].reach(tick.count);
        self.shared.failure.outcome()
    }

    fn last(&self, lane: Lane) -> Tick {
        Tick { lane, count: self.shared.lanes[lane.at()].issued() }
    }

    fn take_spans(&self) -> Vec<TaskSpan> {
        let mut spans = Vec::new();
        self.shared.lanes.iter().for_each(|lane| lane.take_spans(&mut spans));
        spans
    }

    fn origin(&self) -> Option<Instant> {
        self.shared.lanes[Lane::Host.at()].origin()
    }
}

impl Drop for CpuLanes {
    fn drop(&mut self) {
        self.shared.lanes.iter().for_each(|lane| lane.close());
        for thread in self.threads.drain(..) {
            // A task's panic becomes an error, so a lane's thread ends by returning.
            let _ = thread.join();
        }
    }
}
