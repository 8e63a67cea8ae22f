//! Random delays, for finding waits that are missing.

use std::thread;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::Lane;

/// What delays the tasks of one lane.
///
/// Delays of single tasks rarely let one lane run far ahead of another, so a lane has *moods* that last for
/// some tasks: in a calm one nothing is delayed, in a restless one every task a little, in a sleepy one every
/// task for long. A lane that is asleep while the others hurry reads too late and writes too late.
#[derive(Debug)]
pub struct Adversary {
    random: ChaCha8Rng,
    mood: Mood,
    tasks_left: u32,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    Calm,
    Restless,
    Sleepy,
}

impl Adversary {
    /// The one of a lane, by the device's seed.
    pub fn new(seed: u64, lane: Lane) -> Adversary {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(lane.at() as u64);
        Adversary { random, mood: Mood::Calm, tasks_left: 0 }
    }

    /// Delays the calling lane as its mood wants.
    pub fn delay(&mut self) {
        if self.tasks_left == 0 {
            self.tasks_left = self.random.random_range(1..=24);
            self.mood = match self.random.next_u32() % 4 {
                0 | 1 => Mood::Calm,
                2 => Mood::Restless,
                _ => Mood::Sleepy,
            };
        }
        self.tasks_left -= 1;
        match self.mood {
            Mood::Calm => {}
            Mood::Restless => (0..self.random.random_range(0..8)).for_each(|_| thread::yield_now()),
            Mood::Sleepy => thread::sleep(Duration::from_micros(self.random.random_range(10..600))),
        }
    }
}
