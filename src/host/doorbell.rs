//! How threads wait for each other: look for a moment, give the core away for a moment, then sleep.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::thread;

use crate::sys::linux;

/// Looks before a waiter begins to yield its core: about 2 µs.
const LOOKS: usize = 64;
/// Yields before it sleeps: 10 to 20 µs on an idle core, while a busy core goes to whoever needs it.
const YIELDS: usize = 32;

/// Lets threads sleep until something that they look at has changed.
///
/// The bell holds no state of its own: a waiter names the condition, and whoever makes a condition true
/// rings afterwards. Ringing with nobody asleep costs one fence and one load.
#[derive(Debug, Default)]
pub struct Doorbell {
    rings: AtomicU32,
    sleepers: AtomicU32,
}

impl Doorbell {
    /// A bell that nobody waits at.
    pub const fn new() -> Self {
        Doorbell { rings: AtomicU32::new(0), sleepers: AtomicU32::new(0) }
    }

    /// Returns once `arrived` has returned true. `arrived` reads atomics (with `Acquire`, if memory is to be
    /// seen through them) and may act on what it finds; it is called at least once, by this thread only.
    pub fn wait(&self, mut arrived: impl FnMut() -> bool) {
        for _ in 0..LOOKS {
            if arrived() {
                return;
            }
            hint::spin_loop();
        }
        for _ in 0..YIELDS {
            thread::yield_now();
            if arrived() {
                return;
            }
        }
        loop {
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            // Between this fence and the one in `ring` no wake-up is lost: either `ring` sees the sleeper, or
            // the look below sees what was changed before `ring`.
            fence(Ordering::SeqCst);
            let heard = self.rings.load(Ordering::Acquire);
            let now = arrived();
            if !now {
                linux::futex_wait(&self.rings, heard);
            }
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
            if now || arrived() {
                return;
            }
        }
    }

    /// Wakes at most `threads_max` sleepers, so that they look again. Called after the change.
    pub fn ring(&self, threads_max: u32) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.rings.fetch_add(1, Ordering::Release);
            linux::futex_wake(&self.rings, threads_max);
        }
    }

    /// Wakes every sleeper, so that they look again. Called after the change.
    pub fn ring_all(&self) {
        self.ring(u32::MAX);
    }
}
