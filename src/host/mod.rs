//! F2, this machine's RAM and cores.
//!
//! Knows memory limits, arenas and worker threads; knows nothing of models, devices or schedules.
//! Memory is taken once and sealed: after that, nothing on this floor allocates.

mod arena;
mod doorbell;
pub mod files;
mod isa;
mod limits;
mod pool;
mod span;

pub use arena::{Arena, MemoryKind};
pub use doorbell::Doorbell;
pub use isa::Isa;
pub use limits::{Limit, Limits, Size};
pub use pool::Pool;
pub use span::{HostSpan, Plain};
