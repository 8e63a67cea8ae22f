//! What happens to a gradient before it leaves the device: its norm, and its rounding.

use crate::base::master;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{LANES, vectorised};
use crate::ops::cpu::view::Element;
use crate::ops::cpu::{CpuKernels, block};

/// Elements of a tile: a few hundred KiB, so that a tile is worth waking a worker for.
const ELEMENTS: usize = 1 << 16;

pub(super) fn zero(cpu: &CpuKernels, out: &mut [u8]) {
    each(&cpu.pool, Rows::new(out, 1, ELEMENTS * 4), |_, (_, out)| out.fill(0));
}

pub(super) fn sum_of_squares(cpu: &CpuKernels, out: &mut f64, x: &[f32]) {
    let tiles = x.len().div_ceil(ELEMENTS);
    let mut partials = cpu.scratch.wide_partials.lock();
    let partials = partials.take(tiles);
    each(&cpu.pool, Rows::new(partials, 1, 1), |_, (tile, partial)| {
        partial[0] = squares(&x[block(tile.start, ELEMENTS, x.len())]);
    });
    *out = partials.iter().sum();
}

pub(super) fn round(cpu: &CpuKernels, out: &mut [u16], square_sum: Option<&mut f64>, x: &[f32]) {
    store(cpu, out, square_sum, x, round_tile);
}

pub(super) fn copy(cpu: &CpuKernels, out: &mut [f32], square_sum: Option<&mut f64>, x: &[f32]) {
    store(cpu, out, square_sum, x, <[f32]>::copy_from_slice);
}

/// Stores `x` by tiles. With `square_sum` each tile is squared while it is in the cache, with the tiles and so the bits of
/// [`sum_of_squares`].
fn store<T: Element>(
    cpu: &CpuKernels,
    out: &mut [T],
    square_sum: Option<&mut f64>,
    x: &[f32],
    store_tile: fn(&mut [T], &[f32]),
) {
    let out = Rows::new(out, 1, ELEMENTS);
    let Some(square_sum) = square_sum else {
        return each(&cpu.pool, out, |_, (elements, out)| store_tile(out, &x[elements]));
    };
    let mut partials = cpu.scratch.wide_partials.lock();
    let partials = partials.take(x.len().div_ceil(ELEMENTS));
    each(&cpu.pool, (out, Rows::new(partials, 1, 1)), |_, ((elements, out), (_, partial))| {
        partial[0] = squares(&x[elements.clone()]);
        store_tile(out, &x[elements]);
    });
    *square_sum = partials.iter().sum();
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
