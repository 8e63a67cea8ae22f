//! The bias against its f64 reference.

mod reference;

use horizon::ops::{Kernels, Write};
use reference::compare::{added, close, gradient_of, inner};
use reference::memory::{Memory, on_any_threads};
use reference::{Random, SIZES, bias, wide};

#[test]
fn forward_adds_and_backward_sums() {
    let mut random = Random::new(30);
    for &(n, c, reason) in SIZES {
        let (x, dout) = (random.f32s(n * c, 2.0), random.f32s(n * c, 1.0));
        let (values, before) = (random.bf16s(c, 1.5), random.f32s(c, 1.0));
        let (values_memory, dout_memory) = (Memory::bf16s(&values), Memory::f32s(&dout));
        let results = on_any_threads(|k| {
            let (out, set, sum) = (Memory::f32s(&x), Memory::painted(c * 4), Memory::f32s(&before));
            k.bias_forward(out.span(), values_memory.span(), n, c);
            k.bias_backward(set.span(), Write::Set, dout_memory.span(), n, c);
            k.bias_backward(sum.span(), Write::Add, dout_memory.span(), n, c);
            vec![out, set, sum]
        });
        let x64 = wide(&x);
        close(reason, &results[0].read_f32(), &bias(&x64, &wide(&values)), 2e-7, 0.0);
        let dbias = results[1].read_f32();
        gradient_of(reason, &dbias, &wide(&values), 40, &mut random, |values| {
            inner(&bias(&x64, values), &dout)
        });
        added(reason, &results[2].read_f32(), &before, &dbias);
    }
}
