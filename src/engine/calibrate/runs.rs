//! The models that calibration trains, and the samples taken from them.

use std::collections::BTreeMap;
use std::fmt;

use super::fit::amounts;
use super::{Sample, Sharing};
use crate::base::{DType, Dims, Result, Shape};
use crate::device::{Lane, TaskSpan};
use crate::engine::trainer::plan_of;
use crate::engine::{Backend, Batch, DeviceChoice, Trainer, TrainerOptions};
use crate::model::{Layout, ModelConfig, Recompute, preset};
use crate::plan::{Cost, Machine, Plan, Work};
use crate::schedule::{self, Boundary, LayerPlacement, Mode, Operation};

/// A model that calibration trains for a few steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The sizes of the model.
    pub dims: Dims,
    /// The shape of a micro-batch.
    pub shape: Shape,
    /// Recomputation of the layers, cyclically.
    pub recompute: Vec<Recompute>,
    /// The host-RAM format. In modes other than exact only AdamW is measured.
    pub mode: Mode,
}

/// Shapes that together cover every rate: GEMMs of each class with few and many rows, attention
/// over short and long sequences, units that fit the caches and units that do not.
const ON_CPU: [(Dims, Shape); 7] = [
    (Dims { c: 192, h: 6, g: 3, d: 32, f: 528, v: 512, l: 4 }, Shape { b: 1, t: 64 }),
    (Dims { c: 128, h: 4, g: 2, d: 32, f: 352, v: 2048, l: 4 }, Shape { b: 1, t: 128 }),
    (Dims { c: 64, h: 2, g: 1, d: 32, f: 176, v: 256, l: 3 }, Shape { b: 2, t: 512 }),
    (Dims { c: 320, h: 10, g: 5, d: 32, f: 880, v: 3072, l: 3 }, Shape { b: 1, t: 96 }),
    (Dims { c: 256, h: 8, g: 4, d: 32, f: 688, v: 1024, l: 3 }, Shape { b: 2, t: 256 }),
    (Dims { c: 448, h: 7, g: 7, d: 64, f: 1216, v: 512, l: 2 }, Shape { b: 1, t: 192 }),
    (Dims { c: 640, h: 10, g: 5, d: 64, f: 1728, v: 1024, l: 2 }, Shape { b: 1, t: 640 }),
];

/// Shapes of real models, with enough layers to be streamed: few rows for narrow GEMMs and kernels
/// hardly longer than a launch; head sizes 64 and 128; a large vocabulary with narrow layers, small
/// ones with wide layers. The largest takes about 9 GiB of host memory.
const ON_CUDA: [(Dims, Shape); 8] = [
    (Dims { c: 1024, h: 16, g: 8, d: 64, f: 3072, v: 4096, l: 2 }, Shape { b: 1, t: 64 }),
    (Dims { c: 2048, h: 16, g: 8, d: 128, f: 6144, v: 8192, l: 2 }, Shape { b: 1, t: 128 }),
    (Dims { c: 1536, h: 12, g: 2, d: 128, f: 8960, v: 8192, l: 2 }, Shape { b: 1, t: 384 }),
    (Dims { c: 3072, h: 24, g: 8, d: 128, f: 8192, v: 4096, l: 2 }, Shape { b: 2, t: 256 }),
    (Dims { c: 1024, h: 16, g: 8, d: 64, f: 3072, v: 32768, l: 2 }, Shape { b: 16, t: 512 }),
    (Dims { c: 2048, h: 32, g: 8, d: 64, f: 8192, v: 16384, l: 2 }, Shape { b: 1, t: 8192 }),
    (Dims { c: 4096, h: 32, g: 8, d: 128, f: 14336, v: 4096, l: 2 }, Shape { b: 1, t: 4096 }),
    (Dims { c: 5120, h: 40, g: 8, d: 128, f: 13824, v: 4096, l: 2 }, Shape { b: 4, t: 1024 }),
];
/// The index of the model that measures AdamW in the other modes: larger than every cache, yet
/// quick to fill.
const ADAM_ON_CUDA: usize = 3;

/// The models that a [resolved](DeviceChoice::resolve) device is measured with.
pub fn runs(device: DeviceChoice) -> Vec<Run> {
    let run = |(dims, shape): (Dims, Shape), recompute: &[Recompute], mode| Run {
        dims,
        shape,
        recompute: recompute.to_vec(),
        mode,
    };
    let (full, none) = (Recompute::Full, Recompute::None);
    let others = [Mode::Streamed, Mode::Compact];
    match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            let all = ON_CPU.into_iter().flat_map(|of| {
                let exact = [full, none].map(|recompute| run(of, &[recompute], Mode::Exact));
                exact.into_iter().chain(others.map(|mode| run(of, &[none], mode)))
            });
            all.collect()
        }
        // Filling these models takes longer than training them, so each is filled once: its layers
        // alternate between full and no recomputation.
        DeviceChoice::Cuda(_) => {
            let exact = ON_CUDA.map(|of| run(of, &[full, none], Mode::Exact));
            let others = others.map(|mode| run(ON_CUDA[ADAM_ON_CUDA], &[none], mode));
            exact.into_iter().chain(others).collect()
        }
    }
}

/// Steps per run. The first step touches memory for the first time and gives no samples.
const STEPS: usize = 4;
/// Micro-batches of a step.
const MICROS: usize = 2;
/// A task is a sample if contending tasks overlap it for at most this share of its time.
const ALONE: f64 = 0.1;

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Dims { c, f: width, l, .. }, Shape { b, t }) = (self.dims, self.shape);
        write!(f, "{l} layers of {c} and {width} over {b} × {t} tokens, {}", self.mode.name())
    }
}

impl Run {
    /// The model.
    pub fn config(&self) -> ModelConfig {
        let tiny = preset("tiny").expect("it is there");
        ModelConfig { dims: self.dims, positions_max: self.shape.t, tied: false, ..tiny }
    }

    fn options(&self, threads: usize) -> TrainerOptions {
        let layers = (0..self.dims.l).map(|layer| LayerPlacement {
            recompute: self.recompute[layer % self.recompute.len()],
            boundary: Boundary::Spilled,
            ..LayerPlacement::default()
        });
        // In mode streamed AdamW runs under backward, before the norm is known, so nothing is
        // clipped.
        let (clip, sweeps) = if self.mode == Mode::Streamed { (0.0, 1) } else { (1.0, 2) };
        TrainerOptions {
            mode: self.mode,
            clip,
            shape: self.shape,
            micros_max: MICROS,
            sweeps,
            layers: layers.collect(),
            threads: Some(threads),
            tracing: true,
            ..TrainerOptions::default()
        }
    }

    /// The memory plan of the run.
    pub(super) fn plan(&self, threads: usize, activation_dtype: DType) -> Result<Plan> {
        plan_of(&self.config(), &self.options(threads), activation_dtype)
    }

    /// The work of the measured operations of a step.
    pub(super) fn works(&self, threads: usize, activation_dtype: DType) -> Result<Vec<Work>> {
        let (config, plan) = (self.config(), self.plan(threads, activation_dtype)?);
        let layout = Layout::new(&config);
        let cost = plan.cost(&layout, MICROS);
        let list = schedule::train(&plan.policy, &plan.geometry, MICROS)?;
        let counted = |lane| self.mode == Mode::Exact || lane == Lane::Host;
        let operations = list.operations.iter().filter(|operation| counted(operation.lane()));
        Ok(operations.map(|operation| cost.work(operation)).collect())
    }

    /// The expected seconds on a machine: memory is allocated and filled, then the steps run.
    pub(super) fn seconds(&self, plan: &Plan, machine: &Machine) -> Result<f64> {
        const FILLED_BYTES_PER_S: f64 = 1e9;
        let config = self.config();
        let step = plan.predict(&Layout::new(&config), machine, MICROS)?.step_ns;
        Ok(STEPS as f64 * step as f64 * 1e-9 + plan.host.bytes() as f64 / FILLED_BYTES_PER_S)
    }

    /// Trains the steps and returns the samples.
    pub(super) fn samples(&self, backend: Backend, threads: usize, sharing: Sharing) -> Result<Vec<Sample>> {
        let (config, options) = (self.config(), self.options(threads));
        let mut trainer = Trainer::open_with(backend, &config, &options)?;
        trainer.write_fresh(1)?;
        let (n, v) = (self.shape.n(), self.dims.v);
        let tokens: Vec<i32> = (0..=n).map(|at| (at * 7919 % v) as i32).collect();
        let batch = Batch::new(&tokens[..n], &tokens[1..]);
        for _ in 0..STEPS {
            trainer.step(&[batch; MICROS], 1e-4)?;
            // Lets AdamW run alone.
            trainer.sync()?;
        }
        let layout = Layout::new(&config);
        let spans = trainer.spans()?;
        let plan = trainer.plan();
        let mut samples = alone(&spans, &plan.cost(&layout, plan.micros_max), sharing);
        samples.retain(|sample| self.mode == Mode::Exact || sample.lane == Lane::Host);
        Ok(samples)
    }
}

/// The tasks that ran alone, without the first step. Tasks with equal work make one sample.
fn alone(spans: &[(Operation, TaskSpan)], cost: &Cost, sharing: Sharing) -> Vec<Sample> {
    let decided = spans.iter().filter(|(operation, _)| matches!(operation, Operation::ClipDecision { .. }));
    let first = decided.map(|(_, span)| span.end_ns).min().unwrap_or(0);
    let contended_ns = |one: &TaskSpan| -> u64 {
        let others = spans.iter().filter(|(_, other)| sharing.slows(other.lane, one.lane));
        others
            .map(|(_, other)| other.end_ns.min(one.end_ns).saturating_sub(other.start_ns.max(one.start_ns)))
            .sum()
    };
    let mut alike: BTreeMap<(usize, Vec<u64>), Vec<Sample>> = BTreeMap::new();
    for (operation, span) in spans.iter().filter(|(_, span)| span.start_ns > first) {
        let ns = span.end_ns.saturating_sub(span.start_ns);
        if ns > 0 && contended_ns(span) as f64 <= ALONE * ns as f64 {
            let sample = Sample { lane: span.lane, work: cost.work(operation), seconds: ns as f64 * 1e-9 };
            let amounts = amounts(&sample.work).map(f64::to_bits).to_vec();
            alike.entry((span.lane.at(), amounts)).or_default().push(sample);
        }
    }
    alike.into_values().map(median).collect()
}

/// The sample of median time.
fn median(mut alike: Vec<Sample>) -> Sample {
    alike.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    alike[alike.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::calibrate::fit::uncovered;
    use crate::ops::cuda::workspace;

    #[test]
    fn runs_cover_every_kind_of_work_on_every_device() {
        for device in [DeviceChoice::Cpu, DeviceChoice::Cuda(0)] {
            let works = |run: &Run| run.works(2, device.activation_dtype()).unwrap();
            let works: Vec<Work> = runs(device).iter().flat_map(works).collect();
            assert_eq!(uncovered(works.iter()), None, "{device}");
            let exact = works.iter().filter(|work| work.host_bytes[1] == 0.0);
            assert_eq!(uncovered(exact), Some("AdamW of mode streamed"), "{device}");
        }
        for run in runs(DeviceChoice::Cuda(0)) {
            workspace::supports(&run.dims, run.dims.d, None, run.shape).unwrap();
            let plan = run.plan(2, DType::Bf16).unwrap();
            assert!(plan.host.bytes() < 12 << 30, "{run:?} takes {}", plan.host.bytes());
            assert!(plan.device.bytes() < 16 << 30, "{run:?} takes {}", plan.device.bytes());
        }
    }
}
