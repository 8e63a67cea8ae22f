//! RoPE against its f64 reference.

use horizon::base::{Dims, Shape};
use horizon::ops::{Heads, QueryScaling, Rope, RopeDirection, Rotation};
use support::reference::compare::inner;
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

/// Whole heads; the first elements, in both orders of pairs; queries whose factor depends on the
/// position.
fn rotations(heads: &Heads) -> [Rotation; 4] {
    let (whole, part) = (Rotation::whole(heads), (heads.d / 2).next_multiple_of(2));
    let queries = Some(QueryScaling { beta: 0.3, positions: 4 });
    [
        whole,
        Rotation { r: part, factor: 1.25, ..whole },
        Rotation { r: part, interleaved: true, ..whole },
        Rotation { interleaved: true, factor: 0.75, queries, ..whole },
    ]
}

#[test]
fn forward_rotates_and_backward_rotates_back() {
    for device in Device::all() {
        let mut random = Random::new(6);
        for &(b, t, h, g, d, reason) in SIZES.iter().filter(|size| device.takes_heads(size.4)) {
            let (shape, dims) = (Shape { b, t }, dims(h, g, d));
            let (n, heads) = (shape.n(), Heads::from(&dims));
            let qkv = device.stored(random.f32s(n * dims.qkv(), 1.0));
            let starts = documents(shape, &mut random);
            let documents = DocumentRows::new(&device, shape, &starts);
            let positions = documents.rows().positions;
            for rotation in rotations(&heads) {
                let inv_freq = frequencies(10_000.0, rotation.r);
                let inv_freq_memory = device.f32s(&inv_freq);
                let results = device.run(|k| {
                    let directions = [RopeDirection::Forward, RopeDirection::Backward];
                    let rotated = directions.map(|direction| {
                        let (memory, inv_freq) = (device.activations(&qkv), inv_freq_memory.span());
                        let qkv = memory.span();
                        spans::run(
                            k,
                            &Rope { qkv, positions, inv_freq, direction, rotation, n, heads }.into(),
                        );
                        memory
                    });
                    rotated.into()
                });
                for (result, direction) in results.iter().zip([1.0, -1.0]) {
                    let truth = rope(&wide(&qkv), &starts, shape, (&rotation, &inv_freq), &dims, direction);
                    let expected =
                        Expected { truth: &truth, naive: None, width: d, factor: 2.0, f32: (1e-6, 2e-7) };
                    device.agrees(&format!("{reason}, {rotation:?}"), result, expected);
                }
            }
        }
    }
}

/// ⟨R·x, y⟩ = ⟨x, Rᵀ·y⟩ with R forward and Rᵀ backward.
#[test]
fn backward_is_the_transpose_of_forward() {
    let mut random = Random::new(7);
    let (shape, dims) = (Shape { b: 2, t: 33 }, dims(4, 2, 16));
    let (n, heads, starts) = (shape.n(), Heads::from(&dims), documents(shape, &mut random));
    let documents = DocumentRows::new(&Device::Cpu, shape, &starts);
    let [x, y] = [0; 2].map(|_| random.f32s(n * dims.qkv(), 1.0));
    for rotation in rotations(&heads) {
        let inv_freq = Device::Cpu.f32s(&frequencies(10_000.0, rotation.r));
        let rotated = |values: &[f32], direction| {
            let results = Device::Cpu.run(|k| {
                let memory = Device::Cpu.activations(values);
                let (qkv, positions, inv_freq) = (memory.span(), documents.rows().positions, inv_freq.span());
                spans::run(k, &Rope { qkv, positions, inv_freq, direction, rotation, n, heads }.into());
                vec![memory]
            });
            wide(&results[0].read_f32())
        };
        let forward = inner(&rotated(&x, RopeDirection::Forward), &y);
        let backward = inner(&rotated(&y, RopeDirection::Backward), &x);
        assert!((forward - backward).abs() <= 1e-5 * forward.abs(), "{rotation:?}: {forward}, {backward}");
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
            [
                (3, 10_000.0),
                (9, 10_000.0),
                (9, 500_000.0),
                (4, 500_000.0),
                (12, 10_000.0),
                (5, 700.0),
                (9, 10_000.0),
            ]
            .map(|(t, theta)| turn(t, theta))
            .into()
        });
    }
}
