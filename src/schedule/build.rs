//! Writes lists: what a step, an evaluation, a look at the logits or a save does, in program order.
//!
//! Layers are swept up and down, layer by layer, every micro-batch of the sweep passing through a layer while
//! its weights are there. Operations stand as early in the list as their memory allows, so that a lane whose
//! queue is short still has its next work: a slot is refilled right behind the last reader of its former
//! weights, both ways up and down, and the layers that are still in slots at the turn are not uploaded again.
//!
//! Of several sweeps a later one continues the sums of the one before it: a layer's f32 gradient stays on the
//! device or goes to the host and comes back. The embedding's backward comes once, after the last sweep, so
//! that every gradient is summed in the same order however a step is cut.

use std::ops::Range;

use super::operation::{
    AccumulatorBuffer, BoundaryBuffer, EndUnit, GradientBuffer, Guard, Operation, RowSet, WeightBuffer,
};
use super::policy::{Accumulator, AdamWhen, Extent, Geometry, GradWait, Policy, SPILL_BUFFERS};
use crate::base::{ChunkIndex, Error, MicroIndex, Result, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
use crate::model::Recompute;

#[cfg(test)]
mod tests;

/// Operations in program order: executed one by one they do what the list is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The operations.
    pub operations: Vec<Operation>,
    /// Micro-batches that pass through, and how many at a time.
    pub extent: Extent,
}

impl List {
    /// The operation whose end gives the issuing thread what the list is for, if it is to wait for that. AdamW may still
    /// run behind it.
    pub fn conclusion(&self) -> Option<usize> {
        let concludes = |operation: &Operation| {
            matches!(
                operation,
                Operation::DecideClip { .. } | Operation::DownloadLogits | Operation::DownloadLogprobs { .. }
            )
        };
        self.operations.iter().rposition(concludes)
    }
}

/// A training step over `micros` micro-batches: forward, backward, gradients to the host, AdamW.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn train(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    train_by(Builder::new(policy, geometry, micros)?)
}

/// As [`train`], where the tokens of the next list are known: AdamW updates their rows of the embedding before anything
/// else and all other rows last. The same list as [`train`]'s where that is [not possible](Policy::updates_rows_first).
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn train_rows_first(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let rows_first = policy.updates_rows_first(geometry);
    train_by(Builder { rows_first, ..Builder::new(policy, geometry, micros)? })
}

fn train_by(mut builder: Builder) -> Result<List> {
    for sweep in builder.sweeps() {
        builder.up(Way::Train, &sweep);
        for micro in sweep.micros() {
            builder.put(Operation::HeadForwardBackward { micro });
        }
        builder.down(&sweep);
    }
    builder.bottom();
    builder.put(Operation::DownloadLoss);
    builder.conclude();
    Ok(builder.list)
}

/// A training step whose loss is the caller's function of the log-probabilities of all targets of the step: forward,
/// [`Operation::Loss`], backward, AdamW. Whoever issues it does that operation when it comes to it.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): more than one sweep, since the loss is known after all
/// micro-batches have gone up and none may have left the device by then; what [`Policy::validate`] refuses.
pub fn train_with_loss(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    let mut sweeps = builder.sweeps();
    let (Some(sweep), None) = (sweeps.next(), sweeps.next()) else {
        return Err(Error::argument(format!(
            "a step with a loss of the caller's has one sweep, found sweeps = {} for its {micros} micro-batches: all \
             of them go up before the first goes down; open the trainer with 1 sweep, or step with fewer micro-batches",
            policy.placement.sweeps
        )));
    };
    builder.up(Way::Train, &sweep);
    builder.logprobs(&sweep);
    builder.put(Operation::Loss);
    for micro in sweep.micros() {
        builder.put(Operation::UploadDlogprobs { micro });
    }
    for micro in sweep.micros() {
        builder.put(Operation::HeadBackward { micro });
    }
    builder.down(&sweep);
    builder.bottom();
    builder.conclude();
    Ok(builder.list)
}

/// The loss of `micros` micro-batches, and nothing changed on the host but the loss.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn evaluate(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    for sweep in builder.sweeps() {
        builder.up(Way::Evaluate, &sweep);
        for micro in sweep.micros() {
            builder.put(Operation::HeadForward { micro });
        }
    }
    builder.put(Operation::DownloadLoss);
    builder.put(Operation::DecideClip { norms: false });
    Ok(builder.list)
}

/// The log-probabilities of the targets of `micros` micro-batches.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn logprobs(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    for sweep in builder.sweeps() {
        builder.up(Way::Evaluate, &sweep);
        builder.logprobs(&sweep);
    }
    Ok(builder.list)
}

/// The logits of one row of one micro-batch.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn logits(policy: &Policy, geometry: &Geometry) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, 1)?;
    for sweep in builder.sweeps() {
        builder.up(Way::Evaluate, &sweep);
    }
    builder.put(Operation::HeadLogits);
    builder.put(Operation::DownloadLogits);
    Ok(builder.list)
}

/// Every unit's state goes to wherever it is saved, in forward order: the order in which AdamW is done with them.
/// No policy has a say in it.
pub fn save(geometry: &Geometry) -> List {
    let operations = geometry.units().map(|unit| Operation::Save { unit }).collect();
    List { operations, extent: Extent { micros: 0, sweep: 1 } }
}

/// What the way up is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Train,
    Evaluate,
}

/// The micro-batches that go up and down together.
struct Sweep {
    micros: Range<usize>,
    first: bool,
    last: bool,
}

impl Sweep {
    fn micros(&self) -> impl Iterator<Item = MicroIndex> + use<> {
        self.micros.clone().map(MicroIndex::from)
    }
}

struct Builder<'a> {
    policy: &'a Policy,
    geometry: &'a Geometry,
    list: List,
    /// Whether AdamW updates the embedding by rows, those of the next list first, instead of by parts.
    rows_first: bool,
    /// Gradient parts rounded so far: slabs, and the ring's, are taken in turn.
    rounded: usize,
    /// Units whose gradients wait on the device, in the order they were rounded in, and the slabs of their norms.
    waiting: Vec<(UnitIndex, SlabIndex)>,
    /// By layer: where its boundary is on the device.
    boundaries: Vec<BoundaryBuffer>,
    /// By layer: where its f32 gradient is summed.
    sums: Vec<AccumulatorBuffer>,
    /// Layers whose sums pass through rooms, from the top.
    passing: Vec<usize>,
    /// By layer: where its weights go.
    slots: Vec<SlotIndex>,
    /// Layers that are not resident: they take the first slots in turn, so the last ones of the way up are
    /// the first ones of the way down.
    streamed: Vec<usize>,
    /// By slot: the layer whose weights are there.
    held: Vec<Option<usize>>,
}

impl<'a> Builder<'a> {
    fn new(policy: &'a Policy, geometry: &'a Geometry, micros: usize) -> Result<Self> {
        policy.validate(geometry, micros)?;
        let (placement, layers) = (&policy.placement, geometry.layers);
        let extent = Extent::new(placement, micros);

        let streamed: Vec<usize> = (0..layers).filter(|&layer| !placement.layer(layer).resident).collect();
        let (mut streams, mut stays) = (0..streamed.len(), placement.weight_slots..);
        let slot = |layer| {
            let at = if placement.layer(layer).resident {
                stays.next()
            } else {
                streams.next().map(|order| order % placement.weight_slots)
            };
            SlotIndex::from(at.expect("every layer has its turn"))
        };
        let slots = (0..layers).map(slot).collect();

        let mut spilled = (0..SPILL_BUFFERS).cycle().map(SpillIndex::from);
        let boundary = |layer| match placement.spills(layer) {
            true => BoundaryBuffer::Spill(spilled.next().expect("a cycle has no end")),
            false => BoundaryBuffer::Own,
        };
        let boundaries = (0..layers).map(boundary).collect();

        let passing: Vec<usize> = (0..layers).rev().filter(|&layer| placement.passes_sum(layer)).collect();
        let sum = |layer| match (placement.layer(layer).accumulator, placement.sweeps) {
            (Accumulator::OnDevice, _) => AccumulatorBuffer::Own,
            (Accumulator::Spilled, 1) => AccumulatorBuffer::Shared,
            (Accumulator::Spilled, _) => {
                let order = passing.iter().position(|&other| other == layer);
                AccumulatorBuffer::Spill(SpillIndex::from(order.expect("it passes") % SPILL_BUFFERS))
            }
        };
        let sums = (0..layers).map(sum).collect();
        Ok(Builder {
            policy,
            geometry,
            list: List { operations: Vec::new(), extent },
            rows_first: false,
            rounded: 0,
            waiting: Vec::new(),
            boundaries,
            sums,
            passing,
            slots,
            streamed,
            held: vec![None; placement.weight_slots + placement.residents()],
        })
    }

    fn put(&mut self, operation: Operation) {
        self.list.operations.push(operation);
    }

    fn sweeps(&self) -> impl Iterator<Item = Sweep> + use<> {
        let Extent { micros, sweep } = self.list.extent;
        (0..micros).step_by(sweep).map(move |start| {
            let end = (start + sweep).min(micros);
            Sweep { micros: start..end, first: start == 0, last: end == micros }
        })
    }

    fn chunks(&self, unit: UnitIndex) -> impl Iterator<Item = ChunkIndex> + use<> {
        (0..self.geometry.chunks(unit)).map(ChunkIndex::from)
    }

    fn upload(&mut self, layer: usize) {
        let slot = self.slots[layer];
        if self.held[slot.at()].replace(layer) != Some(layer) {
            self.put(Operation::Upload { unit: self.geometry.layer(layer), place: WeightBuffer::Slot(slot) });
        }
    }

    /// Uploads layers from `next` on: resident ones, and streamed ones as long as the first `free` of them may.
    fn upload_from(&mut self, next: &mut usize, free: usize) {
        while *next < self.geometry.layers {
            let streamed = self.streamed.binary_search(next);
            if streamed.is_ok_and(|order| order >= free) {
                return;
            }
            self.upload(*next);
            *next += 1;
        }
    }

    /// Where the input of layer `layer` is; above the last layer it is the stream.
    fn boundary(&self, layer: usize) -> BoundaryBuffer {
        self.boundaries.get(layer).copied().unwrap_or(BoundaryBuffer::ResidualStream)
    }

    /// Of the layers whose boundaries pass through the same room, the next one below.
    fn below_in_room(&self, layer: usize) -> Option<usize> {
        let place = self.boundary(layer);
        let same = |below: &usize| self.boundary(*below) == place;
        (0..layer).rev().find(same).filter(|_| matches!(place, BoundaryBuffer::Spill(_)))
    }

    /// A layer's input has been written; if it is to go to the host, it goes.
    fn spill(&mut self, way: Way, layer: usize, micro: MicroIndex) {
        if let (Way::Train, BoundaryBuffer::Spill(spill)) = (way, self.boundary(layer))
            && self.policy.placement.leaves(layer)
        {
            self.put(Operation::SpillBoundary { unit: self.geometry.layer(layer), micro, spill });
        }
    }

    /// Batches, embedding, all layers; leaves the head's weights on the device. On the way to a backward a layer
    /// keeps what that will not compute again.
    fn up(&mut self, way: Way, sweep: &Sweep) {
        let (layers, slots) = (self.geometry.layers, self.policy.placement.weight_slots);
        for micro in sweep.micros() {
            self.put(Operation::UploadBatch { micro });
        }
        // Tied, the ends have regions of their own and stay.
        let ends = sweep.first || !self.geometry.tied;
        if ends {
            let embedding = self.geometry.embedding();
            self.put(Operation::Upload { unit: embedding, place: WeightBuffer::EndUnit(EndUnit::First) });
        }
        let mut next = 0;
        self.upload_from(&mut next, slots);
        for micro in sweep.micros() {
            self.put(Operation::EmbedForward { micro, to: self.boundary(0) });
            self.spill(way, 0, micro);
        }
        // The head is large and shares a lane with the layers: behind the last of them it has the time of
        // `slots` layers to arrive in, anywhere before it would hold one of them up.
        let mut head = ends;
        if head && next == layers {
            self.upload_head();
            head = false;
        }
        for layer in 0..layers {
            let recompute = match way {
                Way::Train => self.policy.placement.layer(layer).recompute,
                Way::Evaluate => Recompute::Full,
            };
            for micro in sweep.micros() {
                let (unit, slot) = (self.geometry.layer(layer), self.slots[layer]);
                let (from, to) = (self.boundary(layer), self.boundary(layer + 1));
                self.put(Operation::Forward { unit, slot, micro, recompute, from, to });
                self.spill(way, layer + 1, micro);
            }
            if let Ok(order) = self.streamed.binary_search(&layer) {
                self.upload_from(&mut next, order + 1 + slots);
            }
            if head && next == layers {
                self.upload_head();
                head = false;
            }
        }
    }

    fn upload_head(&mut self) {
        let place = if self.geometry.tied { EndUnit::Second } else { EndUnit::First };
        self.put(Operation::Upload { unit: self.geometry.head(), place: WeightBuffer::EndUnit(place) });
    }

    /// Behind the way up: the log-probabilities of the targets, each micro-batch's while the next is computed.
    fn logprobs(&mut self, sweep: &Sweep) {
        for micro in sweep.micros() {
            self.put(Operation::HeadLogprobs { micro });
            self.put(Operation::DownloadLogprobs { micro });
        }
    }

    /// All gradients but the embedding's: head and layers. After the last sweep they are complete and leave.
    ///
    /// A layer's gradient leaves in one slab behind its backward. The head's may need many; they have until
    /// the embedding's backward takes over their region, and rounding them in a row would keep `compute`
    /// waiting for slabs. So as many as leave one slab free go at once, to start `d2h` early, and the others
    /// are spread evenly over the layers' backwards, where one more slab is least in the way.
    fn down(&mut self, sweep: &Sweep) {
        let (layers, micros) = (self.geometry.layers, sweep.micros.len());
        let head = self.geometry.head();
        let chunks = if sweep.last { self.geometry.chunks(head) } else { 0 };
        let mut leaving = (0..chunks).map(ChunkIndex::from);
        let at_once = self.policy.slabs(self.geometry) - 1;
        for chunk in leaving.by_ref().take(at_once) {
            self.round(head, AccumulatorBuffer::Own, chunk);
        }
        let (steps, gaps) = (layers * micros, chunks.saturating_sub(at_once) + 1);
        let mut due = leaving.zip(1..).map(|(chunk, gap)| (chunk, gap * steps / gaps)).peekable();

        for order in 0..SPILL_BUFFERS {
            self.fetch_sum(sweep, order);
        }
        for (done, layer) in (0..layers).rev().enumerate() {
            let (unit, slot, accumulator) = (self.geometry.layer(layer), self.slots[layer], self.sums[layer]);
            let (recompute, from) = (self.policy.placement.layer(layer).recompute, self.boundary(layer));
            for (count, micro) in sweep.micros().enumerate() {
                while let Some((chunk, _)) = due.next_if(|&(_, step)| step <= done * micros + count) {
                    self.round(head, AccumulatorBuffer::Own, chunk);
                }
                self.put(Operation::RecomputeBackward { unit, slot, micro, recompute, from, accumulator });
                if let (BoundaryBuffer::Spill(spill), Some(below)) = (from, self.below_in_room(layer)) {
                    self.fetch_boundary(below, micro, spill);
                }
            }
            if let Some(order) = self.streamed.binary_search(&layer).ok()
                && let Some(below) = order.checked_sub(self.policy.placement.weight_slots)
            {
                self.upload(self.streamed[below]);
            }
            if sweep.last {
                self.round(unit, accumulator, ChunkIndex(0));
            } else if let AccumulatorBuffer::Spill(spill) = accumulator
                && self.policy.placement.stores_accumulator(layer, layers)
            {
                self.put(Operation::SpillAccumulator { unit, spill, terms: sweep.micros.end as u32 });
            }
            if let Some(order) = self.passing.iter().position(|&passing| passing == layer) {
                self.fetch_sum(sweep, order + SPILL_BUFFERS);
            }
        }
    }

    fn fetch_boundary(&mut self, layer: usize, micro: MicroIndex, spill: SpillIndex) {
        if self.policy.placement.leaves(layer) {
            self.put(Operation::FetchBoundary { unit: self.geometry.layer(layer), micro, spill });
        }
    }

    /// The sum of the `order`-th of those that pass through rooms comes back from the host.
    fn fetch_sum(&mut self, sweep: &Sweep, order: usize) {
        let layer = self.passing.get(order).copied().filter(|_| !sweep.first);
        if let Some(layer) = layer
            && let AccumulatorBuffer::Spill(spill) = self.sums[layer]
            && self.policy.placement.stores_accumulator(layer, self.geometry.layers)
        {
            let (unit, terms) = (self.geometry.layer(layer), sweep.micros.start as u32);
            self.put(Operation::FetchAccumulator { unit, spill, terms });
        }
    }

    /// The embedding's gradient.
    fn bottom(&mut self) {
        for micro in (0..self.list.extent.micros).map(MicroIndex::from) {
            self.put(Operation::EmbedBackward { micro });
        }
        let embedding = self.geometry.embedding();
        for chunk in self.chunks(embedding) {
            self.round(embedding, AccumulatorBuffer::Own, chunk);
        }
        for (unit, slab) in std::mem::take(&mut self.waiting) {
            self.put(Operation::DownloadNorm { unit, slab });
        }
    }

    /// Rounds a part. The norm of a unit of one part is taken with it, that of others before their first part. A part that
    /// need not wait on the device leaves, and where AdamW need not wait for the norm of all units it is used at once.
    fn round(&mut self, unit: UnitIndex, accumulator: AccumulatorBuffer, chunk: ChunkIndex) {
        let slab = match self.policy.placement.grad_wait {
            GradWait::Host => SlabIndex::from(self.rounded % self.policy.placement.slabs),
            GradWait::Device => self.geometry.slab_of(unit, chunk),
        };
        self.rounded += 1;
        if chunk == ChunkIndex(0) && !self.geometry.is_rounded_whole(unit) {
            self.put(Operation::Norm { unit, accumulator, slab });
        }
        self.put(Operation::Round { unit, accumulator, chunk, slab });
        if self.policy.placement.grad_wait == GradWait::Device {
            self.waiting.extend((chunk == ChunkIndex(0)).then_some((unit, slab)));
            return;
        }
        if chunk == ChunkIndex(0) {
            self.put(Operation::DownloadNorm { unit, slab });
        }
        let to = self.landing(self.rounded - 1);
        self.put(Operation::Download { unit, chunk, slab, to });
        if self.policy.placement.adam == AdamWhen::UnderBackward {
            self.adam(unit, chunk, to, Guard::Unit);
        }
    }

    /// Where the `count`-th part to leave lands.
    fn landing(&self, count: usize) -> GradientBuffer {
        if self.policy.streams_gradients() {
            GradientBuffer::Ring((count % self.policy.placement.ring) as u32)
        } else {
            GradientBuffer::Store
        }
    }

    /// The verdict, and AdamW.
    fn conclude(&mut self) {
        self.put(Operation::DecideClip { norms: true });
        self.update();
    }

    /// AdamW in forward order, once the verdict is known, but for an embedding that is updated by rows. Gradients that
    /// have waited on the device leave now.
    fn update(&mut self) {
        if self.policy.placement.adam == AdamWhen::UnderBackward {
            return;
        }
        let guard = Guard::ClipDecision;
        let waits = self.policy.placement.grad_wait == GradWait::Device;
        let mut left = 0;
        for unit in self.geometry.units() {
            for chunk in self.chunks(unit) {
                let mut from = GradientBuffer::Store;
                if waits {
                    from = self.landing(left);
                    let slab = self.geometry.slab_of(unit, chunk);
                    self.put(Operation::Download { unit, chunk, slab, to: from });
                    left += 1;
                }
                self.adam(unit, chunk, from, guard);
            }
            if self.rows_first && unit == self.geometry.embedding() {
                self.put(Operation::AdamRows { rows: RowSet::Next });
            }
        }
        if self.rows_first {
            self.put(Operation::AdamRows { rows: RowSet::Others });
        }
    }

    /// AdamW of a part of a unit, unless the unit is updated by rows.
    fn adam(&mut self, unit: UnitIndex, chunk: ChunkIndex, from: GradientBuffer, guard: Guard) {
        if !(self.rows_first && unit == self.geometry.embedding()) {
            self.put(Operation::Adam { unit, chunk, from, guard });
        }
    }
}
