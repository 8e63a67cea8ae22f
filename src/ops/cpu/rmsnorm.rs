//! RMSNorm (Zhang & Sennrich 2019).

use crate::base::master;
use crate::ops::Write;
use crate::ops::cpu::vector::{dot, lane_sum, vectorised};
use crate::ops::cpu::view::Grid;
use crate::ops::cpu::{CpuKernels, block};

/// Rows of a tile. Backward sums dweight in one row of partial sums a tile.
const ROWS: usize = 64;
/// Columns of a tile when partial sums are folded.
const COLUMNS: usize = 256;

#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    cpu: &CpuKernels,
    out: Grid<f32>,
    rstd: Grid<f32>,
    x: &[f32],
    weight: &[u16],
    eps: f32,
    n: usize,
    c: usize,
) {
    cpu.pool.run(n.div_ceil(ROWS), &|_, tile| {
        let rows = block(tile, ROWS, n);
        // SAFETY: row blocks of different tiles are disjoint, and each tile runs once.
        let (out, rstd) = unsafe { (out.rows_mut(rows.clone()), rstd.rows_mut(rows.clone())) };
        let x = &x[rows.start * c..rows.end * c];
        for ((out, rstd), x) in out.chunks_exact_mut(c).zip(rstd).zip(x.chunks_exact(c)) {
            *rstd = 1.0 / (dot(x, x) / c as f32 + eps).sqrt();
            forward_row(out, x, weight, *rstd);
        }
    });
}

/// Where backward's results go.
pub(super) struct Gradients<'a> {
    /// May be the memory of [`Saved::x`] when it is set.
    pub dx: Grid<'a, f32>,
    pub dx_write: Write,
    pub dweight: Grid<'a, f32>,
    pub dweight_write: Write,
}

/// What backward reads.
pub(super) struct Saved<'a> {
    pub x: Grid<'a, f32>,
    pub rstd: &'a [f32],
    pub weight: &'a [u16],
    pub dout: &'a [f32],
}

pub(super) fn backward(cpu: &CpuKernels, out: Gradients, saved: Saved, n: usize, c: usize) {
    let tiles = n.div_ceil(ROWS);
    let mut partials = cpu.scratch.partials.lock();
    let partials = Grid::of(partials.take(tiles * c), tiles, c);
    // A row of x is copied here first, because dx may overwrite it.
    cpu.scratch.reserve(c);
    cpu.pool.run(tiles, &|worker, tile| {
        let mut scratch = cpu.scratch.worker(worker);
        let row = scratch.take(c);
        // SAFETY: each tile has its own row of partial sums and runs once.
        let dweight = unsafe { partials.rows_mut(tile..tile + 1) };
        dweight.fill(0.0);
        for n in block(tile, ROWS, n) {
            // SAFETY: row n belongs to this tile alone, in x as in dx, and the slice dies before dx is taken.
            row.copy_from_slice(unsafe { saved.x.rows(n..n + 1) });
            // SAFETY: row n belongs to this tile alone; no slice of x is alive.
            let dx = unsafe { out.dx.rows_mut(n..n + 1) };
            let (dout, rstd) = (&saved.dout[n * c..][..c], saved.rstd[n]);
            let mean = weighted_sum(dout, row, saved.weight) * rstd / c as f32;
            match out.dx_write {
                Write::Set => set_row(dx, dweight, dout, row, saved.weight, rstd, mean),
                Write::Add => add_row(dx, dweight, dout, row, saved.weight, rstd, mean),
            }
        }
    });
    cpu.pool.run(c.div_ceil(COLUMNS), &|_, tile| {
        let columns = block(tile, COLUMNS, c);
        // SAFETY: column blocks of different tiles are disjoint, and each tile runs once.
        let dweight = unsafe { out.dweight.rows_mut(columns.clone()) };
        // SAFETY: the job that wrote the partial sums is over; they are only read from here on.
        let partials = unsafe { partials.rows(0..tiles) };
        if out.dweight_write == Write::Set {
            dweight.fill(0.0);
        }
        for partial in partials.chunks_exact(c) {
            for (dweight, partial) in dweight.iter_mut().zip(&partial[columns.clone()]) {
                *dweight += partial;
            }
        }
    });
}

vectorised! {
    fn forward_row(out: &mut [f32], x: &[f32], weight: &[u16], rstd: f32) {
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * rstd * master::widen(weight);
        }
    }
}

vectorised! {
    /// Σ dout · weight · x.
    fn weighted_sum(dout: &[f32], x: &[f32], weight: &[u16]) -> f32 {
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
    fn set_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], weight: &[u16], rstd: f32, mean: f32) {
        row(dx, dw, dout, x, weight, rstd, mean, |dx, value| *dx = value);
    }
}

vectorised! {
    fn add_row(dx: &mut [f32], dw: &mut [f32], dout: &[f32], x: &[f32], weight: &[u16], rstd: f32, mean: f32) {
        row(dx, dw, dout, x, weight, rstd, mean, |dx, value| *dx += value);
    }
}
