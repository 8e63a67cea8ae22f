//! AdamW with f32 moments: against f64, and across instruction sets, threads, lengths and
//! alignments.

use std::panic::{AssertUnwindSafe, catch_unwind};

use horizon::base::{DType, Status, master};
use horizon::host::{HostSpan, Isa, Pool};
use horizon::optim::{AdamOptions, AdamScalars, Master, Spans, Step};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::spans::{self, update, write_master, zero};

use crate::params::{BOTH, Params, isas, numbers};

/// One step of the formula in f64.
#[derive(Clone, Copy)]
struct Reference {
    p: f64,
    m: f64,
    v: f64,
}

impl Reference {
    fn update(&mut self, options: &AdamOptions, lr: f64, step: i32, g: f64, decay: bool) {
        self.m = options.beta1 * self.m + (1.0 - options.beta1) * g;
        self.v = options.beta2 * self.v + (1.0 - options.beta2) * g * g;
        let m = self.m / (1.0 - options.beta1.powi(step));
        let v = self.v / (1.0 - options.beta2.powi(step));
        if decay {
            self.p *= 1.0 - lr * options.weight_decay;
        }
        self.p -= lr * m / (v.sqrt() + options.eps);
    }
}

#[test]
fn adam_follows_f64_for_a_thousand_steps() {
    let n = 257;
    let pool = Pool::new(2).unwrap();
    for (dtype, decay) in [(DType::F32, true), (DType::Bf16, false), (DType::Bf16, true)] {
        let options = AdamOptions { weight_decay: 0.1, ..AdamOptions::default() };
        let params = Params::new(n, 0, dtype);
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let start: Vec<f32> = (0..n).map(|_| random.random_range(-1.0..1.0)).collect();
        write_master(params.weights, params.residual, &start);
        zero(params.m);
        zero(params.v);
        let mut reference: Vec<Reference> =
            start.iter().map(|p| Reference { p: f64::from(*p), m: 0.0, v: 0.0 }).collect();
        let scale = 0.37f32;
        for step in 1..=1000 {
            let lr = 1e-3 * (1.0 - f64::from(step) / 2000.0);
            // Gradients have different magnitudes per element; every 100 steps their sign tends to change.
            let gradient: Vec<f32> = (0..n)
                .map(|at| {
                    let size = 10f32.powi(at as i32 % 7 - 5);
                    size * (random.random_range(-1.0f32..1.0)
                        + if (step / 100 + at as i32) % 2 == 0 { 0.5 } else { -0.5 })
                })
                .collect();
            params.set_gradient(&gradient);
            let stored: Vec<f32> = match dtype {
                DType::F32 => numbers(params.spans.gradient),
                DType::Bf16 => spans::numbers(params.spans.gradient).into_iter().map(master::widen).collect(),
            };
            let scalars = AdamScalars::new(&options, lr, step as u64);
            let update_step = Step { gradient_scale: scale, decay, ..Step::new(scalars) };
            update(&pool, &params.spans, &update_step);
            for (reference, stored) in reference.iter_mut().zip(stored) {
                reference.update(&options, lr, step, f64::from(stored * scale), decay);
            }
        }
        let (m, v, p) = (numbers(params.m), numbers(params.v), params.master());
        for (at, reference) in reference.iter().enumerate() {
            // f32 rounds p once per step, by at most 3e-8 below 1: 3e-5 in total if all errors had the same
            // sign.
            assert!((f64::from(p[at]) - reference.p).abs() < 6e-6, "p[{at}]: {} for {}", p[at], reference.p);
            let size = reference.v.sqrt();
            assert!(
                (f64::from(m[at]) - reference.m).abs() < 1e-6 * size,
                "m[{at}]: {} for {}",
                m[at],
                reference.m
            );
            assert!(
                (f64::from(v[at]) / reference.v - 1.0).abs() < 2e-6,
                "v[{at}]: {} for {}",
                v[at],
                reference.v
            );
        }
    }
}

#[test]
fn adam_first_step_moves_by_the_learning_rate() {
    let pool = Pool::new(1).unwrap();
    let params = Params::new(4, 0, DType::F32);
    write_master(params.weights, params.residual, &[1.0, 1.0, -2.0, 0.0]);
    zero(params.m);
    zero(params.v);
    params.set_gradient(&[3.0, -0.5, 1e-3, 0.0]);
    let options = AdamOptions { weight_decay: 0.5, ..AdamOptions::default() };
    update(&pool, &params.spans, &Step::new(AdamScalars::new(&options, 0.01, 1)));
    let expected = [1.0 - 0.005 - 0.01, 1.0 - 0.005 + 0.01, -2.0 + 0.01 - 0.01, 0.0];
    for (found, expected) in params.master().iter().zip(expected) {
        assert!((found - expected).abs() < 3e-7, "{found} for {expected}");
    }
}

#[test]
fn adam_is_bit_equal_on_every_instruction_set() {
    let pool = Pool::new(1).unwrap();
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 7);
    // Up to three times the widest vector of any version, 32 elements of 16 bits.
    for (n, dtype) in (0..=96).chain([1000, 4097]).flat_map(|n| BOTH.map(|dtype| (n, dtype))) {
        for (offset, decay) in [(0, true), (1, false), (3, true), (17, true)] {
            let outcomes: Vec<(Isa, Vec<u8>)> = isas()
                .map(|isa| {
                    let params = Params::random(n, offset, dtype, n as u64);
                    let step = Step { isa, gradient_scale: 0.5, decay, ..Step::new(scalars) };
                    update(&pool, &params.spans, &step);
                    (isa, params.bytes())
                })
                .collect();
            for (isa, bytes) in &outcomes[1..] {
                assert!(*bytes == outcomes[0].1, "{isa} differs, n {n}, start {offset}, {dtype}");
            }
        }
    }
}

#[test]
fn adam_writes_only_its_spans() {
    let pool = Pool::new(2).unwrap();
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 1);
    for isa in isas() {
        let params = Params::random(777, 5, DType::Bf16, 1);
        let before = params.bytes();
        update(&pool, &params.spans, &Step { isa, ..Step::new(scalars) });
        let base = params.arena.whole().address() as usize;
        let own =
            |span: HostSpan| span.address() as usize - base..span.address() as usize - base + span.bytes();
        let spans = [params.weights, params.residual, params.m, params.v].map(own);
        for (at, (old, new)) in before.iter().zip(params.bytes()).enumerate() {
            assert!(*old == new || spans.iter().any(|span| span.contains(&at)), "{isa} wrote byte {at}");
        }
        assert_ne!(params.bytes(), before);
    }
}

#[test]
fn adam_does_not_depend_on_threads() {
    let n = 200_003;
    let scalars = AdamScalars::new(&AdamOptions::default(), 1e-3, 3);
    for dtype in BOTH {
        let outcomes: Vec<Vec<u8>> = [1, 2, 7]
            .map(|threads| {
                let params = Params::random(n, 0, dtype, 5);
                update(&Pool::new(threads).unwrap(), &params.spans, &Step::new(scalars));
                params.bytes()
            })
            .into();
        assert!(outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2], "{dtype}");
    }
}

/// With updates far below half a bf16 step, bf16 weights never change; the split master changes
/// like f32.
#[test]
fn adam_on_a_split_master_does_not_stall_like_bf16() {
    let pool = Pool::new(1).unwrap();
    let options = AdamOptions { weight_decay: 0.0, ..AdamOptions::default() };
    let params = Params::new(1, 0, DType::F32);
    write_master(params.weights, params.residual, &[1.0]);
    zero(params.m);
    zero(params.v);
    params.set_gradient(&[1.0]);
    let (mut bf16, mut m, mut v, mut f32_weight) = (master::round(1.0), 0f32, 0f32, 1f32);
    for step in 1..=3000u64 {
        let scalars = AdamScalars::new(&options, 1e-5, step);
        update(&pool, &params.spans, &Step::new(scalars));
        m += scalars.gain1 * (1.0 - m);
        v += scalars.gain2 * (1.0 - v);
        let change = scalars.step_size * m / (v.sqrt() * scalars.inv_sqrt_bias2 + scalars.eps);
        bf16 = master::round(master::widen(bf16) - change);
        f32_weight -= change;
    }
    assert_eq!(master::widen(bf16), 1.0, "plain bf16 weights do not change");
    assert_eq!(params.master()[0], f32_weight, "the split master equals f32");
    assert!((f32_weight - 0.97).abs() < 1e-4);
    assert_eq!(master::widen(spans::numbers(params.weights)[0]), 0.96875, "the uploaded bf16 weight follows");
}

#[test]
fn adam_applies_decay_only_if_the_step_says_so() {
    let pool = Pool::new(1).unwrap();
    let options = AdamOptions { weight_decay: 0.1, ..AdamOptions::default() };
    let scalars = AdamScalars::new(&options, 0.1, 1);
    for (decay, expected) in [(true, 1.98f32), (false, 2.0)] {
        let params = Params::new(40, 0, DType::Bf16);
        write_master(params.weights, params.residual, &[2.0; 40]);
        zero(params.m);
        zero(params.v);
        params.set_gradient(&[0.0; 40]);
        update(&pool, &params.spans, &Step { decay, ..Step::new(scalars) });
        assert!(params.master().iter().all(|p| (p - expected).abs() < 2e-7), "{:?}", params.master());
    }
}

/// As in the padding of a layout: zero weights, zero gradients.
#[test]
fn adam_keeps_zeros_zero() {
    let pool = Pool::new(1).unwrap();
    for isa in isas() {
        let params = Params::new(50, 0, DType::Bf16);
        for span in [params.weights, params.residual, params.spans.gradient, params.m, params.v] {
            zero(span);
        }
        let before = params.bytes();
        let scalars = AdamScalars::new(&AdamOptions::default(), 1.0, 1);
        update(&pool, &params.spans, &Step { isa, ..Step::new(scalars) });
        assert!(params.bytes() == before, "{isa}");
    }
}

#[test]
fn adam_scalars_depend_on_the_step_number() {
    let options = AdamOptions::default();
    let late = AdamScalars::new(&options, 1e-3, u64::MAX);
    assert_eq!((late.step_size, late.inv_sqrt_bias2), (1e-3, 1.0));
    let first = AdamScalars::new(&options, 1e-3, 1);
    assert_eq!((first.step_size, first.gain1, first.gain2), (1e-2, 0.1, 0.001));
    assert!(catch_unwind(|| AdamScalars::new(&options, 1e-3, 0)).is_err());
}

#[test]
fn adam_refuses_invalid_options() {
    AdamOptions::default().check().unwrap();
    let wrong = [
        AdamOptions { beta1: 1.0, ..AdamOptions::default() },
        AdamOptions { beta2: -0.1, ..AdamOptions::default() },
        AdamOptions { beta2: f64::NAN, ..AdamOptions::default() },
        AdamOptions { eps: 0.0, ..AdamOptions::default() },
        AdamOptions { eps: 1e-50, ..AdamOptions::default() },
        AdamOptions { weight_decay: -1.0, ..AdamOptions::default() },
        AdamOptions { weight_decay: f64::INFINITY, ..AdamOptions::default() },
    ];
    for options in wrong {
        assert_eq!(options.check().unwrap_err().status(), Status::InvalidArgument, "{options:?}");
    }
}

#[test]
fn adam_refuses_spans_of_different_lengths() {
    let pool = Pool::new(1).unwrap();
    let step = Step::new(AdamScalars::new(&AdamOptions::default(), 1e-3, 1));
    let params = Params::random(100, 0, DType::Bf16, 1);
    let short = |span: HostSpan, size: usize| span.subspan(0, 99 * size);
    let (m, v) = (params.m, params.v);
    let shorter = Spans { state: [short(m, 4), short(v, 4)], ..params.spans.slice(0, 99) };
    update(&pool, &shorter, &step);
    let refused = |spans: Spans| catch_unwind(AssertUnwindSafe(|| update(&pool, &spans, &step))).is_err();
    let (weights, residual) = (params.weights, params.residual);
    for spans in [
        Spans { state: [m, short(v, 4)], ..params.spans },
        Spans { state: [short(m, 4), v], ..params.spans },
        Spans { gradient: short(params.spans.gradient, 2), ..params.spans },
        Spans { master: Master::Split { weights, residual: short(residual, 2) }, ..params.spans },
        Spans { master: Master::Split { weights: short(weights, 2), residual }, ..params.spans },
    ] {
        assert!(refused(spans), "{spans:?}");
    }
    let misaligned = params.arena.whole().subspan(1, 198);
    let residual = short(residual, 2);
    let master = Master::Split { weights: misaligned, residual };
    assert!(refused(Spans { master, ..params.spans.slice(0, 99) }));
    let compact = params.compact();
    let master = Master::Whole { params: m, copy: None };
    assert!(refused(Spans { master, ..compact }), "whole masters with bf16 moments must be refused");
}

#[test]
fn writing_and_reading_a_split_master_is_exact() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for n in [0, 1, 1023, 1024, 1025, 5000] {
        let params = Params::new(n, 1, DType::Bf16);
        let values: Vec<f32> = (0..n).map(|_| f32::from_bits(random.random())).collect();
        write_master(params.weights, params.residual, &values);
        assert!(params.master().iter().map(|p| p.to_bits()).eq(values.iter().map(|p| p.to_bits())));
    }
}
