//! The bias against its f64 reference.

use horizon::ops::Write;
use support::reference::compare::{added, close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::{Random, SIZES, bias, wide};

#[test]
fn forward_adds_and_backward_sums() {
    for device in Device::all() {
        let mut random = Random::new(30);
        for &(n, c, reason) in SIZES.iter().filter(|(_, c, _)| device.takes_columns(*c)) {
            let [x, dout] = [2.0, 1.0].map(|scale| device.stored(random.f32s(n * c, scale)));
            let (values, before) = (random.bf16s(c, 1.5), random.f32s(c, 1.0));
            let (values_memory, dout_memory) = (device.bf16s(&values), device.activations(&dout));
            let results = device.run(|k| {
                let (out, set, sum) = (device.activations(&x), device.painted(c * 4), device.f32s(&before));
                k.bias_forward(out.span(), values_memory.span(), n, c);
                k.bias_backward(set.span(), Write::Set, dout_memory.span(), n, c);
                k.bias_backward(sum.span(), Write::Add, dout_memory.span(), n, c);
                vec![out, set, sum]
            });
            let x64 = wide(&x);
            let truth = bias(&x64, &wide(&values));
            let expected = Expected { truth: &truth, naive: None, width: c, factor: 2.0, f32: (2e-7, 0.0) };
            device.agrees(reason, &results[0], expected);
            let dbias = results[1].read_f32();
            if device.is_cpu() {
                gradient_of(reason, &dbias, &wide(&values), 40, &mut random, |values| {
                    inner(&bias(&x64, values), &dout)
                });
            } else {
                let column = |c0: usize| dout.iter().skip(c0).step_by(c).map(|&d| f64::from(d)).sum();
                let truth: Vec<f64> = (0..c).map(column).collect();
                close(reason, &dbias, &truth, 1e-6, 2e-6);
            }
            added(reason, &results[2].read_f32(), &before, &dbias);
        }
    }
}
