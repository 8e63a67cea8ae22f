//! **Horizon** trains large language models on one accelerator with the whole model in host RAM.
//!
//! A [`Trainer`] takes all its memory when it is opened, in the sizes that [`Trainer::plan_for`] tells beforehand, and refuses what
//! does not fit. It is used from one thread; copies, kernels and AdamW run beside that thread. Models come from [`hf`] (Hugging Face
//! folders) or from a [`ModelConfig`] of your own; [`checkpoint`] saves and resumes a run.
//!
//! ```
//! use std::sync::Arc;
//!
//! use horizon::checkpoint::{self, Changes, Checkpoints, Note};
//! use horizon::{Batch, Shape, Trainer, TrainerOptions, preset, unwatched};
//!
//! # fn main() -> horizon::Result<()> {
//! let config = preset("tiny").expect("a built-in model of byte tokens");
//! let options = TrainerOptions { shape: Shape { b: 2, t: 8 }, threads: Some(2), ..TrainerOptions::default() };
//!
//! // Every byte on host and device, before any is taken.
//! let plan = Trainer::plan_for(&config, &options)?;
//! println!("{plan}");
//!
//! let mut trainer = Trainer::open(&config, &options)?;
//! trainer.write_fresh(42)?;
//!
//! // A micro-batch: tokens, and for each the one that should come next.
//! let text = b"to be or not to b";
//! let tokens: Vec<i32> = text[..16].iter().map(|&byte| byte.into()).collect();
//! let targets: Vec<i32> = text[1..].iter().map(|&byte| byte.into()).collect();
//! let batch = Batch { tokens: &tokens, targets: &targets, weights: None, starts: None };
//! let first = trainer.step(&[batch], 1e-3)?;
//! let second = trainer.step(&[batch], 1e-3)?;
//! assert!(second.loss < first.loss);
//!
//! // Parameters go by their Hugging Face names, as f32.
//! let mut norm = vec![0.0; config.dims.c];
//! trainer.read_tensor("model.norm.weight", &mut norm)?;
//!
//! // Saving goes on while later steps run.
//! # let dir = tempfile::tempdir().expect("a folder");
//! # let folder = dir.path().join("checkpoints");
//! let checkpoints = Arc::new(Checkpoints::create(&folder, Vec::new(), None)?);
//! let writer = checkpoints.writer(&trainer, Note::default())?;
//! trainer.save(writer)?;
//! trainer.save_wait()?;
//!
//! let mut resumed = Trainer::open(&config, &options)?;
//! checkpoint::open(&folder)?.restore_into(&mut resumed, &Changes::none(), &unwatched)?;
//! assert_eq!(resumed.step(&[batch], 1e-3)?.loss, trainer.step(&[batch], 1e-3)?.loss);
//! # Ok(())
//! # }
//! ```
//!
//! # Soundness
//! No safe function of this crate, shown here or not, can cause undefined behaviour, with one exception that the operating system
//! makes: a file of weights, tokens or text that is shortened by somebody while it is read. `tests/sound` tries.

// The modules by level. A module uses only modules of lower levels; `tests/tidy.rs` checks the imports.
//
// | level | module | contents |
// |---|---|---|
// | L0 | `base` | errors, indices, sizes, dtypes, number formats, the split master. No `unsafe`, no OS |
// | L1 | `sys` | raw foreign interfaces: the operating system, CUDA, our kernels |
// | L2 | `host` | RAM and cores: limits, arenas, the worker pool; files and folders |
// | L2 | `device` | the device contract: lanes, ticks, memory, copies; the CPU device |
// | L3 | `ops` | one op per file, forward and backward |
// | L4 | `optim` | the update of parameters in host RAM: AdamW, its state, the split master |
// | L5 | `model` | decoders: config, layout (the only source of sizes), layers, embedding and head |
// | L6 | `schedule` | when things happen: policy, operations, build, sync, check. Pure, no device |
// | L7 | `plan` | what goes where: every byte on host and device, the search for the fastest plan, refusal |
// | L8 | `engine` | runs a schedule on a device: store, trainer, trace, stats |
// | L9 | `data` | training data: text, chats and token files as windows of tokens |
// | L9 | `hf` | Hugging Face folders: config and safetensors, in and out |
// | L9 | `checkpoint` | the whole state of a run, written and restored |
// | L10 | `train` | the loop: learning rates, metrics, saving, sampling |
// | L11 | `capi` | the only `extern "C"`; panics become statuses here |
//
// Users of the library need the names below and the modules `checkpoint` and `hf`. The other modules are public for the command,
// the tests and the benches, and change without notice.

#![warn(missing_docs)]

#[doc(hidden)]
pub mod base;
#[doc(hidden)]
pub mod capi;
pub mod checkpoint;
#[doc(hidden)]
pub mod data;
#[doc(hidden)]
pub mod device;
#[doc(hidden)]
pub mod engine;
pub mod hf;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod optim;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod schedule;
#[doc(hidden)]
pub mod sys;
#[doc(hidden)]
pub mod train;

pub use base::{DType, Dims, Error, Progress, Result, Shape, Status, UnitIndex, unwatched};
pub use device::DeviceInfo;
pub use engine::{
    AdamOptions, Batch, DeviceChoice, EvalReport, Fill, Loss, Sink, StateJob, StateSpan, Stats, StepReport,
    TensorOptions, Trainer, TrainerOptions, UnitState,
};
pub use host::Pinning;
pub use model::{
    Biases, Layout, ModelConfig, Recompute, RopeScaling, TensorLayout, UnitLayout, Window, preset,
    preset_names,
};
pub use optim::Optimizer;
pub use plan::{Plan, Region};
pub use schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode};
