//! How much memory this process may take.

/// A bound on host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Physical RAM that the system calls available.
    Available,
    /// The memory limit of the process's control group.
    Cgroup,
    /// What the user said with `--host-mem`.
    Stated,
}

/// The host memory this process may take, and what says so.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that may be taken.
    pub bytes: usize,
    /// The bound that gives that number.
    pub limit: Limit,
}
