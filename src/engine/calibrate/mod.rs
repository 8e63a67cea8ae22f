//! Measuring a machine for the plan: the CPU device of this one.
//!
//! Small models of several shapes take a few steps, with every lane recorded. Whatever ran alone is a sample: so much
//! work in so much time; the rates are those at which work and time agree best, relative to the time. Copies, alone and
//! both ways at once, threads beside threads, the way from lane to lane and the disk are measured by themselves. What was
//! measured while other processes were at work is measured again.

mod fit;
mod lanes;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process;
use std::time::Instant;

use fit::amounts;
pub use fit::fit;

use crate::base::{Dims, Error, Result, Shape};
use crate::device::{Lane, TaskSpan};
use crate::engine::{Batch, Trainer, TrainerOptions};
use crate::host::Others;
use crate::model::{Layout, ModelConfig, Recompute, preset};
use crate::ops::cpu::CpuKernels;
use crate::plan::{Cost, Machine, Work};
use crate::schedule::{Boundary, LayerPlacement, Mode, Operation};

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

/// Shapes that between them make every rate matter: products of each class, with few rows and with many, attention of short
/// sequences and of long ones, units that fit the caches and others.
const SHAPES: [(Dims, Shape); 7] = [
    (Dims { c: 192, h: 6, g: 3, d: 32, f: 528, v: 512, l: 4 }, Shape { b: 1, t: 64 }),
    (Dims { c: 128, h: 4, g: 2, d: 32, f: 352, v: 2048, l: 4 }, Shape { b: 1, t: 128 }),
    (Dims { c: 64, h: 2, g: 1, d: 32, f: 176, v: 256, l: 3 }, Shape { b: 2, t: 512 }),
    (Dims { c: 320, h: 10, g: 5, d: 32, f: 880, v: 3072, l: 3 }, Shape { b: 1, t: 96 }),
    (Dims { c: 256, h: 8, g: 4, d: 32, f: 688, v: 1024, l: 3 }, Shape { b: 2, t: 256 }),
    (Dims { c: 448, h: 7, g: 7, d: 64, f: 1216, v: 512, l: 2 }, Shape { b: 1, t: 192 }),
    (Dims { c: 640, h: 10, g: 5, d: 64, f: 1728, v: 1024, l: 2 }, Shape { b: 1, t: 640 }),
];
/// Steps of each; the first one, in which memory is touched for the first time, is left out.
const STEPS: usize = 4;
/// A task that others ran beside for more than this part of its time is no sample.
const ALONE: f64 = 0.1;

/// Cores that others may keep busy during a measurement.
const OTHERS: f64 = 0.15;

/// Measures the CPU device with so many threads a job, and how fast a file in `folder` is written: takes some ten seconds, a
/// quarter of a GiB of RAM and as much of disk. What others disturb is measured up to `tries` times.
///
/// Errors: the memory is not there, `folder` cannot be written in, or a figure could not be measured.
pub fn calibrate(threads: usize, folder: &Path, tries: usize) -> Result<Machine> {
    over(&SHAPES, threads, folder, tries)
}

fn over(shapes: &[(Dims, Shape)], threads: usize, folder: &Path, tries: usize) -> Result<Machine> {
    let mut samples = Vec::new();
    let mut config = preset("tiny").expect("it is there");
    config.tied = false;
    for &(dims, shape) in shapes {
        (config.dims, config.positions_max) = (dims, shape.t);
        for recompute in [Recompute::Full, Recompute::None] {
            samples.extend(calm(tries, || run(&config, shape, threads, recompute, Mode::Exact))?);
        }
        for mode in [Mode::Streamed, Mode::Compact] {
            let others = calm(tries, || run(&config, shape, threads, Recompute::None, mode))?;
            samples.extend(others.into_iter().filter(|sample| sample.lane == Lane::Host));
        }
    }
    let link = calm(tries, lanes::link)?;
    Ok(Machine {
        up_bytes_per_s: link.up,
        down_bytes_per_s: link.down,
        disk_bytes_per_s: calm(tries, || disk(folder))?,
        handoff_s: calm(tries, lanes::handoff)?,
        common: calm(tries, || Ok(lanes::common(threads, &link)))?,
        ..fit(&samples)?
    })
}

/// What is measured when others leave the cores alone, or leave them alone most.
fn calm<T>(tries: usize, measure: impl Fn() -> Result<T>) -> Result<T> {
    let mut calmest: Option<(f64, T)> = None;
    for _ in 0..tries.max(1) {
        let others = Others::watch();
        let measured = measure()?;
        let cores = others.cores();
        if calmest.as_ref().is_none_or(|(least, _)| cores < *least) {
            calmest = Some((cores, measured));
        }
        if cores <= OTHERS {
            break;
        }
    }
    Ok(calmest.expect("it is measured at least once").1)
}

/// Steps of a model, and what ran alone in them.
fn run(
    config: &ModelConfig,
    shape: Shape,
    threads: usize,
    recompute: Recompute,
    mode: Mode,
) -> Result<Vec<Sample>> {
    let layer = LayerPlacement { recompute, boundary: Boundary::Spilled, ..LayerPlacement::default() };
    // Streamed gradients are used at once, and their norm is not known then.
    let (clip, sweeps) = if mode == Mode::Streamed { (0.0, 1) } else { (1.0, 2) };
    let options = TrainerOptions {
        mode,
        clip,
        shape,
        micros_max: 2,
        sweeps,
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
    let plan = trainer.plan();
    let cost = Cost::new(config, &layout, &plan.policy, plan.micros_max, CpuKernels::STORAGE);
    Ok(samples(&trainer.spans()?, &cost))
}

/// What ran alone, without the first step; tasks with the same work make one sample.
fn samples(spans: &[(Operation, TaskSpan)], cost: &Cost) -> Vec<Sample> {
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

/// The median of the same work.
fn typical(mut alike: Vec<Sample>) -> Sample {
    alike.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    alike[alike.len() / 2]
}

/// Bytes a second that a file takes, until they are on the disk.
fn disk(folder: &Path) -> Result<f64> {
    const BYTES: usize = 256 << 20;
    let path = folder.join(format!(".horizon-calibrate-{}", process::id()));
    let piece = vec![0x5a; 4 << 20];
    let start = Instant::now();
    let written = fs::File::create(&path).and_then(|mut file| {
        (0..BYTES / piece.len()).try_for_each(|_| file.write_all(&piece))?;
        file.sync_all()
    });
    let seconds = start.elapsed().as_secs_f64();
    // What could not be created need not be removed.
    let _ = fs::remove_file(&path);
    written.map_err(|error| Error::io(format!("cannot write {}", path.display()), &error))?;
    Ok(BYTES as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_measured() {
        let folder = tempfile::tempdir().unwrap();
        let machine = over(&SHAPES[..2], 1, folder.path(), 1).unwrap();
        machine.check().unwrap();
        assert!(machine.handoff_s > 0.0);
        assert!(machine.common.iter().all(|common| common.used.iter().sum::<f64>() > 0.0));
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "it leaves nothing behind");
    }
}
