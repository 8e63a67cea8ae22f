//! F2, this machine's RAM and cores.
//!
//! Knows memory limits, arenas and worker threads; knows nothing of models, devices or schedules.
//! Memory is taken once and sealed: after that, nothing on this floor allocates.

mod arena;
pub mod files;
mod limits;
mod pool;

pub use arena::{Arena, HostSpan, MemoryKind};
pub use limits::{Limit, Limits};
pub use pool::Pool;
