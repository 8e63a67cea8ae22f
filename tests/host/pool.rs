//! The worker pool: every tile runs once, concurrent callers, panics, wake-ups, binding, drop.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use horizon::base::Status;
use horizon::host::{Pool, Topology};
use horizon::sys::linux::current_cpu;

#[test]
fn host_pool_runs_every_tile_once_with_any_number_of_threads() {
    for threads in [0, 1, 2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads.max(1));
        for tiles in [0, 1, 2, 3, 5, 64, 1000] {
            let hits: Vec<AtomicU32> = (0..tiles).map(|_| AtomicU32::new(0)).collect();
            pool.run(tiles, &|worker, tile| {
                assert!(worker < pool.threads());
                hits[tile].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1),
                "{threads} threads, {tiles} tiles"
            );
        }
    }
}

/// Numbers that tiles write without atomics: two threads in one tile, or a caller that returns too
/// early, give a data race under ThreadSanitizer and otherwise a wrong sum.
struct Cells(Vec<UnsafeCell<u64>>);

// SAFETY: the tests give every cell to one tile of one job at a time.
unsafe impl Sync for Cells {}

impl Cells {
    fn new(count: usize) -> Cells {
        Cells((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, at: usize, value: u64) {
        // SAFETY: `at` is the tile or worker of the calling thread, which no other thread has at
        // the same time.
        unsafe { *self.0[at].get() += value }
    }

    fn sum(self) -> u64 {
        self.0.into_iter().map(UnsafeCell::into_inner).sum()
    }
}

/// Runs `work(0)`, `work(1)` … concurrently, with spawn and join, which ThreadSanitizer supports.
fn side_by_side(threads: usize, work: impl Fn(usize) + Send + Sync + 'static) {
    let work = Arc::new(work);
    let spawn = |at| {
        let work = work.clone();
        std::thread::spawn(move || work(at))
    };
    let handles: Vec<_> = (0..threads).map(spawn).collect();
    handles.into_iter().for_each(|handle| handle.join().unwrap());
}

#[test]
fn host_pool_of_a_million_threads_is_refused() {
    let error = Pool::new(1_000_000).unwrap_err();
    assert!(error.message().contains("threads is 1000000; it must be at most"), "{error}");
}

#[test]
fn host_pool_serves_concurrent_callers() {
    let pool = Pool::new(3).unwrap();
    let rounds = 300;
    side_by_side(4, move |caller| {
        let caller = caller as u64;
        let scratch = Cells::new(pool.threads());
        for round in 0..rounds {
            let tiles = 1 + (caller + round) % 17;
            let cells = Cells::new(tiles as usize);
            pool.run(tiles as usize, &|worker, tile| {
                scratch.add(worker, 1);
                cells.add(tile, caller * 1000 + tile as u64);
            });
            assert_eq!(cells.sum(), caller * 1000 * tiles + tiles * (tiles - 1) / 2);
        }
        assert_eq!(scratch.sum(), (0..rounds).map(|round| 1 + (caller + round) % 17).sum::<u64>());
    });
}

#[test]
fn host_pool_uses_its_workers() {
    let pool = Pool::new(3).unwrap();
    meet(&pool, 3);
}

/// Every tile waits for all others, so all threads must be inside the job at the same time.
fn meet(pool: &Pool, threads: usize) {
    let inside = AtomicUsize::new(0);
    pool.run(threads, &|_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
        while inside.load(Ordering::SeqCst) < threads {
            std::thread::yield_now();
        }
    });
    assert_eq!(inside.into_inner(), threads);
}

#[test]
fn host_pool_wakes_workers_that_sleep() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        meet(&pool, 2);
    }
}

#[test]
fn host_pool_workers_run_on_their_processors() {
    let cpus: Vec<u32> = Topology::read().nodes.into_iter().flat_map(|node| node.cpus).collect();
    for cpu in &cpus {
        let pool = Pool::on(3, &[*cpu]).unwrap();
        for _ in 0..10 {
            pool.run(3, &|worker, _| {
                assert!(worker == 0 || current_cpu() == Some(*cpu), "worker {worker} left {cpu}");
            });
        }
    }
    let beyond = cpus.iter().max().unwrap() + 500;
    assert_eq!(Pool::on(2, &[beyond]).err().unwrap().status(), Status::Io);
    assert_eq!(Pool::on(2, &[5000]).err().unwrap().status(), Status::Io);
}

#[test]
fn host_pool_over_a_machine_binds_each_worker() {
    let topology = Topology::read();
    let cpus: Vec<u32> = topology.nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect();
    let pool = Pool::over(cpus.len(), &topology).unwrap();
    for _ in 0..10 {
        pool.run(4 * cpus.len(), &|worker, _| {
            assert!(worker == 0 || current_cpu() == Some(cpus[worker]), "worker {worker} left its core");
        });
    }
    let pool = Pool::over(cpus.len() + 3, &topology).unwrap();
    assert_eq!(pool.threads(), cpus.len() + 3);
    meet(&pool, cpus.len() + 3);
}

#[test]
fn host_pool_jobs_may_run_jobs() {
    let pool = Pool::new(3).unwrap();
    let hits = AtomicUsize::new(0);
    pool.run(20, &|_, _| {
        pool.run(10, &|_, _| {
            hits.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(hits.into_inner(), 200);
}

/// More callers than the pool has job slots: the others run their jobs alone.
#[test]
fn host_pool_accepts_more_callers_than_job_slots() {
    let pool = Pool::new(2).unwrap();
    let inside = Arc::new(AtomicUsize::new(0));
    let count = inside.clone();
    side_by_side(20, move |_| {
        pool.run(4, &|_, tile| {
            // Tile 0 ends only when all twenty callers are inside their jobs.
            if tile == 0 {
                count.fetch_add(1, Ordering::SeqCst);
                while count.load(Ordering::SeqCst) < 20 {
                    std::thread::yield_now();
                }
            }
        });
    });
    assert_eq!(inside.load(Ordering::SeqCst), 20);
}

#[test]
fn host_pool_resumes_a_panic_in_the_caller_and_stays_usable() {
    let pool = Pool::new(4).unwrap();
    for round in 0..200 {
        let inside = AtomicUsize::new(0);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|_, tile| {
                inside.fetch_add(1, Ordering::Relaxed);
                if tile == round % 64 {
                    resume_unwind(Box::new("tile failed"));
                }
                inside.fetch_sub(1, Ordering::Relaxed);
            });
        }))
        .unwrap_err();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "tile failed");
        assert_eq!(inside.into_inner(), 1, "only the failed tile did not leave the job");
        let hits = AtomicUsize::new(0);
        pool.run(64, &|_, _| {
            hits.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(hits.into_inner(), 64);
    }
}

#[test]
fn host_pools_open_and_close_with_and_without_jobs() {
    for round in 0..50 {
        let pool = Pool::new(1 + round % 5).unwrap();
        if round % 2 == 0 {
            pool.run(3, &|_, _| {});
        }
    }
}
