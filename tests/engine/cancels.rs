//! Cancelling: a call cancelled before any of its operations changes no bit of what follows.

use std::sync::Arc;

use horizon::base::{Shape, Status};
use horizon::device::cpu::CpuDevice;
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::engine::{Backend, Batch, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};
use support::cancelling::{self, Trigger};
use support::fake_cuda::{FakeCuda, Manner, Setting};
use support::runs::{Data, fill, weights};

use crate::losses::plain_loss;
use crate::saves;

const VOCABULARY: i32 = 67;

fn config(tied: bool) -> ModelConfig {
    let mut config = crate::config(tied);
    config.dims.l = 2;
    config
}

fn options() -> TrainerOptions {
    TrainerOptions { shape: Shape { b: 1, t: 7 }, micros_max: 2, threads: Some(1), ..crate::options() }
}

/// Every mode and every class of placements.
fn placements() -> Vec<TrainerOptions> {
    let layer = LayerPlacement::default();
    let spilled = LayerPlacement { boundary: Boundary::Spilled, recompute: Recompute::Selective, ..layer };
    let resident = LayerPlacement { resident: true, accumulator: Accumulator::OnDevice, ..layer };
    let plain = options();
    let unclipped = TrainerOptions { clip: 0.0, ..plain.clone() };
    vec![
        TrainerOptions { layers: vec![spilled, resident], ..plain.clone() },
        TrainerOptions { layers: vec![spilled; 2], sweeps: 2, ..plain.clone() },
        TrainerOptions { grad_wait: GradWait::Device, ..plain.clone() },
        TrainerOptions { mode: Mode::Compact, ..plain },
        TrainerOptions { adam_when: Some(AdamWhen::UnderBackward), ..unclipped.clone() },
        TrainerOptions { mode: Mode::Streamed, ..unclipped },
    ]
}

/// The calls that can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Step,
    StepWithLoss,
    Eval,
    Logits,
    Logprobs,
}

const CALLS: [Call; 5] = [Call::Step, Call::StepWithLoss, Call::Eval, Call::Logits, Call::Logprobs];

fn data(step: u64) -> [Data; 2] {
    [2 * step, 2 * step + 1].map(|seed| Data::random(seed, options().shape, VOCABULARY))
}

impl Call {
    /// Makes the call with the data of a step; returns its results as bits.
    fn make(self, trainer: &mut Trainer, step: u64) -> horizon::base::Result<Vec<u64>> {
        let data = data(step);
        let batches = data.each_ref().map(Data::batch);
        let bits = |values: Vec<f32>| values.into_iter().map(|value| u64::from(value.to_bits())).collect();
        match self {
            Call::Step => {
                // The next step starts with the rows that AdamW gathers.
                self::data(step + 1).iter().try_for_each(|next| trainer.announce(&next.tokens))?;
                let report = trainer.step(&batches, 1e-2)?;
                Ok(vec![report.step, report.loss.to_bits(), report.grad_norm.to_bits()])
            }
            Call::StepWithLoss => {
                let report = trainer.step_with_loss(&batches, 1e-2, &mut plain_loss(&data))?;
                Ok(vec![report.step, report.loss.to_bits(), report.grad_norm.to_bits()])
            }
            Call::Eval => trainer.eval(&batches).map(|report| vec![report.loss.to_bits()]),
            Call::Logits => trainer.logits(&data[0].tokens[..5]).map(bits),
            Call::Logprobs => trainer.logprobs(&batches).map(bits),
        }
    }
}

/// Cancels every call before its operations number 0, `stride`, 2 · `stride`, …, with a step after
/// each. Compares all results with those of a trainer on which nothing is cancelled.
fn cancel_before_every_operation(
    backend: impl Fn(&Arc<Trigger>) -> Backend,
    config: &ModelConfig,
    options: &TrainerOptions,
    stride: usize,
) {
    let trigger = Arc::new(Trigger::default());
    let mut trainer = Trainer::open_with(backend(&trigger), config, options).unwrap();
    trigger.set(trainer.canceller());
    let mut alone = Trainer::open(config, options).unwrap();
    fill(&mut trainer);
    fill(&mut alone);
    let mut step = 0;
    for call in CALLS.into_iter().filter(|call| options.sweeps == 1 || *call != Call::StepWithLoss) {
        let mut cancelled = 0;
        for tasks in (0..).step_by(stride) {
            trainer.sync().unwrap();
            let totals = |trainer: &Trainer| (trainer.stats().steps, trainer.stats().tokens);
            let before = totals(&trainer);
            trigger.arm(tasks);
            let outcome = call.make(&mut trainer, step);
            let reached = trigger.disarm();
            match outcome {
                Ok(answer) => {
                    assert_eq!(answer, call.make(&mut alone, step).unwrap(), "{call:?} {tasks}: too late");
                }
                Err(error) => {
                    assert_eq!(error.status(), Status::Cancelled, "{call:?} {tasks}: {error}");
                    assert_eq!(totals(&trainer), before);
                    assert_eq!(trainer.update(1e-2).unwrap_err().status(), Status::InvalidState);
                    cancelled += 1;
                }
            }
            step += 1;
            for next in [Call::Step, Call::Eval] {
                let found = next.make(&mut trainer, step).unwrap();
                assert_eq!(found, next.make(&mut alone, step).unwrap(), "after {call:?} {tasks}");
            }
            if !reached {
                break;
            }
        }
        assert!(cancelled * stride >= 8, "{call:?}: cancelled {cancelled} times");
    }
    assert!(weights(&mut trainer) == weights(&mut alone));
    assert!(saves::state(&mut trainer) == saves::state(&mut alone));
}

#[test]
fn a_cancelled_call_changes_no_bit_of_what_follows() {
    let long = std::env::var_os("HZ_LONG").is_some();
    for (number, options) in placements().iter().enumerate() {
        let config = config(number % 2 == 1);
        for seed in [None, Some(3)] {
            let device =
                || seed.map_or_else(|| CpuDevice::new(None), |seed| CpuDevice::adversarial(None, seed));
            let stride = if long || seed.is_none() { 1 } else { 7 };
            cancel_before_every_operation(
                |trigger| cancelling::cpu(device(), trigger),
                &config,
                options,
                stride,
            );
        }
    }
}

#[test]
fn a_cancelled_call_changes_no_bit_on_fake_cuda() {
    let stride = if std::env::var_os("HZ_LONG").is_some() { 1 } else { 7 };
    for (number, options) in placements().iter().enumerate() {
        let manner = [Manner::Eager, Manner::Lazy, Manner::Random(4)][number % 3];
        let fake = FakeCuda::new(Setting { manner, ..Setting::default() });
        let cuda = CudaOptions { scrubs: true, ..CudaOptions::default() };
        let device = CudaDevice::open(fake.ordinal(), cuda).unwrap();
        let backend = |trigger: &Arc<Trigger>| cancelling::fake_cuda(device.clone(), trigger);
        cancel_before_every_operation(backend, &config(number % 2 == 1), options, stride);
        drop(device);
        assert_eq!(fake.violations(), Vec::<String>::new());
    }
}

/// On CUDA, operations that are not enqueued yet are not enqueued any more.
#[test]
fn a_cancelled_step_enqueues_nothing_more() {
    let fake = FakeCuda::new(Setting::default());
    let device = CudaDevice::open(fake.ordinal(), CudaOptions::default()).unwrap();
    let trigger = Arc::new(Trigger::default());
    let backend = cancelling::fake_cuda(device, &trigger);
    let mut trainer = Trainer::open_with(backend, &config(true), &options()).unwrap();
    trigger.set(trainer.canceller());
    fill(&mut trainer);
    let mut worked = |tasks| {
        let before = fake.worked();
        trigger.arm(tasks);
        let outcome = Call::Step.make(&mut trainer, 0);
        trigger.disarm();
        assert_eq!(outcome.err().map(|error| error.status()), (tasks == 0).then_some(Status::Cancelled));
        trainer.sync().unwrap();
        fake.worked() - before
    };
    let (cancelled, whole) = (worked(0), worked(i64::MAX - 1));
    assert!(4 * cancelled < whole, "{cancelled} of {whole} commands");
}

#[test]
fn a_cancelled_step_leaves_a_save_alone() {
    let trigger = Arc::new(Trigger::default());
    let backend = cancelling::cpu(CpuDevice::new(None), &trigger);
    let mut trainer = Trainer::open_with(backend, &config(false), &options()).unwrap();
    trigger.set(trainer.canceller());
    fill(&mut trainer);
    (0..2).for_each(|step| drop(Call::Step.make(&mut trainer, step).unwrap()));
    let want = saves::state(&mut trainer);
    let (permit, saved) = saves::begin_held(&mut trainer);
    // Uses the step state that the save's tasks name.
    trigger.arm(3);
    assert_eq!(Call::Step.make(&mut trainer, 2).unwrap_err().status(), Status::Cancelled);
    want.iter().for_each(|_| permit.send(()).unwrap());
    trainer.save_wait().unwrap();
    assert!(saved() == want);
}

#[test]
fn cancelling_is_for_the_call_that_runs() {
    let mut trainer = Trainer::open(&config(false), &options()).unwrap();
    fill(&mut trainer);
    let canceller = trainer.canceller();
    let data = data(0);
    let batches = data.each_ref().map(Data::batch);
    // Nothing runs; also after calls that failed early.
    canceller.cancel();
    trainer.step(&batches, 1e-2).unwrap();
    let ignored = Batch { targets: &[-100; 7], ..batches[0] };
    for failing in [&[ignored][..], &[batches[0]; 3], &[]] {
        trainer.step(failing, 1e-2).unwrap_err();
        canceller.cancel();
        trainer.step(&batches, 1e-2).unwrap();
    }
    // During the loss function, whose result is then not used.
    let error = trainer.step_with_loss(&batches, 1e-2, &mut |logprobs, dlogprobs| {
        canceller.cancel();
        plain_loss(&data)(logprobs, dlogprobs)
    });
    assert_eq!(error.unwrap_err().status(), Status::Cancelled);
    assert_eq!(trainer.stats().steps, 4);
    drop(trainer);
    canceller.cancel();
}
