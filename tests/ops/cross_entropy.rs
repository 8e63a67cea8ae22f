//! Cross-entropy against its f64 reference.

use horizon::ops::{
    CrossEntropyBackward, CrossEntropyForward, CrossEntropyForwardBackward, CrossEntropyLogprobs,
};
use support::reference::compare::gradient_of;
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::{Random, SIZES, cross_entropy, wide};
use support::spans;

const SCALE: f32 = 0.125;

/// A chunk of rows of logits with stride `stride`. The columns from V on must not be accessed.
struct Case {
    n: usize,
    v: usize,
    stride: usize,
    /// `[n, v]`
    logits: Vec<f32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
    /// The previous contents of the losses.
    before: f64,
    scale: f32,
}

impl Case {
    fn strided(&self, device: &Device) -> Memory {
        let rows = self.logits.chunks_exact(self.v);
        let padded = rows
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(f32::NAN, self.stride - self.v)));
        device.activations(&padded.collect::<Vec<_>>())
    }

    /// The first V columns of each row. Checks that the others are unchanged.
    fn dense(&self, device: &Device, memory: &Memory) -> Vec<f32> {
        let values = device.read(memory);
        let (columns, padding) = (0..self.v, self.v..self.stride);
        for row in values.chunks_exact(self.stride) {
            assert!(row[padding.clone()].iter().all(|x| x.is_nan()), "a column past V was written");
        }
        values.chunks_exact(self.stride).flat_map(|row| row[columns.clone()].to_vec()).collect()
    }

    /// The gradient of an external loss that equals this one. Entries of ignored rows are
    /// arbitrary.
    fn dlogprobs(&self) -> Vec<f32> {
        let rows = self.weights.iter().zip(&self.targets);
        rows.map(|(w, &target)| if target == -100 { f32::NAN } else { -(w * self.scale) }).collect()
    }

    /// Returns loss and logits of `Forward`, loss and gradient of `ForwardBackward`, the
    /// log-probabilities, and the gradient of `Backward`.
    fn run(&self, device: &Device) -> Vec<Memory> {
        let Case { n, v, stride, scale, .. } = *self;
        let (targets, weights) = (device.i32s(&self.targets), device.f32s(&self.weights));
        let dlogprobs = device.f32s(&self.dlogprobs());
        let (targets, weights, dlogprobs) = (targets.span(), weights.span(), dlogprobs.span());
        device.run(|k| {
            let (forward_loss, both_loss) = (device.f64s(&[self.before]), device.f64s(&[self.before]));
            let (forward_logits, dlogits) = (self.strided(device), self.strided(device));
            let (logprobs, external) = (device.poisoned(n * 4), self.strided(device));
            let (loss, logits) = (forward_loss.span(), forward_logits.span());
            spans::run(k, &CrossEntropyForward { loss, logits, targets, weights, n, v, stride }.into());
            let out = logprobs.span();
            spans::run(k, &CrossEntropyLogprobs { logprobs: out, logits, targets, n, v, stride }.into());
            let (loss, logits) = (both_loss.span(), dlogits.span());
            spans::run(
                k,
                &CrossEntropyForwardBackward { loss, logits, targets, weights, scale, n, v, stride }.into(),
            );
            let logits = external.span();
            spans::run(k, &CrossEntropyBackward { logits, targets, dlogprobs, n, v, stride }.into());
            vec![forward_loss, forward_logits, both_loss, dlogits, logprobs, external]
        })
    }
}

#[test]
fn loss_and_gradient_agree() {
    for device in Device::all() {
        let mut random = Random::new(11);
        for &(n, v, reason) in SIZES {
            let logits = device.stored(random.f32s(n * v, 5.0));
            let weights: Vec<f32> = random.f32s(n, 1.0).iter().map(|w| w.abs()).collect();
            // Every third row is ignored, but never the first; one row has the last column as its target.
            let target = |row: usize| match row {
                _ if row % 3 == 1 => -100,
                2 => v as i32 - 1,
                _ => random.below(v) as i32,
            };
            let targets: Vec<i32> = (0..n).map(target).collect();
            // For few rows also a larger stride.
            let strides = [v.next_multiple_of(8), v.next_multiple_of(8) + 16];
            for stride in strides.into_iter().take(if n < 40 { 2 } else { 1 }) {
                let (logits, targets, weights) = (logits.clone(), targets.clone(), weights.clone());
                let case = Case { n, v, stride, logits, targets, weights, before: 3.0, scale: SCALE };
                check(&device, &case, reason, &mut random);
            }
        }
    }
}

fn check(device: &Device, case: &Case, reason: &str, random: &mut Random) {
    let Case { v, targets, .. } = case;
    let results = case.run(device);
    let (logits64, weights64) = (wide(&case.logits), wide(&case.weights));
    let expected = case.before + cross_entropy(&logits64, targets, &weights64, *v);
    let loss = results[0].read_f64()[0];
    assert!((loss - expected).abs() <= 1e-6 * expected.abs(), "{reason}: {loss} for {expected}");
    assert_eq!(results[0].bytes(), results[2].bytes(), "{reason}: the two losses differ");
    assert_eq!(case.dense(device, &results[1]), case.logits, "{reason}: forward changed the logits");
    for (row, logprob) in results[4].read_f32().into_iter().enumerate() {
        let (logits, target) = (&logits64[row * v..][..*v], targets[row]);
        let expected = -cross_entropy(logits, &[target], &[1.0], *v);
        let error = (f64::from(logprob) - expected).abs();
        assert!(error <= 1e-6 * expected.abs() + 2e-6, "{reason}: row {row} is {logprob}, not {expected}");
        assert!(target != -100 || logprob == 0.0, "{reason}: ignored row {row} has a log-probability");
    }
    let dlogits = case.dense(device, &results[3]);
    let by_logprobs = case.dense(device, &results[5]);
    assert!(
        by_logprobs == dlogits,
        "{reason}: the gradient of the same loss through log-probabilities differs"
    );
    if device.is_cpu() {
        gradient_of(reason, &dlogits, &logits64, 40, random, |logits| {
            f64::from(SCALE) * cross_entropy(logits, targets, &weights64, *v)
        });
    } else {
        let truth = wide(&case.dense(&Device::Cpu, &case.run(&Device::Cpu)[3]));
        let expected = Expected { truth: &truth, naive: None, width: *v, factor: 3.0, f32: (0.0, 0.0) };
        device.agrees(reason, &device.activations(&dlogits), expected);
    }
    for (row, dlogits) in dlogits.chunks_exact(*v).enumerate().filter(|(row, _)| targets[*row] == -100) {
        assert!(dlogits.iter().all(|&d| d == 0.0), "{reason}: ignored row {row} has a gradient");
    }
}

#[test]
fn logits_of_extreme_differences_stay_finite() {
    for device in Device::all() {
        let logits = device.stored(vec![1e4, -1e4, 0.0, 88.0]);
        let loss = f64::from(logits[0]) - f64::from(logits[1]);
        let (targets, weights) = (vec![1], vec![1.0]);
        let case = Case { n: 1, v: 4, stride: 8, logits, targets, weights, before: 0.0, scale: 1.0 };
        let results = case.run(&device);
        assert_eq!(results[2].read_f64(), [loss], "{}", device.name());
        assert_eq!(case.dense(&device, &results[3]), [1.0, -1.0, 0.0, 0.0], "{}", device.name());
    }
}
