//! F0, the words: what every floor speaks of.
//!
//! Knows nothing of the machine: no operating system, no device, no `unsafe`.
#![forbid(unsafe_code)]

mod dims;
mod dtype;
mod error;
mod index;
pub mod master;

pub use dims::{Dims, Shape};
pub use dtype::DType;
pub use error::{Error, Result, Status};
pub use index::{MicroIndex, PartIndex, RoomIndex, SeatIndex, SlabIndex, SlotIndex, UnitIndex};

/// The target that is none: its row counts neither in a loss nor in a gradient. PyTorch's `ignore_index`, and
/// −100 in `horizon.h`.
pub const IGNORED_TARGET: i32 = -100;

/// `1 layer`, `2 layers`.
pub fn several(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
