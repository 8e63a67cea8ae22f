//! Waiting between threads: a waiter spins, then yields its core, then sleeps on a futex.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::thread;

use crate::sys::linux;

/// Polls before a waiter yields its core: about 2 µs.
const SPINS: usize = 64;
/// Yields before a waiter sleeps: 10 to 20 µs on an idle core; on a busy core other threads run.
const YIELDS: usize = 32;

/// Lets threads sleep until a condition changes, as a condition variable without a mutex.
///
/// The doorbell does not store the condition: a waiter passes it, and a thread that makes it true
/// rings afterwards. Ringing without sleepers costs one fence and one load.
#[derive(Debug, Default)]
pub struct Doorbell {
    rings: AtomicU32,
    sleepers: AtomicU32,
}

impl Doorbell {
    /// A doorbell without waiters.
    pub const fn new() -> Self {
        Doorbell { rings: AtomicU32::new(0), sleepers: AtomicU32::new(0) }
    }

    /// Returns once `arrived` has returned true. `arrived` reads atomics (with `Acquire` if they
    /// publish other memory) and may have side effects; it is called at least once, on this thread
    /// only.
    pub fn wait(&self, mut arrived: impl FnMut() -> bool) {
        for _ in 0..SPINS {
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
            // This fence and the one in `ring` prevent a lost wake-up: either `ring` sees the
            // sleeper, or the check below sees the change made before `ring`.
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

    /// Wakes at most `threads_max` sleepers, which check their condition again. Call it after the
    /// change.
    pub fn ring(&self, threads_max: u32) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.rings.fetch_add(1, Ordering::Release);
            linux::futex_wake(&self.rings, threads_max);
        }
    }

    /// Wakes every sleeper. Call it after the change.
    pub fn ring_all(&self) {
        self.ring(u32::MAX);
    }
}
