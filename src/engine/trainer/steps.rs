//! Steps, evaluations and logits.

use std::fmt;

use super::{EvalReport, StepReport, Trainer};
use crate::base::{Error, IGNORED_TARGET, MicroIndex, Result, Status, find_non_finite};
use crate::engine::batch::{Batch, BatchSums};
use crate::engine::step_state::Inputs;
use crate::engine::task::Purpose;
use crate::schedule::{Access, AdamWhen, Content, Resource};

/// The staged micro-batches of a list.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    pub micros: usize,
    pub sums: BatchSums,
}

pub(super) fn check_lr(lr: f64) -> Result<()> {
    if lr.is_finite() && lr >= 0.0 {
        return Ok(());
    }
    Err(Error::argument(format!("learning rate {lr} must be finite and ≥ 0")))
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
    /// Earlier micro-batches stay staged.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<()> {
        self.usable()?;
        let plan = &self.runner.plan;
        if self.staged.len() == plan.micros_max {
            return Err(Error::new(
                Status::InvalidState,
                format!(
                    "{} micro-batches are staged, the maximum per step of this trainer: update first",
                    plan.micros_max
                ),
            ));
        }
        let sums = batch.check(plan.policy.numeric.shape, self.runner.config.dims.v)?;
        let micro = MicroIndex::from(self.staged.len());
        self.outside(&[Access::write(Resource::HostBatch { micro }, Content::Batch(micro))])?;
        self.runner.store.stage(micro, batch);
        self.staged.push(sums);
        Ok(())
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
    /// Errors (`InvalidArgument`; nothing stays announced): a token outside the vocabulary; more
    /// distinct tokens than a step can have.
    pub fn announce(&mut self, tokens: &[i32]) -> Result<()> {
        self.usable()?;
        let added = self.add_announced(tokens);
        if added.is_err() {
            self.announced.clear();
        }
        added
    }

    fn add_announced(&mut self, tokens: &[i32]) -> Result<()> {
        let vocabulary = self.runner.config.dims.v;
        let known = |token: i32| (0..vocabulary as i64).contains(&i64::from(token));
        if let Some(position) = tokens.iter().position(|&token| !known(token)) {
            return Err(Error::argument(format!(
                "announced token {} (position {position}) is not in the vocabulary of {vocabulary}",
                tokens[position]
            )));
        }
        let plan = &self.runner.plan;
        if !plan.policy.updates_rows_first(&plan.geometry) {
            return Ok(());
        }
        tokens.iter().for_each(|&token| self.announced.add(token));
        let (announced, max) = (self.announced.len(), self.runner.store.gathered_max());
        if announced > max {
            return Err(Error::argument(format!(
                "{announced} distinct tokens are announced; a step has at most {max}: announce one step at a time"
            )));
        }
        Ok(())
    }

    /// Runs one step over the staged micro-batches. Blocks until loss and gradient norm are known;
    /// AdamW may still run.
    ///
    /// Errors: nothing is staged (`InvalidState`); no supervised target (`NoTarget`); a norm or
    /// loss that is not finite (`NonFinite`: nothing changed; `StepPartial`: some units were
    /// updated, only with AdamW under backward); [cancelled](Trainer::canceller) (`Cancelled`:
    /// nothing changed).
    pub fn update(&mut self, lr: f64) -> Result<StepReport> {
        self.preparation.open();
        self.update_staged(lr)
    }

    fn update_staged(&mut self, lr: f64) -> Result<StepReport> {
        self.usable()?;
        check_lr(lr)?;
        let staged = self.take_staged()?;
        let BatchSums { weight, .. } = staged.sums.require_weight()?;
        let inputs = Inputs { lr, step: self.stats.steps + 1, weight, row: 0 };
        let rows_first = self.announced.len() > 0;
        let purpose = if rows_first { Purpose::TrainRowsFirst } else { Purpose::Train };
        let step_state = self.open_step_state(inputs)?;
        let list = self.infer(purpose(staged.micros))?;
        if rows_first {
            std::mem::swap(&mut self.announced, &mut *self.runner.step_states[step_state].next.write());
            self.announced.clear();
            self.gathered_by = Some(step_state);
        }
        self.issue(&list, step_state, 0..list.waits.len());
        self.conclude(list, step_state)?;
        self.committed(step_state, staged)
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
                format!("step {step}: {not_finite}; nothing was updated, the step number is unchanged"),
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

    /// Calls [`Trainer::accumulate`] for each batch, then [`Trainer::update`]. After an error of a
    /// batch none is staged.
    pub fn step(&mut self, batches: &[Batch], lr: f64) -> Result<StepReport> {
        self.stage_all(batches)?;
        self.update_staged(lr)
    }

    /// Computes the loss of some micro-batches with the current weights. Changes nothing. Blocks
    /// until it is known; each unit's upload waits for the unit's AdamW.
    ///
    /// Errors: those of [`Trainer::accumulate`]; micro-batches are staged for an update
    /// (`InvalidState`); no supervised target (`NoTarget`); a loss that is not finite
    /// (`NonFinite`); [cancelled](Trainer::canceller) (`Cancelled`).
    pub fn eval(&mut self, batches: &[Batch]) -> Result<EvalReport> {
        self.stage_all(batches)?;
        let staged = self.take_staged()?;
        let BatchSums { weight, targets, .. } = staged.sums.require_weight()?;
        let step_state =
            self.run(Purpose::Evaluate(staged.micros), Inputs { weight, ..Inputs::default() })?;
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
        self.preparation.open();
        let shape = self.runner.plan.policy.numeric.shape;
        if tokens.is_empty() || tokens.len() > shape.t {
            return Err(Error::argument(format!(
                "{} tokens were given; logits take 1 … {} tokens",
                tokens.len(),
                shape.t
            )));
        }
        self.nothing_staged()?;
        let ignored = vec![IGNORED_TARGET; tokens.len()];
        let sequence_length = Some(tokens.len());
        self.accumulate(&Batch { sequence_length, ..Batch::new(tokens, &ignored) })?;
        self.staged.clear();
        let row = tokens.len() as u32 - 1;
        self.run(Purpose::Logits, Inputs { row, ..Inputs::default() })?;
        let logits = self.runner.store.read_logits();
        match find_non_finite(&logits, |logit| logit) {
            Some((token, value)) => Err(not_finite(format_args!("logit of token {token}"), value)),
            None => Ok(logits),
        }
    }

    pub(super) fn nothing_staged(&self) -> Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Status::InvalidState,
            format!("{} micro-batches are staged for an update: update first", self.staged.len()),
        ))
    }

    /// The beginning of every call with batches.
    pub(super) fn stage_all(&mut self, batches: &[Batch]) -> Result<()> {
        self.preparation.open();
        self.nothing_staged()?;
        let staged = batches.iter().try_for_each(|batch| self.accumulate(batch));
        if staged.is_err() {
            self.staged.clear();
        }
        staged
    }

    pub(super) fn take_staged(&mut self) -> Result<Staged> {
        self.usable()?;
        if self.staged.is_empty() {
            return Err(Error::new(Status::InvalidState, "no micro-batch is staged: accumulate first"));
        }
        let micros = self.staged.len();
        let mut sums = BatchSums::default();
        for BatchSums { tokens, weight, targets } in self.staged.drain(..) {
            sums.tokens += tokens;
            sums.weight += weight;
            sums.targets += targets;
        }
        Ok(Staged { micros, sums })
    }
}
