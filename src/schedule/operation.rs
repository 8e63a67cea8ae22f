//! The operations of a step.

use crate::base::{MicroIndex, PartIndex, SlabIndex, SlotIndex, UnitIndex};

/// A region for an end's weights, and one for an end's f32 gradient.
///
/// Untied, embedding and head take turns in `First`: the embedding before and after the layers, the head
/// between. Tied, the embedding's tensor stays in `First` for the whole sweep and `Second` holds the final
/// norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Large enough for the embedding and for the head.
    First,
    /// The final norm of a tied model.
    Second,
}

/// Where a unit's weights go on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightPlace {
    /// A layer's.
    Slot(SlotIndex),
    /// An end's.
    End(End),
}

/// Where a part of a gradient lands on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GradPlace {
    /// Its own place in the store.
    Store,
    /// A slab of the ring.
    Ring(u32),
}

/// What AdamW asks before it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    /// The step's verdict: clip factor, and whether everything was finite.
    Verdict,
    /// The finiteness of this unit's own norm.
    Unit,
}

/// One operation of a list. What each reads and writes is [`Operation::visit`]; what each computes:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Tokens, targets, weights and document starts of a micro-batch, host → device.
    UploadBatch {
        /// Which.
        micro: MicroIndex,
    },
    /// A unit's bf16 weights, host → device.
    Upload {
        /// Which.
        unit: UnitIndex,
        /// Where to.
        place: WeightPlace,
    },
    /// Boundary 0 of a micro-batch: rows of the embedding.
    EmbedForward {
        /// Which.
        micro: MicroIndex,
    },
    /// A layer: boundary below → boundary above.
    Forward {
        /// The layer's unit.
        unit: UnitIndex,
        /// Where its weights are.
        slot: SlotIndex,
        /// Which micro-batch.
        micro: MicroIndex,
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
    /// Recomputes a layer from its boundary, then its backward: the stream's gradient above → below; the
    /// first micro-batch sets the layer's f32 gradient, later ones add.
    RecomputeBackward {
        /// The layer's unit.
        unit: UnitIndex,
        /// Where its weights are.
        slot: SlotIndex,
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// Adds the stream's gradient to the embedding's rows. Untied, the first micro-batch zeroes them first.
    EmbedBackward {
        /// Which micro-batch.
        micro: MicroIndex,
    },
    /// Sum of squares of a unit's complete f32 gradient.
    Norm {
        /// Which.
        unit: UnitIndex,
    },
    /// One part of a unit's f32 gradient, rounded into a slab.
    Round {
        /// Whose gradient.
        unit: UnitIndex,
        /// Which part.
        part: PartIndex,
        /// Where to.
        slab: SlabIndex,
    },
    /// A slab, device → host. Part 0 takes the unit's sum of squares along.
    Download {
        /// Whose gradient.
        unit: UnitIndex,
        /// Which part.
        part: PartIndex,
        /// Where from.
        slab: SlabIndex,
        /// Where to.
        to: GradPlace,
    },
    /// The loss sum, device → host.
    DownloadLoss,
    /// The logits, device → host.
    DownloadLogits,
    /// Loss and global norm become known; clip factor and commitment are decided.
    Decide,
    /// AdamW of one part of a unit: weights, residual and moments, in place.
    Adam {
        /// Which unit.
        unit: UnitIndex,
        /// Which part.
        part: PartIndex,
        /// Where its gradient is.
        from: GradPlace,
        /// What is asked before committing.
        guard: Guard,
    },
}
