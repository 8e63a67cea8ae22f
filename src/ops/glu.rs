//! Gated linear units (GLU; Shazeer 2020): `activation(gate) · up`. SwiGLU is that with SiLU, GeGLU that with GELU.

use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{exp, vectorised};
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, address::*, launch};
use crate::ops::op;

/// The activation of a gate. Both are x · σ(z), with σ(z) = 1 / (1 + e^−z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// SiLU (Elfwing et al. 2018): z = x.
    #[default]
    Silu,
    /// GELU in its approximation by tanh (Hendrycks & Gimpel 2016): z = √(8/π) · (x + 0.044715·x³).
    GeluTanh,
}

impl Activation {
    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

op! {
    /// `out = activation(gate) · up`.
    GluForward {
        /// `[N, F]`.
        out: P = Set, Element::Activation, n * f;
        /// `[N, 2F]`: each row holds gate, then up.
        gate_up: P = Read, Element::Activation, n * 2 * f;
    }
    /// The activation of the gate.
    activation: Activation;
    /// N: rows.
    n: usize;
    /// F: columns.
    f: usize;
}

op! {
    /// The gradient of [`GluForward`].
    GluBackward {
        /// `[N, 2F]`: gate and up, replaced by their gradients.
        gate_up: P = Update, Element::Activation, n * 2 * f;
        /// `[N, F]`.
        dout: P = Read, Element::Activation, n * f;
    }
    /// As in forward.
    activation: Activation;
    /// N: rows.
    n: usize;
    /// F: columns.
    f: usize;
}

/// Rows of a tile.
const ROWS: usize = 16;

impl GluForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let GluForward { activation, n, f, .. } = self;
        let gate_up: &[f32] = read(&self.gate_up, n * 2 * f);
        each(&cpu.pool, Rows::new(write(&mut self.out, n * f), f, ROWS), |_, (rows, out)| {
            let gate_up = &gate_up[rows.start * 2 * f..rows.end * 2 * f];
            for (out, gate_up) in out.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
                let (gate, up) = gate_up.split_at(f);
                match activation {
                    Activation::Silu => silu_forward(out, gate, up),
                    Activation::GeluTanh => gelu_forward(out, gate, up),
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let GluForward { out, gate_up, activation, n, f } = self;
        let (out, gate) = (bf16s(&out, n * f), bf16s(&gate_up, n * 2 * f));
        launch!(cuda.hzk_glu_forward(
            out, gate, on(gate, f), activation as i32, n as i64, f as i64, 2 * f as i64,
        ));
    }
}

impl GluBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let GluBackward { activation, n, f, .. } = self;
        let dout: &[f32] = read(&self.dout, n * f);
        let gate_up = Rows::new(write(&mut self.gate_up, n * 2 * f), 2 * f, ROWS);
        each(&cpu.pool, gate_up, |_, (rows, gate_up)| {
            let dout = &dout[rows.start * f..rows.end * f];
            for (gate_up, dout) in gate_up.chunks_exact_mut(2 * f).zip(dout.chunks_exact(f)) {
                let (gate, up) = gate_up.split_at_mut(f);
                match activation {
                    Activation::Silu => silu_backward(gate, up, dout),
                    Activation::GeluTanh => gelu_backward(gate, up, dout),
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let GluBackward { gate_up, dout, activation, n, f } = self;
        let (gate, dout) = (bf16s(&gate_up, n * 2 * f), bf16s(&dout, n * f));
        let (up, n, f) = (on(gate, f), n as i64, f as i64);
        launch!(cuda.hzk_glu_backward(gate, up, dout, gate, up, activation as i32, n, f, 2 * f));
    }
}

/// z and its derivative.
#[inline(always)]
fn argument<const GELU: bool>(x: f32) -> (f32, f32) {
    /// √(8/π).
    const SCALE: f32 = 1.595_769_2;
    const CUBIC: f32 = 0.044_715;
    if GELU {
        // Finite for every x. Past 16 the sigmoid is 0 or 1, so the bound changes nothing.
        let square = (x * x).min(256.0);
        (SCALE * x * (1.0 + CUBIC * square), SCALE * (1.0 + 3.0 * CUBIC * square))
    } else {
        (x, 1.0)
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn forward_row<const GELU: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate * sigmoid(argument::<GELU>(gate).0) * up;
    }
}

/// With s = σ(z): dgate = dout · up · s · (1 + gate · z′ · (1 − s)), dup = dout · gate · s.
#[inline(always)]
fn backward_row<const GELU: bool>(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
    for ((gate, up), &dout) in gate.iter_mut().zip(up).zip(dout) {
        let (z, slope) = argument::<GELU>(*gate);
        let s = sigmoid(z);
        let dup = dout * (*gate * s);
        *gate = dout * *up * (s * (1.0 + *gate * slope * (1.0 - s)));
        *up = dup;
    }
}

vectorised! {
    fn silu_forward(out: &mut [f32], gate: &[f32], up: &[f32]) {
        forward_row::<false>(out, gate, up);
    }
}

vectorised! {
    fn gelu_forward(out: &mut [f32], gate: &[f32], up: &[f32]) {
        forward_row::<true>(out, gate, up);
    }
}

vectorised! {
    fn silu_backward(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
        backward_row::<false>(gate, up, dout);
    }
}

vectorised! {
    fn gelu_backward(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
        backward_row::<true>(gate, up, dout);
    }
}
