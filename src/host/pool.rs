//! The worker pool: threads that take tiles of work together.
//!
//! # How a job is lent to the workers
//! A job is a closure borrowed from the caller's stack, so the one thing that must hold is: *no worker touches
//! it after [`Pool::run`] has returned*. A call claims one of a few [`Desk`]s, lays its job on it and opens
//! the desk's gate. The gate is one word: an OPEN bit and the number of workers inside. A worker enters by a
//! compare-and-swap that demands the OPEN bit and counts it in with the same instruction; it reads the job
//! only afterwards. The caller takes tiles like everyone, then clears OPEN, after which nobody can enter, and
//! waits until the count is 0. The last worker's leaving (`Release`) and the caller's look (`Acquire`) also
//! make the tiles' results visible to the caller.
//!
//! Every desk serves one call at a time, so several threads can run jobs side by side and share the workers.
//! When all desks are taken the caller does its job alone: never wrong, only slower.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use super::{Doorbell, Topology};
use crate::base::{Error, Result};
use crate::sys::linux;

/// Calls that can share the workers at a time. The engine has two callers: the compute and the host lane.
const DESKS: usize = 8;
/// The most threads of a pool, unless the machine has more processors.
const THREADS_MAX: usize = 1024;
/// Bit of a gate that lets workers in; the bits below count those inside.
const OPEN: u32 = 1 << 31;

/// Refuses a number of threads that no machine has a use for: the most are 1024, or the processors of this one.
///
/// Errors: `InvalidArgument`.
pub fn check_threads(threads: usize) -> Result<()> {
    let most = thread::available_parallelism().map_or(1, |cores| cores.get()).max(THREADS_MAX);
    if threads <= most {
        return Ok(());
    }
    Err(Error::argument(format!("threads is {threads}; it must be at most {most}")))
}

type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Where one call meets the workers. On cache lines of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Desk {
    /// Whether a call owns the desk.
    taken: AtomicBool,
    /// OPEN, and how many workers are inside.
    gate: AtomicU32,
    /// The next tile; at or beyond `tiles` there is none.
    next: AtomicUsize,
    tiles: AtomicUsize,
    /// Written by the desk's owner while the gate is closed and nobody is inside; read by those inside.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Rung when the last worker leaves.
    left: Doorbell,
    /// The first panic of a worker, carried to the caller.
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the only field that is not Sync by itself is `job`; the gate orders its writes and reads as told
// above, and the pointee is `Sync`.
unsafe impl Sync for Desk {}
// SAFETY: the pointer in `job` is used under the gate only, from whatever thread.
unsafe impl Send for Desk {}

impl Desk {
    /// Lets this thread inside if there is work left.
    fn enter(&self) -> bool {
        let mut gate = self.gate.load(Ordering::Relaxed);
        while gate & OPEN != 0 && self.next.load(Ordering::Relaxed) < self.tiles.load(Ordering::Relaxed) {
            match self.gate.compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    /// Takes tiles until none is left. A panic of the job ends the job for all.
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

    /// What a worker does inside, and its leaving.
    fn work_inside(&self, worker: usize) {
        // SAFETY: this thread is counted in the gate, so the owner neither writes `job` nor returns before it
        // has left; entering acquired the owner's write.
        let job = unsafe { &*(*self.job.get()).expect("an open desk has a job") };
        if let Err(panic) = self.take_tiles(worker, job) {
            self.panic.lock().get_or_insert(panic);
            self.panicked.store(true, Ordering::Relaxed);
        }
        if self.gate.fetch_sub(1, Ordering::Release) == 1 {
            self.left.ring_all(); // closed, and this was the last
        }
    }
}

#[derive(Debug)]
struct Shared {
    desks: [Desk; DESKS],
    /// Rung when a desk opens or the pool closes.
    work: Doorbell,
    closing: AtomicBool,
}

impl Shared {
    fn worker(&self, worker: usize) {
        // Workers begin their search at different desks, so two calls at a time share them evenly.
        let mut desk = worker % DESKS;
        loop {
            let mut closing = false;
            self.work.wait(|| {
                let found = (0..DESKS).map(|step| (desk + step) % DESKS).find(|at| self.desks[*at].enter());
                desk = found.unwrap_or(desk);
                closing = self.closing.load(Ordering::Relaxed);
                found.is_some() || closing
            });
            if closing {
                return;
            }
            self.desks[desk].work_inside(worker);
        }
    }
}

/// Threads that take tiles of work together.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool in which `threads` threads work on a job: the caller of [`Pool::run`] and `threads − 1` workers,
    /// which live as long as the pool. Zero counts as one.
    ///
    /// Errors: [too many](check_threads); the system refuses a thread (`Io`).
    pub fn new(threads: usize) -> Result<Pool> {
        Pool::start(threads, |_| None)
    }

    /// A pool whose workers stay on the given processors, for example those of a [`Node`](super::Node). The
    /// callers of [`Pool::run`] stay where they are.
    ///
    /// Errors: as [`Pool::new`]; a processor that this process may not use (`Io`).
    pub fn on(threads: usize, cpus: &[u32]) -> Result<Pool> {
        Pool::start(threads, |_| Some(cpus))
    }

    /// A pool over a whole machine, for whoever has it to himself: workers are bound to
    /// [their places](Topology::places), cores or nodes, of which the first is left to the callers of [`Pool::run`].
    ///
    /// Errors: as [`Pool::on`].
    pub fn over(threads: usize, topology: &Topology) -> Result<Pool> {
        let places = topology.places(threads);
        Pool::start(threads, |worker| places.as_ref().map(|places| places[worker]))
    }

    /// `cpus` are those that a worker stays on, if it stays anywhere.
    fn start<'a>(threads: usize, cpus: impl Fn(usize) -> Option<&'a [u32]>) -> Result<Pool> {
        check_threads(threads)?;
        let shared = Arc::new(Shared {
            desks: Default::default(),
            work: Doorbell::new(),
            closing: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for worker in 1..threads {
            let shared = pool.shared.clone();
            let own = cpus(worker).map(<[u32]>::to_vec);
            let (report, bound) = bounded(1);
            let handle = thread::Builder::new()
                .name(format!("hz-worker-{worker}"))
                .spawn(move || {
                    let bound = own.as_deref().map_or(Ok(()), linux::run_on);
                    let _ = report.send(bound.map_err(|error| {
                        Error::io(format!("cannot keep worker {worker} on processors {own:?}"), &error)
                    }));
                    shared.worker(worker);
                })
                .map_err(|error| Error::io(format!("cannot start worker {worker} of {threads}"), &error))?;
            pool.workers.push(handle);
            bound.recv().expect("a worker reports before it works")?;
        }
        Ok(pool)
    }

    /// Threads that work on one job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(worker, tile)` for every tile in `0..tiles` and returns when all are done. Tiles are taken in
    /// increasing order by whoever is free; `worker` is below [`Pool::threads`] and no two threads inside the
    /// same job have the same, so it can index scratch memory. Several threads may call `run` at a time, and
    /// a job may call it too. Nothing is allocated.
    ///
    /// # Panics
    /// With the job's panic, once no thread is inside the job any more; tiles not yet taken are left out.
    pub fn run(&self, tiles: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let helpers = self.workers.len().min(tiles.saturating_sub(1));
        let Some(desk) = (helpers > 0).then(|| self.claim()).flatten() else {
            (0..tiles).for_each(|tile| job(0, tile));
            return;
        };
        desk.next.store(0, Ordering::Relaxed);
        desk.tiles.store(tiles, Ordering::Relaxed);
        // SAFETY: the gate is closed and nobody is inside, so nobody reads `job` now.
        unsafe { *desk.job.get() = Some(forget_lifetime(job)) };
        desk.gate.store(OPEN, Ordering::Release);
        self.shared.work.ring(helpers as u32);

        let outcome = desk.take_tiles(0, job);

        // Nothing between opening and here unwinds, so `job` is lent until everybody has left it.
        if desk.gate.fetch_and(!OPEN, Ordering::Acquire) != OPEN {
            desk.left.wait(|| desk.gate.load(Ordering::Acquire) == 0);
        }
        let panic = match outcome {
            Err(own) => Some(own),
            Ok(()) if desk.panicked.load(Ordering::Relaxed) => desk.panic.lock().take(),
            Ok(()) => None,
        };
        if panic.is_some() {
            *desk.panic.lock() = None;
            desk.panicked.store(false, Ordering::Relaxed);
        }
        desk.taken.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs `job(number, chunk)` for every chunk of `len` elements of `all`, of which the last may be shorter, as
    /// [`Pool::run`] runs tiles.
    ///
    /// # Panics
    /// If `len` is 0; as [`Pool::run`].
    pub fn run_chunks<T: Send>(&self, all: &mut [T], len: usize, job: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (count, end) = (all.len().div_ceil(len), all.len());
        let base = Base(all.as_mut_ptr());
        self.run(count, &|_, number| {
            let start = number * len;
            // SAFETY: a pool takes every tile of a job once, and chunks of different numbers share no element of the slice,
            // which is borrowed until `run` returns.
            let chunk = unsafe { slice::from_raw_parts_mut(base.at(start), len.min(end - start)) };
            job(number, chunk);
        });
    }

    fn claim(&self) -> Option<&Desk> {
        self.shared.desks.iter().find(|desk| {
            !desk.taken.load(Ordering::Relaxed)
                && desk.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
    }
}

/// Where a slice starts whose elements threads share out among themselves.
struct Base<T>(*mut T);

// SAFETY: every element is lent to one thread, to which it may be sent.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    fn at(&self, element: usize) -> *mut T {
        self.0.wrapping_add(element)
    }
}

/// The job's address without the borrow that the gate replaces.
fn forget_lifetime<'a>(job: &'a Job<'a>) -> *const Job<'static> {
    // SAFETY: the two pointer types differ in the lifetime bound only, which has no representation; turning
    // the result into a reference is argued where it is done.
    unsafe { std::mem::transmute::<*const Job<'a>, *const Job<'static>>(job) }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.work.ring_all();
        for worker in self.workers.drain(..) {
            // A job's panics are caught inside, so a worker ends by returning.
            let _ = worker.join();
        }
    }
}
