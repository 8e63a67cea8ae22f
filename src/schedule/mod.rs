//! F5, when things happen: a step as a list of operations, built, synchronised and checked by pure code.
//!
//! Knows units, micro-batches, slots and lanes by number; knows no address, no size, no device.
//!
//! - [`Policy`] is the input; [`Geometry`] what a list needs to know of the model.
//! - [`build`] writes the list in *program order*: executed one by one it is a correct step.
//! - [`sync`] infers from each operation's reads and writes what it must wait for on other lanes; nobody
//!   writes a wait by hand. Its state carries from list to list, so step borders need no barrier.
//! - [`check`] proves, by vector clocks and independently of `sync`, that the waits suffice and that every
//!   read finds the contents it expects.
#![forbid(unsafe_code)]

mod access;
mod build;
mod check;
mod clock;
mod fault;
mod operation;
mod policy;
mod resource;
mod sync;

pub use access::Access;
pub use build::{List, evaluate, logits, train};
pub use check::Checker;
pub use fault::{Fault, Held, Party};
pub use operation::{End, GradPlace, Guard, Operation, WeightPlace};
pub use policy::{AdamWhen, Geometry, Mode, Numeric, Placement, Policy};
pub use resource::{Content, Resource};
pub use sync::{Sync, Synced};
