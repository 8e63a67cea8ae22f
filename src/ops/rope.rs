//! Rotary position embedding (RoPE; Su et al. 2021).

use parking_lot::Mutex;

use crate::base::DType;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::vectorised;
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, HeadColumns, address::*, launch};
use crate::ops::{Heads, op};

op! {
    /// Rotates the query and key heads of packed rows in place, in the plane of each pair of elements, by the f32 angle
    /// position · `inv_freq[i]`, and multiplies them by factors. Backward multiplies the gradient by the transposed
    /// matrix: the inverse rotation and the same factors.
    Rope {
        /// `[N, (H+2G)·D]`.
        qkv: P = Update, Element::Activation, n * heads.qkv();
        /// `[N]`: rotary positions.
        positions: P = Read, Element::I32, n;
        /// `[R/2]`.
        inv_freq: P = Read, Element::F32, rotation.r / 2;
    }
    /// The direction of the rotation.
    direction: RopeDirection;
    /// The pairs that rotate, and the factors.
    rotation: Rotation;
    /// N: rows.
    n: usize;
    /// The heads of a row.
    heads: Heads;
    {
        /// Values and elements that do not rotate are not touched.
        fn traffic(&self, activation_dtype: DType) -> usize {
            let touched = if self.rotation.queries.is_some() { self.heads.d } else { self.rotation.r };
            2 * self.n * self.heads.normed() * touched * activation_dtype.bytes()
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

/// The pairs that rotate, and the factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// R: the first R elements of a head rotate; even, at most D.
    pub r: usize,
    /// The pairs are (2i, 2i + 1) instead of (i, i + R/2).
    pub interleaved: bool,
    /// The factor of rotated elements (YaRN, Peng et al. 2023, section 3.4).
    pub factor: f32,
    /// Makes scores grow with the query's position (Llama 4); needs R = D.
    pub queries: Option<QueryScaling>,
}

impl Rotation {
    /// Whole heads, in pairs (i, i + D/2), without factors.
    pub fn whole(heads: &Heads) -> Rotation {
        Rotation { r: heads.d, interleaved: false, factor: 1.0, queries: None }
    }
}

/// Queries at position p are multiplied by 1 + β · ln(1 + ⌊p / positions⌋).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryScaling {
    /// β.
    pub beta: f32,
    /// At least 1.
    pub positions: usize,
}

impl QueryScaling {
    /// The factor of queries at a position.
    fn at(&self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + position / self.positions) as f32).ln()
    }
}

/// Rows of a tile.
const ROWS: usize = 64;

/// Cosines and sines of the positions so far, for each set of frequencies.
#[derive(Default)]
pub(in crate::ops) struct RotationTables(Mutex<Vec<Rotations>>);

struct Rotations {
    /// `[R/2]`, as bits, so that NaN equals itself.
    inv_freq: Vec<u32>,
    positions: usize,
    /// `[positions, 2, R/2]`: cosines, then sines.
    turns: Vec<f32>,
}

/// Sets of frequencies that are kept: those of layers with and without a window.
const TABLES: usize = 2;

/// Returns the table of these frequencies, which covers at least `positions`. Angles are f32; cosine and sine are
/// computed in f64 and rounded once.
fn cover<'a>(tables: &'a mut Vec<Rotations>, positions: usize, inv_freq: &[f32]) -> &'a [f32] {
    let bits = || inv_freq.iter().map(|f| f.to_bits());
    let found = tables.iter().position(|table| table.inv_freq.iter().copied().eq(bits()));
    let at = found.unwrap_or_else(|| {
        tables.truncate(TABLES - 1);
        tables.insert(0, Rotations { inv_freq: bits().collect(), positions: 0, turns: Vec::new() });
        0
    });
    let table = &mut tables[at];
    for position in table.positions..positions {
        let angles = inv_freq.iter().map(|f| f64::from(position as f32 * f));
        table.turns.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.turns.extend(angles.map(|angle| angle.sin() as f32));
    }
    table.positions = table.positions.max(positions);
    &table.turns
}

impl Rope {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let Rope { direction, rotation, n, heads, .. } = self;
        let (Heads { h, g, d }, Rotation { r, interleaved, factor, queries }) = (heads, rotation);
        assert!(r <= d && r % 2 == 0 && (queries.is_none() || r == d), "{rotation:?} does not fit heads of {d}");
        let (positions, inv_freq): (&[i32], &[f32]) = (read(&self.positions, n), read(&self.inv_freq, r / 2));
        let mut tables = cpu.rotations.0.lock();
        let turns = cover(&mut tables, positions.iter().max().map_or(0, |&last| last as usize + 1), inv_freq);
        let qkv = Rows::new(write(&mut self.qkv, n * heads.qkv()), heads.qkv(), ROWS);
        each(&cpu.pool, qkv, |_, (rows, qkv)| {
            for (n, row) in rows.zip(qkv.chunks_exact_mut(heads.qkv())) {
                let position = positions[n] as usize;
                let (cosines, sines) = turns[position * r..][..r].split_at(r / 2);
                let of_queries = factor * queries.map_or(1.0, |queries| queries.at(position));
                for (number, head) in row[..(h + g) * d].chunks_exact_mut(d).enumerate() {
                    let turn = Turn { cosines, sines, factor: if number < h { of_queries } else { factor } };
                    match (interleaved, direction) {
                        (false, RopeDirection::Forward) => halves_forward(&mut head[..r], turn),
                        (false, RopeDirection::Backward) => halves_backward(&mut head[..r], turn),
                        (true, RopeDirection::Forward) => pairs_forward(&mut head[..r], turn),
                        (true, RopeDirection::Backward) => pairs_backward(&mut head[..r], turn),
                    }
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let Rope { qkv, positions, inv_freq, direction, rotation, n, heads } = self;
        let Rotation { r, interleaved, factor, queries } = rotation;
        let HeadColumns { q, k, stride, .. } = HeadColumns::of(&qkv, n, &heads);
        let (positions, inv_freq) = (i32s(&positions, n), f32s(&inv_freq, r / 2));
        let QueryScaling { beta, positions: every } = queries.unwrap_or(QueryScaling { beta: 0.0, positions: 1 });
        let (n, (h, g, d)) = (n as i64, heads.counts());
        let backward = i32::from(direction == RopeDirection::Backward);
        launch!(cuda.hzk_rope(
            q, k, positions, inv_freq, backward, i32::from(interleaved), factor, beta, every as i64, n, h, g, d, r as i64,
            stride, stride,
        ));
    }
}

/// The rotation of a head: the cosine and sine of each pair, and the factor of all elements.
#[derive(Clone, Copy)]
struct Turn<'a> {
    cosines: &'a [f32],
    sines: &'a [f32],
    factor: f32,
}

impl Turn<'_> {
    /// The pair (low, high) number `i` rotated by its angle, or with `BACKWARD` by the negative angle.
    #[inline(always)]
    fn apply<const BACKWARD: bool>(&self, i: usize, low: f32, high: f32) -> (f32, f32) {
        let (cos, sin) = (self.factor * self.cosines[i], self.factor * self.sines[i]);
        let sin = if BACKWARD { -sin } else { sin };
        (low * cos - high * sin, high * cos + low * sin)
    }
}

#[inline(always)]
fn halves<const BACKWARD: bool>(head: &mut [f32], turn: Turn) {
    let half = head.len() / 2;
    let (low, high) = head.split_at_mut(half);
    let turn = Turn { cosines: &turn.cosines[..half], sines: &turn.sines[..half], ..turn };
    for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
        (*low, *high) = turn.apply::<BACKWARD>(i, *low, *high);
    }
}

#[inline(always)]
fn pairs<const BACKWARD: bool>(head: &mut [f32], turn: Turn) {
    for (i, [low, high]) in head.as_chunks_mut().0.iter_mut().enumerate() {
        (*low, *high) = turn.apply::<BACKWARD>(i, *low, *high);
    }
}

vectorised! {
    fn halves_forward(head: &mut [f32], turn: Turn) {
        halves::<false>(head, turn);
    }
}

vectorised! {
    fn halves_backward(head: &mut [f32], turn: Turn) {
        halves::<true>(head, turn);
    }
}

vectorised! {
    fn pairs_forward(head: &mut [f32], turn: Turn) {
        pairs::<false>(head, turn);
    }
}

vectorised! {
    fn pairs_backward(head: &mut [f32], turn: Turn) {
        pairs::<true>(head, turn);
    }
}
