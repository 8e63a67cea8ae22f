//! How long lanes were at the tasks of training steps: totals alone, so that it can be kept for a whole run.

use crate::device::{Lane, TaskSpan};

/// Time in tasks, by lane.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    total_ns: [u64; Lane::COUNT],
    /// The totals when the first step was over: it is not like the others, since no AdamW runs beside it.
    first_ns: Option<[u64; Lane::COUNT]>,
    /// Steps since.
    steps: u64,
}

impl Busy {
    /// Tasks of training steps have been done.
    pub fn add<'a>(&mut self, spans: impl Iterator<Item = &'a TaskSpan>) {
        for span in spans {
            self.total_ns[span.lane.at()] += span.end_ns - span.start_ns;
        }
    }

    /// A step is over.
    pub fn step(&mut self) {
        match self.first_ns {
            Some(_) => self.steps += 1,
            None => self.first_ns = Some(self.total_ns),
        }
    }

    /// Nanoseconds of a step, the first one left out; nothing before the second.
    pub fn per_step(&self) -> Option<[f64; Lane::COUNT]> {
        let first_ns = self.first_ns.filter(|_| self.steps > 0)?;
        Some(
            Lane::ALL.map(|lane| (self.total_ns[lane.at()] - first_ns[lane.at()]) as f64 / self.steps as f64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_left_out() {
        let mut busy = Busy::default();
        let span = |ns: u64| TaskSpan {
            lane: Lane::Host,
            task: 0,
            count: 1,
            ready_ns: 0,
            start_ns: 5,
            end_ns: 5 + ns,
        };
        busy.add([span(1000)].iter());
        busy.step();
        assert!(busy.per_step().is_none());
        for ns in [10, 30] {
            busy.add([span(ns)].iter());
            busy.step();
        }
        let per_step = busy.per_step().unwrap();
        assert_eq!((per_step[Lane::Host.at()], per_step[Lane::Compute.at()]), (20.0, 0.0));
    }
}
