//! Predicted steps compared with measured ones, on any device.

use std::env;

use horizon::base::{Dims, Shape};
use horizon::device::{Lane, TaskSpan};
use horizon::engine::calibrate::{CalibrateOptions, calibrate, measured_device};
use horizon::engine::{Batch, DeviceChoice, Trainer, TrainerOptions};
use horizon::host::Others;
use horizon::model::{Layout, ModelConfig, Recompute, preset};
use horizon::plan::Machine;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Operation, usage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use support::bench::median;

/// Steps of a run; the last four count.
const STEPS: usize = 6;
/// Cores that other processes may use during a run, and the most runs of a policy.
const OTHERS: f64 = 0.15;
const TRIES: usize = 4;

/// The sizes that random models and steps are drawn from.
struct Sizes {
    /// Hidden sizes.
    c: &'static [usize],
    d: usize,
    v: &'static [usize],
    l: (usize, usize),
    t: &'static [usize],
    b: (usize, usize),
}

const ON_CPU: Sizes = Sizes {
    c: &[128, 192, 256, 384],
    d: 32,
    v: &[256, 1024, 4096],
    l: (2, 6),
    t: &[64, 128, 256],
    b: (1, 2),
};
/// Matmul shapes as in real models; the largest model takes about 8 GiB of host memory.
const ON_CUDA: Sizes = Sizes {
    c: &[1024, 1536, 2048, 3072],
    d: 128,
    v: &[4096, 16384, 32768],
    l: (2, 3),
    t: &[512, 1024, 2048],
    b: (1, 4),
};

fn any_case(
    random: &mut ChaCha8Rng,
    device: DeviceChoice,
    threads: Option<usize>,
) -> (ModelConfig, TrainerOptions) {
    let sizes = if device == DeviceChoice::Cpu { ON_CPU } else { ON_CUDA };
    let one = |random: &mut ChaCha8Rng, of: &[usize]| of[random.random_range(0..of.len())];
    let c = one(random, sizes.c);
    let l = random.random_range(sizes.l.0..=sizes.l.1);
    let (h, d) = (c / sizes.d, sizes.d);
    let dims = Dims { c, h, g: h / 2, d, f: c * 11 / 4, v: one(random, sizes.v), l };
    let t = one(random, sizes.t);
    let config = ModelConfig {
        dims,
        positions_max: t,
        tied: random.random_bool(0.5),
        ..preset("tiny").expect("it is there")
    };
    let layer = |random: &mut ChaCha8Rng| LayerPlacement {
        recompute: Recompute::ALL[random.random_range(0..5)],
        boundary: [Boundary::Kept, Boundary::Spilled][random.random_range(0..2)],
        resident: random.random_bool(0.3),
        accumulator: [Accumulator::Spilled, Accumulator::OnDevice][random.random_range(0..2)],
    };
    let options = TrainerOptions {
        device,
        shape: Shape { b: random.random_range(sizes.b.0..=sizes.b.1), t },
        micros_max: random.random_range(1..=3),
        weight_slots: random.random_range(2..=4),
        slabs: random.random_range(2..=4),
        sweeps: random.random_range(1..=2),
        grad_wait: [GradWait::Host, GradWait::Device][random.random_range(0..2)],
        adam_when: Some(AdamWhen::AfterNorm),
        layers: (0..l).map(|_| layer(random)).collect(),
        threads,
        tracing: true,
        ..TrainerOptions::default()
    };
    (config, options)
}

/// A predicted or measured step in nanoseconds: from clip decision to clip decision, and the busy
/// time of each lane.
#[derive(Clone, Copy)]
struct Step {
    step: f64,
    busy: [f64; Lane::COUNT],
}

/// Runs a policy: the median of the later steps, and the mean busy time of each lane in them.
fn measure(config: &ModelConfig, options: &TrainerOptions) -> Step {
    let mut trainer = Trainer::open(config, options).expect("the model fits");
    trainer.write_fresh(1).expect("every tensor can be written");
    let n = options.shape.n();
    let tokens: Vec<i32> = (0..=n).map(|at| (at * 7919 % config.dims.v) as i32).collect();
    let batch = Batch::new(&tokens[..n], &tokens[1..]);
    for _ in 0..STEPS {
        trainer.step(&vec![batch; options.micros_max], 1e-3).expect("a step");
    }
    let spans = trainer.spans().expect("traced");
    let decided = spans.iter().filter(|(operation, _)| matches!(operation, Operation::ClipDecision { .. }));
    let mut decisions: Vec<u64> = decided.map(|(_, span)| span.end_ns).collect();
    decisions.sort_unstable();
    let later = &decisions[1..];
    let steps: Vec<f64> = later.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    let only: Vec<TaskSpan> = spans.iter().map(|(_, span)| *span).collect();
    let busy = usage(&only, later[0], later[later.len() - 1]);
    Step { busy: busy.map(|usage| usage.busy_ns as f64 / steps.len() as f64), step: median(steps) }
}

/// Repeats [`measure`] until other processes leave the machine alone. Returns the run with the
/// least disturbance, and the cores that other processes used during it.
fn measure_calm(config: &ModelConfig, options: &TrainerOptions) -> (Step, f64) {
    let tries = (0..TRIES).map(|_| {
        let others = Others::watch();
        let measured = measure(config, options);
        (measured, others.cores())
    });
    let mut least: Option<(Step, f64)> = None;
    for (measured, cores) in tries {
        if least.is_none_or(|(_, least)| cores < least) {
            least = Some((measured, cores));
        }
        if cores <= OTHERS {
            break;
        }
    }
    least.expect("it is tried")
}

fn predict(config: &ModelConfig, options: &TrainerOptions, machine: &Machine) -> Step {
    let plan = Trainer::plan_for(config, options).expect("a plan");
    let predicted =
        plan.predict(&Layout::new(config), machine, options.micros_max).expect("the policy is valid");
    Step { step: predicted.step_ns as f64, busy: predicted.lanes.map(|usage| usage.busy_ns as f64) }
}

fn typical(rounds: &[Step]) -> Step {
    Step {
        step: median(rounds.iter().map(|round| round.step)),
        busy: Lane::ALL.map(|lane| median(rounds.iter().map(|round| round.busy[lane.at()]))),
    }
}

/// Calibrates, predicts and runs all policies in every round, and compares medians over the rounds.
pub fn accuracy(device: DeviceChoice, policies: usize, threads: Option<usize>, rounds: usize) {
    let device = measured_device(device).expect("a device");
    let asked = CalibrateOptions { device, threads, folder: env::temp_dir(), tries: TRIES };
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let cases: Vec<_> = (0..policies).map(|_| any_case(&mut random, device, threads)).collect();
    let (mut predicted, mut measured) = (vec![Vec::new(); policies], vec![Vec::new(); policies]);
    let mut disturbed = 0;
    for _ in 0..rounds {
        let machine = calibrate(&asked, &|_| {}).expect("this machine can be measured").machine;
        eprintln!("{machine:?}");
        for (at, (config, options)) in cases.iter().enumerate() {
            predicted[at].push(predict(config, options, &machine));
            let (step, cores) = measure_calm(config, options);
            measured[at].push(step);
            disturbed += usize::from(cores > OTHERS);
        }
    }
    let off = |predicted: f64, measured: f64| 100.0 * (predicted / measured - 1.0);
    let lanes = [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host];
    let (mut steps, mut busy) = (vec![], [const { Vec::new() }; Lane::COUNT]);
    for (at, (config, options)) in cases.iter().enumerate() {
        let (simulated, real) = (typical(&predicted[at]), typical(&measured[at]));
        let spread =
            measured[at].iter().map(|round| (round.step / real.step - 1.0).abs()).fold(0.0, f64::max);
        let mut line = json!({
            "policy": at, "c": config.dims.c, "l": config.dims.l, "t": options.shape.t, "b": options.shape.b,
            "micros": options.micros_max, "predicted_ms": simulated.step / 1e6, "measured_ms": real.step / 1e6,
            "percent": off(simulated.step, real.step), "spread_percent": 100.0 * spread,
        });
        for lane in lanes {
            let off = off(simulated.busy[lane.at()], real.busy[lane.at()]);
            line[format!("{lane}_percent")] = off.into();
            busy[lane.at()].push(off.abs());
        }
        println!("{line}");
        steps.push(off(simulated.step, real.step).abs());
    }
    let worst = |percents: &[f64]| percents.iter().copied().fold(0.0, f64::max);
    let mut line = json!({
        "bench": "accuracy", "device": device.to_string(), "policies": policies, "threads": threads, "rounds": rounds, "disturbed": disturbed,
        "median_percent": median(steps.iter().copied()), "worst_percent": worst(&steps),
    });
    for lane in lanes {
        line[format!("{lane}_median_percent")] = median(busy[lane.at()].iter().copied()).into();
        line[format!("{lane}_worst_percent")] = worst(&busy[lane.at()]).into();
    }
    println!("{line}");
}
