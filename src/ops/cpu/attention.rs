//! Causal grouped-query attention within documents, in blocks (Dao et al. 2022).
//!
//! A row attends to one run of rows, from its document's first, or its window's, to itself. Scores exist a block at a time: forward keeps
//! a running maximum and sum a row, backward forms the probabilities again from the log-sum-exp. Blocks
//! above the diagonal or before the first run of their rows are passed over; within a block each row
//! works on its run alone, and the rest is zero.

use std::ops::Range;

use crate::base::{Dims, Shape};
use crate::ops::Write;
use crate::ops::cpu::cut::{Tiles, TransposedTiles, each};
use crate::ops::cpu::product::multiply;
use crate::ops::cpu::vector::{dot, exp, exp_and_sum, maximum, scale, vectorised};
use crate::ops::cpu::view::{Matrix, TileMut};
use crate::ops::cpu::{CpuKernels, block};

/// Query rows of a block.
const QUERIES: usize = 64;
/// Keys of a block of forward.
const KEYS: usize = 128;
/// Keys of a block of backward: as many as queries, so that little of a block lies above the diagonal.
const KEYS_BACKWARD: usize = 64;
/// Elements from one row of scores to the next in backward, where they are also read by columns: rows start
/// on different sets of the cache.
const STRIDE: usize = KEYS_BACKWARD + 16;

/// The places of heads in a row of queries, keys and values.
struct Heads {
    d: usize,
    stride: usize,
    keys: usize,
    values: usize,
    group: usize,
}

impl Heads {
    fn new(dims: &Dims) -> Self {
        let keys = dims.h * dims.d;
        let values = keys + dims.g * dims.d;
        Heads { d: dims.d, stride: dims.qkv(), keys, values, group: dims.h / dims.g }
    }

    fn query_columns(&self, head: usize) -> Range<usize> {
        head * self.d..(head + 1) * self.d
    }

    fn key_columns(&self, kv: usize) -> Range<usize> {
        self.keys + kv * self.d..self.keys + (kv + 1) * self.d
    }

    fn value_columns(&self, kv: usize) -> Range<usize> {
        self.values + kv * self.d..self.values + (kv + 1) * self.d
    }
}

/// Some columns of some rows of a row-major matrix.
fn window(elements: &[f32], stride: usize, rows: Range<usize>, columns: Range<usize>) -> Matrix<'_> {
    let start = rows.start * stride + columns.start;
    Matrix::new(&elements[start..], rows.len(), columns.len(), stride)
}

/// The keys that query `t` attends to among the keys of a block, counted from the block's first.
fn run_in(keys: &Range<usize>, start: usize, t: usize) -> Range<usize> {
    let first = start.max(keys.start);
    let end = (t + 1).min(keys.end).max(first);
    // A run before or after the block is empty, and stays within it.
    if first >= keys.end { 0..0 } else { first - keys.start..end - keys.start }
}

/// What bounds a row's view: its document, and a window unless that is 0.
#[derive(Clone, Copy)]
pub(super) struct Visible<'a> {
    pub doc_start: &'a [i32],
    pub window: usize,
}

/// Where the runs of a sequence's rows start, counted from the sequence's own first row.
struct Starts<'a> {
    doc_start: &'a [i32],
    window: usize,
    sequence: usize,
}

impl<'a> Starts<'a> {
    fn new(visible: Visible<'a>, rows: Range<usize>) -> Self {
        // No window is one that reaches beyond any row.
        let window = if visible.window == 0 { usize::MAX } else { visible.window };
        Starts { doc_start: &visible.doc_start[rows.clone()], window, sequence: rows.start }
    }

    fn at(&self, t: usize) -> usize {
        (self.doc_start[t] as usize - self.sequence).max((t + 1).saturating_sub(self.window))
    }

    /// Key blocks that some query of the block attends to.
    fn key_blocks(&self, queries: &Range<usize>, keys: usize) -> Range<usize> {
        let first = queries.clone().map(|t| self.at(t)).min().unwrap_or(0);
        first / keys..queries.end.div_ceil(keys)
    }
}

pub(super) fn forward(
    cpu: &CpuKernels,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    visible: Visible,
    shape: Shape,
    dims: &Dims,
) {
    let (heads, n, t) = (Heads::new(dims), shape.n(), shape.t);
    let factor = 1.0 / (dims.d as f32).sqrt();
    let elements = QUERIES * KEYS + 2 * QUERIES;
    cpu.scratch.reserve(elements);
    // A tile is one head of some rows of a sequence.
    let out = Tiles::in_groups(TileMut::of(out, n, dims.attended()), t, (QUERIES, dims.d));
    let lse = TransposedTiles::in_groups(TileMut::of(lse, dims.h, n), t, (QUERIES, 1));
    each(&cpu.pool, (out, lse), |worker, ((rows, _, mut out), (_, head, mut lse))| {
        let (row, head) = (rows.start / t * t, head.start);
        let queries = rows.start - row..rows.end - row;
        let starts = Starts::new(visible, row..row + t);
        let qkv = &qkv[row * heads.stride..(row + t) * heads.stride];
        let mut scratch = cpu.scratch.worker(worker);
        let (scores, rest) = scratch.take(elements).split_at_mut(QUERIES * KEYS);
        let (largest, sums) = rest.split_at_mut(QUERIES);
        largest.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        let q = window(qkv, heads.stride, queries.clone(), heads.query_columns(head));
        let mut write = Write::Set;
        for keys in starts.key_blocks(&queries, KEYS) {
            let keys = block(keys, KEYS, t.min(queries.end));
            let kv = head / heads.group;
            let k = window(qkv, heads.stride, keys.clone(), heads.key_columns(kv)).transposed();
            multiply(&mut TileMut::of(scores, queries.len(), keys.len()), Write::Set, factor, q, k);
            for (i, scores) in scores.chunks_exact_mut(keys.len()).take(queries.len()).enumerate() {
                let query = queries.start + i;
                let run = run_in(&keys, starts.at(query), query);
                scores[..run.start].fill(0.0);
                scores[run.end..].fill(0.0);
                if run.is_empty() {
                    continue;
                }
                let before = largest[i];
                let scores = &mut scores[run];
                largest[i] = before.max(maximum(scores));
                let sum = exp_and_sum(scores, largest[i]);
                if before == f32::NEG_INFINITY {
                    sums[i] = sum;
                } else {
                    let shrink = exp(before - largest[i]);
                    sums[i] = sums[i] * shrink + sum;
                    scale(out.row(i), shrink);
                }
            }
            let v = window(qkv, heads.stride, keys.clone(), heads.value_columns(kv));
            let p = Matrix::new(scores, queries.len(), keys.len(), keys.len());
            multiply(&mut out, write, 1.0, p, v);
            write = Write::Add;
        }
        for i in 0..queries.len() {
            scale(out.row(i), 1.0 / sums[i]);
            lse.row(0)[i] = largest[i] + sums[i].ln();
        }
    });
}

/// What backward reads.
pub(super) struct Saved<'a> {
    pub qkv: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
    pub dout: &'a [f32],
    pub visible: Visible<'a>,
}

/// One tile is a key/value head of a sequence with the query heads that read it: every sum over queries or
/// keys runs inside it, in order.
pub(super) fn backward(cpu: &CpuKernels, dqkv: &mut [f32], saved: Saved, shape: Shape, dims: &Dims) {
    let (heads, t) = (Heads::new(dims), shape.t);
    let attended = dims.attended();
    let factor = 1.0 / (dims.d as f32).sqrt();
    let scratch_elements = 2 * QUERIES * STRIDE + heads.group * t;
    cpu.scratch.reserve(scratch_elements);
    let whole = TileMut::of(dqkv, shape.n(), dims.qkv());
    let (dq, rest) = whole.split_columns(heads.keys);
    let (dk, dv) = rest.split_columns(heads.values - heads.keys);
    let dq = Tiles::in_groups(dq, t, (t, heads.group * dims.d));
    let (dk, dv) = (Tiles::in_groups(dk, t, (t, dims.d)), Tiles::in_groups(dv, t, (t, dims.d)));
    each(&cpu.pool, (dq, (dk, dv)), |worker, ((rows, _, mut dq), ((_, columns, mut dk), (_, _, mut dv)))| {
        let kv = columns.start / dims.d;
        let starts = Starts::new(saved.visible, rows.clone());
        let qkv = &saved.qkv[rows.start * heads.stride..rows.end * heads.stride];
        let out = &saved.out[rows.start * attended..rows.end * attended];
        let dout = &saved.dout[rows.start * attended..rows.end * attended];
        let group = kv * heads.group..(kv + 1) * heads.group;

        let mut scratch = cpu.scratch.worker(worker);
        let (probabilities, rest) = scratch.take(scratch_elements).split_at_mut(QUERIES * STRIDE);
        let (dscores, deltas) = rest.split_at_mut(QUERIES * STRIDE);
        // delta = Σ dout · out of a row and head: what softmax's gradient takes off every score's.
        for (head, deltas) in group.clone().zip(deltas.chunks_exact_mut(t)) {
            for (query, delta) in deltas.iter_mut().enumerate() {
                let columns = query * attended + head * dims.d..query * attended + (head + 1) * dims.d;
                *delta = dot(&dout[columns.clone()], &out[columns]);
            }
        }
        dq.fill(0.0);
        for keys in 0..t.div_ceil(KEYS_BACKWARD) {
            let keys = block(keys, KEYS_BACKWARD, t);
            let (mut dk, mut dv) = (dk.part(keys.clone(), 0..dims.d), dv.part(keys.clone(), 0..dims.d));
            let stride = heads.stride;
            let k = window(qkv, stride, keys.clone(), heads.key_columns(kv));
            let v = window(qkv, stride, keys.clone(), heads.value_columns(kv));
            let mut write = Write::Set;
            for queries in keys.start / QUERIES..t.div_ceil(QUERIES) {
                let queries = block(queries, QUERIES, t);
                let reached = starts.key_blocks(&queries, KEYS_BACKWARD);
                if !reached.contains(&(keys.start / KEYS_BACKWARD)) {
                    continue;
                }
                for (place, (head, deltas)) in group.clone().zip(deltas.chunks_exact(t)).enumerate() {
                    let (m, n) = (queries.len(), keys.len());
                    let lse = &saved.lse[head * shape.n()..][rows.clone()];
                    let query_columns = heads.query_columns(head);
                    let q = window(qkv, stride, queries.clone(), query_columns.clone());
                    let d = window(dout, attended, queries.clone(), query_columns.clone());
                    multiply(&mut scores(probabilities, m, n), Write::Set, factor, q, k.transposed());
                    multiply(&mut scores(dscores, m, n), Write::Set, 1.0, d, v.transposed());
                    let pairs = probabilities.chunks_exact_mut(STRIDE).zip(dscores.chunks_exact_mut(STRIDE));
                    for (query, (probabilities, dscores)) in queries.clone().zip(pairs) {
                        let run = run_in(&keys, starts.at(query), query);
                        for row in [&mut *probabilities, &mut *dscores] {
                            row[..run.start].fill(0.0);
                            row[run.end..n].fill(0.0);
                        }
                        softmax_backward(
                            &mut probabilities[run.clone()],
                            &mut dscores[run],
                            lse[query],
                            deltas[query],
                            factor,
                        );
                    }
                    let (p, ds) =
                        (Matrix::new(probabilities, m, n, STRIDE), Matrix::new(dscores, m, n, STRIDE));
                    multiply(&mut dv, write, 1.0, p.transposed(), d);
                    multiply(&mut dk, write, 1.0, ds.transposed(), q);
                    write = Write::Add;
                    let mut dq = dq.part(queries.clone(), place * dims.d..(place + 1) * dims.d);
                    multiply(&mut dq, Write::Add, 1.0, ds, k);
                }
            }
            if write == Write::Set {
                dk.fill(0.0);
                dv.fill(0.0);
            }
        }
    });
}

/// The scores of a block in scratch memory.
fn scores(memory: &mut [f32], queries: usize, keys: usize) -> TileMut<'_, f32> {
    TileMut::of(memory, queries, STRIDE).split_columns(keys).0
}

vectorised! {
    /// Scores become probabilities, and `dp` = d probabilities become d of the unscaled scores.
    fn softmax_backward(scores: &mut [f32], dp: &mut [f32], lse: f32, delta: f32, factor: f32) {
        for (score, dp) in scores.iter_mut().zip(dp) {
            let p = exp(*score - lse);
            *dp = p * (*dp - delta) * factor;
            *score = p;
        }
    }
}
