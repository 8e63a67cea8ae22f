//! Writes a checkpoint.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::base::{
    Error, Meter, OwnedProgress, Position, Result, find_non_finite, master, non_finite, unwatched,
};
use crate::checkpoint::agree::{model_fields, numeric};
use crate::checkpoint::folder::{Checkpoints, may_replace_step, step_name};
use crate::checkpoint::manifest::{Checksum, MANIFEST, Manifest, SpanChecksums, StoredFile, UnitFile};
use crate::engine::{Sink, StateSpan, Trainer, UnitState};
use crate::host::folder::{Filling, NewFolder, SizedFile};
use crate::host::start_thread;
use crate::model::Layout;
use crate::schedule::Mode;

/// Bytes hashed and written at a time; they stay in the cache between the two.
const CHUNK: usize = 1 << 20;

/// Values that the caller stores with a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Further values that change bits, under the names of the command's options.
    pub numeric: Map<String, Value>,
    /// Position of the next window in the data.
    pub position: Option<Position>,
    /// Any value; the resumed run can read it.
    pub note: Value,
}

/// Writes one checkpoint on the disk lane. If it is dropped before `finish`, its files are removed.
#[derive(Debug)]
pub struct Writer {
    checkpoints: Arc<Checkpoints>,
    manifest: Manifest,
    /// Dropped before the files that it syncs are removed.
    syncing: Syncing,
    filling: Filling,
    /// Bytes of the whole state.
    bytes: u64,
    meter: Meter<OwnedProgress>,
}

impl Writer {
    /// Reports the bytes of the state that were written. An error of `progress` ends the save with
    /// that error.
    pub fn watched(mut self: Box<Self>, progress: OwnedProgress) -> Box<Self> {
        self.meter = Meter::new(self.bytes, progress);
        self
    }
}

/// A thread that syncs files while further units are written. AdamW of the last unit waits for the
/// end of the save, so little work should be left by then. A file stays open until it is synced,
/// since the file system reports write errors to open files.
#[derive(Debug)]
struct Syncing {
    /// `None` once no more files come.
    files: Option<Sender<SizedFile>>,
    /// `None` once joined.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Syncing {
    fn start() -> Result<Syncing> {
        let (files, unsynced) = unbounded::<SizedFile>();
        let thread = start_thread("sync", move || unsynced.iter().try_for_each(|file| file.sync()))?;
        Ok(Syncing { files: Some(files), thread: Some(thread) })
    }

    fn push(&self, file: SizedFile) {
        // Sending fails after a sync has failed; `finish` returns that error.
        let _ = self.files.as_ref().map(|files| files.send(file));
    }

    /// Waits until all files are synced.
    fn finish(&mut self) -> Result<()> {
        self.files = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(Error::internal("the thread that syncs checkpoints panicked")))
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        // The save has failed already, or `finish` has returned this error.
        let _ = self.finish();
    }
}

impl Checkpoints {
    /// Begins a checkpoint of the state after the last step of `trainer`. Pass the writer to
    /// [`Trainer::save`] before the next step. It replaces a checkpoint of the same step. The save
    /// fails if a weight is not finite (`NonFinite`): no training continues from there.
    ///
    /// Errors: too little disk space (`DiskFull`), or the folder cannot be written to.
    pub fn writer(self: &Arc<Self>, trainer: &Trainer, note: Note) -> Result<Box<Writer>> {
        let stats = trainer.stats();
        let mut fields = numeric(trainer);
        fields.extend(note.numeric);
        let mode = trainer.plan().policy.mode;
        let mut manifest = Manifest::begin(stats.steps, stats.tokens, mode.optimizer());
        manifest.model = model_fields(trainer.config());
        manifest.numeric = fields;
        (manifest.position, manifest.note) = (note.position, note.note);
        let filling = self.step_folder(stats.steps, trainer.layout(), mode)?.begin()?;
        let bytes = state_bytes(trainer.layout(), mode);
        Ok(Box::new(Writer {
            checkpoints: self.clone(),
            manifest,
            filling,
            syncing: Syncing::start()?,
            bytes,
            meter: Meter::new(bytes, Box::new(unwatched)),
        }))
    }

    /// Checks, before training, that the disk has enough space for a checkpoint.
    ///
    /// Errors: see [`Checkpoints::writer`].
    pub fn check_space(&self, layout: &Layout, mode: Mode) -> Result<()> {
        self.step_folder(0, layout, mode).map(drop)
    }

    fn step_folder(&self, step: u64, layout: &Layout, mode: Mode) -> Result<NewFolder> {
        let companions: usize = self.companions.iter().map(|(_, content)| content.len()).sum();
        let bytes = state_bytes(layout, mode) + companions as u64;
        self.check_place()?;
        let new = NewFolder::plan(&self.folder().join(step_name(step)), bytes, may_replace_step)?;
        Ok(new.limited(self.mode()?))
    }
}

/// Bytes of the state of all units.
fn state_bytes(layout: &Layout, mode: Mode) -> u64 {
    let elements: usize = layout.units.iter().map(|unit| unit.elements).sum();
    (elements * mode.optimizer().parameter_bytes()) as u64
}

impl Writer {
    fn write_unit(&mut self, state: &UnitState) -> Result<()> {
        let name = format!("unit-{:05}.state", state.unit.at());
        let bytes = StateSpan::all(state.optimizer).map(|span| state.span(span).len() as u64).sum();
        let file = self.filling.sized(&name, bytes)?;
        let (mut at, mut checksums) = (0, SpanChecksums::default());
        for span in StateSpan::all(state.optimizer) {
            let mut hash = Xxh3::new();
            for (number, chunk) in state.span(span).chunks(CHUNK).enumerate() {
                hash.update(chunk);
                if span == StateSpan::Weights {
                    check_finite(state, number * CHUNK / size_of::<u16>(), chunk)?;
                }
                file.write_at(at, chunk)?;
                at += chunk.len() as u64;
                self.meter.add(chunk.len() as u64)?;
            }
            checksums.push(span.name(state.optimizer), Checksum(hash.digest()));
        }
        self.syncing.push(file);
        let elements = state.layout.elements as u64;
        self.manifest.units.push(UnitFile { name, bytes, elements, checksums });
        Ok(())
    }

    /// Writes and syncs all files, and publishes the folder. Returns its step.
    fn complete(mut self) -> Result<u64> {
        for (name, content) in &self.checkpoints.companions {
            self.filling.whole(name, content)?;
            self.manifest.files.push(StoredFile {
                name: (*name).to_owned(),
                bytes: content.len() as u64,
                checksum: Checksum::of(content),
            });
        }
        let Writer { checkpoints, manifest, filling, mut syncing, .. } = self;
        syncing.finish()?;
        filling.whole(MANIFEST, &manifest.seal()?)?;
        checkpoints.check_place()?;
        filling.publish()?;
        checkpoints.set_written(manifest.step);
        Ok(manifest.step)
    }
}

/// Refuses weights that are not finite, from which no training continues. `from` is the element of
/// the unit with which `weights` begin.
fn check_finite(state: &UnitState, from: usize, weights: &[u8]) -> Result<()> {
    let widen = |bytes| master::widen(u16::from_le_bytes(bytes));
    let Some((at, value)) = find_non_finite(weights.as_chunks().0, widen) else { return Ok(()) };
    let tensors = &state.layout.tensors;
    let tensor = &tensors[tensors.partition_point(|tensor| tensor.offset <= from + at) - 1];
    Err(non_finite(&tensor.name, from + at - tensor.offset, value))
}

impl Sink for Writer {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        self.write_unit(state).map_err(|error| self.checkpoints.explained(error))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let checkpoints = self.checkpoints.clone();
        let step = self.complete().map_err(|error| checkpoints.explained(error))?;
        checkpoints.set_latest(step).map_err(|error: Error| {
            error.within(format_args!("{} is complete, but `latest` does not name it", step_name(step)))
        })?;
        checkpoints.remove_old(step)
    }
}
