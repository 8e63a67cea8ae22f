//! Horizon trains large language models on one GPU with the whole model in host RAM.
//!
//! In most training libraries GPU memory limits the size of the model. Here host RAM does: weights,
//! gradients and optimizer state are offloaded to it entirely, and the GPU holds a few layers at a
//! time.
//!
//! - **Offload.** [`Mode::Exact`], the default, takes 14 bytes of host RAM per parameter: a bf16
//!   weight (2), the 16-bit residual that extends it to an f32 master weight (2), a bf16 gradient
//!   (2) and two f32 AdamW moments (8). [`Mode::Streamed`] takes 12 (clips only if gradients wait
//!   on the GPU), [`Mode::Compact`] 10 or 8 (bf16 moments, stochastic rounding).
//! - **Layer streaming** with double buffering. Each layer is uploaded while the layer before it
//!   computes, and its gradient is downloaded while the next layer of backward computes.
//! - **Exact f32 master weights.** Weight and residual together are the f32 master, bit for bit.
//!   The bf16 half is what is uploaded, so there is no second copy of the weights.
//! - **Overlapped AdamW.** The CPU updates layer by layer under the next step's forward pass.
//!   Clipping uses the exact global norm, and the bits are those of a serial update.
//! - **Activation checkpointing.** [`Recompute`] sets per layer what backward recomputes,
//!   [`Boundary`] whether the layer's checkpoint stays on the GPU or is spilled to host RAM.
//! - **Gradient accumulation.** One upload of a layer serves all micro-batches of a sweep (by
//!   default the whole step). Their gradients are summed in f32 on the GPU.
//!
//! Placement (what is kept, spilled, recomputed or resident) never changes a bit of the result, and
//! a resumed run has the bits of an uninterrupted one. [`DeviceChoice`] selects a CUDA device or
//! the CPU, which is the reference.
//!
//! # A step
//! 1. [`Trainer::accumulate`] checks a micro-batch and copies it. Nothing is computed yet.
//! 2. [`Trainer::update`] runs forward and backward over all micro-batches and layers. It returns
//!    once loss and global gradient norm are known.
//! 3. AdamW continues in the background. The next step's upload of a layer waits for that layer's
//!    AdamW only; reading a tensor waits likewise. [`Trainer::sync`] waits for everything.
//!
//! [`Trainer::step`] does 1 and 2 in one call.
//!
//! # Items by task
//! | task | items |
//! |---|---|
//! | describe a model | [`hf::FolderConfig`] for a Hugging Face folder, [`preset`], or a [`ModelConfig`] |
//! | see the devices of this machine | [`devices`], [`device_info`], [`missing_for_cuda`] |
//! | see every byte before it is taken | [`Trainer::plan_for`], [`Plan`], [`Trainer::admit`] |
//! | open a trainer | [`Trainer::open`], [`TrainerOptions`] |
//! | set weights | [`hf::Weights`], [`Trainer::write_fresh`], [`Trainer::write_tensor`] |
//! | train | [`Trainer::step`], [`Batch`]; [`Trainer::step_with_loss`] for a loss of your own (DPO, GRPO, …) |
//! | freeze tensors, or scale their learning rate | [`Trainer::set_tensor_options`] |
//! | evaluate | [`Trainer::eval`], [`Trainer::logprobs`], [`Trainer::logits`] |
//! | cancel a running step | [`Trainer::canceller`], [`Canceller`] |
//! | save and resume | [`checkpoint`]; a [`Sink`] for a format of your own |
//! | export to Hugging Face | [`hf::export`] |
//! | observe | [`StepReport`], [`Stats`], [`Trainer::trace`] |
//!
//! # Example
//! ```
//! use std::sync::Arc;
//!
//! use horizon::checkpoint::{self, Changes, Checkpoints, Note};
//! use horizon::hf::{ExportTarget, FolderConfig, SHARD_BYTES, Weights, export, export_bytes};
//! use horizon::{Batch, DType, Shape, Trainer, TrainerOptions, preset, unwatched};
//!
//! # fn main() -> horizon::Result<()> {
//! // A built-in model of byte tokens; `FolderConfig::open` reads a Hugging Face folder instead.
//! let model = FolderConfig::of(preset("tiny").expect("a preset"))?;
//! let options = TrainerOptions { shape: Shape { b: 2, t: 8 }, threads: Some(2), ..TrainerOptions::default() };
//! println!("{}", Trainer::plan_for(&model.model, &options)?);
//!
//! let mut trainer = Trainer::open(&model.model, &options)?;
//! trainer.write_fresh(42)?;
//!
//! // A micro-batch of 2 × 8 tokens. The target of a token is the token after it.
//! let text = b"to be or not to b";
//! let tokens: Vec<i32> = text[..16].iter().map(|&byte| byte.into()).collect();
//! let targets: Vec<i32> = text[1..].iter().map(|&byte| byte.into()).collect();
//! let batch = Batch::new(&tokens, &targets);
//! let first = trainer.step(&[batch], 1e-3)?;
//! let second = trainer.step(&[batch], 1e-3)?;
//! assert!(second.loss < first.loss);
//!
//! // Tensors have the names of Llama in transformers; values are the f32 master weights.
//! let mut norm = vec![0.0; model.model.dims.c];
//! trainer.read_tensor("model.norm.weight", &mut norm)?;
//!
//! // A save runs in the background. The model's companion files (config.json, tokenizer) are stored
//! // with each checkpoint, so that the command, too, can read the model from it.
//! # let dir = tempfile::tempdir().expect("a folder");
//! # let dir = dir.path();
//! let companions = model.files(DType::Bf16);
//! let checkpoints = Arc::new(Checkpoints::create(&dir.join("checkpoints"), companions, None)?);
//! trainer.save(checkpoints.writer(&trainer, Note::default())?)?;
//! trainer.save_wait()?;
//!
//! // A resumed run continues bit for bit.
//! let saved = checkpoint::open(&dir.join("checkpoints"))?;
//! let mut resumed = Trainer::open(&FolderConfig::open(saved.folder())?.model, &options)?;
//! saved.restore_into(&mut resumed, &Changes::none(), &unwatched)?;
//! assert_eq!(resumed.step(&[batch], 1e-3)?, trainer.step(&[batch], 1e-3)?);
//!
//! // A Hugging Face folder: exported for transformers, or loaded.
//! let target = ExportTarget::check(&dir.join("model"), export_bytes(trainer.layout(), DType::Bf16))?;
//! export(&target, &model, &mut trainer, DType::Bf16, SHARD_BYTES, &unwatched)?;
//! Weights::open(target.folder(), model.family, resumed.layout())?.load(&mut resumed, &unwatched)?;
//! # assert!(dir.join("model/model.safetensors").is_file());
//! # Ok(())
//! # }
//! ```
//! `horizon train --resume` also needs the data position and the command's own settings:
//! [`checkpoint::Note::position`] and [`checkpoint::Note::numeric`].
//!
//! # Threads
//! A [`Trainer`] may move between threads, but one thread at a time uses it. Uploads, kernels,
//! downloads, AdamW and saves run on its [lanes](Lane), which are threads or CUDA streams.
//! [`TrainerOptions::threads`] CPU threads share AdamW, loading and export. The documentation of
//! each function says whether it blocks, and on which threads it calls back. Dropping a trainer
//! waits for its lanes and frees its memory.
//!
//! Threads of the library block signals and compute in the default floating-point environment,
//! which Rust requires of the calling thread, too. After `fork`, the child must not use a trainer.
//!
//! # Errors
//! Functions return [`Result`]. An [`Error`] has a [`Status`] for programs and a message for
//! people: what was found, where, and what to do. The library never prints, exits or aborts.
//!
//! - A model that does not fit is refused by [`Trainer::open`], before it takes memory
//!   ([`Status::OutOfHostMemory`], [`Status::OutOfDeviceMemory`]). All model buffers are allocated
//!   there, none in a step.
//! - A loss or norm that is not finite changes nothing ([`Status::NonFinite`]), and training may
//!   continue. Only AdamW under backward can update some units before it finds out
//!   ([`Status::StepPartial`]).
//! - A failure of the device is final: every later call of that trainer returns the same error. Only
//!   [`Trainer::save`], [`hf::export`] and [`Trainer::read_tensor`] still work, if the state in host
//!   RAM is that of the last completed step: AdamW had not applied a part of the failed one.
//!
//! # Soundness
//! No safe function of this crate, hidden ones included, can cause undefined behaviour. `tests/sound`
//! tries to break this rule.

// The modules by level. A module uses lower levels only; `tests/tidy.rs` checks the imports.
//
// | level | module | contents |
// |---|---|---|
// | L0 | `base` | errors, indices, sizes, dtypes, number formats, the split master. No `unsafe`, no system calls |
// | L1 | `sys` | raw foreign interfaces: the operating system, CUDA, our kernels |
// | L2 | `host` | RAM and cores: limits, arenas, the worker pool; files and folders |
// | L2 | `device` | the device contract: lanes, ticks, memory, copies; the CPU device |
// | L3 | `ops` | one op per file, forward and backward |
// | L4 | `optim` | updates parameters in host RAM: AdamW, its state, the split master |
// | L5 | `model` | decoders: config, layout (the only source of sizes), programs of layers, embedding and head |
// | L6 | `schedule` | a step as a list of operations: policy, build, sync, check, simulate. Pure, no device |
// | L7 | `plan` | every byte on host and device, predicted times, the search for the fastest placement |
// | L8 | `engine` | runs a schedule on a device: store, trainer, trace, stats, calibration |
// | L9 | `data` | training data: text, chats and token files as windows of tokens |
// | L9 | `hf` | Hugging Face folders: config and safetensors, in and out |
// | L9 | `checkpoint` | writes and restores the whole state of a run |
// | L10 | `train` | the training loop: learning rates, metrics, saving, sampling |
// | L11 | `capi` | the C ABI, all exported functions; panics become statuses here |
//
// Users of the library need the names re-exported below and the modules `checkpoint` and `hf`. The
// hidden modules are public for the command, the tests and the benches, and change without notice.

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

pub use base::{
    ChunkIndex, DType, Dims, Error, Message, OwnedProgress, Position, Progress, Result, Shape, Status,
    UnitIndex, unwatched,
};
pub use device::{DeviceInfo, Lane};
pub use engine::{
    AdamOptions, Batch, Canceller, DeviceChoice, EvalReport, Fill, Loss, Sink, StateJob, StateSpan, Stats,
    StepReport, TensorOptions, Trainer, TrainerOptions, UnitState, cuda_device_count, device_info, devices,
    missing_for_cuda,
};
pub use host::Pinning;
pub use model::{
    Biases, Layout, ModelConfig, Recompute, RopeScaling, TensorLayout, UnitKind, UnitLayout, Window, preset,
    preset_names,
};
pub use optim::{Optimizer, StateArray};
pub use plan::{Plan, Region};
pub use schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode};
