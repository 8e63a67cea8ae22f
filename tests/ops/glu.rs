//! Gated linear units against their f64 reference.

use horizon::ops::{Activation, GluBackward, GluForward};
use support::reference::compare::{close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::{Random, SIZES, glu, wide};
use support::spans;

/// The inputs.
struct Case {
    activation: Activation,
    gate_up: Vec<f32>,
    dout: Vec<f32>,
    n: usize,
    f: usize,
}

/// Returns forward's output, and the gradient.
fn run(device: &Device, case: &Case) -> Vec<Memory> {
    let Case { activation, n, f, .. } = *case;
    let dout = device.activations(&case.dout);
    device.run(|k| {
        let (out, gate_up) = (device.poisoned_activations(n * f), device.activations(&case.gate_up));
        spans::run(k, &GluForward { out: out.span(), gate_up: gate_up.span(), activation, n, f }.into());
        spans::run(k, &GluBackward { gate_up: gate_up.span(), dout: dout.span(), activation, n, f }.into());
        vec![out, gate_up]
    })
}

#[test]
fn forward_and_backward_agree() {
    for device in Device::all() {
        let mut random = Random::new(5);
        for &(n, f, reason) in SIZES.iter().filter(|(_, f, _)| device.takes_columns(*f)) {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let gate_up = device.stored(random.f32s(n * 2 * f, 6.0));
                let dout = device.stored(random.f32s(n * f, 1.0));
                let case = Case { activation, gate_up, dout, n, f };
                let results = run(&device, &case);
                let gate_up64 = wide(&case.gate_up);
                let out = glu(activation, &gate_up64, f);
                // GELU of a negative gate is the difference of two nearly equal numbers.
                let expected =
                    Expected { truth: &out, naive: None, width: f, factor: 2.0, f32: (2e-6, 1e-7) };
                device.agrees(reason, &results[0], expected);
                if device.is_cpu() {
                    gradient_of(reason, &results[1].read_f32(), &gate_up64, 40, &mut random, |gate_up| {
                        inner(&glu(activation, gate_up, f), &case.dout)
                    });
                } else {
                    let truth = wide(&run(&Device::Cpu, &case)[1].read_f32());
                    let expected =
                        Expected { truth: &truth, naive: None, width: f, factor: 3.0, f32: (0.0, 0.0) };
                    device.agrees(reason, &results[1], expected);
                }
            }
        }
    }
}

#[test]
fn extreme_gates_stay_finite() {
    for device in Device::all() {
        let gates = device.stored(vec![-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, 1.0]);
        let f = gates.len();
        let within = if device.is_cpu() { 1e-6 } else { 2f64.powi(-8) };
        let large = f64::from(gates[6]);
        let one = 1.0 / (1.0 + (-1f64).exp());
        let slope = one * (2.0 - one);
        // By tanh'(u) = 1 − tanh²(u), u = √(2/π) · (1 + 0.044715).
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let tanh = (root * 1.044715).tanh();
        let (gelu, gelu_slope) =
            (0.5 * (1.0 + tanh), 0.5 * (1.0 + tanh + (1.0 - tanh * tanh) * root * (1.0 + 3.0 * 0.044715)));
        for (activation, one, slope) in
            [(Activation::Silu, one, slope), (Activation::GeluTanh, gelu, gelu_slope)]
        {
            let gate_up = gates.iter().copied().chain([1.0; 8]).collect();
            let case = Case { activation, gate_up, dout: vec![1.0; f], n: 1, f };
            let results = run(&device, &case);
            let expected = [0.0, 0.0, 0.0, 0.0, 88.0, 200.0, large, one];
            close("out", &device.read(&results[0]), &expected, within, 1e-37);
            let dgate = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, slope];
            let expected: Vec<f64> = dgate.into_iter().chain(expected).collect();
            close("dgate_up", &device.read(&results[1]), &expected, within, 1e-37);
        }
    }
}
