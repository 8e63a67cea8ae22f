//! What lanes take from one another, and how long word takes from one to the next.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::base::Result;
use crate::device::cpu::CpuDevice;
use crate::device::{Device, Lane, Lanes, Tick, Work};
use crate::host::{Arena, MemoryKind};
use crate::plan::Common;

/// What lanes have in common: cores, by how much threads slow one another down; and what carries copies.
pub fn common(threads: usize, link: &Link) -> Vec<Common> {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    // So many threads at once, each as slow as this, are all that the cores can do.
    let slower = median(|| spin_together(cores)) / median(|| spin_together(1));
    let of = |threads: usize| threads.min(cores) as f64 * slower / cores as f64;
    let mut used = [0.0; Lane::COUNT];
    for (lane, threads) in [(Lane::Compute, threads), (Lane::Host, threads), (Lane::H2d, 1), (Lane::D2h, 1)] {
        // A lane alone takes no longer than it does alone.
        used[lane.at()] = of(threads).min(1.0);
    }
    let mut copies = [0.0; Lane::COUNT];
    let longer = link.both / (1.0 / link.up + 1.0 / link.down);
    (copies[Lane::H2d.at()], copies[Lane::D2h.at()]) = (longer.clamp(0.5, 1.0), longer.clamp(0.5, 1.0));
    vec![
        Common { name: "cores".to_owned(), used },
        Common { name: "copies both ways at once".to_owned(), used: copies },
    ]
}

/// Seconds that as many threads take for the same arithmetic each.
fn spin_together(threads: usize) -> f64 {
    let spin = || {
        let mut values = [1.0f32; 512];
        for _ in 0..20_000 {
            for value in &mut values {
                *value = value.mul_add(0.999, 0.001);
            }
            black_box(&mut values);
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        (1..threads).for_each(|_| {
            scope.spawn(spin);
        });
        spin();
    });
    start.elapsed().as_secs_f64()
}

/// Copies of much more than a task's, so that no cache of a core holds them.
pub struct Link {
    /// Bytes a second to the device, alone.
    pub up: f64,
    /// Bytes a second to the host, alone.
    pub down: f64,
    /// Seconds for a byte each way, both at once.
    pub both: f64,
}

/// Measures copies both ways.
pub fn link() -> Result<Link> {
    const BYTES: usize = 32 << 20;
    const COPIES: usize = 4;
    let device = CpuDevice::new(None);
    let memory = device.reserve(2 * BYTES)?;
    let arena = Arena::take(2 * BYTES, MemoryKind::Plain)?;
    let host = arena.whole();
    let up = || device.upload(memory.part(0, BYTES), host.part(0, BYTES)).expect("the lengths agree");
    let down =
        || device.download(host.part(BYTES, BYTES), memory.part(BYTES, BYTES)).expect("the lengths agree");
    let timed = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let bytes = (COPIES * BYTES) as f64;
    let both = || {
        thread::scope(|scope| {
            let beside = scope.spawn(|| (0..COPIES).for_each(|_| up()));
            (0..COPIES).for_each(|_| down());
            beside.join().expect("a copy does not panic");
        });
    };
    Ok(Link {
        up: bytes / median(|| timed(&|| (0..COPIES).for_each(|_| up()))),
        down: bytes / median(|| timed(&|| (0..COPIES).for_each(|_| down()))),
        both: median(|| timed(&both)) / bytes,
    })
}

fn median(mut round: impl FnMut() -> f64) -> f64 {
    const ROUNDS: usize = 7;
    round();
    let mut seconds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

/// Seconds from a task's end to the start of one on another lane that slept until then.
pub fn handoff() -> Result<f64> {
    /// Longer than a lane looks before it sleeps.
    const TASK: Duration = Duration::from_micros(200);
    const TASKS: u32 = 40;
    struct Spin;
    impl Work for Spin {
        fn run(&self, _lane: Lane, _task: u64) -> Result<()> {
            let start = Instant::now();
            while start.elapsed() < TASK {
                spin_loop();
            }
            Ok(())
        }
    }
    let lanes: Box<dyn Lanes> = CpuDevice::new(None).open(Arc::new(Spin), false)?;
    let hops = || {
        let start = Instant::now();
        let mut last: Option<Tick> = None;
        for number in 0..TASKS {
            let lane = if number % 2 == 0 { Lane::H2d } else { Lane::Compute };
            last = Some(lanes.issue(lane, 0, last.as_slice(), true));
        }
        last.into_iter().try_for_each(|tick| lanes.reach(tick)).expect("spinning does not fail");
        (start.elapsed() - TASK * TASKS).as_secs_f64() / f64::from(TASKS)
    };
    Ok(median(hops))
}
