//! The cost of making a schedule, and the accuracy of its simulation.
//!
//! ```text
//! cargo bench --bench schedule -- [--rounds 9] [--policies 30] [--threads 1]
//! ```
//!
//! One line of JSON per figure:
//! - `make`: milliseconds to build, synchronise and check a step of a 126-layer model with 32
//!   micro-batches, medians of the rounds; with the default placement, and with all options of a
//!   placement;
//! - `issue`: for built-in shapes, the time that the calling thread spends on inferring and proving
//!   waits and on issuing tasks to the lanes, in percent of the step;
//! - `simulate`: for random policies on the CPU device, the median difference between simulated and
//!   measured time, in percent: of a step, and of the busy time of each lane. The machine is
//!   calibrated before, on other policies, and again after some, because its speed may change.

use std::collections::BTreeMap;
use std::time::Instant;

use horizon::base::{DType, Dims, Shape};
use horizon::device::{Lane, TaskSpan};
use horizon::engine::calibrate::{Sample, fit};
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::{Layout, ModelConfig, preset};
use horizon::plan::{Cost, Machine};
use horizon::schedule::{
    Accumulator, AdamWhen, Boundary, Checker, Geometry, GradWait, LayerPlacement, Mode, Numeric, Operation,
    Placement, Policy, Recompute, Sync, train, usage,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use support::bench::{median, number};

fn main() {
    make(number("--rounds").unwrap_or(9));
    issue();
    simulate(number("--policies").unwrap_or(30), number("--threads").unwrap_or(1));
}

fn make(rounds: usize) {
    let geometry = Geometry { layers: 126, tied: false, embedding_chunks: 3, head_chunks: 3 };
    let everything = LayerPlacement {
        recompute: Recompute::Selective,
        boundary: Boundary::Spilled,
        ..LayerPlacement::default()
    };
    let placements = [
        ("plain", Placement::default()),
        ("everything", Placement { sweeps: 4, layers: vec![everything; 126], ..Placement::default() }),
    ];
    for (name, placement) in placements {
        let numeric = Numeric { shape: Shape { b: 1, t: 8 }, logits_chunk: 8, grad_dtype: DType::Bf16 };
        let policy = Policy { mode: Mode::Exact, numeric, placement };
        let (mut sync, mut checker) = (Sync::new(&geometry), Checker::new(&policy, &geometry));
        let (mut built, mut inferred, mut checked, mut operations) = (vec![], vec![], vec![], 0);
        for _ in 0..rounds {
            let start = Instant::now();
            let lap = || start.elapsed().as_secs_f64() * 1e3;
            let list = train(&policy, &geometry, 32).expect("a list");
            let from = lap();
            built.push(from);
            let synced = sync.infer(&list);
            let to = lap();
            inferred.push(to - from);
            checker.check(&list, &synced).expect("no fault");
            checked.push(lap() - to);
            operations = list.operations.len();
        }
        println!(
            "{}",
            json!({
                "bench": "make", "placement": name, "operations": operations,
                "build_ms": median(built), "sync_ms": median(inferred), "check_ms": median(checked),
            })
        );
    }
}

fn issue() {
    for name in ["tiny", "small"] {
        let config = preset(name).expect("it is built in");
        let options = TrainerOptions { shape: Shape { b: 8, t: 128 }, micros_max: 2, ..Default::default() };
        let mut trainer = Trainer::open(&config, &options).expect("the model fits");
        trainer.write_fresh(1).expect("every tensor can be written");
        let n = options.shape.n();
        let tokens: Vec<i32> = (0..=n as i32).map(|i| (i * 7919) % 256).collect();
        let batch = Batch::new(&tokens[..n], &tokens[1..]);
        trainer.step(&[batch; 2], 1e-3).expect("a step");
        let (start, before) = (Instant::now(), trainer.stats().issue_seconds);
        for _ in 0..3 {
            trainer.step(&[batch; 2], 1e-3).expect("a step");
        }
        let step_ms = start.elapsed().as_secs_f64() * 1e3 / 3.0;
        let issue_ms = (trainer.stats().issue_seconds - before) * 1e3 / 3.0;
        let percent = 100.0 * issue_ms / step_ms;
        println!(
            "{}",
            json!({
                "bench": "issue", "shape": name, "step_ms": step_ms, "issue_ms": issue_ms, "percent": percent,
            })
        );
    }
}

fn config() -> ModelConfig {
    let dims = Dims { c: 128, h: 4, g: 2, d: 32, f: 352, v: 512, l: 6 };
    ModelConfig { positions_max: 128, ..ModelConfig::llama(dims) }
}

fn any_options(random: &mut ChaCha8Rng, plain: &TrainerOptions) -> TrainerOptions {
    let layer = |random: &mut ChaCha8Rng| LayerPlacement {
        recompute: Recompute::ALL[random.random_range(0..5)],
        boundary: [Boundary::Kept, Boundary::Spilled][random.random_range(0..2)],
        resident: random.random_bool(0.3),
        accumulator: [Accumulator::Spilled, Accumulator::OnDevice][random.random_range(0..2)],
    };
    TrainerOptions {
        weight_slots: random.random_range(2..=4),
        slabs: random.random_range(2..=4),
        sweeps: random.random_range(1..=3),
        grad_wait: [GradWait::Host, GradWait::Device][random.random_range(0..2)],
        adam_when: Some(AdamWhen::AfterNorm),
        layers: (0..6).map(|_| layer(random)).collect(),
        ..plain.clone()
    }
}

/// Runs some steps and returns the trace of all lanes.
fn measure(options: &TrainerOptions) -> Vec<(Operation, TaskSpan)> {
    let config = config();
    let mut trainer = Trainer::open(&config, options).expect("the model fits");
    trainer.write_fresh(1).expect("weights are written");
    // All tokens of a step are different.
    let n = options.shape.n();
    let tokens: Vec<i32> = (0..=3 * n as i32).map(|i| (i * 7919) % 512).collect();
    let batches = [0, n, 2 * n].map(|at| Batch::new(&tokens[at..at + n], &tokens[at + 1..at + n + 1]));
    for _ in 0..8 {
        trainer.step(&batches, 1e-3).expect("a step");
    }
    trainer.spans().expect("traced")
}

/// For the last steps: nanoseconds between clip decisions, and the busy time of each lane in
/// between.
fn last_steps(spans: &[(Operation, TaskSpan)]) -> (f64, [f64; Lane::COUNT]) {
    let decided = |(operation, span): &(Operation, TaskSpan)| {
        matches!(operation, Operation::ClipDecision { .. }).then_some(span.end_ns)
    };
    let mut decisions: Vec<u64> = spans.iter().filter_map(decided).collect();
    decisions.sort_unstable();
    let (from, to) = (decisions[1], decisions[decisions.len() - 1]);
    let steps = (decisions.len() - 2) as f64;
    let only: Vec<TaskSpan> = spans.iter().map(|(_, span)| *span).collect();
    let busy = usage(&only, from, to).map(|usage| usage.busy_ns as f64 / steps);
    ((to - from) as f64 / steps, busy)
}

/// Fits the machine to the times of other policies. Uses the mean of tasks with the same work,
/// measured among other tasks, so that a lane's times include the sharing of cores and memory.
fn machine(spans: &[(Operation, TaskSpan)], cost: &Cost) -> Machine {
    let mut same_work: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for (operation, span) in spans.iter().filter(|(_, span)| span.end_ns > span.start_ns) {
        let (lane, work) = (span.lane, cost.work(operation));
        let seconds = (span.end_ns - span.start_ns) as f64 * 1e-9;
        same_work.entry(format!("{lane} {work:?}")).or_default().push(Sample { lane, work, seconds });
    }
    let mean = |samples: Vec<Sample>| {
        let seconds = samples.iter().map(|sample| sample.seconds).sum::<f64>() / samples.len() as f64;
        Sample { seconds, ..samples[0] }
    };
    fit(&same_work.into_values().map(mean).collect::<Vec<_>>()).expect("samples of every lane")
}

/// Number of policies between calibrations.
const FRESH: usize = 10;
/// Number of policies per calibration.
const OTHERS: usize = 8;

fn simulate(policies: usize, threads: usize) {
    let (config, mut random) = (config(), ChaCha8Rng::seed_from_u64(3));
    let layout = Layout::new(&config);
    let plain = TrainerOptions {
        shape: Shape { b: 1, t: 128 },
        micros_max: 3,
        threads: Some(threads),
        tracing: true,
        ..TrainerOptions::default()
    };
    let plan = Trainer::plan_for(&config, &plain).expect("a plan");
    let cost = plan.cost(&layout, plan.micros_max);
    let (mut steps, mut lanes) = (vec![], [const { Vec::new() }; Lane::COUNT]);
    let (mut others, mut calibrated) = (ChaCha8Rng::seed_from_u64(4), None);
    for policy in 0..policies {
        if policy % FRESH == 0 {
            calibrated = None;
        }
        let machine = calibrated.get_or_insert_with(|| {
            let spans: Vec<_> =
                (0..OTHERS).flat_map(|_| measure(&any_options(&mut others, &plain))).collect();
            machine(&spans, &cost)
        });
        let options = any_options(&mut random, &plain);
        let (step_ns, busy) = last_steps(&measure(&options));
        let plan = Trainer::plan_for(&config, &options).expect("a plan");
        let predicted = plan.predict(&layout, machine, 3).expect("the policy is valid");
        let percent = |simulated: f64, measured: f64| 100.0 * (simulated / measured - 1.0).abs();
        steps.push(percent(predicted.step_ns as f64, step_ns));
        for lane in Lane::ALL {
            lanes[lane.at()].push(percent(predicted.lanes[lane.at()].busy_ns as f64, busy[lane.at()]));
        }
    }
    let mut line = json!({
        "bench": "simulate", "policies": policies, "threads": threads, "step_percent": median(steps),
    });
    // These runs save no checkpoints, so the disk lane is idle.
    for (lane, percents) in Lane::ALL.iter().zip(lanes).filter(|(lane, _)| **lane != Lane::Disk) {
        line[format!("{lane}_percent")] = median(percents).into();
    }
    println!("{line}");
}
