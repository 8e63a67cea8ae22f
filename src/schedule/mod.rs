//! L6, when things happen: a step as a list of operations, built, synchronised and checked by pure code.
//!
//! Knows units, micro-batches, slots and lanes by number; knows no address, no size, no device memory. What
//! it decides the engine carries out, and nothing here ever runs anything.
//!
//! # Parts
//! - [`Policy`] is the input; [`Geometry`] what a list needs to know of the model.
//! - [`Operation`] is one thing that is done. [`Operation::visit`] names every [`Resource`] it touches, what
//!   that must hold before ([`Content`]) and what it holds after. Everything below rests on those facts.
//!   [`Operation::pass`] and [`Operation::bind`] name the ops of an operation on the compute lane and the resources they use.
//! - [`train`], [`train_rows_first`], [`train_with_loss`], [`evaluate`], [`logprobs`], [`logits`] and [`save`] write a
//!   [`List`] in *program order*: executed one by one it is right. Each operation stands as early as its memory allows.
//! - [`Sync`] infers from the accesses what each operation must wait for on other lanes: the least set.
//!   Nobody writes a wait by hand. What it knows carries over from list to list, so a step's border needs no
//!   barrier: the next forward of a layer waits for that layer's AdamW and no other.
//! - [`Checker`] proves, independently of `Sync`, that the waits suffice, that every read finds what it
//!   expects, and that nothing is done in vain; or names the two operations and the resource ([`Fault`]).
//! - [`retired`] says after which operation a place's contents are of no use any more.
//! - [`Simulator`] runs lists in virtual time, by what each operation costs; [`usage`] and [`peaks`] say what
//!   lanes and memory were used for.
//! - [`write_trace`] writes what happened, or would happen, lane by lane, for a person to look at.
//!
//! # A step, lane by lane
//! Two slots, three layers (units 1, 2, 3), one micro-batch; time runs to the right, and `│` stands where a
//! lane waits for another:
//!
//! ```text
//! h2d      batch up 0  up 1  up 2 │up 3  up head          │up 1
//! compute            │embed │fwd 1  │fwd 2  │fwd 3  │head   bwd 3   bwd 2  │bwd 1   embed bwd
//! d2h                                                     │head    │3      │2      │1       │0  loss
//! host                                                                                             │decide  adam 0  adam 1 …
//! ```
//!
//! `up 3` waits for the forward of layer 1, whose slot it takes; layers 3 and 2 are still in their slots when
//! backward comes to them, so only layer 1 is uploaded again, under the backwards of the others. `host`
//! decides when all norms are there and runs AdamW in forward order; `up 0` of the next step waits for
//! `adam 0`, so its forward runs under AdamW of the layers above.
//!
//! # An embedding that is not tied to the head
//! `up 0` needs only the rows that the step's tokens name. Where those of the next step are known in time,
//! [`train_rows_first`] updates their rows first (`adam next rows`, which gathers them, too), then layers and head, and
//! the embedding's other rows last: the border of a step waits for a few rows instead of the largest unit. Otherwise the
//! issuing thread gathers the rows once AdamW has updated the whole embedding.
//!
//! # What a placement may ask for besides
//! - A layer **keeps** more than its boundary ([`Recompute`]), so that its backward has less to do again.
//! - A boundary is **spilled** ([`Boundary`]): it leaves the room it was written to behind the forward that
//!   wrote it, and comes back behind the backward that last used the room. The last ones stay where they are.
//! - A layer is **resident**: it has a slot of its own and is uploaded once a step.
//! - A step has several **sweeps**: each continues the f32 sums of the one before, which stay on the device or
//!   pass through rooms as boundaries do ([`Accumulator`]). The embedding's backward waits for the last sweep, so that
//!   sums are made in one order however a step is cut; what it reads, the streams, stays meanwhile.
//! - Rounded gradients **wait** on the device ([`GradWait`]) and come down one by one for AdamW.
//!
//! None of this changes a bit.
//!
//! # The issuing thread
//! It is no lane, but between lists it touches host memory: writes batches, reads a loss or a master. It asks
//! [`Sync::before`] which ticks must have arrived, reaches them, and tells [`Sync::settle`], which then spares
//! later operations the waits that have become needless.
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
    Accumulator, AdamWhen, Boundary, Extent, Geometry, GradWait, LayerPlacement, Mode, Numeric, Placement,
    Policy, SPILL_BUFFERS,
};
pub use resource::{Content, Resource};
pub use retire::retired;
pub use simulate::{Peak, Share, Simulation, Simulator, Usage, peaks, usage};
pub use sync::{Sync, Synced};
pub use trace::{Label, Note, Process, write_trace};
