//! The lanes of the CUDA device: CUDA streams and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::stream_lane::{StreamLane, TICK_SLOTS};
use super::timing::Timing;
use super::words::Words;
use super::{CudaDevice, STREAM_LANES};
use crate::base::{Error, Result, Status};
use crate::device::failure::{Failure, attempt};
use crate::device::thread_lane::{Counts, Serve, ThreadLane, counts};
use crate::device::trace::Trace;
use crate::device::{Lane, Lanes, TaskSpan, Tick, Work};
use crate::host::start_thread;
use crate::sys::cuda::poll;

/// The implementation of a lane.
enum Kind {
    Stream(StreamLane),
    Thread(Arc<ThreadLane>),
}

struct Shared {
    // Dropped before `device`: its events belong to the device's context.
    lanes: [Kind; Lane::COUNT],
    /// `None` if stream memory operations are unavailable or turned off.
    words: Option<Words>,
    timing: Option<Timing>,
    work: Arc<dyn Work>,
    failure: Failure,
    device: Arc<CudaDevice>,
}

impl Shared {
    fn issued(&self, lane: Lane) -> u64 {
        match &self.lanes[lane.at()] {
            Kind::Stream(stream) => stream.issued(),
            Kind::Thread(thread) => thread.issued(),
        }
    }

    /// The number of tasks of a lane that are known to be done; `None` if that is unknown.
    fn done(&self, lane: Lane) -> Option<u64> {
        match &self.lanes[lane.at()] {
            Kind::Stream(stream) => self.words.as_ref().map(|words| words.done(lane, stream.issued())),
            Kind::Thread(thread) => Some(thread.done()),
        }
    }

    /// Returns true if a tick is known to have arrived, and no task up to it failed or was skipped.
    fn is_intact(&self, lane: Lane, count: u64) -> bool {
        match &self.lanes[lane.at()] {
            Kind::Stream(_) => count == 0 || self.done(lane).is_some_and(|done| done >= count),
            Kind::Thread(thread) => thread.is_intact(count),
        }
    }

    /// Blocks until a tick has arrived. Records a failure.
    fn reach(&self, lane: Lane, count: u64) {
        match &self.lanes[lane.at()] {
            Kind::Thread(thread) => thread.reach(count),
            Kind::Stream(_) if count == 0 => {}
            Kind::Stream(stream) => {
                let arrived = || match &self.words {
                    _ if self.failure.is_set() => Ok(true),
                    Some(words) => Ok(words.done(lane, stream.issued()) >= count),
                    None => stream.is_done(count),
                };
                let selected = if self.words.is_some() { Ok(()) } else { self.device.select() };
                if let Err(error) = selected.and_then(|()| poll(arrived)) {
                    self.failure.record(self.attributed(error, lane, count));
                }
            }
        }
    }

    /// Enqueues a task's waits on its CUDA stream.
    fn enqueue_waits(&self, lane: Lane, waits: &Counts) -> Result<()> {
        let own = self.device.stream(lane);
        for other in Lane::ALL {
            let count = waits[other.at()];
            match &self.lanes[other.at()] {
                _ if count == 0 => {}
                Kind::Stream(stream) => stream.enqueue_wait(own, count)?,
                // A finished task needs no wait. An unfinished one is less than a queue length behind.
                Kind::Thread(thread) if thread.done() >= count => {}
                Kind::Thread(thread) => match &self.words {
                    Some(words) => words.wait(own, other, count)?,
                    None => thread.reach(count),
                },
            }
        }
        Ok(())
    }

    fn issue_to_stream(
        &self,
        lane: Lane,
        stream: &StreamLane,
        task: u64,
        waits: &Counts,
        signal: bool,
    ) -> u64 {
        let _issuing = stream.issuing.lock();
        let count = stream.issued() + 1;
        let (own, timing) = (self.device.stream(lane), self.timing.as_ref());
        // The previous tick of this slot must have arrived.
        self.reach(lane, count.saturating_sub(TICK_SLOTS));
        let before = || {
            self.device.select()?;
            timing.map_or(Ok(()), |timing| stream.collect_spans(timing, self.done(lane).unwrap_or(0)))?;
            stream.enter(count, task, waits);
            self.enqueue_waits(lane, waits)?;
            stream.begin(own, timing, count)
        };
        // The word is written before the event: a reader of the event then also sees the word.
        let after = || {
            self.words.as_ref().map_or(Ok(()), |words| words.write(own, lane, count))?;
            stream.end(Some(own), count, signal)
        };
        if !self.failure.is_set() {
            let within_task = |error: Error| error.within(self.work.describe(task));
            let enqueued = before().map_err(within_task).and_then(|()| attempt(&*self.work, lane, task));
            match enqueued.and_then(|()| after().map_err(within_task)) {
                Ok(()) => return count,
                Err(error) => self.failure.record(self.with_running(error)),
            }
        }
        // The task was skipped or failed: its tick counts as arrived.
        let _ = stream.end(None, count, signal);
        count
    }

    /// The tasks that may have been running when a failure was found: the first unfinished task of
    /// each CUDA stream lane, if everything it waits for is done. `last` returns the last count of
    /// a lane to consider.
    fn running(&self, last: impl Fn(&StreamLane) -> u64) -> Vec<String> {
        let mut running = Vec::new();
        for lane in STREAM_LANES {
            let Kind::Stream(stream) = &self.lanes[lane.at()] else { continue };
            let Some((task, waits)) = self.done(lane).and_then(|done| stream.task(done + 1)) else {
                continue;
            };
            let free = |other: &Lane| self.done(*other).is_some_and(|done| done >= waits[other.at()]);
            if self.done(lane) < Some(last(stream)) && Lane::ALL.iter().all(free) {
                running.push(format!("{} ({lane})", self.work.describe(task)));
            }
        }
        running
    }

    /// Adds the running tasks to an error that was found while waiting for a tick of a CUDA stream
    /// lane; its cause is earlier work. Without running tasks, adds the task of the tick.
    fn attributed(&self, error: Error, lane: Lane, count: u64) -> Error {
        let running = self.running(StreamLane::entered);
        if !running.is_empty() {
            return error.within(format!("while {} ran", running.join(", ")));
        }
        let Kind::Stream(stream) = &self.lanes[lane.at()] else { return error };
        match stream.task(count) {
            Some((task, _)) => error.within(format!("by the end of {} ({lane})", self.work.describe(task))),
            None => error,
        }
    }

    /// Adds the running tasks to an error from enqueuing a task, which may be caused by earlier
    /// work.
    fn with_running(&self, error: Error) -> Error {
        let running = if error.status() == Status::DeviceFailed {
            self.running(StreamLane::issued)
        } else {
            Vec::new()
        };
        if running.is_empty() {
            return error;
        }
        error.map(|message| format!("{message}; {} ran meanwhile", running.join(", ")))
    }
}

/// The state of a lane's thread.
struct Server {
    shared: Arc<Shared>,
    lane: Lane,
    /// All that the next task waits for is known to be done; nothing of it failed or was skipped.
    is_intact: bool,
}

impl Serve for Server {
    fn await_counts(&mut self, counts: &Counts) {
        Lane::ALL.iter().for_each(|lane| self.shared.reach(*lane, counts[lane.at()]));
        self.is_intact = Lane::ALL.iter().all(|lane| self.shared.is_intact(*lane, counts[lane.at()]));
    }

    fn run(&mut self, task: u64) -> bool {
        let Shared { work, failure, .. } = &*self.shared;
        if failure.is_set() && !(self.is_intact && work.survives(self.lane, task)) {
            return false;
        }
        let ran = attempt(&**work, self.lane, task);
        ran.map_err(|error| failure.record(error)).is_ok()
    }

    fn done(&mut self, count: u64) {
        if let Some(words) = &self.shared.words {
            words.set(self.lane, count);
        }
    }
}

/// The interval at which the device is queried for failures.
const WATCH: Duration = Duration::from_millis(5);

/// Queries the device for failures at intervals, since threads that poll words do not see them. The
/// driver may block this thread; no other thread waits for it.
fn watch(shared: &Shared, closing: &AtomicBool) {
    let mut queried = shared.device.select();
    while !closing.load(Ordering::Acquire) && !shared.failure.is_set() {
        for lane in STREAM_LANES {
            queried = queried.and_then(|()| shared.device.stream(lane).is_done().map(drop));
            if let Err(error) = queried {
                shared.failure.record(shared.attributed(error, lane, shared.issued(lane)));
                return;
            }
        }
        thread::park_timeout(WATCH);
    }
}

/// The open lanes of a [`CudaDevice`].
pub struct CudaLanes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl CudaLanes {
    /// Creates all events and starts the threads of the thread lanes.
    pub fn start(device: Arc<CudaDevice>, work: Arc<dyn Work>, tracing: bool) -> Result<CudaLanes> {
        device.select()?;
        let origin = tracing.then(Instant::now);
        let mut kinds = Vec::with_capacity(Lane::COUNT);
        for lane in Lane::ALL {
            kinds.push(match STREAM_LANES.contains(&lane) {
                true => Kind::Stream(StreamLane::new(lane, origin.map(Trace::new))?),
                false => Kind::Thread(Arc::new(ThreadLane::new(lane, origin))),
            });
        }
        let Ok(lanes) = kinds.try_into() else { unreachable!("as many kinds as lanes") };
        // Work enqueued before the lanes are opened is done before their first task.
        STREAM_LANES.iter().try_for_each(|lane| device.stream(*lane).synchronize())?;
        let words = Words::take(device.driver(), device.stream(Lane::Compute))?;
        let timing = origin.map(Timing::new).transpose()?;
        let shared = Arc::new(Shared { lanes, words, timing, work, failure: Failure::default(), device });
        let closing = Arc::new(AtomicBool::new(false));
        let mut lanes = CudaLanes {
            shared: shared.clone(),
            threads: Vec::new(),
            closing: closing.clone(),
            watcher: None,
        };
        for lane in Lane::ALL {
            if let Kind::Thread(thread) = &shared.lanes[lane.at()] {
                let server = Server { shared: shared.clone(), lane, is_intact: true };
                lanes.threads.push(thread.clone().start(server)?);
            }
        }
        if shared.words.is_some() {
            lanes.watcher = Some(start_thread("watch", move || watch(&shared, &closing))?);
        }
        Ok(lanes)
    }
}

impl Lanes for CudaLanes {
    fn issue(&self, lane: Lane, task: u64, waits: &[Tick], signal: bool) -> Tick {
        let shared = &*self.shared;
        let waits = counts(lane, task, waits, |other| shared.issued(other));
        let count = match &shared.lanes[lane.at()] {
            Kind::Stream(stream) => shared.issue_to_stream(lane, stream, task, &waits, signal),
            Kind::Thread(thread) => thread.issue(task, &waits),
        };
        Tick { lane, count }
    }

    fn reach(&self, tick: Tick) -> Result<()> {
        let issued = self.shared.issued(tick.lane);
        assert!(tick.count <= issued, "{tick:?} was not issued, {issued} are issued");
        self.shared.reach(tick.lane, tick.count);
        self.shared.failure.outcome()
    }

    fn last(&self, lane: Lane) -> Tick {
        Tick { lane, count: self.shared.issued(lane) }
    }

    fn take_spans(&self) -> Vec<TaskSpan> {
        let Shared { lanes, timing, device, .. } = &*self.shared;
        let mut spans = Vec::new();
        let Some(timing) = timing else { return spans };
        let mut collected = device.select();
        for lane in Lane::ALL {
            match &lanes[lane.at()] {
                Kind::Thread(thread) => thread.take_spans(&mut spans),
                Kind::Stream(stream) => {
                    let arrived = self.shared.done(lane).unwrap_or(0);
                    collected = collected.and_then(|()| stream.collect_spans(timing, arrived));
                    stream.take_spans(&mut spans);
                }
            }
        }
        if let Err(error) = collected.and_then(|()| timing.keep_fresh()) {
            self.shared.failure.record(error.within("reading the times of tasks"));
        }
        spans
    }

    fn origin(&self) -> Option<Instant> {
        self.shared.timing.as_ref().map(Timing::origin)
    }
}

impl Drop for CudaLanes {
    fn drop(&mut self) {
        let Shared { lanes, device, .. } = &*self.shared;
        for lane in lanes {
            if let Kind::Thread(thread) = lane {
                thread.close();
            }
        }
        for thread in self.threads.drain(..) {
            // A task's panic becomes an error, so a lane's thread ends by returning.
            let _ = thread.join();
        }
        self.closing.store(true, Ordering::Release);
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
        // Errors were reported before or are irrelevant now. The arenas are freed only after this.
        let _ = device.select();
        for lane in STREAM_LANES {
            let _ = device.stream(lane).synchronize();
        }
    }
}
