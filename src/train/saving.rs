//! Writes the checkpoints of a run, and resumes a run from one. A checkpoint that cannot be written
//! is a warning, unless it is the last one.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::base::format::several;
use crate::base::{DType, Error, Position, Result};
use crate::checkpoint::{self, Changes, Checkpoint, Checkpoints, Note};
use crate::data::{Data, Loader};
use crate::engine::Trainer;
use crate::model::ModelConfig;
use crate::train::lr::LrSchedule;
use crate::train::origin::Origin;
use crate::train::run::{Observer, RunOptions};
use crate::train::source::ModelSource;

/// Options for the checkpoints of a run.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// A folder of checkpoints: new, empty, or that of the checkpoint from which the run resumes.
    pub folder: PathBuf,
    /// Steps between checkpoints; 0 for none. There is always a checkpoint after the last step, and
    /// when a run is stopped or fails.
    pub every: u64,
    /// Number of checkpoints that are kept; by default all.
    pub keep: Option<NonZeroUsize>,
    /// Values stored with every checkpoint, next to its [`Origin`]; the resumed run can read them.
    pub note: Map<String, Value>,
}

/// The checkpoint from which a run resumes.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The checkpoint to load.
    pub checkpoint: Checkpoint,
    /// Options that may differ from the checkpoint's.
    pub changes: Changes,
}

/// Writes checkpoints during training, one at a time.
pub struct Saving {
    checkpoints: Arc<Checkpoints>,
    every: u64,
    note: Note,
    /// Step of the checkpoint that is being written.
    pending: Option<u64>,
    /// Step of the last complete checkpoint.
    complete: Option<u64>,
    /// Steps of checkpoints that became obsolete: the run resumed before them.
    obsolete: Vec<u64>,
}

/// Returns the values of a run that change bits and are not the trainer's, under the names of the
/// command's options.
pub fn numeric(options: &RunOptions, lr_schedule: &LrSchedule) -> Map<String, Value> {
    let fields = [
        ("steps", json!(lr_schedule.steps)),
        ("schedule", json!(lr_schedule.shape.name())),
        ("lr", json!(lr_schedule.lr)),
        ("min-lr", json!(lr_schedule.min_lr)),
        ("warmup", json!(lr_schedule.warmup)),
        ("grad-accum", json!(options.trainer.micros_max)),
        ("seed", json!(options.seed)),
        ("no-shuffle", json!(!options.shuffle)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Resume {
    /// Returns a loader at the checkpoint's position. Options that differ without being allowed to
    /// are refused here, before memory is allocated.
    pub fn loader(
        &self,
        model: &ModelConfig,
        data: &Data,
        options: &RunOptions,
        lr_schedule: &LrSchedule,
        numeric: &Map<String, Value>,
    ) -> Result<Loader> {
        let plan = Trainer::plan_for(model, &options.trainer)?;
        let mut given = checkpoint::planned(&plan, &options.trainer.adam, options.trainer.clip);
        given.extend(numeric.clone());
        self.checkpoint.agrees(model, &given, &self.changes)?;
        let manifest = self.checkpoint.manifest();
        if manifest.step > lr_schedule.steps {
            return Err(Error::argument(format!(
                "the checkpoint is of step {}, but the run has only {}; give more steps (--steps)",
                manifest.step,
                several(lr_schedule.steps as usize, "step")
            )));
        }
        let from = manifest.position.ok_or_else(|| {
            Error::argument(format!(
                "{} has no position in the data, so no training run wrote it; it can only be restored \
                 through the library",
                self.checkpoint.folder().display()
            ))
        })?;
        let seed = options.shuffle.then_some(options.seed);
        Loader::resume(data, options.trainer.shape.b, &Position { seed, ..from })
    }
}

impl Saving {
    /// Opens the folder. Checks that it can be written to, has no checkpoints of another run, and
    /// has enough disk space.
    pub fn open(
        options: &SaveOptions,
        model: &ModelSource,
        run: &RunOptions,
        numeric: Map<String, Value>,
    ) -> Result<Saving> {
        let checkpoints =
            Checkpoints::create(&options.folder, model.config.files(DType::Bf16), options.keep)?;
        let complete = match &run.resume {
            Some(resume) if resume.checkpoint.parent()? == checkpoints.real_folder()? => {
                Some(resume.checkpoint.manifest().step)
            }
            _ => None,
        };
        let obsolete = checkpoints.continue_run(complete)?;
        checkpoints.check_space(&model.layout, run.trainer.mode)?;
        let mut note = options.note.clone();
        Origin::new(run.run, checkpoints.folder())?.put(&mut note);
        let note = Note { numeric, position: None, note: note.into() };
        let (checkpoints, every) = (Arc::new(checkpoints), options.every);
        Ok(Saving { checkpoints, every, note, pending: None, complete, obsolete })
    }

    /// If the run resumes from a checkpoint in this folder, points `latest` at it, since later
    /// checkpoints are now obsolete.
    pub fn start(&self) -> Result<()> {
        self.complete.map_or(Ok(()), |step| self.checkpoints.set_latest(step))
    }

    /// To be called before the first step: warns of checkpoints that become obsolete.
    pub fn begun(&self, observer: &mut dyn Observer) {
        let (Some(from), Some(last)) = (self.complete, self.obsolete.last()) else { return };
        let warning = format!(
            "{} has {} of steps after step {from}, from which the run resumes, up to step {last}; the run \
             replaces them and the log's records of these steps, and old checkpoints are removed beginning with \
             them; to keep them, branch off into another folder (--checkpoint-dir)",
            self.checkpoints.folder().display(),
            several(self.obsolete.len(), "checkpoint"),
        );
        observer.warned(&warning.into());
    }

    /// To be called after every step: reports a save that has ended, and begins the next one if it
    /// is due. A failure is a warning.
    pub fn stepped(&mut self, trainer: &mut Trainer, at: Position, observer: &mut dyn Observer) {
        if self.pending.is_some()
            && let Some(outcome) = trainer.save_outcome()
        {
            self.ended_early(outcome, ", and training continues", observer);
        }
        if self.is_due(trainer.stats().steps) {
            self.wait(trainer, observer);
            let begun = self.begin(trainer, at);
            if begun.is_err() {
                self.ended_early(begun, ", and training continues", observer);
            }
        }
    }

    /// True if a checkpoint of a step is due before the end of the run.
    pub fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    /// To be called after the last step: writes its checkpoint, unless that exists.
    pub fn finish(&mut self, trainer: &mut Trainer, at: Position, observer: &mut dyn Observer) -> Result<()> {
        self.wait(trainer, observer);
        let step = trainer.stats().steps;
        if self.complete == Some(step) {
            self.checkpoints.check_place()?;
            if !self.checkpoints.is_latest() {
                return self.checkpoints.set_latest(step);
            }
            if self.checkpoints.written().is_none() {
                // A process that was killed may have left more checkpoints than are kept.
                self.checkpoints
                    .remove_old(step)
                    .unwrap_or_else(|error| observer.warned(&error.into_message()));
            }
            return Ok(());
        }
        let outcome = self.begin(trainer, at).and_then(|()| trainer.save_wait());
        self.ended(outcome, observer)
    }

    /// As [`Saving::finish`], for a run that has failed: its checkpoint replaces none of the earlier
    /// ones, since a run that diverges may need them.
    pub fn finish_failed(
        &mut self,
        trainer: &mut Trainer,
        at: Position,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.checkpoints = Arc::new(self.checkpoints.keeping_all());
        self.finish(trainer, at, observer)
    }

    /// Waits for the current save, if any. A failure is a warning.
    pub fn wait(&mut self, trainer: &mut Trainer, observer: &mut dyn Observer) {
        if self.pending.is_some() {
            let outcome = trainer.save_wait();
            self.ended_early(outcome, "", observer);
        }
    }

    /// The step of the last complete checkpoint of this run, and the folder of checkpoints; `None`
    /// also if the folder is gone.
    pub fn complete(&self) -> Option<(u64, &Path)> {
        self.checkpoints.check_place().ok()?;
        Some((self.complete?, self.checkpoints.folder()))
    }

    fn begin(&mut self, trainer: &mut Trainer, at: Position) -> Result<()> {
        self.pending = Some(trainer.stats().steps);
        let note = Note { position: Some(at), ..self.note.clone() };
        let writer = self.checkpoints.writer(trainer, note)?;
        trainer.save(writer)
    }

    fn ended(&mut self, outcome: Result<()>, observer: &mut dyn Observer) -> Result<()> {
        let Some(step) = self.pending.take() else { return Ok(()) };
        let is_written = self.checkpoints.written() == Some(step);
        if is_written {
            self.complete = Some(step);
        }
        match outcome {
            // Old ones could not be removed.
            Err(error) if is_written && self.checkpoints.is_latest() => {
                observer.warned(&error.into_message())
            }
            Err(error) if is_written => return Err(error),
            outcome => outcome.map_err(|error| {
                error.map(|message| format!("the checkpoint of step {step} failed: {message}"))
            })?,
        }
        observer.saved(step, self.checkpoints.folder());
        Ok(())
    }

    /// As [`Saving::ended`], but a failure is a warning, which ends with `rest`.
    fn ended_early(&mut self, outcome: Result<()>, rest: &str, observer: &mut dyn Observer) {
        if let Err(error) = self.ended(outcome, observer) {
            let earlier = match self.complete() {
                Some((complete, _)) => format!("the checkpoint of step {complete} is kept"),
                None => "there is no earlier one".to_owned(),
            };
            let warning = error.map(|message| format!("{message}; {earlier}{rest}"));
            observer.warned(&warning.into_message());
        }
    }
}
