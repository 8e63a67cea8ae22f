//! The passes of all units of a model, built once for given sizes.

use crate::base::{DType, UnitIndex};
use crate::model::decoder::{self, Sizes};
use crate::model::modules::HeadTask;
use crate::model::program::{Pass, Program, Recompute};
use crate::model::{Layout, ModelConfig};
use crate::ops::cuda::gemm::Gemm;
use crate::ops::cuda::workspace;
use crate::ops::{Op, Write};

const WRITES: [Write; 2] = [Write::Set, Write::Add];

/// P_matmul: weights that a token is multiplied by in forward. The LM head counts even if tied to
/// the embedding.
pub fn matmul_parameters(config: &ModelConfig) -> f64 {
    let layout = Layout::new(config);
    let passes = Passes::new(config, &layout, Sizes::ONE_ROW);
    let layers = layout.layer_units().map(|unit| PassId::Forward(unit, Recompute::Full));
    let used = layers.chain([PassId::Head(HeadTask::Logits, Write::Set)]);
    // Two FLOPs per weight.
    used.map(|pass| passes.get(pass).matmul_flops() / 2.0).sum()
}

/// The identity of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassId {
    /// The embedding's forward pass.
    EmbeddingForward,
    /// The embedding's backward pass.
    EmbeddingBackward(Write),
    /// A layer's forward pass, which saves the activations that are not recomputed.
    Forward(UnitIndex, Recompute),
    /// A layer's backward pass.
    Backward(UnitIndex, Recompute, Write),
    /// A pass of the head. [`Write`] applies to loss and gradients, if the task has them.
    Head(HeadTask, Write),
}

/// The passes of all units of a model. Units with the same ops share passes.
#[derive(Clone, Debug)]
pub struct Passes {
    sizes: Sizes,
    /// Passes of embedding and head, then of each kind of layer.
    passes: Vec<Pass>,
    /// The kind number of each unit after the embedding.
    kinds: Vec<usize>,
    scratch_bytes: usize,
    workspace_bytes: usize,
}

/// Passes of embedding and head.
const ENDS: usize = 3 + 2 * HeadTask::ALL.len();
/// Passes per kind of layer: forward, and backward with both write modes.
const LAYER: usize = 3 * Recompute::ALL.len();

impl Passes {
    /// Builds the passes of a model.
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

    /// The sizes that the passes were built for.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// All passes, without duplicates.
    pub fn all(&self) -> &[Pass] {
        &self.passes
    }

    /// The index of a pass in [`all`](Passes::all).
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

    /// Returns a pass.
    pub fn get(&self, pass: PassId) -> &Pass {
        &self.passes[self.number(pass)]
    }

    /// Bytes of activations that a layer saves from forward to backward of one micro-batch.
    pub fn saved_bytes(&self, unit: UnitIndex, recompute: Recompute) -> usize {
        self.get(PassId::Forward(unit, recompute)).saved_bytes
    }

    /// Bytes of scratch memory: the maximum over all passes and recompute modes, so that saving
    /// less never needs more.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Bytes of the CUDA kernels' workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// All GEMMs of the passes, without duplicates; the input of autotuning.
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
