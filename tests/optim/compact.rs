//! AdamW with bf16 moments: stochastic rounding is unbiased, useful and reproducible.

use horizon::base::{DType, master};
use horizon::host::{HostSpan, Isa, Pool};
use horizon::optim::{AdamOptions, AdamScalars, Rounding, Step};
use support::spans::{self, set, update, write_master, zero};

use crate::params::{BOTH, Params, isas, numbers};

fn moments(span: HostSpan) -> Vec<f32> {
    spans::numbers(span).into_iter().map(master::widen).collect()
}

#[test]
fn adam_compact_is_bit_equal_on_every_instruction_set() {
    let pool = Pool::new(1).unwrap();
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 7);
    let rounding = Rounding { seed: 1, step: 7, first: 12345 };
    for (n, dtype) in (0..=96).chain([1000, 4097]).flat_map(|n| BOTH.map(|dtype| (n, dtype))) {
        for (offset, decay) in [(0, true), (1, false), (17, true)] {
            let outcomes: Vec<(Isa, Vec<u8>)> = isas()
                .map(|isa| {
                    let params = Params::random(n, offset, dtype, n as u64);
                    let step = Step { isa, gradient_scale: 0.5, decay, rounding, ..Step::new(scalars) };
                    update(&pool, &params.compact(), &step);
                    (isa, params.bytes())
                })
                .collect();
            for (isa, bytes) in &outcomes[1..] {
                assert!(*bytes == outcomes[0].1, "{isa} differs, n {n}, start {offset}, {dtype}");
            }
        }
    }
}

/// Varies threads, and slices of the parameters with the right offset, across the border where the
/// random keys change.
#[test]
fn adam_compact_does_not_depend_on_threads_or_slices() {
    let n = 100_003;
    let scalars = AdamScalars::new(&AdamOptions::default(), 1e-3, 3);
    let rounding = |first| Rounding { seed: 8, step: 3, first };
    for first in [0, (1 << 32) - 50_000] {
        let outcome = |threads: usize, ends: &[usize]| {
            let params = Params::random(n, 0, DType::Bf16, 5);
            let (spans, pool) = (params.compact(), Pool::new(threads).unwrap());
            let mut start = 0;
            for end in ends {
                let rounding = rounding(first + start as u64);
                let step = Step { rounding, ..Step::new(scalars) };
                update(&pool, &spans.slice(start, end - start), &step);
                start = *end;
            }
            params.bytes()
        };
        let whole = outcome(1, &[n]);
        for (threads, ends) in [(2, vec![n]), (7, vec![n]), (2, vec![1, 16_385, 50_001, n])] {
            assert!(
                outcome(threads, &ends) == whole,
                "{threads} threads, slices ending at {ends:?}, first {first}"
            );
        }
    }
}

/// Parameters equal those with f32 moments; only the stored moments differ.
#[test]
fn adam_compact_rounds_after_the_update() {
    let pool = Pool::new(1).unwrap();
    let scalars = AdamScalars::new(&AdamOptions::default(), 1e-3, 3);
    let n = 1000;
    let small = Params::random(n, 0, DType::Bf16, 5);
    let spans = small.compact();
    let large = Params::random(n, 0, DType::Bf16, 5);
    set(large.m, &moments(spans.state[0]));
    set(large.v, &moments(spans.state[1]));
    let step = Step { rounding: Rounding { seed: 0, step: 3, first: 0 }, ..Step::new(scalars) };
    update(&pool, &spans, &step);
    update(&pool, &large.spans, &step);
    assert_eq!(small.master(), large.master());
    for (small, large) in spans.state.into_iter().zip(large.spans.state) {
        for (stored, exact) in moments(small).into_iter().zip(numbers(large)) {
            let exact = exact.to_bits();
            let (below, stored) = (exact & 0xffff_0000, stored.to_bits());
            let neighbours = if exact == below { [below; 2] } else { [below, below.wrapping_add(0x1_0000)] };
            assert!(neighbours.contains(&stored), "{stored:#x} for {exact:#x}");
        }
    }
}

/// With β = 0 a moment is the gradient itself, so the stored moment shows only the rounding. Bound:
/// the mean of n rounded values has a standard deviation of at most half a step over √n; 5 are
/// allowed.
#[test]
fn adam_compact_rounding_is_unbiased() {
    let pool = Pool::new(2).unwrap();
    let n = 1 << 20;
    let options = AdamOptions { beta1: 0.0, beta2: 0.0, ..AdamOptions::default() };
    for value in [1.0 + 1.0 / 1024.0, -1.7012345f32, 3.3e-12, 0.999_999_94] {
        let params = Params::random(n, 0, DType::F32, 1);
        let spans = params.compact();
        params.set_gradient(&vec![value; n]);
        for moments in spans.state {
            zero(moments);
        }
        let rounding = Rounding { seed: 2, step: 1, first: 0 };
        let scalars = AdamScalars::new(&options, 1e-3, 1);
        update(&pool, &spans, &Step { decay: false, rounding, ..Step::new(scalars) });
        for (span, exact) in spans.state.into_iter().zip([value, value * value]) {
            let stored = moments(span);
            let mean = stored.iter().map(|stored| f64::from(*stored)).sum::<f64>() / n as f64;
            let step = f64::from(f32::from_bits((exact.to_bits() & 0xffff_0000) + 0x1_0000))
                - f64::from(f32::from_bits(exact.to_bits() & 0xffff_0000));
            let bound = 5.0 * step.abs() / 2.0 / (n as f64).sqrt();
            assert!((mean - f64::from(exact)).abs() < bound, "{mean} for {exact}, {bound} allowed");
        }
    }
}

/// v decays from 1 when gradients are zero. With rounding to nearest it never changes; with
/// stochastic rounding its mean follows 0.999^step. Bound: 1 % of the mean over 4096 elements.
#[test]
fn adam_compact_moments_decay_where_rounding_to_nearest_stalls() {
    let pool = Pool::new(2).unwrap();
    let n = 4096;
    let options = AdamOptions::default();
    let params = Params::new(n, 0, DType::Bf16);
    write_master(params.weights, params.residual, &vec![1.0; n]);
    zero(params.spans.gradient);
    zero(params.m);
    set(params.v, &vec![1f32; n]);
    let spans = params.compact();
    let mut nearest = 1f32;
    let steps = 2000;
    for step in 1..=steps {
        let scalars = AdamScalars::new(&options, 1e-3, step);
        let rounding = Rounding { seed: 4, step, first: 0 };
        update(&pool, &spans, &Step { decay: false, rounding, ..Step::new(scalars) });
        nearest = master::widen(master::round(nearest + scalars.gain2 * (0.0 - nearest)));
    }
    assert_eq!(nearest, 1.0);
    let mean = moments(spans.state[1]).iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
    let exact = 0.999f64.powi(steps as i32);
    assert!((mean / exact - 1.0).abs() < 0.01, "{mean} for {exact}");
}
