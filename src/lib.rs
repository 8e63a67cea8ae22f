//! **Horizon** trains large language models on one accelerator with the whole model in host RAM.
//!
//! This file is the map of the house and nothing else. A floor uses only the floors below it;
//! `tests/tidy.rs` reads the imports and holds that true.
//!
//! | floor | module | what it knows |
//! |---|---|---|
//! | F0 | [`base`] | words: errors, indices, sizes, dtypes, the split master. No `unsafe`, no OS |
//! | F1 | [`sys`] | foreign names, raw: the operating system's, CUDA's, our kernels' |
//! | F2 | [`host`] | this machine's RAM and cores: limits, arenas, the worker pool |
//! | F2 | [`device`] | the contract of a device: lanes, ticks, memory, copies; the CPU device |
//! | F3 | [`ops`] | one op a file, forward and backward |
//! | F4 | [`optim`] | the update of parameters in host RAM: AdamW, its state, the split master |
//! | F5 | [`model`] | what a decoder is: config, layout (the only source of sizes), its layers and ends |
//! | F6 | [`schedule`] | when things happen: policy, operations, build, sync, check. Pure, no device |
//! | F7 | [`plan`] | what goes where: every byte on host and device, the search for the fastest plan, refusal |
//! | F8 | [`engine`] | runs a schedule on a device: store, trainer, trace, stats |
//! | F9 | [`train`] | the loop: data, learning rates, metrics, checkpoints, Hugging Face import and export |
//! | F10 | [`capi`] | the wall: the only `extern "C"`; panics become statuses here |

#![warn(missing_docs)]

pub mod base;
pub mod capi;
pub mod device;
pub mod engine;
pub mod host;
pub mod model;
pub mod ops;
pub mod optim;
pub mod plan;
pub mod schedule;
pub mod sys;
pub mod train;
