//! L0: types shared by all levels (errors and messages, indices, sizes, dtypes, number formats, the
//! split master).
//!
//! No operating system, no device, no `unsafe`.
#![forbid(unsafe_code)]

mod allocate;
mod caught;
mod dims;
mod dtype;
mod error;
mod finite;
pub mod format;
pub mod hash;
mod index;
pub mod json;
pub mod master;
mod message;
mod name;
mod placeholder;
mod position;
mod progress;
mod run_id;

pub use allocate::{filled, with_capacity};
pub use caught::{caught, hide_caught_panics};
pub use dims::{Dims, Shape};
pub use dtype::DType;
pub use error::{Error, Result, Status};
pub use finite::{check_f32, find_non_finite, non_finite};
pub use index::{ChunkIndex, MicroIndex, MicroSlotIndex, SlabIndex, SlotIndex, SpillIndex, UnitIndex};
pub use message::{Front, Message, phrase};
pub use name::Name;
pub use placeholder::{WEB_PAGE, lfs_pointer, placeholder};
pub use position::Position;
pub use progress::{Meter, OwnedProgress, Progress, unwatched};
pub use run_id::RunId;

/// The ignored target (PyTorch's `ignore_index`; −100 in `horizon.h`): its row adds nothing to the
/// loss or the gradient.
pub const IGNORED_TARGET: i32 = -100;
