//! Training on real text for many steps: losses on CUDA agree with the CPU device.

use horizon::base::{Dims, Shape};
use horizon::engine::{Batch, DeviceChoice, Trainer, TrainerOptions};
use horizon::model::{ModelConfig, preset};

use crate::rig;

/// Documents of this project, as training data.
const TEXT: &str = concat!(include_str!("../../README.md"), include_str!("../../include/horizon.h"));

/// Qwen2.5's shapes, by millions of parameters.
fn shape(millions: usize) -> Dims {
    match millions {
        500 => Dims { c: 896, h: 14, g: 2, d: 64, f: 4864, v: 151_936, l: 24 },
        1500 => Dims { c: 1536, h: 12, g: 2, d: 128, f: 8960, v: 151_936, l: 28 },
        _ => Dims { c: 256, h: 4, g: 2, d: 64, f: 688, v: 256, l: 4 },
    }
}

/// The losses of some steps over consecutive windows.
fn losses(trainer: &mut Trainer, steps: usize, lr: f64) -> Vec<f64> {
    trainer.write_fresh(1).expect("weights");
    let bytes: Vec<i32> = TEXT.bytes().map(i32::from).collect();
    let n = trainer.plan().policy.numeric.shape.n();
    let windows = (bytes.len() - 1) / n;
    let step = |step: usize| {
        let at = step % windows * n;
        let (tokens, targets) = (&bytes[at..at + n], &bytes[at + 1..=at + n]);
        let batch = Batch::new(tokens, targets);
        trainer.step(&[batch], lr).expect("a step").loss
    };
    (0..steps).map(step).collect()
}

fn agree(millions: usize, steps: usize, sequence: usize) {
    let dims = shape(millions);
    let config =
        ModelConfig { dims, tied: true, positions_max: sequence, ..preset("tiny").expect("a preset") };
    let options = TrainerOptions { shape: Shape { b: 1, t: sequence }, ..TrainerOptions::default() };
    let cuda = TrainerOptions { device: DeviceChoice::Cuda(0), ..options.clone() };
    let lr = 3e-4;
    let got = losses(&mut Trainer::open(&config, &cuda).expect("it fits the GPU"), steps, lr);
    let want = losses(&mut Trainer::open(&config, &options).expect("it fits the CPU"), steps, lr);
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        println!("{millions} M, step {}: {got:.4} on CUDA, {want:.4} on the CPU", step + 1);
        // A loss sums over many rows, so rounding errors of bf16 logits mostly cancel.
        assert!((got - want).abs() <= 0.02 * want, "step {step}: {got} on CUDA, {want} on the CPU");
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&got[..steps / 5]), mean(&got[steps - steps / 5..]));
    assert!(last < first, "the loss went from {first} to {last}");
}

#[test]
fn a_small_model_learns_as_on_the_cpu() {
    if rig::gpu().is_some() {
        agree(3, 50, 128);
    }
}

/// Takes minutes.
#[test]
fn large_models_learn_as_on_the_cpu() {
    let long = std::env::var("HZ_LONG_SHAPE").ok().and_then(|millions| millions.parse().ok());
    match (long, rig::gpu()) {
        (Some(millions), Some(_)) => agree(millions, 50, 256),
        _ => println!("skipped: HZ_LONG_SHAPE=500 trains 500 million parameters on a GPU"),
    }
}
