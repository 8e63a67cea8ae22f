//! The MLP: SwiGLU between two linear layers.

use crate::model::modules::linear::{Dense, Tensors};
use crate::model::program::{Builder, Recompute, Value};
use crate::ops::{Element, SwigluBackward, SwigluForward};

/// The values of an MLP emitted by [`Mlp::forward`].
pub struct Mlp {
    gate_up: Dense,
    down: Dense,
    n: usize,
    f: usize,
}

impl Mlp {
    /// Emits `out = residual + down(silu(gate(x)) · up(x))`, all `[n, c]`; gate and up have `f`
    /// columns.
    pub fn forward(
        b: &mut Builder,
        has_bias: bool,
        x: Value,
        [n, c, f]: [usize; 3],
        residual: Value,
        out: Value,
    ) -> Mlp {
        let gate_up = Tensors {
            weights: &[("mlp.gate_proj.weight", f), ("mlp.up_proj.weight", f)],
            biases: if has_bias { &[("mlp.gate_proj.bias", f), ("mlp.up_proj.bias", f)] } else { &[] },
        };
        let gate_up = Dense::forward(b, gate_up, x, [n, c], None, None);
        b.save(gate_up.out, Recompute::Selective);
        let gated = b.own(Element::Activation, n * f);
        b.push(SwigluForward { out: gated, gate_up: gate_up.out, n, f });
        let down = Tensors {
            weights: &[("mlp.down_proj.weight", c)],
            biases: if has_bias { &[("mlp.down_proj.bias", c)] } else { &[] },
        };
        let down = Dense::forward(b, down, gated, [n, f], Some(residual), Some(out));
        Mlp { gate_up, down, n, f }
    }

    /// Emits the gradients of all parameters; returns the gradient of `x`.
    pub fn backward(&self, b: &mut Builder, dout: Value) -> Value {
        let dgated = self.down.backward(b, dout);
        let gate_up = self.gate_up.out;
        b.push(SwigluBackward { gate_up, dout: dgated, n: self.n, f: self.f });
        let dgate_up = gate_up.next();
        self.gate_up.backward(b, dgate_up)
    }
}
