//! What a layer and the head keep on the device while they are computed.
//!
//! Each scratch is laid out once, by a function that is given a way to take memory: with a counter it gives
//! the size, with a span it gives the places. Lives that do not meet share memory; see the fields.

use crate::base::{DType, Dims, Shape};
use crate::device::DeviceSpan;
use crate::model::ModelConfig;

/// What of a layer backward computes again from its boundary. Whatever is kept has the bits that computing it
/// again would give, so this is a matter of memory and time alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recompute {
    /// Everything up to the product of gate and up; nothing is kept.
    #[default]
    Full,
    /// Norms and SwiGLU; what attention and the matrix products gave is kept: rotated queries, keys and values,
    /// attention's output and log-sum-exp, the middle of the stream, gate and up. Where heads are normalised, queries
    /// and keys are kept as they were before, and normalised and rotated again.
    Selective,
    /// Nothing; all that backward reads is kept.
    None,
}

/// Every buffer starts on a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// The working memory of one decoder layer, for one micro-batch.
///
/// `P` is what a buffer is: a place on the device, or nothing while sizes are counted.
#[derive(Clone, Copy, Debug)]
pub struct LayerScratch<P = DeviceSpan> {
    /// `[N, C]`: input of the q, k and v projections; in backward then its gradient.
    pub(super) attention_normed: P,
    /// f32 `[N]`.
    pub(super) attention_rstd: P,
    /// `[N, (H+2G)·D]`: queries and keys rotated.
    pub(super) qkv: P,
    /// Where heads are normalised: what queries, keys and values were before, and the f32 `rstd` of the heads.
    pub(super) qk_norm: Option<QkNormScratch<P>>,
    /// `[N, H·D]`: input of the output projection.
    pub(super) attended: P,
    /// f32 `[H, N]`.
    pub(super) lse: P,
    /// `[N, C]`: the stream between attention and feed-forward.
    pub(super) middle: P,
    /// `[N, C]`: input of the gate and up projections; in backward then its gradient.
    pub(super) feed_normed: P,
    /// f32 `[N]`.
    pub(super) feed_rstd: P,
    /// Two lives, one after the other.
    shared: P,
    sizes: SharedSizes,
    /// `[N, 2F]`: gate and up, where they are kept from forward to backward.
    kept_gate_up: Option<P>,
    /// `[N, F]`: the product of the two, where it is kept.
    kept_product: Option<P>,
    /// What backward does not find here.
    pub(super) recompute: Recompute,
}

/// What the norm of heads needs beside its output.
#[derive(Clone, Copy, Debug)]
pub(super) struct QkNormScratch<P> {
    /// `[N, (H+2G)·D]`: its input, what the product gave.
    pub(super) qkv: P,
    /// f32 `[N·(H+G)]`.
    pub(super) rstd: P,
}

/// Bytes of what lives in `shared`. While the feed-forward is computed: gate and up, `[N, 2F]`, in backward
/// then their gradient; and the product of the two, `[N, F]`, in backward then its gradient. While attention's
/// backward is computed: the gradients of its output, `[N, H·D]`, and of queries, keys and values.
#[derive(Clone, Copy, Debug)]
struct SharedSizes {
    gate_up: usize,
    product: usize,
    dattended: usize,
    dqkv: usize,
}

impl<P> LayerScratch<P> {
    fn lay(config: &ModelConfig, shape: Shape, storage: DType, mut take: impl FnMut(usize) -> P) -> Self {
        let dims = &config.dims;
        let rows = |columns: usize| rows(shape, columns, storage);
        let f32s = |columns: usize| self::rows(shape, columns, DType::F32);
        let sizes = SharedSizes {
            gate_up: rows(2 * dims.f),
            product: rows(dims.f),
            dattended: rows(dims.attended()),
            dqkv: rows(dims.qkv()),
        };
        LayerScratch {
            attention_normed: take(rows(dims.c)),
            attention_rstd: take(f32s(1)),
            qkv: take(rows(dims.qkv())),
            qk_norm: config
                .qk_norm
                .then(|| QkNormScratch { qkv: take(rows(dims.qkv())), rstd: take(f32s(dims.h + dims.g)) }),
            attended: take(rows(dims.attended())),
            lse: take(f32s(dims.h)),
            middle: take(rows(dims.c)),
            feed_normed: take(rows(dims.c)),
            feed_rstd: take(f32s(1)),
            shared: take((sizes.gate_up + sizes.product).max(sizes.dattended + sizes.dqkv)),
            sizes,
            kept_gate_up: None,
            kept_product: None,
            recompute: Recompute::Full,
        }
    }

    /// Gives what is kept from forward to backward places of its own.
    fn keep(
        &mut self,
        recompute: Recompute,
        dims: &Dims,
        shape: Shape,
        storage: DType,
        mut take: impl FnMut(usize) -> P,
    ) {
        self.recompute = recompute;
        if recompute == Recompute::Full {
            return;
        }
        if let Some(norm) = &mut self.qk_norm {
            norm.qkv = take(rows(shape, dims.qkv(), storage));
        }
        if self.qk_norm.is_none() || recompute == Recompute::None {
            self.qkv = take(rows(shape, dims.qkv(), storage));
        }
        self.attended = take(rows(shape, dims.attended(), storage));
        self.lse = take(rows(shape, dims.h, DType::F32));
        self.middle = take(rows(shape, dims.c, storage));
        self.kept_gate_up = Some(take(rows(shape, 2 * dims.f, storage)));
        if recompute == Recompute::None {
            self.attention_normed = take(rows(shape, dims.c, storage));
            self.attention_rstd = take(rows(shape, 1, DType::F32));
            if let Some(norm) = &mut self.qk_norm {
                norm.rstd = take(rows(shape, dims.h + dims.g, DType::F32));
            }
            self.feed_normed = take(rows(shape, dims.c, storage));
            self.feed_rstd = take(rows(shape, 1, DType::F32));
            self.kept_product = Some(take(rows(shape, dims.f, storage)));
        }
    }
}

impl LayerScratch {
    /// Bytes of the scratch: a multiple of 256.
    pub fn bytes(config: &ModelConfig, shape: Shape, storage: DType) -> usize {
        count(|take| {
            LayerScratch::lay(config, shape, storage, take);
        })
    }

    /// The scratch in `memory`, of which it takes the first [`LayerScratch::bytes`].
    ///
    /// # Panics
    /// If the memory is shorter.
    pub fn carve(memory: DeviceSpan, config: &ModelConfig, shape: Shape, storage: DType) -> Self {
        LayerScratch::lay(config, shape, storage, carver(memory))
    }

    /// Bytes that a layer keeps from forward to backward of one micro-batch: a multiple of 256.
    pub fn kept_bytes(recompute: Recompute, config: &ModelConfig, shape: Shape, storage: DType) -> usize {
        count(|take| {
            let mut scratch = LayerScratch::lay(config, shape, storage, |_| ());
            scratch.keep(recompute, &config.dims, shape, storage, take)
        })
    }

    /// The same scratch for a forward that keeps, or a backward that finds, what it need not compute again in
    /// the first [`LayerScratch::kept_bytes`] of `memory`. Backward leaves nothing of use there.
    ///
    /// # Panics
    /// If the memory is shorter.
    pub fn keeping(
        mut self,
        memory: DeviceSpan,
        recompute: Recompute,
        config: &ModelConfig,
        shape: Shape,
        storage: DType,
    ) -> Self {
        self.keep(recompute, &config.dims, shape, storage, carver(memory));
        self
    }

    pub(super) fn gate_up(&self) -> DeviceSpan {
        self.kept_gate_up.unwrap_or_else(|| self.shared.part(0, self.sizes.gate_up))
    }

    pub(super) fn product(&self) -> DeviceSpan {
        self.kept_product.unwrap_or_else(|| self.shared.part(self.sizes.gate_up, self.sizes.product))
    }

    pub(super) fn dattended(&self) -> DeviceSpan {
        self.shared.part(0, self.sizes.dattended)
    }

    pub(super) fn dqkv(&self) -> DeviceSpan {
        self.shared.part(self.sizes.dattended, self.sizes.dqkv)
    }
}

/// The working memory of the head, for one micro-batch, with the logits of `chunk` rows.
#[derive(Clone, Copy, Debug)]
pub struct HeadScratch<P = DeviceSpan> {
    /// `[N, C]`: input of the LM head; in backward then its gradient, chunk by chunk.
    pub(super) normed: P,
    /// f32 `[N]`.
    pub(super) rstd: P,
    /// `[chunk, V]`, rows [`Dims::logits_stride`] apart; in backward then their gradient.
    pub(super) logits: P,
    /// Rows of logits that exist at a time.
    pub(super) chunk: usize,
}

impl<P> HeadScratch<P> {
    fn lay(
        dims: &Dims,
        shape: Shape,
        storage: DType,
        chunk: usize,
        mut take: impl FnMut(usize) -> P,
    ) -> Self {
        let (n, chunk) = (shape.n(), chunk.clamp(1, shape.n()));
        HeadScratch {
            normed: take(aligned(n * dims.c * storage.bytes())),
            rstd: take(aligned(n * DType::F32.bytes())),
            logits: take(aligned(chunk * dims.logits_stride() * storage.bytes())),
            chunk,
        }
    }
}

impl HeadScratch {
    /// Bytes of the scratch: a multiple of 256. A chunk of more rows than the micro-batch is cut to it.
    pub fn bytes(dims: &Dims, shape: Shape, storage: DType, chunk: usize) -> usize {
        count(|take| {
            HeadScratch::lay(dims, shape, storage, chunk, take);
        })
    }

    /// The scratch in `memory`, of which it takes the first [`HeadScratch::bytes`].
    ///
    /// # Panics
    /// If the memory is shorter.
    pub fn carve(memory: DeviceSpan, dims: &Dims, shape: Shape, storage: DType, chunk: usize) -> Self {
        HeadScratch::lay(dims, shape, storage, chunk, carver(memory))
    }
}

/// Bytes of `[N, columns]`.
fn rows(shape: Shape, columns: usize, dtype: DType) -> usize {
    aligned(shape.n() * columns * dtype.bytes())
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// The bytes that a layout takes.
fn count(lay: impl FnOnce(&mut dyn FnMut(usize))) -> usize {
    let mut total = 0;
    lay(&mut |bytes| total += bytes);
    total
}

/// Takes one place after the other from a span.
fn carver(memory: DeviceSpan) -> impl FnMut(usize) -> DeviceSpan {
    let mut at = 0;
    move |bytes| {
        let place = memory.part(at, bytes);
        at += bytes;
        place
    }
}
