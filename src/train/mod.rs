//! F8, the loop.
//!
//! Knows data, learning rates, Hugging Face folders, records of a run; asks the engine for steps and knows
//! nothing of lanes, slots or spans. It prints nothing: whoever runs a [`Run`] is told through [`Observer`].
#![forbid(unsafe_code)]

pub mod chat;
pub mod checkpoint;
pub mod data;
pub mod folder;
pub mod hf;
pub mod metrics;
pub mod planning;
mod rate;
mod run;
mod sample;
mod saving;
mod source;
pub mod tokenizer;

pub use rate::{Rate, RateShape};
pub use run::{Observer, Outcome, Run, RunOptions};
pub use sample::{Sampler, continue_text};
pub use saving::{Resume, SaveOptions};
pub use source::ModelSource;
