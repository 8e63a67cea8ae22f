//! The trainer: the engine's public API. It runs on the calling thread and issues lists to the
//! lanes.

mod admit;
mod loss;
mod save;
mod steps;
mod tensors;
#[cfg(test)]
mod tests;
mod trace;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::base::{DType, Error, MicroIndex, Result};
use crate::device::cpu::CpuDevice;
use crate::device::{DeviceInfo, Lane, Lanes, Tick};
use crate::engine::backend::{Backend, KernelsSetting, plan_on};
use crate::engine::batch::BatchSums;
use crate::engine::cancel::{Canceller, Phase, cancelled};
use crate::engine::gather::Numbers;
use crate::engine::options::{AdamOptions, TrainerOptions};
use crate::engine::record::{Issued, Record};
use crate::engine::runner::{Runner, STEP_STATES};
use crate::engine::step_state::{Inputs, StepState};
use crate::engine::store::Store;
use crate::engine::task::{Lists, Purpose, Task};
use crate::engine::tuning::Tuning;
use crate::host::{Pool, Topology};
use crate::model::{Layout, ModelConfig};
use crate::plan::Plan;
use crate::schedule::{Access, Checker, Content, List, Operation, Resource, Sync, Synced};

pub use loss::Loss;

/// The report of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The optimizer's step number after this step, counted from 1.
    pub step: u64,
    /// Σ weight · negative log-likelihood / Σ weight, over the unmasked targets of the whole step,
    /// in nats.
    pub loss: f64,
    /// Global gradient norm, before clipping.
    pub grad_norm: f64,
    /// Micro-batches of the step.
    pub micros: usize,
    /// Tokens of the step's batches, ignored targets included, without the padding of
    /// [smaller batches](crate::engine::Batch).
    pub tokens: u64,
    /// Unmasked targets of the step (supervised tokens), those of weight 0 included.
    pub targets: u64,
}

/// The report of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalReport {
    /// As in [`StepReport`].
    pub loss: f64,
    /// Unmasked targets.
    pub targets: u64,
}

/// Totals since the trainer was opened. After [`Trainer::restore`], steps and tokens continue from
/// the restored values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Updates committed.
    pub steps: u64,
    /// Tokens of those updates.
    pub tokens: u64,
    /// Bytes of the device arena.
    pub device_bytes: usize,
    /// Bytes of the host arenas.
    pub host_bytes: usize,
    /// CPU threads of the pool.
    pub threads: usize,
    /// Seconds that the calling thread spent building lists, inferring and proving their waits, and
    /// issuing them.
    pub issue_seconds: f64,
    /// Busy time of each lane, in ns, indexed by [`Lane::at`]: the tasks of training steps and
    /// saves that had ended when the last step, evaluation or [`Trainer::sync`] returned. 0 without
    /// [`measuring`](TrainerOptions::measuring) or tracing.
    pub busy_ns: [u64; Lane::COUNT],
}

/// A model in host RAM and the device that trains it. One thread at a time uses it; it may move
/// between threads.
///
/// A failure of the device poisons the trainer: every later call returns the first error. If the
/// state is whole, that of the last completed step, it can still be read, saved and exported.
/// Dropping the trainer waits for its lanes and frees all memory.
pub struct Trainer {
    // Dropped first: the lanes stop before the memory their tasks use is freed.
    lanes: Box<dyn Lanes>,
    runner: Arc<Runner>,
    sync: Sync,
    checker: Checker,
    /// Open from the start of a call until its step state is opened.
    preparation: Arc<Phase>,
    staged: Vec<BatchSums>,
    /// The announced tokens of the step after the next one.
    announced: Numbers,
    /// The step state of the step whose AdamW gathers the next list's rows of the embedding, if
    /// any.
    gathered_by: Option<usize>,
    /// The index of the next step state to use.
    step_state: usize,
    /// By step state: the last host task that uses it.
    step_state_done: [Option<Tick>; STEP_STATES],
    stats: Stats,
    record: Option<Record>,
    /// True from the begin of a save until its outcome is taken.
    saving: bool,
    failed: Option<Failed>,
}

/// The first error of a trainer, which later calls return again.
struct Failed {
    error: Error,
    /// The device has failed and the lanes are idle; the state in host memory is that of the last
    /// completed step.
    is_whole: bool,
}

/// The plan of a model under options, for this activation dtype.
pub fn plan_of(config: &ModelConfig, options: &TrainerOptions, activation_dtype: DType) -> Result<Plan> {
    config.validate()?;
    let layout = Layout::new(config);
    let policy = options.policy(&layout, activation_dtype)?;
    let plan = Plan::new(config, &layout, policy, options.micros_max, activation_dtype)?;
    plan.policy.validate(&plan.geometry, plan.micros_max)?;
    Ok(plan)
}

impl Trainer {
    /// Plans, allocates all memory and starts the lanes on the chosen device. Weights and moments
    /// are zero: load them with [`hf::Weights`](crate::hf::Weights), [`Trainer::write_fresh`] or
    /// [`Trainer::write_tensor`].
    ///
    /// Errors: an option that is invalid or does not suit the model (`InvalidArgument`); memory
    /// that does not suffice (`OutOfHostMemory`, `OutOfDeviceMemory`), with the plan's need, the
    /// limit and what would fit; no such device (`DeviceUnavailable`). [`Trainer::admit`] checks
    /// for these without opening.
    pub fn open(config: &ModelConfig, options: &TrainerOptions) -> Result<Trainer> {
        let (backend, options) = admit::backend(config, options)?;
        Trainer::open_with(backend, config, &options)
    }

    /// Like [`Trainer::open`], on the caller's CPU device.
    #[doc(hidden)]
    pub fn open_on(
        device: Arc<CpuDevice>,
        config: &ModelConfig,
        options: &TrainerOptions,
    ) -> Result<Trainer> {
        Trainer::open_with(Backend::cpu(device), config, options)
    }

    /// Like [`Trainer::open`], on the caller's device and kernels.
    #[doc(hidden)]
    pub fn open_with(backend: Backend, config: &ModelConfig, options: &TrainerOptions) -> Result<Trainer> {
        let plan = admit::plan(&backend, config, options)?;
        let Backend { device, kernels, .. } = backend;
        let threads = options.threads();
        let pool = Arc::new(Pool::over(threads, &Topology::read())?);

        let lists = Lists::new(plan.policy.clone(), plan.geometry, plan.micros_max, device.scrubs());
        lists.get(Purpose::Train(plan.micros_max))?;
        lists.get(Purpose::TrainRowsFirst(plan.micros_max))?;
        let layout = Layout::new(config);
        let store = Store::take(&layout, &plan, &pool, &*device)?;
        let memory = device.reserve(plan.device.bytes())?;
        let range = plan.device.workspace();
        let workspace = memory.subspan(range.offset, range.bytes);
        let kernels = kernels(KernelsSetting { pool: &pool, workspace, plan: &plan })?;
        let stats = Stats {
            device_bytes: plan.device.bytes(),
            host_bytes: plan.host.bytes(),
            threads,
            ..Stats::default()
        };
        let sync = Sync::new(&plan.geometry);
        let checker = Checker::new(&plan.policy, &plan.geometry);
        let runner = Arc::new(Runner {
            config: config.clone(),
            plan,
            store,
            lists,
            step_states: [StepState::new(config.dims.v)?, StepState::new(config.dims.v)?],
            saving: Default::default(),
            kernels,
            device: device.clone(),
            memory,
            pool,
            adam: options.adam,
            tuning: Tuning::new(&layout, options.adam.weight_decay),
            clip: options.clip,
        });
        runner.upload_constants()?;
        if runner.kernels.warms_up() {
            runner.warm_up()?;
        }
        let lanes = device.open(runner.clone(), options.tracing || options.measuring)?;
        Ok(Trainer {
            lanes,
            runner,
            sync,
            checker,
            preparation: Arc::default(),
            staged: Vec::with_capacity(options.micros_max),
            announced: Numbers::of(config.dims.v)?,
            gathered_by: None,
            step_state: 0,
            step_state_done: [None; STEP_STATES],
            stats,
            record: options.tracing.then(Record::default),
            saving: false,
            failed: None,
        })
    }

    /// The plan that [`Trainer::open`] would follow. Allocates nothing and needs no device.
    ///
    /// Errors: an option that is invalid or does not suit the model (`InvalidArgument`).
    pub fn plan_for(config: &ModelConfig, options: &TrainerOptions) -> Result<Plan> {
        let choice = options.device.resolve(config, options.shape)?;
        plan_on(choice, config, plan_of(config, options, choice.activation_dtype())?, options.pinning)
    }

    /// The names, shapes and offsets of all tensors.
    pub fn layout(&self) -> &Layout {
        self.runner.store.layout()
    }

    /// The model.
    pub fn config(&self) -> &ModelConfig {
        &self.runner.config
    }

    /// The device.
    pub fn device(&self) -> DeviceInfo {
        self.runner.device.info()
    }

    /// Identifies the kernels' order of sums: trainers with equal text compute the same bits.
    pub fn arithmetic(&self) -> String {
        self.runner.kernels.arithmetic()
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.runner.plan
    }

    /// AdamW's constants.
    pub fn adam(&self) -> AdamOptions {
        self.runner.adam
    }

    /// The global gradient norm that gradients are clipped to; 0 if clipping is off.
    pub fn clip(&self) -> f64 {
        self.runner.clip
    }

    /// A handle with which any thread can cancel the running call.
    pub fn canceller(&self) -> Canceller {
        let step_states = self.runner.step_states.iter().map(|step_state| &step_state.phase);
        Canceller::of(std::iter::once(&self.preparation).chain(step_states).cloned())
    }

    /// Totals so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Waits until every lane is idle. Weights and moments are then those after the last step, and
    /// a save has ended.
    pub fn sync(&mut self) -> Result<()> {
        self.usable()?;
        for lane in Lane::ALL {
            let last = self.lanes.last(lane);
            self.reach(last)?;
        }
        self.collect_spans();
        Ok(())
    }

    /// True after an error that every later call returns again.
    #[doc(hidden)]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// True if the state in host memory is that of the last completed step, so that it can be read
    /// and saved: always, unless the trainer has failed in a step that AdamW has applied in part.
    #[doc(hidden)]
    pub fn is_whole(&self) -> bool {
        self.failed.as_ref().is_none_or(|failed| failed.is_whole)
    }

    fn usable(&self) -> Result<()> {
        match &self.failed {
            Some(failed) => Err(failed.error.clone()),
            None => Ok(()),
        }
    }

    /// Like [`Trainer::usable`], for calls that only read the state in host memory.
    fn readable(&self) -> Result<()> {
        if self.is_whole() { Ok(()) } else { self.usable() }
    }

    /// Issues a list, waits for its result and returns its step state.
    fn run(&mut self, purpose: Purpose, inputs: Inputs) -> Result<usize> {
        let step_state = self.open_step_state(inputs)?;
        let list = self.infer(purpose)?;
        self.issue(&list, step_state, 0..list.waits.len());
        self.conclude(list, step_state)?;
        Ok(step_state)
    }

    /// Waits for a step state that no lane uses, and sets its inputs.
    fn open_step_state(&mut self, inputs: Inputs) -> Result<usize> {
        self.usable()?;
        let step_state = self.step_state;
        self.step_state = (step_state + 1) % STEP_STATES;
        if let Some(done) = self.step_state_done[step_state].take() {
            self.reach(done)?;
        }
        self.runner.step_states[step_state].open(inputs);
        if !self.preparation.close() {
            self.runner.step_states[step_state].phase.abandon();
        }
        Ok(step_state)
    }

    /// Prepares the list to issue next: gathers rows, infers waits and proves them sufficient.
    fn infer(&mut self, purpose: Purpose) -> Result<Issued> {
        let runner = self.runner.clone();
        let start = Instant::now();
        let (number, list) = runner.lists.get(purpose)?;
        self.stats.issue_seconds += start.elapsed().as_secs_f64();
        self.gather(list)?;
        let start = Instant::now();
        let waits = self.sync.infer(list);
        self.prove(list, &waits)?;
        if purpose.trains() {
            self.gathered_by = None;
        }
        self.stats.issue_seconds += start.elapsed().as_secs_f64();
        Ok(Issued { list: number, waits, reached: None })
    }

    /// Gathers the rows that a list uploads of an untied embedding, unless AdamW of the step before
    /// does.
    fn gather(&mut self, list: &List) -> Result<()> {
        let embedding = self.runner.plan.geometry.embedding();
        let uploads =
            |operation: &Operation| matches!(*operation, Operation::Upload { unit, .. } if unit == embedding);
        if self.runner.config.tied || !list.operations.iter().any(uploads) {
            return Ok(());
        }
        let micros = list.extent.micros;
        let batches = (0..micros).map(MicroIndex::from);
        let batches: Vec<_> = batches
            .map(|micro| Access::write(Resource::HostBatch { micro }, Content::Batch(micro)))
            .collect();
        self.outside(&batches)?;
        let runner = self.runner.clone();
        let found =
            |step_state: usize| runner.store.find_rows(micros, &runner.step_states[step_state].next.read());
        if self.gathered_by.is_some_and(found) {
            return Ok(());
        }
        self.gathered_by = None;
        let weights = Content::Weights(embedding);
        self.outside(&[
            Access::read(Resource::Master { unit: embedding }, weights),
            Access::write(Resource::HostRows, weights),
        ])?;
        runner.store.gather(micros, &runner.pool);
        Ok(())
    }

    /// Proves a list correct. A list that is not poisons the trainer, since later lists would
    /// depend on it.
    fn prove(&mut self, list: &List, waits: &Synced) -> Result<()> {
        self.checker.check(list, waits).map_err(|fault| self.fail(fault.into()))
    }

    /// Issues a range of a list's operations to the lanes.
    fn issue(&mut self, issued: &Issued, step_state: usize, range: Range<usize>) {
        let start = Instant::now();
        let list = self.runner.lists.numbered(issued.list);
        for index in range {
            let operation = list.operations[index];
            let task = Task { list: issued.list, step_state: step_state as u8, operation: index as u32 };
            let (waits, signal) = (issued.waits.waits(index), issued.waits.signal(index));
            let tick = self.lanes.issue(operation.lane(), task.pack(), waits, signal);
            debug_assert_eq!(tick, issued.waits.tick(index));
            if operation.lane() == Lane::Host {
                self.step_state_done[step_state] = Some(tick);
            }
        }
        self.stats.issue_seconds += start.elapsed().as_secs_f64();
    }

    /// Waits for the operation that concludes a list.
    ///
    /// Errors: the list was abandoned (`Cancelled`).
    fn conclude(&mut self, mut issued: Issued, step_state: usize) -> Result<()> {
        let conclusion = self.runner.lists.numbered(issued.list).conclusion();
        let tick = issued.waits.tick(conclusion.expect("every list has an operation that concludes it"));
        issued.reached = Some(tick);
        self.note(issued);
        if let Err(first) = self.reach(tick) {
            // After the clip decision, AdamW has completed the step all the same. The next call
            // returns the error.
            let is_complete = self.is_whole() && self.runner.step_states[step_state].is_committed();
            return if is_complete { Ok(()) } else { Err(first) };
        }
        self.collect_spans();
        if self.runner.step_states[step_state].phase.close() {
            return Ok(());
        }
        // AdamW has not gathered the next list's rows.
        self.gathered_by = None;
        Err(cancelled())
    }

    fn note(&mut self, issued: Issued) {
        if let Some(record) = &mut self.record {
            record.lists.push(issued);
        }
    }

    /// Waits for a tick. Operations issued later need not wait for it again.
    fn reach(&mut self, tick: Tick) -> Result<()> {
        if let Err(first) = self.lanes.reach(tick) {
            return Err(self.fail_on_device(first));
        }
        self.sync.settle(&[tick]);
        self.checker.settle(&[tick]).map_err(|fault| self.fail(fault.into()))
    }

    /// Waits until this thread may make these accesses outside of any list.
    fn outside(&mut self, accesses: &[Access]) -> Result<()> {
        if self.failed.is_some() {
            // The lanes are idle.
            return self.readable();
        }
        let embedding = Resource::Master { unit: self.runner.plan.geometry.embedding() };
        if accesses.iter().any(|access| access.writes() && access.resource == embedding) {
            self.gathered_by = None;
        }
        for tick in self.sync.before(accesses) {
            self.reach(tick)?;
        }
        self.checker.outside(accesses).map_err(|fault| self.fail(fault.into()))
    }

    /// Poisons the trainer: every later call returns the first error.
    fn fail(&mut self, first: Error) -> Error {
        self.failed.get_or_insert(Failed { error: first, is_whole: false }).error.clone()
    }

    /// Poisons the trainer because of its device: waits for every lane, ends the save that is
    /// running, and finds out if the state is whole.
    fn fail_on_device(&mut self, first: Error) -> Error {
        if self.failed.is_none() {
            for lane in Lane::ALL {
                // The same error.
                let _ = self.lanes.reach(self.lanes.last(lane));
            }
            if self.saving {
                self.runner.saving.interrupt(&first);
            }
            let is_whole = self.runner.step_states.iter().all(StepState::is_whole);
            self.failed = Some(Failed { error: first.clone(), is_whole });
        }
        self.fail(first)
    }

    fn collect_spans(&mut self) {
        if self.lanes.origin().is_none() {
            return;
        }
        let (spans, lists) = (self.lanes.take_spans(), &self.runner.lists);
        for span in spans.iter().filter(|span| lists.trains_or_saves(Task::unpack(span.task).list)) {
            self.stats.busy_ns[span.lane.at()] += span.end_ns - span.start_ns;
        }
        if let Some(record) = &mut self.record {
            record.spans.extend(spans);
        }
    }
}
