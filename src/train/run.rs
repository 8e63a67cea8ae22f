//! The training loop: steps, log records, validation, checkpoints, and the export at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::base::{DType, Error, Front, IGNORED_TARGET, Message, Position, Progress, Result, RunId, Status};
use crate::data::{Data, Feeder, Loader, Micro, StepData};
use crate::device::Lane;
use crate::engine::{Batch, EvalReport, Trainer, TrainerOptions};
use crate::hf::{ExportTarget, SHARD_BYTES, export, export_bytes};
use crate::host::resident_bytes;
use crate::plan::Machine;
use crate::train::log::Log;
use crate::train::lr::{LrSchedule, LrShape};
use crate::train::metrics::{LaneRecord, Pace, StepRecord, UsefulWork};
use crate::train::saving::{self, Resume, SaveOptions, Saving};
use crate::train::source::ModelSource;
use crate::train::times::{MeanTimes, StepTimes};
use crate::train::trace::TraceFile;

/// Options of a run, except model and data.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Id of the run, in its checkpoints, log, trace and export. A resumed run has that of the
    /// checkpoint, unless it branches off.
    pub run: RunId,
    /// Memory, shapes and AdamW. `micros_max` is the number of micro-batches per step (gradient
    /// accumulation).
    pub trainer: TrainerOptions,
    /// Number of optimizer steps; by default one epoch.
    pub steps: Option<u64>,
    /// Decay of the learning rate.
    pub lr_shape: LrShape,
    /// Peak learning rate.
    pub lr: f64,
    /// Minimum learning rate; by default a tenth of the peak.
    pub min_lr: Option<f64>,
    /// Number of warmup steps; by default a twentieth of all steps, rounded up.
    pub warmup: Option<u64>,
    /// Seed of fresh weights and of the order of the data.
    pub seed: u64,
    /// Shuffles the windows of every epoch.
    pub shuffle: bool,
    /// Steps between validations; 0 for a validation after the last step only. The last step always
    /// has one.
    pub val_every: u64,
    /// Most micro-batches of a validation; drawn once, spread over the validation data.
    pub val_micros_max: usize,
    /// Folder for the export at the end: new, empty, or an earlier export.
    pub out: Option<PathBuf>,
    /// Dtype of the exported weights.
    pub export_dtype: DType,
    /// File for the log, with one [`StepRecord`] per step. An earlier log is replaced at the first
    /// record; a resumed run accepts none but its own.
    pub log: Option<PathBuf>,
    /// Times of a step as predicted by the search for a plan; stored in the log next to the
    /// measured times.
    pub predicted: Option<StepTimes>,
    /// File for the trace, written at the end. An earlier trace is replaced.
    pub trace: Option<PathBuf>,
    /// Machine for which the trace also shows the simulated run.
    pub simulated: Option<Machine>,
    /// Folder and interval of checkpoints.
    pub save: Option<SaveOptions>,
    /// Checkpoint from which the run resumes. Options that change bits must equal the checkpoint's.
    pub resume: Option<Resume>,
}

/// Receives the events of a run.
pub trait Observer: Sync {
    /// A step is done. `steps` is the number of steps of the run, `remaining` the estimated seconds
    /// until its end.
    fn stepped(&mut self, record: &StepRecord, steps: u64, remaining: f64);
    /// The checkpoint of a step is complete; `folder` is the folder of checkpoints.
    fn saved(&mut self, step: u64, folder: &Path);
    /// `done` of `total` bytes of weights have been exported. Called by any thread.
    fn exporting(&self, _done: u64, _total: u64) {}
    /// An error that does not end the run.
    fn warned(&mut self, message: &Message);
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The last completed step, counted over the whole run.
    pub steps: u64,
    /// Mean times of its steps, without the first; `None` for fewer than two steps.
    pub times: Option<StepTimes>,
    /// True if the run was stopped before its last step.
    pub stopped: bool,
    /// Folder of the export.
    pub exported: Option<PathBuf>,
    /// Tokens that end trained turns and that the export adds to `eos_token_id`; see
    /// [`FolderConfig::add_end_tokens`](crate::hf::FolderConfig::add_end_tokens).
    pub end_tokens: Vec<String>,
    /// Folder of checkpoints from which the run can be resumed.
    pub saved: Option<PathBuf>,
}

/// A run whose model, data and files are open.
pub struct Run {
    trainer: Trainer,
    model: ModelSource,
    feeder: Feeder,
    position: Position,
    validation: Vec<Micro>,
    lr_schedule: LrSchedule,
    work: UsefulWork,
    target: Option<ExportTarget>,
    /// See [`Outcome::end_tokens`].
    end_tokens: Vec<String>,
    log: Option<Log>,
    trace: Option<TraceFile>,
    saving: Option<Saving>,
    options: RunOptions,
}

impl Run {
    /// Checks all options and paths, allocates the memory and loads the weights; `loading` counts
    /// the bytes read. Invalid options and paths are reported here, before the first step.
    pub fn open(
        mut model: ModelSource,
        data: Data,
        val: Option<Data>,
        mut options: RunOptions,
        loading: Progress,
    ) -> Result<Run> {
        let (micros, shape) = (options.trainer.micros_max, options.trainer.shape);
        if shape.b == 0 || micros == 0 {
            return Err(Error::argument(format!(
                "a step has {micros} micro-batches of {} sequences; both must be at least 1",
                shape.b
            )));
        }
        // Before anything is counted in tokens: refuses shapes that are too large.
        Trainer::plan_for(&model.config.model, &options.trainer)?;
        let steps = options.steps.unwrap_or_else(|| data.windows().div_ceil((shape.b * micros) as u64));
        if steps == 0 {
            return Err(Error::argument("the run has 0 steps; it must have at least 1"));
        }
        let lr_schedule = LrSchedule {
            shape: options.lr_shape,
            lr: options.lr,
            min_lr: options.min_lr.unwrap_or(options.lr / 10.0),
            warmup: options.warmup.unwrap_or(steps.div_ceil(20)),
            steps,
        };
        lr_schedule.validate()?;
        let resumed = options.resume.as_ref().map(|resume| resume.checkpoint.manifest().step);
        options.log.as_deref().map_or(Ok(()), |log| Log::check(log, options.run, resumed))?;
        options.trace.as_deref().map_or(Ok(()), TraceFile::check)?;
        let numeric = saving::numeric(&options, &lr_schedule);
        let loader = match &options.resume {
            Some(resume) => resume.loader(&model.config.model, &data, &options, &lr_schedule, &numeric)?,
            None => Loader::new(&data, shape.b, options.shuffle.then_some(options.seed)),
        };
        let validation = match &val {
            Some(val) => draw_validation(val, shape.b, options.val_micros_max)?,
            None => Vec::new(),
        };
        let needed = export_bytes(&model.layout, options.export_dtype);
        let target = options.out.as_deref().map(|out| ExportTarget::check(out, needed)).transpose()?;
        let target = target.map(|target| target.of_run(options.run));
        let saving = match &options.save {
            Some(save) => Some(Saving::open(save, &model, &options, numeric)?),
            None => None,
        };
        let trace = options.trace.as_deref().map(TraceFile::plan).transpose()?;
        let log = options.log.as_deref().map(|log| Log::open(log, options.run, resumed)).transpose()?;
        // After the checkpoints have taken the files of the model as they are: a resumed run finds
        // these tokens again.
        let end_tokens = match &target {
            Some(_) => model.config.add_end_tokens(data.report().turn_ends.iter().copied())?,
            None => Vec::new(),
        };
        options.trainer.tracing = options.trace.is_some();
        options.trainer.measuring = true;
        let mut trainer = Trainer::open(&model.config.model, &options.trainer)?;
        match &options.resume {
            Some(Resume { checkpoint, changes }) => {
                checkpoint.restore_into(&mut trainer, changes, loading)?
            }
            None => model.fill(&mut trainer, options.seed, loading)?,
        }
        saving.as_ref().map_or(Ok(()), Saving::start)?;
        let position = loader.position(&data);
        let feeder = Feeder::start(Arc::new(data), loader, micros)?;
        let work = UsefulWork::new(&model.config.model);
        Ok(Run {
            trainer,
            model,
            feeder,
            position,
            validation,
            lr_schedule,
            work,
            target,
            end_tokens,
            log,
            trace,
            saving,
            options,
        })
    }

    /// The learning-rate schedule, with the number of steps.
    pub fn lr_schedule(&self) -> &LrSchedule {
        &self.lr_schedule
    }

    /// The position in the data at which the next step begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The trainer, before or after the run.
    pub fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// Trains to the last step, or until `stop` is set; the current step is then completed.
    /// Afterwards writes the last checkpoint, the trace and the export. A checkpoint that cannot be
    /// written is a warning; the last one is an error, after the export.
    ///
    /// A step that fails ends the run in the same way, and then with its error: the state is that of
    /// the last completed step, unless AdamW has applied a part of the failed one. Then neither
    /// checkpoint nor export is written. Neither replaces an earlier one, since a run that diverges
    /// may have ruined the weights before. The error says what was written.
    pub fn train(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let start = self.trainer.stats().steps;
        self.saving.iter().for_each(|saving| saving.begun(observer));
        let mut log = self.log.take();
        log.iter_mut().filter_map(Log::take_warning).for_each(|warning| observer.warned(&warning));
        let (mut steps, mut times) = (start, MeanTimes::default());
        let ended = self.steps(&mut steps, &mut times, &mut log, observer, stop);
        if let Some(Err(error)) = log.take().map(|log| log.sync()) {
            observer.warned(&error.into_message());
        }
        // Notices a device that has failed since the last step.
        let synced = self.trainer.sync();
        let is_whole =
            !matches!(&ended, Err(error) if error.status() == Status::StepPartial) && self.trainer.is_whole();
        let ended = if is_whole { ended } else { ended.and_then(|stopped| synced.map(|()| stopped)) };
        let worth = is_whole && (ended.is_ok() || steps > start);
        let saved = self.save_last(worth, ended.is_ok(), observer);
        self.write_trace(observer);
        let keeps = ended.is_err() && self.target.as_ref().is_some_and(|target| holds_files(target.folder()));
        let exported = if worth && !keeps { self.export(observer) } else { Ok(None) };
        let complete = self.saving.as_ref().and_then(Saving::complete);
        match (ended, saved, exported) {
            (Ok(stopped), Ok(()), Ok(exported)) => Ok(Outcome {
                steps,
                times: times.mean(),
                stopped,
                exported,
                end_tokens: self.end_tokens.clone(),
                saved: complete.map(|(_, folder)| folder.to_owned()),
            }),
            (ended, saved, exported) => {
                let mut notes = Vec::new();
                if !is_whole && (self.saving.is_some() || self.target.is_some()) {
                    notes.push("AdamW had updated a part of the weights, so they were not saved".to_owned());
                }
                notes.extend(self.saving.as_ref().map(|_| match complete {
                    Some((step, folder)) => {
                        format!("the checkpoint of step {step} is in {}", folder.display())
                    }
                    None => "there is no checkpoint".to_owned(),
                }));
                if let Some(target) = self.target.as_ref().filter(|_| worth && keeps) {
                    notes.push(format!(
                        "the earlier export in {} is kept: a failed run replaces none",
                        target.folder().display()
                    ));
                }
                if let Ok(Some(folder)) = &exported {
                    notes.push(format!("the weights after step {steps} are in {}", folder.display()));
                }
                Err(failure([ended.err(), saved.err(), exported.err()], notes))
            }
        }
    }

    /// Writes the checkpoint of the last step if it is `worth` one; otherwise only waits for the
    /// current one.
    fn save_last(&mut self, worth: bool, succeeded: bool, observer: &mut dyn Observer) -> Result<()> {
        let Some(saving) = &mut self.saving else { return Ok(()) };
        match (worth, succeeded) {
            (true, true) => saving.finish(&mut self.trainer, self.position, observer),
            (true, false) => saving.finish_failed(&mut self.trainer, self.position, observer),
            (false, _) => {
                saving.wait(&mut self.trainer, observer);
                Ok(())
            }
        }
    }

    fn write_trace(&mut self, observer: &mut dyn Observer) {
        let Some(trace) = self.trace.take() else { return };
        let simulated = self.options.simulated.as_ref();
        if let Err(error) = trace.write(self.options.run, &mut self.trainer, simulated) {
            let warning = error.map(|message| format!("{message}; this run has no trace"));
            observer.warned(&warning.into_message());
        }
    }

    /// Runs the steps; `done` counts them. Returns true if the run was stopped.
    fn steps(
        &mut self,
        done: &mut u64,
        times: &mut MeanTimes,
        log: &mut Option<Log>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool> {
        let steps = self.lr_schedule.steps;
        let mut pace = Pace::default();
        let mut clock = Instant::now();
        let mut busy_ns = self.trainer.stats().busy_ns;
        while *done < steps {
            if stop.load(Ordering::Relaxed) {
                return Ok(true);
            }
            let lr = self.lr_schedule.at(*done);
            let wait_start = Instant::now();
            let StepData { micros, next } = self.feeder.take()?;
            let wait_end = Instant::now();
            self.trainer.mark("wait for a batch", wait_start, wait_end);
            let batches: Vec<Batch> = micros.iter().map(Micro::batch).collect();
            let is_due = *done + 1 == steps || (*done + 1).is_multiple_of(self.options.val_every);
            // A validation reads other rows of the embedding and waits for all of it, so announcing
            // would not help.
            if (!is_due || self.validation.is_empty())
                && let Some(next) = self.feeder.peek()
            {
                next.micros.iter().try_for_each(|micro| self.trainer.announce(&micro.tokens))?;
            }
            let report = self.trainer.step(&batches, lr)?;
            *done += 1;
            self.position = next;
            let tokens = micros.iter().map(|micro| micro.rows).sum();
            let step_seconds = clock.elapsed().as_secs_f64();
            pace.push(step_seconds);
            let before_ns = std::mem::replace(&mut busy_ns, self.trainer.stats().busy_ns);
            let busy = |lane: Lane| (busy_ns[lane.at()] - before_ns[lane.at()]) as f64 / 1e9;
            let measured = StepTimes { step_seconds, busy_seconds: Lane::ALL.map(busy) };
            times.push(&measured);
            let attention_pairs = micros.iter().map(|micro| micro.attention_pairs).sum();
            let t = self.options.trainer.shape.t;
            let outside =
                |micro: &Micro| self.work.pairs_outside(micro.tokens.len(), t, micro.starts.as_deref());
            let outside = micros.iter().map(outside).sum();
            let validated = if is_due { self.validate() } else { Ok(None) };
            let record = StepRecord {
                step: report.step,
                loss: report.loss,
                grad_norm: report.grad_norm,
                lr,
                tokens,
                epoch: next.epoch as f64 + next.window as f64 / next.windows as f64,
                step_seconds,
                data_seconds: (wait_end - wait_start).as_secs_f64(),
                tokens_per_second: tokens as f64 / step_seconds,
                tflops: self.work.flop(tokens, attention_pairs, outside) / step_seconds / 1e12,
                rss_bytes: resident_bytes(),
                predicted_step_seconds: self.options.predicted.map(|predicted| predicted.step_seconds),
                lanes: Lane::ALL.map(|lane| LaneRecord {
                    busy_seconds: measured.busy_seconds[lane.at()],
                    predicted_seconds: self.options.predicted.map(|it| it.busy_seconds[lane.at()]),
                }),
                val_loss: validated.as_ref().ok().copied().flatten(),
            };
            clock = Instant::now();
            let is_saved = self.saving.as_ref().is_some_and(|saving| saving.is_due(*done));
            let logged = log.as_mut().map(|log| {
                log.write(&record)?;
                // No power cut leaves a checkpoint whose steps are missing in the log.
                if is_saved { log.sync() } else { Ok(()) }
            });
            if let Some(Err(error)) = logged {
                let warning = error.map(|message| format!("{message}; training continues without a log"));
                observer.warned(&warning.into_message());
                *log = None;
            }
            observer.stepped(&record, steps, pace.remaining(steps - *done));
            if let Some(saving) = &mut self.saving {
                saving.stepped(&mut self.trainer, self.position, observer);
            }
            validated?;
        }
        Ok(false)
    }

    /// Returns the mean loss over all targets of the validation micro-batches; `None` without
    /// validation data.
    fn validate(&mut self) -> Result<Option<f64>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let mut total = EvalReport { loss: 0.0, targets: 0 };
        for micros in self.validation.chunks(self.options.trainer.micros_max) {
            let batches: Vec<Batch> = micros.iter().map(Micro::batch).collect();
            let report = self.trainer.eval(&batches)?;
            total.loss += report.loss * report.targets as f64;
            total.targets += report.targets;
        }
        Ok(Some(total.loss / total.targets as f64))
    }

    fn export(&mut self, observer: &dyn Observer) -> Result<Option<PathBuf>> {
        let Some(target) = &self.target else { return Ok(None) };
        let dtype = self.options.export_dtype;
        let progress = |done, total| {
            observer.exporting(done, total);
            Ok(())
        };
        export(target, &self.model.config, &mut self.trainer, dtype, SHARD_BYTES, &progress)?;
        Ok(Some(target.folder().to_owned()))
    }
}

fn holds_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// The first error, with the other errors and notes. One of them is an error.
fn failure(errors: [Option<Error>; 3], notes: Vec<String>) -> Error {
    let mut errors = errors.into_iter().flatten();
    let first = errors.next().expect("the run has failed");
    let others = errors.map(|error| error.message_for(Front::Command).into_owned());
    others.chain(notes).fold(first, |error, text| error.map(|message| format!("{message}; {text}")))
}

/// Draws at most `micros_max` micro-batches, spread over the validation data, the same in every
/// run.
fn draw_validation(val: &Data, micro_batch: usize, micros_max: usize) -> Result<Vec<Micro>> {
    let mut loader = Loader::new(val, micro_batch, Some(0));
    let mut micros = Vec::new();
    while micros.len() < micros_max {
        match loader.next_once(val)? {
            Some(micro) if micro.targets.iter().any(|&target| target != IGNORED_TARGET) => micros.push(micro),
            Some(_) => {}
            None => break,
        }
    }
    if micros.is_empty() {
        return Err(Error::argument(
            "the validation data has no supervised tokens, so it has no loss; give other validation data",
        ));
    }
    Ok(micros)
}
