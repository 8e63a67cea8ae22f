//! The schedule, proved: random policies, models and sequences of lists.
//!
//! - `accepts`: the checker accepts whatever is built and synchronised; the waits are the least.
//! - `faults`: the checker finds every planted fault.
//! - `execution`: lanes in any order that the waits allow give what program order gives, bit for bit, and
//!   program order gives what the plain algorithm gives.
//! - `bindings`: passes use memory as their operations declare it.
//! - `timing`: virtual time keeps the promises of a device, and what should overlap does.

mod accepts;
mod bindings;
mod cases;
mod execution;
mod faults;
mod machine;
mod plain;
mod timing;
