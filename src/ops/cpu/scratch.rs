//! Scratch memory of tiles.

use parking_lot::{Mutex, MutexGuard};

/// Elements: one cache line of f32.
const LINE: usize = 16;

/// Memory that starts on a cache line and never shrinks.
#[derive(Default)]
pub(in crate::ops) struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Returns `elements` elements with arbitrary values; grows if necessary.
    pub fn take(&mut self, elements: usize) -> &mut [T] {
        if self.memory.len() < self.start + elements {
            self.memory = vec![T::default(); elements + LINE];
            self.start = self.memory.as_ptr().align_offset(64).min(LINE);
        }
        &mut self.memory[self.start..self.start + elements]
    }
}

/// The scratch of a set of kernels.
pub(in crate::ops) struct Scratch {
    /// One buffer per worker. A worker locks only its own, so it never waits.
    workers: Vec<Mutex<Buffer<f32>>>,
    /// Results of tiles, added in tile order afterwards.
    pub partials: Mutex<Buffer<f32>>,
    /// The same in f64.
    pub wide_partials: Mutex<Buffer<f64>>,
}

impl Scratch {
    pub fn new(workers: usize) -> Self {
        Scratch {
            workers: (0..workers).map(|_| Mutex::default()).collect(),
            partials: Mutex::default(),
            wide_partials: Mutex::default(),
        }
    }

    /// Grows every worker's scratch, so that jobs do not allocate.
    pub fn reserve(&self, elements: usize) {
        for worker in &self.workers {
            worker.lock().take(elements);
        }
    }

    /// The scratch of one worker.
    pub fn worker(&self, worker: usize) -> MutexGuard<'_, Buffer<f32>> {
        self.workers[worker].lock()
    }
}
