//! Self-attention: one matmul for queries, keys and values, optional QK-norm, RoPE, attention, and
//! the output projection, which adds to the residual stream.

use crate::base::Shape;
use crate::model::ModelConfig;
use crate::model::modules::linear::{Dense, Tensors};
use crate::model::program::{Builder, External, Recompute, Value, Weights};
use crate::ops::{
    AttentionBackward, AttentionForward, Element, Heads, QkNormBackward, QkNormForward, Rope, RopeDirection,
};

/// The values of a self-attention emitted by [`Attention::forward`].
pub struct Attention {
    qkv: Dense,
    norm: Option<QkNorm>,
    rotated: Value,
    attention_output: Value,
    lse: Value,
    o: Dense,
    inputs: BatchInputs,
    window: usize,
    shape: Shape,
    heads: Heads,
}

/// The QK-norm of query and key heads.
#[derive(Clone, Copy)]
struct QkNorm {
    rstd: Value,
    q: Weights,
    k: Weights,
}

/// Inputs of attention per micro-batch.
#[derive(Clone, Copy)]
struct BatchInputs {
    positions: Value,
    doc_start: Value,
    doc_end: Value,
    inv_freq: Value,
}

impl Attention {
    /// Emits `out = residual + o(attention(x))`, all `[N, C]`; `window` as in [`AttentionForward`].
    pub fn forward(
        b: &mut Builder,
        config: &ModelConfig,
        x: Value,
        (shape, window): (Shape, usize),
        residual: Value,
        out: Value,
    ) -> Attention {
        let (dims, heads, n) = (&config.dims, Heads::from(&config.dims), shape.n());
        let inputs = BatchInputs {
            positions: b.input(External::Positions, Element::I32, n),
            doc_start: b.input(External::DocStart, Element::I32, n),
            doc_end: b.input(External::DocEnd, Element::I32, n),
            inv_freq: b.input(External::InvFreq, Element::F32, dims.d / 2),
        };
        let (q, kv) = (heads.attention_width(), heads.g * heads.d);
        let tensors = Tensors {
            weights: &[
                ("self_attn.q_proj.weight", q),
                ("self_attn.k_proj.weight", kv),
                ("self_attn.v_proj.weight", kv),
            ],
            biases: match config.biases.qkv {
                true => &[
                    ("self_attn.q_proj.bias", q),
                    ("self_attn.k_proj.bias", kv),
                    ("self_attn.v_proj.bias", kv),
                ],
                false => &[],
            },
        };
        let qkv = Dense::forward(b, tensors, x, [n, dims.c], None, None);
        let (mut packed, mut norm) = (qkv.out, None);
        if config.qk_norm {
            b.save(packed, Recompute::Mlp);
            let q = b.parameters(&[("self_attn.q_norm.weight", dims.d)], None);
            let k = b.parameters(&[("self_attn.k_norm.weight", dims.d)], None);
            let normed = b.own(Element::Activation, n * heads.qkv());
            let rstd = b.own(Element::F32, n * heads.normed());
            let (q_weight, k_weight, eps) = (q.weights, k.weights, config.norm_eps);
            b.push(QkNormForward { out: normed, rstd, qkv: packed, q_weight, k_weight, eps, n, heads });
            (packed, norm) = (normed, Some(QkNorm { rstd, q, k }));
        }
        let BatchInputs { positions, inv_freq, doc_start, .. } = inputs;
        b.push(Rope { qkv: packed, positions, inv_freq, direction: RopeDirection::Forward, n, heads });
        let rotated = packed.next();
        if norm.is_none() {
            b.save(rotated, Recompute::Mlp);
        }
        let (attention_output, lse) = (b.own(Element::Activation, n * q), b.own(Element::F32, heads.h * n));
        b.save(attention_output, Recompute::Linears);
        b.save(lse, Recompute::Linears);
        b.push(AttentionForward {
            out: attention_output,
            lse,
            qkv: rotated,
            doc_start,
            window,
            shape,
            heads,
        });
        let tensors = Tensors {
            weights: &[("self_attn.o_proj.weight", dims.c)],
            biases: if config.biases.o { &[("self_attn.o_proj.bias", dims.c)] } else { &[] },
        };
        let o = Dense::forward(b, tensors, attention_output, [n, q], Some(residual), Some(out));
        Attention { qkv, norm, rotated, attention_output, lse, o, inputs, window, shape, heads }
    }

    /// Emits the gradients of all parameters; returns the gradient of `x`.
    pub fn backward(&self, b: &mut Builder, dout: Value) -> Value {
        let Attention { rotated, attention_output, lse, window, shape, heads, .. } = *self;
        let BatchInputs { positions, doc_start, doc_end, inv_freq } = self.inputs;
        let n = shape.n();
        let dattention_output = self.o.backward(b, dout);
        let dqkv = b.own(Element::Activation, n * heads.qkv());
        b.push(AttentionBackward {
            dqkv,
            dout: dattention_output,
            out: attention_output,
            lse,
            qkv: rotated,
            doc_start,
            doc_end,
            window,
            shape,
            heads,
        });
        b.push(Rope { qkv: dqkv, positions, inv_freq, direction: RopeDirection::Backward, n, heads });
        let mut dqkv = dqkv.next();
        if let Some(QkNorm { rstd, q, k }) = self.norm {
            let ((dq_weight, dweight_write), (dk_weight, _)) =
                (b.contribution(q.gradient), b.contribution(k.gradient));
            b.push(QkNormBackward {
                dqkv,
                dq_weight,
                dk_weight,
                qkv: self.qkv.out,
                rstd,
                q_weight: q.weights,
                k_weight: k.weights,
                dweight_write,
                n,
                heads,
            });
            dqkv = dqkv.next();
        }
        self.qkv.backward(b, dqkv)
    }
}
