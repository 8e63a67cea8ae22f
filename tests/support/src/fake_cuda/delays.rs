//! Delays: a CUDA stream waits for a word that a thread sets later. This needs no kernel and no
//! callback.

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
    /// The word's address, once allocated.
    word: Option<u64>,
    waits: Arc<AtomicU32>,
}

impl Delays {
    pub fn new(seed: u64) -> Delays {
        Delays { random: ChaCha8Rng::seed_from_u64(seed), seed, word: None, waits: Arc::default() }
    }

    /// Number of waits so far.
    pub fn count(&self) -> u32 {
        self.waits.load(Ordering::Acquire)
    }

    /// Draws whether to delay a CUDA stream; if so, returns the word to wait for and its value.
    pub fn draw(&mut self) -> Option<(u64, u32)> {
        if !self.random.random_bool(0.2) {
            return None;
        }
        if self.word.is_none() {
            self.word = self.start();
        }
        Some((self.word?, self.waits.fetch_add(1, Ordering::AcqRel) + 1))
    }

    /// Allocates the word and starts the thread that ends one wait after the other, until these
    /// delays are dropped and the last wait is over. The word is never freed: a few bytes per
    /// delayed device.
    fn start(&self) -> Option<u64> {
        let mut word = std::ptr::null_mut();
        // SAFETY: a valid pointer.
        let code = unsafe { (runtime_of().cudaHostAlloc)(&mut word, 4, cudaHostAllocMapped) };
        if code != 0 {
            return None;
        }
        let address = word.expose_provenance();
        // SAFETY: aligned, owned, never freed, and only used atomically.
        let raised = unsafe { AtomicU32::from_ptr(word.cast()) };
        raised.store(0, Ordering::Release);
        let (waits, seed) = (self.waits.clone(), self.seed);
        thread::spawn(move || {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ 1);
            while Arc::strong_count(&waits) > 1
                || raised.load(Ordering::Relaxed) < waits.load(Ordering::Acquire)
            {
                thread::sleep(Duration::from_micros(random.random_range(5..300)));
                let now = raised.load(Ordering::Relaxed);
                if now < waits.load(Ordering::Acquire) {
                    raised.store(now + 1, Ordering::Release);
                }
            }
        });
        Some(address as u64)
    }
}

/// Delays a CUDA stream of the thread's current device at random.
pub fn delayed(stream: cudaStream_t) {
    if let Some((word, value)) = CURRENT.get().and_then(draw_delay) {
        // SAFETY: the word is never freed, and is eventually set to the value.
        unsafe { (driver_of().cuStreamWaitValue32_v2)(stream, word, value, CU_STREAM_WAIT_VALUE_GEQ) };
    }
}
