//! The bias of a linear layer: added to a row, and the sum of gradient rows.

use crate::ops::Write;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::embed::add;
use crate::ops::cpu::vector::vectorised;

pub(super) fn backward(cpu: &CpuKernels, dbias: &mut [f32], write: Write, dout: &[f32]) {
    let c = dbias.len();
    let mut partials = cpu.scratch.partials.lock();
    let partials = partials.take((dout.len() / c).div_ceil(ROWS) * c);
    each(&cpu.pool, Rows::new(partials, c, 1), |_, (tile, partial)| {
        partial.fill(0.0);
        let rows = dout.chunks(ROWS * c).nth(tile.start).expect("a tile has rows");
        rows.chunks_exact(c).for_each(|dout| add(partial, dout));
    });
    column_sum::fold(cpu, dbias, write, partials, c, 0);
}

vectorised! {
    /// `out += bias`.
    pub(super) fn add_bias(out: &mut [f32], bias: &[u16]) {
        for (out, &bias) in out.iter_mut().zip(bias) {
            *out += crate::base::master::widen(bias);
        }
    }
}
