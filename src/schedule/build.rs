//! Builds lists: the operations of a step, an evaluation, logits or a save, in program order.
//!
//! Forward and backward go layer by layer: a layer's weights serve every micro-batch of the sweep.
//! Operations stand as early in the list as their memory allows, so that a lane with a short queue
//! already has its next task. A slot is refilled right after the last reader of its previous
//! weights, in forward and in backward. Layers still in slots at the end of forward are not
//! uploaded again.
//!
//! Later sweeps continue the accumulators of earlier ones: a layer's f32 gradient stays on the
//! device, or goes to the host and comes back. The embedding's backward runs once, after the last
//! sweep, so that the order of summation does not depend on the number of sweeps.

use std::ops::Range;

use super::operation::{
    AccumulatorBuffer, BoundaryBuffer, EndUnit, GradientBuffer, Guard, Operation, RowSet, WeightBuffer,
};
use super::policy::{Accumulator, AdamWhen, Extent, Geometry, GradWait, Policy, SPILL_BUFFERS};
use crate::base::{ChunkIndex, Error, MicroIndex, Name, Result, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
use crate::model::Recompute;

#[cfg(test)]
mod tests;

/// Operations in program order: executed one by one, they are correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The operations.
    pub operations: Vec<Operation>,
    /// The micro-batches of the list, and of a sweep.
    pub extent: Extent,
}

impl List {
    /// The position of the operation whose end gives the issuing thread the result of the list;
    /// `None` if there is no result to wait for. AdamW may still run after it.
    pub fn conclusion(&self) -> Option<usize> {
        let concludes = |operation: &Operation| {
            matches!(
                operation,
                Operation::ClipDecision { .. }
                    | Operation::DownloadLogits
                    | Operation::DownloadLogprobs { .. }
            )
        };
        self.operations.iter().rposition(concludes)
    }

    /// The number of AdamW's operations.
    pub fn updates(&self) -> usize {
        let updates =
            |operation: &&Operation| matches!(operation, Operation::Adam { .. } | Operation::AdamRows { .. });
        self.operations.iter().filter(updates).count()
    }
}

/// A training step over `micros` micro-batches: forward, backward, gradients to the host, AdamW.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): those of [`Policy::validate`].
pub fn train(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    train_by(Builder::new(policy, geometry, micros)?)
}

/// Like [`train`], for a list whose next list's tokens are known: AdamW updates their rows of the
/// embedding before anything else and all other rows last. Equal to [`train`] where that is [not
/// possible](Policy::updates_rows_first).
///
/// Errors ([`InvalidArgument`](crate::base::Status)): those of [`Policy::validate`].
pub fn train_rows_first(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let rows_first = policy.updates_rows_first(geometry);
    train_by(Builder { rows_first, ..Builder::new(policy, geometry, micros)? })
}

fn train_by(mut builder: Builder) -> Result<List> {
    for sweep in builder.sweeps() {
        builder.forward(Purpose::Train, &sweep);
        for micro in sweep.micros() {
            builder.put(Operation::HeadForwardBackward { micro });
        }
        builder.backward(&sweep);
    }
    builder.embedding_backward();
    builder.put(Operation::DownloadLoss);
    builder.decide_and_update();
    Ok(builder.list)
}

/// A training step whose loss is the caller's function of the log-probabilities of all targets of
/// the step: forward, [`Operation::Loss`], backward, AdamW. The issuing thread executes
/// [`Operation::Loss`] itself.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): more than one sweep, since the loss is known
/// only after the forward of all micro-batches, which must all be on the device by then; those of
/// [`Policy::validate`].
pub fn train_with_loss(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    let mut sweeps = builder.sweeps();
    let (Some(sweep), None) = (sweeps.next(), sweeps.next()) else {
        return Err(Error::argument(format!(
            "with {} the {micros} micro-batches of this step run in several sweeps, but a custom loss needs one: it \
             follows the forward of all micro-batches; open the trainer with {}, or step with fewer micro-batches",
            Name::Sweeps.is(policy.placement.sweeps),
            Name::Sweeps.is(1)
        )));
    };
    builder.forward(Purpose::Train, &sweep);
    builder.logprobs(&sweep);
    builder.put(Operation::Loss);
    for micro in sweep.micros() {
        builder.put(Operation::UploadDlogprobs { micro });
    }
    for micro in sweep.micros() {
        builder.put(Operation::HeadBackward { micro });
    }
    builder.backward(&sweep);
    builder.embedding_backward();
    builder.decide_and_update();
    Ok(builder.list)
}

/// Computes the loss of `micros` micro-batches, without changes to the model.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): those of [`Policy::validate`].
pub fn evaluate(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    for sweep in builder.sweeps() {
        builder.forward(Purpose::Evaluate, &sweep);
        for micro in sweep.micros() {
            builder.put(Operation::HeadForward { micro });
        }
    }
    builder.put(Operation::DownloadLoss);
    builder.put(Operation::ClipDecision { norms: false });
    Ok(builder.list)
}

/// Computes the log-probabilities of the targets of `micros` micro-batches.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): those of [`Policy::validate`].
pub fn logprobs(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    for sweep in builder.sweeps() {
        builder.forward(Purpose::Evaluate, &sweep);
        builder.logprobs(&sweep);
    }
    Ok(builder.list)
}

/// The logits of one row of one micro-batch.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): those of [`Policy::validate`].
pub fn logits(policy: &Policy, geometry: &Geometry) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, 1)?;
    for sweep in builder.sweeps() {
        builder.forward(Purpose::Evaluate, &sweep);
    }
    builder.put(Operation::HeadLogits);
    builder.put(Operation::DownloadLogits);
    Ok(builder.list)
}

/// Saves the state of every unit, in forward order, which is the order in which AdamW finishes.
/// Independent of the policy.
pub fn save(geometry: &Geometry) -> List {
    let operations = geometry.units().map(|unit| Operation::Save { unit }).collect();
    List { operations, extent: Extent { micros: 0, sweep: 1 } }
}

/// The purpose of a forward.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Train,
    Evaluate,
}

/// A group of micro-batches that run forward and backward together.
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
    /// True if AdamW updates the embedding by rows, those of the next list first, instead of by
    /// chunks.
    rows_first: bool,
    /// Gradient chunks rounded so far: device slabs and ring slabs are used in turn.
    rounded: usize,
    /// Units whose gradients wait on the device, in rounding order, and the slabs of their norms.
    waiting: Vec<(UnitIndex, SlabIndex)>,
    /// By layer: the device buffer of its boundary.
    boundaries: Vec<BoundaryBuffer>,
    /// By layer: the device buffer of its f32 gradient.
    accumulators: Vec<AccumulatorBuffer>,
    /// Layers whose accumulators pass through spill buffers, from the top.
    spilled: Vec<usize>,
    /// By layer: the slot of its weights.
    slots: Vec<SlotIndex>,
    /// Layers that are not resident: they use the first slots in turn, so the last ones of forward
    /// are the first ones of backward.
    streamed: Vec<usize>,
    /// By slot: the layer whose weights it holds.
    in_slot: Vec<Option<usize>>,
}

impl<'a> Builder<'a> {
    fn new(policy: &'a Policy, geometry: &'a Geometry, micros: usize) -> Result<Self> {
        policy.validate(geometry, micros)?;
        let (placement, layers) = (&policy.placement, geometry.layers);
        let extent = Extent::new(placement, micros);

        let streamed: Vec<usize> = (0..layers).filter(|&layer| !placement.layer(layer).resident).collect();
        let (mut turns, mut own_slots) = (0..streamed.len(), placement.weight_slots..);
        let slot = |layer| {
            let at = if placement.layer(layer).resident {
                own_slots.next()
            } else {
                turns.next().map(|order| order % placement.weight_slots)
            };
            SlotIndex::from(at.expect("there is a slot for every layer"))
        };
        let slots = (0..layers).map(slot).collect();

        let mut buffers = (0..SPILL_BUFFERS).cycle().map(SpillIndex::from);
        let boundary = |layer| match placement.spills(layer) {
            true => BoundaryBuffer::Spill(buffers.next().expect("a cycle has no end")),
            false => BoundaryBuffer::Own,
        };
        let boundaries = (0..layers).map(boundary).collect();

        let spilled: Vec<usize> =
            (0..layers).rev().filter(|&layer| placement.spills_accumulator(layer)).collect();
        let accumulator = |layer| match (placement.layer(layer).accumulator, placement.sweeps) {
            (Accumulator::OnDevice, _) => AccumulatorBuffer::Own,
            (Accumulator::Spilled, 1) => AccumulatorBuffer::Shared,
            (Accumulator::Spilled, _) => {
                let order = spilled.iter().position(|&other| other == layer);
                AccumulatorBuffer::Spill(SpillIndex::from(order.expect("it is spilled") % SPILL_BUFFERS))
            }
        };
        let accumulators = (0..layers).map(accumulator).collect();
        Ok(Builder {
            policy,
            geometry,
            list: List { operations: Vec::new(), extent },
            rows_first: false,
            rounded: 0,
            waiting: Vec::new(),
            boundaries,
            accumulators,
            spilled,
            slots,
            streamed,
            in_slot: vec![None; placement.weight_slots + placement.residents()],
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
        if self.in_slot[slot.at()].replace(layer) != Some(layer) {
            self.put(Operation::Upload { unit: self.geometry.layer(layer), place: WeightBuffer::Slot(slot) });
        }
    }

    /// Uploads layers from `next` on: resident layers, and the first `free` of the streamed layers.
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

    /// The buffer of the input of layer `layer`; above the last layer, the residual stream.
    fn boundary(&self, layer: usize) -> BoundaryBuffer {
        self.boundaries.get(layer).copied().unwrap_or(BoundaryBuffer::ResidualStream)
    }

    /// The next layer below whose boundary uses the same spill buffer.
    fn next_in_spill_buffer(&self, layer: usize) -> Option<usize> {
        let buffer = self.boundary(layer);
        let same = |below: &usize| self.boundary(*below) == buffer;
        (0..layer).rev().find(same).filter(|_| matches!(buffer, BoundaryBuffer::Spill(_)))
    }

    /// Copies a layer's input, which has just been written, to the host if the placement says so.
    fn spill(&mut self, purpose: Purpose, layer: usize, micro: MicroIndex) {
        if let (Purpose::Train, BoundaryBuffer::Spill(spill)) = (purpose, self.boundary(layer))
            && self.policy.placement.leaves(layer)
        {
            self.put(Operation::SpillBoundary { unit: self.geometry.layer(layer), micro, spill });
        }
    }

    /// Batches, embedding, all layers; leaves the head's weights on the device. In training, layers
    /// save the activations that their backward does not recompute.
    fn forward(&mut self, purpose: Purpose, sweep: &Sweep) {
        let (layers, slots) = (self.geometry.layers, self.policy.placement.weight_slots);
        for micro in sweep.micros() {
            self.put(Operation::UploadBatch { micro });
        }
        // Tied, the weights of embedding and head stay on the device through all sweeps.
        let upload_ends = sweep.first || !self.geometry.tied;
        if upload_ends {
            let embedding = self.geometry.embedding();
            self.put(Operation::Upload { unit: embedding, place: WeightBuffer::EndUnit(EndUnit::First) });
        }
        let mut next = 0;
        self.upload_from(&mut next, slots);
        for micro in sweep.micros() {
            self.put(Operation::EmbedForward { micro, to: self.boundary(0) });
            self.spill(purpose, 0, micro);
        }
        // The head is large and shares a lane with the layers. Uploaded after the last layer, it has the
        // time of `slots` layers to arrive; uploaded earlier, it would delay a layer.
        let mut head = upload_ends;
        if head && next == layers {
            self.upload_head();
            head = false;
        }
        for layer in 0..layers {
            let recompute = match purpose {
                Purpose::Train => self.policy.placement.layer(layer).recompute,
                Purpose::Evaluate => Recompute::Full,
            };
            for micro in sweep.micros() {
                let (unit, slot) = (self.geometry.layer(layer), self.slots[layer]);
                let (from, to) = (self.boundary(layer), self.boundary(layer + 1));
                self.put(Operation::Forward { unit, slot, micro, recompute, from, to });
                self.spill(purpose, layer + 1, micro);
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
        let end = if self.geometry.tied { EndUnit::Second } else { EndUnit::First };
        self.put(Operation::Upload { unit: self.geometry.head(), place: WeightBuffer::EndUnit(end) });
    }

    /// The log-probabilities of the targets, after forward; one micro-batch is downloaded while the
    /// next is computed.
    fn logprobs(&mut self, sweep: &Sweep) {
        for micro in sweep.micros() {
            self.put(Operation::HeadLogprobs { micro });
            self.put(Operation::DownloadLogprobs { micro });
        }
    }

    /// Backward of head and layers. After the last sweep their gradients are complete and are
    /// rounded.
    ///
    /// A layer's gradient is one chunk, rounded after its backward. The head's gradient may have
    /// many chunks, which must be rounded before the embedding's backward reuses the buffer;
    /// rounding them in a row would keep `compute` waiting for slabs. So all slabs but one are
    /// used at once, to start `d2h` early, and the other chunks are spread evenly over the
    /// layers' backwards, where one more slab delays least.
    fn backward(&mut self, sweep: &Sweep) {
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
            self.fetch_accumulator(sweep, order);
        }
        for (done, layer) in (0..layers).rev().enumerate() {
            let (unit, slot) = (self.geometry.layer(layer), self.slots[layer]);
            let accumulator = self.accumulators[layer];
            let (recompute, from) = (self.policy.placement.layer(layer).recompute, self.boundary(layer));
            for (count, micro) in sweep.micros().enumerate() {
                while let Some((chunk, _)) = due.next_if(|&(_, step)| step <= done * micros + count) {
                    self.round(head, AccumulatorBuffer::Own, chunk);
                }
                self.put(Operation::RecomputeBackward { unit, slot, micro, recompute, from, accumulator });
                if let (BoundaryBuffer::Spill(spill), Some(below)) = (from, self.next_in_spill_buffer(layer))
                {
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
            if let Some(order) = self.spilled.iter().position(|&spilled| spilled == layer) {
                self.fetch_accumulator(sweep, order + SPILL_BUFFERS);
            }
        }
    }

    fn fetch_boundary(&mut self, layer: usize, micro: MicroIndex, spill: SpillIndex) {
        if self.policy.placement.leaves(layer) {
            self.put(Operation::FetchBoundary { unit: self.geometry.layer(layer), micro, spill });
        }
    }

    /// Fetches the `order`-th of the spilled accumulators from the host.
    fn fetch_accumulator(&mut self, sweep: &Sweep, order: usize) {
        let layer = self.spilled.get(order).copied().filter(|_| !sweep.first);
        if let Some(layer) = layer
            && let AccumulatorBuffer::Spill(spill) = self.accumulators[layer]
            && self.policy.placement.stores_accumulator(layer, self.geometry.layers)
        {
            let (unit, terms) = (self.geometry.layer(layer), sweep.micros.start as u32);
            self.put(Operation::FetchAccumulator { unit, spill, terms });
        }
    }

    /// The embedding's backward; rounds its gradient.
    fn embedding_backward(&mut self) {
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

    /// Rounds a gradient chunk. The norm of a unit of one chunk is computed in the same pass, that
    /// of other units before their first chunk. A chunk that does not wait on the device is
    /// downloaded; if AdamW does not wait for the global norm, the chunk is used at once.
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
        let to = self.host_buffer(self.rounded - 1);
        self.put(Operation::Download { unit, chunk, slab, to });
        if self.policy.placement.adam == AdamWhen::UnderBackward {
            self.adam(unit, chunk, to, Guard::Unit);
        }
    }

    /// The host buffer of the `count`-th chunk to be downloaded.
    fn host_buffer(&self, count: usize) -> GradientBuffer {
        if self.policy.streams_gradients() {
            GradientBuffer::Ring((count % self.policy.placement.ring) as u32)
        } else {
            GradientBuffer::Store
        }
    }

    /// The clip decision, and AdamW.
    fn decide_and_update(&mut self) {
        self.put(Operation::ClipDecision { norms: true });
        self.update();
    }

    /// AdamW in forward order, after the clip decision, except for an embedding that is updated by
    /// rows. Gradients that have waited on the device are downloaded now.
    fn update(&mut self) {
        if self.policy.placement.adam == AdamWhen::UnderBackward {
            return;
        }
        let guard = Guard::ClipDecision;
        let waits = self.policy.placement.grad_wait == GradWait::Device;
        let mut downloaded = 0;
        for unit in self.geometry.units() {
            for chunk in self.chunks(unit) {
                let mut from = GradientBuffer::Store;
                if waits {
                    from = self.host_buffer(downloaded);
                    let slab = self.geometry.slab_of(unit, chunk);
                    self.put(Operation::Download { unit, chunk, slab, to: from });
                    downloaded += 1;
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

    /// AdamW of a chunk of a unit, unless the unit is updated by rows.
    fn adam(&mut self, unit: UnitIndex, chunk: ChunkIndex, from: GradientBuffer, guard: Guard) {
        if !(self.rows_first && unit == self.geometry.embedding()) {
            self.put(Operation::Adam { unit, chunk, from, guard });
        }
    }
}
