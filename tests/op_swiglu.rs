//! SwiGLU against its f64 reference.

mod reference;

use horizon::ops::Kernels;
use reference::compare::{close, gradient_of, inner};
use reference::memory::{Memory, on_any_threads};
use reference::{Random, SIZES, swiglu, wide};

#[test]
fn forward_and_backward_agree() {
    let mut random = Random::new(5);
    for &(n, f, _) in SIZES {
        let (gate_up, dout) = (random.f32s(n * 2 * f, 6.0), random.f32s(n * f, 1.0));
        let dout_memory = Memory::f32s(&dout);
        let results = on_any_threads(|k| {
            let (out, gate_up) = (Memory::painted(n * f * 4), Memory::f32s(&gate_up));
            k.swiglu_forward(out.span(), gate_up.span(), n, f);
            k.swiglu_backward(gate_up.span(), dout_memory.span(), n, f);
            vec![out, gate_up]
        });
        let gate_up64 = wide(&gate_up);
        close("out", &results[0].read_f32(), &swiglu(&gate_up64, f), 2e-6, 0.0);
        gradient_of("dgate_up", &results[1].read_f32(), &gate_up64, 40, &mut random, |gate_up| {
            inner(&swiglu(gate_up, f), &dout)
        });
    }
}

#[test]
fn extreme_gates_stay_finite() {
    let gates = [-1e30f32, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30];
    let f = gates.len();
    let row: Vec<f32> = gates.iter().copied().chain(gates.map(|_| 1.0)).collect();
    let dout = Memory::f32s(&vec![1.0; f]);
    let results = on_any_threads(|k| {
        let (out, gate_up) = (Memory::painted(f * 4), Memory::f32s(&row));
        k.swiglu_forward(out.span(), gate_up.span(), 1, f);
        k.swiglu_backward(gate_up.span(), dout.span(), 1, f);
        vec![out, gate_up]
    });
    close("out", &results[0].read_f32(), &[0.0, 0.0, 0.0, 0.0, 88.0, 200.0, 1e30], 1e-6, 1e-37);
    let dgate = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0];
    let expected: Vec<f64> = dgate.into_iter().chain([0.0, 0.0, 0.0, 0.0, 88.0, 200.0, 1e30]).collect();
    close("dgate_up", &results[1].read_f32(), &expected, 1e-6, 1e-37);
}
