//! Cross-entropy against its f64 reference.

mod reference;

use horizon::ops::{Kernels, LossRows};
use reference::compare::gradient_of;
use reference::memory::{Memory, on_any_threads};
use reference::{Random, SIZES, cross_entropy, wide};

const SCALE: f32 = 0.125;

#[test]
fn loss_and_gradient_agree() {
    let mut random = Random::new(11);
    for &(n, v, reason) in SIZES {
        let (logits, weights) = (random.f32s(n * v, 5.0), random.f32s(n, 1.0));
        let weights: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        // Every third row is ignored, but never the first.
        let target = |row: usize| if row % 3 == 1 { -100 } else { random.below(v) as i32 };
        let targets: Vec<i32> = (0..n).map(target).collect();
        let (targets_memory, weights_memory) = (Memory::i32s(&targets), Memory::f32s(&weights));
        let rows = LossRows { targets: targets_memory.span(), weights: weights_memory.span(), scale: SCALE };
        // What a loss of the caller's would say that is the same loss; of ignored rows anything may be said.
        let factors = weights.iter().zip(&targets);
        let factors = factors.map(|(w, &target)| if target == -100 { f32::NAN } else { -(w * SCALE) });
        let dlogprobs = Memory::f32s(&factors.collect::<Vec<_>>());
        let results = on_any_threads(|k| {
            let (forward_loss, both_loss) = (Memory::f64s(&[3.0]), Memory::f64s(&[3.0]));
            let (forward_logits, dlogits) = (Memory::f32s(&logits), Memory::f32s(&logits));
            k.cross_entropy_forward(forward_loss.span(), forward_logits.span(), &rows, n, v, v);
            k.cross_entropy_forward_backward(both_loss.span(), dlogits.span(), &rows, n, v, v);
            let (logprobs, again) = (Memory::painted(n * 4), Memory::f32s(&logits));
            k.cross_entropy_logprobs(logprobs.span(), forward_logits.span(), targets_memory.span(), n, v, v);
            k.cross_entropy_backward(again.span(), targets_memory.span(), dlogprobs.span(), n, v, v);
            vec![forward_loss, both_loss, forward_logits, dlogits, logprobs, again]
        });
        let (logits64, weights64) = (wide(&logits), wide(&weights));
        let expected = 3.0 + cross_entropy(&logits64, &targets, &weights64, v);
        let loss = results[0].read_f64()[0];
        assert!((loss - expected).abs() <= 1e-6 * expected.abs(), "{reason}: {loss} for {expected}");
        assert_eq!(results[0].bytes(), results[1].bytes(), "{reason}: the two losses differ");
        assert_eq!(results[2].read_f32(), logits, "{reason}: forward changed the logits");
        assert_eq!(results[5].bytes(), results[3].bytes(), "{reason}: the same loss by log-probabilities");
        for (row, logprob) in results[4].read_f32().into_iter().enumerate() {
            let (logits, target) = (&logits64[row * v..][..v], targets[row]);
            let expected = -cross_entropy(logits, &[target], &[1.0], v);
            let error = (f64::from(logprob) - expected).abs();
            assert!(
                error <= 1e-6 * expected.abs() + 2e-6,
                "{reason}: row {row} is {logprob}, not {expected}"
            );
            assert!(target != -100 || logprob == 0.0, "{reason}: ignored row {row} has a log-probability");
        }
        let dlogits = results[3].read_f32();
        gradient_of(reason, &dlogits, &logits64, 40, &mut random, |logits| {
            f64::from(SCALE) * cross_entropy(logits, &targets, &weights64, v)
        });
        for (row, dlogits) in dlogits.chunks_exact(v).enumerate().filter(|(row, _)| targets[*row] == -100) {
            assert!(dlogits.iter().all(|&d| d == 0.0), "{reason}: ignored row {row} has a gradient");
        }
    }
}

#[test]
fn far_apart_logits_stay_finite() {
    let logits = [1e4f32, -1e4, 0.0, 88.0];
    let (targets, weights) = (Memory::i32s(&[1]), Memory::f32s(&[1.0]));
    let rows = LossRows { targets: targets.span(), weights: weights.span(), scale: 1.0 };
    let results = on_any_threads(|k| {
        let (loss, logits) = (Memory::f64s(&[0.0]), Memory::f32s(&logits));
        k.cross_entropy_forward_backward(loss.span(), logits.span(), &rows, 1, 4, 4);
        vec![loss, logits]
    });
    assert_eq!(results[0].read_f64(), [2e4]);
    assert_eq!(results[1].read_f32(), [1.0, -1.0, 0.0, 0.0]);
}
