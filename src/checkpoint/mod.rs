//! L9, checkpoints: save and resume the complete state of a run. A resumed run is bit-equal to an
//! uninterrupted one.
//!
//! ```text
//! DIR/                          a folder of checkpoints, written by one process at a time (`.lock`)
//!   latest                      name of the newest checkpoint, and a checksum of the name
//!   step-00000042/              a checkpoint; it appears under this name completely or not at all
//!     manifest.json             step, model, options; sizes and checksums of all other files
//!     unit-00000.state …        one file per unit: weights, residual, m, v, as in the store
//!     config.json, …            model config, tokenizer, chat template: no other folder is needed
//! ```
//!
//! - **Writing**: [`Checkpoints::writer`] makes a [`Sink`](crate::engine::Sink) for
//!   [`Trainer::save`]. It fills a hidden folder on the disk lane while training continues; a
//!   thread syncs the files. `finish` waits for that thread, renames the folder, points `latest` at
//!   it, and then removes old checkpoints. If any of this fails or the process is killed, the
//!   earlier checkpoints stay complete. Hidden leftovers are removed when the folder is next opened
//!   for writing.
//! - **One writer**: the folder and its file `.lock` are locked (`flock`) while a run writes, against
//!   threads, processes and containers alike. A run is still kept out after `.lock` was removed,
//!   except on NFS, which cannot lock folders. Without locks in the file system, other writers are
//!   not noticed. DIR may be a link; nothing in it is written through one. Once DIR leads to another
//!   folder than the one that is locked, nothing more is written or removed there.
//! - **Reading**: [`open`] checks the manifest's checksum and every file's kind and length.
//!   [`Checkpoint::restore_into`] reads the states into a trainer, with the trainer's threads, and
//!   checks each span's checksum. Any flipped bit is detected; the error names the file.
//! - **Options that change bits** are stored in the manifest under the names of the command's
//!   options ([`Manifest::numeric`]). A resumed run must have the same values, except for
//!   [`Changes`]. Placement (device memory, slots, recompute, spill, sweeps, threads) changes no
//!   bits and is not stored.
//! - **The mode** may be one of these changes. Between exact and streamed, moments stay f32. To
//!   compact they are rounded to the nearest bf16, ties to even; from compact they are widened to
//!   f32, which is exact.
//!
//! Checksums are XXH3 (64 bits): they detect accidents, not tampering.
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
pub use agree::{numeric, planned, same_model_as};
pub use folder::Checkpoints;
#[doc(hidden)]
pub use manifest::{Manifest, SpanChecksums, StoredFile, UnitFile};
pub use read::{Checkpoint, open};
pub use write::{Note, Writer};
