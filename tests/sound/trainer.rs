//! Misuse of the engine: trainers, saves, slices, losses, options, calibration.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use horizon::base::{Dims, Error, Result, Shape, Status, unwatched};
use horizon::device::cpu::CpuDevice;
use horizon::device::{Device, Lane};
use horizon::engine::calibrate::{
    CalibrateOptions, Calibrated, OpenDevice, Progress, Ram, Run, Sample, calibrate_by, measured_device,
};
use horizon::engine::{
    AdamOptions, Backend, Batch, Canceller, CudaDeviceReport, CudaReport, DeviceChoice, EvalReport, Fill,
    KernelsSetting, Library, Loss, MakeKernels, Sink, SliceJob, StateJob, StateSpan, Stats, StepReport,
    TensorOptions, TensorSlice, Trainer, TrainerOptions, UnitState, autotune, device_info, devices,
};
use horizon::hf::{ExportTarget, FolderConfig, SHARD_BYTES, Weights, export};
use horizon::model::{ModelConfig, Recompute, Rope};
use horizon::plan::Plan;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode};

use crate::{panics, survives};

const SHAPE: Shape = Shape { b: 1, t: 7 };
const BATCH: Batch = Batch::new(&[3; 7], &[4; 7]);

fn config() -> ModelConfig {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 19, l: 3 };
    ModelConfig { positions_max: 16, ..ModelConfig::llama(dims) }
}

fn options() -> TrainerOptions {
    TrainerOptions { shape: SHAPE, threads: Some(2), micros_max: 2, ..TrainerOptions::default() }
}

fn opened() -> Trainer {
    let mut trainer = Trainer::open(&config(), &options()).unwrap();
    trainer.write_fresh(1).unwrap();
    trainer
}

#[test]
fn calls_in_the_wrong_order_are_refused() {
    let mut trainer = opened();
    assert_eq!(trainer.update(1e-3).unwrap_err().status(), Status::InvalidState);
    assert!(trainer.save_wait().is_err() && trainer.save_outcome().is_none());
    assert!(trainer.step(&[], 1e-3).is_err() && trainer.eval(&[]).is_err() && trainer.logprobs(&[]).is_err());
    assert!(trainer.step(&[BATCH; 3], 1e-3).is_err());
    trainer.accumulate(&BATCH).unwrap();
    assert!(trainer.logits(&[1]).is_err() && trainer.step(&[BATCH], 1e-3).is_err());
    assert!(trainer.restore(1, 1, &|_| Ok(())).is_err());
    let report: StepReport = trainer.update(1e-3).unwrap();
    assert_eq!(report.step, 1);
    let EvalReport { targets, .. } = trainer.eval(&[BATCH]).unwrap();
    assert_eq!(targets, 7);
    for lr in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(trainer.step(&[BATCH], lr).is_err());
    }
    let Stats { steps, .. } = trainer.stats();
    assert_eq!(steps, 1);
    assert!(trainer.trace(&mut Vec::new()).is_err() && trainer.spans().is_err());
}

#[test]
fn values_out_of_range_are_refused() {
    let mut trainer = opened();
    for token in [-1, 19, i32::MAX, i32::MIN] {
        let tokens = [token; 7];
        assert!(trainer.accumulate(&Batch { tokens: &tokens, ..BATCH }).is_err());
        assert!(trainer.announce(&tokens).is_err() && trainer.logits(&tokens).is_err());
        let targets = if token == -1 { [-101; 7] } else { tokens };
        assert!(trainer.accumulate(&Batch { targets: &targets, ..BATCH }).is_err());
        assert!(trainer.accumulate(&Batch { starts: Some(&tokens), ..BATCH }).is_err());
    }
    let announced: Vec<i32> = (0..19).cycle().take(10_000).collect();
    survives(|| trainer.announce(&announced));
    let mut trainer = opened();
    for batch in [
        Batch { tokens: &[], ..BATCH },
        Batch { sequence_length: Some(0), ..BATCH },
        Batch { sequence_length: Some(2), ..BATCH },
        Batch { sequence_length: Some(usize::MAX), ..BATCH },
        Batch { targets: &[1; 8], ..BATCH },
        Batch { weights: Some(&[1.0; 6]), ..BATCH },
        Batch { weights: Some(&[f32::NAN; 7]), ..BATCH },
        Batch { weights: Some(&[0.0; 7]), ..BATCH },
        Batch { targets: &[-100; 7], ..BATCH },
        Batch { starts: Some(&[0, 0, 2, 1, 4, 4, 4]), ..BATCH },
    ] {
        assert!(trainer.step(&[batch], 1e-3).is_err());
    }
    assert!(trainer.logits(&[]).is_err() && trainer.logits(&[1; 8]).is_err());
    for (name, len) in [("model.norm.weight", 7), ("model.norm.weight", 9), ("none", 8), ("", 0)] {
        assert!(trainer.read_tensor(name, &mut vec![0.0; len]).is_err());
        assert!(trainer.write_tensor(name, &vec![0.0; len]).is_err());
        assert!(trainer.read_gradient(name, &mut vec![0.0; len]).is_err());
    }
    let absurd = TensorOptions { lr_scale: f64::NAN, weight_decay: Some(-1.0), frozen: true };
    assert!(trainer.set_tensor_options("model.norm.weight", &absurd).is_err());
    assert!(trainer.write_tensor("model.norm.weight", &[f32::NAN; 8]).is_err());
    trainer.write_tensor("model.norm.weight", &[f32::MAX; 8]).unwrap();
    assert_eq!(trainer.step(&[BATCH], 1e-3).unwrap_err().status(), Status::NonFinite);
}

#[test]
fn invalid_options_are_refused() {
    const MOST: usize = usize::MAX;
    let plain = options();
    let layer =
        LayerPlacement { recompute: Recompute::None, boundary: Boundary::Spilled, ..Default::default() };
    for options in [
        TrainerOptions { shape: Shape { b: 0, t: 7 }, ..plain.clone() },
        TrainerOptions { shape: Shape { b: MOST, t: MOST }, ..plain.clone() },
        TrainerOptions { shape: Shape { b: 1, t: 17 }, ..plain.clone() },
        TrainerOptions { micros_max: 0, ..plain.clone() },
        TrainerOptions { weight_slots: 0, ..plain.clone() },
        TrainerOptions { weight_slots: MOST, ..plain.clone() },
        TrainerOptions { slabs: 0, ..plain.clone() },
        TrainerOptions { slabs: MOST, ..plain.clone() },
        TrainerOptions { sweeps: 0, ..plain.clone() },
        TrainerOptions { sweeps: MOST, ..plain.clone() },
        TrainerOptions { logits_chunk: Some(0), ..plain.clone() },
        TrainerOptions { logits_chunk: Some(MOST), ..plain.clone() },
        TrainerOptions { layers: vec![layer; 4], ..plain.clone() },
        TrainerOptions {
            layers: vec![LayerPlacement { accumulator: Accumulator::OnDevice, ..layer }],
            ..plain.clone()
        },
        TrainerOptions { mode: Mode::Streamed, grad_wait: GradWait::Host, ..plain.clone() },
        TrainerOptions { adam_when: Some(AdamWhen::UnderBackward), ..plain.clone() },
        TrainerOptions { device_mem: Some(0), ..plain.clone() },
        TrainerOptions { host_mem: Some(0), ..plain.clone() },
        TrainerOptions { threads: Some(MOST), ..plain.clone() },
        TrainerOptions { threads: Some(0), ..plain.clone() },
        TrainerOptions { clip: f64::NAN, ..plain.clone() },
        TrainerOptions { adam: AdamOptions { eps: 0.0, ..Default::default() }, ..plain.clone() },
        TrainerOptions { device: DeviceChoice::Cuda(MOST), ..plain.clone() },
        TrainerOptions { gemm_table: Some(PathBuf::from("/nowhere")), ..plain.clone() },
    ] {
        survives(|| Trainer::plan_for(&config(), &options).map(|plan: Plan| plan.to_string()));
        survives(|| Trainer::open(&config(), &options)?.step(&[BATCH], 1e-3));
        survives(|| autotune(&config(), &options, &mut |_| ()));
    }
    let dims = config().dims;
    for dims in [
        Dims { c: 0, ..dims },
        Dims { d: 0, ..dims },
        Dims { d: 3, ..dims },
        Dims { g: 0, ..dims },
        Dims { h: 3, g: 2, ..dims },
        Dims { v: 0, ..dims },
        Dims { l: 0, ..dims },
        Dims { f: MOST, ..dims },
        Dims { v: MOST, ..dims },
        Dims { l: MOST, ..dims },
        Dims { c: 1 << 40, ..dims },
    ] {
        let config = ModelConfig { dims, ..config() };
        survives(|| Trainer::open(&config, &options()).map(drop).unwrap_err());
    }
    for config in [
        ModelConfig { norm_eps: f32::NAN, ..config() },
        ModelConfig { rope: Rope { theta: 0.0, ..Rope::default() }, ..config() },
        ModelConfig { positions_max: 0, ..config() },
    ] {
        survives(|| Trainer::open(&config, &options())?.step(&[BATCH], 1e-3));
    }
}

#[test]
fn trainers_drop_while_lanes_run_and_on_any_thread() {
    for _ in 0..5 {
        let mut trainer = opened();
        trainer.accumulate(&BATCH).unwrap();
        // AdamW still runs afterwards.
        trainer.update(1e-3).unwrap();
        thread::spawn(move || drop(trainer)).join().unwrap();
    }
    let shared = Arc::new(Mutex::new(opened()));
    thread::scope(|scope| {
        for caller in 0..4 {
            let shared = &shared;
            scope.spawn(move || {
                for _ in 0..5 {
                    let mut trainer = shared.lock().unwrap();
                    match caller {
                        0 => drop(trainer.step(&[BATCH; 2], 1e-3).unwrap()),
                        1 => trainer.write_tensor("lm_head.weight", &[0.5; 19 * 8]).unwrap(),
                        2 => trainer.read_gradient("lm_head.weight", &mut [0.0; 19 * 8]).unwrap(),
                        _ => drop(trainer.logits(&[1, 2]).unwrap()),
                    }
                }
            });
        }
    });
}

#[test]
fn any_thread_cancels_at_any_time() {
    let mut trainer = opened();
    let canceller: Canceller = trainer.canceller();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..10_000).for_each(|_| canceller.cancel()));
        }
        for _ in 0..10 {
            survives(|| trainer.step(&[BATCH; 2], 1e-3));
            survives(|| trainer.logits(&[1, 2]));
        }
    });
    let steps = trainer.stats().steps;
    assert_eq!(trainer.step(&[BATCH], 1e-3).unwrap().step, steps + 1);
    drop(trainer);
    canceller.cancel();
}

#[test]
fn a_device_serves_one_trainer_and_may_be_dropped_before_it() {
    for device in [CpuDevice::new(None), CpuDevice::adversarial(None, 5)] {
        let again = device.clone();
        let mut trainer = Trainer::open_on(device, &config(), &options()).unwrap();
        let second = Trainer::open_with(Backend::cpu(again.clone()), &config(), &options());
        assert_eq!(second.err().unwrap().status(), Status::InvalidState);
        assert!(again.reserve(1).is_err());
        drop(again);
        trainer.step(&[BATCH], 1e-3).unwrap();
        assert_eq!(trainer.plan().device.bytes(), trainer.stats().device_bytes);
    }
    let taken = CpuDevice::new(None);
    let span = taken.reserve(4096).unwrap();
    assert!(Trainer::open_on(taken, &config(), &options()).is_err());
    assert_eq!(span.bytes(), 4096);
    // Only `unsafe` code or the library makes a backend, and its fields are private.
    let _: Option<(MakeKernels, fn(KernelsSetting))> = None;
    assert!(Backend::open(&TrainerOptions { device: DeviceChoice::Cuda(usize::MAX), ..options() }).is_err());
}

/// A sink that calls a function for each unit.
struct EachUnit(fn(&UnitState) -> Result<()>);

impl Sink for EachUnit {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        for span in StateSpan::all(state.optimizer) {
            assert_eq!(state.span(span).len(), state.layout.elements * span.element_bytes(state.optimizer));
        }
        (self.0)(state)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn saves_survive_errors_delays_and_panics_of_sinks() {
    let mut trainer = opened();
    let fails = EachUnit(|state| Err(Error::internal(format!("an expected error at {}", state.unit))));
    trainer.save(Box::new(fails)).unwrap();
    assert!(trainer.save(Box::new(EachUnit(|_| Ok(())))).is_err());
    trainer.step(&[BATCH], 1e-3).unwrap();
    assert!(trainer.save_wait().is_err() && trainer.save_wait().is_err());
    // A slow sink during a step, a write and the drop of the trainer.
    let slow = EachUnit(|_| {
        thread::sleep(Duration::from_millis(2));
        Ok(())
    });
    trainer.save(Box::new(slow)).unwrap();
    trainer.step(&[BATCH], 1e-3).unwrap();
    trainer.write_tensor("model.embed_tokens.weight", &[0.5; 19 * 8]).unwrap();
    drop(trainer);
    let mut trainer = opened();
    trainer.save(Box::new(EachUnit(|_| panic!("an expected panic")))).unwrap();
    assert!(trainer.save_wait().is_err());
    assert!(trainer.step(&[BATCH], 1e-3).is_err() && trainer.sync().is_err());
}

#[test]
fn borrowed_state_survives_errors_and_panics_of_callbacks() {
    let mut trainer = opened();
    let fill: &StateJob = &|to: &mut Fill| {
        to.bytes.fill(0xff);
        if to.span == StateSpan::Residual { Err(Error::internal("an expected error")) } else { Ok(()) }
    };
    assert!(trainer.restore(1, 3, fill).is_err() && trainer.step(&[BATCH], 1e-3).is_err());
    let mut trainer = opened();
    panics(|| trainer.restore(1, 1, &|to| panic!("an expected panic at {}", to.unit)));
    survives(|| trainer.step(&[BATCH], 1e-3));
    let mut trainer = opened();
    assert!(trainer.restore(u64::MAX, u64::MAX, &|_| Ok(())).is_err());
    trainer.restore(1 << 61, 1 << 61, &|_| Ok(())).unwrap();
    survives(|| trainer.step(&[BATCH], 1e-3));

    let mut trainer = opened();
    let job: &SliceJob = &|slice: &mut TensorSlice| {
        let len = slice.elements.len();
        panics(|| slice.read(len, &mut [0.0]));
        panics(|| slice.read(usize::MAX, &mut [0.0; 2]));
        panics(|| slice.write(1, &vec![0.0; len]));
        panics(|| slice.write_bf16(len + 1, &[]));
        panics(|| slice.read_bf16(0, &mut vec![0; len + 1]));
        slice.write_bf16(0, &vec![0x3f80; len]);
        Ok(())
    };
    trainer.each_slice(&[0, 3], job).unwrap();
    panics(|| trainer.each_slice(&[0, 0], job));
    panics(|| trainer.each_slice(&[1000], job));
    panics(|| trainer.each_slice(&[0, 1, 2], &|slice| panic!("an expected panic at {}", slice.index)));
    trainer.step(&[BATCH], 1e-3).unwrap();
}

#[test]
fn losses_may_fail_and_panic() {
    let mut trainer = opened();
    let mut seen = Vec::new();
    let mut loss = |logprobs: &[f32], dlogprobs: &mut [f32]| {
        seen.extend_from_slice(logprobs);
        dlogprobs.fill(f32::NAN);
        Ok(1.0)
    };
    let borrowed: &mut Loss = &mut loss;
    assert_eq!(trainer.step_with_loss(&[BATCH], 1e-3, borrowed).unwrap_err().status(), Status::NonFinite);
    assert_eq!(seen.len(), 7);
    let mut fails = |_: &[f32], _: &mut [f32]| Err(Error::internal("an expected error"));
    assert!(trainer.step_with_loss(&[BATCH], 1e-3, &mut fails).is_err());
    panics(|| trainer.step_with_loss(&[BATCH], 1e-3, &mut |_, _| panic!("an expected panic")));
    trainer.step(&[BATCH], 1e-3).unwrap();
}

#[test]
fn weights_of_another_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = opened();
    let target = ExportTarget::check(&dir.path().join("model"), 1 << 20).unwrap();
    let elsewhere = ExportTarget::check(&dir.path().join("other"), 0).unwrap();
    let described = FolderConfig::of(config()).unwrap();
    export(&target, &described, &mut trainer, horizon::DType::F32, SHARD_BYTES, &unwatched).unwrap();
    let dims = config().dims;
    for dims in
        [Dims { l: 4, ..dims }, Dims { l: 2, ..dims }, Dims { c: 16, d: 8, ..dims }, Dims { v: 40, ..dims }]
    {
        let other = ModelConfig { dims, ..config() };
        let mut other = Trainer::open(&other, &options()).unwrap();
        assert!(Weights::open(target.folder(), described.family, other.layout()).is_err());
        // Opened for one model, loaded into another.
        let weights = Weights::open(target.folder(), described.family, trainer.layout()).unwrap();
        survives(|| weights.load(&mut other, &unwatched));
        survives(|| export(&elsewhere, &described, &mut other, horizon::DType::Bf16, 0, &unwatched));
    }
}

#[test]
fn calibration_without_runs_is_refused() {
    assert!(!devices().is_empty() && device_info(DeviceChoice::Cuda(usize::MAX)).is_err());
    let CudaReport { cublaslt, devices, .. } = CudaReport::read();
    let _: (Option<Library>, Vec<CudaDeviceReport>) = (cublaslt, devices);
    assert!(measured_device(DeviceChoice::Cpu).is_ok());
    let (device, folder) = (DeviceChoice::Cpu, PathBuf::from("/nowhere"));
    let options = CalibrateOptions { device, folder, threads: Some(usize::MAX), tries: 0 };
    let none: &OpenDevice = &|_| Err(Error::internal("an expected error"));
    let runs: [Run; 0] = [];
    let calibrated: Result<Calibrated> = calibrate_by(none, &runs, &options, &|_: Progress| ());
    assert!(calibrated.is_err());
    let ram = Ram { threads: 0, bytes: 0, read: f64::NAN, write: 0.0, adam: f64::INFINITY };
    survives(|| ram.most());
    let _: Option<Sample> = None;
    assert_eq!(Lane::ALL.len(), Lane::COUNT);
}
