//! RMSNorm against its f64 reference.

use horizon::ops::{RmsnormBackward, RmsnormForward, Write};
use support::reference::compare::{added, close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::{Random, SIZES, gain, rmsnorm, wide};
use support::spans;

const EPS: f32 = 1e-5;

/// Added to the weights.
const OFFSETS: [f32; 2] = [0.0, 1.0];

/// Without a residual, with one, and with one in the output.
#[test]
fn forward_agrees() {
    for device in Device::all() {
        let mut random = Random::new(1);
        let sizes = SIZES.iter().filter(|(_, c, _)| device.takes_columns(*c));
        for (&(n, c, reason), offset) in sizes.flat_map(|size| OFFSETS.map(|offset| (size, offset))) {
            let (x, weight) = (device.stored(random.f32s(n * c, 2.0)), random.bf16s(c, 1.5));
            let residual = device.stored(random.f32s(n * c, 3.0));
            let (x_memory, weight_memory) = (device.activations(&x), device.bf16s(&weight));
            let residual_memory = device.activations(&residual);
            let results = device.run(|k| {
                let [plain, sum] = [0; 2].map(|_| device.poisoned_activations(n * c));
                let over = device.activations(&residual);
                let rstds = [0; 3].map(|_| device.poisoned(n * 4));
                let residuals = [None, Some(&residual_memory), Some(&over)];
                for ((out, residual), rstd) in [&plain, &sum, &over].into_iter().zip(residuals).zip(&rstds) {
                    let forward = RmsnormForward {
                        out: out.span(),
                        rstd: rstd.span(),
                        x: x_memory.span(),
                        weight: weight_memory.span(),
                        residual: residual.map(Memory::span),
                        offset,
                        eps: EPS,
                        n,
                        c,
                    };
                    spans::run(k, &forward.into());
                }
                [plain, sum, over].into_iter().chain(rstds).collect()
            });
            let (out, rstd) = rmsnorm(&wide(&x), &gain(&wide(&weight), offset), f64::from(EPS), c);
            let expected = Expected { truth: &out, naive: None, width: c, factor: 2.0, f32: (2e-6, 0.0) };
            device.agrees(reason, &results[0], expected);
            let sum: Vec<f64> = out.iter().zip(&residual).map(|(out, r)| out + f64::from(*r)).collect();
            let expected = Expected { truth: &sum, naive: None, width: c, factor: 2.0, f32: (2e-6, 2e-6) };
            device.agrees(reason, &results[1], expected);
            assert_eq!(results[1].bytes(), results[2].bytes(), "{reason}: out is the residual");
            for result in &results[3..] {
                close("rstd", &result.read_f32(), &rstd, 2e-6, 0.0);
            }
        }
    }
}

/// The inputs of backward.
struct Backward {
    n: usize,
    c: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    dout: Vec<f32>,
    dx_before: Vec<f32>,
    dweight_before: Vec<f32>,
    rstd: Vec<f32>,
    offset: f32,
}

impl Backward {
    /// Sets dx and dweight; adds to both; sets both with dx in place of x.
    fn run(&self, device: &Device) -> [Vec<Memory>; 3] {
        let Backward { n, c, offset, .. } = *self;
        let (x, weight, dout) =
            (device.activations(&self.x), device.bf16s(&self.weight), device.activations(&self.dout));
        let rstd = device.f32s(&self.rstd);
        let run = |dx: &dyn Fn() -> Memory, dweight: &dyn Fn() -> Memory, write, in_place: bool| {
            device.run(|k| {
                let (dx, dweight) = (dx(), dweight());
                let backward = RmsnormBackward {
                    dx: dx.span(),
                    dweight: dweight.span(),
                    dout: dout.span(),
                    x: if in_place { dx.span() } else { x.span() },
                    rstd: rstd.span(),
                    weight: weight.span(),
                    offset,
                    dx_write: write,
                    dweight_write: write,
                    n,
                    c,
                };
                spans::run(k, &backward.into());
                vec![dx, dweight]
            })
        };
        let (poisoned_dx, poisoned_dweight) =
            (|| device.poisoned_activations(n * c), || device.poisoned(c * 4));
        [
            run(&poisoned_dx, &poisoned_dweight, Write::Set, false),
            run(
                &|| device.activations(&self.dx_before),
                &|| device.f32s(&self.dweight_before),
                Write::Add,
                false,
            ),
            run(&|| device.activations(&self.x), &poisoned_dweight, Write::Set, true),
        ]
    }
}

#[test]
fn backward_agrees() {
    // Large enough that f32 can represent the gradient of a row of one column, dout · weight · rstd ·
    // (1 − x̂²).
    const EPS: f32 = 0.01;
    for device in Device::all() {
        let mut random = Random::new(2);
        let sizes = SIZES.iter().filter(|(_, c, _)| device.takes_columns(*c));
        for (&(n, c, reason), offset) in sizes.flat_map(|size| OFFSETS.map(|offset| (size, offset))) {
            let (x, weight) = (device.stored(random.f32s(n * c, 2.0)), random.bf16s(c, 1.5));
            let (x64, weight64) = (wide(&x), wide(&weight));
            let out = |x: &[f64], weight: &[f64]| rmsnorm(x, &gain(weight, offset), f64::from(EPS), c).0;
            let (_, rstd) = rmsnorm(&x64, &weight64, f64::from(EPS), c);
            let rstd = rstd.iter().map(|&r| r as f32).collect();
            let [dout, dx_before] = [1.0, 1.0].map(|scale| device.stored(random.f32s(n * c, scale)));
            let dweight_before = random.f32s(c, 1.0);
            let case = Backward { n, c, x, weight, dout, dx_before, dweight_before, rstd, offset };
            let [set, sum, over] = case.run(&device);
            let (dx, dweight) = (device.read(&set[0]), set[1].read_f32());
            if device.is_cpu() {
                gradient_of("dx", &dx, &x64, 40, &mut random, |x| inner(&out(x, &weight64), &case.dout));
                gradient_of("dweight", &dweight, &weight64, 40, &mut random, |weight| {
                    inner(&out(&x64, weight), &case.dout)
                });
                added("dx", &sum[0].read_f32(), &case.dx_before, &dx);
            } else {
                let cpu = case.run(&Device::Cpu);
                for (result, cpu) in [&set, &sum, &over].into_iter().zip(&cpu) {
                    let truth = wide(&cpu[0].read_f32());
                    let expected =
                        Expected { truth: &truth, naive: None, width: c, factor: 3.0, f32: (0.0, 0.0) };
                    device.agrees(reason, &result[0], expected);
                    close("dweight", &result[1].read_f32(), &wide(&cpu[1].read_f32()), 1e-6, 2e-6);
                }
            }
            added("dweight", &sum[1].read_f32(), &case.dweight_before, &dweight);
            assert_eq!(over[0].bytes(), set[0].bytes(), "dx differs when it is x");
            assert_eq!(over[1].bytes(), set[1].bytes(), "dweight differs when dx is x");
        }
    }
}
