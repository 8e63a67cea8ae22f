//! RMSNorm (Zhang & Sennrich 2019).

use crate::base::master;
use crate::ops::Write;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{dot, lane_sum, vectorised};

pub(super) fn forward(
    cpu: &CpuKernels,
    out: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    weight: &[u16],
    eps: f32,
    c: usize,
) {
    let tiles = (Rows::new(out, c, ROWS), Rows::new(rstd, 1, ROWS));
    each(&cpu.pool, tiles, |_, ((rows, out), (_, rstd))| {
        let x = &x[rows.start * c..rows.end * c];
        for ((out, rstd), x) in out.chunks_exact_mut(c).zip(rstd).zip(x.chunks_exact(c)) {
            *rstd = 1.0 / (dot(x, x) / c as f32 + eps).sqrt();
            forward_row(out, x, weight, *rstd);
        }
    });
}

/// Where backward's results go.
pub(super) struct Gradients<'a> {
    /// Holds x where [`Saved::x`] is none.
    pub dx: &'a mut [f32],
    pub dx_write: Write,
    pub dweight: &'a mut [f32],
    pub dweight_write: Write,
}

/// What backward reads.
pub(super) struct Saved<'a> {
    pub x: Option<&'a [f32]>,
    pub rstd: &'a [f32],
    pub weight: &'a [u16],
    pub dout: &'a [f32],
}

pub(super) fn backward(cpu: &CpuKernels, out: Gradients, saved: Saved, n: usize, c: usize) {
    let tiles = n.div_ceil(ROWS);
    let mut partials = cpu.scratch.partials.lock();
    let partials = partials.take(tiles * c);
    // A row of x is copied here first, because dx may overwrite it.
    cpu.scratch.reserve(c);
    let cut = (Rows::new(out.dx, c, ROWS), Rows::new(partials, c, 1));
    each(&cpu.pool, cut, |worker, ((rows, dx), (_, dweight))| {
        let mut scratch = cpu.scratch.worker(worker);
        let row = scratch.take(c);
        dweight.fill(0.0);
        for (n, dx) in rows.zip(dx.chunks_exact_mut(c)) {
            row.copy_from_slice(saved.x.map_or(&*dx, |x| &x[n * c..][..c]));
            let (dout, rstd) = (&saved.dout[n * c..][..c], saved.rstd[n]);
            let mean = weighted_sum(dout, row, saved.weight) * rstd / c as f32;
            match out.dx_write {
                Write::Set => set_row(dx, dweight, dout, row, saved.weight, rstd, mean),
                Write::Add => add_row(dx, dweight, dout, row, saved.weight, rstd, mean),
            }
        }
    });
    column_sum::fold(cpu, out.dweight, out.dweight_write, partials, c, 0);
}

vectorised! {
    pub(super) fn forward_row(out: &mut [f32], x: &[f32], weight: &[u16], rstd: f32) {
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * rstd * master::widen(weight);
        }
    }
}

vectorised! {
    /// Σ dout · weight · x.
    pub(super) fn weighted_sum(dout: &[f32], x: &[f32], weight: &[u16]) -> f32 {
        let (x, weight) = (&x[..dout.len()], &weight[..dout.len()]);
        lane_sum!(dout.len(), |i: usize| dout[i] * master::widen(weight[i]) * x[i])
    }
}

/// With x̂ = x · rstd and `mean` = mean(dout · weight · x̂): dweight += dout · x̂, and
/// dx = rstd · (dout · weight − x̂ · mean), given to `write`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn row(
    dx: &mut [f32],
    dweight: &mut [f32],
    dout: &[f32],
    x: &[f32],
    weight: &[u16],
    rstd: f32,
    mean: f32,
    write: impl Fn(&mut f32, f32),
) {
    let c = dx.len();
    let (dweight, dout, x, weight) = (&mut dweight[..c], &dout[..c], &x[..c], &weight[..c]);
    for i in 0..c {
        let normed = x[i] * rstd;
        dweight[i] += dout[i] * normed;
        write(&mut dx[i], rstd * (dout[i] * master::widen(weight[i]) - normed * mean));
    }
}

vectorised! {
    pub(super) fn set_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], weight: &[u16], rstd: f32, mean: f32) {
        row(dx, dw, dout, x, weight, rstd, mean, |dx, value| *dx = value);
    }
}

vectorised! {
    fn add_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], weight: &[u16], rstd: f32, mean: f32) {
        row(dx, dw, dout, x, weight, rstd, mean, |dx, value| *dx += value);
    }
}
