//! Measures copies, contention between lanes, and the latency of a handoff from lane to lane.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::base::Result;
use crate::device::{Device, DeviceSpan, Lane, Lanes, Tick, Work};
use crate::host::{Arena, HostSpan, Pool, start_scoped_thread};
use crate::plan::Common;

/// Bytes of a copy: too many for a core's caches.
const BYTES: usize = 32 << 20;

/// Copies each way, between separate buffers.
struct Copies {
    device: Arc<dyn Device>,
    _arena: Arena,
    up: (DeviceSpan, HostSpan),
    down: (DeviceSpan, HostSpan),
}

impl Work for Copies {
    fn run(&self, lane: Lane, _task: u64) -> Result<()> {
        if lane == Lane::H2d {
            // SAFETY: this struct owns the memory of both spans, and only the h2d lane uses them,
            // one task at a time.
            return unsafe { self.device.upload(self.up.0, self.up.1) };
        }
        // SAFETY: this struct owns the memory of both spans, and only the d2h lane uses them, one
        // task at a time.
        unsafe { self.device.download(self.down.1, self.down.0) }
    }
}

/// The link of a device.
pub struct Link {
    /// Bytes per second to the device, alone.
    pub up: f64,
    /// Bytes per second to the host, alone.
    pub down: f64,
    /// Seconds per byte each way, with copies both ways at once.
    pub both: f64,
    /// Seconds from a copy's end to the start of a copy on the other lane, which slept until then.
    pub handoff: f64,
}

impl Link {
    /// Measures copies each way and both ways at once, and the handoff from lane to lane. No memory
    /// of the device may be reserved before.
    pub fn measure(device: &Arc<dyn Device>, pool: &Pool) -> Result<Link> {
        let memory = device.reserve(2 * BYTES)?;
        let arena = Arena::take(2 * BYTES, device.wire_memory(2 * BYTES))?;
        arena.touch(pool)?;
        let ends = |at: usize| (memory.subspan(at, BYTES), arena.whole().subspan(at, BYTES));
        let (up, down) = (ends(0), ends(BYTES));
        let copies = Arc::new(Copies { device: device.clone(), _arena: arena, up, down });
        let lanes = device.clone().open(copies.clone(), false)?;
        let up = rate(&*lanes, &[Lane::H2d])?;
        let down = rate(&*lanes, &[Lane::D2h])?;
        let both = 1.0 / rate(&*lanes, &[Lane::H2d, Lane::D2h])?;
        drop(lanes);
        let lanes = device.clone().open(copies, true)?;
        Ok(Link { up, down, both, handoff: handoff(&*lanes)? })
    }
}

/// Bytes per second on each of the lanes, all of them at once.
fn rate(lanes: &dyn Lanes, at: &[Lane]) -> Result<f64> {
    const COPIES: usize = 4;
    let seconds = median(|| {
        let start = Instant::now();
        for _ in 0..COPIES {
            at.iter().for_each(|lane| {
                lanes.issue(*lane, 0, &[], false);
            });
        }
        at.iter().try_for_each(|lane| lanes.reach(lanes.last(*lane)))?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok((COPIES * BYTES) as f64 / seconds)
}

/// Seconds from a task's end to the start of a task on another lane. The tasks are copies of some
/// milliseconds: a virtual core that idles longer than about 0.2 ms is halted, and wakes later.
fn handoff(lanes: &dyn Lanes) -> Result<f64> {
    const TASKS: usize = 60;
    let mut last: Option<Tick> = None;
    for number in 0..TASKS {
        let lane = if number % 2 == 0 { Lane::H2d } else { Lane::D2h };
        last = Some(lanes.issue(lane, 0, last.as_slice(), true));
    }
    last.into_iter().try_for_each(|tick| lanes.reach(tick))?;
    let mut spans = lanes.take_spans();
    spans.sort_by_key(|span| span.start_ns);
    let mut hops: Vec<f64> =
        spans.windows(2).map(|pair| pair[1].start_ns.saturating_sub(pair[0].end_ns) as f64 * 1e-9).collect();
    hops.sort_by(f64::total_cmp);
    Ok(hops[hops.len() / 2])
}

/// The resources that lanes share, except RAM: cores, and the link for copies both ways.
pub fn common(device: &dyn Device, threads: usize, link: &Link) -> Result<Vec<Common>> {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    // The slowdown of a thread when all cores are busy.
    let slower = median(|| spin_together(cores))? / median(|| spin_together(1))?;
    let of = |threads: usize| threads.min(cores) as f64 * slower / cores as f64;
    let mut used = [0.0; Lane::COUNT];
    for (lane, threads) in [(Lane::Compute, threads), (Lane::Host, threads), (Lane::H2d, 1), (Lane::D2h, 1)] {
        if device.runs_on_cores(lane) {
            // A lane alone uses at most the whole resource.
            used[lane.at()] = of(threads).min(1.0);
        }
    }
    let mut copies = [0.0; Lane::COUNT];
    let longer = (link.both / (1.0 / link.up + 1.0 / link.down)).clamp(0.5, 1.0);
    (copies[Lane::H2d.at()], copies[Lane::D2h.at()]) = (longer, longer);
    let mut common = vec![
        Common { name: "cores".to_owned(), used },
        Common { name: "copies both ways at once".to_owned(), used: copies },
    ];
    // A resource that only one lane uses causes no contention.
    common.retain(|common| common.used.iter().filter(|share| **share > 0.0).count() > 1);
    Ok(common)
}

/// Seconds for a fixed amount of arithmetic on each of `threads` threads at once.
fn spin_together(threads: usize) -> Result<f64> {
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
        let others: Vec<_> =
            (1..threads).map(|_| start_scoped_thread(scope, "spin", spin)).collect::<Result<_>>()?;
        spin();
        others.into_iter().for_each(|other| other.join().expect("arithmetic does not panic"));
        Ok(start.elapsed().as_secs_f64())
    })
}

/// The median of some rounds, after one to warm up.
fn median(mut round: impl FnMut() -> Result<f64>) -> Result<f64> {
    const ROUNDS: usize = 7;
    round()?;
    let mut seconds = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[ROUNDS / 2])
}
