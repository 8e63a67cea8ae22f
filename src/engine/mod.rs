//! L8, the engine: runs a schedule on a device.
//!
//! This is the one top-down document; with it and the lower levels, somebody could build the engine again.
//!
//! # What there is
//! The **store** (`store`) is the model in host RAM: for every unit (the embedding, each decoder layer, the
//! head) contiguous spans of bf16 weights, 16-bit residuals, gradients and AdamW moments, in two arenas taken
//! once and sealed. The device has one arena, too, cut by the same [`Plan`](crate::plan::Plan) into weight
//! slots, gradient slabs, boundaries, scratch. Nothing is allocated inside a step.
//!
//! # How a step runs
//! 1. [`Trainer::accumulate`] checks a micro-batch and copies it into its staging place. Nothing runs yet.
//! 2. [`Trainer::update`] takes the *list* of operations for that many micro-batches (built by
//!    [`schedule::build`](crate::schedule), kept from then on), lets `sync` infer what each operation waits
//!    for, lets `check` prove it, and issues the list to the device's lanes. A task is a
//!    64-bit name: which list, which frame, which operation (`task`).
//! 3. The lanes run tasks through the `runner`: it looks the operation up, finds the places the plan gave
//!    its resources, and runs its [pass](crate::model::Pass) on the compute lane, the device's copies on h2d and d2h, AdamW on
//!    the host lane, the save's sink on the disk lane. The list is layer-major: a unit's weights come up once and serve all micro-batches.
//! 4. The last download sets off `DecideClip` on the host lane: loss and global norm are known, the clip factor and
//!    whether to commit are decided. `update` returns at this point. The norm is the root of a sum in f64: over blocks of
//!    65 536 elements from a tensor's start, then over tensors in layout order. No bit of it depends on units, parts or
//!    slabs.
//! 5. AdamW runs on, unit by unit in forward order. The next step's upload of a unit waits for that unit's
//!    AdamW alone, by inference, since `sync` carries its clocks from list to list.
//!
//! # The way of a token to its update
//! To follow a step, read these files in this order:
//!
//! | | file | what happens |
//! |---|---|---|
//! | 1 | `data/loader.rs` | a window of tokens becomes a [`Batch`] |
//! | 2 | `engine/trainer/steps.rs` | it is checked (`batch.rs`) and staged; then the step's list is asked for |
//! | 3 | `engine/store.rs` | staging, weights, residuals, gradients, optimizer state in host memory |
//! | 4 | `engine/trainer/mod.rs` | the list's waits are inferred and proved, its tasks issued to lanes |
//! | 5 | `engine/task.rs` | the lists of a trainer, and the name of a task on a lane |
//! | 6 | `schedule/build.rs` | the operations of a list |
//! | 7 | `schedule/operation.rs` | an operation: lane, name, parameters |
//! | 8 | `schedule/access.rs`, `resource.rs` | the resources that it reads and writes |
//! | 9 | `schedule/sync.rs` | the operations that it waits for |
//! | 10 | `engine/runner.rs` | its execution: a copy, a pass, or work of the host |
//! | 11 | `schedule/bind.rs` | its pass, and the resource that each memory of the pass is |
//! | 12 | `engine/places.rs` | the memory of a resource |
//! | 13 | `plan/device_map.rs`, `host_map.rs` | its offset |
//! | 14 | `model/passes.rs` | the passes of all units |
//! | 15 | `model/decoder.rs`, `modules/attention.rs` and its neighbours | the program of a unit: ops, forward and backward |
//! | 16 | `model/program/mod.rs`, `arena.rs` | what is computed again, and where activations are |
//! | 17 | `ops/attention.rs` and its neighbours | an op: operands, sizes, CPU function, CUDA launch |
//! | 18 | `csrc/attention.cu` and its neighbours | the kernel |
//! | 19 | `optim/adamw/mod.rs` | AdamW on the split master |
//!
//! # On which device
//! A [`Backend`] is a device and the kernels that go with it; nothing else here knows which. On the CPU device every
//! lane is a thread; on the CUDA device compute, h2d and d2h are streams, so the runner *enqueues* there what it
//! does here, on the issuing thread, and what an operation reads of the host while it is enqueued (the frame's
//! inputs, the counts of distinct tokens) is set before its list is issued. What crosses the link lies in memory of
//! the kind that the device names.
//!
//! # Who may touch what
//! Spans carry no borrow. Two files turn them into memory, and contain the engine's `unsafe`: `store` on the host, `places` on the
//! device (and the measurements of `calibrate`, on memory of their own). The trainer keeps that memory until its lanes are closed.
//! Callers get slices, for the length of a call. Between lanes the schedule orders every pair of conflicting accesses, and `check`
//! proves it. The calling thread is held to the same rules: before it writes staging, or reads or writes a tensor,
//! `sync` tells which ticks must have arrived, the trainer reaches those, and `check` proves that they suffice. So a
//! tensor waits for the last operation on its own unit and for no other.
//!
//! Before a list is issued the calling thread also **gathers** (`gather`): an embedding that is not tied to the head goes
//! up as the rows that the list's tokens name, copied by the pool's threads into memory that crosses the link. For that it
//! waits for AdamW of the whole embedding. Where a step's tokens were [announced](Trainer::announce) before the step
//! before it, AdamW of that step updates and gathers their rows first, and the embedding's other rows after all other
//! units, so the step does not wait for the whole embedding. For a list with a token that was not announced, rows are gathered as
//! above.
//!
//! # A loss of the caller's
//! [`Trainer::step_with_loss`] issues its list up to [`Operation::Loss`](crate::schedule::Operation::Loss), waits for what
//! that waits for, lets the caller make gradients of log-probabilities, and issues the rest. If the caller gives the
//! step up, the rest is issued all the same and passed over, so that what `sync` and `check` know stays true.
//!
//! # Saving
//! [`Trainer::save`] issues a list of its own to the disk lane, which hands one unit after the other to a
//! [`Sink`] (`save`). A unit is saved once its AdamW is done, and its next AdamW comes after that: the
//! save is of the moment it was asked for, however far training has got by the time it ends. [`Trainer::restore`] is the
//! way back: the threads of the pool fill the same spans, under whatever placement the trainer was opened with.
//!
//! # Tensors apart
//! A learning rate, a decay of its own, or none of both (frozen) is kept by tensor beside the runner (`tuning`). It is
//! set between steps, when AdamW of the tensor's unit is done. The last backward operation of a unit leaves a
//! frozen tensor's gradient zero, so the global norm is that of what trains.
//!
//! # Frames
//! A **frame** (`frame`) holds what differs from step to step (learning rate, loss scale) and what the
//! step reports. There are two, since AdamW of one step runs while the next is issued; a frame is used again
//! when the host lane has done with it.
#![deny(unsafe_code)]

mod backend;
mod batch;
pub mod calibrate;
mod derived;
mod gather;
mod inspect;
mod operation_memory;
mod options;
mod record;
mod runner;
mod save;
mod slices;
mod step_state;
mod store;
mod task;
mod trainer;
mod tuning;
mod warm_up;

pub use backend::{
    Backend, DeviceChoice, KernelsSetting, MakeKernels, autotune, device_info, devices, missing_for_cuda,
};
pub use batch::Batch;
pub use inspect::{CudaDeviceReport, CudaReport, Library};
pub use options::{AdamOptions, TrainerOptions};
pub use save::{Fill, Sink, StateJob, StateSpan, UnitState};
pub use slices::{SliceJob, TensorSlice};
pub use trainer::{EvalReport, Loss, Stats, StepReport, Trainer};
pub use tuning::TensorOptions;
