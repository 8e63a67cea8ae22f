//! Bandwidth of host memory, and overheads of threads and lanes: `cargo bench --bench memory --
//! [--mib N] [--rounds N]`.
//!
//! One line of JSON per figure:
//! - `stream`: GB/s of reading, writing, and updating in place (bytes read plus bytes written by
//!   the program), per thread count, on small and on huge pages;
//! - `nodes`: GB/s of updating in place, for the cores of every NUMA node and the memory of every
//!   node;
//! - `touch`: GB/s of the first touch of an arena, by one thread and by all, compared with zeroing
//!   touched memory, which is the upper limit;
//! - `pool`: nanoseconds of an empty job, from call to return;
//! - `lanes`: nanoseconds from issuing a task until it is reached, and of a hop from lane to lane.
//!
//! Figures are medians of the rounds. On a shared machine, compare only figures of the same run.

use std::hint::black_box;
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use horizon::base::Result;
use horizon::device::cpu::CpuDevice;
use horizon::device::{Device, Lane, Tick, Work};
use horizon::host::{Arena, MemoryKind, Pages, Pool, Topology};
use horizon::sys::linux::run_on;
use serde_json::json;
use support::bench::{median, number, rounded};

const TILE: usize = 1 << 18;

fn main() {
    let bytes = number::<usize>("--mib").unwrap_or(1024) << 20;
    let rounds = number("--rounds").unwrap_or(5);
    let cores = thread::available_parallelism().map_or(1, usize::from);

    for huge in [false, true] {
        touch(bytes, rounds, cores, huge);
        let arena = arena(bytes, huge);
        arena
            .touch(&Pool::over(cores, &Topology::read()).expect("threads start"))
            .expect("plain memory is not pinned");
        for threads in 1..=cores {
            stream(&arena, rounds, threads);
        }
    }
    nodes(bytes, rounds);
    for threads in 1..=cores {
        pool(threads);
    }
    lanes();
}

/// An arena with the system's default pages, or with small ones.
fn arena(bytes: usize, huge: bool) -> Arena {
    let page_setting = (!huge).then_some(Pages::Small);
    Arena::take_under(Path::new("/"), bytes, MemoryKind::Plain, page_setting).expect("the arena fits")
}

fn touch(bytes: usize, rounds: usize, cores: usize, huge: bool) {
    let seconds = [1, cores].map(|threads| {
        let pool = Pool::over(threads, &Topology::read()).expect("threads start");
        let round = |_| {
            let arena = arena(bytes, huge);
            timed(|| arena.touch(&pool).expect("plain memory is not pinned"))
        };
        median((0..rounds).map(round))
    });
    let [serial, parallel] = seconds;
    let mut touched = arena(bytes, huge);
    let pool = Pool::over(cores, &Topology::read()).expect("threads start");
    touched.touch(&pool).expect("plain memory is not pinned");
    let zero = |_| timed(|| pool.run_chunks(touched.bytes_mut(), TILE, &|_, tile| tile.fill(0)));
    let zeroing = median((0..rounds).map(zero));
    println!(
        "{}",
        json!({
            "bench": "touch", "mib": bytes >> 20, "pages": arena(bytes, huge).pages().to_string(), "threads": cores,
            "serial_gb_per_second": rounded(bytes as f64 / serial / 1e9, 2),
            "parallel_gb_per_second": rounded(bytes as f64 / parallel / 1e9, 2),
            "speedup_per_core": rounded(serial / parallel / cores as f64, 2),
            "zeroing_gb_per_second": rounded(bytes as f64 / zeroing / 1e9, 2),
        })
    );
}

/// Measures the cores of every node with the memory of every node.
fn nodes(bytes: usize, rounds: usize) {
    let topology = Topology::read();
    for cores in topology.nodes.iter().filter(|node| !node.cpus.is_empty()) {
        for memory in topology.with_memory() {
            let arena = Arena::take(bytes, MemoryKind::Node(memory)).expect("the node has the memory");
            let cpus = cores.cpus.clone();
            // The calling thread also takes tiles, so it must run on the node.
            let caller = thread::spawn(move || {
                run_on(&cpus).expect("this process may use the node's cores");
                let pool = Pool::on(cpus.len(), &cpus).expect("threads start");
                arena.touch(&pool).expect("memory of a node is not pinned");
                let update = |_| {
                    timed(|| {
                        pool.run(bytes / TILE, &|_, tile| {
                            words(&arena, tile).iter_mut().for_each(|word| *word ^= 5);
                        })
                    })
                };
                (median((0..rounds).map(update)), arena.node_at(0).ok())
            });
            let (seconds, lies_on) = caller.join().expect("the thread ends");
            println!(
                "{}",
                json!({
                    "bench": "nodes", "cores_of": cores.index, "memory_of": memory, "memory_lies_on": lies_on,
                    "distance": topology.distance(cores.index, memory), "mib": bytes >> 20,
                    "gb_per_second": rounded((2 * bytes) as f64 / seconds / 1e9, 2),
                })
            );
        }
    }
}

/// A tile as 64-bit words.
#[allow(clippy::mut_from_ref)]
fn words(arena: &Arena, tile: usize) -> &mut [u64] {
    let span = arena.whole().subspan(tile * TILE, TILE);
    // SAFETY: each tile is used by one thread while a pool runs, and its pages are aligned.
    unsafe { slice::from_raw_parts_mut(span.address().cast(), TILE / 8) }
}

type Sweep = dyn Fn(&mut [u64]) + Sync;

fn stream(arena: &Arena, rounds: usize, threads: usize) {
    let pool = Pool::over(threads, &Topology::read()).expect("threads start");
    let bytes = arena.whole().bytes();
    let each = |sweep: &Sweep| {
        pool.run(bytes / TILE, &|_, tile| {
            sweep(words(arena, tile));
        });
    };
    let read = |words: &mut [u64]| {
        black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
    };
    let write = |words: &mut [u64]| words.fill(black_box(3));
    let update = |words: &mut [u64]| words.iter_mut().for_each(|word| *word ^= 5);
    let kinds: [(&str, &Sweep, usize); 3] =
        [("read", &read, 1), ("write", &write, 1), ("update", &update, 2)];
    for (kind, sweep, passes) in kinds {
        let seconds = median((0..rounds).map(|_| timed(|| each(sweep))));
        println!(
            "{}",
            json!({
                "bench": "stream", "kind": kind, "threads": threads, "mib": bytes >> 20,
                "pages": arena.pages().to_string(),
                "gb_per_second": rounded((bytes * passes) as f64 / seconds / 1e9, 2),
            })
        );
    }
}

fn pool(threads: usize) {
    let pool = Pool::over(threads, &Topology::read()).expect("threads start");
    let call = |_| {
        timed(|| {
            pool.run(threads, &|_, tile| {
                black_box(tile);
            })
        })
    };
    let mut seconds: Vec<f64> = (0..20_000).map(call).collect();
    seconds.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({
            "bench": "pool", "threads": threads,
            "median_ns": rounded(seconds[seconds.len() / 2] * 1e9, 2),
            "p99_ns": rounded(seconds[seconds.len() * 99 / 100] * 1e9, 2),
        })
    );
}

struct Nothing;

impl Work for Nothing {
    fn run(&self, _: Lane, _: u64) -> Result<()> {
        Ok(())
    }
}

fn lanes() {
    let lanes = CpuDevice::new(None).open(Arc::new(Nothing), false).expect("lanes open");
    let reach = |tick: Tick| lanes.reach(tick).expect("nothing fails");
    let trip = |task| timed(|| reach(lanes.issue(Lane::Compute, task, &[], false)));
    let trip_ns = median((0..10_000).map(trip)) * 1e9;
    let hops = 10_000;
    let seconds = timed(|| {
        let mut last = lanes.issue(Lane::Compute, 0, &[], true);
        for hop in 1..hops {
            let lane = if hop % 2 == 0 { Lane::Compute } else { Lane::Host };
            last = lanes.issue(lane, hop, &[last], true);
        }
        reach(last);
    });
    println!(
        "{}",
        json!({
            "bench": "lanes", "issue_to_reach_ns": rounded(trip_ns, 2),
            "hop_ns": rounded(seconds / hops as f64 * 1e9, 2),
        })
    );
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
