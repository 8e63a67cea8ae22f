//! The checkpoints of a run: when they are written, and what becomes of one that cannot be.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::base::{DType, Error, Position, Result};
use crate::checkpoint::{self, Changes, Checkpoint, Checkpoints, Note};
use crate::data::{Data, Loader};
use crate::engine::Trainer;
use crate::model::ModelConfig;
use crate::train::lr::LrSchedule;
use crate::train::run::{Observer, RunOptions};
use crate::train::source::ModelSource;

/// Where the checkpoints of a run go.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// A folder of checkpoints: new, empty, or that of the checkpoint that the run goes on from.
    pub folder: PathBuf,
    /// Updates from one to the next. There is one after the last update in any case, and where a run is stopped; 0 leaves
    /// it at that.
    pub every: u64,
    /// How many are kept; by default all.
    pub keep: Option<NonZeroUsize>,
    /// What whoever goes on from one finds again.
    pub note: Value,
}

/// What a run goes on from.
#[derive(Clone, Debug)]
pub struct Resume {
    /// Where it stood.
    pub checkpoint: Checkpoint,
    /// What may differ from it.
    pub changes: Changes,
}

/// Writes them while the run goes on, one at a time.
pub struct Saving {
    checkpoints: Arc<Checkpoints>,
    every: u64,
    note: Note,
    /// The step of the one that is being written.
    pending: Option<u64>,
    /// The step of the last one that is whole.
    whole: Option<u64>,
}

/// What changes the bits of a run beside what a trainer knows, under the names of the command's options.
pub fn numeric(options: &RunOptions, rate: &LrSchedule) -> Map<String, Value> {
    let fields = [
        ("steps", json!(rate.steps)),
        ("schedule", json!(rate.shape.name())),
        ("lr", json!(rate.lr)),
        ("min-lr", json!(rate.min_lr)),
        ("warmup", json!(rate.warmup)),
        ("grad-accum", json!(options.trainer.micros_max)),
        ("seed", json!(options.seed)),
        ("no-shuffle", json!(!options.shuffle)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Resume {
    /// The data from where the run stood. All that may not differ is refused here, before memory is taken.
    pub fn loader(
        &self,
        model: &ModelConfig,
        data: &Data,
        options: &RunOptions,
        rate: &LrSchedule,
        numeric: &Map<String, Value>,
    ) -> Result<Loader> {
        let plan = Trainer::plan_for(model, &options.trainer)?;
        let mut given = checkpoint::planned(&plan, &options.trainer.adam, options.trainer.clip);
        given.extend(numeric.clone());
        self.checkpoint.agrees(model, &given, &self.changes)?;
        let manifest = self.checkpoint.manifest();
        if manifest.step > rate.steps {
            return Err(Error::argument(format!(
                "the checkpoint is of step {}; a run of {} steps ends before it",
                manifest.step, rate.steps
            )));
        }
        let from = manifest.position.ok_or_else(|| {
            Error::argument(format!(
                "{} does not say where the data goes on: no run wrote it",
                self.checkpoint.folder().display()
            ))
        })?;
        let seed = options.shuffle.then_some(options.seed);
        Loader::resume(data, options.trainer.shape.b, &Position { seed, ..from })
    }
}

impl Saving {
    /// Opens the folder. What can be refused is refused here.
    pub fn open(
        options: &SaveOptions,
        model: &ModelSource,
        run: &RunOptions,
        numeric: Map<String, Value>,
    ) -> Result<Saving> {
        let checkpoints =
            Checkpoints::create(&options.folder, model.config.files(DType::Bf16), options.keep)?;
        let resumed = run.resume.as_ref().map(|resume| &resume.checkpoint);
        let whole = checkpoints.belong_to(resumed)?.then(|| resumed.map(|it| it.manifest().step)).flatten();
        checkpoints.admit(&model.layout, run.trainer.mode)?;
        let note = Note { numeric, position: None, note: options.note.clone() };
        Ok(Saving { checkpoints: Arc::new(checkpoints), every: options.every, note, pending: None, whole })
    }

    /// The run goes on from a checkpoint in the same folder, if it does: whatever came after that is the latest no more.
    pub fn start(&self) -> Result<()> {
        self.whole.map_or(Ok(()), |step| self.checkpoints.set_latest(step))
    }

    /// After a step: tells how a save has ended, and begins the next if it is due.
    pub fn stepped(&mut self, trainer: &mut Trainer, at: Position, observer: &mut dyn Observer) {
        if self.pending.is_some()
            && let Some(outcome) = trainer.save_outcome()
        {
            self.ended(outcome, observer);
        }
        if trainer.stats().steps.is_multiple_of(self.every) {
            self.begin(trainer, at, observer);
        }
    }

    /// After the last step: there is a checkpoint of it, or a warning. Gives the same.
    pub fn finish(
        &mut self,
        trainer: &mut Trainer,
        at: Position,
        observer: &mut dyn Observer,
    ) -> Option<PathBuf> {
        let step = Some(trainer.stats().steps);
        if self.pending != step && self.whole != step {
            self.begin(trainer, at, observer);
        }
        self.wait(trainer, observer)
    }

    /// Waits for the save that is under way, if one is. Gives the folder of checkpoints if it has one that is whole.
    pub fn wait(&mut self, trainer: &mut Trainer, observer: &mut dyn Observer) -> Option<PathBuf> {
        if self.pending.is_some() {
            let outcome = trainer.save_wait();
            self.ended(outcome, observer);
        }
        self.whole.map(|_| self.checkpoints.folder().to_owned())
    }

    fn begin(&mut self, trainer: &mut Trainer, at: Position, observer: &mut dyn Observer) {
        self.wait(trainer, observer);
        self.pending = Some(trainer.stats().steps);
        let note = Note { position: Some(at), ..self.note.clone() };
        let writer = self.checkpoints.writer(trainer, note);
        let begun = writer.and_then(|writer| trainer.save(writer));
        if begun.is_err() {
            self.ended(begun, observer);
        }
    }

    fn ended(&mut self, outcome: Result<()>, observer: &mut dyn Observer) {
        let Some(step) = self.pending.take() else { return };
        match outcome {
            Ok(()) => {
                self.whole = Some(step);
                observer.saved(step, self.checkpoints.folder());
            }
            Err(error) => {
                let earlier = match self.whole {
                    Some(whole) => format!("the checkpoint of step {whole} is kept"),
                    None => "there is no earlier one".to_owned(),
                };
                observer.warned(&format!(
                    "the checkpoint of step {step} failed: {}; {earlier}, and training continues",
                    error.message()
                ));
            }
        }
    }
}
