//! The operations of a list: what is done, on which lane, and how it is said.

use std::fmt;

use crate::base::{ChunkIndex, MicroIndex, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
use crate::device::Lane;
use crate::model::Recompute;

/// A region for an end's weights, and one for an end's f32 gradient.
///
/// Untied, embedding and head take turns in `First`: weights of the embedding, then of the head; gradient of
/// the head, then of the embedding. Tied, the embedding's tensor stays in `First` for the whole sweep and `Second` holds the final
/// norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndUnit {
    /// Large enough for the embedding and for the head.
    First,
    /// The final norm of a tied model.
    Second,
}

/// Where a unit's weights go on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightBuffer {
    /// A layer's.
    Slot(SlotIndex),
    /// An end's.
    EndUnit(EndUnit),
}

/// Where a boundary is on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BoundaryBuffer {
    /// A place of its own.
    Own,
    /// A room that others pass through, too.
    Spill(SpillIndex),
    /// The stream: above the last layer.
    ResidualStream,
}

/// Where a unit's f32 gradient is summed on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccumulatorBuffer {
    /// Where the layers sum theirs one after the other.
    Shared,
    /// A room that others pass through, too.
    Spill(SpillIndex),
    /// A place of its own; an end's is its region.
    Own,
}

/// Where a part of a gradient lands on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GradientBuffer {
    /// Its own place in the store.
    Store,
    /// A slab of the ring.
    Ring(u32),
}

/// What AdamW asks before it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    /// The step's verdict: clip factor, and whether everything was finite.
    ClipDecision,
    /// The finiteness of this unit's own norm.
    Unit,
}

/// Rows of an untied embedding, told apart by whether the next list's tokens name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowSet {
    /// The rows that they name.
    Next,
    /// All others.
    Others,
}

/// One operation of a list. What each reads and writes is [`Operation::visit`]; what each computes:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Tokens, targets, weights and document starts of a micro-batch, host → device.
    UploadBatch {
        /// Which.
        micro: MicroIndex,
    },
    /// A unit's bf16 weights, host → device; of an untied embedding the rows that the batches name, which the issuing thread
    /// has gathered.
    Upload {
        /// Which.
        unit: UnitIndex,
        /// Where to.
        place: WeightBuffer,
    },
    /// Boundary 0 of a micro-batch: rows of the embedding.
    EmbedForward {
        /// Which.
        micro: MicroIndex,
        /// Where to.
        to: BoundaryBuffer,
    },
    /// A layer: boundary below → boundary above.
    Forward {
        /// The layer's unit.
        unit: UnitIndex,
        /// Where its weights are.
        slot: SlotIndex,
        /// Which micro-batch.
        micro: MicroIndex,
        /// What backward will compute again; the rest is kept for it.
        recompute: Recompute,
        /// Where the boundary below is.
        from: BoundaryBuffer,
        /// Where the boundary above goes.
        to: BoundaryBuffer,
    },
    /// A layer's boundary, device → host.
    SpillBoundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// Of which micro-batch.
        micro: MicroIndex,
        /// Where from.
        spill: SpillIndex,
    },
    /// A layer's boundary, host → device.
    FetchBoundary {
        /// The layer's unit.
        unit: UnitIndex,
        /// Of which micro-batch.
        micro: MicroIndex,
        /// Where to.
        spill: SpillIndex,
    },
    /// Final norm, logits, loss; the stream becomes its gradient in place. The first micro-batch sets loss
    /// and gradients, later ones add.
    HeadForwardBackward {
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// Final norm, logits, loss, and nothing else. The first micro-batch sets the loss, later ones add.
    HeadForward {
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// f32 logits of one row of micro-batch 0.
    HeadLogits,
    /// Final norm, logits, log-probabilities of the targets; the stream stays.
    HeadLogprobs {
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// Final norm and logits again, then the head's backward from the gradient of the log-probabilities; the stream
    /// becomes its gradient in place. The first micro-batch sets gradients, later ones add.
    HeadBackward {
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// Computes again what forward has not kept of a layer, from its boundary, then its backward: the stream's
    /// gradient above → below; the first micro-batch sets the layer's f32 gradient, later ones add.
    RecomputeBackward {
        /// The layer's unit.
        unit: UnitIndex,
        /// Where its weights are.
        slot: SlotIndex,
        /// Which micro-batch.
        micro: MicroIndex,
        /// What is computed again.
        recompute: Recompute,
        /// Where the boundary below is.
        from: BoundaryBuffer,
        /// Where the layer's f32 gradient is.
        accumulator: AccumulatorBuffer,
    },
    /// A layer's running f32 gradient, device → host.
    SpillAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
        /// Where from.
        spill: SpillIndex,
        /// Micro-batches summed so far.
        terms: u32,
    },
    /// A layer's running f32 gradient, host → device.
    FetchAccumulator {
        /// The layer's unit.
        unit: UnitIndex,
        /// Where to.
        spill: SpillIndex,
        /// Micro-batches summed so far.
        terms: u32,
    },
    /// Adds the stream's gradient to the embedding's rows. Untied, the first micro-batch zeroes them first.
    EmbedBackward {
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// Sums of squares, by block, of the complete f32 gradient of a unit of several parts. AdamW may use the first part before
    /// the last is rounded, so they are taken in a pass of their own.
    Norm {
        /// Which.
        unit: UnitIndex,
        /// Where the gradient is.
        accumulator: AccumulatorBuffer,
        /// The slab that the gradient's first part goes to; the norm leaves beside it.
        slab: SlabIndex,
    },
    /// One part of a unit's f32 gradient, rounded into a slab. Where it is the unit's only part, the same pass leaves the sums
    /// of squares beside the slab.
    Round {
        /// Whose gradient.
        unit: UnitIndex,
        /// Where the gradient is.
        accumulator: AccumulatorBuffer,
        /// Which part.
        chunk: ChunkIndex,
        /// Where to.
        slab: SlabIndex,
    },
    /// A unit's sums of squares, device → host.
    DownloadNorm {
        /// Whose.
        unit: UnitIndex,
        /// Beside which slab it is.
        slab: SlabIndex,
    },
    /// A slab, device → host.
    Download {
        /// Whose gradient.
        unit: UnitIndex,
        /// Which part.
        chunk: ChunkIndex,
        /// Where from.
        slab: SlabIndex,
        /// Where to.
        to: GradientBuffer,
    },
    /// The loss sum, device → host.
    DownloadLoss,
    /// The logits, device → host.
    DownloadLogits,
    /// A micro-batch's log-probabilities, device → host.
    DownloadLogprobs {
        /// Which.
        micro: MicroIndex,
    },
    /// The caller's own loss: the log-probabilities of all micro-batches become their gradients. The issuing
    /// thread does it, in the host lane's name: it waits for what this waits for, and gives the lane a task that has
    /// nothing left to do.
    Loss,
    /// The gradient of a micro-batch's log-probabilities, host → device.
    UploadDlogprobs {
        /// Which.
        micro: MicroIndex,
    },
    /// The loss becomes known, and in training the global norm; clip factor and commitment are decided.
    DecideClip {
        /// Whether the units' norms are there to be judged: in training, not in evaluation.
        norms: bool,
    },
    /// AdamW of one part of a unit: weights, residual and moments, in place.
    Adam {
        /// Which unit.
        unit: UnitIndex,
        /// Which part.
        chunk: ChunkIndex,
        /// Where its gradient is.
        from: GradientBuffer,
        /// What is asked before committing.
        guard: Guard,
    },
    /// AdamW of some rows of an untied embedding, in place, once the verdict is known. For [`RowSet::Next`] it also gathers
    /// the updated rows for upload.
    AdamRows {
        /// Which rows.
        rows: RowSet,
    },
    /// A unit's weights, residual and moments, host → wherever they are saved.
    Save {
        /// Which.
        unit: UnitIndex,
    },
}

/// What is said of an operation wherever it is named.
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
            Operation::DecideClip { .. } => of_none(Host, "clip decision"),
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

    /// The kind in one word or two: what a trace groups by.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }

    /// The unit it is about, if it is about one. The ends' own operations name theirs only where the ends
    /// are streamed, normed, rounded or updated as units.
    pub fn unit(&self) -> Option<UnitIndex> {
        self.facts().unit
    }

    /// The micro-batch it is about, if it is about one.
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
                    kept => write!(f, ", recompute {}", kept.name()),
                }
            }
            Operation::RecomputeBackward { unit, slot, micro, recompute, .. } => {
                write!(f, "{name} {unit} in {slot}, {micro}")?;
                match recompute {
                    Recompute::Full | Recompute::None => Ok(()),
                    kept => write!(f, ", recompute {}", kept.name()),
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
            | Operation::DecideClip { norms: true } => f.write_str(name),
            Operation::DecideClip { norms: false } => write!(f, "{name} without norms"),
        }
    }
}

impl fmt::Display for EndUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndUnit::First => "first end",
            EndUnit::Second => "second end",
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
    fn operations_say_what_they_do() {
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
