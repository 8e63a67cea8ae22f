//! The pieces of memory that operations touch, and what they may hold.

use std::fmt;

use super::operation::{EndUnit, WeightBuffer};
use super::policy::{Accumulator, Extent, Geometry, Policy};
use crate::base::{ChunkIndex, MicroIndex, MicroSlotIndex, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
use crate::device::Lane;
use crate::model::Recompute;

/// A piece of memory, on the device or on the host, that is read or written as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Device: a micro-batch's tokens, targets, weights and document starts.
    Batch {
        /// Which.
        micro: MicroIndex,
    },
    /// Device: the weights of one layer.
    Slot(SlotIndex),
    /// Device: the weights of an end.
    EndWeights(EndUnit),
    /// Device: the input of a layer, where it has a place of its own.
    Boundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// Of which micro-batch of the sweep.
        micro_slot: MicroSlotIndex,
    },
    /// Device: the input of any layer whose boundary is spilled.
    SpillBuffer {
        /// Which.
        spill: SpillIndex,
        /// Of which micro-batch of the sweep.
        micro_slot: MicroSlotIndex,
    },
    /// Device: what a layer keeps from forward to backward beside its boundary.
    SavedActivations {
        /// The layer's unit.
        unit: UnitIndex,
        /// Of which micro-batch of the sweep.
        micro_slot: MicroSlotIndex,
    },
    /// Device: the output of the last layer, which the head turns into its gradient in place and every
    /// layer's backward carries down.
    ResidualStream {
        /// Of which micro-batch.
        micro: MicroIndex,
    },
    /// Device: the f32 gradient of the layer whose backward runs, in a step of one sweep.
    Accumulator,
    /// Device: the f32 gradient of any layer whose sum goes to the host between sweeps.
    AccumulatorSpill(SpillIndex),
    /// Device: the f32 gradient of a layer, where it has a place of its own.
    LayerAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
    },
    /// Device: the f32 gradient of an end.
    EndAccumulator(EndUnit),
    /// Device: what an operation needs only while it runs.
    Scratch,
    /// Device: a rounded part of a gradient on its way out.
    Slab(SlabIndex),
    /// Device: the weighted sum of losses.
    Loss,
    /// Device: the sums of squares of the unit whose gradient leaves by this slab.
    Norm(SlabIndex),
    /// Device: f32 logits of one row.
    Logits,
    /// Device: log-probabilities of a micro-batch's targets, then their gradient.
    Logprobs {
        /// Of which micro-batch.
        micro: MicroIndex,
    },
    /// Host: a micro-batch as the caller gave it.
    HostBatch {
        /// Which.
        micro: MicroIndex,
    },
    /// Host: weights, residual and moments of a unit.
    Master {
        /// Whose.
        unit: UnitIndex,
    },
    /// Host: the rows of an untied embedding that the next list's tokens name, gathered for upload. Operations that update
    /// the embedding's master update these rows with it, except the one for [all other rows](super::RowSet::Others).
    /// [`AdamRows`](super::Operation::AdamRows) gathers them; after any other update the issuing thread does, before it
    /// issues the next list.
    HostRows,
    /// Host: a part of a unit's gradient in the store.
    HostGradient {
        /// Whose.
        unit: UnitIndex,
        /// Which part.
        chunk: ChunkIndex,
    },
    /// Host: a spilled boundary.
    HostBoundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// Of which micro-batch of the sweep.
        micro_slot: MicroSlotIndex,
    },
    /// Host: a layer's running f32 gradient between sweeps.
    HostAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
    },
    /// Host: a slab of the ring.
    Ring(u32),
    /// Host: a unit's sums of squares.
    HostNorm {
        /// Whose.
        unit: UnitIndex,
    },
    /// Host: the weighted sum of losses.
    HostLoss,
    /// Host: what [`DecideClip`](super::Operation::DecideClip) decided.
    ClipDecision,
    /// Host: f32 logits of one row.
    HostLogits,
    /// Host: log-probabilities of a micro-batch's targets, then their gradient.
    HostLogprobs {
        /// Of which micro-batch.
        micro: MicroIndex,
    },
    /// Host: wherever units are saved.
    Checkpoint,
}

impl Resource {
    /// The lanes that ever touch it. What is on the host the issuing thread may touch too, between lists.
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

    /// Whether its lane's order is all the order it needs: one lane touches it, and nobody on the host.
    pub fn is_private(&self) -> bool {
        self.lanes().len() == 1 && !self.is_on_host()
    }

    /// Whether it is in host memory.
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

    /// What it holds before the first list: a store is filled and batches are handed in from outside.
    pub fn initially(&self) -> Option<Content> {
        match *self {
            Resource::Master { unit } => Some(Content::Weights(unit)),
            Resource::HostRows => Some(Content::Weights(Geometry::EMBEDDING)),
            Resource::HostBatch { micro } => Some(Content::Batch(micro)),
            _ => None,
        }
    }

    /// Whether its contents mean anything to the next list. Weights do, until their master is updated, and so does
    /// a save, which is waited for under later lists;
    /// activations, gradients, norms and losses of one list are never those of another.
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

    /// Whether a model of this geometry, placed by this policy, has it in a list of this extent.
    pub fn exists(&self, policy: &Policy, geometry: &Geometry, extent: Extent) -> bool {
        let Extent { micros, sweep } = extent;
        let placement = &policy.placement;
        let is_unit = |unit: UnitIndex| unit <= geometry.head();
        // Counted from 0; nothing for an end.
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

/// What a resource holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A micro-batch.
    Batch(MicroIndex),
    /// The weights of a unit; on the host, with its whole optimizer state.
    Weights(UnitIndex),
    /// A unit's optimizer state of which the first `parts` parts are updated and the others are not yet.
    Updating {
        /// Whose.
        unit: UnitIndex,
        /// Parts updated.
        chunks: u32,
    },
    /// An embedding's optimizer state of which the rows that the next list's tokens name are updated and the others
    /// are not yet.
    RowsUpdated(UnitIndex),
    /// The residual stream as it leaves `unit`.
    Activation {
        /// The unit below.
        above: UnitIndex,
        /// Of which micro-batch.
        micro: MicroIndex,
    },
    /// What `unit` has kept, for a backward that computes the rest again.
    SavedActivations {
        /// Whose.
        unit: UnitIndex,
        /// Of which micro-batch.
        micro: MicroIndex,
        /// What is not kept.
        recompute: Recompute,
    },
    /// The gradient of [`Content::Activation`].
    Gradient {
        /// The unit below.
        above: UnitIndex,
        /// Of which micro-batch.
        micro: MicroIndex,
    },
    /// The sum of the first `terms` contributions to a unit's f32 gradient: one of every micro-batch, and of
    /// a tied embedding first those of the head, then its own.
    Accumulator {
        /// Whose.
        unit: UnitIndex,
        /// Contributions so far.
        terms: u32,
    },
    /// One part of a unit's rounded gradient.
    GradientChunk {
        /// Whose.
        unit: UnitIndex,
        /// Which part.
        chunk: ChunkIndex,
    },
    /// The sums of squares of a unit's complete gradient.
    Norm(UnitIndex),
    /// The loss of the first `terms` micro-batches.
    Loss {
        /// Micro-batches so far.
        terms: u32,
    },
    /// The step's verdict.
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
    /// Nothing that anybody may read.
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
            Resource::Scratch => f.write_str("the scratch"),
            Resource::Slab(slab) => slab.fmt(f),
            Resource::Loss => f.write_str("the device loss"),
            Resource::Norm(slab) => write!(f, "the device norm of {slab}"),
            Resource::Logits => f.write_str("the device logits"),
            Resource::Logprobs { micro } => write!(f, "the device log-probabilities of {micro}"),
            Resource::HostLogprobs { micro } => write!(f, "the host log-probabilities of {micro}"),
            Resource::HostBatch { micro } => write!(f, "the host batch of {micro}"),
            Resource::Master { unit } => write!(f, "the master of {unit}"),
            Resource::HostRows => f.write_str("the next rows of the embedding"),
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
            Content::Scrap => f.write_str("scrap"),
        }
    }
}
