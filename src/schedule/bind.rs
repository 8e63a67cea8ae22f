//! The pass of an operation on the compute lane, and the resource behind each buffer of the pass.

use super::operation::{BoundaryBuffer, EndUnit, Operation};
use super::policy::{Extent, Geometry};
use super::resource::{Content, Resource};
use crate::base::{MicroIndex, UnitIndex};
use crate::model::{Base, External, HeadTask, Owner, PassId};
use crate::ops::Write;

/// The write mode of sums: the first micro-batch sets, later ones add.
fn first_sets(micro: MicroIndex) -> Write {
    if micro == MicroIndex(0) { Write::Set } else { Write::Add }
}

impl Extent {
    /// The resource of the activation below a unit.
    pub(super) fn boundary(self, buffer: BoundaryBuffer, unit: UnitIndex, micro: MicroIndex) -> Resource {
        let micro_slot = self.micro_slot(micro);
        match buffer {
            BoundaryBuffer::Own => Resource::Boundary { unit, micro_slot },
            BoundaryBuffer::Spill(spill) => Resource::SpillBuffer { spill, micro_slot },
            BoundaryBuffer::ResidualStream => Resource::ResidualStream { micro },
        }
    }
}

impl Operation {
    /// The pass of the operation; `None` if it runs no ops.
    pub fn pass(&self) -> Option<PassId> {
        Some(match *self {
            Operation::EmbedForward { .. } => PassId::EmbeddingForward,
            Operation::EmbedBackward { micro } => PassId::EmbeddingBackward(first_sets(micro)),
            Operation::Forward { unit, recompute, .. } => PassId::Forward(unit, recompute),
            Operation::RecomputeBackward { unit, recompute, micro, .. } => {
                PassId::Backward(unit, recompute, first_sets(micro))
            }
            Operation::HeadForward { micro } => PassId::Head(HeadTask::Loss, first_sets(micro)),
            Operation::HeadForwardBackward { micro } => {
                PassId::Head(HeadTask::LossBackward, first_sets(micro))
            }
            Operation::HeadLogprobs { micro } => PassId::Head(HeadTask::Logprobs, first_sets(micro)),
            Operation::HeadBackward { micro } => PassId::Head(HeadTask::Backward, first_sets(micro)),
            Operation::HeadLogits => PassId::Head(HeadTask::Logits, Write::Set),
            _ => return None,
        })
    }

    /// The resource behind a buffer of the operation's pass; `None` for read-only constants.
    ///
    /// # Panics
    /// If the operation's pass has no such buffer.
    pub fn bind(&self, base: Base, geometry: &Geometry, extent: Extent) -> Option<Resource> {
        let micro = self.micro().unwrap_or(MicroIndex(0));
        let end = |owner| match owner {
            Owner::Borrowed => EndUnit::First,
            Owner::Own => self.end(geometry),
        };
        Some(match (base, *self) {
            (
                Base::Weights(Owner::Own),
                Operation::Forward { slot, .. } | Operation::RecomputeBackward { slot, .. },
            ) => Resource::Slot(slot),
            (Base::Weights(owner), _) => Resource::EndWeights(end(owner)),
            (Base::Gradient(Owner::Own), Operation::RecomputeBackward { unit, accumulator, .. }) => {
                geometry.accumulator(unit, accumulator)
            }
            (Base::Gradient(owner), _) => Resource::EndAccumulator(end(owner)),
            (Base::Scratch, _) => Resource::Scratch,
            (Base::Saved, Operation::Forward { unit, .. } | Operation::RecomputeBackward { unit, .. }) => {
                Resource::SavedActivations { unit, micro_slot: extent.micro_slot(micro) }
            }
            (
                Base::External(External::Input),
                Operation::Forward { unit, from, .. } | Operation::RecomputeBackward { unit, from, .. },
            ) => extent.boundary(from, unit, micro),
            (Base::External(External::Output), Operation::Forward { unit, to, .. }) => {
                extent.boundary(to, UnitIndex(unit.0 + 1), micro)
            }
            (Base::External(External::Output), Operation::EmbedForward { to, .. }) => {
                extent.boundary(to, geometry.layer(0), micro)
            }
            (Base::External(external), _) => match external {
                External::ResidualStream => Resource::ResidualStream { micro },
                External::Loss => Resource::Loss,
                External::Logprobs => Resource::Logprobs { micro },
                External::Logits => Resource::Logits,
                External::InvFreq => return None,
                External::Input | External::Output => panic!("{self} has no boundary"),
                External::Tokens
                | External::Gathered
                | External::Order
                | External::First
                | External::Positions
                | External::DocStart
                | External::DocEnd
                | External::Targets
                | External::TargetWeights => Resource::Batch { micro },
            },
            (Base::Saved, _) => panic!("{self} saves no activations"),
        })
    }

    /// The device buffers of the embedding or of the head.
    fn end(&self, geometry: &Geometry) -> EndUnit {
        let unit = match self {
            Operation::EmbedForward { .. } | Operation::EmbedBackward { .. } => geometry.embedding(),
            _ => geometry.head(),
        };
        geometry.end(unit).expect("embedding and head have regions of their own")
    }
}

/// A copy over the link.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The resource that is read.
    pub from: Resource,
    /// The resource that is written.
    pub to: Resource,
    /// The content that is copied.
    pub content: Content,
}

impl Operation {
    /// The copy that the operation makes over the link.
    ///
    /// # Panics
    /// If the operation makes none.
    pub fn copy(&self, geometry: &Geometry, extent: Extent) -> Copy {
        let (mut from, mut to) = (None, None);
        self.visit(geometry, extent, &mut |access| match access.leaves {
            Some(content) => to = Some((access.resource, content)),
            None => from = from.or(Some(access.resource)),
        });
        match (from, to) {
            (Some(from), Some((to, content))) => Copy { from, to, content },
            _ => panic!("{self} copies nothing"),
        }
    }
}
