//! Training runs on random data, and their results.

use horizon::base::Shape;
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STEPS: usize = 4;

/// Writes random weights from a fixed seed, uniform in ±0.15 (norms 1 ± 0.15).
pub fn fill(trainer: &mut Trainer) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let tensors: Vec<_> = trainer.layout().tensors().map(|(_, tensor)| tensor.clone()).collect();
    for tensor in tensors {
        let centre = if tensor.decays() { 0.0 } else { 1.0 };
        let values: Vec<f32> =
            (0..tensor.elements()).map(|_| centre + rng.random_range(-0.15f32..0.15)).collect();
        trainer.write_tensor(&tensor.name, &values).unwrap();
    }
}

pub struct Data {
    pub tokens: Vec<i32>,
    pub targets: Vec<i32>,
    pub weights: Vec<f32>,
    pub starts: Vec<i32>,
}

impl Data {
    pub fn random(seed: u64, shape: Shape, vocabulary: i32) -> Data {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n = shape.n();
        let mut starts = vec![0; n];
        for i in 0..n {
            let t = (i % shape.t) as i32;
            starts[i] = if t == 0 || rng.random_bool(0.1) { t } else { starts[i - 1] };
        }
        let mut target = || if rng.random_bool(0.2) { -100 } else { rng.random_range(0..vocabulary) };
        let targets = (0..n).map(|_| target()).collect();
        Data {
            tokens: (0..n).map(|_| rng.random_range(0..vocabulary)).collect(),
            targets,
            weights: (0..n).map(|_| rng.random_range(0.0..2.0)).collect(),
            starts,
        }
    }

    pub fn batch(&self) -> Batch<'_> {
        Batch {
            weights: Some(&self.weights),
            starts: Some(&self.starts),
            ..Batch::new(&self.tokens, &self.targets)
        }
    }
}

pub fn data(options: &TrainerOptions, step: usize, vocabulary: usize) -> Vec<Data> {
    let micros = options.micros_max;
    let batch = |micro| Data::random((step * micros + micro) as u64, options.shape, vocabulary as i32);
    (0..micros).map(batch).collect()
}

/// The results of a run, as bits.
#[derive(PartialEq, Debug)]
pub struct Outcome {
    losses: Vec<u64>,
    norms: Vec<u64>,
    pub weights: Vec<u32>,
}

pub fn weights(trainer: &mut Trainer) -> Vec<u32> {
    let names: Vec<_> = trainer.layout().tensors().map(|(_, t)| (t.name.clone(), t.elements())).collect();
    let mut bits = Vec::new();
    for (name, elements) in names {
        let mut values = vec![0.0; elements];
        trainer.read_tensor(&name, &mut values).unwrap();
        bits.extend(values.iter().map(|value| value.to_bits()));
    }
    bits
}

/// Variations of a run that must not change a bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Plain,
    /// AdamW of a step ends before the next step starts.
    Serial,
    /// `accumulate` and `update` instead of `step`.
    Accumulating,
    /// With an evaluation after each step.
    Evaluating,
    /// The next step's tokens are announced: all, too many, or only some.
    Announcing,
}

pub fn train(trainer: &mut Trainer, options: &TrainerOptions, manner: Manner) -> Outcome {
    fill(trainer);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let data = data(options, step, trainer.config().dims.v);
        // Steps have different numbers of micro-batches.
        let batches: Vec<_> = data.iter().take(1 + step % options.micros_max).map(Data::batch).collect();
        let lr = 1e-2 / (1 + step) as f64;
        if manner == Manner::Announcing {
            let next = self::data(options, step + 1, trainer.config().dims.v);
            let micros = 1 + (step + 1) % options.micros_max;
            let announced = [micros, options.micros_max, micros - 1][step % 3];
            next[..announced].iter().for_each(|data| trainer.announce(&data.tokens).unwrap());
        }
        let report = if manner == Manner::Accumulating {
            batches.iter().for_each(|batch| trainer.accumulate(batch).unwrap());
            trainer.update(lr).unwrap()
        } else {
            trainer.step(&batches, lr).unwrap()
        };
        match manner {
            Manner::Serial => trainer.sync().unwrap(),
            Manner::Evaluating => assert!(trainer.eval(&batches).unwrap().loss > 0.0),
            Manner::Plain | Manner::Accumulating | Manner::Announcing => {}
        }
        losses.push(report.loss.to_bits());
        norms.push(report.grad_norm.to_bits());
    }
    Outcome { losses, norms, weights: weights(trainer) }
}

pub fn outcome(config: &ModelConfig, options: &TrainerOptions, manner: Manner) -> Outcome {
    train(&mut Trainer::open(config, options).unwrap(), options, manner)
}
