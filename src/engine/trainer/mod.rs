//! The trainer: what a caller holds.

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
use crate::engine::backend::{Backend, KernelsSetting, fit};
use crate::engine::batch::BatchSums;
use crate::engine::gather::Numbers;
use crate::engine::options::{AdamOptions, TrainerOptions};
use crate::engine::record::{Issued, Record};
use crate::engine::runner::{Runner, STEP_STATES};
use crate::engine::step_state::{Inputs, StepState};
use crate::engine::store::Store;
use crate::engine::task::{Lists, Purpose, Task};
use crate::engine::tuning::Tuning;
use crate::host::{Limits, MemoryKind, Pool, Topology};
use crate::model::{Layout, ModelConfig};
use crate::plan::Plan;
use crate::schedule::{Access, Checker, Content, List, Operation, Resource, Sync, Synced};

pub use loss::Loss;

/// What a step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The optimizer's step number after this step, counted from 1.
    pub step: u64,
    /// Σ weight · negative log-likelihood / Σ weight, over the unmasked targets of the whole step, in nats.
    pub loss: f64,
    /// Global gradient norm, before clipping.
    pub grad_norm: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Unmasked targets of the step.
    pub targets: u64,
}

/// What an evaluation reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalReport {
    /// As in [`StepReport`].
    pub loss: f64,
    /// Unmasked targets.
    pub targets: u64,
}

/// Totals since the trainer was opened; those of a run that was [restored](Trainer::restore) go on from where it stood.
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
    /// CPU threads that share a job.
    pub threads: usize,
    /// Seconds that the calling thread has spent on finding lists, inferring and proving their waits, and handing
    /// them to the lanes.
    pub issue_seconds: f64,
    /// How long each lane was at the tasks of training steps and of saves that had ended when the last step, evaluation or
    /// [`Trainer::sync`] did, ns by [`Lane::at`]; 0 unless lanes record, for
    /// [`measuring`](TrainerOptions::measuring) or tracing. Not in it are evaluations, log-probabilities and logits.
    pub busy_ns: [u64; Lane::COUNT],
}

/// A model in host RAM and a device that trains it. Used from one thread at a time; see the
/// [module](super) for how it works.
///
/// A failure of the device poisons the trainer: every later call gives the first error again. Dropping it
/// waits for the lanes and gives all memory back.
pub struct Trainer {
    // Dropped first: the lanes stop before the memory their tasks use is freed.
    lanes: Box<dyn Lanes>,
    runner: Arc<Runner>,
    sync: Sync,
    checker: Checker,
    staged: Vec<BatchSums>,
    /// The tokens of the step after the next one, as far as they were announced.
    announced: Numbers,
    /// The frame of the step whose AdamW gathers the rows of the embedding for the next list, if one does.
    gathered_by: Option<usize>,
    step_state: usize,
    frame_done: [Option<Tick>; STEP_STATES],
    stats: Stats,
    record: Option<Record>,
    /// Whether a save is under way, or has ended and nobody has asked how.
    saving: bool,
    failed: Option<Error>,
}

/// The plan of a model under options, for kernels that store activations so.
pub fn plan_of(config: &ModelConfig, options: &TrainerOptions, activation_dtype: DType) -> Result<Plan> {
    config.validate()?;
    let layout = Layout::new(config);
    let policy = options.policy(&layout, activation_dtype)?;
    Plan::new(config, &layout, policy, options.micros_max, activation_dtype)
}

impl Trainer {
    /// Plans, refuses what does not fit, takes all memory and starts the lanes on the device that the options
    /// choose. Every weight is zero until [`Trainer::write_tensor`].
    pub fn open(config: &ModelConfig, options: &TrainerOptions) -> Result<Trainer> {
        let device = options.device.resolve(config, options.shape)?;
        let options = TrainerOptions { device, ..options.clone() };
        device.is_there()?;
        // What cannot be planned is refused before a device is asked for memory.
        Trainer::plan_for(config, &options)?;
        Trainer::open_with(Backend::open(&options)?, config, &options)
    }

    /// As [`Trainer::open`], on a CPU device that the caller made.
    #[doc(hidden)]
    pub fn open_on(
        device: Arc<CpuDevice>,
        config: &ModelConfig,
        options: &TrainerOptions,
    ) -> Result<Trainer> {
        Trainer::open_with(Backend::cpu(device), config, options)
    }

    /// As [`Trainer::open`], on any device, with the kernels that come with it.
    #[doc(hidden)]
    pub fn open_with(backend: Backend, config: &ModelConfig, options: &TrainerOptions) -> Result<Trainer> {
        let Backend { device, activation_dtype, kernels } = backend;
        let threads = options.threads();
        let pool = Arc::new(Pool::over(threads, &Topology::read())?);
        let plan = plan_of(config, options, activation_dtype)?;
        let plan = match device.wire_memory(plan.host.wire_bytes()) {
            MemoryKind::Pinned { by, node, .. } => plan.discrete(by).on_node(node),
            _ => plan,
        };
        let device_limit = if plan.shares_memory() { options.device_mem } else { Some(device.capacity()?) };
        plan.admit(device_limit, &Limits::read(options.host_mem), plan.shares_memory())?;

        let lists = Lists::new(plan.policy.clone(), plan.geometry, plan.micros_max, device.scrubs());
        lists.get(Purpose::Train(plan.micros_max))?;
        lists.get(Purpose::TrainRowsFirst(plan.micros_max))?;
        let layout = Layout::new(config);
        let store = Store::take(&layout, &plan, &pool, &*device)?;
        let memory = device.reserve(plan.device.bytes())?;
        let place = plan.device.workspace();
        let workspace = memory.subspan(place.offset, place.bytes);
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
            step_states: std::array::from_fn(|_| StepState::new(config.dims.v)),
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
            staged: Vec::with_capacity(options.micros_max),
            announced: Numbers::of(config.dims.v),
            gathered_by: None,
            step_state: 0,
            frame_done: [None; STEP_STATES],
            stats,
            record: options.tracing.then(Record::default),
            saving: false,
            failed: None,
        })
    }

    /// The plan that [`Trainer::open`] would follow. Takes no memory, and needs no device.
    pub fn plan_for(config: &ModelConfig, options: &TrainerOptions) -> Result<Plan> {
        let choice = options.device.resolve(config, options.shape)?;
        fit(choice, config, plan_of(config, options, choice.activation_dtype())?, options.pinning)
    }

    /// Every tensor of the model.
    pub fn layout(&self) -> &Layout {
        self.runner.store.layout()
    }

    /// The model's description.
    pub fn config(&self) -> &ModelConfig {
        &self.runner.config
    }

    /// What computes.
    pub fn device(&self) -> DeviceInfo {
        self.runner.device.info()
    }

    /// What decides the order of sums, see [`Kernels::arithmetic`](crate::ops::Kernels::arithmetic).
    pub fn arithmetic(&self) -> String {
        self.runner.kernels.arithmetic()
    }

    /// Every byte, by name.
    pub fn plan(&self) -> &Plan {
        &self.runner.plan
    }

    /// AdamW's constants.
    pub fn adam(&self) -> AdamOptions {
        self.runner.adam
    }

    /// The largest global gradient norm; 0 where nothing is clipped.
    pub fn clip(&self) -> f64 {
        self.runner.clip
    }

    /// Totals so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Waits until every lane is idle: weights, residuals and moments are those after the last step, and a save
    /// has ended.
    pub fn sync(&mut self) -> Result<()> {
        self.usable()?;
        for lane in Lane::ALL {
            let last = self.lanes.last(lane);
            self.reach(last)?;
        }
        self.collect_spans();
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        match &self.failed {
            Some(first) => Err(first.clone()),
            None => Ok(()),
        }
    }

    /// Issues a list and returns its frame once what it is for is known.
    fn run(&mut self, purpose: Purpose, inputs: Inputs) -> Result<usize> {
        let step_state = self.open_frame(inputs)?;
        let list = self.infer(purpose)?;
        self.issue(&list, step_state, 0..list.waits.len());
        self.conclude(list)?;
        Ok(step_state)
    }

    /// A frame that no lane is at work on.
    fn open_frame(&mut self, inputs: Inputs) -> Result<usize> {
        self.usable()?;
        let step_state = self.step_state;
        self.step_state = (step_state + 1) % STEP_STATES;
        if let Some(done) = self.frame_done[step_state].take() {
            self.reach(done)?;
        }
        self.runner.step_states[step_state].open(inputs);
        Ok(step_state)
    }

    /// A list that is to be issued next, with its waits; they have been proved sufficient.
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

    /// Gathers what a list uploads of an embedding that is not tied to the head, unless AdamW of the step before does.
    fn gather(&mut self, list: &List) -> Result<()> {
        let unit = self.runner.plan.geometry.embedding();
        let goes_up =
            |operation: &Operation| matches!(*operation, Operation::Upload { unit: up, .. } if up == unit);
        if self.runner.config.tied || !list.operations.iter().any(goes_up) {
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
        let weights = Content::Weights(unit);
        self.outside(&[
            Access::read(Resource::Master { unit }, weights),
            Access::write(Resource::HostRows, weights),
        ])?;
        runner.store.gather(micros, &runner.pool);
        Ok(())
    }

    /// Refuses a list that is not correct. What comes after it would rest on it, so the trainer has failed.
    fn prove(&mut self, list: &List, waits: &Synced) -> Result<()> {
        self.checker.check(list, waits).map_err(|fault| self.fail(fault.into()))
    }

    /// Gives the lanes a stretch of a list's operations.
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
                self.frame_done[step_state] = Some(tick);
            }
        }
        self.stats.issue_seconds += start.elapsed().as_secs_f64();
    }

    /// Waits until what a list is for is known.
    fn conclude(&mut self, mut issued: Issued) -> Result<()> {
        let conclusion = self.runner.lists.numbered(issued.list).conclusion();
        let tick = issued.waits.tick(conclusion.expect("every list has an operation that concludes it"));
        issued.reached = Some(tick);
        self.note(issued);
        self.reach(tick)?;
        self.collect_spans();
        Ok(())
    }

    fn note(&mut self, issued: Issued) {
        if let Some(record) = &mut self.record {
            record.lists.push(issued);
        }
    }

    /// Waits for a tick; what is issued later need not.
    fn reach(&mut self, tick: Tick) -> Result<()> {
        self.lanes.reach(tick).map_err(|first| self.fail(first))?;
        self.sync.settle(&[tick]);
        self.checker.settle(&[tick]).map_err(|fault| self.fail(fault.into()))
    }

    /// Waits for what must be done before this thread itself makes these accesses, and for nothing else.
    fn outside(&mut self, accesses: &[Access]) -> Result<()> {
        let embedding = Resource::Master { unit: self.runner.plan.geometry.embedding() };
        if accesses.iter().any(|access| access.writes() && access.resource == embedding) {
            self.gathered_by = None;
        }
        for tick in self.sync.before(accesses) {
            self.reach(tick)?;
        }
        self.checker.outside(accesses).map_err(|fault| self.fail(fault.into()))
    }

    /// Every later call gives this error again.
    fn fail(&mut self, first: Error) -> Error {
        self.failed.get_or_insert(first).clone()
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
