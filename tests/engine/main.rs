//! Engine tests: bit equality under all placements, saves, resumes, errors. All on the CPU device
//! or fake CUDA.

use std::sync::Arc;

use horizon::base::{DType, Dims, Shape, Status};
use horizon::device::Lane;
use horizon::device::cpu::CpuDevice;
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::{Layout, ModelConfig};
use horizon::plan::Machine;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};
use support::runs::{Data, Manner, data, fill, outcome, train, weights};

mod admits;
mod announce;
mod calibrates;
mod cancels;
mod cuda;
mod failed;
mod finite;
mod fresh;
mod losses;
mod modes;
mod norms;
mod orders;
mod peaks;
mod placements;
mod recorded;
mod refusals;
mod resumes;
mod saves;
mod short;
mod tuning;

const MICROS: usize = 3;

fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        tied,
        positions_max: 64,
        ..ModelConfig::llama(Dims { c: 24, h: 4, g: 2, d: 6, f: 40, v: 67, l: 5 })
    }
}

fn options() -> TrainerOptions {
    TrainerOptions {
        shape: Shape { b: 2, t: 21 },
        micros_max: MICROS,
        logits_chunk: Some(16),
        threads: Some(2),
        clip: 0.5,
        ..TrainerOptions::default()
    }
}

#[test]
fn placement_never_changes_a_bit() {
    for tied in [false, true] {
        for clip in [0.5, 0.0] {
            let config = config(tied);
            let plain = TrainerOptions { clip, ..options() };
            let want = outcome(&config, &plain, Manner::Plain);
            let vary = |what: &str, vary: &dyn Fn(&mut TrainerOptions), manner: Manner| {
                let mut options = plain.clone();
                vary(&mut options);
                assert!(
                    outcome(&config, &options, manner) == want,
                    "{what} changed a bit (tied {tied}, clip {clip})"
                );
            };
            vary("running again", &|_| (), Manner::Plain);
            vary("1 thread", &|o| o.threads = Some(1), Manner::Plain);
            vary("4 threads", &|o| o.threads = Some(4), Manner::Plain);
            vary("3 slots", &|o| o.weight_slots = 3, Manner::Plain);
            vary("as many slots as layers", &|o| o.weight_slots = 5, Manner::Plain);
            vary("3 slabs", &|o| o.slabs = 3, Manner::Plain);
            let layer = |recompute| LayerPlacement { recompute, ..LayerPlacement::default() };
            let (selective, none) = (layer(Recompute::Selective), layer(Recompute::None));
            vary("selective recompute", &|o| o.layers = vec![selective; 5], Manner::Plain);
            vary("no recompute", &|o| o.layers = vec![none; 5], Manner::Plain);
            vary(
                "all three",
                &|o| o.layers = vec![none, selective, layer(Recompute::Full), none],
                Manner::Evaluating,
            );
            let spilled = LayerPlacement { boundary: Boundary::Spilled, ..LayerPlacement::default() };
            let both = LayerPlacement { boundary: Boundary::Spilled, ..selective };
            vary("spilled boundaries", &|o| o.layers = vec![spilled; 5], Manner::Evaluating);
            vary("some spilled", &|o| o.layers = vec![spilled, none, both, both], Manner::Plain);
            let resident = LayerPlacement { resident: true, ..LayerPlacement::default() };
            let own = LayerPlacement { accumulator: Accumulator::OnDevice, ..both };
            vary("resident layers", &|o| o.layers = vec![resident; 5], Manner::Plain);
            vary("2 sweeps", &|o| o.sweeps = 2, Manner::Evaluating);
            vary("as many sweeps as micro-batches", &|o| o.sweeps = MICROS, Manner::Accumulating);
            vary("accumulators on the device", &|o| (o.sweeps, o.layers) = (3, vec![own; 5]), Manner::Plain);
            vary(
                "everything at once",
                &|o| (o.sweeps, o.layers) = (2, vec![own, none, resident, both, spilled]),
                Manner::Evaluating,
            );
            vary("gradients waiting on the device", &|o| o.grad_wait = GradWait::Device, Manner::Plain);
            vary(
                "gradients waiting on the device, none in the store",
                &|o| (o.grad_wait, o.mode) = (GradWait::Device, Mode::Streamed),
                Manner::Plain,
            );
            vary("serial AdamW", &|_| (), Manner::Serial);
            vary("accumulate and update", &|_| (), Manner::Accumulating);
            vary("evaluating between steps", &|_| (), Manner::Evaluating);
            vary("tracing", &|o| o.tracing = true, Manner::Plain);
            vary("announced tokens", &|_| (), Manner::Announcing);
            vary(
                "announced tokens, gradients waiting on the device",
                &|o| (o.grad_wait, o.sweeps) = (GradWait::Device, 2),
                Manner::Announcing,
            );
            if clip == 0.0 {
                let under = Some(AdamWhen::UnderBackward);
                vary("AdamW under backward", &|o| o.adam_when = under, Manner::Plain);
                vary("mode streamed", &|o| o.mode = Mode::Streamed, Manner::Plain);
                vary("announced tokens, under backward", &|o| o.adam_when = under, Manner::Announcing);
                vary("announced tokens, streamed", &|o| o.mode = Mode::Streamed, Manner::Announcing);
            }
        }
    }
}

#[test]
fn adversarial_lanes_change_no_bit() {
    let seeds = if std::env::var_os("HZ_LONG").is_some() { 300 } else { 6 };
    for tied in [false, true] {
        let (config, options) = (config(tied), options());
        let want = outcome(&config, &options, Manner::Plain);
        for seed in 0..seeds {
            let device: Arc<CpuDevice> = CpuDevice::adversarial(None, seed);
            let mut trainer = Trainer::open_on(device, &config, &options).unwrap();
            assert!(train(&mut trainer, &options, Manner::Plain) == want, "seed {seed}, tied {tied}");
        }
    }
}

#[test]
fn f32_gradients_round_to_the_bf16_ones() {
    let (config, bf16) = (config(false), options());
    let f32 = TrainerOptions { grad_dtype: DType::F32, ..bf16.clone() };
    let gradient = |options: &TrainerOptions| {
        let mut trainer = Trainer::open(&config, options).unwrap();
        fill(&mut trainer);
        let data = data(options, 0, 67);
        trainer.step(&data.iter().map(Data::batch).collect::<Vec<_>>(), 1e-3).unwrap();
        let mut out = vec![0.0; 67 * 24];
        trainer.read_gradient("lm_head.weight", &mut out).unwrap();
        out
    };
    for (rounded, exact) in gradient(&bf16).into_iter().zip(gradient(&f32)) {
        let want = horizon::base::master::widen(horizon::base::master::round(exact));
        assert_eq!(rounded.to_bits(), want.to_bits());
    }
}

#[test]
fn logits_give_the_loss() {
    let (config, options) = (config(true), options());
    let mut trainer = Trainer::open(&config, &options).unwrap();
    fill(&mut trainer);
    let data = Data::random(3, options.shape, 67);
    let length = 9;
    let mut targets = vec![-100; options.shape.n()];
    targets[length - 1] = 5;
    let batch = Batch::new(&data.tokens, &targets);
    let loss = trainer.eval(&[batch]).unwrap().loss;
    let logits = trainer.logits(&data.tokens[..length]).unwrap();
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    assert!((sum.ln() - f64::from(logits[5]) - loss).abs() < 1e-5);
}

#[test]
fn device_memory_grows_with_depth_by_the_boundaries_only() {
    let plan = |l: usize, tied: bool| {
        let mut config = config(tied);
        config.dims.l = l;
        Trainer::plan_for(&config, &options()).unwrap()
    };
    for tied in [false, true] {
        let (shallow, deep) = (plan(4, tied), plan(64, tied));
        for (few, many) in shallow.device.regions().iter().zip(deep.device.regions()) {
            assert_eq!(few.name, many.name);
            match few.name {
                "boundaries" => assert_eq!(many.bytes, 16 * few.bytes),
                name => assert_eq!(many.bytes, few.bytes, "{name}"),
            }
        }
        let options = options();
        let trainer = Trainer::open(&config(tied), &options).unwrap();
        assert_eq!(trainer.stats().device_bytes, trainer.plan().device.bytes());
        let listed: usize = trainer.plan().device.regions().iter().map(|region| region.bytes).sum();
        assert_eq!(listed, trainer.plan().device.bytes());
    }
}

#[test]
fn device_memory_does_not_depend_on_depth_when_boundaries_spill() {
    let plan = |l: usize, tied: bool| {
        let mut config = config(tied);
        config.dims.l = l;
        let spilled = LayerPlacement { boundary: Boundary::Spilled, ..LayerPlacement::default() };
        Trainer::plan_for(&config, &TrainerOptions { layers: vec![spilled; l], ..options() }).unwrap()
    };
    for tied in [false, true] {
        assert_eq!(plan(4, tied).device.bytes(), plan(64, tied).device.bytes());
    }
}

#[test]
fn a_memory_limit_one_byte_short_is_refused_with_advice() {
    let (config, mut options) = (config(false), options());
    let need = Trainer::plan_for(&config, &options).unwrap().device.bytes();
    options.device_mem = Some(need);
    assert!(Trainer::open(&config, &options).is_ok());
    options.device_mem = Some(need - 1);
    let error = Trainer::open(&config, &options).err().unwrap();
    assert_eq!(error.status(), Status::OutOfDeviceMemory);
    assert!(error.message().contains(&need.to_string()), "{error}");
    assert!(error.message().contains("steps of 2 of these micro-batches would fit"), "{error}");

    options.device_mem = None;
    options.host_mem = Some(1 << 16);
    let error = Trainer::open(&config, &options).err().unwrap();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    assert!(error.message().contains("64.0 KiB"), "{error}");
}

#[test]
fn a_norm_that_is_not_finite_commits_nothing() {
    let (config, options) = (config(false), options());
    let mut trainer = Trainer::open(&config, &options).unwrap();
    fill(&mut trainer);
    let data = Data::random(1, options.shape, 67);
    trainer.step(&[data.batch()], 1e-3).unwrap();
    let name = "model.layers.2.mlp.down_proj.weight";
    let mut finite = vec![0.0; 24 * 40];
    trainer.read_tensor(name, &mut finite).unwrap();
    let mut infinite = finite.clone();
    // Rounds to an infinite bf16.
    infinite[17] = f32::MAX;
    trainer.write_tensor(name, &infinite).unwrap();
    let before = weights(&mut trainer);
    let error = trainer.step(&[data.batch()], 1e-3).unwrap_err();
    assert_eq!(error.status(), Status::NonFinite);
    assert_eq!(weights(&mut trainer), before);
    assert_eq!(trainer.stats().steps, 1);
    // The trainer is not poisoned: with a finite weight again, training continues.
    trainer.write_tensor(name, &finite).unwrap();
    assert_eq!(trainer.step(&[data.batch()], 1e-3).unwrap().step, 2);
}

#[test]
fn under_backward_the_guard_is_per_unit() {
    let config = config(false);
    let options = TrainerOptions { clip: 0.0, mode: Mode::Streamed, ..options() };
    let mut trainer = Trainer::open(&config, &options).unwrap();
    fill(&mut trainer);
    // An infinite down-projection in layer 0 makes all activations above it non-finite, so no unit
    // updates.
    let data = Data::random(1, options.shape, 67);
    let mut infinite = vec![0.01; 24 * 40];
    infinite[3] = f32::MAX;
    trainer.write_tensor("model.layers.0.mlp.down_proj.weight", &infinite).unwrap();
    let before = weights(&mut trainer);
    let error = trainer.step(&[data.batch()], 1e-3).unwrap_err();
    assert_eq!(error.status(), Status::NonFinite);
    assert_eq!(weights(&mut trainer), before);

    // Huge but finite weights of an RMSNorm in layer 1: forward stays finite, since later norms
    // scale it back, but gradients overflow in backward.
    fill(&mut trainer);
    trainer.write_tensor("model.layers.1.input_layernorm.weight", &[3e38; 24]).unwrap();
    trainer.write_tensor("model.layers.1.self_attn.v_proj.weight", &vec![3e38; 12 * 24]).unwrap();
    match trainer.step(&[data.batch()], 1e-3) {
        Err(error) => {
            assert!(matches!(error.status(), Status::StepPartial | Status::NonFinite), "unexpected {error:?}")
        }
        Ok(report) => panic!("an overflowing gradient passed: {report:?}"),
    }
}

#[test]
fn bad_batches_are_refused_by_name_and_nothing_is_staged() {
    let (config, options) = (config(false), options());
    let mut trainer = Trainer::open(&config, &options).unwrap();
    fill(&mut trainer);
    let good = Data::random(1, options.shape, 67);
    let refused = |trainer: &mut Trainer, change: &dyn Fn(&mut Data), words: &[&str]| {
        let mut bad = Data::random(1, options.shape, 67);
        change(&mut bad);
        let error = trainer.step(&[good.batch(), bad.batch()], 1e-3).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{error}");
        for word in words {
            assert!(error.message().contains(word), "`{word}` is missing in: {error}");
        }
    };
    refused(
        &mut trainer,
        &|d| d.tokens[22] = 67,
        &["batches[1].tokens[22] (sequence 1, position 1) is 67", "0 … 66"],
    );
    refused(
        &mut trainer,
        &|d| d.targets[3] = -1,
        &["batches[1].targets[3] (sequence 0, position 3) is -1", "-100"],
    );
    refused(&mut trainer, &|d| d.weights[0] = f32::NAN, &["batches[1].weights[0]", "is NaN"]);
    refused(&mut trainer, &|d| d.weights[0] = -1.0, &["batches[1].weights[0]", "is -1"]);
    refused(
        &mut trainer,
        &|d| d.starts[5] = 6,
        &["batches[1].starts[5] (sequence 0, position 5) is 6", "5 or "],
    );
    refused(
        &mut trainer,
        &|d| d.tokens.truncate(41),
        &["batches[1].targets.len() is 42; it must be batches[1].tokens.len(), 41"],
    );
    let error = trainer.update(1e-3).unwrap_err();
    assert_eq!(error.status(), Status::InvalidState, "nothing is staged");
    assert_eq!(trainer.update(f64::NAN).unwrap_err().status(), Status::InvalidArgument);

    let ignored = Batch { targets: &[-100; 42], ..good.batch() };
    assert_eq!(trainer.step(&[ignored], 1e-3).unwrap_err().status(), Status::NoTarget);
    let weightless = Batch { weights: Some(&[0.0; 42]), ..good.batch() };
    assert_eq!(trainer.step(&[weightless], 1e-3).unwrap_err().status(), Status::NoTarget);

    for _ in 0..MICROS {
        trainer.accumulate(&good.batch()).unwrap();
    }
    assert_eq!(trainer.accumulate(&good.batch()).unwrap_err().status(), Status::InvalidState);
    assert_eq!(trainer.eval(&[good.batch()]).unwrap_err().status(), Status::InvalidState);
    assert_eq!(trainer.update(1e-3).unwrap().tokens, 3 * 42);
}

#[test]
fn invalid_options_are_refused() {
    let config = config(false);
    let refused = |change: &dyn Fn(&mut TrainerOptions), word: &str| {
        let mut bad = options();
        change(&mut bad);
        let error = Trainer::open(&config, &bad).err().expect(word);
        assert_eq!(error.status(), Status::InvalidArgument, "{error}");
        assert!(error.message().contains(word), "`{word}` is missing in: {error}");
    };
    refused(&|o| o.weight_slots = 1, "weight_slots is 1");
    refused(&|o| o.slabs = 1, "slabs is 1");
    refused(&|o| o.micros_max = 0, "micros_max is 0");
    refused(&|o| o.shape.t = 65, "shape.t is 65; it must be at most max_position_embeddings, ");
    refused(&|o| o.clip = -1.0, "clip is -1");
    refused(&|o| o.mode = Mode::Streamed, "use clip = 0, ");
    refused(&|o| o.adam.beta1 = 1.0, "beta1 is 1");
}

#[test]
fn a_trace_has_every_lane() {
    let (config, options) = (config(false), TrainerOptions { tracing: true, ..options() });
    let mut trainer = Trainer::open(&config, &options).unwrap();
    train(&mut trainer, &options, Manner::Plain);
    let mut json = Vec::new();
    trainer.trace(&mut json).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let events = trace.as_array().or_else(|| trace["traceEvents"].as_array()).unwrap();
    let spans =
        |name: &str| events.iter().filter(|e| e["name"].as_str().is_some_and(|n| n.contains(name))).count();
    for name in ["upload", "forward", "backward", "download", "adam", "clip decision"] {
        assert!(spans(name) > 0, "no span of {name}");
    }
    let spans_of = |pid: u64| {
        let of = |e: &&serde_json::Value| e["pid"] == pid && e["ph"] == "X" && e["cat"] != "wait";
        events.iter().filter(of).count()
    };
    assert_eq!(spans_of(2), 0, "nothing was simulated");
    assert!(events.iter().any(|e| e["ph"] == "s") && events.iter().any(|e| e["ph"] == "f"), "arrows");
    let mut json = Vec::new();
    let machine = Machine {
        matrix_flop_per_s: [1e9; 3],
        attention_flop_per_s: [1e9; 2],
        device_bytes_per_s: 1e9,
        up_bytes_per_s: 1e9,
        down_bytes_per_s: 1e9,
        host_bytes_per_s: [1e9; 3],
        ram_bytes_per_s: 1e10,
        disk_bytes_per_s: 1e9,
        launch_s: 1e-7,
        latency_s: [1e-6; Lane::COUNT],
        handoff_s: 1e-6,
        common: vec![],
    };
    trainer.trace_beside(&machine, &mut json).unwrap();
    let both: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
    let count = |pid: u64| {
        let of = |e: &&serde_json::Value| e["pid"] == pid && e["ph"] == "X" && e["cat"] != "wait";
        both.iter().filter(of).count()
    };
    assert_eq!((count(1), count(2)), (spans_of(1), spans_of(1)), "measured and simulated, task by task");
    let untraced = Trainer::open(&config, &self::options()).unwrap().trace(&mut Vec::new()).unwrap_err();
    assert_eq!(untraced.status(), Status::InvalidState);
}

#[test]
fn tensors_are_read_and_written_by_name() {
    let config = config(true);
    let mut trainer = Trainer::open(&config, &options()).unwrap();
    let parameters: usize = Layout::new(&config).parameters();
    assert_eq!(weights(&mut trainer).len(), parameters);
    let values: Vec<f32> = (0..24).map(|i| 1.0 + i as f32 * 1e-7).collect();
    trainer.write_tensor("model.norm.weight", &values).unwrap();
    let mut back = vec![0.0; 24];
    trainer.read_tensor("model.norm.weight", &mut back).unwrap();
    assert_eq!(back, values, "not all 32 bits were kept");
    assert_eq!(trainer.read_tensor("lm_head.weight", &mut back).unwrap_err().status(), Status::NotFound);
    assert_eq!(
        trainer.write_tensor("model.norm.weight", &[0.0]).unwrap_err().status(),
        Status::InvalidArgument
    );
}
