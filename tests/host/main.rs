//! The host level: memory, its limits, and the worker pool.

mod arena;
mod limits;
mod memory;
mod pool;
