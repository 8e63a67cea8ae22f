//! Causal grouped-query attention (GQA; Ainslie et al. 2023) within documents, in blocks as in FlashAttention
//! (Dao et al. 2022). H = G is multi-head attention, G = 1 multi-query attention.
//!
//! A row attends to one contiguous run of rows: from the start of its document or window to itself. Scores
//! exist one block at a time: forward keeps a running maximum and sum per row, backward recomputes the
//! probabilities from the log-sum-exp. Blocks that no row attends to are skipped. Within a block, scores
//! outside a row's run are zero.

use std::ops::Range;

use crate::base::{DType, Shape};
use crate::ops::cpu::cut::{Tiles, TransposedTiles, each};
use crate::ops::cpu::matmul::multiply;
use crate::ops::cpu::vector::{dot, exp, exp_and_sum, maximum, scale, vectorised};
use crate::ops::cpu::view::{Matrix, TileMut, read, write};
use crate::ops::cpu::{CpuKernels, block};
use crate::ops::cuda::{CudaKernels, HeadColumns, address::*, launch};
use crate::ops::{Flops, Heads, Write, op};

op! {
    /// Attention forward. Row n attends to rows `doc_start[n] ..= n` and, with a window, to the
    /// last `window` of them.
    AttentionForward {
        /// `[N, H·D]`.
        out: P = Set, Element::Activation, shape.n() * heads.attention_width();
        /// `[H, N]`: the log-sum-exp of each row's scaled scores.
        lse: P = Set, Element::F32, heads.h * shape.n();
        /// `[N, (H+2G)·D]`, queries and keys rotated.
        qkv: P = Read, Element::Activation, shape.n() * heads.qkv();
        /// `[N]`: the first row of each row's document.
        doc_start: P = Read, Element::I32, shape.n();
    }
    /// The factor of the scores; 1/√D in most families.
    scale: f32;
    /// Window: how many rows a row sees, counting itself; 0 means no window.
    window: usize;
    /// B and T.
    shape: Shape;
    /// The heads of a row.
    heads: Heads;
    {
        /// Query-key scores and the weighted sum of values.
        fn flops(&self) -> Flops {
            Flops::AttentionForward(4.0 * pairs(self.shape, self.window, &self.heads))
        }

        fn traffic(&self, _: DType) -> usize {
            0
        }
    }
}

op! {
    /// The gradient of [`AttentionForward`].
    AttentionBackward {
        /// `[N, (H+2G)·D]`.
        dqkv: P = Set, Element::Activation, shape.n() * heads.qkv();
        /// `[N, H·D]`.
        dout: P = Read, Element::Activation, shape.n() * heads.attention_width();
        /// The output of forward.
        out: P = Read, Element::Activation, shape.n() * heads.attention_width();
        /// The `lse` of forward.
        lse: P = Read, Element::F32, heads.h * shape.n();
        /// The `qkv` of forward.
        qkv: P = Read, Element::Activation, shape.n() * heads.qkv();
        /// `[N]`: the first row of each row's document.
        doc_start: P = Read, Element::I32, shape.n();
        /// `[N]`: one past the last row of each row's document.
        doc_end: P = Read, Element::I32, shape.n();
    }
    /// The factor of the scores; 1/√D in most families.
    scale: f32;
    /// Window: how many rows a row sees, counting itself; 0 means no window.
    window: usize;
    /// B and T.
    shape: Shape;
    /// The heads of a row.
    heads: Heads;
    {
        /// The recomputed scores, and the gradients of scores, values, queries and keys.
        fn flops(&self) -> Flops {
            Flops::AttentionBackward(10.0 * pairs(self.shape, self.window, &self.heads))
        }

        fn traffic(&self, _: DType) -> usize {
            0
        }

        /// Row sums. Where dK and dV have few tiles, also partial dK and dV of the blocks that share a group's
        /// query heads.
        fn scratch_bytes(&self) -> usize {
            let (n, Heads { h, g, d }) = (self.shape.n(), self.heads);
            let (tiles, group) = ((n.div_ceil(KEY_TILE) * g).max(1), (h / g).max(1));
            let heads = group.div_ceil(KEY_BLOCKS.div_ceil(tiles));
            let shares = group.div_ceil(heads);
            let partials = if shares > 1 { shares * 2 * n * g * d } else { 0 };
            (partials + n * h) * 4
        }
    }
}

/// Keys of a tile, and the number of dK and dV blocks to aim for: as `key_parts` in `csrc/attention.h`.
const KEY_TILE: usize = 128;
const KEY_BLOCKS: usize = 256;

/// The (query, key) pairs of attention times its width. Pairs are counted in whole blocks, diagonal blocks
/// included (Dao et al. 2022), and every document is assumed to be as long as its sequence.
fn pairs(shape: Shape, window: usize, heads: &Heads) -> f64 {
    const BLOCK: usize = 64;
    let t = shape.t.div_ceil(BLOCK);
    // A window that ends within a block begins within another block.
    let seen = if window == 0 { t } else { (1 + (window - 1).div_ceil(BLOCK)).min(t) };
    // The first row blocks see 1, 2, … key blocks, the others as many as the window touches.
    let blocks = shape.b * (seen * (seen + 1) / 2 + (t - seen) * seen);
    (blocks * BLOCK * BLOCK) as f64 * heads.attention_width() as f64
}

/// Query rows of a block.
const QUERIES: usize = 64;
/// Keys of a block of forward.
const KEYS: usize = 128;
/// Keys of a block of backward. Equal to `QUERIES`, so that only a small share of a block lies above the diagonal.
const KEYS_BACKWARD: usize = 64;
/// Row stride of backward's scores, which are also read by columns: the padding puts rows on different cache sets.
const STRIDE: usize = KEYS_BACKWARD + 16;

// Column ranges of each head in a row of queries, keys and values.
impl Heads {
    fn query_columns(&self, head: usize) -> Range<usize> {
        head * self.d..(head + 1) * self.d
    }

    fn key_columns(&self, kv: usize) -> Range<usize> {
        self.query_columns(self.h + kv)
    }

    fn value_columns(&self, kv: usize) -> Range<usize> {
        self.query_columns(self.h + self.g + kv)
    }
}

/// The matrix of the given rows and columns of a row-major matrix.
fn rectangle(elements: &[f32], stride: usize, rows: Range<usize>, columns: Range<usize>) -> Matrix<'_> {
    let start = rows.start * stride + columns.start;
    Matrix::new(&elements[start..], rows.len(), columns.len(), stride)
}

/// The keys of a block that query `t` attends to, relative to the block's first key.
fn run_in(keys: &Range<usize>, start: usize, t: usize) -> Range<usize> {
    let first = start.max(keys.start);
    let end = (t + 1).min(keys.end).max(first);
    // A run before or after the block becomes an empty range within the block.
    if first >= keys.end { 0..0 } else { first - keys.start..end - keys.start }
}

/// The first key of each row of a sequence, relative to the sequence's first row.
struct Starts<'a> {
    doc_start: &'a [i32],
    window: usize,
    sequence: usize,
}

impl<'a> Starts<'a> {
    fn new(doc_start: &'a [i32], window: usize, rows: Range<usize>) -> Self {
        // window = 0 means unlimited.
        let window = if window == 0 { usize::MAX } else { window };
        Starts { doc_start: &doc_start[rows.clone()], window, sequence: rows.start }
    }

    fn at(&self, t: usize) -> usize {
        (self.doc_start[t] as usize - self.sequence).max((t + 1).saturating_sub(self.window))
    }

    /// The key blocks that at least one query of the block attends to.
    fn key_blocks(&self, queries: &Range<usize>, keys: usize) -> Range<usize> {
        let first = queries.clone().map(|t| self.at(t)).min().unwrap_or(0);
        first / keys..queries.end.div_ceil(keys)
    }
}

impl AttentionForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let AttentionForward { scale: factor, window, shape, heads, .. } = self;
        let (n, t, stride, group) = (shape.n(), shape.t, heads.qkv(), heads.h / heads.g);
        let (qkv, doc_start): (&[f32], &[i32]) = (read(&self.qkv, n * stride), read(&self.doc_start, n));
        let (out, lse) = (write(&mut self.out, n * heads.attention_width()), write(&mut self.lse, n * heads.h));
        let elements = QUERIES * KEYS + 2 * QUERIES;
        cpu.scratch.reserve(elements);
        // A tile is one head for some rows of a sequence.
        let out = Tiles::in_groups(TileMut::of(out, n, heads.attention_width()), t, (QUERIES, heads.d));
        let lse = TransposedTiles::in_groups(TileMut::of(lse, heads.h, n), t, (QUERIES, 1));
        each(&cpu.pool, (out, lse), |worker, ((rows, _, mut out), (_, head, mut lse))| {
            let (row, head) = (rows.start / t * t, head.start);
            let queries = rows.start - row..rows.end - row;
            let starts = Starts::new(doc_start, window, row..row + t);
            let qkv = &qkv[row * stride..(row + t) * stride];
            let mut scratch = cpu.scratch.worker(worker);
            let (scores, rest) = scratch.take(elements).split_at_mut(QUERIES * KEYS);
            let (largest, sums) = rest.split_at_mut(QUERIES);
            largest.fill(f32::NEG_INFINITY);
            sums.fill(0.0);
            let q = rectangle(qkv, stride, queries.clone(), heads.query_columns(head));
            let mut write = Write::Set;
            for keys in starts.key_blocks(&queries, KEYS) {
                let keys = block(keys, KEYS, t.min(queries.end));
                let kv = head / group;
                let k = rectangle(qkv, stride, keys.clone(), heads.key_columns(kv)).transposed();
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
                let v = rectangle(qkv, stride, keys.clone(), heads.value_columns(kv));
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

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let AttentionForward { out, lse, qkv, doc_start, scale, window, shape, heads } = self;
        let (n, (h, g, d)) = (shape.n(), heads.counts());
        let HeadColumns { q, k, v, stride } = HeadColumns::of(&qkv, n, &heads);
        let by = &cuda.api.kernels;
        let launcher = match cuda.by_wgmma.contains(&heads.d) {
            true => (by.hzk_attention_wgmma_forward, "hzk_attention_wgmma_forward"),
            false => (by.hzk_attention_forward, "hzk_attention_forward"),
        };
        launch!(
            cuda,
            launcher,
            bf16s(&out, n * heads.attention_width()),
            f32s(&lse, n * heads.h),
            q,
            k,
            v,
            i32s(&doc_start, n),
            scale,
            window as i64,
            n as i64,
            h,
            g,
            d,
            stride,
            stride,
            stride,
        );
    }
}

impl AttentionBackward {
    /// A tile is one key/value head of a sequence with the query heads that share it. Every sum over queries or
    /// keys runs inside one tile, in order.
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let AttentionBackward { scale: factor, window, shape, heads, .. } = self;
        let (n, t, stride, group_heads) = (shape.n(), shape.t, heads.qkv(), heads.h / heads.g);
        let width = heads.attention_width();
        let [dout, out]: [&[f32]; 2] = [read(&self.dout, n * width), read(&self.out, n * width)];
        let (qkv, lse): (&[f32], &[f32]) = (read(&self.qkv, n * stride), read(&self.lse, n * heads.h));
        let doc_start: &[i32] = read(&self.doc_start, n);
        // Used by the CUDA kernels only; read to check its length.
        let _: &[i32] = read(&self.doc_end, n);
        let dqkv = write(&mut self.dqkv, n * stride);
        let scratch_elements = 2 * QUERIES * STRIDE + group_heads * t;
        cpu.scratch.reserve(scratch_elements);
        let whole = TileMut::of(dqkv, n, stride);
        let (dq, rest) = whole.split_columns(heads.h * heads.d);
        let (dk, dv) = rest.split_columns(heads.g * heads.d);
        let dq = Tiles::in_groups(dq, t, (t, group_heads * heads.d));
        let (dk, dv) = (Tiles::in_groups(dk, t, (t, heads.d)), Tiles::in_groups(dv, t, (t, heads.d)));
        each(&cpu.pool, (dq, (dk, dv)), |worker, ((rows, _, mut dq), ((_, columns, mut dk), (_, _, mut dv)))| {
            let kv = columns.start / heads.d;
            let starts = Starts::new(doc_start, window, rows.clone());
            let qkv = &qkv[rows.start * stride..rows.end * stride];
            let out = &out[rows.start * width..rows.end * width];
            let dout = &dout[rows.start * width..rows.end * width];
            let group = kv * group_heads..(kv + 1) * group_heads;

            let mut scratch = cpu.scratch.worker(worker);
            let (probabilities, rest) = scratch.take(scratch_elements).split_at_mut(QUERIES * STRIDE);
            let (dscores, deltas) = rest.split_at_mut(QUERIES * STRIDE);
            // delta = Σ dout · out per row and head: the softmax gradient subtracts it from every score's gradient.
            for (head, deltas) in group.clone().zip(deltas.chunks_exact_mut(t)) {
                for (query, delta) in deltas.iter_mut().enumerate() {
                    let columns = query * width + head * heads.d..query * width + (head + 1) * heads.d;
                    *delta = dot(&dout[columns.clone()], &out[columns]);
                }
            }
            dq.fill(0.0);
            for keys in 0..t.div_ceil(KEYS_BACKWARD) {
                let keys = block(keys, KEYS_BACKWARD, t);
                let (mut dk, mut dv) = (dk.slice(keys.clone(), 0..heads.d), dv.slice(keys.clone(), 0..heads.d));
                    let k = rectangle(qkv, stride, keys.clone(), heads.key_columns(kv));
                let v = rectangle(qkv, stride, keys.clone(), heads.value_columns(kv));
                let mut write = Write::Set;
                for queries in keys.start / QUERIES..t.div_ceil(QUERIES) {
                    let queries = block(queries, QUERIES, t);
                    let reached = starts.key_blocks(&queries, KEYS_BACKWARD);
                    if !reached.contains(&(keys.start / KEYS_BACKWARD)) {
                        continue;
                    }
                    for (index, (head, deltas)) in group.clone().zip(deltas.chunks_exact(t)).enumerate() {
                        let (m, n) = (queries.len(), keys.len());
                        let lse = &lse[head * shape.n()..][rows.clone()];
                        let query_columns = heads.query_columns(head);
                        let q = rectangle(qkv, stride, queries.clone(), query_columns.clone());
                        let d = rectangle(dout, width, queries.clone(), query_columns.clone());
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
                        let mut dq = dq.slice(queries.clone(), index * heads.d..(index + 1) * heads.d);
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

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let AttentionBackward { dqkv, dout, out, lse, qkv, doc_start, doc_end, scale, window, shape, heads } = self;
        let (n, (h, g, d)) = (shape.n(), heads.counts());
        let HeadColumns { q, k, v, stride } = HeadColumns::of(&qkv, n, &heads);
        let HeadColumns { q: dq, k: dk, v: dv, .. } = HeadColumns::of(&dqkv, n, &heads);
        let by = &cuda.api.kernels;
        let launcher = match cuda.by_wgmma.contains(&heads.d) {
            true => (by.hzk_attention_wgmma_backward, "hzk_attention_wgmma_backward"),
            false => (by.hzk_attention_backward, "hzk_attention_backward"),
        };
        launch!(
            cuda,
            launcher,
            dq,
            dk,
            dv,
            cuda.scratch_of(&self),
            bf16s(&dout, n * heads.attention_width()),
            bf16s(&out, n * heads.attention_width()),
            f32s(&lse, n * heads.h),
            q,
            k,
            v,
            i32s(&doc_start, n),
            i32s(&doc_end, n),
            scale,
            window as i64,
            n as i64,
            h,
            g,
            d,
            stride,
            stride,
            stride,
        );
    }
}

/// A block of scores in scratch memory.
fn scores(memory: &mut [f32], queries: usize, keys: usize) -> TileMut<'_, f32> {
    TileMut::of(memory, queries, STRIDE).split_columns(keys).0
}

vectorised! {
    /// Turns scores into probabilities, and `dp` (their gradients) into gradients of the unscaled scores.
    fn softmax_backward(scores: &mut [f32], dp: &mut [f32], lse: f32, delta: f32, factor: f32) {
        for (score, dp) in scores.iter_mut().zip(dp) {
            let p = exp(*score - lse);
            *dp = p * (*dp - delta) * factor;
            *score = p;
        }
    }
}
