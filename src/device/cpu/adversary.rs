//! Delays and reorderings, for finding waits that are missing.

use std::thread;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::Lane;

/// What holds up the tasks of one lane.
///
/// Delays of single tasks rarely let one lane run far ahead of another, so a lane has *moods* that last for
/// some tasks: in a calm one nothing is delayed; in a restless one every task a little, in a sleepy one every
/// task for a while, so that tasks which nothing orders overlap in all ways; in a polite one every task lets all other
/// lanes go first, until none of them can go on without it, so that it comes after everything that it need not come
/// before.
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
    Polite,
}

/// How often a polite lane looks whether others can go on. They may be at work for long, or be given new work all the
/// time, so its patience ends.
const LOOKS_MAX: u32 = 400;
/// How often in a row none must be able to, since more work may be on its way to them.
const LOOKS_IN_VAIN: u32 = 4;

impl Adversary {
    /// The one of a lane, by the device's seed.
    pub fn new(seed: u64, lane: Lane) -> Adversary {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(lane.at() as u64);
        Adversary { random, mood: Mood::Calm, tasks_left: 0 }
    }

    /// Holds up the calling lane as its mood wants. `polite` is told that it lets others go first, and that it no
    /// longer does; `others_can` says whether one of them could.
    pub fn delay(&mut self, polite: impl Fn(bool), others_can: impl Fn() -> bool) {
        if self.tasks_left == 0 {
            self.tasks_left = self.random.random_range(1..=24);
            self.mood = match self.random.next_u32() % 6 {
                0 | 1 => Mood::Calm,
                2 => Mood::Restless,
                3 => Mood::Sleepy,
                _ => Mood::Polite,
            };
        }
        self.tasks_left -= 1;
        match self.mood {
            Mood::Calm => {}
            Mood::Restless => (0..self.random.random_range(0..8)).for_each(|_| thread::yield_now()),
            Mood::Sleepy => thread::sleep(Duration::from_micros(self.random.random_range(1..200))),
            Mood::Polite => {
                polite(true);
                let mut in_vain = 0;
                for look in 0..LOOKS_MAX {
                    in_vain = if others_can() { 0 } else { in_vain + 1 };
                    if in_vain == LOOKS_IN_VAIN {
                        break;
                    }
                    match look {
                        0..64 => thread::yield_now(),
                        _ => thread::sleep(Duration::from_micros(10)),
                    }
                }
                polite(false);
            }
        }
    }
}
