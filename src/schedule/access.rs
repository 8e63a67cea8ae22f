//! The accesses of each operation: the facts from which waits are inferred and against which lists
//! are checked.
//!
//! An [`Access`] names a resource, its required content when an operation starts, and its content
//! when the operation is done. [`Operation::visit`] is the only definition of them.

use super::operation::{
    AccumulatorBuffer, BoundaryBuffer, EndUnit, GradientBuffer, Guard, Operation, RowSet,
};
use super::policy::{Extent, Geometry};
use super::resource::{Content, Resource};
use crate::base::{ChunkIndex, MicroIndex, UnitIndex};
use crate::model::Recompute;

/// One access of an operation to a resource.
///
/// `needs` alone is a read, `leaves` alone an overwrite, both together an update in place; neither
/// is a read of any content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The resource.
    pub resource: Resource,
    /// The content it must hold when the operation starts, if the operation reads it.
    pub needs: Option<Content>,
    /// The content it holds when the operation is done, if the operation writes it.
    pub leaves: Option<Content>,
}

impl Access {
    /// A read.
    pub fn read(resource: Resource, needs: Content) -> Self {
        Access { resource, needs: Some(needs), leaves: None }
    }

    /// A write that does not depend on the former content.
    pub fn write(resource: Resource, leaves: Content) -> Self {
        Access { resource, needs: None, leaves: Some(leaves) }
    }

    /// A read and a write.
    pub fn update(resource: Resource, needs: Content, leaves: Content) -> Self {
        Access { resource, needs: Some(needs), leaves: Some(leaves) }
    }

    /// A read of any content, for the issuing thread, which reads the latest result.
    pub fn look(resource: Resource) -> Self {
        Access { resource, needs: None, leaves: None }
    }

    /// True if the access excludes all others to the resource.
    pub fn writes(&self) -> bool {
        self.leaves.is_some()
    }
}

impl Geometry {
    /// The device buffers of the embedding or head, for weights and gradient; `None` for layers.
    pub fn end(&self, unit: UnitIndex) -> Option<EndUnit> {
        if unit == self.embedding() {
            Some(EndUnit::First)
        } else if unit == self.head() {
            Some(if self.tied { EndUnit::Second } else { EndUnit::First })
        } else {
            None
        }
    }

    /// The resource that accumulates a unit's f32 gradient.
    pub fn accumulator(&self, unit: UnitIndex, accumulator: AccumulatorBuffer) -> Resource {
        match accumulator {
            AccumulatorBuffer::Shared => Resource::Accumulator,
            AccumulatorBuffer::Spill(spill) => Resource::AccumulatorSpill(spill),
            AccumulatorBuffer::Own => {
                self.end(unit).map_or(Resource::LayerAccumulator { unit }, Resource::EndAccumulator)
            }
        }
    }

    /// Contributions to a unit's complete gradient.
    fn terms(&self, unit: UnitIndex, micros: usize) -> u32 {
        let terms = if self.tied && unit == self.embedding() { 2 * micros } else { micros };
        u32::try_from(terms).expect("twice the micro-batches fit 32 bits")
    }
}

/// The access of the `terms`-th contribution (counted from 0) to an accumulator: the first one sets
/// it, later ones add.
fn add(resource: Resource, terms: u32, content: impl Fn(u32) -> Content) -> Access {
    if terms == 0 {
        Access::write(resource, content(1))
    } else {
        Access::update(resource, content(terms), content(terms + 1))
    }
}

impl Operation {
    /// Calls `with` for every resource that the operation accesses, each once, in a list of this
    /// extent.
    pub fn visit(&self, geometry: &Geometry, extent: Extent, with: &mut impl FnMut(Access)) {
        let micros = extent.micros;
        let (embedding, head, top) =
            (geometry.embedding(), geometry.head(), geometry.layer(geometry.layers - 1));
        let accumulator_of = |unit: UnitIndex| move |terms: u32| Content::Accumulator { unit, terms };
        let loss = |terms: u32| Content::Loss { terms };
        let complete = |unit: UnitIndex, accumulator: AccumulatorBuffer| {
            let terms = geometry.terms(unit, micros);
            Access::read(geometry.accumulator(unit, accumulator), Content::Accumulator { unit, terms })
        };
        let boundary =
            |buffer: BoundaryBuffer, unit: UnitIndex, micro: MicroIndex| extent.boundary(buffer, unit, micro);
        let saved = |unit: UnitIndex, micro: MicroIndex| Resource::SavedActivations {
            unit,
            micro_slot: extent.micro_slot(micro),
        };
        match *self {
            Operation::UploadBatch { micro } => {
                with(Access::read(Resource::HostBatch { micro }, Content::Batch(micro)));
                with(Access::write(Resource::Batch { micro }, Content::Batch(micro)));
            }
            Operation::Upload { unit, place } => {
                if unit == embedding && !geometry.tied {
                    // Only the rows of an untied embedding that the batches use are uploaded; they are
                    // gathered.
                    with(Access::read(Resource::HostRows, Content::Weights(unit)));
                    for micro in (0..micros).map(MicroIndex::from) {
                        with(Access::read(Resource::HostBatch { micro }, Content::Batch(micro)));
                    }
                } else {
                    with(Access::read(Resource::Master { unit }, Content::Weights(unit)));
                }
                with(Access::write(place.into(), Content::Weights(unit)));
            }
            Operation::EmbedForward { micro, to } => {
                with(Access::read(Resource::EndWeights(EndUnit::First), Content::Weights(embedding)));
                with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
                let above = Content::Activation { above: embedding, micro };
                with(Access::write(boundary(to, geometry.layer(0), micro), above));
            }
            Operation::Forward { unit, slot, micro, recompute, from, to } => {
                let (below, above) = (UnitIndex(unit.0 - 1), UnitIndex(unit.0 + 1));
                with(Access::read(Resource::Slot(slot), Content::Weights(unit)));
                with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
                let input = Content::Activation { above: below, micro };
                with(Access::read(boundary(from, unit, micro), input));
                with(Access::write(boundary(to, above, micro), Content::Activation { above: unit, micro }));
                if recompute != Recompute::Full {
                    with(Access::write(
                        saved(unit, micro),
                        Content::SavedActivations { unit, micro, recompute },
                    ));
                }
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::SpillBoundary { unit, micro, spill } => {
                let content = Content::Activation { above: UnitIndex(unit.0 - 1), micro };
                with(Access::read(boundary(BoundaryBuffer::Spill(spill), unit, micro), content));
                with(Access::write(
                    Resource::HostBoundary { unit, micro_slot: extent.micro_slot(micro) },
                    content,
                ));
            }
            Operation::FetchBoundary { unit, micro, spill } => {
                let content = Content::Activation { above: UnitIndex(unit.0 - 1), micro };
                with(Access::read(
                    Resource::HostBoundary { unit, micro_slot: extent.micro_slot(micro) },
                    content,
                ));
                with(Access::write(boundary(BoundaryBuffer::Spill(spill), unit, micro), content));
            }
            Operation::HeadForwardBackward { micro } => {
                head_backward(geometry, micro, with);
                with(add(Resource::Loss, micro.0, loss));
            }
            Operation::HeadForward { micro } => {
                head_weights(geometry, with);
                with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
                with(Access::read(
                    Resource::ResidualStream { micro },
                    Content::Activation { above: top, micro },
                ));
                with(add(Resource::Loss, micro.0, loss));
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::HeadLogprobs { micro } => {
                head_weights(geometry, with);
                with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
                with(Access::read(
                    Resource::ResidualStream { micro },
                    Content::Activation { above: top, micro },
                ));
                with(Access::write(Resource::Logprobs { micro }, Content::Logprobs(micro)));
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::DownloadLogprobs { micro } => {
                with(Access::read(Resource::Logprobs { micro }, Content::Logprobs(micro)));
                with(Access::write(Resource::HostLogprobs { micro }, Content::Logprobs(micro)));
            }
            Operation::Loss => {
                for micro in (0..micros).map(MicroIndex::from) {
                    let (given, left) = (Content::Logprobs(micro), Content::Dlogprobs(micro));
                    with(Access::update(Resource::HostLogprobs { micro }, given, left));
                }
                with(Access::write(Resource::HostLoss, loss(geometry.terms(head, micros))));
            }
            Operation::UploadDlogprobs { micro } => {
                with(Access::read(Resource::HostLogprobs { micro }, Content::Dlogprobs(micro)));
                with(Access::write(Resource::Logprobs { micro }, Content::Dlogprobs(micro)));
            }
            Operation::HeadBackward { micro } => {
                with(Access::read(Resource::Logprobs { micro }, Content::Dlogprobs(micro)));
                head_backward(geometry, micro, with);
            }
            Operation::HeadLogits => {
                let micro = MicroIndex(0);
                head_weights(geometry, with);
                with(Access::read(
                    Resource::ResidualStream { micro },
                    Content::Activation { above: top, micro },
                ));
                with(Access::write(Resource::Logits, Content::Logits));
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::RecomputeBackward { unit, slot, micro, recompute, from, accumulator } => {
                let below = UnitIndex(unit.0 - 1);
                with(Access::read(Resource::Slot(slot), Content::Weights(unit)));
                with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
                let input = Content::Activation { above: below, micro };
                with(Access::read(boundary(from, unit, micro), input));
                if recompute != Recompute::Full {
                    let content = Content::SavedActivations { unit, micro, recompute };
                    with(Access::update(saved(unit, micro), content, Content::Scrap));
                }
                let (above, below) =
                    (Content::Gradient { above: unit, micro }, Content::Gradient { above: below, micro });
                with(Access::update(Resource::ResidualStream { micro }, above, below));
                with(add(geometry.accumulator(unit, accumulator), micro.0, accumulator_of(unit)));
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::SpillAccumulator { unit, spill, terms } => {
                with(Access::read(Resource::AccumulatorSpill(spill), Content::Accumulator { unit, terms }));
                with(Access::write(Resource::HostAccumulator { unit }, Content::Accumulator { unit, terms }));
            }
            Operation::FetchAccumulator { unit, spill, terms } => {
                with(Access::read(Resource::HostAccumulator { unit }, Content::Accumulator { unit, terms }));
                with(Access::write(Resource::AccumulatorSpill(spill), Content::Accumulator { unit, terms }));
            }
            Operation::EmbedBackward { micro } => {
                with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
                let gradient = Content::Gradient { above: embedding, micro };
                with(Access::read(Resource::ResidualStream { micro }, gradient));
                let earlier = geometry.terms(embedding, micros) - geometry.terms(head, micros);
                with(add(
                    geometry.accumulator(embedding, AccumulatorBuffer::Own),
                    earlier + micro.0,
                    accumulator_of(embedding),
                ));
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::Norm { unit, accumulator, slab } => {
                with(complete(unit, accumulator));
                with(Access::write(Resource::Norm(slab), Content::Norm(unit)));
                with(Access::write(Resource::Scratch, Content::Scrap));
            }
            Operation::Round { unit, accumulator, chunk, slab } => {
                with(complete(unit, accumulator));
                with(Access::write(Resource::Slab(slab), Content::GradientChunk { unit, chunk }));
                if geometry.is_rounded_whole(unit) {
                    with(Access::write(Resource::Norm(slab), Content::Norm(unit)));
                    with(Access::write(Resource::Scratch, Content::Scrap));
                }
            }
            Operation::Download { unit, chunk, slab, to } => {
                with(Access::read(Resource::Slab(slab), Content::GradientChunk { unit, chunk }));
                with(Access::write(gradient(unit, chunk, to), Content::GradientChunk { unit, chunk }));
            }
            Operation::DownloadNorm { unit, slab } => {
                with(Access::read(Resource::Norm(slab), Content::Norm(unit)));
                with(Access::write(Resource::HostNorm { unit }, Content::Norm(unit)));
            }
            Operation::DownloadLoss => {
                let complete = Content::Loss { terms: geometry.terms(head, micros) };
                with(Access::read(Resource::Loss, complete));
                with(Access::write(Resource::HostLoss, complete));
            }
            Operation::DownloadLogits => {
                with(Access::read(Resource::Logits, Content::Logits));
                with(Access::write(Resource::HostLogits, Content::Logits));
            }
            Operation::ClipDecision { norms } => {
                let complete = Content::Loss { terms: geometry.terms(head, micros) };
                with(Access::read(Resource::HostLoss, complete));
                if norms {
                    for unit in geometry.units() {
                        with(Access::read(Resource::HostNorm { unit }, Content::Norm(unit)));
                    }
                }
                with(Access::write(Resource::ClipDecision, Content::ClipDecision));
            }
            Operation::Adam { unit, chunk, from, guard } => {
                with(Access::read(gradient(unit, chunk, from), Content::GradientChunk { unit, chunk }));
                with(guarded(guard, unit));
                let updated = |chunks: u32| match chunks as usize {
                    0 => Content::Weights(unit),
                    all if all == geometry.chunks(unit) => Content::Weights(unit),
                    _ => Content::Updating { unit, chunks },
                };
                with(Access::update(Resource::Master { unit }, updated(chunk.0), updated(chunk.0 + 1)));
                if unit == embedding && !geometry.tied {
                    with(Access::update(Resource::HostRows, updated(chunk.0), updated(chunk.0 + 1)));
                }
            }
            Operation::AdamRows { rows } => {
                for chunk in (0..geometry.chunks(embedding)).map(ChunkIndex::from) {
                    let buffer = gradient(embedding, chunk, GradientBuffer::Store);
                    with(Access::read(buffer, Content::GradientChunk { unit: embedding, chunk }));
                }
                with(guarded(Guard::ClipDecision, embedding));
                let master = Resource::Master { unit: embedding };
                let (whole, begun) = (Content::Weights(embedding), Content::RowsUpdated(embedding));
                match rows {
                    RowSet::Next => {
                        with(Access::update(master, whole, begun));
                        with(Access::update(Resource::HostRows, whole, whole));
                    }
                    RowSet::Others => with(Access::update(master, begun, whole)),
                }
            }
            Operation::Save { unit } => {
                with(Access::read(Resource::Master { unit }, Content::Weights(unit)));
                with(add(Resource::Checkpoint, unit.0, |units| Content::Saved { units }));
            }
        }
    }
}

/// The accesses of the head's backward, for any loss. It needs no result of the head's forward.
fn head_backward(geometry: &Geometry, micro: MicroIndex, with: &mut impl FnMut(Access)) {
    let (embedding, head, top) = (geometry.embedding(), geometry.head(), geometry.layer(geometry.layers - 1));
    let accumulator_of = |unit: UnitIndex| move |terms: u32| Content::Accumulator { unit, terms };
    head_weights(geometry, with);
    with(Access::read(Resource::Batch { micro }, Content::Batch(micro)));
    let (output, gradient) =
        (Content::Activation { above: top, micro }, Content::Gradient { above: top, micro });
    with(Access::update(Resource::ResidualStream { micro }, output, gradient));
    with(add(geometry.accumulator(head, AccumulatorBuffer::Own), micro.0, accumulator_of(head)));
    if geometry.tied {
        with(add(
            geometry.accumulator(embedding, AccumulatorBuffer::Own),
            micro.0,
            accumulator_of(embedding),
        ));
    }
    with(Access::write(Resource::Scratch, Content::Scrap));
}

/// The accesses to the head's weights; tied, its matrix is the embedding's.
fn head_weights(geometry: &Geometry, with: &mut impl FnMut(Access)) {
    let head = geometry.head();
    if geometry.tied {
        with(Access::read(Resource::EndWeights(EndUnit::First), Content::Weights(geometry.embedding())));
        with(Access::read(Resource::EndWeights(EndUnit::Second), Content::Weights(head)));
    } else {
        with(Access::read(Resource::EndWeights(EndUnit::First), Content::Weights(head)));
    }
}

/// The access to the condition under which AdamW of a unit commits.
fn guarded(guard: Guard, unit: UnitIndex) -> Access {
    match guard {
        Guard::ClipDecision => Access::read(Resource::ClipDecision, Content::ClipDecision),
        Guard::Unit => Access::read(Resource::HostNorm { unit }, Content::Norm(unit)),
    }
}

/// The host resource of a gradient chunk.
fn gradient(unit: UnitIndex, chunk: ChunkIndex, buffer: GradientBuffer) -> Resource {
    match buffer {
        GradientBuffer::Store => Resource::HostGradient { unit, chunk },
        GradientBuffer::Ring(slab) => Resource::Ring(slab),
    }
}
