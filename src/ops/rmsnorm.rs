//! RMSNorm (Zhang & Sennrich 2019).

use std::ptr;

use crate::base::master;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{dot, lane_sum, vectorised};
use crate::ops::cpu::view::{read, read_disjoint, write};
use crate::ops::cuda::{CudaKernels, PARTIAL_ROWS_MAX, address::*, launch};
use crate::ops::{Write, op};

op! {
    /// `out = residual + x · rstd · (offset + weight)`, `rstd = 1 / √(mean(x²) + eps)`.
    RmsnormForward {
        /// `[N, C]`.
        out: P = Set, Element::Activation, n * c;
        /// `[N]`.
        rstd: P = Set, Element::F32, n;
        /// `[N, C]`.
        x: P = Read, Element::Activation, n * c;
        /// `[C]`.
        weight: P = Read, Element::BF16, c;
        /// `[N, C]`; may be the output itself.
        residual: Option<P> = Read, Element::Activation, n * c;
    }
    /// Added to the weight: 0, or 1 in families whose weights are stored less 1.
    offset: f32;
    /// Added to the mean square.
    eps: f32;
    /// N: rows.
    n: usize;
    /// C: columns.
    c: usize;
    {
        fn may_be(&self, output: &str, input: &str) -> bool {
            (output, input) == ("out", "residual")
        }
    }
}

op! {
    /// The gradient of [`RmsnormForward`], except that of the residual, which is `dout`. With x̂ = x · rstd and
    /// w = offset + weight: `dweight = Σ dout · x̂` over the rows, and `dx = rstd · (dout · w − x̂ · mean(dout · w · x̂))`.
    /// With `dx_write` `=`, `dx` may be `x`.
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
    /// As in forward.
    offset: f32;
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
        let RmsnormForward { offset, n, c, eps, .. } = self;
        let (x, gain): (&[f32], _) = (read(&self.x, n * c), Gain { weight: read(&self.weight, c), offset });
        let out_before = self.out;
        let residual = self.residual.as_ref().map(|residual| read_disjoint::<f32>(residual, n * c, &out_before));
        let out = Rows::new(write(&mut self.out, n * c), c, ROWS);
        let rstd = Rows::new(write(&mut self.rstd, n), 1, ROWS);
        each(&cpu.pool, (out, rstd), |_, ((rows, out), (_, rstd))| {
            for ((n, out), rstd) in rows.zip(out.chunks_exact_mut(c)).zip(rstd) {
                let x = &x[n * c..][..c];
                *rstd = 1.0 / (dot(x, x) / c as f32 + eps).sqrt();
                match residual {
                    None => forward_row(out, x, gain, *rstd),
                    Some(residual) => {
                        // Without a slice, the residual is in the output.
                        if let Some(residual) = residual {
                            out.copy_from_slice(&residual[n * c..][..c]);
                        }
                        forward_row_onto(out, x, gain, *rstd);
                    }
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let RmsnormForward { out, rstd, x, weight, residual, offset, eps, n, c } = self;
        launch!(cuda.hzk_rmsnorm_forward(
            bf16s(&out, n * c),
            f32s(&rstd, n),
            bf16s(&x, n * c),
            bf16s(&weight, c),
            residual.map_or(ptr::null(), |residual| bf16s(&residual, n * c).cast_const()),
            offset,
            eps,
            n as i64,
            c as i64,
            c as i64,
            c as i64,
        ));
    }
}

impl RmsnormBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let RmsnormBackward { offset, dx_write, dweight_write, n, c, .. } = self;
        let dx_before = self.dx;
        // None if dx is x: then dx holds x until it is overwritten.
        let x: Option<&[f32]> = read_disjoint(&self.x, n * c, &dx_before);
        let (dout, rstd): (&[f32], &[f32]) = (read(&self.dout, n * c), read(&self.rstd, n));
        let gain = Gain { weight: read(&self.weight, c), offset };
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
                let mean = weighted_sum(dout, row, gain) * rstd / c as f32;
                match dx_write {
                    Write::Set => set_row(dx, dweight, dout, row, gain, rstd, mean),
                    Write::Add => add_row(dx, dweight, dout, row, gain, rstd, mean),
                }
            }
        });
        column_sum::fold(cpu, write(&mut self.dweight, c), dweight_write, partials, c, 0);
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let RmsnormBackward { dx, dweight, dout, x, rstd, weight, offset, dx_write, dweight_write, n, c } = self;
        cuda.start_accumulator(&dweight, c, dweight_write);
        launch!(cuda.hzk_rmsnorm_backward(
            bf16s(&dx, n * c),
            f32s(&dweight, c),
            cuda.scratch_of(&self),
            bf16s(&dout, n * c),
            bf16s(&x, n * c),
            bf16s(&weight, c),
            f32s(&rstd, n),
            offset,
            i32::from(dx_write == Write::Add),
            n as i64,
            c as i64,
            c as i64,
            c as i64,
            c as i64,
        ));
    }
}

/// The factor of each column: offset + weight.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Gain<'a> {
    pub weight: &'a [u16],
    pub offset: f32,
}

impl<'a> Gain<'a> {
    #[inline(always)]
    fn first(self, columns: usize) -> Gain<'a> {
        Gain { weight: &self.weight[..columns], ..self }
    }

    #[inline(always)]
    fn at(self, column: usize) -> f32 {
        self.offset + master::widen(self.weight[column])
    }
}

vectorised! {
    pub(in crate::ops) fn forward_row(out: &mut [f32], x: &[f32], gain: Gain, rstd: f32) {
        let (x, gain) = (&x[..out.len()], gain.first(out.len()));
        for (i, out) in out.iter_mut().enumerate() {
            *out = x[i] * rstd * gain.at(i);
        }
    }
}

vectorised! {
    fn forward_row_onto(out: &mut [f32], x: &[f32], gain: Gain, rstd: f32) {
        let (x, gain) = (&x[..out.len()], gain.first(out.len()));
        for (i, out) in out.iter_mut().enumerate() {
            *out += x[i] * rstd * gain.at(i);
        }
    }
}

vectorised! {
    /// Σ dout · gain · x.
    pub(in crate::ops) fn weighted_sum(dout: &[f32], x: &[f32], gain: Gain) -> f32 {
        let (x, gain) = (&x[..dout.len()], gain.first(dout.len()));
        lane_sum!(dout.len(), |i: usize| dout[i] * gain.at(i) * x[i])
    }
}

/// With x̂ = x · rstd and `mean` = mean(dout · gain · x̂): adds dout · x̂ to dweight and sets dx (with `ADD`, adds to
/// it) rstd · (dout · gain − x̂ · mean).
#[inline(always)]
fn row<const ADD: bool>(
    dx: &mut [f32],
    dweight: &mut [f32],
    dout: &[f32],
    x: &[f32],
    gain: Gain,
    rstd: f32,
    mean: f32,
) {
    let c = dx.len();
    let (dweight, dout, x, gain) = (&mut dweight[..c], &dout[..c], &x[..c], gain.first(c));
    for i in 0..c {
        let normed = x[i] * rstd;
        dweight[i] += dout[i] * normed;
        let value = rstd * (dout[i] * gain.at(i) - normed * mean);
        dx[i] = if ADD { dx[i] + value } else { value };
    }
}

vectorised! {
    pub(in crate::ops) fn set_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], gain: Gain, rstd: f32, mean: f32) {
        row::<false>(dx, dw, dout, x, gain, rstd, mean);
    }
}

vectorised! {
    fn add_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], gain: Gain, rstd: f32, mean: f32) {
        row::<true>(dx, dw, dout, x, gain, rstd, mean);
    }
}
