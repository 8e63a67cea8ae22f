//! Matmuls of a linear layer against their f64 reference.

use horizon::ops::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, Write};
use support::reference::compare::{added, close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::{Random, bias as added_bias, matmul, wide};
use support::spans;

/// `(n, k, m, out_stride − m, reason)`.
const SIZES: &[(usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 0, "the smallest"),
    (1, 64, 48, 0, "one row: a matrix times a vector"),
    (2, 3, 257, 0, "few terms, one column after a tile"),
    (12, 8, 32, 0, "small even sizes"),
    (13, 9, 33, 7, "one row, one term, one column more than even sizes; gaps between rows"),
    (31, 33, 127, 1, "tails everywhere"),
    (33, 130, 1, 0, "one column"),
    (33, 128, 1, 7, "one column, gaps between rows"),
    (127, 31, 65, 0, "few terms"),
    (70, 72, 129, 7, "an odd width, gaps between rows"),
    (193, 257, 258, 0, "one row, term and column more than a tile of a weight gradient"),
    (1025, 10, 7, 0, "one row more than a tile of activations, sums over rows in five chunks"),
    (5, 20, 1100, 0, "backward sums in five chunks"),
    (70, 1030, 9, 0, "forward sums in five chunks"),
];

/// With factors of the matmul.
fn sizes(device: &Device) -> impl Iterator<Item = (Linear, f32, &'static str)> {
    let sizes =
        SIZES.iter().map(|&(n, k, m, more, reason)| (Linear { n, k, m, out_stride: m + more }, reason));
    let vectors = |size: &Linear| device.takes_columns(size.k) && device.takes_columns(size.out_stride);
    let sizes = sizes.filter(|(sizes, _)| vectors(sizes));
    sizes
        .flat_map(|(sizes, reason)| SCALES.map(|scale| (sizes, scale, reason)))
        .collect::<Vec<_>>()
        .into_iter()
}

const SCALES: [f32; 2] = [1.0, 0.22];

fn scaled(scale: f32, mut values: Vec<f64>) -> Vec<f64> {
    values.iter_mut().for_each(|value| *value *= f64::from(scale));
    values
}

/// A dense `[n, m]` in the layout of the layer's output, NaN between rows.
fn strided(sizes: &Linear, dense: &[f32]) -> Vec<f32> {
    let padding = std::iter::repeat_n(f32::NAN, sizes.out_stride - sizes.m);
    dense.chunks_exact(sizes.m).flat_map(|row| row.iter().copied().chain(padding.clone())).collect()
}

/// The inverse. Checks that elements between rows are unchanged.
fn dense(sizes: &Linear, device: &Device, memory: &Memory) -> Vec<f32> {
    let values = device.read(memory);
    for row in values.chunks_exact(sizes.out_stride) {
        assert!(row[sizes.m..].iter().all(|x| x.is_nan()), "elements between rows were written");
    }
    values.chunks_exact(sizes.out_stride).flat_map(|row| row[..sizes.m].to_vec()).collect()
}

#[test]
fn forward_agrees() {
    for device in Device::all() {
        let mut random = Random::new(3);
        for (sizes, scale, reason) in sizes(&device) {
            let Linear { n, k, m, out_stride } = sizes;
            let (x, weight) = (device.stored(random.f32s(n * k, 1.0)), random.bf16s(m * k, 1.0));
            let (residual, bias) = (device.stored(random.f32s(n * m, 3.0)), random.bf16s(m, 3.0));
            let bias_memory = device.bf16s(&bias);
            let (x_memory, weight_memory) = (device.activations(&x), device.bf16s(&weight));
            let residual_memory = device.activations(&strided(&sizes, &residual));
            let results = device.run(|kernels| {
                let [plain, sum, biased] = [0; 3].map(|_| device.poisoned_activations(n * out_stride));
                let [over, both] = [0; 2].map(|_| device.activations(&strided(&sizes, &residual)));
                let (x, weight) = (x_memory.span(), weight_memory.span());
                let add = |out: &Memory, residual: Option<&Memory>, bias: Option<&Memory>| {
                    let (residual, bias) = (residual.map(Memory::span), bias.map(Memory::span));
                    spans::run(
                        kernels,
                        &LinearForward { out: out.span(), x, weight, residual, bias, scale, sizes }.into(),
                    );
                };
                add(&plain, None, None);
                add(&sum, Some(&residual_memory), None);
                add(&over, Some(&over), None);
                add(&biased, None, Some(&bias_memory));
                add(&both, Some(&both), Some(&bias_memory));
                vec![plain, sum, over, biased, both]
            });
            let agrees = |result: &Memory, truth: &[f64]| {
                let result = device.activations(&dense(&sizes, &device, result));
                let expected = Expected { truth, naive: None, width: m, factor: 2.0, f32: (1e-5, 1e-6) };
                device.agrees(reason, &result, expected);
            };
            let plain = scaled(scale, matmul(&wide(&x), &wide(&weight), k));
            agrees(&results[0], &plain);
            agrees(&results[3], &added_bias(&plain, &wide(&bias)));
            let sum: Vec<f64> = plain.iter().zip(&residual).map(|(e, r)| e + f64::from(*r)).collect();
            agrees(&results[1], &sum);
            agrees(&results[4], &added_bias(&sum, &wide(&bias)));
            let [plain, sum, over, biased, both] =
                [0, 1, 2, 3, 4].map(|at| dense(&sizes, &device, &results[at]));
            assert!(sum == over, "{reason}: the bits differ when out is the residual");
            if device.is_cpu() {
                // Nothing is rounded in between, so the bits are those of a separate addition.
                let later = |out: &[f32]| -> Vec<f32> {
                    out.iter().zip(bias.iter().cycle()).map(|(out, bias)| out + bias).collect()
                };
                assert!(biased == later(&plain) && both == later(&sum), "{reason}: the bias");
            }
        }
    }
}

struct Backward {
    sizes: Linear,
    scale: f32,
    x: Vec<f32>,
    weight: Vec<f32>,
    dout: Vec<f32>,
    dx_before: Vec<f32>,
    dweight_before: Vec<f32>,
}

impl Backward {
    /// Sets dx and dweight, then adds to both.
    fn run(&self, device: &Device) -> Vec<Memory> {
        let Backward { sizes, scale, .. } = *self;
        let Linear { n, k, m, .. } = sizes;
        let (x, weight) = (device.activations(&self.x), device.bf16s(&self.weight));
        let dout = device.activations(&strided(&sizes, &self.dout));
        device.run(|kernels| {
            let (dx, dweight) = (device.poisoned_activations(n * k), device.poisoned(m * k * 4));
            let (dx_sum, dweight_sum) =
                (device.activations(&self.dx_before), device.f32s(&self.dweight_before));
            let (x, weight, dout) = (x.span(), weight.span(), dout.span());
            for (write, dx, dweight) in [(Write::Set, &dx, &dweight), (Write::Add, &dx_sum, &dweight_sum)] {
                let (dx, dx_write) = (dx.span(), write);
                spans::run(kernels, &LinearBackwardInput { dx, dout, weight, scale, dx_write, sizes }.into());
                let (dweight, dweight_write) = (dweight.span(), write);
                spans::run(
                    kernels,
                    &LinearBackwardWeight { dweight, dout, x, scale, dweight_write, sizes }.into(),
                );
            }
            vec![dx, dweight, dx_sum, dweight_sum]
        })
    }
}

#[test]
fn backward_agrees() {
    for device in Device::all() {
        let mut random = Random::new(4);
        for (sizes, scale, reason) in sizes(&device) {
            let Linear { n, k, m, .. } = sizes;
            let case = Backward {
                sizes,
                scale,
                x: device.stored(random.f32s(n * k, 1.0)),
                weight: random.bf16s(m * k, 1.0),
                dout: device.stored(random.f32s(n * m, 1.0)),
                dx_before: device.stored(random.f32s(n * k, 1.0)),
                dweight_before: random.f32s(m * k, 1.0),
            };
            let results = case.run(&device);
            let (dweight, dweight_sum) = (results[1].read_f32(), results[3].read_f32());
            if device.is_cpu() {
                let (dx, dx_sum) = (results[0].read_f32(), results[2].read_f32());
                let (x64, weight64) = (wide(&case.x), wide(&case.weight));
                gradient_of("dx", &dx, &x64, 12, &mut random, |x| {
                    inner(&scaled(scale, matmul(x, &weight64, k)), &case.dout)
                });
                gradient_of("dweight", &dweight, &weight64, 12, &mut random, |weight| {
                    inner(&scaled(scale, matmul(&x64, weight, k)), &case.dout)
                });
                added("dx", &dx_sum, &case.dx_before, &dx);
            } else {
                let cpu = case.run(&Device::Cpu);
                for at in [0, 2] {
                    let truth = wide(&cpu[at].read_f32());
                    let expected =
                        Expected { truth: &truth, naive: None, width: k, factor: 3.0, f32: (0.0, 0.0) };
                    device.agrees(reason, &results[at], expected);
                }
                close("dweight", &dweight, &wide(&cpu[1].read_f32()), 1e-5, 2e-6);
            }
            added("dweight", &dweight_sum, &case.dweight_before, &dweight);
        }
    }
}
