//! Self-attention: one matmul for queries, keys and values, optional QK-norm and RoPE, attention,
//! and the output projection.

use crate::base::Shape;
use crate::model::ModelConfig;
use crate::model::modules::branch::{Ends, Module};
use crate::model::modules::linear::{Dense, Tensors};
use crate::model::program::{Builder, External, Recompute, Value, Weights};
use crate::ops::{
    AttentionBackward, AttentionForward, Element, Heads, NormSpan, QkNormBackward, QkNormForward, Rope,
    RopeDirection, Rotation,
};

/// The values of a self-attention emitted by [`Attention::forward`].
pub struct Attention {
    qkv: Dense,
    norm: Option<QkNorm>,
    rope: Option<Rotated>,
    /// Queries, keys and values as attention reads them.
    ready: Value,
    attention_output: Value,
    lse: Value,
    o: Dense,
    doc_start: Value,
    doc_end: Value,
    scale: f32,
    window: usize,
    shape: Shape,
    heads: Heads,
}

/// The QK-norm of query and key heads.
#[derive(Clone, Copy)]
struct QkNorm {
    span: NormSpan,
    offset: f32,
    rstd: Value,
    q: Weights,
    k: Weights,
}

/// The rotation of query and key heads.
#[derive(Clone, Copy)]
struct Rotated {
    positions: Value,
    inv_freq: Value,
    rotation: Rotation,
}

impl Rotated {
    /// Declares the inputs of a layer's rotation.
    fn declare(b: &mut Builder, config: &ModelConfig, heads: &Heads, n: usize, has_window: bool) -> Rotated {
        let (rope, rotation) = (&config.rope, config.rope.rotation(heads, has_window));
        let (pairs, tables) = (rotation.r / 2, rope.table_count());
        let mut inv_freq = b.input(External::InvFreq, Element::F32, tables * pairs);
        if tables > 1 {
            inv_freq = b.slice(inv_freq, Element::F32, usize::from(has_window) * pairs, pairs);
        }
        Rotated { positions: b.input(External::Positions, Element::I32, n), inv_freq, rotation }
    }

    /// Emits the rotation of `qkv` in place; returns the result.
    fn rotate(&self, b: &mut Builder, qkv: Value, direction: RopeDirection, n: usize, heads: Heads) -> Value {
        let Rotated { positions, inv_freq, rotation } = *self;
        b.push(Rope { qkv, positions, inv_freq, direction, rotation, n, heads });
        qkv.next()
    }
}

impl Attention {
    /// Emits `out = residual + o(attention(x))`, all `[N, C]`, of decoder layer `layer`.
    pub fn forward(
        b: &mut Builder,
        config: &ModelConfig,
        layer: usize,
        shape: Shape,
        ends: Ends,
    ) -> Attention {
        let (dims, heads, n) = (&config.dims, Heads::from(&config.dims), shape.n());
        let (window, scale) = (config.window_of(layer), config.score_scale());
        let rope = config.rope.rotates(layer).then(|| Rotated::declare(b, config, &heads, n, window > 0));
        let doc_start = b.input(External::DocStart, Element::I32, n);
        let doc_end = b.input(External::DocEnd, Element::I32, n);
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
            scale: 1.0,
        };
        let qkv = Dense::forward(b, tensors, ends.input, [n, dims.c], None, None);
        let (mut ready, mut norm) = (qkv.out, None);
        if let Some(span) = config.qk_norm {
            b.save(ready, Recompute::Mlp);
            let [q_width, k_width] = span.widths(&heads);
            let q = b.parameters(&[("self_attn.q_norm.weight", q_width)], None);
            let k = b.parameters(&[("self_attn.k_norm.weight", k_width)], None);
            let normed = b.own(Element::Activation, n * heads.qkv());
            let rstd = b.own(Element::F32, n * span.spans(&heads));
            let (q_weight, k_weight) = (q.weights, k.weights);
            let (offset, eps) = (config.norm_offset(), config.norm_eps);
            b.push(QkNormForward {
                out: normed,
                rstd,
                qkv: ready,
                q_weight,
                k_weight,
                span,
                offset,
                eps,
                n,
                heads,
            });
            (ready, norm) = (normed, Some(QkNorm { span, offset, rstd, q, k }));
        }
        if let Some(rope) = rope {
            ready = rope.rotate(b, ready, RopeDirection::Forward, n, heads);
        }
        if norm.is_none() {
            b.save(ready, Recompute::Mlp);
        }
        let (attention_output, lse) = (b.own(Element::Activation, n * q), b.own(Element::F32, heads.h * n));
        b.save(attention_output, Recompute::Linears);
        b.save(lse, Recompute::Linears);
        b.push(AttentionForward {
            out: attention_output,
            lse,
            qkv: ready,
            doc_start,
            scale,
            window,
            shape,
            heads,
        });
        let tensors = Tensors {
            weights: &[("self_attn.o_proj.weight", dims.c)],
            biases: if config.biases.o { &[("self_attn.o_proj.bias", dims.c)] } else { &[] },
            scale: config.multipliers.residual,
        };
        let o = Dense::forward(b, tensors, attention_output, [n, q], ends.residual, Some(ends.out));
        Attention {
            qkv,
            norm,
            rope,
            ready,
            attention_output,
            lse,
            o,
            doc_start,
            doc_end,
            scale,
            window,
            shape,
            heads,
        }
    }
}

impl Module for Attention {
    fn backward(&self, b: &mut Builder, dout: Value, dx: Option<Value>) -> Value {
        let Attention {
            ready, attention_output, lse, doc_start, doc_end, scale, window, shape, heads, ..
        } = *self;
        let n = shape.n();
        let dattention_output = self.o.backward(b, dout, None);
        let mut dqkv = b.own(Element::Activation, n * heads.qkv());
        b.push(AttentionBackward {
            dqkv,
            dout: dattention_output,
            out: attention_output,
            lse,
            qkv: ready,
            doc_start,
            doc_end,
            scale,
            window,
            shape,
            heads,
        });
        if let Some(rope) = self.rope {
            dqkv = rope.rotate(b, dqkv, RopeDirection::Backward, n, heads);
        }
        if let Some(QkNorm { span, offset, rstd, q, k }) = self.norm {
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
                span,
                offset,
                dweight_write,
                n,
                heads,
            });
            dqkv = dqkv.next();
        }
        self.qkv.backward(b, dqkv, dx)
    }
}
