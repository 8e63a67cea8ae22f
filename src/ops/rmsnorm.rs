//! RMSNorm (Zhang & Sennrich 2019).

use crate::base::master;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{dot, lane_sum, vectorised};
use crate::ops::cpu::view::{read, read_disjoint, write};
use crate::ops::cuda::{CudaKernels, PARTIAL_ROWS_MAX, address::*, launch};
use crate::ops::{Write, op};

op! {
    /// `out = x · rstd · weight`, `rstd = 1 / √(mean(x²) + eps)`.
    RmsnormForward {
        /// `[N, C]`.
        out: P = Set, Element::Activation, n * c;
        /// `[N]`.
        rstd: P = Set, Element::F32, n;
        /// `[N, C]`.
        x: P = Read, Element::Activation, n * c;
        /// `[C]`.
        weight: P = Read, Element::BF16, c;
    }
    /// Added to the mean square.
    eps: f32;
    /// N: rows.
    n: usize;
    /// C: columns.
    c: usize;
}

op! {
    /// The gradient of [`RmsnormForward`]. With x̂ = x · rstd: `dweight = Σ dout · x̂` over the rows, and
    /// `dx = rstd · (dout · weight − x̂ · mean(dout · weight · x̂))`. With `dx_write` `=`, `dx` may be `x`.
    RmsnormBackward {
        /// `[N, C]`; written as `dx_write` says.
        dx: P = dx_write.into(), Element::Activation, n * c;
        /// `[C]`; written as `dweight_write` says.
        dweight: P = dweight_write.into(), Element::F32, c;
        /// `[N, C]`.
        dout: P = Read, Element::Activation, n * c;
        /// `[N, C]`.
        x: P = Read, Element::Activation, n * c;
        /// `[N]`.
        rstd: P = Read, Element::F32, n;
        /// `[C]`.
        weight: P = Read, Element::BF16, c;
    }
    /// `=` or `+=` for `dx`.
    dx_write: Write;
    /// `=` or `+=` for `dweight`.
    dweight_write: Write;
    /// N: rows.
    n: usize;
    /// C: columns.
    c: usize;
    {
        fn may_be(&self, output: &str, input: &str) -> bool {
            (output, input) == ("dx", "x") && self.dx_write == Write::Set
        }

        fn scratch_bytes(&self) -> usize {
            self.n.min(PARTIAL_ROWS_MAX) * self.c * 4
        }
    }
}

impl RmsnormForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let RmsnormForward { n, c, eps, .. } = self;
        let (x, weight): (&[f32], &[u16]) = (read(&self.x, n * c), read(&self.weight, c));
        let out = Rows::new(write(&mut self.out, n * c), c, ROWS);
        let rstd = Rows::new(write(&mut self.rstd, n), 1, ROWS);
        each(&cpu.pool, (out, rstd), |_, ((rows, out), (_, rstd))| {
            let x = &x[rows.start * c..rows.end * c];
            for ((out, rstd), x) in out.chunks_exact_mut(c).zip(rstd).zip(x.chunks_exact(c)) {
                *rstd = 1.0 / (dot(x, x) / c as f32 + eps).sqrt();
                forward_row(out, x, weight, *rstd);
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let RmsnormForward { out, rstd, x, weight, eps, n, c } = self;
        launch!(cuda.hzk_rmsnorm_forward(
            bf16s(&out, n * c),
            f32s(&rstd, n),
            bf16s(&x, n * c),
            bf16s(&weight, c),
            eps,
            n as i64,
            c as i64,
        ));
    }
}

impl RmsnormBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let RmsnormBackward { dx_write, dweight_write, n, c, .. } = self;
        let dx_before = self.dx;
        // None if dx is x: then dx holds x until it is overwritten.
        let x: Option<&[f32]> = read_disjoint(&self.x, n * c, &dx_before);
        let (dout, rstd): (&[f32], &[f32]) = (read(&self.dout, n * c), read(&self.rstd, n));
        let weight = read(&self.weight, c);
        let tiles = n.div_ceil(ROWS);
        let mut partials = cpu.scratch.partials.lock();
        let partials = partials.take(tiles * c);
        // A copy of a row of x, because dx may overwrite it.
        cpu.scratch.reserve(c);
        let cut = (Rows::new(write(&mut self.dx, n * c), c, ROWS), Rows::new(partials, c, 1));
        each(&cpu.pool, cut, |worker, ((rows, dx), (_, dweight))| {
            let mut scratch = cpu.scratch.worker(worker);
            let row = scratch.take(c);
            dweight.fill(0.0);
            for (n, dx) in rows.zip(dx.chunks_exact_mut(c)) {
                row.copy_from_slice(x.map_or(&*dx, |x| &x[n * c..][..c]));
                let (dout, rstd) = (&dout[n * c..][..c], rstd[n]);
                let mean = weighted_sum(dout, row, weight) * rstd / c as f32;
                match dx_write {
                    Write::Set => set_row(dx, dweight, dout, row, weight, rstd, mean),
                    Write::Add => add_row(dx, dweight, dout, row, weight, rstd, mean),
                }
            }
        });
        column_sum::fold(cpu, write(&mut self.dweight, c), dweight_write, partials, c, 0);
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let RmsnormBackward { dx, dweight, dout, x, rstd, weight, dx_write, dweight_write, n, c } = self;
        cuda.start_accumulator(&dweight, c, dweight_write);
        launch!(cuda.hzk_rmsnorm_backward(
            bf16s(&dx, n * c),
            f32s(&dweight, c),
            cuda.scratch_of(&self),
            bf16s(&dout, n * c),
            bf16s(&x, n * c),
            bf16s(&weight, c),
            f32s(&rstd, n),
            i32::from(dx_write == Write::Add),
            n as i64,
            c as i64,
        ));
    }
}

vectorised! {
    pub(in crate::ops) fn forward_row(out: &mut [f32], x: &[f32], weight: &[u16], rstd: f32) {
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * rstd * master::widen(weight);
        }
    }
}

vectorised! {
    /// Σ dout · weight · x.
    pub(in crate::ops) fn weighted_sum(dout: &[f32], x: &[f32], weight: &[u16]) -> f32 {
        let (x, weight) = (&x[..dout.len()], &weight[..dout.len()]);
        lane_sum!(dout.len(), |i: usize| dout[i] * master::widen(weight[i]) * x[i])
    }
}

/// With x̂ = x · rstd and `mean` = mean(dout · weight · x̂): adds dout · x̂ to dweight and sets dx (with `ADD`,
/// adds to it) rstd · (dout · weight − x̂ · mean).
#[inline(always)]
fn row<const ADD: bool>(
    dx: &mut [f32],
    dweight: &mut [f32],
    dout: &[f32],
    x: &[f32],
    weight: &[u16],
    rstd: f32,
    mean: f32,
) {
    let c = dx.len();
    let (dweight, dout, x, weight) = (&mut dweight[..c], &dout[..c], &x[..c], &weight[..c]);
    for i in 0..c {
        let normed = x[i] * rstd;
        dweight[i] += dout[i] * normed;
        let value = rstd * (dout[i] * master::widen(weight[i]) - normed * mean);
        dx[i] = if ADD { dx[i] + value } else { value };
    }
}

vectorised! {
    pub(in crate::ops) fn set_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], weight: &[u16], rstd: f32, mean: f32) {
        row::<false>(dx, dw, dout, x, weight, rstd, mean);
    }
}

vectorised! {
    fn add_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], weight: &[u16], rstd: f32, mean: f32) {
        row::<true>(dx, dw, dout, x, weight, rstd, mean);
    }
}
