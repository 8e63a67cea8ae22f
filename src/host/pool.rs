//! The worker pool: a job is divided into tiles, which the caller and the worker threads take in
//! turn.
//!
//! # Borrowed jobs
//! A job is a closure borrowed from the caller's stack, so *no worker may touch it after
//! [`Pool::run`] has returned*. A call claims one of a few [`JobSlot`]s, stores its job there and
//! opens the slot. The slot's entry word holds an OPEN bit and the number of workers inside. A
//! worker enters with a compare-and-swap that requires the OPEN bit and increments the count; only
//! then does it read the job. The caller takes tiles like the workers, then clears OPEN, so that no
//! worker can enter, and waits until the count is 0. The last worker's decrement (`Release`) and
//! the caller's load (`Acquire`) also make the results of the tiles visible to the caller.
//!
//! A slot serves one call at a time, so several threads can run jobs concurrently and share the
//! workers. If all slots are taken, the caller runs its job alone.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use super::{Doorbell, Topology, start_thread};
use crate::base::{Error, Name, Result};
use crate::sys::linux;

/// Concurrent calls that can share the workers. The engine has two callers: the compute lane and
/// the host lane.
const JOB_SLOTS: usize = 8;
/// The largest number of threads of a pool, unless the machine has more processors.
const THREADS_MAX: usize = 1024;
/// The bit of an entry word that lets workers enter; the lower bits count the workers inside.
const OPEN: u32 = 1 << 31;

/// The largest number of threads of a pool: 1024, or the number of processors if that is larger.
pub fn threads_max() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get()).max(THREADS_MAX)
}

/// Checks that `threads` is at most [`threads_max`].
///
/// Errors: it is larger (`InvalidArgument`).
pub fn check_threads(threads: usize) -> Result<()> {
    let most = threads_max();
    if threads <= most {
        return Ok(());
    }
    Err(Error::argument(format!("{} is {threads}; it must be at most {most}", Name::Threads)))
}

type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The shared state of one call. Aligned to two cache lines to avoid false sharing.
#[repr(align(128))]
#[derive(Debug, Default)]
struct JobSlot {
    /// True while a call owns the slot.
    taken: AtomicBool,
    /// OPEN, and the number of workers inside.
    entry: AtomicU32,
    /// The next tile to take; `tiles` or more if none is left.
    next: AtomicUsize,
    tiles: AtomicUsize,
    /// Written by the slot's owner while the slot is closed and no worker is inside; read by
    /// workers inside.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Rung when the last worker leaves.
    left: Doorbell,
    /// Set with `panic`.
    panicked: AtomicBool,
    /// The first panic of a worker, which the caller resumes.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not Sync; the entry word orders its writes and reads as
// described above, and the pointee is `Sync`.
unsafe impl Sync for JobSlot {}
// SAFETY: the pointer in `job` is dereferenced only by workers inside the slot, on any thread.
unsafe impl Send for JobSlot {}

impl JobSlot {
    /// Enters the slot if it is open and tiles are left; returns true on success.
    fn enter(&self) -> bool {
        let mut entry = self.entry.load(Ordering::Relaxed);
        while entry & OPEN != 0 && self.next.load(Ordering::Relaxed) < self.tiles.load(Ordering::Relaxed) {
            match self.entry.compare_exchange_weak(entry, entry + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => entry = now,
            }
        }
        false
    }

    /// Takes tiles until none is left. After a panic of the job, no thread takes another tile.
    fn take_tiles(&self, worker: usize, job: &Job<'_>) -> thread::Result<()> {
        let tiles = self.tiles.load(Ordering::Relaxed);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let tile = self.next.fetch_add(1, Ordering::Relaxed);
                if tile >= tiles {
                    break;
                }
                job(worker, tile);
            }
        }));
        if outcome.is_err() {
            self.next.store(tiles, Ordering::Relaxed);
        }
        outcome
    }

    /// Takes tiles as a worker inside the slot, then leaves it.
    fn work_inside(&self, worker: usize) {
        // SAFETY: the entry word counts this thread, so the owner neither writes `job` nor returns before
        // it has left; entering acquired the owner's write.
        let job = unsafe { &*(*self.job.get()).expect("an open slot has a job") };
        if let Err(panic) = self.take_tiles(worker, job) {
            self.panic.lock().get_or_insert(panic);
            self.panicked.store(true, Ordering::Relaxed);
        }
        if self.entry.fetch_sub(1, Ordering::Release) == 1 {
            self.left.ring_all(); // closed, and the last worker has left
        }
    }
}

#[derive(Debug)]
struct Shared {
    slots: [JobSlot; JOB_SLOTS],
    /// Rung when a slot opens or the pool closes.
    work: Doorbell,
    closing: AtomicBool,
}

impl Shared {
    fn worker(&self, worker: usize) {
        // Workers start their search at different slots, so concurrent calls share them evenly.
        let mut slot = worker % JOB_SLOTS;
        loop {
            let mut closing = false;
            self.work.wait(|| {
                let found =
                    (0..JOB_SLOTS).map(|step| (slot + step) % JOB_SLOTS).find(|at| self.slots[*at].enter());
                slot = found.unwrap_or(slot);
                closing = self.closing.load(Ordering::Relaxed);
                found.is_some() || closing
            });
            if closing {
                return;
            }
            self.slots[slot].work_inside(worker);
        }
    }
}

/// A pool of worker threads.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool in which `threads` threads work on a job: the caller of [`Pool::run`] and
    /// `threads − 1` workers, which live as long as the pool. Zero counts as one.
    ///
    /// Errors: [too many threads](check_threads); the system refuses a thread (`Io`).
    pub fn new(threads: usize) -> Result<Pool> {
        Pool::start(threads, |_| None)
    }

    /// A pool whose workers run on the given processors, for example those of a
    /// [`Node`](super::Node). The affinity of callers of [`Pool::run`] is unchanged.
    ///
    /// Errors: as [`Pool::new`]; a processor that this process may not use (`Io`).
    pub fn on(threads: usize, cpus: &[u32]) -> Result<Pool> {
        Pool::start(threads, |_| Some(cpus))
    }

    /// A pool over a whole machine that this process has to itself: workers are bound to cores or
    /// NUMA nodes by [`Topology::thread_cpus`]. The processors of thread 0 are left to the
    /// callers of [`Pool::run`].
    ///
    /// Errors: as [`Pool::on`].
    pub fn over(threads: usize, topology: &Topology) -> Result<Pool> {
        let cpus = topology.thread_cpus(threads);
        Pool::start(threads, |worker| cpus.as_ref().map(|cpus| cpus[worker]))
    }

    /// `cpus` returns the processors of a worker; `None` leaves it unbound.
    fn start<'a>(threads: usize, cpus: impl Fn(usize) -> Option<&'a [u32]>) -> Result<Pool> {
        check_threads(threads)?;
        let shared = Arc::new(Shared {
            slots: Default::default(),
            work: Doorbell::new(),
            closing: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for worker in 1..threads {
            let shared = pool.shared.clone();
            let own = cpus(worker).map(<[u32]>::to_vec);
            let (report, bound) = bounded(1);
            let handle = start_thread(format_args!("worker-{worker}"), move || {
                let bound = own.as_deref().map_or(Ok(()), linux::run_on);
                let _ = report.send(bound.map_err(|error| {
                    Error::io(format!("cannot bind worker {worker} to processors {own:?}"), &error)
                }));
                shared.worker(worker);
            })?;
            pool.workers.push(handle);
            bound.recv().expect("a worker reports before it works")?;
        }
        Ok(pool)
    }

    /// The number of threads that work on one job, including the caller.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(worker, tile)` for every tile in `0..tiles` and returns when all are done. Free
    /// threads take tiles in increasing order. `worker` is below [`Pool::threads`] and unique among
    /// the threads of the job, so it can index scratch memory. Several threads may call `run`
    /// concurrently, and a job may call it too. Allocates nothing.
    ///
    /// # Panics
    /// With the job's panic, once no thread runs the job any more; remaining tiles are skipped.
    pub fn run(&self, tiles: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let helpers = self.workers.len().min(tiles.saturating_sub(1));
        let Some(slot) = (helpers > 0).then(|| self.claim()).flatten() else {
            (0..tiles).for_each(|tile| job(0, tile));
            return;
        };
        slot.next.store(0, Ordering::Relaxed);
        slot.tiles.store(tiles, Ordering::Relaxed);
        // SAFETY: the slot is closed and no worker is inside, so no thread reads `job` now.
        unsafe { *slot.job.get() = Some(forget_lifetime(job)) };
        slot.entry.store(OPEN, Ordering::Release);
        self.shared.work.ring(helpers as u32);

        let outcome = slot.take_tiles(0, job);

        // Nothing between opening the slot and here unwinds, so `job` is borrowed until every
        // worker has left.
        if slot.entry.fetch_and(!OPEN, Ordering::Acquire) != OPEN {
            slot.left.wait(|| slot.entry.load(Ordering::Acquire) == 0);
        }
        let panic = match outcome {
            Err(own) => Some(own),
            Ok(()) if slot.panicked.load(Ordering::Relaxed) => slot.panic.lock().take(),
            Ok(()) => None,
        };
        if panic.is_some() {
            *slot.panic.lock() = None;
            slot.panicked.store(false, Ordering::Relaxed);
        }
        slot.taken.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs `job(index, chunk)` for every chunk of `len` elements of `all` (the last may be
    /// shorter), as [`Pool::run`].
    ///
    /// # Panics
    /// If `len` is 0; as [`Pool::run`].
    pub fn run_chunks<T: Send>(&self, all: &mut [T], len: usize, job: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (count, end) = (all.len().div_ceil(len), all.len());
        let base = Base(all.as_mut_ptr());
        self.run(count, &|_, index| {
            let start = index * len;
            // SAFETY: a pool runs every tile of a job once, chunks of different indices are
            // disjoint, and the slice is borrowed until `run` returns.
            let chunk = unsafe { slice::from_raw_parts_mut(base.at(start), len.min(end - start)) };
            job(index, chunk);
        });
    }

    fn claim(&self) -> Option<&JobSlot> {
        self.shared.slots.iter().find(|slot| {
            !slot.taken.load(Ordering::Relaxed)
                && slot.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
    }
}

/// The start of a slice whose elements are distributed over threads.
struct Base<T>(*mut T);

// SAFETY: every element is used by one thread only, and `T` may be sent to it.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    fn at(&self, element: usize) -> *mut T {
        self.0.wrapping_add(element)
    }
}

/// Erases the job's lifetime; [`Pool::run`] ensures that it is not used afterwards.
fn forget_lifetime<'a>(job: &'a Job<'a>) -> *const Job<'static> {
    // SAFETY: the two pointer types differ only in a lifetime, which has no representation;
    // `work_inside` justifies the dereference.
    unsafe { std::mem::transmute::<*const Job<'a>, *const Job<'static>>(job) }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.work.ring_all();
        for worker in self.workers.drain(..) {
            // Panics of jobs are caught inside, so a worker ends by returning.
            let _ = worker.join();
        }
    }
}
