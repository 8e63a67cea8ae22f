//! A CUDA stream lane: the events and trace times of its last ticks.
//!
//! A ring buffer has one slot for each of the last [`TICK_SLOTS`] ticks. A slot stores its last
//! tick's event. The issuing thread records the event again only after that tick has arrived, so a
//! slot with a later tick means that the earlier tick has arrived. Readers lock the slot while they
//! use its event.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::timing::Timing;
use crate::base::Result;
use crate::device::thread_lane::Counts;
use crate::device::trace::Trace;
use crate::device::{Lane, TaskSpan};
use crate::sys::cuda::{Event, Stream};

/// The number of tick slots of a lane: an issuer can be this many tasks ahead.
pub const TICK_SLOTS: u64 = 1024;

/// A slot of the ring buffer.
#[derive(Debug)]
struct TickSlot {
    /// The last task issued to this slot, and its waits.
    task: AtomicU64,
    waits: [AtomicU64; Lane::COUNT],
    mark: RwLock<Mark>,
}

/// The last tick of a slot.
#[derive(Debug)]
struct Mark {
    /// 0 if there was none.
    count: u64,
    /// False if the task was skipped or failed: the tick counts as arrived.
    recorded: bool,
    /// True if other lanes may wait for it.
    signalled: bool,
    end: Event,
    /// The start of the task; `None` without tracing.
    start: Option<Event>,
    issued_ns: u64,
}

/// The progress of [`StreamLane::collect_spans`].
#[derive(Debug, Default)]
struct Collected {
    /// The number of tasks whose times are recorded.
    count: u64,
    /// The end of the last of them.
    end_ns: u64,
}

/// A CUDA stream lane.
#[derive(Debug)]
pub struct StreamLane {
    lane: Lane,
    slots: Box<[TickSlot]>,
    /// Held while a task is issued, so that two threads can issue.
    pub issuing: Mutex<()>,
    issued: AtomicU64,
    /// As `issued`, plus the task that is being issued.
    entered: AtomicU64,
    trace: Option<(Trace, Mutex<Collected>)>,
}

impl StreamLane {
    /// Creates the lane with all its events.
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

    /// The number of issued tasks.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// Stores the next task and its waits, for the message if the device fails.
    pub fn enter(&self, count: u64, task: u64, waits: &Counts) {
        let slot = self.slot(count);
        slot.task.store(task, Ordering::Relaxed);
        slot.waits.iter().zip(waits).for_each(|(slot, wait)| slot.store(*wait, Ordering::Relaxed));
        self.entered.store(count, Ordering::Release);
    }

    /// The number of tasks that were issued or are being issued.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::Acquire)
    }

    /// Records the task's start event, if tracing. Called after its waits and before its work are
    /// enqueued.
    pub fn begin(&self, stream: &Stream, timing: Option<&Timing>, count: u64) -> Result<()> {
        let Some(timing) = timing else { return Ok(()) };
        let mut mark = self.slot(count).mark.write();
        mark.issued_ns = timing.now();
        mark.start.as_ref().map_or(Ok(()), |start| start.record(stream))
    }

    /// Records the task's end event. Called after its work is enqueued. `stream` is `None` if the
    /// task was skipped or failed: the tick then counts as arrived.
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

    /// Makes a CUDA stream wait for a tick.
    ///
    /// # Panics
    /// If the tick was issued without `signal`.
    pub fn enqueue_wait(&self, waiter: &Stream, count: u64) -> Result<()> {
        let mark = self.slot(count).mark.read();
        if mark.count > count {
            return Ok(());
        }
        let signalled = mark.count == count && mark.signalled;
        assert!(
            signalled,
            "a lane waits for tick {count} of lane {}, which was issued without signal",
            self.lane
        );
        if mark.recorded { waiter.wait(&mark.end) } else { Ok(()) }
    }

    /// Returns true if an issued tick has arrived.
    pub fn is_done(&self, count: u64) -> Result<bool> {
        let mark = self.slot(count).mark.read();
        if mark.count == count && mark.recorded { mark.end.is_done() } else { Ok(true) }
    }

    /// The task of a tick and its waits; `None` if a later tick uses its slot.
    pub fn task(&self, count: u64) -> Option<(u64, Counts)> {
        let slot = self.slot(count);
        (count > 0 && count + TICK_SLOTS > self.issued()).then(|| {
            let waits = std::array::from_fn(|at| slot.waits[at].load(Ordering::Relaxed));
            (slot.task.load(Ordering::Relaxed), waits)
        })
    }

    /// Records the trace spans of finished tasks, in order. The first `arrived` tasks are known to
    /// be done, but their end events come after their words, so this waits for those events.
    pub fn collect_spans(&self, timing: &Timing, arrived: u64) -> Result<()> {
        let Some((trace, collected)) = &self.trace else { return Ok(()) };
        let mut collected = collected.lock();
        while collected.count < self.issued() {
            let count = collected.count + 1;
            let slot = self.slot(count);
            let mark = slot.mark.read();
            if mark.count == count && mark.recorded {
                if count <= arrived {
                    mark.end.synchronize()?;
                } else if !mark.end.is_done()? {
                    return Ok(());
                }
                let start = mark.start.as_ref().expect("a traced lane times its tasks");
                let ready_ns = mark.issued_ns.max(collected.end_ns);
                let start_ns = timing.at(start)?.max(ready_ns);
                let end_ns = timing.at(&mark.end)?.max(start_ns);
                let task = slot.task.load(Ordering::Relaxed);
                trace.record(TaskSpan { lane: self.lane, task, count, ready_ns, start_ns, end_ns });
                collected.end_ns = end_ns;
            }
            collected.count = count;
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
