//! Column sums: each tile of rows writes a row of partial sums, and [`fold`] adds these in tile
//! order.

use crate::ops::Write;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};

/// Rows of a tile.
pub(in crate::ops) const ROWS: usize = 64;
/// Columns of a tile of [`fold`].
const COLUMNS: usize = 256;

/// Sets or adds to `out` the column sums of `partials`, whose rows have `stride` elements, from
/// column `first` on.
pub(in crate::ops) fn fold(
    cpu: &CpuKernels,
    out: &mut [f32],
    write: Write,
    partials: &[f32],
    stride: usize,
    first: usize,
) {
    each(&cpu.pool, Rows::new(out, 1, COLUMNS), |_, (columns, out)| {
        if write == Write::Set {
            out.fill(0.0);
        }
        for partial in partials.chunks_exact(stride) {
            for (out, partial) in out.iter_mut().zip(&partial[first + columns.start..]) {
                *out += partial;
            }
        }
    });
}
