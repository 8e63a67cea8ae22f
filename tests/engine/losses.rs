//! Log-probabilities, and custom losses over them.

use horizon::base::{DType, Error, Result, Status};
use horizon::device::cpu::CpuDevice;
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};

use crate::{config, options};
use support::reference::Random;
use support::reference::decoder::{self, Tensors, logits};
use support::runs::{Data, data, fill, weights};

fn opened(config: &ModelConfig, options: &TrainerOptions, seed: Option<u64>) -> Trainer {
    let device = seed.map_or_else(|| CpuDevice::new(None), |seed| CpuDevice::adversarial(None, seed));
    let mut trainer = Trainer::open_on(device, config, options).unwrap();
    fill(&mut trainer);
    trainer
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Placements of five layers, by name.
fn placements() -> Vec<(&'static str, TrainerOptions)> {
    let layer = LayerPlacement::default();
    let selective = LayerPlacement { recompute: Recompute::Selective, ..layer };
    let spilled = LayerPlacement { boundary: Boundary::Spilled, recompute: Recompute::None, ..layer };
    let resident = LayerPlacement { resident: true, accumulator: Accumulator::OnDevice, ..layer };
    let plain = options();
    let mixed = vec![selective, spilled, resident, spilled, spilled];
    vec![
        ("plain", plain.clone()),
        ("selective", TrainerOptions { layers: vec![selective; 5], ..plain.clone() }),
        ("spilled", TrainerOptions { layers: vec![spilled; 5], weight_slots: 3, ..plain.clone() }),
        ("mixed", TrainerOptions { layers: mixed, threads: Some(1), ..plain.clone() }),
        ("on the device", TrainerOptions { grad_wait: GradWait::Device, slabs: 4, ..plain }),
    ]
}

/// The loss of a plain step, Σ −w · logprob / Σ w, and its gradient.
fn plain_loss(batches: &[Data]) -> impl FnMut(&[f32], &mut [f32]) -> Result<f64> {
    let rows = || batches.iter().flat_map(|data| data.weights.iter().zip(&data.targets));
    let counted = rows().map(|(&weight, &target)| if target == -100 { 0.0 } else { weight });
    let weights: Vec<f32> = counted.collect();
    move |logprobs, dlogprobs| {
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let scale = (1.0 / sum) as f32;
        let mut loss = 0.0;
        for ((&weight, &logprob), d) in weights.iter().zip(logprobs).zip(dlogprobs) {
            loss -= f64::from(weight) * f64::from(logprob);
            *d = -(weight * scale);
        }
        Ok(loss / sum)
    }
}

#[test]
fn an_evaluation_sums_the_log_probabilities() {
    for tied in [false, true] {
        let config = config(tied);
        let data = data(&options(), 0, 67);
        let batches: Vec<Batch> = data.iter().map(Data::batch).collect();
        let mut plain = opened(&config, &options(), None);
        let want = plain.logprobs(&batches).unwrap();
        let loss = plain_loss(&data)(&want, &mut vec![0.0; want.len()]).unwrap();
        let eval = plain.eval(&batches).unwrap().loss;
        assert!((loss - eval).abs() < 1e-12, "{loss} {eval}");
        for (logprob, target) in want.iter().zip(data.iter().flat_map(|data| &data.targets)) {
            assert!(if *target == -100 { *logprob == 0.0 } else { *logprob < 0.0 });
        }
        for (name, options) in placements() {
            for (sweeps, seed) in [(1, None), (2, Some(7)), (3, Some(8))] {
                let options = TrainerOptions { sweeps, ..options.clone() };
                let found = opened(&config, &options, seed).logprobs(&batches).unwrap();
                assert!(bits(&found) == bits(&want), "{name}, {sweeps} sweeps, tied {tied}");
            }
        }
        // Unlike in a step, ignoring all targets is no error.
        let ignored = Batch { targets: &[-100; 42], ..data[0].batch() };
        assert!(plain.logprobs(&[ignored]).unwrap().iter().all(|&logprob| logprob == 0.0));
        assert_eq!(plain.logprobs(&[]).unwrap_err().status(), Status::InvalidState);
    }
}

/// Three steps, plain or with the equivalent custom loss. Returns weights, norms and losses.
fn steps(trainer: &mut Trainer, with_loss: bool) -> (Vec<u32>, Vec<u64>, Vec<f64>) {
    let (mut norms, mut losses) = (Vec::new(), Vec::new());
    for step in 0..3 {
        let data = data(&options(), step, 67);
        let batches: Vec<Batch> = data.iter().take(1 + step).map(Data::batch).collect();
        let report = if with_loss {
            trainer.step_with_loss(&batches, 1e-2, &mut plain_loss(&data[..1 + step]))
        } else {
            trainer.step(&batches, 1e-2)
        };
        let report = report.unwrap();
        assert_eq!(report.step, step as u64 + 1);
        norms.push(report.grad_norm.to_bits());
        losses.push(report.loss);
    }
    (weights(trainer), norms, losses)
}

#[test]
fn the_plain_loss_as_custom_loss_gives_the_plain_step() {
    for tied in [false, true] {
        let config = config(tied);
        let want = steps(&mut opened(&config, &options(), None), false);
        let same = |what: &str, options: &TrainerOptions, seed| {
            let found = steps(&mut opened(&config, options, seed), true);
            assert!((&found.0, &found.1) == (&want.0, &want.1), "{what}, tied {tied}");
            for (found, want) in found.2.iter().zip(&want.2) {
                assert!((found - want).abs() < 1e-12, "{what}: loss {found} for {want}");
            }
        };
        for (name, options) in placements() {
            same(name, &options, None);
            same(name, &options, Some(11));
        }
        let unclipped = TrainerOptions { clip: 0.0, ..options() };
        let want = steps(&mut opened(&config, &unclipped, None), false);
        for (mode, adam_when) in [(Mode::Streamed, None), (Mode::Exact, Some(AdamWhen::UnderBackward))] {
            let options = TrainerOptions { mode, adam_when, ..unclipped.clone() };
            let found = steps(&mut opened(&config, &options, Some(12)), true);
            assert!((found.0, found.1) == (want.0.clone(), want.1.clone()), "{mode:?} {adam_when:?}");
        }
    }
}

/// A DPO-like preference between the two halves of a step's rows, plus a penalty that pulls every
/// probability to 0.5: neither linear nor a sum over rows. Returns the loss and its gradient.
fn preference(logprobs: &[f64], counts: &[bool]) -> (f64, Vec<f64>) {
    const BETA: f64 = 0.3;
    let half = logprobs.len() / 2;
    let side = |row: usize| if row < half { 1.0 } else { -1.0 };
    let rows = || (0..logprobs.len()).filter(|&row| counts[row]);
    let margin: f64 = rows().map(|row| side(row) * logprobs[row]).sum::<f64>() * BETA;
    let pull: f64 = rows().map(|row| (logprobs[row].exp() - 0.5).powi(2)).sum();
    let slope = -BETA / (1.0 + margin.exp());
    let gradient = |row: usize| {
        let p = logprobs[row].exp();
        if counts[row] { slope * side(row) + 2.0 * (p - 0.5) * p } else { 0.0 }
    };
    ((1.0 + (-margin).exp()).ln() + pull, (0..logprobs.len()).map(gradient).collect())
}

/// Log-probabilities of the targets from the f64 reference.
fn reference_logprobs(config: &ModelConfig, tensors: &Tensors, batches: &[decoder::Batch]) -> Vec<f64> {
    let mut all = Vec::new();
    for batch in batches {
        let logits = logits(config, tensors, batch);
        for (logits, &target) in logits.chunks_exact(config.dims.v).zip(&batch.targets) {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
            all.push(if target == -100 { 0.0 } else { logits[target as usize] - lse });
        }
    }
    all
}

#[test]
fn a_custom_loss_has_the_gradient_of_the_reference() {
    for tied in [false, true] {
        let mut random = Random::new(31 + u64::from(tied));
        let mut config = config(tied);
        config.dims.l = 2;
        let options = TrainerOptions { grad_dtype: DType::F32, clip: 0.0, ..options() };
        let batches: Vec<decoder::Batch> =
            (0..2).map(|_| decoder::Batch::random(options.shape, config.dims.v, &mut random)).collect();
        let given = batches.iter().map(|batch| Batch {
            tokens: &batch.tokens,
            targets: &batch.targets,
            weights: Some(&batch.weights),
            starts: Some(&batch.starts),
        });
        let given: Vec<Batch> = given.collect();
        let counts: Vec<bool> =
            batches.iter().flat_map(|batch| &batch.targets).map(|target| *target != -100).collect();

        let mut trainer = Trainer::open(&config, &options).unwrap();
        let mut tensors = Tensors::new();
        let all: Vec<_> = trainer.layout().tensors().map(|(_, tensor)| tensor.clone()).collect();
        for tensor in &all {
            let centre = if tensor.decays() { 0.0 } else { 1.0 };
            let values: Vec<f32> = random.bf16s(tensor.elements(), 0.25).iter().map(|w| centre + w).collect();
            // Norms around 1 are rounded again, since what is uploaded is bf16.
            let values: Vec<f32> = values
                .iter()
                .map(|&w| horizon::base::master::widen(horizon::base::master::round(w)))
                .collect();
            trainer.write_tensor(&tensor.name, &values).unwrap();
            tensors.insert(tensor.name.clone(), support::reference::wide(&values));
        }
        let mut seen = Vec::new();
        let report = trainer
            .step_with_loss(&given, 0.0, &mut |logprobs, dlogprobs| {
                let wide: Vec<f64> = logprobs.iter().map(|&logprob| f64::from(logprob)).collect();
                let (loss, gradient) = preference(&wide, &counts);
                dlogprobs.iter_mut().zip(gradient).for_each(|(d, gradient)| *d = gradient as f32);
                // Gradients of ignored rows are not used.
                for (d, _) in dlogprobs.iter_mut().zip(&counts).filter(|(_, counts)| !**counts) {
                    *d = f32::NAN;
                }
                seen = wide;
                Ok(loss)
            })
            .unwrap();
        let loss = |tensors: &Tensors| preference(&reference_logprobs(&config, tensors, &batches), &counts).0;
        let want = reference_logprobs(&config, &tensors, &batches);
        for (row, (seen, want)) in seen.iter().zip(&want).enumerate() {
            assert!((seen - want).abs() < 2e-5, "row {row}: {seen} for {want}");
        }
        let want = loss(&tensors);
        assert!((report.loss - want).abs() <= 1e-5 * want, "loss {} for {want}", report.loss);
        const STEP: f64 = 1e-4;
        for tensor in &all {
            let mut gradient = vec![0.0; tensor.elements()];
            trainer.read_gradient(&tensor.name, &mut gradient).unwrap();
            let largest = gradient.iter().fold(0f64, |m, g| m.max(f64::from(g.abs())));
            assert!(largest > 1e-6, "{} has no gradient", tensor.name);
            for at in random.sample(gradient.len(), 4) {
                let mut moved = tensors.clone();
                let mut side = |by: f64| {
                    moved.get_mut(&tensor.name).unwrap()[at] = tensors[&tensor.name][at] + by;
                    loss(&moved)
                };
                let expected = (side(STEP) - side(-STEP)) / (2.0 * STEP);
                let (actual, name) = (f64::from(gradient[at]), &tensor.name);
                let allowed = 2e-4 * expected.abs() + 4e-5 * largest;
                assert!((actual - expected).abs() <= allowed, "{tied} {name}[{at}]: {actual} for {expected}");
            }
        }
    }
}

#[test]
fn an_abandoned_step_changes_nothing() {
    for (mode, adam_when, clip) in
        [(Mode::Exact, None, 0.5), (Mode::Streamed, Some(AdamWhen::UnderBackward), 0.0)]
    {
        let options = TrainerOptions { mode, adam_when, clip, ..options() };
        let config = config(false);
        let (mut trainer, mut alone) = (opened(&config, &options, Some(3)), opened(&config, &options, None));
        let data = data(&options, 0, 67);
        let batches: Vec<Batch> = data.iter().map(Data::batch).collect();
        trainer.step(&batches, 1e-2).unwrap();
        alone.step(&batches, 1e-2).unwrap();
        let before = weights(&mut alone);
        let mut refused = |loss: &mut dyn FnMut(&mut [f32]) -> Result<f64>, status: Status, word: &str| {
            let error = trainer.step_with_loss(&batches, 1e-2, &mut |_, d| loss(d)).unwrap_err();
            assert_eq!(error.status(), status);
            assert!(error.message().contains(word), "`{word}` is missing in: {error}");
            assert!(weights(&mut trainer) == before);
            assert_eq!(trainer.stats().steps, 1);
        };
        refused(&mut |_| Err(Error::argument("no reward")), Status::InvalidArgument, "no reward");
        refused(&mut |_| Ok(f64::NAN), Status::NonFinite, "the loss is NaN");
        let counting = data[1].targets.iter().position(|target| *target != -100).unwrap();
        let mut spoil = |d: &mut [f32]| {
            d[42 + counting] = f32::INFINITY;
            Ok(1.0)
        };
        let (sequence, position) = (counting / 21, counting % 21);
        let place =
            format!("dlogprobs[{}] (batch 1, sequence {sequence}, position {position})", 42 + counting);
        refused(&mut spoil, Status::NonFinite, &place);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            trainer.step_with_loss(&batches, 1e-2, &mut |_, _| panic!("the callback's own"))
        }));
        assert!(panicked.is_err());

        // Training continues with the bits of an undisturbed run.
        trainer.step_with_loss(&batches, 1e-2, &mut plain_loss(&data)).unwrap();
        alone.step(&batches, 1e-2).unwrap();
        trainer.step(&batches, 1e-2).unwrap();
        alone.step(&batches, 1e-2).unwrap();
        assert!(weights(&mut trainer) == weights(&mut alone));
    }
}

#[test]
fn a_custom_loss_needs_one_sweep() {
    let options = TrainerOptions { sweeps: 2, ..options() };
    let mut trainer = opened(&config(false), &options, None);
    let data = data(&options, 0, 67);
    let batches: Vec<Batch> = data.iter().map(Data::batch).collect();
    let error = trainer.step_with_loss(&batches, 1e-2, &mut plain_loss(&data)).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains("with sweeps = 2 the 3 micro-batches"), "{error}");
    // One micro-batch is one sweep.
    trainer.step_with_loss(&batches[..1], 1e-2, &mut plain_loss(&data[..1])).unwrap();
    let ignored = Batch { targets: &[-100; 42], ..data[0].batch() };
    let error = trainer.step_with_loss(&[ignored], 1e-2, &mut plain_loss(&data[..1])).unwrap_err();
    assert_eq!(error.status(), Status::NoTarget);
    assert_eq!(
        trainer.step_with_loss(&batches[..1], -1.0, &mut plain_loss(&data)).unwrap_err().status(),
        Status::InvalidArgument
    );
    assert_eq!(trainer.update(1e-2).unwrap_err().status(), Status::InvalidState, "nothing stays staged");
}
