//! Predicted beside measured, on the CPU device.

use horizon::base::{DType, Dims, Shape};
use horizon::device::{Lane, TaskSpan};
use horizon::engine::{Batch, Trainer, TrainerOptions, calibrate};
use horizon::model::{Layout, ModelConfig, Recompute, preset};
use horizon::plan::Machine;
use horizon::schedule::{AdamWhen, Boundary, GradWait, LayerPlacement, Operation, Sum, usage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// Steps of which the last four count.
const STEPS: usize = 6;
/// Others may use this machine, too: it is calibrated again after so many policies.
const FRESH: usize = 12;

fn any_case(random: &mut ChaCha8Rng, threads: usize) -> (ModelConfig, TrainerOptions) {
    let c = [128, 192, 256, 384][random.random_range(0..4)];
    let l = random.random_range(2..=6);
    let dims = Dims {
        c,
        h: c / 32,
        g: c / 64,
        d: 32,
        f: c * 11 / 4,
        v: [256, 1024, 4096][random.random_range(0..3)],
        l,
    };
    let t = [64, 128, 256][random.random_range(0..3)];
    let config = ModelConfig {
        dims,
        positions_max: t,
        tied: random.random_bool(0.5),
        ..preset("tiny").expect("it is there")
    };
    let layer = |random: &mut ChaCha8Rng| LayerPlacement {
        recompute: [Recompute::Full, Recompute::Selective, Recompute::None][random.random_range(0..3)],
        boundary: [Boundary::Kept, Boundary::Spilled][random.random_range(0..2)],
        resident: random.random_bool(0.3),
        sum: [Sum::Passing, Sum::Own][random.random_range(0..2)],
    };
    let options = TrainerOptions {
        shape: Shape { b: random.random_range(1..=2), t },
        micros_max: random.random_range(1..=3),
        weight_slots: random.random_range(2..=4),
        slabs: random.random_range(2..=4),
        sweeps: random.random_range(1..=2),
        grad_wait: [GradWait::Host, GradWait::Device][random.random_range(0..2)],
        adam_when: Some(AdamWhen::AfterNorm),
        layers: (0..l).map(|_| layer(random)).collect(),
        threads: Some(threads),
        tracing: true,
        ..TrainerOptions::default()
    };
    (config, options)
}

/// Nanoseconds from decision to decision, the median of the later ones; and what each lane was busy on the average.
fn measure(config: &ModelConfig, options: &TrainerOptions) -> (f64, [f64; Lane::COUNT]) {
    let mut trainer = Trainer::open(config, options).expect("the model fits");
    trainer.write_fresh(1).expect("every tensor can be written");
    let n = options.shape.n();
    let tokens: Vec<i32> = (0..=n).map(|at| (at * 7919 % config.dims.v) as i32).collect();
    let batch = Batch { tokens: &tokens[..n], targets: &tokens[1..], weights: None, starts: None };
    for _ in 0..STEPS {
        trainer.step(&vec![batch; options.micros_max], 1e-3).expect("a step");
    }
    let spans = trainer.spans().expect("traced");
    let decided = spans.iter().filter(|(operation, _)| matches!(operation, Operation::Decide { .. }));
    let mut decisions: Vec<u64> = decided.map(|(_, span)| span.end_ns).collect();
    decisions.sort_unstable();
    let later = &decisions[1..];
    let mut steps: Vec<f64> = later.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    steps.sort_by(f64::total_cmp);
    let only: Vec<TaskSpan> = spans.iter().map(|(_, span)| *span).collect();
    let busy =
        usage(&only, later[0], later[later.len() - 1]).map(|usage| usage.busy_ns as f64 / steps.len() as f64);
    (steps[steps.len() / 2], busy)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Calibrates, runs policies, compares.
pub fn accuracy(policies: usize, threads: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let (mut steps, mut lanes) = (vec![], [const { Vec::new() }; Lane::COUNT]);
    let mut machine: Option<Machine> = None;
    for number in 0..policies {
        if number % FRESH == 0 {
            machine = None;
        }
        let machine = machine
            .get_or_insert_with(|| calibrate::calibrate(threads).expect("this machine can be measured"));
        let (config, options) = any_case(&mut random, threads);
        let (step_ns, busy) = measure(&config, &options);
        let plan = Trainer::plan_for(&config, &options).expect("a plan");
        let layout = Layout::new(&config);
        let predicted = plan
            .predict(&config, &layout, DType::F32, machine, options.micros_max)
            .expect("the policy is valid");
        let percent = |simulated: f64, measured: f64| 100.0 * (simulated / measured - 1.0);
        let off = percent(predicted.step_ns as f64, step_ns);
        let mut line = json!({
            "policy": number, "c": config.dims.c, "l": config.dims.l, "t": options.shape.t, "b": options.shape.b,
            "micros": options.micros_max, "predicted_ms": predicted.step_ns as f64 / 1e6, "measured_ms": step_ns / 1e6,
            "percent": off,
        });
        for lane in [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host] {
            let off = percent(predicted.lanes[lane.at()].busy_ns as f64, busy[lane.at()]);
            line[format!("{lane}_percent")] = off.into();
            lanes[lane.at()].push(off.abs());
        }
        println!("{line}");
        steps.push(off.abs());
    }
    let worst = steps.iter().copied().fold(0.0, f64::max);
    let mut line = json!({
        "bench": "accuracy", "policies": policies, "threads": threads,
        "median_percent": median(steps), "worst_percent": worst,
    });
    for lane in [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host] {
        line[format!("{lane}_median_percent")] = median(std::mem::take(&mut lanes[lane.at()])).into();
    }
    println!("{line}");
}
