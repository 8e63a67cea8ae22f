//! A decoder layer: pre-norm attention and pre-norm SwiGLU, each added to the stream.
//!
//! ```text
//! x ── RMSNorm ── q|k|v ── RoPE ── attention ── o ──(+x)── middle ── RMSNorm ── gate|up ── SwiGLU ── down ──(+middle)── out
//! ```
//!
//! Families may have biases, which the matmuls add, and an RMSNorm of every query and key head before RoPE.
//!
//! Only `x`, the boundary, and what the scratch [keeps](LayerScratch::keeping) outlive the forward pass.
//! Backward forms everything else again with forward's kernels and shapes, so with forward's bits, and stops
//! before the down projection, whose result it never reads. Forward and backward, keeping or not, share the
//! one body below; where a result stands is the scratch's affair.

use crate::base::{DType, Dims};
use crate::device::DeviceSpan;
use crate::model::{Constants, LayerLinears, LayerScratch, ModelConfig, Recompute, UnitKind, UnitLayout};
use crate::ops::{Addends, Kernels, Rows, Write};

/// A unit's tensors, or their gradients, where products read and write them.
#[derive(Clone, Copy)]
struct LayerSpans {
    attention_norm: DeviceSpan,
    /// q, k and v as one matrix.
    qkv: DeviceSpan,
    qkv_bias: Option<DeviceSpan>,
    /// Of queries and of keys.
    qk_norm: Option<[DeviceSpan; 2]>,
    o: DeviceSpan,
    o_bias: Option<DeviceSpan>,
    feed_norm: DeviceSpan,
    /// gate and up as one matrix.
    gate_up: DeviceSpan,
    gate_up_bias: Option<DeviceSpan>,
    down: DeviceSpan,
    down_bias: Option<DeviceSpan>,
}

impl LayerSpans {
    fn of(unit: &UnitLayout, span: DeviceSpan, dtype: DType, config: &ModelConfig) -> Self {
        let (dims, Dims { c, d, f, .. }, biases) = (&config.dims, config.dims, config.biases);
        let at = |suffix: &str, elements: usize| {
            span.part(unit.offset(suffix) * dtype.bytes(), elements * dtype.bytes())
        };
        let bias = |there: bool, suffix: &str, elements: usize| there.then(|| at(suffix, elements));
        LayerSpans {
            attention_norm: at(".input_layernorm.weight", c),
            qkv: at(".q_proj.weight", dims.qkv() * c),
            qkv_bias: bias(biases.qkv, ".q_proj.bias", dims.qkv()),
            qk_norm: config.qk_norm.then(|| [at(".q_norm.weight", d), at(".k_norm.weight", d)]),
            o: at(".o_proj.weight", c * dims.attended()),
            o_bias: bias(biases.o, ".o_proj.bias", c),
            feed_norm: at(".post_attention_layernorm.weight", c),
            gate_up: at(".gate_proj.weight", 2 * f * c),
            gate_up_bias: bias(biases.mlp, ".gate_proj.bias", 2 * f),
            down: at(".down_proj.weight", c * f),
            down_bias: bias(biases.mlp, ".down_proj.bias", c),
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
    /// Rows that attention sees; 0 for all.
    window: usize,
    scratch: &'a LayerScratch,
}

impl Layer<'_> {
    /// What backward reads, up to the product of gate and up, but for what is there already.
    fn activations(&self, x: DeviceSpan, missing: Recompute) {
        let Layer { k, config, constants, weights, rows, window, scratch: s } = self;
        let (n, eps) = (rows.shape.n(), config.norm_eps);
        let (dims, Dims { c, f, .. }) = (&config.dims, config.dims);
        let linear = LayerLinears::of(dims, n);
        if missing == Recompute::None {
            return;
        }
        let products = missing == Recompute::Full;
        k.rmsnorm_forward(s.attention_normed, s.attention_rstd, x, weights.attention_norm, eps, n, c);
        if products {
            let qkv = s.qk_norm.map_or(s.qkv, |norm| norm.qkv);
            let addends = Addends { residual: None, bias: weights.qkv_bias };
            k.matmul_forward(qkv, s.attention_normed, weights.qkv, addends, linear.qkv);
        }
        if let (Some(norm), Some(weights)) = (s.qk_norm, weights.qk_norm) {
            k.qk_norm_forward(s.qkv, norm.rstd, norm.qkv, weights, eps, n, dims);
        }
        if products || s.qk_norm.is_some() {
            k.rope_forward(s.qkv, rows, constants.inv_freq, dims);
        }
        if products {
            k.attention_forward(s.attended, s.lse, s.qkv, rows, *window, dims);
            let addends = Addends { residual: Some(x), bias: weights.o_bias };
            k.matmul_forward(s.middle, s.attended, weights.o, addends, linear.o);
        }
        k.rmsnorm_forward(s.feed_normed, s.feed_rstd, s.middle, weights.feed_norm, eps, n, c);
        if products {
            let addends = Addends { residual: None, bias: weights.gate_up_bias };
            k.matmul_forward(s.gate_up(), s.feed_normed, weights.gate_up, addends, linear.gate_up);
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
    let weights = LayerSpans::of(unit, weights, DType::Bf16, config);
    let layer = Layer { k, config, constants, weights, rows, window: window(unit, config), scratch };
    layer.activations(x, Recompute::Full);
    let down = LayerLinears::of(&config.dims, rows.shape.n()).down;
    let addends = Addends { residual: Some(scratch.middle), bias: weights.down_bias };
    k.matmul_forward(out, scratch.product(), weights.down, addends, down);
}

/// Rows that a layer's attention sees; 0 for all.
fn window(unit: &UnitLayout, config: &ModelConfig) -> usize {
    match unit.kind {
        UnitKind::Layer(layer) => config.window_of(layer),
        UnitKind::Embedding | UnitKind::Head => unreachable!("an end is no layer"),
    }
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
    let weights = LayerSpans::of(unit, weights, DType::Bf16, config);
    let d = LayerSpans::of(unit, gradient, DType::F32, config);
    let window = window(unit, config);
    Layer { k, config, constants, weights, rows, window, scratch }.activations(x, scratch.recompute);

    let (n, Dims { c, f, .. }, s) = (rows.shape.n(), config.dims, scratch);
    let linear = LayerLinears::of(dims, n);
    let bias_backward = |dbias: Option<DeviceSpan>, dout: DeviceSpan, columns: usize| {
        if let Some(dbias) = dbias {
            k.bias_backward(dbias, write, dout, n, columns);
        }
    };

    bias_backward(d.down_bias, stream, c);
    k.matmul_backward_weight(d.down, write, stream, s.product(), linear.down);
    // The product of gate and up is read for the last time above: its gradient takes its place.
    let dproduct = s.product();
    k.matmul_backward_input(dproduct, Write::Set, stream, weights.down, linear.down);
    k.swiglu_backward(s.gate_up(), dproduct, n, f);
    let dgate_up = s.gate_up();
    bias_backward(d.gate_up_bias, dgate_up, 2 * f);
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
    bias_backward(d.o_bias, stream, c);
    k.matmul_backward_weight(d.o, write, stream, s.attended, linear.o);
    k.matmul_backward_input(s.dattended(), Write::Set, stream, weights.o, linear.o);
    k.attention_backward(s.dqkv(), s.dattended(), s.attended, s.lse, s.qkv, rows, window, dims);
    k.rope_backward(s.dqkv(), rows, constants.inv_freq, dims);
    if let (Some(norm), Some(weights), Some(dweights)) = (s.qk_norm, weights.qk_norm, d.qk_norm) {
        k.qk_norm_backward(s.dqkv(), dweights, write, norm.qkv, norm.rstd, weights, n, dims);
    }
    bias_backward(d.qkv_bias, s.dqkv(), dims.qkv());
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
