//! All passes of a model, made once for the shapes of its micro-batches.

use crate::base::{DType, UnitIndex};
use crate::model::decoder::{self, Sizes};
use crate::model::modules::HeadTask;
use crate::model::program::{Pass, Program, Recompute};
use crate::model::{Layout, ModelConfig};
use crate::ops::cuda::gemm::Gemm;
use crate::ops::cuda::workspace;
use crate::ops::{Op, Write};

const WRITES: [Write; 2] = [Write::Set, Write::Add];

/// P_matmul: weights of the matrix products that a token passes forward, the head's included though it may share the embedding's.
pub fn matmul_parameters(config: &ModelConfig) -> f64 {
    let layout = Layout::new(config);
    let passes = Passes::new(config, &layout, Sizes::ONE_ROW);
    let layers = layout.layer_units().map(|unit| PassId::Forward(unit, Recompute::Full));
    let passed = layers.chain([PassId::Head(HeadTask::Logits, Write::Set)]);
    // A multiplication and an addition each.
    passed.map(|pass| passes.get(pass).product_flops() / 2.0).sum()
}

/// The name of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassId {
    /// The embedding's forward pass.
    EmbeddingForward,
    /// The embedding's backward pass.
    EmbeddingBackward(Write),
    /// A layer's forward pass, which keeps what is not recomputed.
    Forward(UnitIndex, Recompute),
    /// A layer's backward pass.
    Backward(UnitIndex, Recompute, Write),
    /// A pass of the head. [`Write`] is that of the loss and of gradients, where the task has them.
    Head(HeadTask, Write),
}

/// The passes of every unit of a model. Units whose ops are the same share theirs.
#[derive(Clone, Debug)]
pub struct Passes {
    sizes: Sizes,
    /// Those of the ends, then those of each kind of layer.
    passes: Vec<Pass>,
    /// By unit, from the first after the embedding: the number of its kind.
    kinds: Vec<usize>,
    scratch_bytes: usize,
    workspace_bytes: usize,
}

/// Passes of the ends: the embedding's and the head's.
const ENDS: usize = 3 + 2 * HeadTask::ALL.len();
/// Passes of a kind of layer: forward, and backward in both modes.
const LAYER: usize = 3 * Recompute::ALL.len();

impl Passes {
    /// The passes of a model of this layout.
    pub fn new(config: &ModelConfig, layout: &Layout, sizes: Sizes) -> Passes {
        let whole = |program: Program| program.forward(Recompute::Full);
        let mut passes = vec![whole(decoder::embedding(config, &sizes))];
        passes.extend(WRITES.map(|write| whole(decoder::embedding_gradient(config, &sizes, write))));
        for task in HeadTask::ALL {
            passes.extend(WRITES.map(|write| whole(decoder::head_program(config, &sizes, task, write))));
        }
        let (mut known, mut kinds) = (Vec::new(), Vec::new());
        for unit in layout.layer_units() {
            let kind = layout.unit(unit).kind;
            let key = decoder::layer_key(config, kind);
            let number = known.iter().position(|other| *other == key);
            kinds.push(number.unwrap_or(known.len()));
            if number.is_none() {
                let program = WRITES.map(|write| decoder::layer(config, kind, &sizes, write));
                passes.extend(Recompute::ALL.map(|recompute| program[0].forward(recompute)));
                for recompute in Recompute::ALL {
                    passes.extend(program.iter().map(|program| program.backward(recompute)));
                }
                known.push(key);
            }
        }
        let scratch_bytes = passes.iter().map(|pass| pass.scratch_bytes).max().unwrap_or(0);
        let workspace_bytes = match sizes.activation_dtype {
            DType::F32 => 0,
            DType::Bf16 => workspace::bytes(passes.iter().map(Pass::workspace_bytes).max().unwrap_or(0)),
        };
        Passes { sizes, passes, kinds, scratch_bytes, workspace_bytes }
    }

    /// The shapes that the passes were made for.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// All passes, each once.
    pub fn all(&self) -> &[Pass] {
        &self.passes
    }

    /// The number of a pass among [all](Passes::all).
    pub fn number(&self, pass: PassId) -> usize {
        let kind = |unit: UnitIndex| ENDS + LAYER * self.kinds[unit.at() - 1];
        match pass {
            PassId::EmbeddingForward => 0,
            PassId::EmbeddingBackward(write) => 1 + write as usize,
            PassId::Head(task, write) => 3 + 2 * task as usize + write as usize,
            PassId::Forward(unit, recompute) => kind(unit) + recompute as usize,
            PassId::Backward(unit, recompute, write) => {
                kind(unit) + Recompute::ALL.len() + 2 * recompute as usize + write as usize
            }
        }
    }

    /// A pass.
    pub fn get(&self, pass: PassId) -> &Pass {
        &self.passes[self.number(pass)]
    }

    /// Bytes that a layer keeps from forward to backward of one micro-batch.
    pub fn saved_bytes(&self, unit: UnitIndex, recompute: Recompute) -> usize {
        self.get(PassId::Forward(unit, recompute)).saved_bytes
    }

    /// Bytes of scratch memory: what the most demanding pass takes, whatever is kept, so that keeping less never takes more.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Bytes of device memory that kernels work in, beside what ops are given.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Every matrix product of the passes, each once: what algorithms are chosen for.
    pub fn gemms(&self) -> Vec<Gemm> {
        let ops = self.passes.iter().flat_map(|pass| &pass.ops);
        let mut gemms: Vec<Gemm> = ops
            .filter_map(|op| match op {
                Op::LinearForward(op) => Some(op.gemm()),
                Op::LinearBackwardInput(op) => Some(op.gemm()),
                Op::LinearBackwardWeight(op) => Some(op.gemm()),
                _ => None,
            })
            .collect();
        gemms.sort_unstable();
        gemms.dedup();
        gemms
    }
}
