//! RMSNorm against its f64 reference.

mod reference;

use horizon::ops::{Kernels, Write};
use reference::compare::{added, close, gradient_of, inner};
use reference::memory::{Memory, on_any_threads};
use reference::{Random, SIZES, rmsnorm, wide};

const EPS: f32 = 1e-5;

#[test]
fn forward_agrees() {
    let mut random = Random::new(1);
    for &(n, c, _) in SIZES {
        let (x, weight) = (random.f32s(n * c, 2.0), random.bf16s(c, 1.5));
        let (x_memory, weight_memory) = (Memory::f32s(&x), Memory::bf16s(&weight));
        let results = on_any_threads(|k| {
            let (out, rstd) = (Memory::painted(n * c * 4), Memory::painted(n * 4));
            k.rmsnorm_forward(out.span(), rstd.span(), x_memory.span(), weight_memory.span(), EPS, n, c);
            vec![out, rstd]
        });
        let (out, rstd) = rmsnorm(&wide(&x), &wide(&weight), f64::from(EPS), c);
        close("out", &results[0].read_f32(), &out, 2e-6, 0.0);
        close("rstd", &results[1].read_f32(), &rstd, 2e-6, 0.0);
    }
}

#[test]
fn backward_agrees() {
    // Large enough that f32 holds the gradient of a row of one column, dout · weight · rstd · (1 − x̂²).
    const EPS: f32 = 0.01;
    let mut random = Random::new(2);
    for &(n, c, _) in SIZES {
        let (x, weight) = (random.f32s(n * c, 2.0), random.bf16s(c, 1.5));
        let (dout, before) = (random.f32s(n * c, 1.0), random.f32s(n * c, 1.0));
        let dweight_before = random.f32s(c, 1.0);
        let (_, rstd) = rmsnorm(&wide(&x), &wide(&weight), f64::from(EPS), c);
        let rstd = Memory::f32s(&rstd.iter().map(|&r| r as f32).collect::<Vec<_>>());
        let (x_memory, weight_memory, dout_memory) =
            (Memory::f32s(&x), Memory::bf16s(&weight), Memory::f32s(&dout));
        let run = |dx: &dyn Fn() -> Memory, dweight: &dyn Fn() -> Memory, write, in_place: bool| {
            on_any_threads(|k| {
                let (dx, dweight) = (dx(), dweight());
                let x = if in_place { dx.span() } else { x_memory.span() };
                k.rmsnorm_backward(
                    dx.span(),
                    write,
                    dweight.span(),
                    write,
                    dout_memory.span(),
                    x,
                    rstd.span(),
                    weight_memory.span(),
                    n,
                    c,
                );
                vec![dx, dweight]
            })
        };
        let set = run(&|| Memory::painted(n * c * 4), &|| Memory::painted(c * 4), Write::Set, false);
        let (dx, dweight) = (set[0].read_f32(), set[1].read_f32());
        let (x64, weight64) = (wide(&x), wide(&weight));
        gradient_of("dx", &dx, &x64, 40, &mut random, |x| {
            inner(&rmsnorm(x, &weight64, f64::from(EPS), c).0, &dout)
        });
        gradient_of("dweight", &dweight, &weight64, 40, &mut random, |weight| {
            inner(&rmsnorm(&x64, weight, f64::from(EPS), c).0, &dout)
        });

        let sum = run(&|| Memory::f32s(&before), &|| Memory::f32s(&dweight_before), Write::Add, false);
        added("dx", &sum[0].read_f32(), &before, &dx);
        added("dweight", &sum[1].read_f32(), &dweight_before, &dweight);

        let over = run(&|| Memory::f32s(&x), &|| Memory::painted(c * 4), Write::Set, true);
        assert_eq!(over[0].bytes(), set[0].bytes(), "dx over x has other bits");
        assert_eq!(over[1].bytes(), set[1].bytes(), "dweight has other bits when dx is over x");
    }
}
