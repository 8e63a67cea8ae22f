//! L9, checkpoints: the whole state of a run; a resumed run has the bits of an uninterrupted one.
//!
//! ```text
//! DIR/                          a folder of checkpoints, written by one process at a time (`.lock`)
//!   latest                      the name of the newest, and a checksum of the name
//!   step-00000042/              a checkpoint: appears under this name whole or not at all
//!     manifest.json             what it is of, and every other file with its bytes and checksums
//!     unit-00000.state …        a unit each: weights, residual, m, v, one after the other, as the store has them
//!     config.json, …            the model's description and tokenizer, so that a checkpoint stands alone
//! ```
//!
//! - **Writing**: [`Checkpoints::writer`] makes a [`Sink`](crate::engine::Sink) for [`Trainer::save`], which fills a hidden
//!   folder on the disk lane while training goes on, its files being synced behind it; `finish` waits for that, gives the
//!   folder its name, points `latest` at it and only then removes the oldest beyond what is kept. Whatever fails or is
//!   killed on the way, the checkpoints before stay whole; hidden leftovers go when the folder is next opened for writing.
//! - **Reading**: [`open`] checks the manifest's own checksum and every file's kind and length before it trusts any of
//!   them; [`Checkpoint::restore_into`] streams states into a trainer by its threads and checks each span's checksum on the
//!   way. A flipped bit, wherever, is found, and its file is named.
//! - **What changes bits** stands in the manifest under the names of the command's options ([`Manifest::numeric`]), and
//!   must be the same when a run goes on, but for what is [allowed to change](Changes). Where things wait (device
//!   memory, slots, recompute, spill, sweeps, threads) is not even noted: it changes no bit.
//! - **Another mode** than the checkpoint's is such a change. exact ↔ streamed: moments are f32 in both and stay as they
//!   are. To compact they are rounded to the nearest bf16, ties to even; from compact every bf16 is an f32 already.
//!
//! Checksums are XXH3 of 64 bits: against accidents, not against forgers.
//!
//! [`Trainer::save`]: crate::engine::Trainer::save
#![forbid(unsafe_code)]

mod agree;
mod folder;
mod manifest;
mod read;
mod write;

pub use agree::Changes;
#[doc(hidden)]
pub use agree::{numeric, planned};
pub use folder::Checkpoints;
#[doc(hidden)]
pub use manifest::{Manifest, SpanSums, StoredFile, UnitFile};
pub use read::{Checkpoint, open};
pub use write::{Note, Writer};
