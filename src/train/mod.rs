//! F9, the loop.
//!
//! Knows data, learning rates, Hugging Face folders, checkpoints, records of a run; asks the engine for steps and saves, and
//! knows nothing of lanes or slots. It prints nothing: whoever runs a [`Run`] is told through [`Observer`].
//!
//! A run is decided by what a [`checkpoint`] keeps of it: the state of every unit, the step number, the place in the
//! data, and the numbers under the names of the command's options. The learning rate is a function of the step number, the
//! order of the data one of the seed and the place; so a run that goes on ([`Resume`]) takes the same path as one that was
//! never stopped, and ends with the same bits.
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
mod times;
pub mod tokenizer;

pub use rate::{Rate, RateShape};
pub use run::{Observer, Outcome, Run, RunOptions};
pub use sample::{Sampler, continue_text};
pub use saving::{Resume, SaveOptions};
pub use source::ModelSource;
pub use times::StepTimes;
