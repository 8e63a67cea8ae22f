//! Rotary position embedding (RoPE; Su et al. 2021) in Hugging Face's half-split layout.

use parking_lot::Mutex;

use crate::base::DType;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::vectorised;
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, HeadColumns, address::*, launch};
use crate::ops::{Heads, op};

op! {
    /// Rotates the query and key heads of packed rows in place: pairs (i, i + D/2), by the f32 angle position ·
    /// `inv_freq[i]`. Backward applies the inverse rotation to the gradient.
    Rope {
        /// `[N, (H+2G)·D]`.
        qkv: P = Update, Element::Activation, n * heads.qkv();
        /// `[N]`: rotary positions.
        positions: P = Read, Element::I32, n;
        /// `[D/2]`.
        inv_freq: P = Read, Element::F32, heads.d / 2;
    }
    /// The direction of the rotation.
    direction: RopeDirection;
    /// N: rows.
    n: usize;
    /// The heads of a row.
    heads: Heads;
    {
        /// Values are not touched.
        fn traffic(&self, activation_dtype: DType) -> usize {
            let Heads { h, g, d } = self.heads;
            2 * self.n * (h + g) * d * activation_dtype.bytes()
        }
    }
}

/// The direction of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeDirection {
    /// By the positive angle.
    Forward,
    /// By the negative angle.
    Backward,
}

/// Rows of a tile.
const ROWS: usize = 64;

/// Cosines and sines of the positions so far, for one set of frequencies.
#[derive(Default)]
pub(in crate::ops) struct RotationTable(Mutex<Rotations>);

#[derive(Default)]
struct Rotations {
    /// `[D/2]`, as bits, so that NaN equals itself.
    inv_freq: Vec<u32>,
    positions: usize,
    /// `[positions, 2, D/2]`: cosines, then sines.
    turns: Vec<f32>,
}

impl Rotations {
    /// Extends the table to `positions`. Angles are f32; cosine and sine are computed in f64 and rounded once.
    fn cover(&mut self, positions: usize, inv_freq: &[f32]) {
        let known = self.inv_freq.iter().copied().eq(inv_freq.iter().map(|f| f.to_bits()));
        if known && positions <= self.positions {
            return;
        }
        self.turns.clear();
        for position in 0..positions {
            let angles = inv_freq.iter().map(|f| f64::from(position as f32 * f));
            self.turns.extend(angles.clone().map(|angle| angle.cos() as f32));
            self.turns.extend(angles.map(|angle| angle.sin() as f32));
        }
        self.inv_freq = inv_freq.iter().map(|f| f.to_bits()).collect();
        self.positions = positions;
    }
}

impl Rope {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let Rope { direction, n, heads, .. } = self;
        let Heads { h, g, d } = heads;
        let (positions, inv_freq): (&[i32], &[f32]) = (read(&self.positions, n), read(&self.inv_freq, d / 2));
        let mut rotations = cpu.rotations.0.lock();
        rotations.cover(positions.iter().max().map_or(0, |&last| last as usize + 1), inv_freq);
        let turns = &rotations.turns;
        let qkv = Rows::new(write(&mut self.qkv, n * heads.qkv()), heads.qkv(), ROWS);
        each(&cpu.pool, qkv, |_, (rows, qkv)| {
            for (n, row) in rows.zip(qkv.chunks_exact_mut(heads.qkv())) {
                let (cosines, sines) = turns[positions[n] as usize * d..][..d].split_at(d / 2);
                for head in row[..(h + g) * d].chunks_exact_mut(d) {
                    let (low, high) = head.split_at_mut(d / 2);
                    match direction {
                        RopeDirection::Forward => turn_forward(low, high, cosines, sines),
                        RopeDirection::Backward => turn_backward(low, high, cosines, sines),
                    }
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let Rope { qkv, positions, inv_freq, direction, n, heads } = self;
        let HeadColumns { q, k, stride, .. } = HeadColumns::of(&qkv, n, &heads);
        let (positions, inv_freq) = (i32s(&positions, n), f32s(&inv_freq, heads.d / 2));
        let (n, (h, g, d)) = (n as i64, heads.counts());
        match direction {
            RopeDirection::Forward => launch!(cuda.hzk_rope_forward(q, k, positions, inv_freq, n, h, g, d, stride, stride)),
            RopeDirection::Backward => launch!(cuda.hzk_rope_backward(q, k, positions, inv_freq, n, h, g, d, stride, stride)),
        }
    }
}

/// Rotates the pairs (low, high) by the angle with the given cosine and `sign` · sine.
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
