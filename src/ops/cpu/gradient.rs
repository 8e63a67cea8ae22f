//! What happens to a gradient before it leaves the device: its norm, and its rounding.

use crate::base::master;
use crate::ops::cpu::vector::{LANES, vectorised};
use crate::ops::cpu::view::Grid;
use crate::ops::cpu::{CpuKernels, block};

/// Elements of a tile: a few hundred KiB, so that a tile is worth waking a worker for.
const ELEMENTS: usize = 1 << 16;

pub(super) fn zero(cpu: &CpuKernels, out: Grid<u8>, bytes: usize) {
    const BYTES: usize = ELEMENTS * 4;
    cpu.pool.run(bytes.div_ceil(BYTES), &|_, tile| {
        // SAFETY: the byte ranges of different tiles are disjoint, and each tile runs once.
        unsafe { out.rows_mut(block(tile, BYTES, bytes)) }.fill(0);
    });
}

pub(super) fn sum_of_squares(cpu: &CpuKernels, out: Grid<f64>, x: &[f32]) {
    let tiles = x.len().div_ceil(ELEMENTS);
    let mut partials = cpu.scratch.wide_partials.lock();
    let partials = Grid::of(partials.take(tiles), tiles, 1);
    cpu.pool.run(tiles, &|_, tile| {
        let sum = squares(&x[block(tile, ELEMENTS, x.len())]);
        // SAFETY: each tile has its own element of the partial sums and runs once.
        let partial = unsafe { partials.rows_mut(tile..tile + 1) };
        partial[0] = sum;
    });
    // SAFETY: the job is over; nobody else holds the partial sums or the output.
    let (partials, out) = unsafe { (partials.rows(0..tiles), out.rows_mut(0..1)) };
    out[0] = partials.iter().sum();
}

pub(super) fn round(cpu: &CpuKernels, out: Grid<u16>, x: &[f32]) {
    cpu.pool.run(x.len().div_ceil(ELEMENTS), &|_, tile| {
        let elements = block(tile, ELEMENTS, x.len());
        // SAFETY: the ranges of different tiles are disjoint, and each tile runs once.
        round_tile(unsafe { out.rows_mut(elements.clone()) }, &x[elements]);
    });
}

pub(super) fn copy(cpu: &CpuKernels, out: Grid<f32>, x: &[f32]) {
    cpu.pool.run(x.len().div_ceil(ELEMENTS), &|_, tile| {
        let elements = block(tile, ELEMENTS, x.len());
        // SAFETY: the ranges of different tiles are disjoint, and each tile runs once.
        unsafe { out.rows_mut(elements.clone()) }.copy_from_slice(&x[elements]);
    });
}

vectorised! {
    /// Σ x² in f64, in lanes folded in a fixed order.
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for lane in 0..LANES {
                let value = f64::from(chunk[lane]);
                lanes[lane] += value * value;
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane += f64::from(value) * f64::from(value);
        }
        lanes.iter().sum()
    }
}

vectorised! {
    /// bf16 by [`master::round`].
    fn round_tile(out: &mut [u16], x: &[f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = master::round(x);
        }
    }
}
