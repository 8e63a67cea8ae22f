//! SwiGLU: `silu(gate) · up` (Shazeer 2020).

use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{exp, vectorised};

/// Rows of a tile.
const ROWS: usize = 16;

pub(super) fn forward(cpu: &CpuKernels, out: &mut [f32], gate_up: &[f32], f: usize) {
    each(&cpu.pool, Rows::new(out, f, ROWS), |_, (rows, out)| {
        let gate_up = &gate_up[rows.start * 2 * f..rows.end * 2 * f];
        for (out, gate_up) in out.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
            let (gate, up) = gate_up.split_at(f);
            forward_row(out, gate, up);
        }
    });
}

pub(super) fn backward(cpu: &CpuKernels, gate_up: &mut [f32], dout: &[f32], f: usize) {
    each(&cpu.pool, Rows::new(gate_up, 2 * f, ROWS), |_, (rows, gate_up)| {
        let dout = &dout[rows.start * f..rows.end * f];
        for (gate_up, dout) in gate_up.chunks_exact_mut(2 * f).zip(dout.chunks_exact(f)) {
            let (gate, up) = gate_up.split_at_mut(f);
            backward_row(gate, up, dout);
        }
    });
}

/// 1 / (1 + e^−x).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

vectorised! {
    fn forward_row(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(gate) * up;
        }
    }
}

vectorised! {
    /// With s = sigmoid(gate): dgate = dout · up · s · (1 + gate · (1 − s)), dup = dout · gate · s.
    fn backward_row(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
        for ((gate, up), &dout) in gate.iter_mut().zip(up).zip(dout) {
            let s = sigmoid(*gate);
            let dup = dout * (*gate * s);
            *gate = dout * *up * (s * (1.0 + *gate * (1.0 - s)));
            *up = dup;
        }
    }
}
