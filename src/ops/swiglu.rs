//! SwiGLU: `silu(gate) · up` (Shazeer 2020).

use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{exp, vectorised};
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, address::*, launch};
use crate::ops::op;

op! {
    /// `out = silu(gate) · up`.
    SwigluForward {
        /// `[N, F]`.
        out: P = Set, Element::Activation, n * f;
        /// `[N, 2F]`: each row holds gate, then up.
        gate_up: P = Read, Element::Activation, n * 2 * f;
    }
    /// N: rows.
    n: usize;
    /// F: columns.
    f: usize;
}

op! {
    /// The gradient of [`SwigluForward`].
    SwigluBackward {
        /// `[N, 2F]`: gate and up, replaced by their gradients.
        gate_up: P = Update, Element::Activation, n * 2 * f;
        /// `[N, F]`.
        dout: P = Read, Element::Activation, n * f;
    }
    /// N: rows.
    n: usize;
    /// F: columns.
    f: usize;
}

/// Rows of a tile.
const ROWS: usize = 16;

impl SwigluForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let SwigluForward { n, f, .. } = self;
        let gate_up: &[f32] = read(&self.gate_up, n * 2 * f);
        each(&cpu.pool, Rows::new(write(&mut self.out, n * f), f, ROWS), |_, (rows, out)| {
            let gate_up = &gate_up[rows.start * 2 * f..rows.end * 2 * f];
            for (out, gate_up) in out.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
                let (gate, up) = gate_up.split_at(f);
                forward_row(out, gate, up);
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let SwigluForward { out, gate_up, n, f } = self;
        let (out, gate) = (bf16s(&out, n * f), bf16s(&gate_up, n * 2 * f));
        launch!(cuda.hzk_swiglu_forward(out, gate, on(gate, f), n as i64, f as i64, 2 * f as i64));
    }
}

impl SwigluBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let SwigluBackward { n, f, .. } = self;
        let dout: &[f32] = read(&self.dout, n * f);
        let gate_up = Rows::new(write(&mut self.gate_up, n * 2 * f), 2 * f, ROWS);
        each(&cpu.pool, gate_up, |_, (rows, gate_up)| {
            let dout = &dout[rows.start * f..rows.end * f];
            for (gate_up, dout) in gate_up.chunks_exact_mut(2 * f).zip(dout.chunks_exact(f)) {
                let (gate, up) = gate_up.split_at_mut(f);
                backward_row(gate, up, dout);
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let SwigluBackward { gate_up, dout, n, f } = self;
        let (gate, dout) = (bf16s(&gate_up, n * 2 * f), bf16s(&dout, n * f));
        let (up, n, f) = (on(gate, f), n as i64, f as i64);
        launch!(cuda.hzk_swiglu_backward(gate, up, dout, gate, up, n, f, 2 * f));
    }
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
