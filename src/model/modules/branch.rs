//! A branch of the residual stream: attention or MLP, with the norms in front of it and after it.

use crate::model::ModelConfig;
use crate::model::modules::Norm;
use crate::model::program::{Builder, Recompute, Value};
use crate::ops::{Element, Write};

/// The ends of a branch that a module is put between.
#[derive(Clone, Copy)]
pub struct Ends {
    /// `[N, C]`.
    pub input: Value,
    /// Added to the module's output.
    pub residual: Option<Value>,
    /// Where the module's output goes.
    pub out: Value,
}

/// A module of a branch.
pub trait Module {
    /// Emits the gradients of all parameters, and that of the input: into `dx`, which it is added to, or else into its
    /// own buffer. Returns the latter.
    fn backward(&self, b: &mut Builder, dout: Value, dx: Option<Value>) -> Value;
}

/// Names of the norms' tensors, in front of a module and after it.
pub type NormNames = [Option<&'static str>; 2];

/// The values of a branch emitted by [`Branch::forward`].
pub struct Branch<M> {
    before: Option<Norm>,
    module: M,
    after: Option<Norm>,
}

impl<M: Module> Branch<M> {
    /// Emits `out = x + after(module(before(x)))`, all `[n, C]`. A norm without a name is left out. `saved` is the first
    /// mode that saves the output of a module that is normalised.
    pub fn forward(
        b: &mut Builder,
        config: &ModelConfig,
        [before, after]: NormNames,
        (x, out, n): (Value, Value, usize),
        saved: Recompute,
        module: impl FnOnce(&mut Builder, Ends) -> M,
    ) -> Branch<M> {
        let before = before.map(|name| Norm::forward(b, config, name, x, n, None));
        let input = before.as_ref().map_or(x, |norm| norm.out);
        let Some(name) = after else {
            let module = module(b, Ends { input, residual: Some(x), out });
            return Branch { before, module, after: None };
        };
        let inner = b.own(Element::Activation, n * config.dims.c);
        let module = module(b, Ends { input, residual: None, out: inner });
        b.save(inner, saved);
        let after = Some(Norm::forward(b, config, name, inner, n, Some((x, out))));
        Branch { before, module, after }
    }

    /// Emits the gradients of all parameters, and adds that of the branch to the gradient of the residual stream; returns
    /// the sum.
    pub fn backward(&self, b: &mut Builder, dresidual: Value) -> Value {
        let dout = self.after.as_ref().map_or(dresidual, |norm| norm.backward_own(b, dresidual));
        match &self.before {
            None => {
                self.module.backward(b, dout, Some(dresidual));
            }
            Some(norm) => {
                let dnormed = self.module.backward(b, dout, None);
                norm.backward(b, dnormed, dresidual, Write::Add);
            }
        }
        dresidual.next()
    }
}
