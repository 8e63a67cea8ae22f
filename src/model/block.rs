//! A decoder layer: pre-norm attention and pre-norm SwiGLU, each added to the stream.
//!
//! ```text
//! x ── RMSNorm ── q|k|v ── RoPE ── attention ── o ──(+x)── middle ── RMSNorm ── gate|up ── SwiGLU ── down ──(+middle)── out
//! ```
//!
//! Only `x`, the boundary, and what the scratch [keeps](LayerScratch::keeping) outlive the forward pass.
//! Backward forms everything else again with forward's kernels and shapes, so with forward's bits, and stops
//! before the down projection, whose result it never reads. Forward and backward, keeping or not, share the
//! one body below; where a result stands is the scratch's affair.

use crate::base::{DType, Dims};
use crate::device::DeviceSpan;
use crate::model::{Constants, LayerLinears, LayerScratch, ModelConfig, Recompute, UnitLayout};
use crate::ops::{Kernels, Rows, Write};

/// A unit's tensors, or their gradients, where products read and write them.
#[derive(Clone, Copy)]
struct LayerSpans {
    attention_norm: DeviceSpan,
    /// q, k and v as one matrix.
    qkv: DeviceSpan,
    o: DeviceSpan,
    feed_norm: DeviceSpan,
    /// gate and up as one matrix.
    gate_up: DeviceSpan,
    down: DeviceSpan,
}

impl LayerSpans {
    fn of(unit: &UnitLayout, span: DeviceSpan, dtype: DType, dims: &Dims) -> Self {
        let Dims { c, f, .. } = *dims;
        let at = |suffix: &str, elements: usize| {
            span.part(unit.offset(suffix) * dtype.bytes(), elements * dtype.bytes())
        };
        LayerSpans {
            attention_norm: at(".input_layernorm.weight", c),
            qkv: at(".q_proj.weight", dims.qkv() * c),
            o: at(".o_proj.weight", c * dims.attended()),
            feed_norm: at(".post_attention_layernorm.weight", c),
            gate_up: at(".gate_proj.weight", 2 * f * c),
            down: at(".down_proj.weight", c * f),
        }
    }
}

/// What both directions work with.
struct Layer<'a> {
    k: &'a dyn Kernels,
    config: &'a ModelConfig,
    constants: &'a Constants,
    weights: LayerSpans,
    rows: &'a Rows,
    scratch: &'a LayerScratch,
}

impl Layer<'_> {
    /// What backward reads, up to the product of gate and up, but for what is there already.
    fn activations(&self, x: DeviceSpan, missing: Recompute) {
        let Layer { k, config, constants, weights, rows, scratch: s } = self;
        let (n, eps) = (rows.shape.n(), config.norm_eps);
        let (dims, Dims { c, f, .. }) = (&config.dims, config.dims);
        let linear = LayerLinears::of(dims, n);
        if missing == Recompute::None {
            return;
        }
        let products = missing == Recompute::Full;
        k.rmsnorm_forward(s.attention_normed, s.attention_rstd, x, weights.attention_norm, eps, n, c);
        if products {
            k.matmul_forward(s.qkv, s.attention_normed, weights.qkv, None, linear.qkv);
            k.rope_forward(s.qkv, rows, constants.inv_freq, dims);
            k.attention_forward(s.attended, s.lse, s.qkv, rows, dims);
            k.matmul_forward(s.middle, s.attended, weights.o, Some(x), linear.o);
        }
        k.rmsnorm_forward(s.feed_normed, s.feed_rstd, s.middle, weights.feed_norm, eps, n, c);
        if products {
            k.matmul_forward(s.gate_up(), s.feed_normed, weights.gate_up, None, linear.gate_up);
        }
        k.swiglu_forward(s.product(), s.gate_up(), n, f);
    }
}

/// One layer forward: `out [N, C]` from `x [N, C]`. `weights` is the unit's bf16 span. What the scratch keeps
/// is there afterwards for [`layer_backward`].
#[allow(clippy::too_many_arguments)]
pub fn layer_forward(
    k: &dyn Kernels,
    config: &ModelConfig,
    constants: &Constants,
    unit: &UnitLayout,
    weights: DeviceSpan,
    rows: &Rows,
    x: DeviceSpan,
    out: DeviceSpan,
    scratch: &LayerScratch,
) {
    let weights = LayerSpans::of(unit, weights, DType::Bf16, &config.dims);
    let layer = Layer { k, config, constants, weights, rows, scratch };
    layer.activations(x, Recompute::Full);
    let down = LayerLinears::of(&config.dims, rows.shape.n()).down;
    k.matmul_forward(out, scratch.product(), weights.down, Some(scratch.middle), down);
}

/// One layer backward: again from its boundary `x` what the scratch has not kept, then the gradients.
/// `stream [N, C]` holds the gradient of the layer's output and becomes that of `x`. The unit's f32 `gradient` is
/// set or added to, by `write`; setting it makes its padding zero.
#[allow(clippy::too_many_arguments)]
pub fn layer_backward(
    k: &dyn Kernels,
    config: &ModelConfig,
    constants: &Constants,
    unit: &UnitLayout,
    weights: DeviceSpan,
    gradient: DeviceSpan,
    write: Write,
    rows: &Rows,
    x: DeviceSpan,
    stream: DeviceSpan,
    scratch: &LayerScratch,
) {
    if write == Write::Set {
        zero_padding(k, unit, gradient);
    }
    let dims = &config.dims;
    let weights = LayerSpans::of(unit, weights, DType::Bf16, dims);
    let d = LayerSpans::of(unit, gradient, DType::F32, dims);
    Layer { k, config, constants, weights, rows, scratch }.activations(x, scratch.recompute);

    let (n, Dims { c, f, .. }, s) = (rows.shape.n(), config.dims, scratch);
    let linear = LayerLinears::of(dims, n);

    k.matmul_backward_weight(d.down, write, stream, s.product(), linear.down);
    // The product of gate and up is read for the last time above: its gradient takes its place.
    let dproduct = s.product();
    k.matmul_backward_input(dproduct, Write::Set, stream, weights.down, linear.down);
    k.swiglu_backward(s.gate_up(), dproduct, n, f);
    let dgate_up = s.gate_up();
    k.matmul_backward_weight(d.gate_up, write, dgate_up, s.feed_normed, linear.gate_up);
    let dfeed_normed = s.feed_normed;
    k.matmul_backward_input(dfeed_normed, Write::Set, dgate_up, weights.gate_up, linear.gate_up);
    k.rmsnorm_backward(
        stream,
        Write::Add,
        d.feed_norm,
        write,
        dfeed_normed,
        s.middle,
        s.feed_rstd,
        weights.feed_norm,
        n,
        c,
    );

    // The stream is now the gradient of `middle`.
    k.matmul_backward_weight(d.o, write, stream, s.attended, linear.o);
    k.matmul_backward_input(s.dattended(), Write::Set, stream, weights.o, linear.o);
    k.attention_backward(s.dqkv(), s.dattended(), s.attended, s.lse, s.qkv, rows, dims);
    k.rope_backward(s.dqkv(), rows, constants.inv_freq, dims);
    k.matmul_backward_weight(d.qkv, write, s.dqkv(), s.attention_normed, linear.qkv);
    let dattention_normed = s.attention_normed;
    k.matmul_backward_input(dattention_normed, Write::Set, s.dqkv(), weights.qkv, linear.qkv);
    k.rmsnorm_backward(
        stream,
        Write::Add,
        d.attention_norm,
        write,
        dattention_normed,
        x,
        s.attention_rstd,
        weights.attention_norm,
        n,
        c,
    );
}

/// Zeroes what lies between a unit's tensors and behind them in its f32 gradient: the whole span is squared,
/// rounded and downloaded later.
fn zero_padding(k: &dyn Kernels, unit: &UnitLayout, gradient: DeviceSpan) {
    let starts = unit.tensors.iter().skip(1).map(|tensor| tensor.offset).chain([unit.elements]);
    for (tensor, next) in unit.tensors.iter().zip(starts) {
        let end = tensor.offset + tensor.elements();
        if end < next {
            k.zero(gradient.part(end * 4, (next - end) * 4));
        }
    }
}
