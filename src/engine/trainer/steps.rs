//! Steps, evaluations, and a look at the logits.

use super::{EvalReport, StepReport, Trainer};
use crate::base::{Error, IGNORED_TARGET, MicroIndex, Result, Status};
use crate::engine::batch::{Batch, BatchSums};
use crate::engine::step_state::Inputs;
use crate::engine::task::Purpose;
use crate::schedule::{Access, AdamWhen, Content, Resource};

/// What was staged for a list.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    pub micros: usize,
    pub sums: BatchSums,
}

pub(super) fn check_rate(lr: f64) -> Result<()> {
    if lr.is_finite() && lr >= 0.0 {
        return Ok(());
    }
    Err(Error::argument(format!("learning rate {lr} must be finite, ≥ 0")))
}

impl Trainer {
    /// Checks a micro-batch and stages it for the next [`Trainer::update`]. Copies; runs nothing.
    ///
    /// Errors: a value out of range (named), or more micro-batches than the trainer was opened for. The
    /// batches staged before stay staged.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<()> {
        self.usable()?;
        let plan = &self.runner.plan;
        if self.staged.len() == plan.micros_max {
            return Err(Error::new(
                Status::InvalidState,
                format!(
                    "{} micro-batches are staged, the most a step was opened for: update first",
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

    /// Names tokens of the step after the next one; may be called for one micro-batch after the other. AdamW of the next
    /// step then updates their rows of an embedding that is not tied to the head before anything else, and all other rows
    /// last, so that the step after it need not wait for the whole embedding. That changes no bit. Runs nothing and waits
    /// for nothing.
    ///
    /// Worthwhile only if that step comes next: an evaluation between the two, or a token that was not named, has to wait
    /// until all rows are updated. Of no effect where the embedding is tied, where AdamW runs under backward, where
    /// gradients pass through a ring, and on [`Trainer::step_with_loss`]. The next step uses up what was named.
    ///
    /// Errors (`InvalidArgument`; then nothing is named): a token that is not in the vocabulary; more different ones than
    /// a step can have.
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
                "{announced} different tokens are announced; a step has {max} at most: announce those of one step"
            )));
        }
        Ok(())
    }

    /// Runs one step over the staged micro-batches and empties the staging. Returns when loss and norm are
    /// known; AdamW may still run.
    ///
    /// Errors: nothing staged (`InvalidState`), no target (`NoTarget`), a norm or loss that is not finite
    /// (`NonFinite`: nothing changed; `StepPartial`: some units were updated, under-backward only).
    pub fn update(&mut self, lr: f64) -> Result<StepReport> {
        self.usable()?;
        check_rate(lr)?;
        let staged = self.take_staged()?;
        let BatchSums { weight, .. } = staged.sums.weighed()?;
        let inputs = Inputs { lr, step: self.stats.steps + 1, weight, row: 0 };
        let rows_first = self.announced.len() > 0;
        let purpose = if rows_first { Purpose::TrainRowsFirst } else { Purpose::Train };
        let step_state = self.open_frame(inputs)?;
        let list = self.infer(purpose(staged.micros))?;
        if rows_first {
            std::mem::swap(&mut self.announced, &mut *self.runner.step_states[step_state].next.write());
            self.announced.clear();
            self.gathered_by = Some(step_state);
        }
        self.issue(&list, step_state, 0..list.waits.len());
        self.conclude(list)?;
        self.committed(step_state, staged)
    }

    /// What a step came to, once its verdict is known; the totals count it.
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
                        "step {step}: {not_finite}; {unit} (the first of them) kept its weights, others moved"
                    ),
                ))
            }
            _ => Err(Error::new(
                Status::NonFinite,
                format!("step {step}: {not_finite}; nothing was updated and the step number stands"),
            )),
        };
        let tokens = (staged.micros * self.runner.plan.policy.numeric.shape.n()) as u64;
        if !committed.as_ref().is_err_and(|error| error.status() == Status::NonFinite) {
            self.stats.steps = step;
            self.stats.tokens += tokens;
        }
        committed?;
        Ok(StepReport {
            step,
            loss: clip_decision.loss,
            grad_norm: clip_decision.norm,
            tokens,
            targets: staged.sums.targets,
        })
    }

    /// [`Trainer::accumulate`] of each batch, then [`Trainer::update`]. If a batch is refused, none is staged.
    pub fn step(&mut self, batches: &[Batch], lr: f64) -> Result<StepReport> {
        self.stage_all(batches)?;
        self.update(lr)
    }

    /// The loss of some micro-batches under the present weights; changes nothing.
    pub fn eval(&mut self, batches: &[Batch]) -> Result<EvalReport> {
        self.stage_all(batches)?;
        let staged = self.take_staged()?;
        let BatchSums { weight, targets } = staged.sums.weighed()?;
        let step_state =
            self.run(Purpose::Evaluate(staged.micros), Inputs { weight, ..Inputs::default() })?;
        Ok(EvalReport { loss: self.runner.step_states[step_state].clip_decision().loss, targets })
    }

    /// The logits `[V]` that follow `tokens`, 1 … T of them.
    pub fn logits(&mut self, tokens: &[i32]) -> Result<Vec<f32>> {
        let shape = self.runner.plan.policy.numeric.shape;
        if tokens.is_empty() || tokens.len() > shape.t {
            return Err(Error::argument(format!(
                "{} tokens were given; 1 … {} can be",
                tokens.len(),
                shape.t
            )));
        }
        self.nothing_staged()?;
        // Causal attention: what stands behind the last token cannot be seen from it.
        let mut padded = vec![0; shape.n()];
        padded[..tokens.len()].copy_from_slice(tokens);
        let batch =
            Batch { tokens: &padded, targets: &vec![IGNORED_TARGET; shape.n()], weights: None, starts: None };
        self.accumulate(&batch)?;
        self.staged.clear();
        let row = tokens.len() as u32 - 1;
        self.run(Purpose::Logits, Inputs { row, ..Inputs::default() })?;
        Ok(self.runner.store.read_logits())
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

    pub(super) fn stage_all(&mut self, batches: &[Batch]) -> Result<()> {
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
        for BatchSums { weight, targets } in self.staged.drain(..) {
            sums.weight += weight;
            sums.targets += targets;
        }
        Ok(Staged { micros, sums })
    }
}
