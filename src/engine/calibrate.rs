//! Measuring a machine for the plan: the CPU device of this one.
//!
//! Small models of several shapes take a few steps, with every lane recorded. Whatever ran alone is a sample: so much
//! work in so much time; the rates are those at which work and time agree best, relative to the time. Copies in both
//! directions at once and threads beside threads are measured by themselves: they say what lanes take from one another.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::thread;
use std::time::Instant;

use crate::base::{Dims, Error, Result, Shape, Status};
use crate::device::cpu::CpuDevice;
use crate::device::{Device, Lane, TaskSpan};
use crate::engine::{Batch, Trainer, TrainerOptions};
use crate::host::{Arena, MemoryKind};
use crate::model::{Layout, ModelConfig, Recompute, preset};
use crate::ops::cpu::CpuKernels;
use crate::plan::{Common, Cost, MATRIX_CLASSES, Machine, Work};
use crate::schedule::{Boundary, LayerPlacement, Operation};

/// Some work on a lane that had the machine to itself, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The lane.
    pub lane: Lane,
    /// The work.
    pub work: Work,
    /// Seconds.
    pub seconds: f64,
}

/// Shapes that between them make every rate matter: of each class of products one, and one in which attention does.
const SHAPES: [(Dims, Shape); 5] = [
    (Dims { c: 192, h: 6, g: 3, d: 32, f: 528, v: 512, l: 4 }, Shape { b: 1, t: 64 }),
    (Dims { c: 128, h: 4, g: 2, d: 32, f: 352, v: 512, l: 4 }, Shape { b: 1, t: 128 }),
    (Dims { c: 64, h: 2, g: 1, d: 32, f: 176, v: 256, l: 3 }, Shape { b: 2, t: 512 }),
    (Dims { c: 256, h: 8, g: 4, d: 32, f: 688, v: 1024, l: 3 }, Shape { b: 2, t: 256 }),
    (Dims { c: 640, h: 10, g: 5, d: 64, f: 1728, v: 2048, l: 2 }, Shape { b: 2, t: 384 }),
];
/// Steps of each; the first one, in which memory is touched for the first time, is left out.
const STEPS: usize = 4;
/// A task that others ran beside for more than this part of its time is no sample.
const ALONE: f64 = 0.1;

/// Measures the CPU device with so many threads: takes some seconds and a quarter of a GiB.
///
/// Errors: the memory is not there, or a figure could not be measured.
pub fn calibrate(threads: usize) -> Result<Machine> {
    let mut samples = Vec::new();
    for (dims, shape) in SHAPES {
        let config =
            ModelConfig { dims, positions_max: shape.t, tied: false, ..preset("tiny").expect("it is there") };
        for recompute in [Recompute::Full, Recompute::None] {
            samples.extend(run(&config, shape, threads, recompute)?);
        }
    }
    let mut machine = fit(&samples)?;
    machine.common = common(threads)?;
    Ok(machine)
}

/// Steps of a model, and what ran alone in them.
fn run(config: &ModelConfig, shape: Shape, threads: usize, recompute: Recompute) -> Result<Vec<Sample>> {
    let layer = LayerPlacement { recompute, boundary: Boundary::Spilled, ..LayerPlacement::default() };
    let options = TrainerOptions {
        shape,
        micros_max: 2,
        sweeps: 2,
        layers: vec![layer; config.dims.l],
        threads: Some(threads),
        tracing: true,
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::open(config, &options)?;
    trainer.write_fresh(1)?;
    let (n, v) = (shape.n(), config.dims.v);
    let tokens: Vec<i32> = (0..=n).map(|at| (at * 7919 % v) as i32).collect();
    let batch = Batch { tokens: &tokens[..n], targets: &tokens[1..], weights: None, starts: None };
    for _ in 0..STEPS {
        trainer.step(&[batch; 2], 1e-4)?;
        // Its AdamW runs alone.
        trainer.sync()?;
    }
    let layout = Layout::new(config);
    let cost = Cost::new(config, &layout, &trainer.plan().policy, CpuKernels::STORAGE);
    Ok(samples(&trainer.spans()?, &cost))
}

/// What ran alone, without the first step; tasks with the same work make one sample.
pub fn samples(spans: &[(Operation, TaskSpan)], cost: &Cost) -> Vec<Sample> {
    let decided = spans.iter().filter(|(operation, _)| matches!(operation, Operation::Decide { .. }));
    let first = decided.map(|(_, span)| span.end_ns).min().unwrap_or(0);
    let beside = |one: &TaskSpan| -> u64 {
        let others = spans.iter().filter(|(_, other)| other.lane != one.lane);
        others
            .map(|(_, other)| other.end_ns.min(one.end_ns).saturating_sub(other.start_ns.max(one.start_ns)))
            .sum()
    };
    let mut alike: BTreeMap<(usize, Vec<u64>), Vec<Sample>> = BTreeMap::new();
    for (operation, span) in spans.iter().filter(|(_, span)| span.start_ns > first) {
        let ns = span.end_ns.saturating_sub(span.start_ns);
        if ns > 0 && beside(span) as f64 <= ALONE * ns as f64 {
            let sample = Sample { lane: span.lane, work: cost.work(operation), seconds: ns as f64 * 1e-9 };
            let amounts = amounts(&sample.work).map(f64::to_bits).to_vec();
            alike.entry((span.lane.at(), amounts)).or_default().push(sample);
        }
    }
    alike.into_values().map(typical).collect()
}

/// The mean of the same work, without the slowest tenth, in which something else happened.
fn typical(mut alike: Vec<Sample>) -> Sample {
    alike.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    alike.truncate((alike.len() * 9).div_ceil(10));
    let seconds = alike.iter().map(|sample| sample.seconds).sum::<f64>() / alike.len() as f64;
    Sample { seconds, ..alike[0] }
}

/// Figures of a work, and one for the task itself.
const AMOUNTS: usize = 1 + MATRIX_CLASSES.len() + 1 + 6;

fn amounts(work: &Work) -> [f64; AMOUNTS] {
    let Work {
        matrix_flop: [small, middle, large],
        attention_flop,
        device_bytes,
        up_bytes,
        down_bytes,
        host_bytes,
        disk_bytes,
    } = *work;
    [1.0, small, middle, large, attention_flop, device_bytes, up_bytes, down_bytes, host_bytes, disk_bytes]
}

/// The rates at which the samples' work takes the samples' time, with the least error relative to the time. What no
/// sample speaks of takes no time.
///
/// Errors: there are no samples of a lane that every step uses.
pub fn fit(samples: &[Sample]) -> Result<Machine> {
    let mut rates = [[0.0; AMOUNTS]; Lane::COUNT];
    for lane in [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host] {
        let of: Vec<_> = samples
            .iter()
            .filter(|sample| sample.lane == lane)
            .map(|sample| (amounts(&sample.work), sample.seconds))
            .collect();
        if of.is_empty() {
            return Err(Error::new(
                Status::Internal,
                format!("nothing was measured of lane {lane}: every task of it had others beside it"),
            ));
        }
        rates[lane.at()] = least_squares(&of);
    }
    let rate = |lane: Lane, at: usize| 1.0 / rates[lane.at()][at].max(FREE);
    let small = rate(Lane::Compute, 1);
    // A class that was not met is like the one below it.
    let matrix = [small, rate(Lane::Compute, 2), rate(Lane::Compute, 3)];
    Ok(Machine {
        matrix_flop_per_s: matrix,
        attention_flop_per_s: rate(Lane::Compute, 4),
        device_bytes_per_s: rate(Lane::Compute, 5),
        up_bytes_per_s: rate(Lane::H2d, 6),
        down_bytes_per_s: rate(Lane::D2h, 7),
        host_bytes_per_s: rate(Lane::Host, 8),
        disk_bytes_per_s: 1.0 / FREE,
        latency_s: Lane::ALL.map(|lane| rates[lane.at()][0]),
        common: Vec::new(),
    })
}

/// Seconds a FLOP or byte that are as good as none.
const FREE: f64 = 1e-18;

/// Non-negative least squares, one coefficient after the other.
fn least_squares(samples: &[([f64; AMOUNTS], f64)]) -> [f64; AMOUNTS] {
    const ROUNDS: usize = 3000;
    let mut rates = [0.0; AMOUNTS];
    for _ in 0..ROUNDS {
        for at in 0..AMOUNTS {
            let (mut over, mut under) = (0.0, 0.0);
            for (work, seconds) in samples {
                let all: f64 = rates.iter().zip(work).map(|(rate, amount)| rate * amount).sum();
                let others = all - rates[at] * work[at];
                let weight = 1.0 / (seconds * seconds);
                over += weight * work[at] * (seconds - others);
                under += weight * work[at] * work[at];
            }
            rates[at] = if under > 0.0 { (over / under).max(0.0) } else { 0.0 };
        }
    }
    rates
}

/// What lanes have in common: cores, by how much threads slow one another down; and what carries copies.
fn common(threads: usize) -> Result<Vec<Common>> {
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
    let both = both_ways()?;
    (copies[Lane::H2d.at()], copies[Lane::D2h.at()]) = (both / 2.0, both / 2.0);
    Ok(vec![
        Common { name: "cores".to_owned(), used },
        Common { name: "copies both ways at once".to_owned(), used: copies },
    ])
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

/// How much longer copies up and down take beside each other than alone.
fn both_ways() -> Result<f64> {
    const BYTES: usize = 32 << 20;
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
    let alone =
        median(|| timed(&|| (0..4).for_each(|_| up()))) + median(|| timed(&|| (0..4).for_each(|_| down())));
    let together = median(|| {
        timed(&|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..4).for_each(|_| up()));
                (0..4).for_each(|_| down());
            })
        })
    });
    Ok((2.0 * together / alone).clamp(1.0, 2.0))
}

fn median(mut round: impl FnMut() -> f64) -> f64 {
    const ROUNDS: usize = 7;
    round();
    let mut seconds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_in_the_times_they_make() {
        let layout_rates = [2e-6, 1e-9, 0.0, 3e-11, 5e-10, 1e-10, 0.0, 0.0, 0.0, 0.0];
        let amount =
            |seed: u64, at: usize| ((seed * 2_654_435_761 + at as u64 * 40_503) % 9_973) as f64 + 1.0;
        let samples: Vec<_> = (1..60u64)
            .map(|seed| {
                let mut work = [0.0; AMOUNTS];
                work[0] = 1.0;
                for (at, scale) in [(1, 1e3), (3, 1e5), (4, 1e3), (5, 1e4)] {
                    work[at] = amount(seed, at) * scale;
                }
                let seconds: f64 = work.iter().zip(layout_rates).map(|(amount, rate)| amount * rate).sum();
                (work, seconds)
            })
            .collect();
        let found = least_squares(&samples);
        for at in [1, 3, 4, 5] {
            assert!((found[at] / layout_rates[at] - 1.0).abs() < 0.02, "{at}: {found:?}");
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        let machine = calibrate(1).unwrap();
        machine.check().unwrap();
        assert!(machine.common.iter().all(|common| common.used.iter().sum::<f64>() > 0.0));
    }
}
