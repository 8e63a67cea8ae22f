//! The token embedding.

use crate::base::Dims;
use crate::model::ModelConfig;
use crate::model::program::{Builder, External, Weights};
use crate::ops::{Element, EmbeddingBackward, EmbeddingForward, Write, Zero};

fn table(b: &mut Builder, dims: &Dims) -> Weights {
    b.parameters(&[("model.embed_tokens.weight", dims.v)], Some(dims.c))
}

/// Emits the embedding lookup, the boundary below the first layer.
pub fn embedding_forward(b: &mut Builder, config: &ModelConfig, n: usize) {
    let Dims { c, v, .. } = config.dims;
    let (table, scale) = (table(b, &config.dims).weights, config.multipliers.embedding);
    let tokens = b.input(External::Gathered, Element::I32, n);
    let out = b.output(External::Output, Element::Activation, n * c);
    b.push(EmbeddingForward { out, table, tokens, scale, n, c, v });
}

/// Emits the gradient of the table from that of the residual stream. With [`Write::Set`] the table
/// is zeroed first.
pub fn embedding_backward(b: &mut Builder, config: &ModelConfig, n: usize) {
    let Dims { c, v, .. } = config.dims;
    let (table, scale) = (table(b, &config.dims).gradient, config.multipliers.embedding);
    if b.write() == Write::Set {
        b.push(Zero { out: table, bytes: v * c * 4 });
        b.zero_padding();
    }
    let tokens = b.input(External::Tokens, Element::I32, n);
    let order = b.input(External::Order, Element::I32, n);
    let first = b.input(External::First, Element::I32, n + 1);
    let dout = b.input(External::ResidualStream, Element::Activation, n * c);
    let (dtable, _) = b.contribution(table);
    b.push(EmbeddingBackward { dtable, dout, tokens, order, first, scale, distinct: 0, n, c, v });
}
