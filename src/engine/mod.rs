//! L8, the engine: runs a schedule on a device.
//!
//! This page explains the engine top down. The engine knows units, memory and lanes. It knows no
//! file format, no tokenizer and no training loop.
//!
//! # Parts
//! | part | files | contents |
//! |---|---|---|
//! | trainer | `trainer/` | the public API; infers, proves and issues lists on the calling thread |
//! | store | `store.rs` | the model in host RAM: weights, residuals, gradients and AdamW moments of every unit |
//! | lists | `task.rs` | the operation lists of a trainer, built on first use and cached |
//! | runner | `runner.rs`, `operation_memory.rs` | runs an operation on a lane, in the memory it declares |
//! | step state | `step_state.rs` | inputs and results of one step |
//! | backend | `backend.rs` | a device and its kernels |
//! | calibration | `calibrate/` | measures the rates of this machine for the plan |
//!
//! A *unit* is the embedding, one decoder layer (or half of one) or the head. All memory is taken
//! once, when the trainer is opened, and divided as the [`Plan`](crate::plan::Plan) says: two host
//! arenas for the store, and one device arena for weight slots, gradient slabs, boundaries and
//! scratch. No arena grows later.
//!
//! # A step
//! 1. [`Trainer::accumulate`] checks a micro-batch and copies it to its staging buffer. Nothing is
//!    computed yet.
//! 2. [`Trainer::update`] fetches the list of operations for that number of micro-batches, built by
//!    [`schedule::train`](crate::schedule::train). `sync` infers the waits of each operation,
//!    `check` proves them sufficient, and the list is issued to the device's lanes.
//! 3. The lanes run the operations through the runner: uploads on `h2d`,
//!    [passes](crate::model::Pass) on `compute`, downloads on `d2h`, AdamW on `host`. The list is
//!    layer-major: each upload of a unit serves all micro-batches of a sweep. Gradients are
//!    summed in f32 on the device (gradient accumulation); the sum is rounded and downloaded once.
//!    Weight slots use double buffering: a unit is uploaded while another computes. With
//!    activation checkpointing a layer keeps its input, and backward recomputes what the placement
//!    says; offload of that input to host RAM is two more copies.
//! 4. When all norms have arrived, `ClipDecision` on the `host` lane computes loss, global norm and
//!    clip factor, and decides whether to commit. Then `update` returns. The norm is the root of a
//!    sum in f64: over blocks of 65 536 elements from each tensor's start, then over tensors in
//!    layout order. It does not depend on units, chunks or slabs.
//! 5. AdamW continues unit by unit in forward order. `sync` carries its clocks from list to list,
//!    so the next step's upload of a unit waits for that unit's AdamW and no other. (AdamW under
//!    backward instead updates a unit as soon as its gradient has arrived, without clipping.)
//!
//! # From a token to its update
//! To follow a step, read these files in this order:
//!
//! | | file | step |
//! |---|---|---|
//! | 1 | `data/loader.rs` | a window of tokens becomes a [`Batch`] |
//! | 2 | `engine/trainer/steps.rs` | the batch is checked (`batch.rs`) and staged; the step requests its list |
//! | 3 | `engine/store.rs` | staging, weights, residuals, gradients and optimizer state in host memory |
//! | 4 | `engine/trainer/mod.rs` | the list's waits are inferred and proved, its tasks issued to lanes |
//! | 5 | `engine/task.rs` | the lists of a trainer, and the 64-bit name of a task on a lane |
//! | 6 | `schedule/build.rs` | the operations of a list |
//! | 7 | `schedule/operation.rs` | an operation: lane, name, parameters |
//! | 8 | `schedule/access.rs`, `resource.rs` | the resources that an operation reads and writes |
//! | 9 | `schedule/sync.rs` | the operations that it waits for |
//! | 10 | `engine/runner.rs` | its execution: a copy, a pass, or work on the host |
//! | 11 | `schedule/bind.rs` | its pass, and the resource behind each operand of the pass |
//! | 12 | `engine/operation_memory.rs` | the memory of a resource |
//! | 13 | `plan/device_map.rs`, `host_map.rs` | the offset of that memory |
//! | 14 | `model/passes.rs` | the passes of all units |
//! | 15 | `model/decoder.rs`, `modules/attention.rs`, … | the program of a unit: ops, forward and backward |
//! | 16 | `model/program/mod.rs`, `arena.rs` | recomputation, and the offsets of activations |
//! | 17 | `ops/attention.rs`, … | an op: operands, sizes, CPU function, CUDA launch |
//! | 18 | `csrc/attention.cu`, … | the kernel |
//! | 19 | `optim/adamw/mod.rs` | AdamW on the split master |
//!
//! # Devices
//! Only the [`Backend`] knows the device. On the CPU device every lane is a thread. On CUDA
//! `compute`, `h2d` and `d2h` are CUDA streams: the runner *enqueues* their operations on the
//! issuing thread. Host values that are read while an operation is enqueued (step inputs, counts of
//! distinct tokens) are therefore set before the list is issued. Buffers copied to or from the
//! device are allocated in the memory kind that the device asks for (pinned memory on CUDA).
//!
//! # Memory access
//! Spans are addresses without a borrow. Two files dereference them: `store.rs` on the host and
//! `operation_memory.rs` on the device; `calibrate/` does so in arenas of its own. The trainer
//! frees that memory after its lanes are closed. Callers get slices for the duration of a call.
//!
//! The schedule orders every pair of conflicting accesses of different lanes, and `check` proves
//! it. The calling thread follows the same rules: before it writes staging, or reads or writes a
//! tensor, `sync` names the ticks it must reach, and `check` proves that they suffice. So a tensor
//! access waits for operations on its own unit only.
//!
//! # Rows of the embedding
//! An embedding that is not tied to the head is uploaded row by row: only the rows of the step's
//! tokens. Before it issues a list, the calling thread waits for AdamW of the embedding and gathers
//! those rows into an upload buffer (`gather.rs`), with the threads of the pool.
//!
//! If the next step's tokens were [announced](Trainer::announce), AdamW of this step updates and
//! gathers their rows first and updates the other rows after all other units. The next step then
//! waits for a few rows instead of the whole embedding. If it has a token that was not announced,
//! its rows are gathered as above.
//!
//! # Custom losses
//! [`Trainer::step_with_loss`] issues its list up to
//! [`Operation::Loss`](crate::schedule::Operation::Loss), waits for the inputs of that operation,
//! calls the caller's function for the gradients of the log-probabilities, and issues the rest. If
//! the function fails, the rest is issued all the same but does nothing, so that the state of
//! `sync` and `check` stays true.
//!
//! # Cancelling
//! A [`Canceller`] abandons the running list from another thread, in the same way. The model is
//! unchanged, since nothing is updated before the clip decision, which closes the list to
//! cancelling (under backward, the first AdamW does), and since every list uploads all that it
//! reads.
//!
//! # Saving and restoring
//! [`Trainer::save`] issues a list to the `disk` lane, which hands one unit after the other to a
//! [`Sink`] (`save.rs`). The save of a unit waits for the unit's last AdamW, and its next AdamW
//! waits for the save. So the saved state is that of the moment of the call, however far training
//! has got when the save ends. [`Trainer::restore`] fills the same spans with the threads of the
//! pool, under any placement.
//!
//! # A failed device
//! After a failure the lanes skip what is left, except AdamW of a step that its clip decision has
//! committed, as far as the gradients have arrived in host memory, and saves. The step states count
//! AdamW's operations (`StepState::is_whole`), so the trainer
//! knows if the state in host memory is that of the last completed step. Then it can be saved, on
//! the calling thread.
//!
//! # Options of single tensors
//! `tuning.rs` holds per tensor a learning rate factor, a weight decay, and whether the tensor is
//! frozen. They are set between steps, after AdamW of the tensor's unit. The last backward
//! operation of a unit zeroes the gradients of its frozen tensors, so the global norm covers
//! trained tensors only.
//!
//! # Step state
//! A step state holds a step's inputs (learning rate, loss scale) and results. There are two, since
//! AdamW of one step runs while the next step is issued. One is reused once the host lane has
//! finished with it.
//!
//! # Limits
//! One device. All micro-batches are padded to the shape that the trainer was opened for. One save
//! at a time. A custom loss needs a step of one sweep.
#![deny(unsafe_code)]

mod backend;
mod batch;
pub mod calibrate;
mod cancel;
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
    Backend, DeviceChoice, KernelsSetting, MakeKernels, autotune, cuda_device_count, device_info, devices,
    missing_for_cuda,
};
pub use batch::Batch;
pub use cancel::Canceller;
pub use inspect::{CudaDeviceReport, CudaReport, Library};
pub use options::{AdamOptions, TrainerOptions};
pub use save::{Fill, Sink, StateJob, StateSpan, UnitState};
pub use slices::{SliceJob, TensorSlice};
pub use trainer::{EvalReport, Loss, Stats, StepReport, Trainer};
pub use tuning::TensorOptions;
