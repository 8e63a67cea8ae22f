//! A lane that is a stream: the events of its last ticks, and what became of its tasks.
//!
//! There is a place for each of the last [`PLACES`] ticks. A place keeps the event of the last tick of its that was
//! to be waited for; the issuing thread records it anew only when that tick has arrived, so whoever finds a place
//! taken by a later tick knows that the earlier one is done. Readers hold the place while they wait for its event.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::calls::Calls;
use super::timing::Timing;
use crate::base::Result;
use crate::device::thread_lane::Counts;
use crate::device::trace::Trace;
use crate::device::{Lane, TaskSpan};

/// Ticks of a lane that have a place: an issuer may run this far ahead of the lane.
pub const PLACES: usize = 1024;

/// A place of the ring.
#[derive(Debug)]
struct Place<C: Calls> {
    /// The last task issued to this place, and what it waited for.
    task: AtomicU64,
    waits: [AtomicU64; Lane::COUNT],
    mark: RwLock<Mark<C>>,
}

/// The last tick of a place that somebody may wait for.
#[derive(Debug)]
struct Mark<C: Calls> {
    /// 0 when there was none.
    count: u64,
    /// Not set where the device failed before: the tick counts as arrived.
    recorded: bool,
    end: C::Event,
    /// Where times are asked for: the task's start, and when it was issued.
    start: Option<C::Event>,
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
pub struct StreamLane<C: Calls> {
    lane: Lane,
    places: Box<[Place<C>]>,
    /// Held while a task is issued, so that issuing from two threads is orderly too.
    pub issuing: Mutex<()>,
    issued: AtomicU64,
    /// For whoever wants a tick that has no event of its own.
    passing: Mutex<C::Event>,
    trace: Option<(Trace, Mutex<Seen>)>,
}

impl<C: Calls> StreamLane<C> {
    /// Makes every event the lane will ever use.
    pub fn new(calls: &C, lane: Lane, trace: Option<Trace>) -> Result<StreamLane<C>> {
        let timed = trace.is_some();
        let place = |_| {
            let start = timed.then(|| calls.new_event(true)).transpose()?;
            let mark = Mark { count: 0, recorded: false, end: calls.new_event(timed)?, start, issued_ns: 0 };
            Ok(Place { task: AtomicU64::new(0), waits: Default::default(), mark: RwLock::new(mark) })
        };
        Ok(StreamLane {
            lane,
            places: (0..PLACES).map(place).collect::<Result<_>>()?,
            issuing: Mutex::new(()),
            issued: AtomicU64::new(0),
            passing: Mutex::new(calls.new_event(false)?),
            trace: trace.map(|trace| (trace, Mutex::default())),
        })
    }

    fn place(&self, count: u64) -> &Place<C> {
        &self.places[(count % PLACES as u64) as usize]
    }

    /// How many tasks were issued.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// Frees the place of the next tick: blocks until the tick that had it has arrived.
    pub fn make_room(&self, calls: &C, timing: Option<&Timing<C>>, count: u64) -> Result<()> {
        let place = self.place(count);
        {
            let mark = place.mark.read();
            if mark.recorded {
                calls.synchronize_event(&mark.end)?;
            }
        }
        match timing {
            Some(timing) => self.look(calls, timing),
            None => Ok(()),
        }
    }

    /// What the next task is and waits for: what is told of it if the device fails.
    pub fn enter(&self, count: u64, task: u64, waits: &Counts) {
        let place = self.place(count);
        place.task.store(task, Ordering::Relaxed);
        place.waits.iter().zip(waits).for_each(|(place, wait)| place.store(*wait, Ordering::Relaxed));
    }

    /// The task's waits are enqueued, its work comes next.
    pub fn begin(&self, calls: &C, stream: &C::Stream, timing: Option<&Timing<C>>, count: u64) -> Result<()> {
        let Some(timing) = timing else { return Ok(()) };
        let mut mark = self.place(count).mark.write();
        mark.issued_ns = timing.now();
        mark.start.as_ref().map_or(Ok(()), |start| calls.record(start, stream))
    }

    /// The task's work is enqueued. `stream` is none where nothing was: the tick then counts as arrived.
    pub fn end(&self, calls: &C, stream: Option<&C::Stream>, count: u64, signal: bool) -> Result<()> {
        let mut outcome = Ok(());
        if signal || self.trace.is_some() || stream.is_none() {
            let mut mark = self.place(count).mark.write();
            mark.count = count;
            outcome = stream.map_or(Ok(()), |stream| calls.record(&mark.end, stream));
            mark.recorded = stream.is_some() && outcome.is_ok();
        }
        self.issued.store(count, Ordering::Release);
        outcome
    }

    /// Makes a stream wait for a tick that was signalled.
    pub fn hold(&self, calls: &C, waiter: &C::Stream, count: u64) -> Result<()> {
        let mark = self.place(count).mark.read();
        assert!(mark.count >= count, "tick {count} of {} is waited for and was not signalled", self.lane);
        if mark.count == count && mark.recorded { calls.wait_event(waiter, &mark.end) } else { Ok(()) }
    }

    /// Blocks the calling thread until a tick has arrived. `stream` is the lane's own.
    pub fn reach(&self, calls: &C, stream: &C::Stream, count: u64) -> Result<()> {
        {
            let mark = self.place(count).mark.read();
            match mark.count.cmp(&count) {
                std::cmp::Ordering::Greater => return Ok(()),
                std::cmp::Ordering::Equal if mark.recorded => return calls.synchronize_event(&mark.end),
                std::cmp::Ordering::Equal => return Ok(()),
                std::cmp::Ordering::Less => {}
            }
        }
        // Nobody was to wait for it, so the end of what is issued by now serves.
        let passing = self.passing.lock();
        calls.record(&passing, stream)?;
        calls.synchronize_event(&passing)
    }

    /// The task of a tick, and what it waits for; none where its place has been taken by a later one.
    pub fn task(&self, count: u64) -> Option<(u64, Counts)> {
        let place = self.place(count);
        (count > 0 && count + PLACES as u64 > self.issued()).then(|| {
            let waits = std::array::from_fn(|at| place.waits[at].load(Ordering::Relaxed));
            (place.task.load(Ordering::Relaxed), waits)
        })
    }

    /// Looks up the times of tasks that are done by now, in order.
    pub fn look(&self, calls: &C, timing: &Timing<C>) -> Result<()> {
        let Some((trace, seen)) = &self.trace else { return Ok(()) };
        let mut seen = seen.lock();
        while seen.count < self.issued() {
            let count = seen.count + 1;
            let place = self.place(count);
            let mark = place.mark.read();
            if mark.count == count && mark.recorded {
                if !calls.is_done(&mark.end)? {
                    return Ok(());
                }
                let start = mark.start.as_ref().expect("a traced lane times its tasks");
                let ready_ns = mark.issued_ns.max(seen.end_ns);
                let start_ns = timing.at(calls, start)?.max(ready_ns);
                let end_ns = timing.at(calls, &mark.end)?.max(start_ns);
                let task = place.task.load(Ordering::Relaxed);
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
