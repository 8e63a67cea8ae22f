//! What happens to a gradient before it leaves the device: its norm, and its rounding.

use crate::base::master;
use crate::ops::NORM_BLOCK;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{LANES, vectorised};
use crate::ops::cpu::view::Element;
use crate::ops::cpu::{CpuKernels, block};

pub(super) fn zero(cpu: &CpuKernels, out: &mut [u8]) {
    each(&cpu.pool, Rows::new(out, 1, NORM_BLOCK * 4), |_, (_, out)| out.fill(0));
}

pub(super) fn sum_of_squares(cpu: &CpuKernels, out: &mut [f64], x: &[f32]) {
    each(&cpu.pool, Rows::new(out, 1, 1), |_, (tile, sum)| {
        sum[0] = square_sum(&x[block(tile.start, NORM_BLOCK, x.len())]);
    });
}

pub(super) fn round(cpu: &CpuKernels, out: &mut [u16], squares: Option<&mut [f64]>, x: &[f32]) {
    store(cpu, out, squares, x, round_tile);
}

pub(super) fn copy(cpu: &CpuKernels, out: &mut [f32], squares: Option<&mut [f64]>, x: &[f32]) {
    store(cpu, out, squares, x, <[f32]>::copy_from_slice);
}

/// Stores `x` by blocks. With `squares` each block is squared while it is in the cache.
fn store<T: Element>(
    cpu: &CpuKernels,
    out: &mut [T],
    squares: Option<&mut [f64]>,
    x: &[f32],
    store_tile: fn(&mut [T], &[f32]),
) {
    let out = Rows::new(out, 1, NORM_BLOCK);
    let Some(squares) = squares else {
        return each(&cpu.pool, out, |_, (elements, out)| store_tile(out, &x[elements]));
    };
    each(&cpu.pool, (out, Rows::new(squares, 1, 1)), |_, ((elements, out), (_, sum))| {
        sum[0] = square_sum(&x[elements.clone()]);
        store_tile(out, &x[elements]);
    });
}

vectorised! {
    /// Σ x² in f64, in lanes folded in a fixed order.
    fn square_sum(x: &[f32]) -> f64 {
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
