//! Products of a linear layer against their f64 reference.

mod reference;

use horizon::ops::{Kernels, Linear, Write};
use reference::compare::{added, close, gradient_of, inner};
use reference::memory::{Memory, on_any_threads};
use reference::{Random, matmul, wide};

/// `(n, k, m, reason)`.
const SIZES: &[(usize, usize, usize, &str)] = &[
    (1, 1, 1, "the smallest"),
    (1, 64, 48, "one row: a matrix times a vector"),
    (2, 3, 257, "few terms, one column after a tile"),
    (12, 8, 32, "small even sizes"),
    (13, 9, 33, "one row, one term, one column more than even"),
    (31, 33, 127, "tails everywhere"),
    (33, 130, 1, "one column"),
    (127, 31, 65, "few terms"),
    (193, 257, 258, "one row, term and column after a tile of a weight gradient"),
    (1025, 10, 7, "one row after a tile of activations, sums over rows in five parts"),
    (5, 20, 1100, "backward sums over five parts"),
    (70, 1030, 9, "forward sums over five parts"),
];

#[test]
fn forward_agrees() {
    let mut random = Random::new(3);
    for &(n, k, m, _) in SIZES {
        let (x, weight, residual) =
            (random.f32s(n * k, 1.0), random.bf16s(m * k, 1.0), random.f32s(n * m, 3.0));
        let (x_memory, weight_memory, residual_memory) =
            (Memory::f32s(&x), Memory::bf16s(&weight), Memory::f32s(&residual));
        let results = on_any_threads(|kernels| {
            let (plain, sum) = (Memory::painted(n * m * 4), Memory::painted(n * m * 4));
            let over = Memory::f32s(&residual);
            let (x, weight) = (x_memory.span(), weight_memory.span());
            kernels.matmul_forward(plain.span(), x, weight, None, Linear::dense(n, k, m));
            kernels.matmul_forward(
                sum.span(),
                x,
                weight,
                Some(residual_memory.span()),
                Linear::dense(n, k, m),
            );
            kernels.matmul_forward(over.span(), x, weight, Some(over.span()), Linear::dense(n, k, m));
            vec![plain, sum, over]
        });
        let expected = matmul(&wide(&x), &wide(&weight), k);
        close("out", &results[0].read_f32(), &expected, 1e-5, 1e-6);
        let expected: Vec<f64> = expected.iter().zip(&residual).map(|(e, r)| e + f64::from(*r)).collect();
        close("out with residual", &results[1].read_f32(), &expected, 1e-5, 1e-6);
        assert_eq!(results[1].bytes(), results[2].bytes(), "out over residual has other bits");
    }
}

#[test]
fn backward_agrees() {
    let mut random = Random::new(4);
    for &(n, k, m, _) in SIZES {
        let (x, weight, dout) = (random.f32s(n * k, 1.0), random.bf16s(m * k, 1.0), random.f32s(n * m, 1.0));
        let (dx_before, dweight_before) = (random.f32s(n * k, 1.0), random.f32s(m * k, 1.0));
        let (x_memory, weight_memory, dout_memory) =
            (Memory::f32s(&x), Memory::bf16s(&weight), Memory::f32s(&dout));
        let results = on_any_threads(|kernels| {
            let (dx, dweight) = (Memory::painted(n * k * 4), Memory::painted(m * k * 4));
            let (dx_sum, dweight_sum) = (Memory::f32s(&dx_before), Memory::f32s(&dweight_before));
            let (x, weight, dout) = (x_memory.span(), weight_memory.span(), dout_memory.span());
            kernels.matmul_backward_input(dx.span(), Write::Set, dout, weight, Linear::dense(n, k, m));
            kernels.matmul_backward_input(dx_sum.span(), Write::Add, dout, weight, Linear::dense(n, k, m));
            kernels.matmul_backward_weight(dweight.span(), Write::Set, dout, x, Linear::dense(n, k, m));
            kernels.matmul_backward_weight(dweight_sum.span(), Write::Add, dout, x, Linear::dense(n, k, m));
            vec![dx, dweight, dx_sum, dweight_sum]
        });
        let results: Vec<Vec<f32>> = results.iter().map(Memory::read_f32).collect();
        let (x64, weight64) = (wide(&x), wide(&weight));
        gradient_of("dx", &results[0], &x64, 12, &mut random, |x| inner(&matmul(x, &weight64, k), &dout));
        gradient_of("dweight", &results[1], &weight64, 12, &mut random, |weight| {
            inner(&matmul(&x64, weight, k), &dout)
        });
        added("dx", &results[2], &dx_before, &results[0]);
        added("dweight", &results[3], &dweight_before, &results[1]);
    }
}
