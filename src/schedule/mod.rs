//! L6, the schedule: a step as a list of operations, built, synchronized, checked and simulated by
//! pure code.
//!
//! Knows units, micro-batches, slots and lanes by number; knows no address, no size, no device
//! memory. Nothing here runs an operation: the engine does.
//!
//! # Parts
//! - [`Policy`] is the input; [`Geometry`] holds the facts about the model that a list depends on.
//! - [`Operation`] is one copy, pass or host task. [`Operation::visit`] names every [`Resource`] it
//!   accesses, its required [`Content`] before, and its content after. Everything below depends on
//!   these facts alone. [`Operation::pass`] and [`Operation::bind`] map an operation of the compute
//!   lane to ops and their memory.
//! - [`train`], [`train_rows_first`], [`train_with_loss`], [`evaluate`], [`logprobs`], [`logits`]
//!   and [`save`] build a [`List`] in *program order*: executed one by one, its operations are
//!   correct. Each operation stands as early as its memory allows.
//! - [`Sync`] infers from the accesses the minimal set of waits on other lanes. No wait is written
//!   by hand. Its state carries over from list to list, so there is no barrier between steps: the
//!   next forward of a layer waits for that layer's AdamW only.
//! - [`Checker`] proves, independently of `Sync`, that the waits suffice, that every read finds the
//!   expected content, and that no result is unused; otherwise it names the two operations and the
//!   resource ([`Fault`]).
//! - [`retired`] lists the last use of each content of device memory.
//! - [`Simulator`] runs lists in virtual time, given the cost of each operation; [`usage`] and
//!   [`peaks`] report the use of lanes and memory.
//! - [`write_trace`] writes measured or simulated spans as a Chrome trace.
//!
//! # A step, lane by lane
//! Two slots, three layers (units 1, 2, 3), one micro-batch. Time runs to the right; `│` marks a
//! wait for another lane:
//!
//! ```text
//! h2d      batch up 0  up 1  up 2 │up 3  up head               │up 1
//! compute            │embed │fwd 1  │fwd 2  │fwd 3  │head bwd 3 bwd 2│bwd 1 embed bwd
//! d2h                                                    │head │3    │2    │1        │0  loss
//! host                                                                                       │clip decision  adam 0 …
//! ```
//!
//! The weight slots are used by **double buffering**: while a layer computes in one slot, the next
//! layer is uploaded into the other. `up 3` waits for the forward of layer 1, whose slot it reuses.
//! Layers 3 and 2 are still in their slots when backward starts, so only layer 1 is uploaded again,
//! while the others run backward. The host lane decides the clip factor when all norms are known
//! and then runs AdamW in forward order. `up 0` of the next step waits for `adam 0`, so the next
//! forward overlaps AdamW of the layers above.
//!
//! # An embedding that is not tied to the head
//! `up 0` needs only the rows of the step's tokens. If the next step's tokens are known in time,
//! [`train_rows_first`] updates and gathers their rows first (`adam next rows`), then layers and
//! head, and the embedding's other rows last: the next step waits for a few rows instead of the
//! largest unit. Otherwise the issuing thread gathers the rows once AdamW has updated the whole
//! embedding.
//!
//! # Placement options
//! None of them changes a bit.
//! - **Activation checkpointing** ([`Recompute`]): a layer may save more than its boundary, so that
//!   its backward recomputes less.
//! - **Spilled boundaries** ([`Boundary`]): a boundary leaves its spill buffer after the forward
//!   that wrote it, and comes back after the backward that last used the buffer. The topmost ones
//!   stay in their buffers.
//! - **Resident layers**: a layer has a slot of its own and is uploaded once per step.
//! - **Sweeps**: each sweep continues the f32 accumulators of the one before, which stay on the
//!   device or pass through spill buffers ([`Accumulator`]). The embedding's backward runs after
//!   the last sweep, so that the order of summation does not depend on the number of sweeps; its
//!   input, the residual streams, stays on the device until then.
//! - **Gradients that wait on the device** ([`GradWait`]): rounded gradients are downloaded one by
//!   one for AdamW.
//!
//! # The issuing thread
//! It is not a lane, but between lists it accesses host memory: it writes batches and reads losses
//! or master weights. [`Sync::before`] returns the ticks that must arrive first. The thread waits
//! for them and passes them to [`Sync::settle`], so that later operations do not wait for them
//! again.
#![forbid(unsafe_code)]

mod access;
mod bind;
mod build;
mod check;
mod clock;
mod fault;
mod operation;
mod policy;
mod resource;
mod retire;
mod simulate;
mod sync;
mod trace;

pub use crate::model::Recompute;
pub use access::Access;
pub use bind::Copy;
pub use build::{List, evaluate, logits, logprobs, save, train, train_rows_first, train_with_loss};
pub use check::Checker;
pub use fault::{Fault, Held, Party};
pub use operation::{
    AccumulatorBuffer, BoundaryBuffer, EndUnit, GradientBuffer, Guard, Operation, RowSet, WeightBuffer,
};
pub use policy::{
    Accumulator, AdamWhen, Boundary, COUNT_MAX, Extent, Geometry, GradWait, LayerPlacement, Mode, Numeric,
    Placement, Policy, SPILL_BUFFERS,
};
pub use resource::{Content, Resource};
pub use retire::retired;
pub use simulate::{Peak, Share, Simulation, Simulator, Usage, peaks, usage};
pub use sync::{Sync, Synced};
pub use trace::{Label, Note, Process, write_trace};
