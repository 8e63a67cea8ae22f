//! The sink that writes a checkpoint.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, unbounded};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::base::{Error, Position, Result};
use crate::checkpoint::agree::{model_fields, numeric};
use crate::checkpoint::folder::{Checkpoints, step_name};
use crate::checkpoint::manifest::{Checksum, MANIFEST, Manifest, SpanSums, StoredFile, UnitFile};
use crate::engine::{Sink, StateSpan, Trainer, UnitState};
use crate::host::folder::{Filling, NewFolder, SizedFile};
use crate::model::Layout;
use crate::schedule::Mode;

/// Bytes that are summed and written at a time: the second finds them in a cache.
const CHUNK: usize = 1 << 20;

/// What whoever saves adds to what the trainer knows.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// What else changes bits, under the names of the command's options.
    pub numeric: Map<String, Value>,
    /// Where the data goes on.
    pub position: Option<Position>,
    /// Anything; a run that goes on finds it again.
    pub note: Value,
}

/// Writes one checkpoint, on the disk lane; given up, it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    checkpoints: Arc<Checkpoints>,
    manifest: Manifest,
    filling: Filling,
    syncing: Syncing,
}

/// A thread that waits for the disk while further units are written: AdamW of the last unit waits for the end of the
/// save, so little may be left to do then. A file stays open until it is synced, since that is who the file
/// system tells of an error.
#[derive(Debug)]
struct Syncing {
    files: Sender<SizedFile>,
    thread: JoinHandle<Result<()>>,
}

impl Syncing {
    fn start() -> Result<Syncing> {
        let (files, written) = unbounded::<SizedFile>();
        let thread = thread::Builder::new()
            .name("horizon-sync".to_owned())
            .spawn(move || written.iter().try_for_each(|file| file.sync()))
            .map_err(|error| Error::io("cannot start the thread that syncs checkpoints", &error))?;
        Ok(Syncing { files, thread })
    }

    fn push(&self, file: SizedFile) {
        // Nobody takes files any more once one could not be synced; `finish` tells why.
        let _ = self.files.send(file);
    }

    fn finish(self) -> Result<()> {
        drop(self.files);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(Error::internal("the thread that syncs checkpoints panicked")))
    }
}

impl Checkpoints {
    /// Begins a checkpoint of the state after the last step of `trainer`: what [`Trainer::save`] is to be given next,
    /// before another step. It may replace a folder of the same step.
    ///
    /// Errors: too little space (`DiskFull`), or the folder cannot be written to.
    pub fn writer(self: &Arc<Self>, trainer: &Trainer, note: Note) -> Result<Box<Writer>> {
        let stats = trainer.stats();
        let mut fields = numeric(trainer);
        fields.extend(note.numeric);
        let mode = trainer.plan().policy.mode;
        let mut manifest = Manifest::begin(stats.steps, stats.tokens, mode.optimizer());
        manifest.model = model_fields(trainer.config());
        manifest.numeric = fields;
        (manifest.position, manifest.note) = (note.position, note.note);
        let filling = self.place(stats.steps, trainer.layout(), mode)?.begin()?;
        Ok(Box::new(Writer { checkpoints: self.clone(), manifest, filling, syncing: Syncing::start()? }))
    }

    /// Looks whether there is room for a checkpoint, before there is anything to write.
    ///
    /// Errors: as [`Checkpoints::writer`].
    pub fn admit(&self, layout: &Layout, mode: Mode) -> Result<()> {
        self.place(0, layout, mode).map(drop)
    }

    fn place(&self, step: u64, layout: &Layout, mode: Mode) -> Result<NewFolder> {
        let elements: usize = layout.units.iter().map(|unit| unit.elements).sum();
        let companions: usize = self.companions.iter().map(|(_, content)| content.len()).sum();
        let bytes = elements * mode.optimizer().parameter_bytes() + companions;
        NewFolder::plan(&self.folder().join(step_name(step)), bytes as u64)
    }
}

impl Sink for Writer {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        let name = format!("unit-{:05}.state", state.unit.at());
        let bytes = StateSpan::all(state.optimizer).map(|span| state.span(span).len() as u64).sum();
        let file = self.filling.sized(&name, bytes)?;
        let (mut at, mut checksums) = (0, SpanSums::default());
        for span in StateSpan::all(state.optimizer) {
            let mut sum = Xxh3::new();
            for chunk in state.span(span).chunks(CHUNK) {
                sum.update(chunk);
                file.write_at(at, chunk)?;
                at += chunk.len() as u64;
            }
            checksums.push(span.name(state.optimizer), Checksum(sum.digest()));
        }
        self.syncing.push(file);
        let elements = state.layout.elements as u64;
        self.manifest.units.push(UnitFile { name, bytes, elements, checksums });
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        for (name, content) in &self.checkpoints.companions {
            self.filling.whole(name, content)?;
            self.manifest.files.push(StoredFile {
                name: (*name).to_owned(),
                bytes: content.len() as u64,
                checksum: Checksum::of(content),
            });
        }
        let Writer { checkpoints, manifest, filling, syncing, .. } = *self;
        syncing.finish()?;
        filling.whole(MANIFEST, &manifest.seal()?)?;
        let step = manifest.step;
        let stands = checkpoints.folder().join(step_name(step)).exists();
        filling.publish(|| Ok(stands))?;
        checkpoints.set_latest(step).map_err(|error: Error| {
            error.within(format_args!("{} is whole, but is not the latest", step_name(step)))
        })?;
        checkpoints.retire(step)
    }
}
