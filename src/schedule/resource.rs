//! The buffers that operations access, on host and device, and their possible contents.

use std::fmt;

use super::operation::{EndUnit, WeightBuffer};
use super::policy::{Accumulator, Extent, Geometry, Policy};
use crate::base::{ChunkIndex, MicroIndex, MicroSlotIndex, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
use crate::device::Lane;
use crate::model::Recompute;

/// A buffer, on the device or on the host, that is read or written as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Device: a micro-batch's tokens, targets, weights and document starts.
    Batch {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Device: the weights of one layer.
    Slot(SlotIndex),
    /// Device: the weights of the embedding or head.
    EndWeights(EndUnit),
    /// Device: the input of a layer, in a buffer of its own.
    Boundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// The slot of the micro-batch.
        micro_slot: MicroSlotIndex,
    },
    /// Device: the input of any layer whose boundary is spilled.
    SpillBuffer {
        /// The spill buffer.
        spill: SpillIndex,
        /// The slot of the micro-batch.
        micro_slot: MicroSlotIndex,
    },
    /// Device: the activations that a layer saves from forward to backward in addition to its
    /// boundary.
    SavedActivations {
        /// The layer's unit.
        unit: UnitIndex,
        /// The slot of the micro-batch.
        micro_slot: MicroSlotIndex,
    },
    /// Device: the output of the last layer. The head's backward replaces it by its gradient in
    /// place; each layer's backward updates that gradient.
    ResidualStream {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Device: the f32 gradient accumulator shared by layers in a step of one sweep.
    Accumulator,
    /// Device: the f32 gradient of any layer whose accumulator passes through spill buffers between
    /// sweeps.
    AccumulatorSpill(SpillIndex),
    /// Device: the f32 gradient of a layer, in a buffer of its own.
    LayerAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
    },
    /// Device: the f32 gradient of the embedding or head.
    EndAccumulator(EndUnit),
    /// Device: temporary memory of an operation.
    Scratch,
    /// Device: a rounded gradient chunk on its way to the host.
    Slab(SlabIndex),
    /// Device: the weighted sum of losses.
    Loss,
    /// Device: the sums of squares of the unit whose gradient uses this slab.
    Norm(SlabIndex),
    /// Device: f32 logits of one row.
    Logits,
    /// Device: log-probabilities of a micro-batch's targets, then their gradient.
    Logprobs {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Host: a micro-batch as the caller gave it.
    HostBatch {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Host: weights, residuals and moments of a unit.
    Master {
        /// The unit.
        unit: UnitIndex,
    },
    /// Host: the rows of an untied embedding used by the next list's tokens, gathered for upload.
    /// Operations that update the embedding's master update these rows with it, except the one
    /// for [all other rows](super::RowSet::Others). [`AdamRows`](super::Operation::AdamRows)
    /// gathers them; after any other update the issuing thread does, before it issues the next
    /// list.
    HostRows,
    /// Host: a chunk of a unit's gradient in the store.
    HostGradient {
        /// The unit.
        unit: UnitIndex,
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// Host: a spilled boundary.
    HostBoundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// The slot of the micro-batch.
        micro_slot: MicroSlotIndex,
    },
    /// Host: a layer's running f32 gradient between sweeps.
    HostAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
    },
    /// Host: a slab of the ring buffer.
    Ring(u32),
    /// Host: a unit's sums of squares.
    HostNorm {
        /// The unit.
        unit: UnitIndex,
    },
    /// Host: the weighted sum of losses.
    HostLoss,
    /// Host: the result of [`ClipDecision`](super::Operation::ClipDecision).
    ClipDecision,
    /// Host: f32 logits of one row.
    HostLogits,
    /// Host: log-probabilities of a micro-batch's targets, then their gradient.
    HostLogprobs {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Host: the checkpoint that units are saved to.
    Checkpoint,
}

impl Resource {
    /// The lanes that may access the resource. The issuing thread may access host resources, too,
    /// between lists.
    pub fn lanes(&self) -> &'static [Lane] {
        match self {
            Resource::Batch { .. } | Resource::Slot(_) | Resource::EndWeights(_) => {
                &[Lane::Compute, Lane::H2d]
            }
            Resource::SpillBuffer { .. } | Resource::AccumulatorSpill(_) => {
                &[Lane::Compute, Lane::H2d, Lane::D2h]
            }
            Resource::Logprobs { .. } => &[Lane::Compute, Lane::H2d, Lane::D2h],
            Resource::HostLogprobs { .. } => &[Lane::H2d, Lane::D2h, Lane::Host],
            Resource::HostBoundary { .. } | Resource::HostAccumulator { .. } => &[Lane::H2d, Lane::D2h],
            Resource::Boundary { .. }
            | Resource::SavedActivations { .. }
            | Resource::ResidualStream { .. }
            | Resource::Accumulator
            | Resource::LayerAccumulator { .. }
            | Resource::EndAccumulator(_)
            | Resource::Scratch => &[Lane::Compute],
            Resource::Slab(_) | Resource::Loss | Resource::Norm(_) | Resource::Logits => {
                &[Lane::Compute, Lane::D2h]
            }
            Resource::HostBatch { .. } => &[Lane::H2d],
            Resource::Master { .. } => &[Lane::H2d, Lane::Host, Lane::Disk],
            Resource::HostRows => &[Lane::H2d, Lane::Host],
            Resource::HostGradient { .. }
            | Resource::Ring(_)
            | Resource::HostNorm { .. }
            | Resource::HostLoss => &[Lane::D2h, Lane::Host],
            Resource::ClipDecision => &[Lane::Host],
            Resource::HostLogits => &[Lane::D2h],
            Resource::Checkpoint => &[Lane::Disk],
        }
    }

    /// True if one lane alone accesses it, so that the order of that lane suffices.
    pub fn is_private(&self) -> bool {
        self.lanes().len() == 1 && !self.is_on_host()
    }

    /// True if the resource is in host memory.
    pub fn is_on_host(&self) -> bool {
        match self {
            Resource::HostBatch { .. }
            | Resource::Master { .. }
            | Resource::HostRows
            | Resource::HostGradient { .. }
            | Resource::HostBoundary { .. }
            | Resource::HostAccumulator { .. }
            | Resource::Ring(_)
            | Resource::HostNorm { .. }
            | Resource::HostLoss
            | Resource::ClipDecision
            | Resource::HostLogits
            | Resource::HostLogprobs { .. }
            | Resource::Checkpoint => true,
            Resource::Batch { .. }
            | Resource::Slot(_)
            | Resource::EndWeights(_)
            | Resource::Boundary { .. }
            | Resource::SpillBuffer { .. }
            | Resource::SavedActivations { .. }
            | Resource::ResidualStream { .. }
            | Resource::Accumulator
            | Resource::AccumulatorSpill(_)
            | Resource::LayerAccumulator { .. }
            | Resource::EndAccumulator(_)
            | Resource::Scratch
            | Resource::Slab(_)
            | Resource::Loss
            | Resource::Norm(_)
            | Resource::Logprobs { .. }
            | Resource::Logits => false,
        }
    }

    /// Content before the first list: the store is filled and batches are written by the issuing
    /// thread.
    pub fn initially(&self) -> Option<Content> {
        match *self {
            Resource::Master { unit } => Some(Content::Weights(unit)),
            Resource::HostRows => Some(Content::Weights(Geometry::EMBEDDING)),
            Resource::HostBatch { micro } => Some(Content::Batch(micro)),
            _ => None,
        }
    }

    /// True if its content may be used by later lists: weights, until their master is updated, and
    /// a save, which later lists overlap. Activations, gradients, norms and losses belong to
    /// one list.
    pub fn outlives_list(&self) -> bool {
        matches!(
            self,
            Resource::Master { .. }
                | Resource::HostRows
                | Resource::HostBatch { .. }
                | Resource::Slot(_)
                | Resource::EndWeights(_)
                | Resource::Checkpoint
        )
    }

    /// True if a list of this extent has the resource, for this policy and geometry.
    pub fn exists(&self, policy: &Policy, geometry: &Geometry, extent: Extent) -> bool {
        let Extent { micros, sweep } = extent;
        let placement = &policy.placement;
        let is_unit = |unit: UnitIndex| unit <= geometry.head();
        // Counted from 0; `None` for the embedding and the head.
        let layer_of = |unit: UnitIndex| unit.at().checked_sub(1).filter(|layer| *layer < geometry.layers);
        match *self {
            Resource::Batch { micro }
            | Resource::ResidualStream { micro }
            | Resource::Logprobs { micro }
            | Resource::HostBatch { micro }
            | Resource::HostLogprobs { micro } => micro.at() < micros,
            Resource::Boundary { unit, micro_slot } => {
                micro_slot.at() < sweep && layer_of(unit).is_some_and(|layer| !placement.spills(layer))
            }
            Resource::SpillBuffer { spill, micro_slot } => {
                micro_slot.at() < sweep && spill.at() < placement.spill_buffers()
            }
            Resource::HostBoundary { unit, micro_slot } => {
                micro_slot.at() < sweep && layer_of(unit).is_some_and(|layer| placement.leaves(layer))
            }
            Resource::SavedActivations { unit, micro_slot } => {
                let keeps = |layer| placement.layer(layer).recompute != Recompute::Full;
                micro_slot.at() < sweep && layer_of(unit).is_some_and(keeps)
            }
            Resource::Slot(slot) => slot.at() < placement.weight_slots + placement.residents(),
            Resource::Accumulator => placement.shares_accumulator(geometry.layers),
            Resource::AccumulatorSpill(spill) => spill.at() < placement.accumulator_spills(geometry.layers),
            Resource::LayerAccumulator { unit } => layer_of(unit)
                .is_some_and(|layer| placement.layer(layer).accumulator == Accumulator::OnDevice),
            Resource::HostAccumulator { unit } => {
                layer_of(unit).is_some_and(|layer| placement.stores_accumulator(layer, geometry.layers))
            }
            Resource::Slab(slab) | Resource::Norm(slab) => slab.at() < policy.slabs(geometry),
            Resource::Ring(slab) => policy.streams_gradients() && (slab as usize) < placement.ring,
            Resource::HostGradient { unit, chunk } => {
                !policy.streams_gradients() && is_unit(unit) && chunk.at() < geometry.chunks(unit)
            }
            Resource::HostNorm { unit } | Resource::Master { unit } => is_unit(unit),
            Resource::HostRows => !geometry.tied,
            Resource::EndWeights(end) | Resource::EndAccumulator(end) => {
                end == EndUnit::First || geometry.tied
            }
            Resource::Scratch
            | Resource::Loss
            | Resource::Logits
            | Resource::HostLoss
            | Resource::ClipDecision
            | Resource::HostLogits
            | Resource::Checkpoint => true,
        }
    }
}

/// The content of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A micro-batch.
    Batch(MicroIndex),
    /// The weights of a unit; on the host, its residuals and moments, too.
    Weights(UnitIndex),
    /// Weights, residuals and moments of a unit, of which the first `chunks` chunks are updated.
    Updating {
        /// The unit.
        unit: UnitIndex,
        /// Chunks updated.
        chunks: u32,
    },
    /// Weights, residuals and moments of an embedding, of which the rows used by the next list's
    /// tokens are updated.
    RowsUpdated(UnitIndex),
    /// The residual stream at the output of `above`.
    Activation {
        /// The unit below the activation.
        above: UnitIndex,
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// The activations that `unit` has saved for a backward that recomputes the others.
    SavedActivations {
        /// The unit.
        unit: UnitIndex,
        /// The micro-batch.
        micro: MicroIndex,
        /// The activations that are not saved.
        recompute: Recompute,
    },
    /// The gradient of [`Content::Activation`].
    Gradient {
        /// The unit below the activation.
        above: UnitIndex,
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// The sum of the first `terms` contributions to a unit's f32 gradient: one per micro-batch. A
    /// tied embedding has those of the head first, then its own.
    Accumulator {
        /// The unit.
        unit: UnitIndex,
        /// Contributions so far.
        terms: u32,
    },
    /// One chunk of a unit's rounded gradient.
    GradientChunk {
        /// The unit.
        unit: UnitIndex,
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// The sums of squares of a unit's complete gradient.
    Norm(UnitIndex),
    /// The loss of the first `terms` micro-batches.
    Loss {
        /// Micro-batches so far.
        terms: u32,
    },
    /// The step's clip decision.
    ClipDecision,
    /// Logits of one row.
    Logits,
    /// Log-probabilities of a micro-batch's targets.
    Logprobs(MicroIndex),
    /// The gradient of [`Content::Logprobs`].
    Dlogprobs(MicroIndex),
    /// The state of the first `units` units.
    Saved {
        /// Units so far.
        units: u32,
    },
    /// Leftover data that must not be read.
    Scrap,
}

impl From<WeightBuffer> for Resource {
    fn from(place: WeightBuffer) -> Self {
        match place {
            WeightBuffer::Slot(slot) => Resource::Slot(slot),
            WeightBuffer::EndUnit(end) => Resource::EndWeights(end),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Batch { micro } => write!(f, "the device batch of {micro}"),
            Resource::Slot(slot) => slot.fmt(f),
            Resource::EndWeights(end) => write!(f, "the weights of the {end}"),
            Resource::Boundary { unit, micro_slot } => write!(f, "the boundary of {unit}, {micro_slot}"),
            Resource::SpillBuffer { spill, micro_slot } => write!(f, "{spill} of {micro_slot}"),
            Resource::HostBoundary { unit, micro_slot } => {
                write!(f, "the host boundary of {unit}, {micro_slot}")
            }
            Resource::HostAccumulator { unit } => write!(f, "the host accumulator of {unit}"),
            Resource::SavedActivations { unit, micro_slot } => {
                write!(f, "the saved activations of {unit}, {micro_slot}")
            }
            Resource::ResidualStream { micro } => write!(f, "the residual stream of {micro}"),
            Resource::Accumulator => f.write_str("the accumulator"),
            Resource::AccumulatorSpill(spill) => write!(f, "the accumulator in {spill}"),
            Resource::LayerAccumulator { unit } => write!(f, "the accumulator of {unit}"),
            Resource::EndAccumulator(end) => write!(f, "the accumulator of the {end}"),
            Resource::Scratch => f.write_str("the scratch memory"),
            Resource::Slab(slab) => slab.fmt(f),
            Resource::Loss => f.write_str("the device loss"),
            Resource::Norm(slab) => write!(f, "the device norm of {slab}"),
            Resource::Logits => f.write_str("the device logits"),
            Resource::Logprobs { micro } => write!(f, "the device log-probabilities of {micro}"),
            Resource::HostLogprobs { micro } => write!(f, "the host log-probabilities of {micro}"),
            Resource::HostBatch { micro } => write!(f, "the host batch of {micro}"),
            Resource::Master { unit } => write!(f, "the master of {unit}"),
            Resource::HostRows => f.write_str("the gathered rows of the embedding"),
            Resource::HostGradient { unit, chunk } => write!(f, "the stored gradient of {unit} {chunk}"),
            Resource::Ring(slab) => write!(f, "ring {slab}"),
            Resource::HostNorm { unit } => write!(f, "the host norm of {unit}"),
            Resource::HostLoss => f.write_str("the host loss"),
            Resource::ClipDecision => f.write_str("the clip decision"),
            Resource::HostLogits => f.write_str("the host logits"),
            Resource::Checkpoint => f.write_str("the checkpoint"),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Batch(micro) => write!(f, "the batch of {micro}"),
            Content::Weights(unit) => write!(f, "the weights of {unit}"),
            Content::Updating { unit, chunks } => write!(f, "{unit} with {chunks} of its chunks updated"),
            Content::RowsUpdated(unit) => write!(f, "{unit} with its next rows updated"),
            Content::Activation { above, micro } => write!(f, "the activation above {above} of {micro}"),
            Content::SavedActivations { unit, micro, recompute } => {
                write!(f, "the saved activations of {unit}, {micro}, under recompute {}", recompute.name())
            }
            Content::Gradient { above, micro } => write!(f, "the gradient above {above} of {micro}"),
            Content::Accumulator { unit, terms } => {
                write!(f, "the gradient of {unit} summed over {terms} terms")
            }
            Content::GradientChunk { unit, chunk } => write!(f, "{chunk} of the gradient of {unit}"),
            Content::Norm(unit) => write!(f, "the norm of {unit}"),
            Content::Loss { terms } => write!(f, "the loss of {terms} micro-batches"),
            Content::ClipDecision => f.write_str("the clip decision"),
            Content::Logits => f.write_str("logits"),
            Content::Logprobs(micro) => write!(f, "the log-probabilities of {micro}"),
            Content::Dlogprobs(micro) => write!(f, "the gradient of the log-probabilities of {micro}"),
            Content::Saved { units } => write!(f, "the state of {units} units"),
            Content::Scrap => f.write_str("leftover data"),
        }
    }
}
