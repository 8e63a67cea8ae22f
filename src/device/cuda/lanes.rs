//! The lanes of the CUDA device: streams, and threads beside them.

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
use crate::sys::cuda::poll;

/// What a lane is made of.
enum Kind {
    Stream(StreamLane),
    Thread(Arc<ThreadLane>),
}

struct Shared {
    // Dropped first: it lies in the device's context.
    lanes: [Kind; Lane::COUNT],
    /// None where streams cannot wait for words.
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

    /// How many tasks of a lane are known to be done.
    fn done(&self, lane: Lane) -> Option<u64> {
        match &self.lanes[lane.at()] {
            Kind::Stream(stream) => self.words.as_ref().map(|words| words.done(lane, stream.issued())),
            Kind::Thread(thread) => Some(thread.done()),
        }
    }

    /// Waits until a tick has arrived. A failure is kept.
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
                    self.failure.keep(self.blamed(error, lane, count));
                }
            }
        }
    }

    /// Enqueues a task's waits.
    fn hold(&self, lane: Lane, waits: &Counts) -> Result<()> {
        let own = self.device.stream(lane);
        for other in Lane::ALL {
            let count = waits[other.at()];
            match &self.lanes[other.at()] {
                _ if count == 0 => {}
                Kind::Stream(stream) => stream.hold(own, count)?,
                // What is done needs no wait; what is not, is less than a queue away.
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
        // The tick that had the place before has arrived.
        self.reach(lane, count.saturating_sub(TICK_SLOTS));
        let before = || {
            self.device.select()?;
            timing.map_or(Ok(()), |timing| stream.look(timing, self.done(lane).unwrap_or(0)))?;
            stream.enter(count, task, waits);
            self.hold(lane, waits)?;
            stream.begin(own, timing, count)
        };
        // Behind its event, the word would be late.
        let after = || {
            self.words.as_ref().map_or(Ok(()), |words| words.write(own, lane, count))?;
            stream.end(Some(own), count, signal)
        };
        if !self.failure.is_set() {
            let place = |error: Error| error.within(self.work.describe(task));
            let enqueued = before().map_err(place).and_then(|()| attempt(&*self.work, lane, task));
            match enqueued.and_then(|()| after().map_err(place)) {
                Ok(()) => return count,
                Err(error) => self.failure.keep(self.beside(error)),
            }
        }
        // Passed over, or cut short: the tick has arrived as far as anybody can tell.
        let _ = stream.end(None, count, signal);
        count
    }

    /// The tasks that may have been running when a failure was seen: of each stream lane the first that is not known
    /// to be done, if all that it waits for is. `last` says how many of a lane's tasks may be.
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

    /// An error that came with a tick of a stream lane: its cause is some work before.
    fn blamed(&self, error: Error, lane: Lane, count: u64) -> Error {
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

    /// An error of a task as it was enqueued, which may be that of work before it.
    fn beside(&self, error: Error) -> Error {
        let running = if error.status() == Status::DeviceFailed {
            self.running(StreamLane::issued)
        } else {
            Vec::new()
        };
        if running.is_empty() {
            return error;
        }
        Error::new(error.status(), format!("{}; {} ran meanwhile", error.message(), running.join(", ")))
    }
}

/// What the thread of one lane has at hand.
struct Server {
    shared: Arc<Shared>,
    lane: Lane,
}

impl Serve for Server {
    fn await_counts(&mut self, counts: &Counts) {
        Lane::ALL.iter().for_each(|lane| self.shared.reach(*lane, counts[lane.at()]));
    }

    fn run(&mut self, task: u64) {
        let Shared { work, failure, .. } = &*self.shared;
        if !failure.is_set()
            && let Err(error) = attempt(&**work, self.lane, task)
        {
            failure.keep(error);
        }
    }

    fn done(&mut self, count: u64) {
        if let Some(words) = &self.shared.words {
            words.set(self.lane, count);
        }
    }
}

/// Interval at which the device is asked whether it has failed.
const WATCH: Duration = Duration::from_millis(5);

/// Asks the device at intervals whether it has failed, which threads that poll words would never learn. The driver may hold
/// it up: no thread waits for it.
fn watch(shared: &Shared, closing: &AtomicBool) {
    let mut asked = shared.device.select();
    while !closing.load(Ordering::Acquire) && !shared.failure.is_set() {
        for lane in STREAM_LANES {
            asked = asked.and_then(|()| shared.device.stream(lane).is_done().map(drop));
            if let Err(error) = asked {
                shared.failure.keep(shared.blamed(error, lane, shared.issued(lane)));
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
    /// Makes every event, and starts a thread for every lane that is one.
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
        // Work queued before the lanes are opened is done before their first task.
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
                let server = Server { shared: shared.clone(), lane };
                lanes.threads.push(thread.clone().start(server)?);
            }
        }
        if shared.words.is_some() {
            let watcher = thread::Builder::new().name("hz-watch".into());
            let started = watcher.spawn(move || watch(&shared, &closing));
            let started =
                started.map_err(|error| Error::io("cannot start the thread that watches the device", &error));
            lanes.watcher = Some(started?);
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
        assert!(tick.count <= issued, "nobody issued {tick:?}, {issued} are issued");
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
        let mut looked = device.select();
        for lane in Lane::ALL {
            match &lanes[lane.at()] {
                Kind::Thread(thread) => thread.take_spans(&mut spans),
                Kind::Stream(stream) => {
                    let arrived = self.shared.done(lane).unwrap_or(0);
                    looked = looked.and_then(|()| stream.look(timing, arrived));
                    stream.take_spans(&mut spans);
                }
            }
        }
        if let Err(error) = looked.and_then(|()| timing.keep_fresh()) {
            self.shared.failure.keep(error.within("reading the times of tasks"));
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
            // A task's panic became an error, so a lane ends by returning.
            let _ = thread.join();
        }
        self.closing.store(true, Ordering::Release);
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
        // What fails now failed before, or concerns nobody any more: the arenas are freed only after this.
        let _ = device.select();
        for lane in STREAM_LANES {
            let _ = device.stream(lane).synchronize();
        }
    }
}
