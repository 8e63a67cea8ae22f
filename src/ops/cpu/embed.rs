//! Token embedding: a row a token, and the sum of gradient rows a token.

use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, Tiles, each};
use crate::ops::cpu::vector::{vectorised, widen};
use crate::ops::cpu::view::TileMut;

/// Rows of a forward tile.
const ROWS: usize = 64;
/// Columns of a backward tile: each tile walks all rows, token by token.
const COLUMNS: usize = 64;

/// Where a token's row is.
///
/// # Panics
/// If the token has no row; whoever brings tokens in checks them against V.
fn row_of(token: i32, v: usize) -> usize {
    let row = usize::try_from(token).unwrap_or(usize::MAX);
    assert!(row < v, "token {token} has no row in an embedding of {v}");
    row
}

pub(super) fn forward(cpu: &CpuKernels, out: &mut [f32], table: &[u16], tokens: &[i32], c: usize) {
    let v = table.len() / c;
    each(&cpu.pool, Rows::new(out, c, ROWS), |_, (rows, out)| {
        for (out, &token) in out.chunks_exact_mut(c).zip(&tokens[rows]) {
            let row = row_of(token, v);
            widen(out, &table[row * c..][..c]);
        }
    });
}

/// Rows by token; see [`TokenRows`](crate::ops::TokenRows).
pub(super) struct Sorted<'a> {
    pub tokens: &'a [i32],
    pub order: &'a [i32],
    pub first: &'a [i32],
}

pub(super) fn backward(cpu: &CpuKernels, dtable: &mut [f32], dout: &[f32], sorted: Sorted, c: usize) {
    let v = dtable.len() / c;
    let tiles = Tiles::new(TileMut::of(dtable, v, c), (v, COLUMNS));
    each(&cpu.pool, tiles, |_, (_, columns, mut dtable)| {
        for bounds in sorted.first.windows(2) {
            let rows = &sorted.order[bounds[0] as usize..bounds[1] as usize];
            let sum = dtable.row(row_of(sorted.tokens[rows[0] as usize], v));
            for &row in rows {
                add(sum, &dout[row as usize * c..][columns.clone()]);
            }
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
