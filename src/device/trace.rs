//! Recorded task spans of a lane, in a preallocated ring buffer.

use std::time::Instant;

use parking_lot::Mutex;

use crate::device::TaskSpan;

/// The capacity of a lane's ring buffer; further spans overwrite the oldest.
const SPANS_MAX: usize = 1 << 16;

/// The recorder of one lane. One thread records; any thread takes.
#[derive(Debug)]
pub struct Trace {
    origin: Instant,
    spans: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    spans: Vec<TaskSpan>,
    /// The index of the oldest span, once the ring buffer is full.
    oldest: usize,
}

impl Trace {
    /// A recorder with times relative to `origin`.
    pub fn new(origin: Instant) -> Trace {
        Trace { origin, spans: Mutex::new(Ring { spans: Vec::with_capacity(SPANS_MAX), oldest: 0 }) }
    }

    /// The origin of its times.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// Nanoseconds since the origin.
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Records a span. Allocates nothing.
    pub fn record(&self, span: TaskSpan) {
        let mut ring = self.spans.lock();
        if ring.spans.len() < SPANS_MAX {
            ring.spans.push(span);
        } else {
            let oldest = ring.oldest;
            ring.spans[oldest] = span;
            ring.oldest = (oldest + 1) % SPANS_MAX;
        }
    }

    /// Moves the recorded spans to the end of `out`, oldest first.
    pub fn take(&self, out: &mut Vec<TaskSpan>) {
        let mut ring = self.spans.lock();
        let (newer, older) = ring.spans.split_at(ring.oldest);
        out.extend_from_slice(older);
        out.extend_from_slice(newer);
        ring.spans.clear();
        ring.oldest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Lane;

    #[test]
    fn a_full_ring_buffer_contains_the_newest_spans_in_order() {
        let trace = Trace::new(Instant::now());
        let span =
            |task| TaskSpan { lane: Lane::Host, task, count: task + 1, ready_ns: 0, start_ns: 0, end_ns: 0 };
        let total = SPANS_MAX as u64 + 10;
        (0..total).for_each(|task| trace.record(span(task)));
        let mut out = Vec::new();
        trace.take(&mut out);
        assert!(out.iter().map(|span| span.task).eq(10..total));
        trace.record(span(7));
        trace.take(&mut out);
        assert_eq!((out.len(), out[SPANS_MAX].task), (SPANS_MAX + 1, 7));
    }
}
