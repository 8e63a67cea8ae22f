//! What each operation does: from its name to the places the plan gave it, to the arithmetic.

use std::sync::Arc;

use crate::base::{DType, MicroIndex, PartIndex, Result, SeatIndex, Shape, SlotIndex, UnitIndex};
use crate::device::{Device, DeviceSpan, Lane, Work};
use crate::engine::frame::{Frame, Inputs, Verdict};
use crate::engine::options::AdamOptions;
use crate::engine::save::Saving;
use crate::engine::store::{AdamPiece, Store};
use crate::engine::task::{Lists, Task};
use crate::engine::tuning::Tuning;
use crate::host::Pool;
use crate::model::{self, Constants, HeadScratch, HeadSpans, LayerScratch, Layout, ModelConfig, Recompute};
use crate::ops::{Kernels, LossRows, Rows, TokenRows, Write};
use crate::optim::{self, AdamScalars, Rounding, Step};
use crate::plan::{Cost, Place, Plan};
use crate::schedule::{BoundaryPlace, Extent, GradPlace, Guard, Operation, RowSet, SumPlace, WeightPlace};

/// Steps that may be in flight: one deciding, one whose AdamW still runs.
pub const FRAMES: usize = 2;

/// Everything a task may need.
pub struct Runner {
    /// The model's description.
    pub config: ModelConfig,
    /// Where everything is.
    pub plan: Plan,
    /// The host-resident model.
    pub store: Store,
    /// The lists of this trainer.
    pub lists: Lists,
    /// What differs from step to step.
    pub frames: [Frame; FRAMES],
    /// The save that is under way.
    pub saving: Saving,
    /// Arithmetic on device memory.
    pub kernels: Box<dyn Kernels>,
    /// Copies.
    pub device: Arc<dyn Device>,
    /// The device arena.
    pub memory: DeviceSpan,
    /// CPU workers for the host lane.
    pub pool: Arc<Pool>,
    /// AdamW's constants.
    pub adam: AdamOptions,
    /// What is particular to tensors.
    pub tuning: Tuning,
    /// Largest global norm; 0 is off.
    pub clip: f64,
}

impl Work for Runner {
    fn run(&self, lane: Lane, name: u64) -> Result<()> {
        let task = Task::unpack(name);
        let operation = self.lists.operation(task);
        let extent = self.lists.numbered(task.list).extent;
        let frame = &self.frames[usize::from(task.frame)];
        if frame.is_abandoned() {
            return Ok(());
        }
        self.perform(operation, extent, frame)
            .and_then(|()| if lane == Lane::Compute { self.kernels.outcome() } else { Ok(()) })
            .map_err(|error| error.within(operation))?;
        for resource in self.lists.retired(task) {
            if let Some((_, place)) = self.plan.device.named(&resource) {
                self.device.scrub(lane, self.at(place)).map_err(|error| error.within(operation))?;
            }
        }
        Ok(())
    }

    fn describe(&self, name: u64) -> String {
        self.lists.operation(Task::unpack(name)).to_string()
    }
}

impl Runner {
    /// Runs, or enqueues, an operation of a list whose extent is given.
    pub(super) fn perform(&self, operation: Operation, extent: Extent, frame: &Frame) -> Result<()> {
        let boundary = |place, unit, micro| self.boundary(extent, place, unit, micro);
        match operation {
            Operation::UploadBatch { micro } => {
                self.device.upload(self.at(self.plan.device.batch(micro).whole), self.store.batch(micro))?;
            }
            Operation::Upload { unit, place } => {
                let gathers = unit == self.layout().embedding() && !self.config.tied;
                let from = if gathers { self.store.gathered() } else { self.store.weights(unit) };
                let to = match place {
                    WeightPlace::Slot(slot) => self.plan.device.slot(slot),
                    WeightPlace::End(end) => self.plan.device.end_weights(end),
                };
                self.device.upload(self.at(to).part(0, from.bytes()), from)?;
            }
            Operation::EmbedForward { micro, to } => {
                self.embed_forward(micro, boundary(to, UnitIndex(1), micro));
            }
            Operation::SpillBoundary { unit, micro, room } => {
                let from = boundary(BoundaryPlace::Room(room), unit, micro);
                self.device.download(self.store.boundary(unit, extent.seat(micro)), from)?;
            }
            Operation::FetchBoundary { unit, micro, room } => {
                let to = boundary(BoundaryPlace::Room(room), unit, micro);
                self.device.upload(to, self.store.boundary(unit, extent.seat(micro)))?;
            }
            Operation::SpillSum { unit, room, .. } => {
                self.device.download(self.store.sum(unit), self.at(self.plan.device.sum_room(room)))?;
            }
            Operation::FetchSum { unit, room, .. } => {
                self.device.upload(self.at(self.plan.device.sum_room(room)), self.store.sum(unit))?;
            }
            Operation::Forward { unit, slot, micro, recompute, from, to } => {
                let (x, out) = (boundary(from, unit, micro), boundary(to, UnitIndex(unit.0 + 1), micro));
                let scratch = self.layer_scratch(unit, extent.seat(micro), recompute);
                self.forward(unit, slot, micro, x, out, &scratch);
            }
            Operation::HeadForwardBackward { micro } => {
                self.head_forward_backward(frame, micro);
                self.zero_frozen(extent, self.layout().head(), micro, SumPlace::Own);
            }
            Operation::HeadForward { micro } => self.head_forward(frame, micro),
            Operation::HeadLogits => self.head_logits(frame),
            Operation::HeadLogprobs { micro } => self.head_logprobs(micro),
            Operation::HeadBackward { micro } => {
                self.head_backward(micro);
                self.zero_frozen(extent, self.layout().head(), micro, SumPlace::Own);
            }
            Operation::RecomputeBackward { unit, slot, micro, recompute, from, sum } => {
                let scratch = self.layer_scratch(unit, extent.seat(micro), recompute);
                let (x, gradient) = (boundary(from, unit, micro), self.gradient(unit, sum));
                self.recompute_backward(unit, slot, micro, x, gradient, &scratch);
                self.zero_frozen(extent, unit, micro, sum);
            }
            Operation::EmbedBackward { micro } => {
                self.embed_backward(micro);
                self.zero_frozen(extent, self.layout().embedding(), micro, SumPlace::Own);
            }
            Operation::Norm { unit, sum, slab } => {
                let (squares, sum) = (self.at(self.plan.device.norm(slab)), self.gradient(unit, sum));
                for Run { elements, blocks } in self.layout().unit(unit).runs() {
                    let sum = sum.part(elements.start * 4, elements.len() * 4);
                    self.kernels.sum_of_squares(squares.part(blocks.start * 8, blocks.len() * 8), sum);
                }
            }
            Operation::Round { unit, sum, part, slab } => {
                let first = self.layout().part(unit, part).start;
                let dtype = self.plan.policy.numeric.grad_dtype;
                let whole = self.plan.geometry.is_rounded_whole(unit);
                let squares = whole.then(|| self.at(self.plan.device.norm(slab)));
                let (slab, sum) = (self.at(self.plan.device.slab(slab)), self.gradient(unit, sum));
                for Run { elements, blocks } in self.layout().part_runs(unit, part) {
                    let (start, size) = (elements.start - first, dtype.bytes());
                    self.kernels.round(
                        slab.part(start * size, elements.len() * size),
                        squares.map(|squares| squares.part(blocks.start * 8, blocks.len() * 8)),
                        sum.part(elements.start * 4, elements.len() * 4),
                        dtype,
                    );
                }
            }
            Operation::Download { unit, part, slab, to } => {
                let to = self.store.gradient(unit, part, to);
                self.device.download(to, self.at(self.plan.device.slab(slab)).part(0, to.bytes()))?;
            }
            Operation::DownloadNorm { unit, slab } => {
                let to = self.store.norm(unit);
                self.device.download(to, self.at(self.plan.device.norm(slab)).part(0, to.bytes()))?;
            }
            Operation::DownloadLoss => {
                self.device.download(self.store.loss(), self.at(self.plan.device.loss()))?;
            }
            Operation::DownloadLogits => {
                self.device.download(self.store.logits(), self.at(self.plan.device.logits()))?;
            }
            Operation::DownloadLogprobs { micro } => {
                let from = self.at(self.plan.device.logprobs(micro));
                self.device.download(self.store.logprobs(micro), from)?;
            }
            // The issuing thread has done it: the task is there to be waited for.
            Operation::Loss => {}
            Operation::UploadDlogprobs { micro } => {
                let to = self.at(self.plan.device.logprobs(micro));
                self.device.upload(to, self.store.logprobs(micro))?;
            }
            Operation::Decide { norms } => self.decide(frame, norms),
            Operation::Adam { unit, part, from, guard } => self.adam(frame, unit, part, from, guard),
            Operation::AdamRows { rows } => self.adam_rows(frame, rows),
            Operation::Save { unit } => {
                self.saving.unit(&self.store.unit_state(unit), unit == self.layout().head());
            }
        }
        Ok(())
    }

    /// Writes what the model's layers read and nobody writes; before the lanes are opened.
    pub fn upload_constants(&self) -> Result<()> {
        let constants = self.store.constants();
        constants.write(&Constants::values(&self.config));
        self.device.upload(self.at(self.plan.device.constants()), constants)
    }

    /// The work of every operation.
    pub fn cost(&self) -> Cost<'_> {
        Cost::new(
            &self.config,
            self.layout(),
            &self.plan.policy,
            self.plan.micros_max,
            self.kernels.storage(),
        )
    }

    fn layout(&self) -> &Layout {
        self.store.layout()
    }

    pub(super) fn at(&self, place: Place) -> DeviceSpan {
        self.memory.part(place.offset, place.bytes)
    }

    fn shape(&self) -> Shape {
        self.plan.policy.numeric.shape
    }

    fn rows(&self, micro: MicroIndex) -> Rows {
        let batch = self.plan.device.batch(micro);
        Rows {
            shape: self.shape(),
            positions: self.at(batch.positions),
            doc_start: self.at(batch.doc_start),
            doc_end: self.at(batch.doc_end),
        }
    }

    fn token_rows(&self, micro: MicroIndex) -> TokenRows {
        let batch = self.plan.device.batch(micro);
        TokenRows {
            tokens: self.at(batch.tokens),
            order: self.at(batch.order),
            first: self.at(batch.first),
            distinct: self.store.distinct(micro),
        }
    }

    fn constants(&self) -> Constants {
        Constants::carve(self.at(self.plan.device.constants()), &self.config)
    }

    fn loss_rows(&self, frame: &Frame, micro: MicroIndex) -> LossRows {
        let batch = self.plan.device.batch(micro);
        let scale = (1.0 / frame.inputs().weight) as f32;
        LossRows { targets: self.at(batch.targets), weights: self.at(batch.weights), scale }
    }

    /// The activation below a unit.
    fn boundary(
        &self,
        extent: Extent,
        place: BoundaryPlace,
        unit: UnitIndex,
        micro: MicroIndex,
    ) -> DeviceSpan {
        let (map, seat) = (&self.plan.device, extent.seat(micro));
        self.at(match place {
            BoundaryPlace::Own => map.boundary(unit, seat),
            BoundaryPlace::Room(room) => map.room(room, seat),
            BoundaryPlace::Stream => map.stream(micro),
        })
    }

    /// The f32 gradient of a unit, where its backward leaves it.
    fn gradient(&self, unit: UnitIndex, sum: SumPlace) -> DeviceSpan {
        let map = &self.plan.device;
        let place = match (sum, self.plan.geometry.end(unit)) {
            (SumPlace::Shared, _) => map.gradient(),
            (SumPlace::Room(room), _) => map.sum_room(room),
            (SumPlace::Own, Some(end)) => map.end_gradient(end),
            (SumPlace::Own, None) => map.layer_gradient(unit),
        };
        self.at(place).part(0, self.layout().unit(unit).elements * 4)
    }

    /// An end's weights.
    fn end_weights(&self, unit: UnitIndex) -> DeviceSpan {
        let end = self.plan.geometry.end(unit).expect("embedding and head have regions of their own");
        self.at(self.plan.device.end_weights(end)).part(0, self.layout().unit(unit).elements * 2)
    }

    /// The head's tensors, or their gradients; tied, one of them is the embedding's.
    fn head(&self, span: impl Fn(UnitIndex) -> DeviceSpan, dtype: DType) -> HeadSpans {
        let layout = self.layout();
        let embedding = self.config.tied.then(|| span(layout.embedding()));
        HeadSpans::of(layout, span(layout.head()), embedding, dtype)
    }

    fn head_weights(&self) -> HeadSpans {
        self.head(|unit| self.end_weights(unit), DType::Bf16)
    }

    fn layer_scratch(&self, unit: UnitIndex, seat: SeatIndex, recompute: Recompute) -> LayerScratch {
        let scratch = self.at(self.plan.device.scratch());
        let kept = self.at(self.plan.device.kept(unit, seat));
        let (config, shape, storage) = (&self.config, self.shape(), self.kernels.storage());
        LayerScratch::carve(scratch, config, shape, storage).keeping(kept, recompute, config, shape, storage)
    }

    fn head_scratch(&self) -> HeadScratch {
        let scratch = self.at(self.plan.device.scratch());
        let chunk = self.plan.policy.numeric.logits_chunk;
        HeadScratch::carve(scratch, &self.config.dims, self.shape(), self.kernels.storage(), chunk)
    }

    fn embed_forward(&self, micro: MicroIndex, out: DeviceSpan) {
        let map = &self.plan.device;
        model::embed_forward(
            &*self.kernels,
            &self.config,
            self.end_weights(self.layout().embedding()),
            self.at(map.batch(micro).gathered),
            self.shape(),
            out,
        );
    }

    fn forward(
        &self,
        unit: UnitIndex,
        slot: SlotIndex,
        micro: MicroIndex,
        x: DeviceSpan,
        out: DeviceSpan,
        scratch: &LayerScratch,
    ) {
        model::layer_forward(
            &*self.kernels,
            &self.config,
            &self.constants(),
            self.layout().unit(unit),
            self.at(self.plan.device.slot(slot)),
            &self.rows(micro),
            x,
            out,
            scratch,
        );
    }

    fn recompute_backward(
        &self,
        unit: UnitIndex,
        slot: SlotIndex,
        micro: MicroIndex,
        x: DeviceSpan,
        gradient: DeviceSpan,
        scratch: &LayerScratch,
    ) {
        let map = &self.plan.device;
        model::layer_backward(
            &*self.kernels,
            &self.config,
            &self.constants(),
            self.layout().unit(unit),
            self.at(map.slot(slot)),
            gradient,
            first_sets(micro),
            &self.rows(micro),
            x,
            self.at(map.stream(micro)),
            scratch,
        );
    }

    fn head_forward_backward(&self, frame: &Frame, micro: MicroIndex) {
        model::head_forward_backward(
            &*self.kernels,
            &self.config,
            self.head_weights(),
            self.head(|unit| self.gradient(unit, SumPlace::Own), DType::F32),
            first_sets(micro),
            &self.loss_rows(frame, micro),
            self.at(self.plan.device.loss()),
            self.shape(),
            self.at(self.plan.device.stream(micro)),
            &self.head_scratch(),
        );
    }

    fn head_forward(&self, frame: &Frame, micro: MicroIndex) {
        model::head_forward(
            &*self.kernels,
            &self.config,
            self.head_weights(),
            first_sets(micro),
            &self.loss_rows(frame, micro),
            self.at(self.plan.device.loss()),
            self.shape(),
            self.at(self.plan.device.stream(micro)),
            &self.head_scratch(),
        );
    }

    fn head_logits(&self, frame: &Frame) {
        model::head_logits(
            &*self.kernels,
            &self.config,
            self.head_weights(),
            frame.inputs().row as usize,
            self.at(self.plan.device.logits()),
            self.at(self.plan.device.stream(MicroIndex(0))),
            &self.head_scratch(),
        );
    }

    fn head_logprobs(&self, micro: MicroIndex) {
        let map = &self.plan.device;
        model::head_logprobs(
            &*self.kernels,
            &self.config,
            self.head_weights(),
            self.at(map.batch(micro).targets),
            self.at(map.logprobs(micro)),
            self.shape(),
            self.at(map.stream(micro)),
            &self.head_scratch(),
        );
    }

    fn head_backward(&self, micro: MicroIndex) {
        let map = &self.plan.device;
        model::head_backward(
            &*self.kernels,
            &self.config,
            self.head_weights(),
            self.head(|unit| self.gradient(unit, SumPlace::Own), DType::F32),
            first_sets(micro),
            self.at(map.batch(micro).targets),
            self.at(map.logprobs(micro)),
            self.shape(),
            self.at(map.stream(micro)),
            &self.head_scratch(),
        );
    }

    fn embed_backward(&self, micro: MicroIndex) {
        let map = &self.plan.device;
        // Tied, the head has set the gradient already.
        let write = if self.config.tied { Write::Add } else { first_sets(micro) };
        model::embed_backward(
            &*self.kernels,
            &self.config,
            self.gradient(self.layout().embedding(), SumPlace::Own),
            write,
            &self.token_rows(micro),
            self.shape(),
            self.at(map.stream(micro)),
        );
    }

    fn decide(&self, frame: &Frame, norms: bool) {
        let square_sum =
            if norms { self.layout().indices().map(|unit| self.store.square_sum(unit)).sum() } else { 0.0 };
        let loss = self.store.loss().get::<f64>(0) / frame.inputs().weight;
        let norm = square_sum.sqrt();
        let clipped = self.clip > 0.0 && norm > self.clip;
        frame.decide(Verdict {
            loss,
            norm,
            factor: if clipped { (self.clip / norm) as f32 } else { 1.0 },
            commit: norm.is_finite() && loss.is_finite(),
        });
    }

    fn adam(&self, frame: &Frame, unit: UnitIndex, part: PartIndex, from: GradPlace, guard: Guard) {
        if let Some(factor) = self.commits(frame, unit, guard) {
            for piece in self.store.adam_pieces(unit, part, from) {
                self.update(frame, unit, &piece, factor, None);
            }
        }
    }

    fn adam_rows(&self, frame: &Frame, rows: RowSet) {
        let (unit, next) = (self.layout().embedding(), frame.next.read());
        if let Some(factor) = self.commits(frame, unit, Guard::Verdict) {
            let has = |row| next.has(row) == (rows == RowSet::Next);
            let rows = optim::Rows { elements: self.config.dims.c, has: &has };
            for piece in self.store.adam_unit(unit) {
                self.update(frame, unit, &piece, factor, Some(rows));
            }
        }
        if rows == RowSet::Next {
            self.store.gather_rows(&next, &self.pool);
        }
    }

    /// Returns the factor by which AdamW of a unit scales gradients, if it may commit.
    fn commits(&self, frame: &Frame, unit: UnitIndex, guard: Guard) -> Option<f32> {
        match guard {
            Guard::Verdict => {
                let verdict = frame.verdict();
                verdict.commit.then_some(verdict.factor)
            }
            Guard::Unit if self.store.square_sum(unit).is_finite() => {
                frame.count_committed();
                Some(1.0)
            }
            Guard::Unit => {
                frame.refuse(unit);
                None
            }
        }
    }

    /// AdamW of a piece of a unit, or of some of its rows.
    fn update(
        &self,
        frame: &Frame,
        unit: UnitIndex,
        piece: &AdamPiece,
        factor: f32,
        rows: Option<optim::Rows>,
    ) {
        let AdamPiece { tensor, first, spans } = *piece;
        let options = self.tuning.get(unit, tensor);
        if options.frozen {
            return;
        }
        let weight_decay = self.tuning.weight_decay(&options, &self.layout().unit(unit).tensors[tensor]);
        let constants = AdamOptions { weight_decay, ..self.adam };
        let Inputs { lr, step, .. } = frame.inputs();
        let step = Step {
            gradient_scale: factor,
            decay: weight_decay > 0.0,
            // Step and element decide, so that a resumed run rounds as an uninterrupted one.
            rounding: Rounding { seed: 0, step, first },
            rows,
            ..Step::new(AdamScalars::new(&constants, lr * options.lr_scale, step))
        };
        optim::update(&self.pool, &spans, &step);
    }

    /// After the last contribution to a unit's gradient: leaves none to its frozen tensors.
    fn zero_frozen(&self, extent: Extent, unit: UnitIndex, micro: MicroIndex, sum: SumPlace) {
        if micro.at() + 1 < extent.micros {
            return;
        }
        let gradient = self.gradient(unit, sum);
        for tensor in self.tuning.frozen(unit) {
            let tensor = &self.layout().unit(unit).tensors[tensor];
            self.kernels.zero(gradient.part(tensor.offset * 4, tensor.elements() * 4));
        }
    }
}

/// The first micro-batch sets a gradient, later ones add to it.
fn first_sets(micro: MicroIndex) -> Write {
    if micro == MicroIndex(0) { Write::Set } else { Write::Add }
}
