//! Log-probabilities of targets, and steps with a custom loss over them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::steps::{Staged, check_lr, not_finite};
use super::{StepReport, Trainer};
use crate::base::{
    Error, IGNORED_TARGET, MicroIndex, Result, Shape, Status, filled, find_non_finite, phrase, with_capacity,
};
use crate::device::Lane;
use crate::engine::Batch;
use crate::engine::cancel::cancelled;
use crate::engine::record::Issued;
use crate::engine::step_state::Inputs;
use crate::engine::task::Purpose;
use crate::schedule::{Access, Content, Operation, Resource};

/// A custom loss over the log-probabilities of all targets of a step. Takes one for each token of
/// the batches, micro-batch by micro-batch, without padding; returns the loss and writes its
/// gradient to the second array, which is zeroed before. Ignored targets have log-probability 0,
/// and their gradient is not used. An error abandons the step.
pub type Loss<'a> = dyn FnMut(&[f32], &mut [f32]) -> Result<f64> + 'a;

impl Trainer {
    /// Computes the log-probabilities of the targets of some micro-batches: one for each token, in
    /// nats, 0 for an ignored target. Target weights are not used. Changes nothing.
    ///
    /// Blocks until they are computed, like [`Trainer::eval`].
    ///
    /// Errors: those of [`Trainer::step`] for the batches, except `NoTarget`; a log-probability that
    /// is not finite (`NonFinite`).
    pub fn logprobs(&mut self, batches: &[Batch]) -> Result<Vec<f32>> {
        let Staged { micros, .. } = self.stage_all(batches, |_, _| Ok(()))?;
        let shapes = self.shapes(batches);
        let mut logprobs = with_capacity(rows(&shapes))?;
        self.run(Purpose::Logprobs(micros), Inputs::default())?;
        let looks = (0..micros).map(|micro| {
            let micro = MicroIndex::from(micro);
            Access::read(Resource::HostLogprobs { micro }, Content::Logprobs(micro))
        });
        self.outside(&looks.collect::<Vec<_>>())?;
        self.read_host_logprobs(&shapes, &mut logprobs);
        match find_non_finite(&logprobs, |logprob| logprob) {
            Some((row, value)) => Err(not_finite(format_args!("log-probability {row}"), value)),
            None => Ok(logprobs),
        }
    }

    /// The shapes of batches that were accumulated.
    fn shapes(&self, batches: &[Batch]) -> Vec<Shape> {
        let most = self.runner.plan.policy.numeric.shape;
        batches.iter().map(|batch| batch.shape(most)).collect()
    }

    /// Reads the downloaded log-probabilities of batches of these shapes, without padding.
    fn read_host_logprobs(&self, shapes: &[Shape], logprobs: &mut Vec<f32>) {
        for (micro, &shape) in (0..).map(MicroIndex::from).zip(shapes) {
            let sequences = self.runner.store.read_logprobs(micro, shape);
            sequences.for_each(|sequence| logprobs.extend_from_slice(sequence));
        }
    }

    /// Runs one step with a custom loss (DPO, GRPO, …): forward of the whole step, then `loss` on
    /// the calling thread with the log-probabilities of all targets, then backward from its
    /// gradient, clipping and AdamW. The head's logits are computed twice. Target weights are not
    /// used. The reported loss is the one that `loss` returns.
    ///
    /// With the gradient −w · (1 / Σ w as f32) it equals [`Trainer::step`] with weights w bit for
    /// bit.
    ///
    /// Blocks like [`Trainer::update`]. `loss` is called after forward and before backward begins.
    ///
    /// Errors: those of [`Trainer::step`]; more than one sweep (`InvalidArgument`); the error of
    /// `loss`; a loss or gradient that is not finite (`NonFinite`). After the last two, weights,
    /// moments and step number are unchanged. Cancelled before `loss` is called, it is not called.
    pub fn step_with_loss(&mut self, batches: &[Batch], lr: f64, loss: &mut Loss) -> Result<StepReport> {
        self.usable()?;
        check_lr(lr)?;
        let staged = self.stage_all(batches, |trainer, staged| {
            staged.sums.require_target()?;
            trainer.runner.lists.get(Purpose::TrainWithLoss(staged.micros)).map(drop)
        })?;
        let shapes = self.shapes(batches);
        // A list that is issued in part cannot end in an error, so memory is taken before.
        let (mut logprobs, mut dlogprobs) = (with_capacity(rows(&shapes))?, filled(0.0, rows(&shapes))?);
        let targets: Vec<&[i32]> = batches.iter().map(|batch| batch.targets).collect();
        // Weight 1: the returned loss is the step's loss.
        let purpose = Purpose::TrainWithLoss(staged.micros);
        let inputs = self.step_inputs(purpose, lr, 1.0)?;
        let step_state = self.open_step_state(inputs)?;
        let issued = self.infer(purpose)?;
        self.announced.clear();
        let operations = &self.runner.lists.numbered(issued.list).operations;
        let loss_at = operations.iter().position(|operation| *operation == Operation::Loss);
        let loss_at = loss_at.expect("the list has the loss");
        self.issue(&issued, step_state, 0..loss_at);
        self.reach_loss(&issued, loss_at)?;
        self.read_host_logprobs(&shapes, &mut logprobs);
        // The rest of the list is issued even after an error or a panic: waits of later lists refer
        // to it.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // Abandoned forward passes have computed no log-probabilities.
            if self.runner.step_states[step_state].phase.is_abandoned() {
                return Err(cancelled());
            }
            loss(&logprobs, &mut dlogprobs)
                .and_then(|loss| self.store_loss(loss, &shapes, &targets, &dlogprobs))
        }));
        if !matches!(outcome, Ok(Ok(()))) {
            self.runner.step_states[step_state].phase.abandon();
        }
        self.issue(&issued, step_state, loss_at..issued.waits.len());
        let concluded = self.conclude(issued, step_state);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))?;
        concluded?;
        self.committed(step_state, staged)
    }

    /// Waits until this thread may perform [`Operation::Loss`]: for the operation's waits and for
    /// all earlier operations on its lane.
    fn reach_loss(&mut self, issued: &Issued, loss_at: usize) -> Result<()> {
        for &tick in issued.waits.waits(loss_at) {
            self.reach(tick)?;
        }
        let last = self.lanes.last(Lane::Host);
        self.reach(last)
    }

    /// Checks and stores the results of [`Operation::Loss`].
    fn store_loss(&self, loss: f64, shapes: &[Shape], targets: &[&[i32]], dlogprobs: &[f32]) -> Result<()> {
        all_finite(loss, shapes, targets, dlogprobs)?;
        let store = &self.runner.store;
        let mut rest = dlogprobs;
        for (micro, &shape) in shapes.iter().enumerate() {
            let (rows, after) = rest.split_at(shape.n());
            store.write_logprobs(MicroIndex::from(micro), shape, rows);
            rest = after;
        }
        store.set_loss_sum(loss);
        Ok(())
    }
}

/// The tokens of batches of these shapes.
fn rows(shapes: &[Shape]) -> usize {
    shapes.iter().map(|shape| shape.n()).sum()
}

/// Refuses a loss that is not finite, or such a gradient of a target that is not ignored.
fn all_finite(loss: f64, shapes: &[Shape], targets: &[&[i32]], dlogprobs: &[f32]) -> Result<()> {
    let refuse = |what: String| {
        let message = format!("custom loss: {what}; it must be finite. Nothing was updated");
        Err(Error::new(Status::NonFinite, message))
    };
    if !loss.is_finite() {
        return refuse(format!("{} is {loss}", phrase("the loss", "*out_loss", "the loss")));
    }
    let rows = shapes.iter().zip(targets).enumerate().flat_map(|(micro, (shape, targets))| {
        targets.iter().enumerate().map(move |(row, target)| (micro, row / shape.t, row % shape.t, *target))
    });
    for (index, ((micro, sequence, position, target), d)) in rows.zip(dlogprobs).enumerate() {
        if target != IGNORED_TARGET && !d.is_finite() {
            return refuse(format!(
                "dlogprobs[{index}] (batch {micro}, sequence {sequence}, position {position}) is {d}"
            ));
        }
    }
    Ok(())
}
