//! Execution of operations on their lanes: copies, passes and host work, in the memory that each
//! operation declares.

use std::sync::Arc;

use crate::base::{ChunkIndex, MicroIndex, Result, UnitIndex};
use crate::device::{Device, DeviceSpan, Lane, Work};
use crate::engine::batch::BatchSums;
use crate::engine::operation_memory::OperationMemory;
use crate::engine::options::AdamOptions;
use crate::engine::save::Saving;
use crate::engine::step_state::{ClipDecision, Inputs, StepState};
use crate::engine::store::{AdamSlice, Store};
use crate::engine::task::{Lists, Task};
use crate::engine::tuning::Tuning;
use crate::host::Pool;
use crate::model::{self, Layout, ModelConfig, PassId, Run};
use crate::ops::{Kernels, Op, Round, Scalars, Squares, Zero};
use crate::optim::{self, AdamScalars, Rounding, Step};
use crate::plan::{ArenaRange, Cost, Plan};
use crate::schedule::{AccumulatorBuffer, Extent, GradientBuffer, Guard, Operation, Resource, RowSet};

/// Steps in flight: one that computes, one whose AdamW still runs.
pub const STEP_STATES: usize = 2;

/// All data that tasks use, shared by the lanes and the calling thread.
pub struct Runner {
    /// The model.
    pub config: ModelConfig,
    /// Offsets and sizes of all memory.
    pub plan: Plan,
    /// The host-resident model.
    pub store: Store,
    /// The operation lists.
    pub lists: Lists,
    /// Inputs and results of the steps in flight.
    pub step_states: [StepState; STEP_STATES],
    /// The save in progress.
    pub saving: Saving,
    /// Arithmetic on device memory.
    pub kernels: Box<dyn Kernels>,
    /// The device, for copies.
    pub device: Arc<dyn Device>,
    /// The device arena.
    pub memory: DeviceSpan,
    /// CPU threads for the host lane.
    pub pool: Arc<Pool>,
    /// AdamW's constants.
    pub adam: AdamOptions,
    /// Options of single tensors.
    pub tuning: Tuning,
    /// Largest global gradient norm; 0 turns clipping off.
    pub clip: f64,
}

impl Work for Runner {
    fn run(&self, lane: Lane, name: u64) -> Result<()> {
        let task = Task::unpack(name);
        let operation = self.lists.operation(task);
        let extent = self.lists.numbered(task.list).extent;
        let step_state = &self.step_states[usize::from(task.step_state)];
        // A save belongs to no call, and uses no step state.
        if lane != Lane::Disk && step_state.phase.is_abandoned() {
            return Ok(());
        }
        self.perform(operation, extent, step_state)
            .and_then(|()| if lane == Lane::Compute { self.kernels.outcome() } else { Ok(()) })
            .map_err(|error| error.within(operation))?;
        for resource in self.lists.retired(task) {
            if let Some((_, range)) = self.plan.device.named(&resource) {
                self.scrub(lane, self.at(range)).map_err(|error| error.within(operation))?;
            }
        }
        Ok(())
    }

    /// AdamW of a step that the clip decision has committed, and saves.
    fn survives(&self, _lane: Lane, name: u64) -> bool {
        let task = Task::unpack(name);
        match self.lists.operation(task) {
            Operation::Adam { guard: Guard::ClipDecision, .. } | Operation::AdamRows { .. } => {
                self.step_states[usize::from(task.step_state)].is_committed()
            }
            Operation::Save { .. } => true,
            _ => false,
        }
    }

    fn describe(&self, name: u64) -> String {
        self.lists.operation(Task::unpack(name)).to_string()
    }
}

impl Runner {
    /// Runs an operation of a list of this extent; on a CUDA stream, enqueues it.
    pub(super) fn perform(&self, operation: Operation, extent: Extent, step_state: &StepState) -> Result<()> {
        let memory = OperationMemory::new(self, operation, extent);
        match (operation.lane(), operation.pass()) {
            (Lane::H2d, _) => {
                let (to, from) = memory.copy();
                return self.upload(to, from);
            }
            (Lane::D2h, _) => {
                let (from, to) = memory.copy();
                return self.download(to, from);
            }
            (_, Some(pass)) => self.run(pass, &memory, step_state),
            _ => {}
        }
        match operation {
            Operation::Norm { unit, accumulator, slab } => {
                let squares = memory.write(Resource::Norm(slab));
                let gradient = memory.read(self.plan.geometry.accumulator(unit, accumulator));
                for Run { elements, blocks } in self.layout().unit(unit).runs() {
                    self.launch(&Op::from(Squares {
                        squares: squares.subspan(blocks.start * 8, blocks.len() * 8),
                        x: gradient.subspan(elements.start * 4, elements.len() * 4),
                        n: elements.len(),
                    }));
                }
            }
            Operation::Round { unit, accumulator, chunk, slab } => {
                let first = self.layout().chunk(unit, chunk).start;
                let to = self.plan.policy.numeric.grad_dtype;
                let whole = self.plan.geometry.is_rounded_whole(unit);
                let squares = whole.then(|| memory.write(Resource::Norm(slab)));
                let gradient = memory.read(self.plan.geometry.accumulator(unit, accumulator));
                let slab = memory.write(Resource::Slab(slab));
                for Run { elements, blocks } in self.layout().chunk_runs(unit, chunk) {
                    let (start, n) = ((elements.start - first) * to.bytes(), elements.len());
                    self.launch(&Op::from(Round {
                        out: slab.subspan(start, n * to.bytes()),
                        squares: squares.map(|squares| squares.subspan(blocks.start * 8, blocks.len() * 8)),
                        x: gradient.subspan(elements.start * 4, n * 4),
                        to,
                        n,
                    }));
                }
            }
            Operation::HeadForwardBackward { micro } | Operation::HeadBackward { micro } => {
                self.zero_frozen(&memory, self.layout().head(), micro, AccumulatorBuffer::Own);
            }
            Operation::RecomputeBackward { unit, micro, accumulator, .. } => {
                self.zero_frozen(&memory, unit, micro, accumulator);
            }
            Operation::EmbedBackward { micro } => {
                self.zero_frozen(&memory, self.layout().embedding(), micro, AccumulatorBuffer::Own);
            }
            Operation::ClipDecision { norms } => self.decide(step_state, norms),
            Operation::Adam { unit, chunk, from, guard } => self.adam(step_state, unit, chunk, from, guard),
            Operation::AdamRows { rows } => self.adam_rows(step_state, rows),
            Operation::Save { unit } => {
                self.saving.unit(&self.store.unit_state(unit), unit == self.layout().head());
            }
            // `Loss`: the issuing thread has computed it, and the task only marks that it is done.
            // All other operations are passes or copies.
            _ => {}
        }
        Ok(())
    }

    /// Runs the ops of a pass in the memory of an operation.
    fn run(&self, pass: PassId, memory: &OperationMemory, step_state: &StepState) {
        let micro = memory.operation.micro().unwrap_or(MicroIndex(0));
        let scalars = Scalars {
            loss_scale: BatchSums::loss_scale(step_state.inputs().weight),
            distinct: self.store.distinct(micro),
        };
        for op in &self.plan.passes.get(pass).ops {
            let mut op = op.map(&mut |location| memory.operand(location, step_state));
            op.set(&scalars);
            self.launch(&op);
        }
    }

    /// Writes and uploads the read-only constants shared by all layers. Called before the lanes are
    /// opened.
    pub fn upload_constants(&self) -> Result<()> {
        self.store.write_constants(&model::constants(&self.config, self.plan.policy.numeric.shape.t));
        self.upload(self.at(self.plan.device.constants()), self.store.constants())
    }

    /// The cost model of every operation.
    pub fn cost(&self) -> Cost<'_> {
        self.plan.cost(self.layout(), self.plan.micros_max)
    }

    pub(super) fn layout(&self) -> &Layout {
        self.store.layout()
    }

    pub(super) fn at(&self, range: ArenaRange) -> DeviceSpan {
        self.memory.subspan(range.offset, range.bytes)
    }

    fn decide(&self, step_state: &StepState, norms: bool) {
        if !step_state.phase.close() {
            return;
        }
        // One term per tensor, so that the sum does not depend on the division into units.
        let square_sums = self.layout().indices().flat_map(|unit| self.store.square_sums(unit));
        let square_sum: f64 = if norms { square_sums.sum() } else { 0.0 };
        let loss = self.store.loss_sum() / step_state.inputs().weight;
        let norm = square_sum.sqrt();
        let clipped = self.clip > 0.0 && norm > self.clip;
        step_state.decide(ClipDecision {
            loss,
            norm,
            factor: if clipped { (self.clip / norm) as f32 } else { 1.0 },
            commit: norm.is_finite() && loss.is_finite(),
        });
    }

    fn adam(
        &self,
        step_state: &StepState,
        unit: UnitIndex,
        chunk: ChunkIndex,
        from: GradientBuffer,
        guard: Guard,
    ) {
        if let Some(factor) = self.commits(step_state, unit, guard) {
            step_state.updating(|| {
                for slice in self.store.adam_slices(unit, chunk, from) {
                    self.update(step_state, unit, &slice, factor, None);
                }
            });
        }
    }

    fn adam_rows(&self, step_state: &StepState, rows: RowSet) {
        let (unit, next) = (self.layout().embedding(), step_state.next.read());
        if let Some(factor) = self.commits(step_state, unit, Guard::ClipDecision) {
            let has = |row| next.has(row) == (rows == RowSet::Next);
            let rows = optim::Rows { elements: self.config.dims.c, has: &has };
            step_state.updating(|| {
                for slice in self.store.adam_unit(unit) {
                    self.update(step_state, unit, &slice, factor, Some(rows));
                }
            });
        }
        if rows == RowSet::Next {
            self.store.gather_rows(&next, &self.pool);
        }
    }

    /// The factor by which AdamW of a unit scales gradients; `None` if it must not commit.
    fn commits(&self, step_state: &StepState, unit: UnitIndex, guard: Guard) -> Option<f32> {
        match guard {
            Guard::ClipDecision => {
                let clip_decision = step_state.clip_decision();
                clip_decision.commit.then_some(clip_decision.factor)
            }
            // After the first update the step can no longer be cancelled.
            Guard::Unit if !step_state.phase.close() => None,
            Guard::Unit if self.store.square_sums(unit).sum::<f64>().is_finite() => Some(1.0),
            Guard::Unit => {
                step_state.refuse(unit);
                None
            }
        }
    }

    /// AdamW of a slice of a unit, or of some of its rows.
    fn update(
        &self,
        step_state: &StepState,
        unit: UnitIndex,
        slice: &AdamSlice,
        factor: f32,
        rows: Option<optim::Rows>,
    ) {
        let AdamSlice { tensor, first, .. } = *slice;
        let options = self.tuning.get(unit, tensor);
        if options.frozen {
            return;
        }
        let weight_decay = self.tuning.weight_decay(&options, &self.layout().unit(unit).tensors[tensor]);
        let constants = AdamOptions { weight_decay, ..self.adam };
        let Inputs { lr, step, .. } = step_state.inputs();
        let step = Step {
            gradient_scale: factor,
            decay: weight_decay > 0.0,
            // Depends on step and element only, so that a resumed run rounds like an uninterrupted
            // one.
            rounding: Rounding { seed: 0, step, first },
            rows,
            ..Step::new(AdamScalars::new(&constants, lr * options.lr_scale, step))
        };
        self.store.update(slice, &step, &self.pool);
    }

    /// Zeroes the gradients of a unit's frozen tensors after the last contribution to them.
    fn zero_frozen(
        &self,
        memory: &OperationMemory,
        unit: UnitIndex,
        micro: MicroIndex,
        accumulator: AccumulatorBuffer,
    ) {
        if micro.at() + 1 < memory.extent.micros {
            return;
        }
        for tensor in self.tuning.frozen(unit) {
            let gradient = memory.write(self.plan.geometry.accumulator(unit, accumulator));
            let tensor = &self.layout().unit(unit).tensors[tensor];
            let bytes = tensor.elements() * 4;
            self.launch(&Op::from(Zero { out: gradient.subspan(tensor.offset * 4, bytes), bytes }));
        }
    }
}
