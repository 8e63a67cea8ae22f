//! Delays: a stream waits for a word that a thread raises some time later. No kernel and no callback is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use horizon::sys::cuda::bindings::{CU_STREAM_WAIT_VALUE_GEQ, cudaHostAllocMapped, cudaStream_t};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::device::CURRENT;
use super::faults::{draw_delay, driver_of, runtime_of};

/// The delays of a device.
#[derive(Debug)]
pub struct Delays {
    random: ChaCha8Rng,
    seed: u64,
    /// The word's address, once there is one.
    word: Option<u64>,
    asked: Arc<AtomicU32>,
}

impl Delays {
    pub fn new(seed: u64) -> Delays {
        Delays { random: ChaCha8Rng::seed_from_u64(seed), seed, word: None, asked: Arc::default() }
    }

    /// Waits so far.
    pub fn count(&self) -> u32 {
        self.asked.load(Ordering::Acquire)
    }

    /// Whether to hold a stream up: by a wait for this word, until it has this value.
    pub fn draw(&mut self) -> Option<(u64, u32)> {
        if !self.random.random_bool(0.2) {
            return None;
        }
        if self.word.is_none() {
            self.word = self.start();
        }
        Some((self.word?, self.asked.fetch_add(1, Ordering::AcqRel) + 1))
    }

    /// Takes the word, and starts the thread that raises it, one wait after the other, as long as these delays last and
    /// until the last wait is over. The word stays: a few bytes of each device that is held up.
    fn start(&self) -> Option<u64> {
        let mut word = std::ptr::null_mut();
        // SAFETY: a place for an address.
        let code = unsafe { (runtime_of().cudaHostAlloc)(&mut word, 4, cudaHostAllocMapped) };
        if code != 0 {
            return None;
        }
        let address = word.expose_provenance();
        // SAFETY: aligned, ours, never given back, and used atomically from here on.
        let raised = unsafe { AtomicU32::from_ptr(word.cast()) };
        raised.store(0, Ordering::Release);
        let (asked, seed) = (self.asked.clone(), self.seed);
        thread::spawn(move || {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ 1);
            while Arc::strong_count(&asked) > 1
                || raised.load(Ordering::Relaxed) < asked.load(Ordering::Acquire)
            {
                thread::sleep(Duration::from_micros(random.random_range(5..300)));
                let now = raised.load(Ordering::Relaxed);
                if now < asked.load(Ordering::Acquire) {
                    raised.store(now + 1, Ordering::Release);
                }
            }
        });
        Some(address as u64)
    }
}

/// Holds a stream of the thread's device up, perhaps.
pub fn delayed(stream: cudaStream_t) {
    if let Some((word, value)) = CURRENT.get().and_then(draw_delay) {
        // SAFETY: the word stays for good, and is raised to the value in a while.
        unsafe { (driver_of().cuStreamWaitValue32_v2)(stream, word, value, CU_STREAM_WAIT_VALUE_GEQ) };
    }
}
