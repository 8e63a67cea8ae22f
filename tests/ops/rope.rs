//! RoPE against its f64 reference.

use horizon::base::{Dims, Shape};
use horizon::ops::{Heads, Rope, RopeDirection, Rotation};
use support::reference::decoder::documents;
use support::reference::device::{Device, Expected};
use support::reference::rows::DocumentRows;
use support::reference::{Random, frequencies, rope, wide};
use support::spans;

/// `(b, t, h, g, d, reason)`.
const SIZES: &[(usize, usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 1, 2, "the smallest"),
    (2, 31, 4, 2, 6, "GQA, half a vector"),
    (1, 33, 3, 1, 34, "MQA, an odd half"),
    (1, 1, 1, 1, 64, "the smallest heads of CUDA's attention"),
    (3, 65, 2, 2, 64, "rows of several tiles, MHA"),
    (2, 17, 6, 2, 96, "GQA, threads of a block that share no power of two"),
    (1, 5, 2, 1, 256, "the largest heads"),
];

fn dims(h: usize, g: usize, d: usize) -> Dims {
    Dims { c: 1, h, g, d, f: 1, v: 1, l: 1 }
}

#[test]
fn forward_rotates_and_backward_rotates_back() {
    for device in Device::all() {
        let mut random = Random::new(6);
        for &(b, t, h, g, d, reason) in SIZES.iter().filter(|size| device.takes_heads(size.4)) {
            let (shape, dims, inv_freq) = (Shape { b, t }, dims(h, g, d), frequencies(10_000.0, d));
            let qkv = device.stored(random.f32s(shape.n() * dims.qkv(), 1.0));
            let starts = documents(shape, &mut random);
            let (documents, inv_freq_memory) =
                (DocumentRows::new(&device, shape, &starts), device.f32s(&inv_freq));
            let (n, heads) = (shape.n(), Heads::from(&dims));
            let rotation = Rotation::whole(&heads);
            let (positions, inv_freq_span) = (documents.rows().positions, inv_freq_memory.span());
            let results = device.run(|k| {
                let (forward, backward) = (device.activations(&qkv), device.activations(&qkv));
                for (memory, direction) in
                    [(&forward, RopeDirection::Forward), (&backward, RopeDirection::Backward)]
                {
                    let (qkv, inv_freq) = (memory.span(), inv_freq_span);
                    spans::run(k, &Rope { qkv, positions, inv_freq, direction, rotation, n, heads }.into());
                }
                vec![forward, backward]
            });
            // A rotation's gradient is the rotation by the opposite angle.
            for (result, direction) in results.iter().zip([1.0, -1.0]) {
                let truth = rope(&wide(&qkv), &starts, shape, (&rotation, &inv_freq), &dims, direction);
                let expected =
                    Expected { truth: &truth, naive: None, width: d, factor: 2.0, f32: (1e-6, 2e-7) };
                device.agrees(reason, result, expected);
            }
        }
    }
}

#[test]
fn cached_tables_are_not_used_for_longer_sequences_or_other_bases() {
    let dims = dims(1, 1, 64);
    let rotation = Rotation::whole(&Heads::from(&dims));
    for device in Device::all() {
        device.run(|k| {
            let turn = |t: usize, theta: f64| {
                let shape = Shape { b: 1, t };
                let qkv = device.stored((0..t * dims.qkv()).map(|i| (i as f32).sin()).collect());
                let (memory, documents) =
                    (device.activations(&qkv), DocumentRows::new(&device, shape, &vec![0; t]));
                let inv_freq = frequencies(theta, dims.d);
                let inv_freq_memory = device.f32s(&inv_freq);
                let turn = Rope {
                    qkv: memory.span(),
                    positions: documents.rows().positions,
                    inv_freq: inv_freq_memory.span(),
                    direction: RopeDirection::Forward,
                    rotation,
                    n: t,
                    heads: Heads::from(&dims),
                };
                spans::run(k, &turn.into());
                let truth = rope(&wide(&qkv), &vec![0; t], shape, (&rotation, &inv_freq), &dims, 1.0);
                let expected =
                    Expected { truth: &truth, naive: None, width: dims.d, factor: 2.0, f32: (1e-6, 2e-7) };
                device.agrees("qkv", &memory, expected);
                memory
            };
            vec![turn(3, 10_000.0), turn(9, 10_000.0), turn(9, 500_000.0), turn(4, 500_000.0)]
        });
    }
}
