//! Gated linear units against their f64 reference.

use horizon::ops::{Activation, GluBackward, GluForward};
use support::reference::compare::{close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::{Random, SIZES, glu, wide};
use support::spans;

fn run(device: &Device, gate_up: &[f32], dout: &[f32], n: usize, f: usize) -> Vec<Memory> {
    let dout = device.activations(dout);
    device.run(|k| {
        let (out, gate_up) = (device.poisoned_activations(n * f), device.activations(gate_up));
        spans::run(
            k,
            &GluForward { out: out.span(), gate_up: gate_up.span(), activation: Activation::Silu, n, f }
                .into(),
        );
        spans::run(
            k,
            &GluBackward { gate_up: gate_up.span(), dout: dout.span(), activation: Activation::Silu, n, f }
                .into(),
        );
        vec![out, gate_up]
    })
}

#[test]
fn forward_and_backward_agree() {
    for device in Device::all() {
        let mut random = Random::new(5);
        for &(n, f, reason) in SIZES.iter().filter(|(_, f, _)| device.takes_columns(*f)) {
            let gate_up = device.stored(random.f32s(n * 2 * f, 6.0));
            let dout = device.stored(random.f32s(n * f, 1.0));
            let results = run(&device, &gate_up, &dout, n, f);
            let gate_up64 = wide(&gate_up);
            let out = glu(Activation::Silu, &gate_up64, f);
            let expected = Expected { truth: &out, naive: None, width: f, factor: 2.0, f32: (2e-6, 0.0) };
            device.agrees(reason, &results[0], expected);
            if device.is_cpu() {
                gradient_of(reason, &results[1].read_f32(), &gate_up64, 40, &mut random, |gate_up| {
                    inner(&glu(Activation::Silu, gate_up, f), &dout)
                });
            } else {
                let truth = wide(&run(&Device::Cpu, &gate_up, &dout, n, f)[1].read_f32());
                let expected =
                    Expected { truth: &truth, naive: None, width: f, factor: 3.0, f32: (0.0, 0.0) };
                device.agrees(reason, &results[1], expected);
            }
        }
    }
}

#[test]
fn extreme_gates_stay_finite() {
    for device in Device::all() {
        let gates = device.stored(vec![-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, 1.0]);
        let f = gates.len();
        let row: Vec<f32> = gates.iter().copied().chain([1.0; 8]).collect();
        let results = run(&device, &row, &vec![1.0; f], 1, f);
        let large = f64::from(gates[6]);
        let one = 1.0 / (1.0 + (-1f64).exp());
        let within = if device.is_cpu() { 1e-6 } else { 2f64.powi(-8) };
        let silu = [0.0, 0.0, 0.0, 0.0, 88.0, 200.0, large, one];
        close("out", &device.read(&results[0]), &silu, within, 1e-37);
        let dgate = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, one * (2.0 - one)];
        let expected: Vec<f64> = dgate.into_iter().chain(silu).collect();
        close("dgate_up", &device.read(&results[1]), &expected, within, 1e-37);
    }
}
