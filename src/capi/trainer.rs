//! `hz_trainer_t`: opening, steps, evaluations, statistics, closing.

use std::ffi::CString;

use crate::base::format::{Size, several};
use crate::base::{Error, Result};
use crate::capi::arena::limits;
use crate::capi::argument::{Array, ArrayOut, OutPointer, Text, size};
use crate::capi::checkpoint::Saves;
use crate::capi::config::{
    chosen_size, hz_batch_t, hz_eval_report_t, hz_stats_t, hz_step_report_t, hz_trainer_options_t, reserved,
    trainer_options,
};
use crate::capi::guard::{Guarded, guard};
use crate::capi::handle::{Handle, HandleKind, Object, Table};
use crate::capi::lane::lane_of;
use crate::capi::log;
use crate::capi::model::{hz_model_config_t, model_config};
use crate::capi::plan::hz_plan_t;
use crate::capi::progress::Watcher;
use crate::capi::sized::{In, Out, SizedStruct};
use crate::capi::status::{c_string, hz_status_t};
use crate::device::DeviceInfo;
use crate::engine::{Batch, Canceller, EvalReport, StepReport, Trainer, TrainerOptions};
use crate::hf::FolderConfig;
use crate::host::folder::replace_file;
use crate::model::ModelConfig;

/// A trainer.
pub struct hz_trainer_t {
    /// Names and shapes, in forward order. The names live as long as the handle.
    pub(super) tensors: Vec<(CString, Vec<usize>)>,
    /// Immutable like the tensors, so reading it needs no lock.
    pub(super) model: ModelConfig,
    /// Used while a call holds the state.
    canceller: Canceller,
    /// As it was when the trainer had been opened.
    pub(super) device: DeviceInfo,
    pub(super) state: Guarded<State>,
}

impl Object for hz_trainer_t {
    fn table() -> &'static Table<Self> {
        static TABLE: Table<hz_trainer_t> = Table::new(HandleKind::Trainer);
        &TABLE
    }
}

/// The state that one call at a time may use.
pub struct State {
    pub(super) trainer: Trainer,
    /// `config.json` of exports: the model, and further fields of the folder that was loaded.
    pub(super) folder: FolderConfig,
    /// The folder of the last checkpoint.
    pub(super) saves: Option<Saves>,
    /// Notes returned to the caller; they live as long as the handle.
    pub(super) notes: Vec<CString>,
    /// The progress callback.
    pub(super) watcher: Watcher,
}

impl hz_trainer_t {
    /// Checks that a trainer can be opened. Allocates no model memory.
    pub(super) fn admit(config: &ModelConfig, options: &TrainerOptions) -> Result<()> {
        exported(config, options)?;
        Trainer::admit(config, options)
    }

    fn open(config: ModelConfig, options: &TrainerOptions) -> Result<Self> {
        let folder = exported(&config, options)?;
        let trainer = Trainer::open(&config, options)?;
        let stats = trainer.stats();
        log::info(format!(
            "trainer opened on {}: {} parameters in {} of host memory, {} of device memory, {}",
            trainer.device().name,
            trainer.layout().parameters(),
            Size(stats.host_bytes),
            Size(stats.device_bytes),
            several(stats.threads, "thread")
        ));
        log_details(&trainer, options);
        let tensors = trainer
            .layout()
            .tensors()
            .map(|(_, tensor)| (c_string(&tensor.name), tensor.shape.clone()))
            .collect();
        let (device, canceller) = (trainer.device(), trainer.canceller());
        let state = State { trainer, folder, saves: None, notes: Vec::new(), watcher: Watcher::default() };
        Ok(hz_trainer_t { tensors, model: config, device, canceller, state: Guarded::new(state) })
    }
}

/// The configuration of exports; a model without one is refused. Logs a warning if `host_mem`
/// exceeds what the machine reports.
fn exported(config: &ModelConfig, options: &TrainerOptions) -> Result<FolderConfig> {
    limits(options.host_mem);
    FolderConfig::of(config.clone())
}

/// Logs the options, the plan and the kernels of a trainer.
fn log_details(trainer: &Trainer, options: &TrainerOptions) {
    if !log::receives_debug() {
        return;
    }
    log::debug(format!("{options:?}"));
    trainer.plan().to_string().lines().for_each(log::debug);
    log::debug(format!("kernels: {}", trainer.arithmetic()));
    if trainer.device().ordinal.is_some() {
        match &options.gemm_table {
            Some(path) => log::debug(format!("GEMM algorithms: table {}", path.display())),
            None => log::debug("GEMM algorithms: cuBLASLt's heuristic"),
        }
    }
}

/// Runs a call on an open trainer.
pub(super) fn with(
    trainer: &Handle<hz_trainer_t>,
    body: impl FnOnce(&hz_trainer_t, &mut State) -> Result<()>,
) -> hz_status_t {
    guard(|| {
        let handle = trainer.get("trainer")?;
        handle.state.run(|state| body(&handle, state))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_open(
    model: In<hz_model_config_t>,
    options: In<hz_trainer_options_t>,
    out_trainer: OutPointer<Handle<hz_trainer_t>>,
) -> hz_status_t {
    guard(|| {
        out_trainer.check("out_trainer")?;
        let config = model_config(&model.read("model")?)?;
        let options = trainer_options(options.optional("options")?, config.dims.l)?;
        out_trainer.write(Handle::open(hz_trainer_t::open(config, &options)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_open_planned(
    plan: Handle<hz_plan_t>,
    out_trainer: OutPointer<Handle<hz_trainer_t>>,
) -> hz_status_t {
    guard(|| {
        out_trainer.check("out_trainer")?;
        let plan = plan.get("plan")?;
        let (config, options) = plan.trainer()?;
        out_trainer.write(Handle::open(hz_trainer_t::open(config.clone(), options)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_close(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    if trainer.is_null() {
        return guard(|| Ok(()));
    }
    guard(|| {
        let last = trainer.get("trainer")?.state.end(|state| state.trainer.sync())?;
        trainer.close("trainer")?;
        last
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_model(
    trainer: Handle<hz_trainer_t>,
    out_config: Out<hz_model_config_t>,
) -> hz_status_t {
    guard(|| {
        let trainer = trainer.get("trainer")?;
        out_config.check("out_config")?.write(hz_model_config_t::try_from(&trainer.model)?);
        Ok(())
    })
}

/// A micro-batch with its arrays. `name` is the text before the fields' names.
fn batch<'a>(raw: &'a hz_batch_t, name: &str) -> Result<Batch<'a>> {
    reserved(raw.reserved, &format!("{name}reserved"))?;
    let rows = size(raw.rows, &format!("{name}rows"))?;
    Ok(Batch {
        tokens: raw.tokens.get(rows, &format!("{name}tokens"))?,
        targets: raw.targets.get(rows, &format!("{name}targets"))?,
        weights: raw.weights.optional(rows, &format!("{name}weights"))?,
        starts: raw.starts.optional(rows, &format!("{name}starts"))?,
        sequence_length: chosen_size(raw.sequence_length, &format!("{name}sequence_length"))?,
    })
}

/// The micro-batches of a call on `trainer`. Their number is checked before they are read.
pub(super) fn raw_batches(
    batches: In<hz_batch_t>,
    count: usize,
    trainer: &Trainer,
) -> Result<Vec<hz_batch_t>> {
    let max = trainer.plan().micros_max;
    if count == 0 || count > max {
        return Err(Error::argument(format!("count is {count}; it must be 1 … micros_max, {max}")));
    }
    batches.read_all(count, "batches")
}

pub(super) fn all_batches(raw: &[hz_batch_t]) -> Result<Vec<Batch<'_>>> {
    raw.iter().enumerate().map(|(index, raw)| batch(raw, &format!("batches[{index}]."))).collect()
}

pub(super) fn step_report(report: StepReport) -> hz_step_report_t {
    let StepReport { step, loss, grad_norm, micros, tokens, targets } = report;
    let micros = micros as u32;
    hz_step_report_t { micros, step, loss, grad_norm, tokens, targets, ..hz_step_report_t::defaults() }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_accumulate(
    trainer: Handle<hz_trainer_t>,
    micro_batch: In<hz_batch_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let raw = micro_batch.read("batch")?;
        state.trainer.accumulate(&batch(&raw, "batch->")?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_discard(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.discard())
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_announce(
    trainer: Handle<hz_trainer_t>,
    tokens: Array<i32>,
    count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.announce(tokens.get(count, "tokens")?))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_update(
    trainer: Handle<hz_trainer_t>,
    lr: f64,
    out_report: Out<hz_step_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        out.write(step_report(state.trainer.update(lr)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_step(
    trainer: Handle<hz_trainer_t>,
    batches: In<hz_batch_t>,
    count: usize,
    lr: f64,
    out_report: Out<hz_step_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        let raw = raw_batches(batches, count, &state.trainer)?;
        out.write(step_report(state.trainer.step(&all_batches(&raw)?, lr)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_eval(
    trainer: Handle<hz_trainer_t>,
    batches: In<hz_batch_t>,
    count: usize,
    out_report: Out<hz_eval_report_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_report.check("out_report")?;
        let raw = raw_batches(batches, count, &state.trainer)?;
        let EvalReport { loss, targets } = state.trainer.eval(&all_batches(&raw)?)?;
        let micros = raw.len() as u32;
        out.write(hz_eval_report_t { micros, loss, targets, ..hz_eval_report_t::defaults() });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_logits(
    trainer: Handle<hz_trainer_t>,
    tokens: Array<i32>,
    count: usize,
    mut logits: ArrayOut,
    logits_count: usize,
) -> hz_status_t {
    with(&trainer, |handle, state| {
        let tokens = tokens.get(count, "tokens")?;
        let logits = logits.get(logits_count, "logits")?;
        let vocabulary = handle.model.dims.v;
        if logits.len() != vocabulary {
            return Err(Error::argument(format!(
                "logits_count is {logits_count}; it must be vocab_size, {vocabulary}"
            )));
        }
        logits.copy_from_slice(&state.trainer.logits(tokens)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_cancel(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    guard(|| {
        trainer.get("trainer")?.canceller.cancel();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_sync(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.sync())
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_stats(trainer: Handle<hz_trainer_t>, out_stats: Out<hz_stats_t>) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_stats.check("out_stats")?;
        let stats = state.trainer.stats();
        out.write(hz_stats_t {
            threads: stats.threads as u32,
            steps: stats.steps,
            tokens: stats.tokens,
            device_bytes: stats.device_bytes as u64,
            host_bytes: stats.host_bytes as u64,
            ..hz_stats_t::defaults()
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_busy_seconds(
    trainer: Handle<hz_trainer_t>,
    lane: u32,
    out_seconds: OutPointer<f64>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        out_seconds.check("out_seconds")?;
        out_seconds.write(state.trainer.stats().busy_ns[lane_of(lane)?.at()] as f64 / 1e9);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_trace(trainer: Handle<hz_trainer_t>, file: Text) -> hz_status_t {
    with(&trainer, |_, state| replace_file(file.path("path")?, |out| state.trainer.trace(out)))
}
