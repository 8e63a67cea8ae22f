//! L10, the loop.
//!
//! Takes batches from [`data`](crate::data), learning rates from [`LrSchedule`], models from [`hf`](crate::hf) folders or a
//! [`checkpoint`](crate::checkpoint), and asks the engine for steps and saves. It knows nothing of lanes or slots, and prints
//! nothing: a [`Run`] reports to its [`Observer`].
//!
//! A run is decided by what a checkpoint keeps of it: the state of every unit, the step number, the place in the
//! data, and the numbers under the names of the command's options. The learning rate is a function of the step number, the
//! order of the data one of the seed and the place; so a run that goes on ([`Resume`]) takes the same path as one that was
//! never stopped, and ends with the same bits.
#![forbid(unsafe_code)]

mod lr;
pub mod metrics;
pub mod planning;
mod run;
mod sample;
mod saving;
mod source;
mod times;

pub use lr::{LrSchedule, LrShape};
pub use run::{Observer, Outcome, Run, RunOptions};
pub use sample::{Sampler, continue_text};
pub use saving::{Resume, SaveOptions};
pub use source::ModelSource;
pub use times::StepTimes;
