//! `hz_trainer_t`: opening, closing, statistics, traces.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::format::{Size, several};
use crate::base::{Error, Result, Status};
use crate::capi::argument::{OutPointer, Text};
use crate::capi::device::hz_device_info_t;
use crate::capi::guard::{Failing, Guarded, guard};
use crate::capi::handle::{Handle, HandleKind, Object, Table};
use crate::capi::lane::LANES;
use crate::capi::log;
use crate::capi::model::{hz_model_config_t, model_config};
use crate::capi::options::{hz_trainer_options_t, limits, options_lines, trainer_options};
use crate::capi::plan::hz_plan_t;
use crate::capi::progress::Watcher;
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::{c_string, hz_status_t};
use crate::checkpoint::Checkpoints;
use crate::device::DeviceInfo;
use crate::engine::{Canceller, Trainer, TrainerOptions};
use crate::hf::FolderConfig;
use crate::host::folder::replace_file;
use crate::model::ModelConfig;

sized_struct! {
    hz_trainer_stats_t, hz_trainer_stats_init {
        threads: u32 = 0,
        steps: u64 = 0,
        tokens: u64 = 0,
        device_bytes: u64 = 0,
        host_bytes: u64 = 0,
    }
}

/// A trainer.
pub struct hz_trainer_t {
    /// Names and shapes, in forward order. The names live as long as the handle.
    pub(super) tensors: Vec<(CString, Vec<usize>)>,
    /// Immutable like the tensors, so reading it needs no lock.
    pub(super) model: ModelConfig,
    /// Used while a call holds the state.
    pub(super) canceller: Canceller,
    /// As it was when the trainer had been opened.
    device: DeviceInfo,
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
    /// False until weights were initialized, loaded, written or resumed.
    pub(super) has_weights: bool,
    /// The folder of the last checkpoint, locked until the trainer saves to another.
    pub(super) saves: Option<Arc<Checkpoints>>,
    /// The folders of checkpoints that the trainer wrote or resumed from, without links, and the
    /// step of the last one.
    pub(super) runs: BTreeMap<PathBuf, u64>,
    /// Notes returned to the caller; they live as long as the handle.
    pub(super) notes: Vec<CString>,
    /// The progress callback.
    pub(super) watcher: Watcher,
}

impl Failing for State {
    fn has_failed(&self) -> bool {
        self.trainer.has_failed()
    }
}

impl State {
    /// Refuses weights that were never set.
    pub(super) fn need_weights(&self) -> Result<()> {
        if self.has_weights {
            return Ok(());
        }
        Err(Error::new(
            Status::InvalidState,
            "the weights were never set: call hz_trainer_init_weights, hz_trainer_load_hf, \
             hz_trainer_write_tensor or hz_trainer_resume first",
        ))
    }

    /// Ends the work of the trainer. Returns the error of a save whose result was not fetched.
    fn end(&mut self) -> Result<()> {
        self.trainer.sync()?;
        let saved = self.trainer.save_outcome().unwrap_or(Ok(()));
        if let Err(error) = &saved {
            log::warning(error.clone().within("the trainer was closed, its last save failed").into_message());
        }
        saved
    }
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
        let state = State {
            trainer,
            folder,
            has_weights: false,
            saves: None,
            runs: BTreeMap::new(),
            notes: Vec::new(),
            watcher: Watcher::default(),
        };
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
    options_lines(options).into_iter().for_each(|line| log::debug(format!("options: {line}")));
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

/// Like [`with`], for a call that only reads the state in host memory: it also runs after a failure
/// of the device.
pub(super) fn with_failed(
    trainer: &Handle<hz_trainer_t>,
    body: impl FnOnce(&mut State) -> Result<()>,
) -> hz_status_t {
    guard(|| trainer.get("trainer")?.state.run_failed(body))
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
        let options = trainer_options(&options.or_defaults("options")?, config.dims.l)?;
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
        let last = trainer.get("trainer")?.state.end(State::end)?;
        trainer.close("trainer")?;
        last
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_device(
    trainer: Handle<hz_trainer_t>,
    out_info: Out<hz_device_info_t>,
) -> hz_status_t {
    guard(|| {
        let trainer = trainer.get("trainer")?;
        out_info.check("out_info")?.write((&trainer.device).into());
        Ok(())
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

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_sync(trainer: Handle<hz_trainer_t>) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.sync())
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_stats(
    trainer: Handle<hz_trainer_t>,
    out_stats: Out<hz_trainer_stats_t>,
) -> hz_status_t {
    with_failed(&trainer, |state| {
        let out = out_stats.check("out_stats")?;
        let stats = state.trainer.stats();
        out.write(hz_trainer_stats_t {
            threads: stats.threads as u32,
            steps: stats.steps,
            tokens: stats.tokens,
            device_bytes: stats.device_bytes as u64,
            host_bytes: stats.host_bytes as u64,
            ..hz_trainer_stats_t::defaults()
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
        out_seconds.write(state.trainer.stats().busy_ns[LANES.value(lane, "lane")?.at()] as f64 / 1e9);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_trace(trainer: Handle<hz_trainer_t>, file: Text) -> hz_status_t {
    with(&trainer, |_, state| replace_file(file.path("path")?, |out| state.trainer.trace(out)))
}
