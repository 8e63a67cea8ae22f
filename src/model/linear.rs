//! The linear layers of a decoder: the one place that knows the sizes of its matrix products.

use crate::base::{Dims, Shape};
use crate::model::ModelConfig;
use crate::ops::cuda::product::{Direction, Product};
use crate::ops::{Linear, Write};

/// The linear layers of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLinears {
    /// Queries, keys and values from the first norm.
    pub qkv: Linear,
    /// Into the stream, from attention.
    pub o: Linear,
    /// Gate and up from the second norm.
    pub gate_up: Linear,
    /// Into the stream, from SwiGLU.
    pub down: Linear,
}

impl LayerLinears {
    /// For N rows.
    pub fn of(dims: &Dims, n: usize) -> Self {
        let Dims { c, f, .. } = *dims;
        LayerLinears {
            qkv: Linear::dense(n, c, dims.qkv()),
            o: Linear::dense(n, dims.attended(), c),
            gate_up: Linear::dense(n, c, 2 * f),
            down: Linear::dense(n, f, c),
        }
    }
}

/// The LM head over so many rows; rows of logits lie [`Dims::logits_stride`] apart.
pub fn head_linear(dims: &Dims, rows: usize) -> Linear {
    Linear { n: rows, k: dims.c, m: dims.v, out_stride: dims.logits_stride() }
}

/// Every product that a trainer asks of its device: forward, backward, evaluation and the logits of one row, for
/// micro-batches of a shape and logits in chunks of `chunk` rows. Each is named once.
pub fn products(config: &ModelConfig, shape: Shape, chunk: usize) -> Vec<Product> {
    let (dims, biases) = (&config.dims, config.biases);
    let (n, chunk) = (shape.n(), chunk.clamp(1, shape.n()));
    let LayerLinears { qkv, o, gate_up, down } = LayerLinears::of(dims, n);
    // Those that add to the stream take it as their residual.
    let mut products = vec![
        Product::forward(false, biases.qkv, qkv),
        Product::forward(true, biases.o, o),
        Product::forward(false, biases.mlp, gate_up),
        Product::forward(true, biases.mlp, down),
        Product::forward(false, false, head_linear(dims, 1)),
    ];
    let head_rows =
        [chunk, n % chunk].into_iter().filter(|&rows| rows > 0).map(|rows| head_linear(dims, rows));
    products.extend(head_rows.clone().map(|linear| Product::forward(false, false, linear)));
    for linear in [qkv, o, gate_up, down].into_iter().chain(head_rows) {
        products.push(Product::of(Direction::BackwardInput, Write::Set, linear));
        products.push(Product::of(Direction::BackwardWeight, Write::Set, linear));
        products.push(Product::of(Direction::BackwardWeight, Write::Add, linear));
    }
    products.sort_unstable();
    products.dedup();
    products
}
