//! The ends of the decoder: the embedding below the layers, final norm and LM head above them.
//!
//! Logits never exist whole: the head works through its rows in chunks, and a chunk's logits become their own
//! gradient before the next chunk's take their place.

use crate::base::{DType, Dims, Shape};
use crate::device::DeviceSpan;
use crate::model::{HeadScratch, Layout, ModelConfig, head_linear};
use crate::ops::{Addends, Kernels, LossRows, TokenRows, Write};

/// `out [N, C]` = rows of the embedding; `table` is the unit's bf16 span, `tokens` i32 `[N]` the number of each one's row
/// there.
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
#[derive(Clone, Copy)]
struct Chunk {
    start: usize,
    rows: usize,
    normed: DeviceSpan,
}

impl Chunk {
    /// Its part of an array of four bytes for each row of the micro-batch.
    fn of(&self, rows: DeviceSpan) -> DeviceSpan {
        rows.part(self.start * 4, self.rows * 4)
    }

    fn loss_rows(&self, rows: &LossRows) -> LossRows {
        LossRows { targets: self.of(rows.targets), weights: self.of(rows.weights), ..*rows }
    }
}

impl Head<'_> {
    /// Norms the rows of the last boundary, then makes the logits of one chunk after the other for `with`, which may
    /// leave something else in their place.
    fn each_chunk(&self, stream: DeviceSpan, eps: f32, mut with: impl FnMut(Chunk, DeviceSpan)) {
        let Head { k, dims, weights, scratch: s, n } = *self;
        k.rmsnorm_forward(s.normed, s.rstd, stream, weights.norm, eps, n, dims.c);
        let row_bytes = dims.c * k.storage().bytes();
        for start in (0..n).step_by(s.chunk) {
            let rows = s.chunk.min(n - start);
            let normed = s.normed.part(start * row_bytes, rows * row_bytes);
            k.matmul_forward(s.logits, normed, weights.lm, Addends::default(), head_linear(&dims, rows));
            with(Chunk { start, rows, normed }, s.logits);
        }
    }

    /// The head's backward. `stream [N, C]`, the last boundary, becomes its own gradient, and the f32 `gradients` are set
    /// or added to, by `write`; setting them makes their padding zero. `differentiate` puts a chunk's gradient in the
    /// place of its logits.
    fn backward(
        &self,
        stream: DeviceSpan,
        eps: f32,
        gradients: HeadSpans,
        write: Write,
        differentiate: impl Fn(Chunk, DeviceSpan),
    ) {
        let Head { k, dims, weights, scratch: s, n } = *self;
        if write == Write::Set {
            gradients.zero_padding(k, &dims);
        }
        self.each_chunk(stream, eps, |chunk, logits| {
            differentiate(chunk, logits);
            let sizes = head_linear(&dims, chunk.rows);
            let (dlogits, write) = (logits, if chunk.start == 0 { write } else { Write::Add });
            k.matmul_backward_weight(gradients.lm, write, dlogits, chunk.normed, sizes);
            // These rows are read for the last time above: their gradient takes their place.
            k.matmul_backward_input(chunk.normed, Write::Set, dlogits, weights.lm, sizes);
        });
        let dnormed = s.normed;
        k.rmsnorm_backward(
            stream,
            Write::Set,
            gradients.norm,
            write,
            dnormed,
            stream,
            s.rstd,
            weights.norm,
            n,
            dims.c,
        );
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
    head.each_chunk(stream, config.norm_eps, |chunk, logits| {
        k.cross_entropy_forward(loss, logits, &chunk.loss_rows(rows), chunk.rows, v, stride);
    });
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
    let head = Head { k, dims: config.dims, weights, scratch, n: shape.n() };
    let (v, stride) = (config.dims.v, config.dims.logits_stride());
    if write == Write::Set {
        k.zero(loss.part(0, 8));
    }
    head.backward(stream, config.norm_eps, gradients, write, |chunk, logits| {
        k.cross_entropy_forward_backward(loss, logits, &chunk.loss_rows(rows), chunk.rows, v, stride);
    });
}

/// The log-probabilities of the targets: `logprobs` f32 `[N]` is set, zero for ignored rows. `targets` i32 `[N]`;
/// `stream [N, C]` is the last boundary.
#[allow(clippy::too_many_arguments)]
pub fn head_logprobs(
    k: &dyn Kernels,
    config: &ModelConfig,
    weights: HeadSpans,
    targets: DeviceSpan,
    logprobs: DeviceSpan,
    shape: Shape,
    stream: DeviceSpan,
    scratch: &HeadScratch,
) {
    let head = Head { k, dims: config.dims, weights, scratch, n: shape.n() };
    let (v, stride) = (config.dims.v, config.dims.logits_stride());
    head.each_chunk(stream, config.norm_eps, |chunk, logits| {
        let (logprobs, targets) = (chunk.of(logprobs), chunk.of(targets));
        k.cross_entropy_logprobs(logprobs, logits, targets, chunk.rows, v, stride);
    });
}

/// Backward under a loss that is a function of the targets' log-probabilities, of which `dlogprobs` f32 `[N]` is the
/// gradient; those of ignored rows do not count. Logits are computed again. The rest as [`head_forward_backward`].
#[allow(clippy::too_many_arguments)]
pub fn head_backward(
    k: &dyn Kernels,
    config: &ModelConfig,
    weights: HeadSpans,
    gradients: HeadSpans,
    write: Write,
    targets: DeviceSpan,
    dlogprobs: DeviceSpan,
    shape: Shape,
    stream: DeviceSpan,
    scratch: &HeadScratch,
) {
    let head = Head { k, dims: config.dims, weights, scratch, n: shape.n() };
    let (v, stride) = (config.dims.v, config.dims.logits_stride());
    head.backward(stream, config.norm_eps, gradients, write, |chunk, logits| {
        let (targets, dlogprobs) = (chunk.of(targets), chunk.of(dlogprobs));
        k.cross_entropy_backward(logits, targets, dlogprobs, chunk.rows, v, stride);
    });
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
    head.each_chunk(stream.part(row * c * bytes, c * bytes), config.norm_eps, |_, _| ());
    k.widen(out.part(0, v * DType::F32.bytes()), scratch.logits.part(0, v * bytes));
}
