//! The units of a decoder as programs: the embedding, the layers, the head.
//!
//! ```text
//! x ── RMSNorm ── q|k|v ── RoPE ── attention ── o ──(+x)── middle ── RMSNorm ── gate|up ── SwiGLU ── down ──(+middle)── out
//! ```
//!
//! Families may have biases, and an RMSNorm of every query and key head before RoPE. A layer is one unit, or two with the
//! boundary `middle` between them.

use std::mem::{Discriminant, discriminant};

use crate::base::{DType, Dims, Shape};
use crate::model::ModelConfig;
use crate::model::modules::{Attention, HeadTask, Mlp, Norm, embedding_backward, embedding_forward, head};
use crate::model::program::{Builder, External, Program, Recompute};
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
    /// The second half of decoder layer `l`: the feed-forward network.
    Mlp(usize),
    /// Final norm and, unless tied, the LM head; the last unit.
    Head,
}

impl UnitKind {
    /// The decoder layer that the unit is, or is a half of.
    pub fn layer(self) -> Option<usize> {
        match self {
            UnitKind::Layer(layer) | UnitKind::Attention(layer) | UnitKind::Mlp(layer) => Some(layer),
            UnitKind::Embedding | UnitKind::Head => None,
        }
    }
}

/// The shapes that programs are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// Of a micro-batch.
    pub shape: Shape,
    /// Rows of logits that exist at a time.
    pub logits_chunk: usize,
    /// The type that activations are stored in.
    pub activation_dtype: DType,
}

impl Sizes {
    /// The least, for what is the same for all shapes.
    pub(super) const ONE_ROW: Sizes =
        Sizes { shape: Shape { b: 1, t: 1 }, logits_chunk: 1, activation_dtype: DType::Bf16 };
}

/// What decides the program of a layer: layers of one key have the same.
pub fn layer_key(config: &ModelConfig, kind: UnitKind) -> (Discriminant<UnitKind>, usize) {
    (discriminant(&kind), kind.layer().map_or(0, |layer| config.window_of(layer)))
}

/// The program of a decoder layer, or of a half of one.
///
/// # Panics
/// If the unit is an end.
pub fn layer(config: &ModelConfig, kind: UnitKind, sizes: &Sizes, write: Write) -> Program {
    let mut builder = Builder::new(sizes.activation_dtype, write);
    let b = &mut builder;
    let (Dims { c, f, .. }, n, eps) = (config.dims, sizes.shape.n(), config.norm_eps);
    let x = b.input(External::Input, Element::Activation, n * c);
    let out = b.output(External::Output, Element::Activation, n * c);
    let (has_attention, has_mlp) = match kind {
        UnitKind::Layer(_) => (true, true),
        UnitKind::Attention(_) => (true, false),
        UnitKind::Mlp(_) => (false, true),
        UnitKind::Embedding | UnitKind::Head => unreachable!("an end is no layer"),
    };
    let window = config.window_of(kind.layer().expect("a layer"));
    let post_attention = match (has_attention, has_mlp) {
        (true, true) => b.own(Element::Activation, n * c),
        (true, false) => out,
        (false, _) => x,
    };
    b.keep(post_attention, Recompute::Mlp);
    let attention = has_attention.then(|| {
        let norm = Norm::forward(b, "input_layernorm.weight", x, eps, [n, c]);
        let attention = Attention::forward(b, config, norm.out, (sizes.shape, window), x, post_attention);
        (norm, attention)
    });
    let mlp = has_mlp.then(|| {
        let norm = Norm::forward(b, "post_attention_layernorm.weight", post_attention, eps, [n, c]);
        let mlp = Mlp::forward(b, config.biases.mlp, norm.out, [n, c, f], post_attention, out);
        (norm, mlp)
    });

    b.start_backward();
    b.zero_padding();
    // The gradient of the output becomes that of `middle`, then that of `x`.
    let mut stream = b.input(External::ResidualStream, Element::Activation, n * c);
    if let Some((norm, mlp)) = mlp {
        let dnormed = mlp.backward(b, stream);
        norm.backward(b, dnormed, stream, Write::Add);
        stream = stream.next();
    }
    if let Some((norm, attention)) = attention {
        let dnormed = attention.backward(b, stream);
        norm.backward(b, dnormed, stream, Write::Add);
    }
    builder.finish()
}

/// The program of the embedding, forward.
pub fn embedding(config: &ModelConfig, sizes: &Sizes) -> Program {
    let mut b = Builder::new(sizes.activation_dtype, Write::Set);
    embedding_forward(&mut b, &config.dims, sizes.shape.n());
    b.finish()
}

/// The program of the embedding, backward. Tied, the head has set the gradient.
pub fn embedding_gradient(config: &ModelConfig, sizes: &Sizes, write: Write) -> Program {
    let mut b = Builder::new(sizes.activation_dtype, if config.tied { Write::Add } else { write });
    embedding_backward(&mut b, &config.dims, sizes.shape.n());
    b.finish()
}

/// The program of the head for a task.
pub fn head_program(config: &ModelConfig, sizes: &Sizes, task: HeadTask, write: Write) -> Program {
    let mut b = Builder::new(sizes.activation_dtype, write);
    head(&mut b, config, task, sizes.shape.n(), sizes.logits_chunk);
    b.finish()
}
