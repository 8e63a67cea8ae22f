//! The lanes of the CPU device: each one a thread.

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
    /// Whether a lane lets all others go first at this moment.
    polite: [AtomicBool; Lane::COUNT],
    /// Keeps the arena as long as a lane may touch it.
    _device: Arc<CpuDevice>,
}

impl Shared {
    /// Whether a lane is at work, or has work that waits for nothing. A polite one has none.
    fn can_go_on(&self, lane: Lane) -> bool {
        let arrived =
            |counts: Counts| Lane::ALL.iter().all(|of| self.lanes[of.at()].done() >= counts[of.at()]);
        !self.polite[lane.at()].load(Ordering::Acquire) && self.lanes[lane.at()].next().is_some_and(arrived)
    }
}

/// What the thread of one lane has at hand.
struct Server {
    shared: Arc<Shared>,
    lane: Lane,
    adversary: Option<Adversary>,
}

impl Serve for Server {
    fn await_counts(&mut self, counts: &Counts) {
        for other in Lane::ALL {
            self.shared.lanes[other.at()].reach(counts[other.at()]);
        }
        if let Some(adversary) = &mut self.adversary {
            let (shared, lane) = (&self.shared, self.lane);
            let polite = |is| shared.polite[lane.at()].store(is, Ordering::Release);
            let others_can = || Lane::ALL.into_iter().any(|other| other != lane && shared.can_go_on(other));
            adversary.delay(polite, others_can);
        }
    }

    fn run(&mut self, task: u64) {
        let Shared { work, failure, .. } = &*self.shared;
        if !failure.is_set()
            && let Err(error) = attempt(&**work, self.lane, task)
        {
            failure.keep(error);
        }
    }

    fn done(&mut self, _count: u64) {}
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
            lanes: Lane::ALL.map(|lane| Arc::new(ThreadLane::new(lane, tracing))),
            work,
            failure: Failure::default(),
            polite: Default::default(),
            _device: device,
        });
        let mut lanes = CpuLanes { shared, threads: Vec::with_capacity(Lane::COUNT) };
        for lane in Lane::ALL {
            let shared = lanes.shared.clone();
            let adversary = seed.map(|seed| Adversary::new(seed, lane));
            let queue = shared.lanes[lane.at()].clone();
            lanes.threads.push(queue.start(Server { shared, lane, adversary })?);
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
        assert!(tick.count <= issued, "nobody issued {tick:?}, {issued} are issued");
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
            // A task's panic became an error, so a lane ends by returning.
            let _ = thread.join();
        }
    }
}
