//! The products of a linear layer, forward and both ways backward, cut into tiles.

use crate::ops::Write;
use crate::ops::cpu::product::multiply;
use crate::ops::cpu::vector::widen;
use crate::ops::cpu::view::{Grid, Matrix};
use crate::ops::cpu::{CpuKernels, block};

/// Rows of a tile of activations.
const ROWS: usize = 512;
/// Terms that backward to the input sums at a time: what is widened of the weights stays in the cache.
const DEPTH: usize = 1024;
/// Columns of a tile of activations, and rows and columns of a tile of a weight gradient.
const COLUMNS: usize = 128;

#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    cpu: &CpuKernels,
    out: Grid<f32>,
    x: &[f32],
    weight: &[u16],
    residual: Option<Grid<f32>>,
    n: usize,
    k: usize,
    m: usize,
) {
    let (down, across) = (n.div_ceil(ROWS), m.div_ceil(COLUMNS));
    cpu.scratch.reserve(COLUMNS.min(m) * k);
    cpu.pool.run(down * across, &|worker, tile| {
        let (rows, columns) = (block(tile % down, ROWS, n), block(tile / down, COLUMNS, m));
        let mut scratch = cpu.scratch.worker(worker);
        let wide = scratch.take(columns.len() * k);
        widen(wide, &weight[columns.start * k..columns.end * k]);
        let weight = Matrix::new(wide, columns.len(), k, k).transposed();
        let x = Matrix::new(&x[rows.start * k..rows.end * k], rows.len(), k, k);
        let write = if residual.is_some() { Write::Add } else { Write::Set };
        if let Some(residual) = residual {
            for row in rows.clone() {
                // SAFETY: this rectangle of out, and of a residual that may be the same memory, belongs to
                // this tile alone; the copy allows them to be the same.
                unsafe { out.copy_row(&residual, row, columns.clone()) };
            }
        }
        // SAFETY: rectangles of different tiles are disjoint, and each tile runs once.
        let mut out = unsafe { out.tile(rows, columns) };
        multiply(&mut out, write, 1.0, x, weight);
    });
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward_input(
    cpu: &CpuKernels,
    dx: Grid<f32>,
    write: Write,
    dout: &[f32],
    weight: &[u16],
    n: usize,
    k: usize,
    m: usize,
) {
    let (down, across) = (n.div_ceil(ROWS), k.div_ceil(COLUMNS));
    cpu.scratch.reserve(DEPTH.min(m) * COLUMNS.min(k));
    cpu.pool.run(down * across, &|worker, tile| {
        let (rows, columns) = (block(tile % down, ROWS, n), block(tile / down, COLUMNS, k));
        // SAFETY: rectangles of different tiles are disjoint, and each tile runs once.
        let mut dx = unsafe { dx.tile(rows.clone(), columns.clone()) };
        let mut scratch = cpu.scratch.worker(worker);
        for part in 0..m.div_ceil(DEPTH) {
            let depth = block(part, DEPTH, m);
            let wide = scratch.take(depth.len() * columns.len());
            let weight = &weight[depth.start * k..depth.end * k];
            for (wide, weight) in wide.chunks_exact_mut(columns.len()).zip(weight.chunks_exact(k)) {
                widen(wide, &weight[columns.clone()]);
            }
            let weight = Matrix::new(wide, depth.len(), columns.len(), columns.len());
            let dout = Matrix::new(&dout[rows.start * m + depth.start..], rows.len(), depth.len(), m);
            multiply(&mut dx, if part == 0 { write } else { Write::Add }, 1.0, dout, weight);
        }
    });
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward_weight(
    cpu: &CpuKernels,
    dweight: Grid<f32>,
    write: Write,
    dout: &[f32],
    x: &[f32],
    n: usize,
    k: usize,
    m: usize,
) {
    let (down, across) = (m.div_ceil(COLUMNS), k.div_ceil(COLUMNS));
    cpu.pool.run(down * across, &|_, tile| {
        let (rows, columns) = (block(tile % down, COLUMNS, m), block(tile / down, COLUMNS, k));
        let dout = Matrix::new(&dout[rows.start..], n, rows.len(), m).transposed();
        let x = Matrix::new(&x[columns.start..], n, columns.len(), k);
        // SAFETY: rectangles of different tiles are disjoint, and each tile runs once.
        let mut dweight = unsafe { dweight.tile(rows, columns) };
        multiply(&mut dweight, write, 1.0, dout, x);
    });
}
