//! The products of a linear layer, forward and both ways backward, cut into tiles.

use crate::ops::Write;
use crate::ops::cpu::product::{
    Blocks, Left, Panels, ROWS as ROWS_OF_KERNEL, block_elements, multiply, panel_elements,
};
use crate::ops::cpu::view::{Grid, Matrix};
use crate::ops::cpu::{CpuKernels, block};

/// Rows of a tile of activations, at most.
const ROWS: usize = 1024;
/// Columns of a tile.
const COLUMNS: usize = 256;
/// Rows of a tile of a weight gradient, at most.
const OUTPUTS: usize = 192;
/// Tiles that a product is cut into where its rows allow, so that threads end together.
const TILES_MIN: usize = 4;
/// Terms that are summed at a time: the packed panels of a tile, DEPTH · COLUMNS · 4 bytes, stay in the second
/// level of the cache while rows pass by.
const DEPTH: usize = 256;

/// Rows of a tile when `count` rows are cut into equal blocks of at most `rows_max`, `across` tiles wide.
fn tile_rows(count: usize, rows_max: usize, across: usize) -> usize {
    let blocks = count.div_ceil(rows_max).max(TILES_MIN.div_ceil(across));
    count.div_ceil(blocks).next_multiple_of(ROWS_OF_KERNEL)
}

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
    let across = m.div_ceil(COLUMNS);
    let tile_rows = tile_rows(n, ROWS, across);
    let down = n.div_ceil(tile_rows);
    cpu.scratch.reserve(panel_elements(DEPTH.min(k), COLUMNS.min(m)));
    cpu.pool.run(down * across, &|worker, tile| {
        let (rows, columns) = (block(tile % down, tile_rows, n), block(tile / down, COLUMNS, m));
        if let Some(residual) = residual {
            for row in rows.clone() {
                // SAFETY: this rectangle of out, and of a residual that may be the same memory, belongs to
                // this tile alone; the copy allows them to be the same.
                unsafe { out.copy_row(&residual, row, columns.clone()) };
            }
        }
        // SAFETY: rectangles of different tiles are disjoint, and each tile runs once.
        let mut out = unsafe { out.tile(rows.clone(), columns.clone()) };
        let mut scratch = cpu.scratch.worker(worker);
        let memory = scratch.take(panel_elements(DEPTH.min(k), columns.len()));
        let (x, weight) = (&x[rows.start * k..rows.end * k], &weight[columns.start * k..columns.end * k]);
        let mut write = if residual.is_some() { Write::Add } else { Write::Set };
        for part in 0..k.div_ceil(DEPTH) {
            let depth = block(part, DEPTH, k);
            let x = Matrix::new(&x[depth.start..], rows.len(), depth.len(), k);
            multiply(
                &mut out,
                write,
                1.0,
                Left::Plain(x),
                Panels::of_columns(memory, weight, k, depth, columns.len()),
            );
            write = Write::Add;
        }
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
    let across = k.div_ceil(COLUMNS);
    let tile_rows = tile_rows(n, ROWS, across);
    let down = n.div_ceil(tile_rows);
    cpu.scratch.reserve(panel_elements(DEPTH.min(m), COLUMNS.min(k)));
    cpu.pool.run(down * across, &|worker, tile| {
        let (rows, columns) = (block(tile % down, tile_rows, n), block(tile / down, COLUMNS, k));
        // SAFETY: rectangles of different tiles are disjoint, and each tile runs once.
        let mut dx = unsafe { dx.tile(rows.clone(), columns.clone()) };
        let mut scratch = cpu.scratch.worker(worker);
        let memory = scratch.take(panel_elements(DEPTH.min(m), columns.len()));
        let mut write = write;
        for part in 0..m.div_ceil(DEPTH) {
            let depth = block(part, DEPTH, m);
            let weight = &weight[depth.start * k..depth.end * k];
            let weight = Panels::of_rows(memory, weight, k, depth.len(), columns.clone());
            let dout = Matrix::new(&dout[rows.start * m + depth.start..], rows.len(), depth.len(), m);
            multiply(&mut dx, write, 1.0, Left::Plain(dout), weight);
            write = Write::Add;
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
    let across = k.div_ceil(COLUMNS);
    let tile_rows = tile_rows(m, OUTPUTS, across);
    let down = m.div_ceil(tile_rows);
    let depth_max = DEPTH.min(n);
    let left_elements = block_elements(depth_max, tile_rows);
    let elements = left_elements + panel_elements(depth_max, COLUMNS.min(k));
    cpu.scratch.reserve(elements);
    cpu.pool.run(down * across, &|worker, tile| {
        let (rows, columns) = (block(tile % down, tile_rows, m), block(tile / down, COLUMNS, k));
        // SAFETY: rectangles of different tiles are disjoint, and each tile runs once.
        let mut dweight = unsafe { dweight.tile(rows.clone(), columns.clone()) };
        let mut scratch = cpu.scratch.worker(worker);
        let (left, right) = scratch.take(elements).split_at_mut(left_elements);
        let mut write = write;
        for part in 0..n.div_ceil(DEPTH) {
            let depth = block(part, DEPTH, n);
            let x =
                Panels::of_rows(right, &x[depth.start * k..depth.end * k], k, depth.len(), columns.clone());
            let dout = &dout[depth.start * m..depth.end * m];
            let dout = Blocks::of_columns(left, dout, m, depth.len(), rows.clone());
            multiply(&mut dweight, write, 1.0, Left::Packed(dout), x);
            write = Write::Add;
        }
    });
}
