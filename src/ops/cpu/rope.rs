//! Rotary positions (Su et al. 2021), pairs (i, i + D/2).

use parking_lot::Mutex;

use crate::base::Dims;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::vectorised;

/// Rows of a tile.
const ROWS: usize = 64;

/// Which way to turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    Backward,
}

/// Cosines and sines of the positions seen so far, for one set of frequencies.
#[derive(Default)]
pub(super) struct RotationTable(Mutex<Rotations>);

#[derive(Default)]
struct Rotations {
    /// `[D/2]`, as bits: a NaN is itself.
    inv_freq: Vec<u32>,
    positions: usize,
    /// `[positions, D]`: D/2 cosines, D/2 sines.
    turns: Vec<f32>,
}

impl Rotations {
    /// Grows the table to `positions`. The angle is a product in f32; its cosine and sine are rounded once.
    fn cover(&mut self, positions: usize, inv_freq: &[f32]) {
        let known = self.inv_freq.iter().copied().eq(inv_freq.iter().map(|f| f.to_bits()));
        if known && positions <= self.positions {
            return;
        }
        self.turns = (0..positions)
            .flat_map(|position| {
                let angles = inv_freq.iter().map(move |f| f64::from(position as f32 * f));
                let cosines = angles.clone().map(|angle| angle.cos() as f32);
                cosines.chain(angles.map(|angle| angle.sin() as f32))
            })
            .collect();
        self.inv_freq = inv_freq.iter().map(|f| f.to_bits()).collect();
        self.positions = positions;
    }
}

pub(super) fn rotate(
    cpu: &CpuKernels,
    qkv: &mut [f32],
    positions: &[i32],
    inv_freq: &[f32],
    dims: &Dims,
    way: Way,
) {
    let d = dims.d;
    let mut rotations = cpu.rotations.0.lock();
    rotations.cover(positions.iter().max().map_or(0, |&last| last as usize + 1), inv_freq);
    let turns = &rotations.turns;
    each(&cpu.pool, Rows::new(qkv, dims.qkv(), ROWS), |_, (rows, qkv)| {
        for (n, row) in rows.zip(qkv.chunks_exact_mut(dims.qkv())) {
            let (cosines, sines) = turns[positions[n] as usize * d..][..d].split_at(d / 2);
            for head in row[..(dims.h + dims.g) * d].chunks_exact_mut(d) {
                let (low, high) = head.split_at_mut(d / 2);
                match way {
                    Way::Forward => turn_forward(low, high, cosines, sines),
                    Way::Backward => turn_backward(low, high, cosines, sines),
                }
            }
        }
    });
}

/// (low, high) turned by the angle whose cosine and signed sine are given.
#[inline(always)]
fn turn(low: &mut [f32], high: &mut [f32], cosines: &[f32], sines: &[f32], sign: f32) {
    for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
        let sin = sign * sin;
        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
    }
}

vectorised! {
    fn turn_forward(low: &mut [f32], high: &mut [f32], cosines: &[f32], sines: &[f32]) {
        turn(low, high, cosines, sines, 1.0);
    }
}

vectorised! {
    fn turn_backward(low: &mut [f32], high: &mut [f32], cosines: &[f32], sines: &[f32]) {
        turn(low, high, cosines, sines, -1.0);
    }
}
