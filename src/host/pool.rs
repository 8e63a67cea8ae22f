//! The worker pool.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::Result;

/// Threads that take tiles of work together.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool in which `threads` threads work on a job: the caller of [`Pool::run`] and `threads − 1` workers.
    pub fn new(threads: usize) -> Result<Pool> {
        Ok(Pool { threads: threads.max(1) })
    }

    /// Threads that work on one job, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `job(worker, tile)` for every tile in `0..tiles` and returns when all are done. Tiles are taken in
    /// increasing order by whoever is free; `worker` is below [`Pool::threads`] and no two threads inside the
    /// same job have the same, so it can index scratch memory. Several threads may call `run` at a time.
    pub fn run(&self, tiles: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = |worker: usize| {
            loop {
                let tile = next.fetch_add(1, Ordering::Relaxed);
                if tile >= tiles {
                    break;
                }
                job(worker, tile);
            }
        };
        std::thread::scope(|scope| {
            for worker in 1..self.threads.min(tiles) {
                let work = &work;
                scope.spawn(move || work(worker));
            }
            work(0);
        });
    }
}
