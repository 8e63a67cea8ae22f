//! Rotary positions (Su et al. 2021), pairs (i, i + D/2).

use parking_lot::Mutex;

use crate::base::{Dims, Shape};
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

/// Cosines and sines of the positions seen so far, for one base and head dimension.
#[derive(Default)]
pub(super) struct RotationTable(Mutex<Rotations>);

#[derive(Default)]
struct Rotations {
    /// Base (as bits) and D.
    of: (u64, usize),
    positions: usize,
    /// `[positions, D]`: D/2 cosines, D/2 sines.
    turns: Vec<f32>,
}

impl Rotations {
    /// Grows the table to `positions`. Angles are taken in f64 and rounded once, after cosine and sine.
    fn cover(&mut self, positions: usize, theta: f64, d: usize) {
        let of = (theta.to_bits(), d);
        if self.of == of && positions <= self.positions {
            return;
        }
        let angle = |position: usize, i: usize| position as f64 * theta.powf(-((2 * i) as f64) / d as f64);
        self.turns = (0..positions)
            .flat_map(|position| {
                let angles = move |i| angle(position, i);
                let cosines = (0..d / 2).map(move |i| angles(i).cos() as f32);
                cosines.chain((0..d / 2).map(move |i| angles(i).sin() as f32))
            })
            .collect();
        (self.of, self.positions) = (of, positions);
    }
}

pub(super) fn rotate(
    cpu: &CpuKernels,
    qkv: &mut [f32],
    starts: &[i32],
    shape: Shape,
    theta: f64,
    dims: &Dims,
    way: Way,
) {
    let d = dims.d;
    let mut rotations = cpu.rotations.0.lock();
    rotations.cover(shape.t, theta, d);
    let turns = &rotations.turns;
    each(&cpu.pool, Rows::new(qkv, dims.qkv(), ROWS), |_, (rows, qkv)| {
        for (n, row) in rows.zip(qkv.chunks_exact_mut(dims.qkv())) {
            let position = n % shape.t - starts[n] as usize;
            let (cosines, sines) = turns[position * d..][..d].split_at(d / 2);
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
