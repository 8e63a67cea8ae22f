//! L0, the words shared by all levels.
//!
//! Knows nothing of the machine: no operating system, no device, no `unsafe`.
#![forbid(unsafe_code)]

mod dims;
mod dtype;
mod error;
pub mod format;
pub mod hash;
mod index;
pub mod master;
mod position;
mod progress;

pub use dims::{Dims, Shape};
pub use dtype::DType;
pub use error::{Error, Result, Status};
pub use index::{ChunkIndex, MicroIndex, MicroSlotIndex, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
pub use position::Position;
pub use progress::{Progress, unwatched};

/// The target that is none: its row counts neither in a loss nor in a gradient. PyTorch's `ignore_index`, and
/// −100 in `horizon.h`.
pub const IGNORED_TARGET: i32 = -100;
