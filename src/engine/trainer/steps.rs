//! Steps, evaluations and logits.

use std::fmt;

use super::{EvalReport, StepReport, Trainer};
use crate::base::format::several;
use crate::base::{
    Error, IGNORED_TARGET, MicroIndex, Name, Result, Status, check_f32, filled, find_non_finite, phrase,
};
use crate::engine::batch::{Batch, BatchSums, Call, check_tokens};
use crate::engine::step_state::Inputs;
use crate::engine::task::Purpose;
use crate::schedule::{Access, AdamWhen, Content, Resource};

/// The staged micro-batches of a list.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    pub micros: usize,
    pub sums: BatchSums,
}

impl Staged {
    fn of(batches: &[BatchSums]) -> Self {
        let mut sums = BatchSums::default();
        for BatchSums { tokens, weight, targets } in batches {
            sums.tokens += tokens;
            sums.weight += weight;
            sums.targets += targets;
        }
        Staged { micros: batches.len(), sums }
    }
}

pub(super) fn check_lr(lr: f64) -> Result<()> {
    check_f32(Name::LearningRate, lr, 0.0)
}

/// The error of a result that is not finite.
pub(super) fn not_finite(what: impl fmt::Display, value: impl fmt::Display) -> Error {
    let message = format!(
        "the {what} is {value}: the weights are not finite, or so large that activations overflow; load other \
         weights, or a checkpoint from before, and lower the learning rate"
    );
    Error::new(Status::NonFinite, message)
}

impl Trainer {
    /// Checks a micro-batch and copies it for the next [`Trainer::update`] (gradient accumulation).
    /// Computes nothing.
    ///
    /// Errors: a value out of range (`InvalidArgument`, named); more micro-batches than
    /// [`TrainerOptions::micros_max`](crate::engine::TrainerOptions::micros_max) (`InvalidState`).
    /// Micro-batches staged before stay staged.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<()> {
        self.usable()?;
        let plan = &self.runner.plan;
        if self.staged.len() == plan.micros_max {
            return Err(Error::new(
                Status::InvalidState,
                format!(
                    "{}, the most that {} allows: call {} first",
                    self.accumulated(),
                    Name::MicrosMax,
                    Name::Update
                ),
            ));
        }
        let sums = self.check(batch, &phrase("", "batch->", "batch."))?;
        self.stage(MicroIndex::from(self.staged.len()), batch)?;
        self.staged.push(sums);
        Ok(())
    }

    /// Drops the staged micro-batches.
    pub fn discard(&mut self) -> Result<()> {
        self.usable()?;
        self.staged.clear();
        Ok(())
    }

    /// Checks a micro-batch. `name` is the text before the names of its fields.
    fn check(&self, batch: &Batch, name: &str) -> Result<BatchSums> {
        batch.check(name, self.runner.plan.policy.numeric.shape, self.runner.config.dims.v)
    }

    /// Copies a checked micro-batch.
    fn stage(&mut self, micro: MicroIndex, batch: &Batch) -> Result<()> {
        self.outside(&[Access::write(Resource::HostBatch { micro }, Content::Batch(micro))])?;
        self.runner.store.stage(micro, batch)
    }

    /// Announces tokens of the step after the next one; may be called once per micro-batch. AdamW
    /// of the next step then updates their rows of an untied embedding first and the other rows
    /// last, so that the step after it does not wait for the whole embedding. Changes no bit. Does
    /// not block.
    ///
    /// Useful only if that step comes directly after the next one: an evaluation between them, or a
    /// token that was not announced, waits until all rows are updated. No effect if the embedding
    /// is tied, AdamW runs under backward, or gradients pass through a ring buffer; nor on
    /// [`Trainer::step_with_loss`]. The next step consumes the announcement.
    ///
    /// Errors (`InvalidArgument`; tokens announced before stay announced): a token outside the
    /// vocabulary; more distinct tokens than a step can have.
    pub fn announce(&mut self, tokens: &[i32]) -> Result<()> {
        self.usable()?;
        check_tokens(tokens, self.runner.config.dims.v, |index| format!("tokens[{index}]"))?;
        let plan = &self.runner.plan;
        if !plan.policy.updates_rows_first(&plan.geometry) {
            return Ok(());
        }
        let before = self.announced.len();
        tokens.iter().for_each(|&token| self.announced.add(token));
        let (announced, max) = (self.announced.len(), self.runner.store.gathered_max());
        if announced > max {
            self.announced.truncate(before);
            return Err(Error::argument(format!(
                "{announced} distinct tokens are announced; a step has at most {max}: announce one step at a time"
            )));
        }
        Ok(())
    }

    /// Runs one step over the staged micro-batches. Blocks until loss and gradient norm are known;
    /// AdamW may still run.
    ///
    /// Errors before anything runs, after which the micro-batches stay staged: `lr` is negative or
    /// not finite, or the weights of the targets sum to more or less than f32 can divide by
    /// (`InvalidArgument`); nothing is staged (`InvalidState`); no supervised target (`NoTarget`). Errors of the step, after which none is staged: a norm or loss that is not
    /// finite (`NonFinite`: nothing changed; `StepPartial`: some units were updated, only with
    /// AdamW under backward); [cancelled](Trainer::canceller) (`Cancelled`: nothing changed).
    pub fn update(&mut self, lr: f64) -> Result<StepReport> {
        self.preparation.open();
        self.usable()?;
        check_lr(lr)?;
        if self.staged.is_empty() {
            return Err(Error::new(
                Status::InvalidState,
                format!("no micro-batch is accumulated: call {} first", Name::Accumulate),
            ));
        }
        let staged = Staged::of(&self.staged);
        staged.sums.require_weight(Call::Step)?;
        self.staged.clear();
        self.train(staged, lr)
    }

    /// Runs a step over staged micro-batches.
    fn train(&mut self, staged: Staged, lr: f64) -> Result<StepReport> {
        let rows_first = self.announced.len() > 0;
        let purpose = if rows_first { Purpose::TrainRowsFirst } else { Purpose::Train };
        let purpose = purpose(staged.micros);
        let inputs = self.step_inputs(purpose, lr, staged.sums.weight)?;
        let step_state = self.open_step_state(inputs)?;
        let list = self.infer(purpose)?;
        if rows_first {
            std::mem::swap(&mut self.announced, &mut *self.runner.step_states[step_state].next.write());
            self.announced.clear();
            self.gathered_by = Some(step_state);
        }
        self.issue(&list, step_state, 0..list.waits.len());
        self.conclude(list, step_state)?;
        self.committed(step_state, staged)
    }

    /// The inputs of the next step.
    pub(super) fn step_inputs(&self, purpose: Purpose, lr: f64, weight: f64) -> Result<Inputs> {
        let updates = self.runner.lists.get(purpose)?.1.updates() as u32;
        Ok(Inputs { lr, step: self.stats.steps + 1, weight, row: 0, updates })
    }

    /// The result of a step after its clip decision. Updates the totals.
    pub(super) fn committed(&mut self, step_state: usize, staged: Staged) -> Result<StepReport> {
        let step_state = &self.runner.step_states[step_state];
        let (clip_decision, refused, step) =
            (step_state.clip_decision(), step_state.refused(), step_state.inputs().step);
        let not_finite =
            format!("loss {} and gradient norm {} must be finite", clip_decision.loss, clip_decision.norm);
        let committed = match self.runner.plan.policy.placement.adam {
            AdamWhen::AfterNorm if clip_decision.commit => Ok(()),
            AdamWhen::UnderBackward if refused.is_none() => Ok(()),
            AdamWhen::UnderBackward if refused.is_some_and(|(_, partly)| partly) => {
                let (unit, _) = refused.expect("matched just now");
                Err(Error::new(
                    Status::StepPartial,
                    format!(
                        "step {step}: {not_finite}; {unit} (perhaps others, too) was not updated, the rest was"
                    ),
                ))
            }
            _ => Err(Error::new(
                Status::NonFinite,
                format!(
                    "step {step}: {not_finite}; nothing was updated, the step number is unchanged: lower the learning \
                     rate, check the data, or resume an earlier checkpoint"
                ),
            )),
        };
        let Staged { micros, sums: BatchSums { tokens, targets, .. } } = staged;
        if !committed.as_ref().is_err_and(|error| error.status() == Status::NonFinite) {
            self.stats.steps = step;
            self.stats.tokens += tokens;
        }
        committed?;
        Ok(StepReport {
            step,
            loss: clip_decision.loss,
            grad_norm: clip_decision.norm,
            micros,
            tokens,
            targets,
        })
    }

    /// Runs one step over some micro-batches, like [`Trainer::accumulate`] of each and
    /// [`Trainer::update`].
    ///
    /// Errors: those of [`Trainer::update`]; no micro-batch, more than
    /// [`micros_max`](crate::engine::TrainerOptions::micros_max), or a value out of range
    /// (`InvalidArgument`); micro-batches are staged for an update (`InvalidState`). After an error
    /// none of `batches` is staged.
    pub fn step(&mut self, batches: &[Batch], lr: f64) -> Result<StepReport> {
        self.usable()?;
        check_lr(lr)?;
        let staged = self.stage_all(batches, |_, staged| staged.sums.require_weight(Call::Step))?;
        self.train(staged, lr)
    }

    /// Computes the loss of some micro-batches with the current weights. Changes nothing. Blocks
    /// until it is known; each unit's upload waits for the unit's AdamW.
    ///
    /// Errors: those of [`Trainer::step`] for the batches; a loss that is not finite (`NonFinite`);
    /// [cancelled](Trainer::canceller) (`Cancelled`).
    pub fn eval(&mut self, batches: &[Batch]) -> Result<EvalReport> {
        let Staged { micros, sums: BatchSums { weight, targets, .. } } =
            self.stage_all(batches, |_, staged| staged.sums.require_weight(Call::Evaluation))?;
        let step_state = self.run(Purpose::Evaluate(micros), Inputs { weight, ..Inputs::default() })?;
        match self.runner.step_states[step_state].clip_decision().loss {
            loss if loss.is_finite() => Ok(EvalReport { loss, targets }),
            loss => Err(not_finite("loss", loss)),
        }
    }

    /// Computes the logits `[V]` of the token after `tokens`. Blocks until they are known.
    ///
    /// Errors: a number of tokens that is not in 1 … T; a token outside the vocabulary
    /// (`InvalidArgument`); micro-batches are staged for an update (`InvalidState`); a logit that
    /// is not finite (`NonFinite`); [cancelled](Trainer::canceller) (`Cancelled`).
    pub fn logits(&mut self, tokens: &[i32]) -> Result<Vec<f32>> {
        let shape = self.runner.plan.policy.numeric.shape;
        if tokens.is_empty() || tokens.len() > shape.t {
            return Err(Error::argument(format!(
                "{} is {}; it must be 1 … {} ({})",
                phrase("tokens.len()", "count", "tokens.len()"),
                tokens.len(),
                shape.t,
                Name::SequenceLength
            )));
        }
        check_tokens(tokens, self.runner.config.dims.v, |index| format!("tokens[{index}]"))?;
        let ignored = filled(IGNORED_TARGET, tokens.len())?;
        let batch = Batch { sequence_length: Some(tokens.len()), ..Batch::new(tokens, &ignored) };
        self.stage_all(&[batch], |_, _| Ok(()))?;
        let row = tokens.len() as u32 - 1;
        self.run(Purpose::Logits, Inputs { row, ..Inputs::default() })?;
        let logits = self.runner.store.read_logits()?;
        match find_non_finite(&logits, |logit| logit) {
            Some((token, value)) => Err(not_finite(format_args!("logit of token {token}"), value)),
            None => Ok(logits),
        }
    }

    pub(super) fn nothing_staged(&self) -> Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let (accumulated, update, discard) = (self.accumulated(), Name::Update, Name::Discard);
        Err(Error::new(Status::InvalidState, format!("{accumulated}: call {update} or {discard} first")))
    }

    /// For messages.
    fn accumulated(&self) -> String {
        let verb = if self.staged.len() == 1 { "is" } else { "are" };
        format!("{} {verb} accumulated", several(self.staged.len(), "micro-batch"))
    }

    /// Begins a call with batches: stages them after all checks, those of the trainer, of every
    /// batch, and `check`. A refused call changes nothing.
    pub(super) fn stage_all(
        &mut self,
        batches: &[Batch],
        check: impl FnOnce(&Self, Staged) -> Result<()>,
    ) -> Result<Staged> {
        self.preparation.open();
        self.usable()?;
        self.nothing_staged()?;
        let (micros, max) = (batches.len(), self.runner.plan.micros_max);
        if micros == 0 || micros > max {
            let (found, name) = (phrase("batches.len()", "count", "batches.len()"), Name::MicrosMax);
            return Err(Error::argument(format!("{found} is {micros}; it must be 1 … {name}, {max}")));
        }
        let sums = batches
            .iter()
            .enumerate()
            .map(|(index, batch)| self.check(batch, &format!("batches[{index}].")))
            .collect::<Result<Vec<_>>>()?;
        let staged = Staged::of(&sums);
        check(self, staged)?;
        for (micro, batch) in batches.iter().enumerate() {
            self.stage(MicroIndex::from(micro), batch)?;
        }
        Ok(staged)
    }
}
