//! L10, the training loop.
//!
//! Takes batches from [`data`](crate::data), learning rates from [`LrSchedule`], and models from
//! [`hf`](crate::hf) folders or a [`checkpoint`](crate::checkpoint); runs steps and saves of the
//! engine. It does not schedule operations, and it prints nothing: a [`Run`] reports to its
//! [`Observer`].
//!
//! A checkpoint has everything that determines the rest of a run: the state of every unit, the step
//! number, the position in the data, and the options that change bits. The learning rate is a
//! function of the step number; the order of the data is a function of seed and position. A resumed
//! run ([`Resume`]) is therefore bit-equal to an uninterrupted one.
#![forbid(unsafe_code)]

mod log;
mod lr;
pub mod metrics;
mod origin;
pub mod planning;
mod run;
mod sample;
mod saving;
mod source;
mod times;
mod trace;

pub use log::Log;
pub use lr::{LrSchedule, LrShape};
pub use origin::{Origin, Standing};
pub use run::{Observer, Outcome, Run, RunOptions};
pub use sample::{Sampler, continue_text};
pub use saving::{Resume, SaveOptions};
pub use source::ModelSource;
pub use times::StepTimes;
pub use trace::TraceFile;
