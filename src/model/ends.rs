//! The ends of the decoder: the embedding below the layers, final norm and LM head above them.
//!
//! Logits never exist whole: the head works through its rows in chunks, and a chunk's logits become their own
//! gradient before the next chunk's take their place.

use crate::base::{DType, Dims, Shape};
use crate::device::DeviceSpan;
use crate::model::{HeadScratch, Layout, ModelConfig, head_linear};
use crate::ops::{Kernels, LossRows, TokenRows, Write};

/// `out [N, C]` = rows of the embedding; `table` is the unit's bf16 span, `tokens` i32 `[N]`.
pub fn embed_forward(
    k: &dyn Kernels,
    config: &ModelConfig,
    table: DeviceSpan,
    tokens: DeviceSpan,
    shape: Shape,
    out: DeviceSpan,
) {
    k.embed_forward(out, table, tokens, shape.n(), config.dims.c, config.dims.v);
}

/// Adds the stream's gradient `[N, C]` to the rows of the unit's f32 `gradient`. With [`Write::Set`] all of
/// the unit's gradient is zeroed first.
pub fn embed_backward(
    k: &dyn Kernels,
    config: &ModelConfig,
    gradient: DeviceSpan,
    write: Write,
    tokens: &TokenRows,
    shape: Shape,
    stream: DeviceSpan,
) {
    if write == Write::Set {
        k.zero(gradient);
    }
    k.embed_backward(gradient, stream, tokens, shape.n(), config.dims.c, config.dims.v);
}

/// The head's tensors (bf16) or their gradients (f32), each with the padding that follows it in its unit.
#[derive(Clone, Copy, Debug)]
pub struct HeadSpans {
    /// Final norm, `[C]`.
    pub norm: DeviceSpan,
    /// LM head, `[V, C]`. Tied, it is the embedding.
    pub lm: DeviceSpan,
}

impl HeadSpans {
    /// The places of the head's tensors. `head` is the head unit's span and `embedding` the embedding unit's,
    /// which is read of when the model is tied and may be absent when it is not.
    ///
    /// # Panics
    /// If the model is tied and `embedding` is absent, or a span is shorter than its unit.
    pub fn of(layout: &Layout, head: DeviceSpan, embedding: Option<DeviceSpan>, dtype: DType) -> Self {
        let unit = layout.unit(layout.head());
        let cut = |span: DeviceSpan, from: usize, to: usize| {
            span.part(from * dtype.bytes(), (to - from) * dtype.bytes())
        };
        let norm = unit.offset("norm.weight");
        if layout.tied {
            let elements = layout.unit(layout.embedding()).elements;
            let embedding = embedding.expect("a tied head reads the embedding");
            HeadSpans { norm: cut(head, norm, unit.elements), lm: cut(embedding, 0, elements) }
        } else {
            let lm = unit.offset("lm_head.weight");
            HeadSpans { norm: cut(head, norm, lm), lm: cut(head, lm, unit.elements) }
        }
    }

    /// Zeroes what follows the two tensors.
    fn zero_padding(&self, k: &dyn Kernels, dims: &Dims) {
        for (span, elements) in [(self.norm, dims.c), (self.lm, dims.v * dims.c)] {
            let end = elements * DType::F32.bytes();
            if end < span.bytes() {
                k.zero(span.part(end, span.bytes() - end));
            }
        }
    }
}

/// The head of a micro-batch.
#[derive(Clone, Copy)]
struct Head<'a> {
    k: &'a dyn Kernels,
    dims: Dims,
    weights: HeadSpans,
    scratch: &'a HeadScratch,
    n: usize,
}

/// Some rows of the head's work.
struct Chunk {
    rows: usize,
    normed: DeviceSpan,
    loss_rows: LossRows,
    first: bool,
}

impl Head<'_> {
    fn norm(&self, stream: DeviceSpan, eps: f32) {
        let Head { k, dims, weights, scratch: s, n } = *self;
        k.rmsnorm_forward(s.normed, s.rstd, stream, weights.norm, eps, n, dims.c);
    }

    fn chunks(&self, rows: &LossRows) -> impl Iterator<Item = Chunk> + use<> {
        let (n, chunk, rows) = (self.n, self.scratch.chunk, *rows);
        let (normed, row_bytes) = (self.scratch.normed, self.dims.c * self.k.storage().bytes());
        (0..n).step_by(chunk).map(move |start| {
            let count = chunk.min(n - start);
            let (targets, weights) =
                (rows.targets.part(start * 4, count * 4), rows.weights.part(start * 4, count * 4));
            Chunk {
                rows: count,
                normed: normed.part(start * row_bytes, count * row_bytes),
                loss_rows: LossRows { targets, weights, ..rows },
                first: start == 0,
            }
        })
    }

    fn logits(&self, normed: DeviceSpan, rows: usize) {
        let sizes = head_linear(&self.dims, rows);
        self.k.matmul_forward(self.scratch.logits, normed, self.weights.lm, None, sizes);
    }
}

/// Loss only: `loss` (f64 `[1]`) is set or added to, by `write`: Σ weight · nll over the rows that count.
/// `stream [N, C]` is the last boundary.
#[allow(clippy::too_many_arguments)]
pub fn head_forward(
    k: &dyn Kernels,
    config: &ModelConfig,
    weights: HeadSpans,
    write: Write,
    rows: &LossRows,
    loss: DeviceSpan,
    shape: Shape,
    stream: DeviceSpan,
    scratch: &HeadScratch,
) {
    let head = Head { k, dims: config.dims, weights, scratch, n: shape.n() };
    let (v, stride) = (config.dims.v, config.dims.logits_stride());
    if write == Write::Set {
        k.zero(loss.part(0, 8));
    }
    head.norm(stream, config.norm_eps);
    for chunk in head.chunks(rows) {
        head.logits(chunk.normed, chunk.rows);
        k.cross_entropy_forward(loss, scratch.logits, &chunk.loss_rows, chunk.rows, v, stride);
    }
}

/// Loss and backward: `stream [N, C]`, the last boundary, becomes its own gradient. `loss` (f64 `[1]`) and the
/// f32 `gradients` are set or added to, by `write`; setting them makes their padding zero.
#[allow(clippy::too_many_arguments)]
pub fn head_forward_backward(
    k: &dyn Kernels,
    config: &ModelConfig,
    weights: HeadSpans,
    gradients: HeadSpans,
    write: Write,
    rows: &LossRows,
    loss: DeviceSpan,
    shape: Shape,
    stream: DeviceSpan,
    scratch: &HeadScratch,
) {
    let (n, Dims { c, v, .. }, stride) = (shape.n(), config.dims, config.dims.logits_stride());
    let head = Head { k, dims: config.dims, weights, scratch, n };
    if write == Write::Set {
        k.zero(loss.part(0, 8));
        gradients.zero_padding(k, &config.dims);
    }
    head.norm(stream, config.norm_eps);
    for chunk in head.chunks(rows) {
        head.logits(chunk.normed, chunk.rows);
        k.cross_entropy_forward_backward(loss, scratch.logits, &chunk.loss_rows, chunk.rows, v, stride);
        let sizes = head_linear(&config.dims, chunk.rows);
        let (dlogits, write) = (scratch.logits, if chunk.first { write } else { Write::Add });
        k.matmul_backward_weight(gradients.lm, write, dlogits, chunk.normed, sizes);
        // These rows are read for the last time above: their gradient takes their place.
        k.matmul_backward_input(chunk.normed, Write::Set, dlogits, weights.lm, sizes);
    }
    let dnormed = scratch.normed;
    k.rmsnorm_backward(
        stream,
        Write::Set,
        gradients.norm,
        write,
        dnormed,
        stream,
        scratch.rstd,
        weights.norm,
        n,
        c,
    );
}

/// The f32 logits `[V]` of one row of the last boundary `stream [N, C]`.
#[allow(clippy::too_many_arguments)]
pub fn head_logits(
    k: &dyn Kernels,
    config: &ModelConfig,
    weights: HeadSpans,
    row: usize,
    out: DeviceSpan,
    stream: DeviceSpan,
    scratch: &HeadScratch,
) {
    let Dims { c, v, .. } = config.dims;
    let bytes = k.storage().bytes();
    let head = Head { k, dims: config.dims, weights, scratch, n: 1 };
    head.norm(stream.part(row * c * bytes, c * bytes), config.norm_eps);
    head.logits(scratch.normed, 1);
    k.widen(out.part(0, v * DType::F32.bytes()), scratch.logits.part(0, v * bytes));
}
