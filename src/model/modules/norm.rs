//! RMSNorm of the residual stream.

use crate::model::program::{Builder, Value, Weights};
use crate::ops::{Element, RmsnormBackward, RmsnormForward, Write};

/// The values of an RMSNorm emitted by [`Norm::forward`].
pub struct Norm {
    /// `[N, C]`.
    pub out: Value,
    x: Value,
    rstd: Value,
    weight: Weights,
    n: usize,
    c: usize,
}

impl Norm {
    /// Emits RMSNorm of the rows of `x [n, c]`, scaled by the tensor `name`, `[C]`.
    pub fn forward(b: &mut Builder, name: &'static str, x: Value, eps: f32, [n, c]: [usize; 2]) -> Norm {
        let weight = b.parameters(&[(name, c)], None);
        let (out, rstd) = (b.own(Element::Activation, n * c), b.own(Element::F32, n));
        b.push(RmsnormForward { out, rstd, x, weight: weight.weights, eps, n, c });
        Norm { out, x, rstd, weight, n, c }
    }

    /// Emits the gradient of the weight, and that of `x` into `dx`, written as `dx_write` says.
    pub fn backward(&self, b: &mut Builder, dout: Value, dx: Value, dx_write: Write) {
        let Norm { x, rstd, weight, n, c, .. } = *self;
        let (dweight, dweight_write) = b.contribution(weight.gradient);
        let weight = weight.weights;
        b.push(RmsnormBackward { dx, dweight, dout, x, rstd, weight, dx_write, dweight_write, n, c });
    }
}
