//! The gradient of the bias against its f64 reference; `linear` covers forward.

use horizon::ops::{BiasBackward, Write};
use support::reference::compare::{added, close, gradient_of, inner};
use support::reference::device::Device;
use support::reference::{Random, SIZES, bias, wide};
use support::spans;

#[test]
fn backward_sums_rows() {
    for device in Device::all() {
        let mut random = Random::new(30);
        for &(n, c, reason) in SIZES.iter().filter(|(_, c, _)| device.takes_columns(*c)) {
            let (dout, before) = (device.stored(random.f32s(n * c, 1.0)), random.f32s(c, 1.0));
            let dout_memory = device.activations(&dout);
            let results = device.run(|k| {
                let (set, sum) = (device.poisoned(c * 4), device.f32s(&before));
                let dout = dout_memory.span();
                spans::run(
                    k,
                    &BiasBackward { dbias: set.span(), dout, dbias_write: Write::Set, n, c }.into(),
                );
                spans::run(
                    k,
                    &BiasBackward { dbias: sum.span(), dout, dbias_write: Write::Add, n, c }.into(),
                );
                vec![set, sum]
            });
            let dbias = results[0].read_f32();
            if device.is_cpu() {
                let (x, values) = (random.f32s(n * c, 2.0), random.bf16s(c, 1.5));
                let x64 = wide(&x);
                gradient_of(reason, &dbias, &wide(&values), 40, &mut random, |values| {
                    inner(&bias(&x64, values), &dout)
                });
            } else {
                let column = |c0: usize| dout.iter().skip(c0).step_by(c).map(|&d| f64::from(d)).sum();
                let truth: Vec<f64> = (0..c).map(column).collect();
                close(reason, &dbias, &truth, 1e-6, 2e-6);
            }
            added(reason, &results[1].read_f32(), &before, &dbias);
        }
    }
}
