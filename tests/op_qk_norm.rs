//! The norm of query and key heads against its f64 reference.

mod reference;

use horizon::base::Dims;
use horizon::ops::{Kernels, Write};
use reference::compare::{added, close, gradient_of, inner};
use reference::memory::{Memory, on_any_threads};
use reference::{Random, qk_norm, wide};

const EPS: f32 = 1e-5;

/// `(n, h, g, d, reason)`.
const SIZES: &[(usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 2, "the smallest"),
    (31, 4, 2, 6, "grouped heads, less than a tile of rows"),
    (64, 3, 1, 34, "one key head, exactly a tile of rows, a head longer than the lanes of a sum"),
    (65, 2, 2, 64, "as many key heads as query heads, one row after a tile"),
    (130, 4, 1, 10, "two tiles and a tail"),
];

struct Case {
    n: usize,
    dims: Dims,
    qkv: Vec<f32>,
    weights: [Vec<f32>; 2],
    reason: &'static str,
}

fn cases(random: &mut Random) -> Vec<Case> {
    let case = |&(n, h, g, d, reason): &(usize, usize, usize, usize, &'static str)| {
        let dims = Dims { c: 1, h, g, d, f: 1, v: 1, l: 1 };
        let qkv = random.f32s(n * dims.qkv(), 2.0);
        Case { n, dims, qkv, weights: [random.bf16s(d, 1.5), random.bf16s(d, 1.5)], reason }
    };
    SIZES.iter().map(case).collect()
}

#[test]
fn forward_agrees() {
    let mut random = Random::new(31);
    for Case { n, dims, qkv, weights, reason } in cases(&mut random) {
        let qkv_memory = Memory::f32s(&qkv);
        let weights_memory = weights.each_ref().map(|weight| Memory::bf16s(weight));
        let spans = weights_memory.each_ref().map(Memory::span);
        let results = on_any_threads(|k| {
            let out = Memory::painted(n * dims.qkv() * 4);
            let rstd = Memory::painted(n * (dims.h + dims.g) * 4);
            k.qk_norm_forward(out.span(), rstd.span(), qkv_memory.span(), spans, EPS, n, &dims);
            vec![out, rstd]
        });
        let [q, k] = weights.each_ref().map(|weight| wide(weight));
        let (out, rstd) = qk_norm(&wide(&qkv), [&q, &k], f64::from(EPS), &dims);
        close(reason, &results[0].read_f32(), &out, 2e-6, 0.0);
        close(reason, &results[1].read_f32(), &rstd, 2e-6, 0.0);
    }
}

#[test]
fn backward_agrees() {
    let mut random = Random::new(32);
    for Case { n, dims, qkv, weights, reason } in cases(&mut random) {
        let d = dims.d;
        let (dout, before) = (random.f32s(n * dims.qkv(), 1.0), [random.f32s(d, 1.0), random.f32s(d, 1.0)]);
        let qkv_memory = Memory::f32s(&qkv);
        let weights_memory = weights.each_ref().map(|weight| Memory::bf16s(weight));
        let spans = weights_memory.each_ref().map(Memory::span);
        let [q64, k64] = weights.each_ref().map(|weight| wide(weight));
        let (_, rstd) = qk_norm(&wide(&qkv), [&q64, &k64], f64::from(EPS), &dims);
        let rstd = Memory::f32s(&rstd.iter().map(|&r| r as f32).collect::<Vec<_>>());
        let run = |write: Write| {
            on_any_threads(|k| {
                let dqkv = Memory::f32s(&dout);
                let dweights = before.each_ref().map(|before| match write {
                    Write::Set => Memory::painted(d * 4),
                    Write::Add => Memory::f32s(before),
                });
                let places = dweights.each_ref().map(Memory::span);
                k.qk_norm_backward(
                    dqkv.span(),
                    places,
                    write,
                    qkv_memory.span(),
                    rstd.span(),
                    spans,
                    n,
                    &dims,
                );
                let [dq, dk] = dweights;
                vec![dqkv, dq, dk]
            })
        };
        let [set, sum] = [Write::Set, Write::Add].map(run);
        let loss =
            |qkv: &[f64], q: &[f64], k: &[f64]| inner(&qk_norm(qkv, [q, k], f64::from(EPS), &dims).0, &dout);
        let qkv64 = wide(&qkv);
        let [dqkv, dq, dk] = [0, 1, 2].map(|at| set[at].read_f32());
        gradient_of(reason, &dqkv, &qkv64, 60, &mut random, |qkv| loss(qkv, &q64, &k64));
        gradient_of(reason, &dq, &q64, 40, &mut random, |q| loss(&qkv64, q, &k64));
        gradient_of(reason, &dk, &k64, 40, &mut random, |k| loss(&qkv64, &q64, k));
        assert_eq!(sum[0].bytes(), set[0].bytes(), "dqkv has other bits");
        added(reason, &sum[1].read_f32(), &before[0], &dq);
        added(reason, &sum[2].read_f32(), &before[1], &dk);
    }
}
