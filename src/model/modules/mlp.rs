//! The MLP: a gated linear unit between two linear layers.

use crate::base::Dims;
use crate::model::ModelConfig;
use crate::model::modules::branch::{Ends, Module};
use crate::model::modules::linear::{Dense, Tensors};
use crate::model::program::{Builder, Recompute, Value};
use crate::ops::{Activation, Element, GluBackward, GluForward};

/// The values of an MLP emitted by [`Mlp::forward`].
pub struct Mlp {
    gate_up: Dense,
    down: Dense,
    activation: Activation,
    n: usize,
    f: usize,
}

impl Mlp {
    /// Emits `out = residual + scale · down(activation(gate(x)) · up(x))`, all `[n, C]`.
    pub fn forward(b: &mut Builder, config: &ModelConfig, n: usize, ends: Ends) -> Mlp {
        let Dims { c, f, .. } = config.dims;
        let (has_bias, activation) = (config.biases.mlp, config.activation);
        let gate_up = Tensors {
            weights: &[("mlp.gate_proj.weight", f), ("mlp.up_proj.weight", f)],
            biases: if has_bias { &[("mlp.gate_proj.bias", f), ("mlp.up_proj.bias", f)] } else { &[] },
            scale: 1.0,
        };
        let gate_up = Dense::forward(b, gate_up, ends.input, [n, c], None, None);
        b.save(gate_up.out, Recompute::Selective);
        let gated = b.own(Element::Activation, n * f);
        b.push(GluForward { out: gated, gate_up: gate_up.out, activation, n, f });
        let down = Tensors {
            weights: &[("mlp.down_proj.weight", c)],
            biases: if has_bias { &[("mlp.down_proj.bias", c)] } else { &[] },
            scale: config.multipliers.residual,
        };
        let down = Dense::forward(b, down, gated, [n, f], ends.residual, Some(ends.out));
        Mlp { gate_up, down, activation, n, f }
    }
}

impl Module for Mlp {
    fn backward(&self, b: &mut Builder, dout: Value, dx: Option<Value>) -> Value {
        let Mlp { activation, n, f, .. } = *self;
        let dgated = self.down.backward(b, dout, None);
        let gate_up = self.gate_up.out;
        b.push(GluBackward { gate_up, dout: dgated, activation, n, f });
        let dgate_up = gate_up.next();
        self.gate_up.backward(b, dgate_up, dx)
    }
}
