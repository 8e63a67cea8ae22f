//! Random delays and reorderings of tasks, for tests that find missing waits.

use std::thread;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::Lane;

/// Delays the tasks of one lane.
///
/// Delays of single tasks rarely let one lane run far ahead of another, so a [`Mode`] applies to
/// several tasks in a row.
#[derive(Debug)]
pub struct Adversary {
    random: ChaCha8Rng,
    mode: Mode,
    tasks_left: u32,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// No delay.
    None,
    /// Yields the core a few times before each task.
    Yield,
    /// Sleeps before each task, so that unordered tasks overlap in many ways.
    Sleep,
    /// Runs each task only when no other lane can proceed, so that it comes after everything that
    /// may come before it.
    RunLast,
}

/// Polls of the other lanes in [`Mode::RunLast`]. They may run long tasks or receive new ones, so
/// the number is limited.
const POLLS_MAX: u32 = 400;
/// Consecutive polls in which no other lane can proceed. More than one, since new tasks may be
/// about to be issued.
const IDLE_POLLS: u32 = 4;

impl Adversary {
    /// The adversary of a lane, for the device's seed.
    pub fn new(seed: u64, lane: Lane) -> Adversary {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(lane.at() as u64);
        Adversary { random, mode: Mode::None, tasks_left: 0 }
    }

    /// Delays the calling lane by its mode. `set_last` is called with true and then false around a
    /// delay in [`Mode::RunLast`]; `others_can_run` returns true if another lane can proceed.
    pub fn delay(&mut self, set_last: impl Fn(bool), others_can_run: impl Fn() -> bool) {
        if self.tasks_left == 0 {
            self.tasks_left = self.random.random_range(1..=24);
            self.mode = match self.random.next_u32() % 6 {
                0 | 1 => Mode::None,
                2 => Mode::Yield,
                3 => Mode::Sleep,
                _ => Mode::RunLast,
            };
        }
        self.tasks_left -= 1;
        match self.mode {
            Mode::None => {}
            Mode::Yield => (0..self.random.random_range(0..8)).for_each(|_| thread::yield_now()),
            Mode::Sleep => thread::sleep(Duration::from_micros(self.random.random_range(1..200))),
            Mode::RunLast => {
                set_last(true);
                let mut idle = 0;
                for poll in 0..POLLS_MAX {
                    idle = if others_can_run() { 0 } else { idle + 1 };
                    if idle == IDLE_POLLS {
                        break;
                    }
                    match poll {
                        0..64 => thread::yield_now(),
                        _ => thread::sleep(Duration::from_micros(10)),
                    }
                }
                set_last(false);
            }
        }
    }
}
