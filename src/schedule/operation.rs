//! The operations of a list: their parameters, lanes and names.

use std::fmt;

use crate::base::{ChunkIndex, MicroIndex, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
use crate::device::Lane;
use crate::model::Recompute;

/// A device buffer for the weights of the embedding or head, and one for their f32 gradients.
///
/// Untied, embedding and head use `First` in turn: weights of the embedding, then of the head;
/// gradient of the head, then of the embedding. Tied, the embedding's tensor stays in `First` for
/// the whole sweep and `Second` holds the final norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndUnit {
    /// Large enough for the embedding and for the head.
    First,
    /// The final norm of a tied model.
    Second,
}

/// The device buffer that a unit's weights are uploaded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightBuffer {
    /// For a layer.
    Slot(SlotIndex),
    /// For the embedding or the head.
    EndUnit(EndUnit),
}

/// The device buffer of a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BoundaryBuffer {
    /// A buffer of its own.
    Own,
    /// A spill buffer, shared with other layers.
    Spill(SpillIndex),
    /// The residual stream: the output of the last layer.
    ResidualStream,
}

/// The device buffer that accumulates a unit's f32 gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccumulatorBuffer {
    /// One buffer that all layers use in turn.
    Shared,
    /// A spill buffer, shared with other layers.
    Spill(SpillIndex),
    /// A buffer of its own; for the embedding and the head, their [`EndUnit`] buffer.
    Own,
}

/// The host buffer that a gradient chunk is downloaded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GradientBuffer {
    /// Its own span of the store.
    Store,
    /// A slab of the ring buffer.
    Ring(u32),
}

/// The condition under which AdamW commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    /// The step's clip decision: the clip factor, and whether loss and norm are finite.
    ClipDecision,
    /// This unit's own norm is finite.
    Unit,
}

/// A subset of an untied embedding's rows, by whether the next list's tokens use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowSet {
    /// The rows that they use.
    Next,
    /// All others.
    Others,
}

/// One operation of a list. [`Operation::visit`] names the resources it reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Tokens, targets, weights and document starts of a micro-batch, host → device.
    UploadBatch {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// A unit's bf16 weights, host → device; for an untied embedding, only the rows used by the
    /// batches, gathered beforehand.
    Upload {
        /// The unit.
        unit: UnitIndex,
        /// Destination.
        place: WeightBuffer,
    },
    /// Boundary 0 of a micro-batch: the embedding rows of its tokens.
    EmbedForward {
        /// The micro-batch.
        micro: MicroIndex,
        /// Destination.
        to: BoundaryBuffer,
    },
    /// Forward of a layer: boundary below → boundary above.
    Forward {
        /// The layer's unit.
        unit: UnitIndex,
        /// The slot of its weights.
        slot: SlotIndex,
        /// The micro-batch.
        micro: MicroIndex,
        /// The activations that backward will recompute; the others are saved.
        recompute: Recompute,
        /// The boundary below.
        from: BoundaryBuffer,
        /// The boundary above.
        to: BoundaryBuffer,
    },
    /// A layer's boundary, device → host.
    SpillBoundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// The micro-batch.
        micro: MicroIndex,
        /// Source.
        spill: SpillIndex,
    },
    /// A layer's boundary, host → device.
    FetchBoundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// The micro-batch.
        micro: MicroIndex,
        /// Destination.
        spill: SpillIndex,
    },
    /// Final norm, logits, loss, and their backward; the gradient replaces the residual stream in
    /// place. The first micro-batch sets loss and gradients, later ones add.
    HeadForwardBackward {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Final norm, logits, loss, without backward. The first micro-batch sets the loss, later ones
    /// add.
    HeadForward {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// f32 logits of one row of micro-batch 0.
    HeadLogits,
    /// Final norm, logits, log-probabilities of the targets; the residual stream is unchanged.
    HeadLogprobs {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Recomputes final norm and logits, then runs the head's backward from the gradient of the
    /// log-probabilities; the gradient replaces the residual stream in place. The first micro-batch
    /// sets gradients, later ones add.
    HeadBackward {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Recomputes the activations of a layer that forward did not save, from its boundary, then
    /// runs its backward: gradient of the residual stream above → below. The first micro-batch
    /// sets the layer's f32 gradient, later ones add.
    RecomputeBackward {
        /// The layer's unit.
        unit: UnitIndex,
        /// The slot of its weights.
        slot: SlotIndex,
        /// The micro-batch.
        micro: MicroIndex,
        /// The activations that are recomputed.
        recompute: Recompute,
        /// The boundary below.
        from: BoundaryBuffer,
        /// The layer's f32 gradient.
        accumulator: AccumulatorBuffer,
    },
    /// A layer's running f32 gradient, device → host.
    SpillAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
        /// Source.
        spill: SpillIndex,
        /// Micro-batches accumulated so far.
        terms: u32,
    },
    /// A layer's running f32 gradient, host → device.
    FetchAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
        /// Destination.
        spill: SpillIndex,
        /// Micro-batches accumulated so far.
        terms: u32,
    },
    /// Adds the gradient of the residual stream to the embedding's rows. Untied, the first
    /// micro-batch zeroes them first.
    EmbedBackward {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Sums of squares, by block, of the complete f32 gradient of a unit of several chunks. This is
    /// a pass of its own because AdamW may use the first chunk before the last is rounded.
    Norm {
        /// The unit.
        unit: UnitIndex,
        /// The gradient.
        accumulator: AccumulatorBuffer,
        /// The slab of the gradient's first chunk; the norm's buffer has the same index.
        slab: SlabIndex,
    },
    /// Rounds one chunk of a unit's f32 gradient into a slab. If it is the unit's only chunk, the
    /// same pass also computes the sums of squares.
    Round {
        /// The unit.
        unit: UnitIndex,
        /// The gradient.
        accumulator: AccumulatorBuffer,
        /// The chunk.
        chunk: ChunkIndex,
        /// Destination.
        slab: SlabIndex,
    },
    /// A unit's sums of squares, device → host.
    DownloadNorm {
        /// The unit.
        unit: UnitIndex,
        /// The slab; the norm's buffer has its index.
        slab: SlabIndex,
    },
    /// A slab, device → host.
    Download {
        /// The unit.
        unit: UnitIndex,
        /// The chunk.
        chunk: ChunkIndex,
        /// Source.
        slab: SlabIndex,
        /// Destination.
        to: GradientBuffer,
    },
    /// The loss sum, device → host.
    DownloadLoss,
    /// The logits, device → host.
    DownloadLogits,
    /// A micro-batch's log-probabilities, device → host.
    DownloadLogprobs {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// The caller's own loss: replaces the log-probabilities of all micro-batches by their
    /// gradients. The issuing thread does this work: it waits for this operation's ticks, and
    /// then issues an empty task to the host lane.
    Loss,
    /// The gradient of a micro-batch's log-probabilities, host → device.
    UploadDlogprobs {
        /// The micro-batch.
        micro: MicroIndex,
    },
    /// Computes the loss and, in training, the global norm; decides the clip factor and whether to
    /// commit.
    ClipDecision {
        /// True in training, where the units' norms are read; false in evaluation.
        norms: bool,
    },
    /// AdamW of one chunk of a unit: weights, residuals and moments, in place.
    Adam {
        /// The unit.
        unit: UnitIndex,
        /// The chunk.
        chunk: ChunkIndex,
        /// The gradient.
        from: GradientBuffer,
        /// The condition for committing.
        guard: Guard,
    },
    /// AdamW of some rows of an untied embedding, in place, after the clip decision. For
    /// [`RowSet::Next`] it also gathers the updated rows for upload.
    AdamRows {
        /// The rows.
        rows: RowSet,
    },
    /// A unit's weights, residuals and moments, host → checkpoint.
    Save {
        /// The unit.
        unit: UnitIndex,
    },
}

/// The properties shared by all operations.
#[derive(Clone, Copy, Debug)]
struct Facts {
    lane: Lane,
    name: &'static str,
    unit: Option<UnitIndex>,
    micro: Option<MicroIndex>,
}

impl Operation {
    fn facts(&self) -> Facts {
        use Lane::{Compute, D2h, Disk, H2d, Host};
        let of_none = |lane, name| Facts { lane, name, unit: None, micro: None };
        let of_unit = |lane, name, unit| Facts { unit: Some(unit), ..of_none(lane, name) };
        let of_micro = |lane, name, micro| Facts { micro: Some(micro), ..of_none(lane, name) };
        let of_both = |lane, name, unit, micro| Facts { unit: Some(unit), ..of_micro(lane, name, micro) };
        match *self {
            Operation::UploadBatch { micro } => of_micro(H2d, "upload batch", micro),
            Operation::Upload { unit, .. } => of_unit(H2d, "upload", unit),
            Operation::FetchBoundary { unit, micro, .. } => of_both(H2d, "fetch boundary", unit, micro),
            Operation::FetchAccumulator { unit, .. } => of_unit(H2d, "fetch accumulator", unit),
            Operation::UploadDlogprobs { micro } => of_micro(H2d, "upload log-probability gradients", micro),

            Operation::EmbedForward { micro, .. } => of_micro(Compute, "embed forward", micro),
            Operation::Forward { unit, micro, .. } => of_both(Compute, "forward", unit, micro),
            Operation::HeadForward { micro } => of_micro(Compute, "head forward", micro),
            Operation::HeadForwardBackward { micro } => of_micro(Compute, "head forward backward", micro),
            Operation::HeadLogits => of_none(Compute, "head logits"),
            Operation::HeadLogprobs { micro } => of_micro(Compute, "head log-probabilities", micro),
            Operation::HeadBackward { micro } => of_micro(Compute, "head backward", micro),
            Operation::RecomputeBackward { unit, micro, recompute: Recompute::None, .. } => {
                of_both(Compute, "backward", unit, micro)
            }
            Operation::RecomputeBackward { unit, micro, .. } => {
                of_both(Compute, "recompute backward", unit, micro)
            }
            Operation::EmbedBackward { micro } => of_micro(Compute, "embed backward", micro),
            Operation::Norm { unit, .. } => of_unit(Compute, "norm", unit),
            Operation::Round { unit, .. } => of_unit(Compute, "round", unit),

            Operation::Download { unit, .. } => of_unit(D2h, "download", unit),
            Operation::DownloadNorm { unit, .. } => of_unit(D2h, "download norm", unit),
            Operation::SpillBoundary { unit, micro, .. } => of_both(D2h, "spill boundary", unit, micro),
            Operation::SpillAccumulator { unit, .. } => of_unit(D2h, "spill accumulator", unit),
            Operation::DownloadLoss => of_none(D2h, "download loss"),
            Operation::DownloadLogits => of_none(D2h, "download logits"),
            Operation::DownloadLogprobs { micro } => of_micro(D2h, "download log-probabilities", micro),

            Operation::Loss => of_none(Host, "loss"),
            Operation::ClipDecision { .. } => of_none(Host, "clip decision"),
            Operation::Adam { unit, .. } => of_unit(Host, "adam", unit),
            Operation::AdamRows { rows: RowSet::Next } => of_none(Host, "adam next rows"),
            Operation::AdamRows { rows: RowSet::Others } => of_none(Host, "adam other rows"),

            Operation::Save { unit } => of_unit(Disk, "save", unit),
        }
    }

    /// The lane it runs on.
    pub fn lane(&self) -> Lane {
        self.facts().lane
    }

    /// The kind of operation in a few words; traces group by it.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }

    /// The unit, if the operation belongs to one. Passes of the embedding and the head name no
    /// unit; their uploads, norms, downloads and updates do.
    pub fn unit(&self) -> Option<UnitIndex> {
        self.facts().unit
    }

    /// The micro-batch, if the operation belongs to one.
    pub fn micro(&self) -> Option<MicroIndex> {
        self.facts().micro
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Operation::Upload { unit, place } => write!(f, "{name} {unit} → {place}"),
            Operation::UploadBatch { micro }
            | Operation::EmbedForward { micro, .. }
            | Operation::HeadForwardBackward { micro }
            | Operation::HeadForward { micro }
            | Operation::HeadLogprobs { micro }
            | Operation::HeadBackward { micro }
            | Operation::DownloadLogprobs { micro }
            | Operation::UploadDlogprobs { micro }
            | Operation::EmbedBackward { micro } => write!(f, "{name} {micro}"),
            Operation::SpillBoundary { unit, micro, spill } => {
                write!(f, "{name} {unit}, {micro}: {spill} → host")
            }
            Operation::SpillAccumulator { unit, spill, .. } => write!(f, "{name} {unit}: {spill} → host"),
            Operation::FetchAccumulator { unit, spill, .. } => write!(f, "{name} {unit} → {spill}"),
            Operation::DownloadNorm { unit, slab } => write!(f, "{name} {unit}: {slab}"),
            Operation::FetchBoundary { unit, micro, spill } => write!(f, "{name} {unit}, {micro} → {spill}"),
            Operation::Forward { unit, slot, micro, recompute, .. } => {
                write!(f, "{name} {unit} in {slot}, {micro}")?;
                match recompute {
                    Recompute::Full => Ok(()),
                    other => write!(f, ", recompute {}", other.name()),
                }
            }
            Operation::RecomputeBackward { unit, slot, micro, recompute, .. } => {
                write!(f, "{name} {unit} in {slot}, {micro}")?;
                match recompute {
                    Recompute::Full | Recompute::None => Ok(()),
                    other => write!(f, ", recompute {}", other.name()),
                }
            }
            Operation::Norm { unit, .. } | Operation::Save { unit } => write!(f, "{name} {unit}"),
            Operation::Round { unit, chunk, slab, .. } => write!(f, "{name} {unit} {chunk} → {slab}"),
            Operation::Download { unit, chunk, slab, to } => {
                write!(f, "{name} {unit} {chunk}: {slab} → {to}")
            }
            Operation::Adam { unit, chunk, from, guard } => {
                write!(f, "{name} {unit} {chunk} from {from}, {guard}")
            }
            Operation::AdamRows { .. } => write!(f, "{name}, {}", Guard::ClipDecision),
            Operation::HeadLogits
            | Operation::DownloadLoss
            | Operation::DownloadLogits
            | Operation::Loss
            | Operation::ClipDecision { norms: true } => f.write_str(name),
            Operation::ClipDecision { norms: false } => write!(f, "{name} without norms"),
        }
    }
}

impl fmt::Display for EndUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndUnit::First => "embedding/head buffer",
            EndUnit::Second => "final norm buffer",
        })
    }
}

impl fmt::Display for WeightBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightBuffer::Slot(slot) => slot.fmt(f),
            WeightBuffer::EndUnit(end) => end.fmt(f),
        }
    }
}

impl fmt::Display for GradientBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GradientBuffer::Store => f.write_str("store"),
            GradientBuffer::Ring(slab) => write!(f, "ring {slab}"),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guard::ClipDecision => "guarded by the clip decision",
            Guard::Unit => "guarded by its own norm",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_display_their_parameters() {
        let upload = Operation::Upload { unit: UnitIndex(3), place: WeightBuffer::Slot(SlotIndex(1)) };
        assert_eq!(upload.to_string(), "upload unit 3 → slot 1");
        let (unit, chunk) = (UnitIndex(9), ChunkIndex(2));
        let download = Operation::Download { unit, chunk, slab: SlabIndex(0), to: GradientBuffer::Ring(1) };
        assert_eq!(download.to_string(), "download unit 9 chunk 2: slab 0 → ring 1");
        let adam = Operation::Adam { unit, chunk, from: GradientBuffer::Store, guard: Guard::ClipDecision };
        assert_eq!(adam.to_string(), "adam unit 9 chunk 2 from store, guarded by the clip decision");
        let backward = |recompute| Operation::RecomputeBackward {
            unit: UnitIndex(4),
            slot: SlotIndex(0),
            micro: MicroIndex(7),
            recompute,
            from: BoundaryBuffer::Own,
            accumulator: AccumulatorBuffer::Shared,
        };
        assert_eq!(backward(Recompute::None).to_string(), "backward unit 4 in slot 0, micro 7");
        let backward = backward(Recompute::Full);
        assert_eq!(backward.to_string(), "recompute backward unit 4 in slot 0, micro 7");
        assert_eq!((backward.unit(), backward.micro()), (Some(UnitIndex(4)), Some(MicroIndex(7))));
        assert_eq!((backward.lane(), adam.lane()), (Lane::Compute, Lane::Host));
    }
}
