//! The products of a linear layer, forward and both ways backward, cut into tiles.

use crate::ops::cpu::bias::add_bias;
use crate::ops::cpu::cut::{Tiles, each};
use crate::ops::cpu::product::{DEPTH, multiply};
use crate::ops::cpu::vector::widen;
use crate::ops::cpu::view::{Matrix, TileMut};
use crate::ops::cpu::{CpuKernels, block};
use crate::ops::{Linear, Write};

/// Rows of a tile of activations, at most.
const ROWS: usize = 1024;
/// Rows and columns of a tile come in multiples of this: whole registers, in either direction.
const STEP: usize = 16;
/// Columns of a tile: with them the widened weights of [`DEPTH`] terms stay in the second level of the cache while
/// rows pass by.
const COLUMNS: usize = 256;
/// Rows of a tile of a weight gradient, at most.
const OUTPUTS: usize = 256;
/// Tiles that a product is cut into where its sizes allow, so that threads end together.
const TILES_MIN: usize = 4;

/// The tiles of an output: its rows in equal blocks of at most `rows_max`. An output of few tiles is cut along its longer
/// side, since each tile reads all that the other side has of its operand.
fn tiles(out: TileMut<'_, f32>, rows_max: usize) -> Tiles<'_, f32> {
    let (rows, columns) = (out.rows(), out.columns());
    let (down, across) = (rows.div_ceil(rows_max), columns.div_ceil(COLUMNS));
    let (down, across) = if rows >= columns {
        (down.max(TILES_MIN.div_ceil(across)), across)
    } else {
        (down, across.max(TILES_MIN.div_ceil(down)))
    };
    let block = |size: usize, blocks: usize| size.div_ceil(blocks).next_multiple_of(STEP);
    Tiles::new(out, (block(rows, down), block(columns, across).min(COLUMNS)))
}

/// Terms that forward adds: the residual before the sums, the bias after them.
pub(super) struct Addends<'a> {
    pub residual: Residual<'a>,
    /// `[M]`.
    pub bias: Option<&'a [u16]>,
}

/// What forward adds its product to.
pub(super) enum Residual<'a> {
    /// Nothing: the output is set.
    None,
    /// What the output holds.
    Out,
    /// Another matrix of the output's shape.
    Apart(&'a [f32]),
}

pub(super) fn forward(
    cpu: &CpuKernels,
    out: &mut [f32],
    x: &[f32],
    weight: &[u16],
    addends: Addends,
    sizes: Linear,
) {
    let Linear { n, k, m, out_stride } = sizes;
    let Addends { residual, bias } = addends;
    let tiles = tiles(TileMut::of(out, n, out_stride).split_columns(m).0, ROWS);
    cpu.scratch.reserve(DEPTH.min(k) * COLUMNS.min(m));
    each(&cpu.pool, tiles, |worker, (rows, columns, mut out)| {
        if let Residual::Apart(residual) = residual {
            for (i, row) in rows.clone().enumerate() {
                out.row(i).copy_from_slice(&residual[row * out_stride..][columns.clone()]);
            }
        }
        let mut scratch = cpu.scratch.worker(worker);
        let memory = scratch.take(DEPTH.min(k) * columns.len());
        let (x, weight) = (&x[rows.start * k..rows.end * k], &weight[columns.start * k..columns.end * k]);
        let mut write = if let Residual::None = residual { Write::Set } else { Write::Add };
        for part in 0..k.div_ceil(DEPTH) {
            let depth = block(part, DEPTH, k);
            let x = Matrix::new(&x[depth.start..], rows.len(), depth.len(), k);
            let wide = &mut memory[..depth.len() * columns.len()];
            for (wide, weight) in wide.chunks_exact_mut(depth.len()).zip(weight.chunks_exact(k)) {
                widen(wide, &weight[depth.clone()]);
            }
            let weight = Matrix::new(wide, columns.len(), depth.len(), depth.len()).transposed();
            multiply(&mut out, write, 1.0, x, weight);
            write = Write::Add;
        }
        if let Some(bias) = bias {
            (0..rows.len()).for_each(|i| add_bias(out.row(i), &bias[columns.clone()]));
        }
    });
}

pub(super) fn backward_input(
    cpu: &CpuKernels,
    dx: &mut [f32],
    write: Write,
    dout: &[f32],
    weight: &[u16],
    sizes: Linear,
) {
    let Linear { n, k, m, out_stride } = sizes;
    let tiles = tiles(TileMut::of(dx, n, k), ROWS);
    cpu.scratch.reserve(DEPTH.min(m) * COLUMNS.min(k));
    each(&cpu.pool, tiles, |worker, (rows, columns, mut dx)| {
        let mut scratch = cpu.scratch.worker(worker);
        let memory = scratch.take(DEPTH.min(m) * columns.len());
        let mut write = write;
        for part in 0..m.div_ceil(DEPTH) {
            let depth = block(part, DEPTH, m);
            let weight = &weight[depth.start * k..depth.end * k];
            let wide = &mut memory[..depth.len() * columns.len()];
            for (wide, weight) in wide.chunks_exact_mut(columns.len()).zip(weight.chunks_exact(k)) {
                widen(wide, &weight[columns.clone()]);
            }
            let weight = Matrix::new(wide, depth.len(), columns.len(), columns.len());
            let dout = &dout[rows.start * out_stride + depth.start..];
            let dout = Matrix::new(dout, rows.len(), depth.len(), out_stride);
            multiply(&mut dx, write, 1.0, dout, weight);
            write = Write::Add;
        }
    });
}

pub(super) fn backward_weight(
    cpu: &CpuKernels,
    dweight: &mut [f32],
    write: Write,
    dout: &[f32],
    x: &[f32],
    sizes: Linear,
) {
    let Linear { n, k, m, out_stride } = sizes;
    let tiles = tiles(TileMut::of(dweight, m, k), OUTPUTS);
    each(&cpu.pool, tiles, |_, (rows, columns, mut dweight)| {
        let dout = Matrix::new(&dout[rows.start..], n, rows.len(), out_stride).transposed();
        let x = Matrix::new(&x[columns.start..], n, columns.len(), k);
        multiply(&mut dweight, write, 1.0, dout, x);
    });
}
