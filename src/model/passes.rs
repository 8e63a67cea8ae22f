//! All passes of a model, made once for the shapes of its micro-batches.

use crate::base::{DType, UnitIndex};
use crate::model::decoder::{self, Sizes};
use crate::model::modules::HeadTask;
use crate::model::program::{Pass, Program, Recompute};
use crate::model::{Layout, ModelConfig};
use crate::ops::cuda::product::Product;
use crate::ops::cuda::workspace;
use crate::ops::{Op, Write};

/// The passes of every unit of a model. Units whose ops are the same share theirs.
#[derive(Clone, Debug)]
pub struct Passes {
    sizes: Sizes,
    embedding_forward: Pass,
    embedding_backward: [Pass; 2],
    layers: Vec<LayerPasses>,
    /// By unit, from the first after the embedding: its place in `layers`.
    layer_of: Vec<usize>,
    head: Vec<[Pass; 2]>,
}

/// The passes of a decoder layer, by [`Recompute`].
#[derive(Clone, Debug)]
struct LayerPasses {
    forward: Vec<Pass>,
    /// By [`Write`] of the gradients.
    backward: Vec<[Pass; 2]>,
}

/// A value for each mode of gradients.
fn both<T>(make: impl FnMut(Write) -> T) -> [T; 2] {
    [Write::Set, Write::Add].map(make)
}

impl Passes {
    /// The passes of a model of this layout.
    pub fn new(config: &ModelConfig, layout: &Layout, sizes: Sizes) -> Passes {
        let forward = |program: Program| program.forward(Recompute::Full);
        let (mut layers, mut programs, mut layer_of) = (Vec::new(), Vec::new(), Vec::new());
        for unit in layout.layer_units() {
            let program = both(|write| decoder::layer(config, layout.unit(unit).kind, &sizes, write));
            let known = programs.iter().position(|known| *known == program);
            layer_of.push(known.unwrap_or(programs.len()));
            if known.is_none() {
                layers.push(LayerPasses {
                    forward: Recompute::ALL.map(|recompute| program[0].forward(recompute)).into(),
                    backward: Recompute::ALL
                        .map(|recompute| program.each_ref().map(|program| program.backward(recompute)))
                        .into(),
                });
                programs.push(program);
            }
        }
        Passes {
            sizes,
            embedding_forward: forward(decoder::embedding(config, &sizes)),
            embedding_backward: both(|write| forward(decoder::embedding_gradient(config, &sizes, write))),
            layers,
            layer_of,
            head: HeadTask::ALL
                .map(|task| both(|write| forward(decoder::head_program(config, &sizes, task, write))))
                .into(),
        }
    }

    /// The shapes that the passes were made for.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn layer(&self, unit: UnitIndex) -> &LayerPasses {
        &self.layers[self.layer_of[unit.at() - 1]]
    }

    /// The embedding's forward pass.
    pub fn embedding_forward(&self) -> &Pass {
        &self.embedding_forward
    }

    /// The embedding's backward pass.
    pub fn embedding_backward(&self, write: Write) -> &Pass {
        &self.embedding_backward[write as usize]
    }

    /// A layer's forward pass.
    pub fn forward(&self, unit: UnitIndex, recompute: Recompute) -> &Pass {
        &self.layer(unit).forward[recompute as usize]
    }

    /// A layer's backward pass.
    pub fn backward(&self, unit: UnitIndex, recompute: Recompute, write: Write) -> &Pass {
        &self.layer(unit).backward[recompute as usize][write as usize]
    }

    /// A pass of the head. A mode that the task does not ask for makes no difference.
    pub fn head(&self, task: HeadTask, write: Write) -> &Pass {
        &self.head[task as usize][write as usize]
    }

    /// Bytes that a layer keeps from forward to backward of one micro-batch.
    pub fn kept_bytes(&self, unit: UnitIndex, recompute: Recompute) -> usize {
        self.forward(unit, recompute).kept_bytes
    }

    fn all(&self) -> impl Iterator<Item = &Pass> {
        let ends = [&self.embedding_forward].into_iter().chain(&self.embedding_backward);
        let layers = self.layers.iter().flat_map(|layer| layer.forward.iter().chain(layer.backward.iter().flatten()));
        ends.chain(layers).chain(self.head.iter().flatten())
    }

    /// Bytes of scratch memory: what the most demanding pass takes, whatever is kept, so that keeping less never takes more.
    pub fn scratch_bytes(&self) -> usize {
        self.all().map(|pass| pass.scratch_bytes).max().unwrap_or(0)
    }

    /// Bytes of device memory that kernels work in, beside what ops are given.
    pub fn workspace_bytes(&self) -> usize {
        match self.sizes.storage {
            DType::F32 => 0,
            DType::Bf16 => workspace::bytes(self.all().map(Pass::workspace_bytes).max().unwrap_or(0)),
        }
    }

    /// Every matrix product of the passes, each once: what algorithms are chosen for.
    pub fn products(&self) -> Vec<Product> {
        let ops = self.all().flat_map(|pass| &pass.ops);
        let mut products: Vec<Product> = ops
            .filter_map(|op| match op {
                Op::LinearForward(op) => Some(op.product()),
                Op::LinearBackwardInput(op) => Some(op.product()),
                Op::LinearBackwardWeight(op) => Some(op.product()),
                _ => None,
            })
            .collect();
        products.sort_unstable();
        products.dedup();
        products
    }
}
