//! Properties of the schedule for random policies, models and sequences of lists.
//!
//! - `accepts`: the checker accepts every built and synchronized list; the waits are minimal.
//! - `faults`: the checker finds every planted fault.
//! - `execution`: lanes in any order that the waits allow give the result of program order, bit for
//!   bit, and program order gives the result of the plain algorithm.
//! - `bindings`: passes use memory as their operations declare it.
//! - `timing`: simulated lanes behave like those of a device, and operations overlap as intended.

mod accepts;
mod bindings;
mod cases;
mod execution;
mod faults;
mod machine;
mod plain;
mod timing;
