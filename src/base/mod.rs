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
