//! The host level: memory, limits, worker pool.

mod arena;
mod limits;
mod memory;
mod pool;
