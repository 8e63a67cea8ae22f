//! The worker pool.

/// Threads that take tiles of work together.
#[derive(Debug)]
pub struct Pool {}
