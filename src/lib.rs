//! **Horizon** trains large language models on one accelerator with the whole model in host RAM.
//!
//! The modules by level. A module uses only modules of lower levels; `tests/tidy.rs` checks the imports.
//!
//! | level | module | contents |
//! |---|---|---|
//! | L0 | [`base`] | errors, indices, sizes, dtypes, number formats, the split master. No `unsafe`, no OS |
//! | L1 | [`sys`] | raw foreign interfaces: the operating system, CUDA, our kernels |
//! | L2 | [`host`] | RAM and cores: limits, arenas, the worker pool; files and folders |
//! | L2 | [`device`] | the device contract: lanes, ticks, memory, copies; the CPU device |
//! | L3 | [`ops`] | one op per file, forward and backward |
//! | L4 | [`optim`] | the update of parameters in host RAM: AdamW, its state, the split master |
//! | L5 | [`model`] | decoders: config, layout (the only source of sizes), layers, embedding and head |
//! | L6 | [`schedule`] | when things happen: policy, operations, build, sync, check. Pure, no device |
//! | L7 | [`plan`] | what goes where: every byte on host and device, the search for the fastest plan, refusal |
//! | L8 | [`engine`] | runs a schedule on a device: store, trainer, trace, stats |
//! | L9 | [`data`] | training data: text, chats and token files as windows of tokens |
//! | L9 | [`hf`] | Hugging Face folders: config and safetensors, in and out |
//! | L9 | [`checkpoint`] | the whole state of a run, written and restored |
//! | L10 | [`train`] | the loop: learning rates, metrics, saving, sampling |
//! | L11 | [`capi`] | the only `extern "C"`; panics become statuses here |

#![warn(missing_docs)]

pub mod base;
pub mod capi;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod engine;
pub mod hf;
pub mod host;
pub mod model;
pub mod ops;
pub mod optim;
pub mod plan;
pub mod schedule;
pub mod sys;
pub mod train;
