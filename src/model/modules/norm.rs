//! RMSNorm of the residual stream.

use crate::model::ModelConfig;
use crate::model::program::{Builder, Value, Weights};
use crate::ops::{Element, RmsnormBackward, RmsnormForward, Write};

/// The values of an RMSNorm emitted by [`Norm::forward`].
pub struct Norm {
    /// `[N, C]`.
    pub out: Value,
    x: Value,
    rstd: Value,
    weight: Weights,
    offset: f32,
    n: usize,
    c: usize,
}

impl Norm {
    /// Emits RMSNorm of the `n` rows of `x`, scaled by the tensor `name`, `[C]`. With `onto`, a residual and an
    /// output, the result is added to the residual; otherwise the output gets its own buffer.
    pub fn forward(
        b: &mut Builder,
        config: &ModelConfig,
        name: &'static str,
        x: Value,
        n: usize,
        onto: Option<(Value, Value)>,
    ) -> Norm {
        let (c, offset, eps) = (config.dims.c, config.norm_offset(), config.norm_eps);
        let weight = b.parameters(&[(name, c)], None);
        let out = onto.map_or_else(|| b.own(Element::Activation, n * c), |(_, out)| out);
        let (residual, rstd) = (onto.map(|(residual, _)| residual), b.own(Element::F32, n));
        b.push(RmsnormForward { out, rstd, x, weight: weight.weights, residual, offset, eps, n, c });
        Norm { out, x, rstd, weight, offset, n, c }
    }

    /// Emits the gradient of the weight, and that of `x` into `dx`, written as `dx_write` says.
    pub fn backward(&self, b: &mut Builder, dout: Value, dx: Value, dx_write: Write) {
        let Norm { x, rstd, weight, offset, n, c, .. } = *self;
        let (dweight, dweight_write) = b.contribution(weight.gradient);
        let weight = weight.weights;
        b.push(RmsnormBackward { dx, dweight, dout, x, rstd, weight, offset, dx_write, dweight_write, n, c });
    }

    /// As [`Norm::backward`], with the gradient of `x` in its own buffer.
    pub fn backward_own(&self, b: &mut Builder, dout: Value) -> Value {
        let dx = b.own(Element::Activation, self.n * self.c);
        self.backward(b, dout, dx, Write::Set);
        dx
    }
}
