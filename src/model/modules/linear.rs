//! A linear layer.

use crate::model::program::{Builder, Value, Weights};
use crate::ops::{
    BiasBackward, Element, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, Write,
};

/// The values of a linear layer emitted by [`Dense::forward`].
pub struct Dense {
    /// `[N, M]`.
    pub out: Value,
    x: Value,
    weight: Weights,
    bias: Option<Weights>,
    scale: f32,
    sizes: Linear,
}

/// The tensors of a linear layer: matrices stacked by rows, `(name, rows)`, and their biases.
pub struct Tensors<'a> {
    /// `[rows, K]` each.
    pub weights: &'a [(&'static str, usize)],
    /// `[rows]` each; empty if the layer has no bias.
    pub biases: &'a [(&'static str, usize)],
    /// The factor of the matmul.
    pub scale: f32,
}

impl Dense {
    /// Emits `out = scale · x · weightᵀ + residual + bias`. `x` is `[n, k]`. Without `out`, the output
    /// gets its own buffer.
    pub fn forward(
        b: &mut Builder,
        tensors: Tensors,
        x: Value,
        [n, k]: [usize; 2],
        residual: Option<Value>,
        out: Option<Value>,
    ) -> Dense {
        let weight = b.parameters(tensors.weights, Some(k));
        let bias = (!tensors.biases.is_empty()).then(|| b.parameters(tensors.biases, None));
        let sizes = Linear::dense(n, k, tensors.weights.iter().map(|(_, rows)| rows).sum());
        let out = out.unwrap_or_else(|| b.own(Element::Activation, sizes.out_elements()));
        let scale = tensors.scale;
        let layer = Dense { out, x, weight, bias, scale, sizes };
        let bias = bias.map(|bias| bias.weights);
        b.push(LinearForward { out, x, weight: weight.weights, residual, bias, scale, sizes });
        layer
    }

    /// Emits the gradients of weight and bias, and that of `x`: added to `dx`, or in its own buffer.
    /// Returns the latter.
    pub fn backward(&self, b: &mut Builder, dout: Value, dx: Option<Value>) -> Value {
        let Dense { x, weight, bias, scale, sizes, .. } = *self;
        if let Some(bias) = bias {
            let (dbias, dbias_write) = b.contribution(bias.gradient);
            b.push(BiasBackward { dbias, dout, dbias_write, n: sizes.n, c: sizes.m });
        }
        let (dweight, dweight_write) = b.contribution(weight.gradient);
        b.push(LinearBackwardWeight { dweight, dout, x, scale, dweight_write, sizes });
        let dx_write = if dx.is_some() { Write::Add } else { Write::Set };
        let dx = dx.unwrap_or_else(|| b.own(Element::Activation, sizes.n * sizes.k));
        b.push(LinearBackwardInput { dx, dout, weight: weight.weights, scale, dx_write, sizes });
        dx
    }
}
