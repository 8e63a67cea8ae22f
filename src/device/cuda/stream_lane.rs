//! A lane that is a stream: the events of its last ticks, and what became of its tasks.
//!
//! There is a place for each of the last [`TICK_SLOTS`] ticks. A place keeps its last tick's event; the issuing thread
//! records it anew only when that tick has arrived, so whoever finds a place taken by a later tick knows that the
//! earlier one is done. Readers hold the place while they use its event.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::timing::Timing;
use crate::base::Result;
use crate::device::thread_lane::Counts;
use crate::device::trace::Trace;
use crate::device::{Lane, TaskSpan};
use crate::sys::cuda::{Event, Stream};

/// Ticks of a lane that have a place: an issuer may run this far ahead of the lane.
pub const TICK_SLOTS: u64 = 1024;

/// A place of the ring.
#[derive(Debug)]
struct TickSlot {
    /// The last task issued to this place, and what it waited for.
    task: AtomicU64,
    waits: [AtomicU64; Lane::COUNT],
    mark: RwLock<Mark>,
}

/// The last tick of a place.
#[derive(Debug)]
struct Mark {
    /// 0 when there was none.
    count: u64,
    /// Not set where the device failed before: the tick counts as arrived.
    recorded: bool,
    /// Whether other lanes may wait for it.
    signalled: bool,
    end: Event,
    /// Where times are asked for: the task's start, and when it was issued.
    start: Option<Event>,
    issued_ns: u64,
}

/// What happened on a lane, as far as it was looked up.
#[derive(Debug, Default)]
struct Seen {
    /// So many tasks' times are known.
    count: u64,
    end_ns: u64,
}

/// One stream lane.
#[derive(Debug)]
pub struct StreamLane {
    lane: Lane,
    slots: Box<[TickSlot]>,
    /// Held while a task is issued, so that issuing from two threads is orderly too.
    pub issuing: Mutex<()>,
    issued: AtomicU64,
    /// As `issued`, with the task that is being issued.
    entered: AtomicU64,
    trace: Option<(Trace, Mutex<Seen>)>,
}

impl StreamLane {
    /// Makes every event the lane will ever use.
    pub fn new(lane: Lane, trace: Option<Trace>) -> Result<StreamLane> {
        let timed = trace.is_some();
        let slot = |_| {
            let start = timed.then(|| Event::new(true)).transpose()?;
            let end = Event::new(timed)?;
            let mark = Mark { count: 0, recorded: false, signalled: false, end, start, issued_ns: 0 };
            Ok(TickSlot { task: AtomicU64::new(0), waits: Default::default(), mark: RwLock::new(mark) })
        };
        Ok(StreamLane {
            lane,
            slots: (0..TICK_SLOTS).map(slot).collect::<Result<_>>()?,
            issuing: Mutex::new(()),
            issued: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            trace: trace.map(|trace| (trace, Mutex::default())),
        })
    }

    fn slot(&self, count: u64) -> &TickSlot {
        &self.slots[(count % TICK_SLOTS) as usize]
    }

    /// How many tasks were issued.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// What the next task is and waits for: what is told of it if the device fails.
    pub fn enter(&self, count: u64, task: u64, waits: &Counts) {
        let slot = self.slot(count);
        slot.task.store(task, Ordering::Relaxed);
        slot.waits.iter().zip(waits).for_each(|(slot, wait)| slot.store(*wait, Ordering::Relaxed));
        self.entered.store(count, Ordering::Release);
    }

    /// How many tasks were issued or are being issued.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::Acquire)
    }

    /// The task's waits are enqueued, its work comes next.
    pub fn begin(&self, stream: &Stream, timing: Option<&Timing>, count: u64) -> Result<()> {
        let Some(timing) = timing else { return Ok(()) };
        let mut mark = self.slot(count).mark.write();
        mark.issued_ns = timing.now();
        mark.start.as_ref().map_or(Ok(()), |start| start.record(stream))
    }

    /// The task's work is enqueued. `stream` is none where nothing was: the tick then counts as arrived.
    pub fn end(&self, stream: Option<&Stream>, count: u64, signal: bool) -> Result<()> {
        let outcome = {
            let mut mark = self.slot(count).mark.write();
            (mark.count, mark.signalled) = (count, signal);
            let outcome = stream.map_or(Ok(()), |stream| mark.end.record(stream));
            mark.recorded = stream.is_some() && outcome.is_ok();
            outcome
        };
        self.issued.store(count, Ordering::Release);
        outcome
    }

    /// Makes a stream wait for a tick that was signalled.
    pub fn hold(&self, waiter: &Stream, count: u64) -> Result<()> {
        let mark = self.slot(count).mark.read();
        if mark.count > count {
            return Ok(());
        }
        let signalled = mark.count == count && mark.signalled;
        assert!(signalled, "tick {count} of {} is waited for and was not signalled", self.lane);
        if mark.recorded { waiter.wait(&mark.end) } else { Ok(()) }
    }

    /// Whether an issued tick has arrived.
    pub fn is_done(&self, count: u64) -> Result<bool> {
        let mark = self.slot(count).mark.read();
        if mark.count == count && mark.recorded { mark.end.is_done() } else { Ok(true) }
    }

    /// The task of a tick, and what it waits for; none where its place has been taken by a later one.
    pub fn task(&self, count: u64) -> Option<(u64, Counts)> {
        let slot = self.slot(count);
        (count > 0 && count + TICK_SLOTS > self.issued()).then(|| {
            let waits = std::array::from_fn(|at| slot.waits[at].load(Ordering::Relaxed));
            (slot.task.load(Ordering::Relaxed), waits)
        })
    }

    /// Looks up the times of tasks that are done by now, in order. The first `arrived` are known to be: their events,
    /// recorded behind what says so, are waited for.
    pub fn look(&self, timing: &Timing, arrived: u64) -> Result<()> {
        let Some((trace, seen)) = &self.trace else { return Ok(()) };
        let mut seen = seen.lock();
        while seen.count < self.issued() {
            let count = seen.count + 1;
            let slot = self.slot(count);
            let mark = slot.mark.read();
            if mark.count == count && mark.recorded {
                if count <= arrived {
                    mark.end.synchronize()?;
                } else if !mark.end.is_done()? {
                    return Ok(());
                }
                let start = mark.start.as_ref().expect("a traced lane times its tasks");
                let ready_ns = mark.issued_ns.max(seen.end_ns);
                let start_ns = timing.at(start)?.max(ready_ns);
                let end_ns = timing.at(&mark.end)?.max(start_ns);
                let task = slot.task.load(Ordering::Relaxed);
                trace.record(TaskSpan { lane: self.lane, task, count, ready_ns, start_ns, end_ns });
                seen.end_ns = end_ns;
            }
            seen.count = count;
        }
        Ok(())
    }

    /// Moves the recorded spans to the end of `out`.
    pub fn take_spans(&self, out: &mut Vec<TaskSpan>) {
        if let Some((trace, _)) = &self.trace {
            trace.take(out);
        }
    }
}
