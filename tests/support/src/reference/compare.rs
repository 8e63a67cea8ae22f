//! Element-wise comparison, and derivatives by central differences.

use super::Random;

/// Checks |actual − expected| ≤ relative · |expected| + absolute · max |expected| for every
/// element.
pub fn close(what: &str, actual: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths");
    let largest = expected.iter().fold(0f64, |m, e| m.max(e.abs()));
    for (at, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs();
        assert!(error <= relative * e.abs() + absolute * largest, "{what}[{at}] is {a}, expected {e}");
    }
}

/// Checks that the error of every element is at most `factor` times the largest error of the naive
/// version within the same `width` elements, or `factor` times half a bf16 ulp of the truth if that
/// is larger.
pub fn judged(what: &str, actual: &[f64], truth: &[f64], naive: &[f64], factor: f64, width: usize) {
    assert_eq!((actual.len(), naive.len()), (truth.len(), truth.len()), "{what}: lengths");
    for start in (0..truth.len()).step_by(width) {
        // The last group overlaps the one before it.
        let start = start.min(truth.len().saturating_sub(width));
        let together = start..(start + width).min(truth.len());
        let worst = together.clone().map(|i| (naive[i] - truth[i]).abs()).fold(0.0, f64::max);
        for i in together {
            let half_ulp =
                truth[i].abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor().exp2() * 2f64.powi(-8);
            let error = (actual[i] - truth[i]).abs();
            assert!(
                error <= factor * worst.max(half_ulp),
                "{what}[{i}] is {}, expected {}: error {error:e}; the naive version's error is up to {worst:e} nearby",
                actual[i],
                truth[i]
            );
        }
    }
}

/// Checks that `gradient` is the gradient of `f` at `x`, for up to `samples` elements.
pub fn gradient_of(
    what: &str,
    gradient: &[f32],
    x: &[f64],
    samples: usize,
    random: &mut Random,
    f: impl Fn(&[f64]) -> f64,
) {
    assert_eq!(gradient.len(), x.len(), "{what}: lengths");
    let largest = gradient.iter().fold(0f64, |m, g| m.max(f64::from(g.abs())));
    let mut moved = x.to_vec();
    for at in random.sample(x.len(), samples) {
        let step = 1e-5 * x[at].abs().max(0.1);
        let mut side = |sign: f64| {
            moved[at] = x[at] + sign * step;
            let value = f(&moved);
            moved[at] = x[at];
            value
        };
        let expected = (side(1.0) - side(-1.0)) / (2.0 * step);
        let actual = f64::from(gradient[at]);
        // The last term allows for rounding in the differences.
        let allowed = 2e-5 * expected.abs() + 1e-5 * largest + 1e-9;
        assert!(
            (actual - expected).abs() <= allowed,
            "{what}[{at}] is {actual}, central differences give {expected}"
        );
    }
}

/// Σ a·b.
pub fn inner(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

/// Checks the result of `+=`: `before + by` in f32, within rounding.
pub fn added(what: &str, after: &[f32], before: &[f32], by: &[f32]) {
    assert_eq!(after.len(), before.len(), "{what}: lengths");
    let largest = by.iter().fold(0f32, |m, b| m.max(b.abs()));
    for (at, ((&after, &before), &by)) in after.iter().zip(before).zip(by).enumerate() {
        let error = (after - (before + by)).abs();
        let allowed = 2e-6 * (before.abs() + by.abs()) + 2e-6 * largest;
        assert!(error <= allowed, "{what}[{at}] is {after}, expected {before} + {by}");
    }
}
