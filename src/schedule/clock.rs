//! A vector clock over lanes: the tasks of every lane that are known to be done.

use crate::device::{Lane, Tick};

/// Per lane, the number of tasks that are known to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock([u64; Lane::COUNT]);

impl Clock {
    /// Tasks of a lane that are known to be done.
    pub fn of(&self, lane: Lane) -> u64 {
        self.0[lane.at()]
    }

    /// True if the tick is known to have arrived.
    pub fn knows(&self, tick: Tick) -> bool {
        self.of(tick.lane) >= tick.count
    }

    /// Learns one tick.
    pub fn learn(&mut self, tick: Tick) {
        let count = &mut self.0[tick.lane.at()];
        *count = (*count).max(tick.count);
    }

    /// Learns all that another clock knows.
    pub fn join(&mut self, other: &Clock) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (*mine).max(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_takes_the_later_of_each_lane() {
        let tick = |lane, count| Tick { lane, count };
        let (mut mine, mut theirs) = (Clock::default(), Clock::default());
        mine.learn(tick(Lane::Compute, 5));
        mine.learn(tick(Lane::Compute, 4));
        theirs.learn(tick(Lane::Compute, 3));
        theirs.learn(tick(Lane::D2h, 2));
        mine.join(&theirs);
        assert!(mine.knows(tick(Lane::Compute, 5)) && !mine.knows(tick(Lane::Compute, 6)));
        assert!(mine.knows(tick(Lane::D2h, 2)) && mine.knows(tick(Lane::Host, 0)));
        assert_eq!(mine.of(Lane::H2d), 0);
    }
}
