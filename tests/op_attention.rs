//! Attention against its f64 reference.

mod reference;

use horizon::base::{Dims, Shape};
use horizon::ops::Kernels;
use reference::compare::{close, gradient_of, inner};
use reference::decoder::documents;
use reference::memory::{Memory, on_any_threads};
use reference::rows::DocumentRows;
use reference::{Random, attention, wide};

/// `(b, t, h, g, d, reason)`.
const SIZES: &[(usize, usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 1, 2, "the smallest"),
    (2, 2, 2, 1, 4, "one key head for all"),
    (2, 31, 4, 2, 6, "grouped heads, less than a block"),
    (1, 33, 3, 3, 16, "as many key heads as query heads"),
    (1, 64, 2, 1, 8, "exactly one block of queries"),
    (2, 127, 2, 2, 10, "one row before two blocks"),
    (1, 200, 4, 1, 12, "blocks of keys above the diagonal"),
    (1, 321, 2, 1, 32, "three blocks of keys and a tail"),
];

struct Case {
    shape: Shape,
    dims: Dims,
    qkv: Vec<f32>,
    starts: Vec<i32>,
    reason: &'static str,
}

/// Every size with whole sequences and with documents.
fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(b, t, h, g, d, reason) in SIZES {
        let (shape, dims) = (Shape { b, t }, Dims { c: 1, h, g, d, f: 1, v: 1, l: 1 });
        for starts in [vec![0; shape.n()], documents(shape, random)] {
            let qkv = random.f32s(shape.n() * dims.qkv(), 2.0);
            cases.push(Case { shape, dims, qkv, starts, reason });
        }
    }
    cases
}

#[test]
fn forward_agrees() {
    let mut random = Random::new(8);
    for Case { shape, dims, qkv, starts, reason } in cases(&mut random) {
        let (qkv_memory, documents) = (Memory::f32s(&qkv), DocumentRows::new(shape, &starts));
        let rows = documents.rows();
        let results = on_any_threads(|k| {
            let out = Memory::painted(shape.n() * dims.attended() * 4);
            let lse = Memory::painted(shape.n() * dims.h * 4);
            k.attention_forward(out.span(), lse.span(), qkv_memory.span(), &rows, &dims);
            vec![out, lse]
        });
        let (out, lse) = attention(&wide(&qkv), &starts, shape, &dims);
        close(reason, &results[0].read_f32(), &out, 1e-5, 2e-6);
        close(reason, &results[1].read_f32(), &lse, 1e-6, 1e-6);
    }
}

#[test]
fn backward_agrees() {
    let mut random = Random::new(9);
    for Case { shape, dims, qkv, starts, reason } in cases(&mut random) {
        let (qkv_memory, documents) = (Memory::f32s(&qkv), DocumentRows::new(shape, &starts));
        let rows = documents.rows();
        let dout = random.f32s(shape.n() * dims.attended(), 1.0);
        let dout_memory = Memory::f32s(&dout);
        let results = on_any_threads(|k| {
            let out = Memory::painted(shape.n() * dims.attended() * 4);
            let lse = Memory::painted(shape.n() * dims.h * 4);
            let dqkv = Memory::painted(shape.n() * dims.qkv() * 4);
            k.attention_forward(out.span(), lse.span(), qkv_memory.span(), &rows, &dims);
            k.attention_backward(
                dqkv.span(),
                dout_memory.span(),
                out.span(),
                lse.span(),
                qkv_memory.span(),
                &rows,
                &dims,
            );
            vec![dqkv]
        });
        gradient_of(reason, &results[0].read_f32(), &wide(&qkv), 10, &mut random, |qkv| {
            inner(&attention(qkv, &starts, shape, &dims).0, &dout)
        });
    }
}

/// What stands in other documents and later rows is never read: NaNs there change nothing.
#[test]
fn nothing_outside_the_run_is_read() {
    let mut random = Random::new(10);
    let (shape, dims) = (Shape { b: 1, t: 150 }, Dims { c: 1, h: 2, g: 1, d: 8, f: 1, v: 1, l: 1 });
    let mut starts = vec![0; 70];
    starts.resize(150, 70);
    let clean = random.f32s(shape.n() * dims.qkv(), 1.0);
    let mut loud = clean.clone();
    for value in &mut loud[..70 * dims.qkv()] {
        *value *= 1e6;
    }
    let documents = DocumentRows::new(shape, &starts);
    let rows = documents.rows();
    let second_document = |qkv: &[f32]| {
        let qkv = Memory::f32s(qkv);
        let results = on_any_threads(|k| {
            let (out, lse) = (Memory::painted(150 * 16 * 4), Memory::painted(150 * 2 * 4));
            k.attention_forward(out.span(), lse.span(), qkv.span(), &rows, &dims);
            vec![out]
        });
        results[0].read_f32()[70 * 16..].to_vec()
    };
    assert_eq!(second_document(&clean), second_document(&loud));
}
