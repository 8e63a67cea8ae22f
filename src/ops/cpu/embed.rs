//! Token embedding: a row a token, and the sum of gradient rows a token.

use crate::device::DeviceSpan;
use crate::ops::cpu::vector::{vectorised, widen};
use crate::ops::cpu::view::{Grid, read};
use crate::ops::cpu::{CpuKernels, block};

/// Rows of a forward tile.
const ROWS: usize = 64;
/// Columns of a backward tile: each tile walks all rows, so that a token's gradients add up in row order.
const COLUMNS: usize = 64;

/// Rows of an embedding whose span may end in padding.
fn vocabulary(span: &DeviceSpan, element_bytes: usize, c: usize) -> usize {
    span.bytes() / element_bytes / c
}

/// Where a token's row is.
///
/// # Panics
/// If the token has no row; whoever brings tokens in checks them against V.
fn row_of(token: i32, v: usize) -> usize {
    let row = usize::try_from(token).unwrap_or(usize::MAX);
    assert!(row < v, "token {token} has no row in an embedding of {v}");
    row
}

pub(super) fn forward(cpu: &CpuKernels, out: Grid<f32>, table: &DeviceSpan, tokens: &[i32], c: usize) {
    let v = vocabulary(table, 2, c);
    let table: &[u16] = read(table, v * c);
    cpu.pool.run(tokens.len().div_ceil(ROWS), &|_, tile| {
        let rows = block(tile, ROWS, tokens.len());
        // SAFETY: row blocks of different tiles are disjoint, and each tile runs once.
        let out = unsafe { out.rows_mut(rows.clone()) };
        for (out, &token) in out.chunks_exact_mut(c).zip(&tokens[rows]) {
            let row = row_of(token, v);
            widen(out, &table[row * c..][..c]);
        }
    });
}

pub(super) fn backward(cpu: &CpuKernels, dtable: &DeviceSpan, dout: &[f32], tokens: &[i32], c: usize) {
    let v = vocabulary(dtable, 4, c);
    let dtable = Grid::<f32>::new(dtable, v, c);
    cpu.pool.run(c.div_ceil(COLUMNS), &|_, tile| {
        let columns = block(tile, COLUMNS, c);
        // SAFETY: column blocks of different tiles are disjoint, and each tile runs once.
        let mut dtable = unsafe { dtable.tile(0..v, columns.clone()) };
        for (dout, &token) in dout.chunks_exact(c).zip(tokens) {
            add(dtable.row(row_of(token, v)), &dout[columns.clone()]);
        }
    });
}

vectorised! {
    /// `out += x`.
    pub(super) fn add(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}
