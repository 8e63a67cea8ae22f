//! Rotary positions against their f64 reference.

mod reference;

use horizon::base::{Dims, Shape};
use horizon::ops::Kernels;
use reference::compare::close;
use reference::decoder::documents;
use reference::memory::{Memory, on_any_threads};
use reference::rows::DocumentRows;
use reference::{Random, frequencies, rope, wide};

/// `(b, t, h, g, d, reason)`.
const SIZES: &[(usize, usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 1, 2, "the smallest"),
    (2, 31, 4, 2, 6, "grouped heads, half a vector"),
    (1, 33, 3, 1, 34, "one key head, an odd half"),
    (3, 65, 2, 2, 64, "rows of several tiles, as many key heads as query heads"),
];

#[test]
fn forward_turns_and_backward_turns_back() {
    let mut random = Random::new(6);
    for &(b, t, h, g, d, _) in SIZES {
        let (shape, dims) = (Shape { b, t }, Dims { c: 1, h, g, d, f: 1, v: 1, l: 1 });
        let (qkv, starts) = (random.f32s(shape.n() * dims.qkv(), 1.0), documents(shape, &mut random));
        let inv_freq = frequencies(10_000.0, d);
        let (documents, inv_freq_memory) = (DocumentRows::new(shape, &starts), Memory::f32s(&inv_freq));
        let rows = documents.rows();
        let results = on_any_threads(|k| {
            let (forward, backward) = (Memory::f32s(&qkv), Memory::f32s(&qkv));
            k.rope_forward(forward.span(), &rows, inv_freq_memory.span(), &dims);
            k.rope_backward(backward.span(), &rows, inv_freq_memory.span(), &dims);
            vec![forward, backward]
        });
        // A rotation's gradient is the rotation by the opposite angle.
        for (result, direction) in results.iter().zip([1.0, -1.0]) {
            let expected = rope(&wide(&qkv), &starts, shape, &inv_freq, &dims, direction);
            close("qkv", &result.read_f32(), &expected, 1e-6, 2e-7);
        }
    }
}

#[test]
fn a_longer_sequence_and_another_base_are_not_taken_from_old_tables() {
    let dims = Dims { c: 1, h: 1, g: 1, d: 8, f: 1, v: 1, l: 1 };
    on_any_threads(|k| {
        let turn = |t: usize, theta: f64| {
            let shape = Shape { b: 1, t };
            let qkv: Vec<f32> = (0..t * dims.qkv()).map(|i| (i as f32).sin()).collect();
            let (memory, documents) = (Memory::f32s(&qkv), DocumentRows::new(shape, &vec![0; t]));
            let inv_freq = frequencies(theta, dims.d);
            k.rope_forward(memory.span(), &documents.rows(), Memory::f32s(&inv_freq).span(), &dims);
            let expected = rope(&wide(&qkv), &vec![0; t], shape, &inv_freq, &dims, 1.0);
            close("qkv", &memory.read_f32(), &expected, 1e-6, 2e-7);
            memory
        };
        vec![turn(3, 10_000.0), turn(9, 10_000.0), turn(9, 500_000.0), turn(4, 500_000.0)]
    });
}
