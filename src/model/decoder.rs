//! The units of a decoder as programs: embedding, layers and head.
//!
//! ```text
//! x ── RMSNorm ── q|k|v ── RoPE ── attention ── o ──(+x)── r ── MLP norm ── gate|up ── SwiGLU ── down ──(+r)── out
//! ```
//!
//! `r` is the post-attention residual. Some families add biases, an RMSNorm of query and key heads
//! before RoPE, or norms after `o` and `down`. A layer is one unit, or two with the boundary `r`
//! between them.

use std::mem::{Discriminant, discriminant};

use crate::base::{DType, Shape};
use crate::model::modules::{
    Attention, Branch, HeadTask, Mlp, NormNames, embedding_backward, embedding_forward, head,
};
use crate::model::program::{Builder, External, Program, Recompute};
use crate::model::{ModelConfig, Norms};
use crate::ops::{Element, Write};

/// The kind of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// The token embedding, unit 0.
    Embedding,
    /// Decoder layer `l`.
    Layer(usize),
    /// The first half of decoder layer `l`: attention.
    Attention(usize),
    /// The second half of decoder layer `l`: the MLP.
    Mlp(usize),
    /// Final norm and, unless tied, LM head; the last unit.
    Head,
}

impl UnitKind {
    /// The decoder layer of the unit, or `None` for embedding and head.
    pub fn layer(self) -> Option<usize> {
        match self {
            UnitKind::Layer(layer) | UnitKind::Attention(layer) | UnitKind::Mlp(layer) => Some(layer),
            UnitKind::Embedding | UnitKind::Head => None,
        }
    }
}

/// The sizes that a program depends on, besides those of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// B and T of a micro-batch.
    pub shape: Shape,
    /// Rows of logits computed at a time.
    pub logits_chunk: usize,
    /// The dtype of activations.
    pub activation_dtype: DType,
}

impl Sizes {
    /// The smallest sizes, for facts that do not depend on sizes.
    pub(super) const ONE_ROW: Sizes =
        Sizes { shape: Shape { b: 1, t: 1 }, logits_chunk: 1, activation_dtype: DType::Bf16 };
}

/// A key that determines the program of a layer: layers with equal keys have equal programs.
pub fn layer_key(config: &ModelConfig, kind: UnitKind) -> (Discriminant<UnitKind>, Option<(usize, bool)>) {
    (discriminant(&kind), kind.layer().map(|layer| (config.window_of(layer), config.rope.rotates(layer))))
}

/// Names of the norms' tensors: of attention, then of the MLP.
fn norm_names(norms: Norms) -> [NormNames; 2] {
    match norms {
        Norms::Before => {
            [[Some("input_layernorm.weight"), None], [Some("post_attention_layernorm.weight"), None]]
        }
        Norms::After => [
            [None, Some("post_attention_layernorm.weight")],
            [None, Some("post_feedforward_layernorm.weight")],
        ],
        Norms::Around => [
            [Some("input_layernorm.weight"), Some("post_attention_layernorm.weight")],
            [Some("pre_feedforward_layernorm.weight"), Some("post_feedforward_layernorm.weight")],
        ],
    }
}

/// The program of a decoder layer, or of half a layer.
///
/// # Panics
/// If the unit is the embedding or the head.
pub fn layer(config: &ModelConfig, kind: UnitKind, sizes: &Sizes, write: Write) -> Program {
    let mut builder = Builder::new(sizes.activation_dtype, write);
    let b = &mut builder;
    let (c, n) = (config.dims.c, sizes.shape.n());
    let x = b.input(External::Input, Element::Activation, n * c);
    let out = b.output(External::Output, Element::Activation, n * c);
    let (has_attention, has_mlp) = match kind {
        UnitKind::Layer(_) => (true, true),
        UnitKind::Attention(_) => (true, false),
        UnitKind::Mlp(_) => (false, true),
        UnitKind::Embedding | UnitKind::Head => unreachable!("embedding and head are no layers"),
    };
    let number = kind.layer().expect("a layer");
    let [attention_norms, mlp_norms] = norm_names(config.norms);
    let post_attention = match (has_attention, has_mlp) {
        (true, true) => b.own(Element::Activation, n * c),
        (true, false) => out,
        (false, _) => x,
    };
    b.save(post_attention, Recompute::Mlp);
    let attention = has_attention.then(|| {
        Branch::forward(b, config, attention_norms, (x, post_attention, n), Recompute::Mlp, |b, ends| {
            Attention::forward(b, config, number, sizes.shape, ends)
        })
    });
    let mlp = has_mlp.then(|| {
        Branch::forward(b, config, mlp_norms, (post_attention, out, n), Recompute::Selective, |b, ends| {
            Mlp::forward(b, config, n, ends)
        })
    });

    b.start_backward();
    b.zero_padding();
    // The gradient of the output is updated in place to that of the post-attention residual, then to
    // that of `x`.
    let mut dresidual = b.input(External::ResidualStream, Element::Activation, n * c);
    if let Some(mlp) = mlp {
        dresidual = mlp.backward(b, dresidual);
    }
    if let Some(attention) = attention {
        attention.backward(b, dresidual);
    }
    builder.finish()
}

/// The forward program of the embedding.
pub fn embedding(config: &ModelConfig, sizes: &Sizes) -> Program {
    let mut b = Builder::new(sizes.activation_dtype, Write::Set);
    embedding_forward(&mut b, config, sizes.shape.n());
    b.finish()
}

/// The backward program of the embedding. If tied, it adds to the gradient that the head has set.
pub fn embedding_gradient(config: &ModelConfig, sizes: &Sizes, write: Write) -> Program {
    let mut b = Builder::new(sizes.activation_dtype, if config.tied { Write::Add } else { write });
    embedding_backward(&mut b, config, sizes.shape.n());
    b.finish()
}

/// The program of a task of the head.
pub fn head_program(config: &ModelConfig, sizes: &Sizes, task: HeadTask, write: Write) -> Program {
    let mut b = Builder::new(sizes.activation_dtype, write);
    head(&mut b, config, task, sizes.shape.n(), sizes.logits_chunk);
    b.finish()
}
