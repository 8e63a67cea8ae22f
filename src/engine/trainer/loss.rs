//! Log-probabilities of targets, and steps whose loss the caller makes of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::steps::{Staged, check_rate};
use super::{StepReport, Trainer};
use crate::base::{Error, IGNORED_TARGET, MicroIndex, Result, Status};
use crate::device::Lane;
use crate::engine::Batch;
use crate::engine::record::Issued;
use crate::engine::step_state::Inputs;
use crate::engine::task::Purpose;
use crate::schedule::{Access, Content, Operation, Resource};

/// A loss as a function of the log-probabilities of all targets of a step: given `[micros · N]` of them, micro-batch by
/// micro-batch, it gives the loss and sets its gradient in the second array, which has zeros. Ignored rows are 0 in
/// the one and do not count in the other. An error gives the step up.
pub type Loss<'a> = dyn FnMut(&[f32], &mut [f32]) -> Result<f64> + 'a;

impl Trainer {
    /// The log-probabilities of the targets of some micro-batches under the present weights: `[N]` of each, in
    /// nats, 0 where the target is ignored. Weights of targets do not count. Changes nothing.
    ///
    /// Waits until they are there, and for AdamW unit by unit, as an evaluation does.
    /// Errors: those of [`Trainer::accumulate`]; nothing is staged then.
    pub fn logprobs(&mut self, batches: &[Batch]) -> Result<Vec<f32>> {
        self.stage_all(batches)?;
        let Staged { micros, .. } = self.take_staged()?;
        self.run(Purpose::Logprobs(micros), Inputs::default())?;
        let looks = (0..micros).map(|micro| {
            let micro = MicroIndex::from(micro);
            Access::read(Resource::HostLogprobs { micro }, Content::Logprobs(micro))
        });
        self.outside(&looks.collect::<Vec<_>>())?;
        Ok(self.host_logprobs(micros))
    }

    fn host_logprobs(&self, micros: usize) -> Vec<f32> {
        let n = self.runner.plan.policy.numeric.shape.n();
        let mut logprobs = vec![0.0; micros * n];
        for (micro, rows) in logprobs.chunks_exact_mut(n).enumerate() {
            self.runner.store.read_logprobs(MicroIndex::from(micro), rows);
        }
        logprobs
    }

    /// One step under a loss of the caller's: forward of the whole step, then `loss` on the calling thread with the
    /// log-probabilities of all targets, then backward from the gradient it gives, clipping and AdamW as ever. The
    /// head's logits are computed twice. Weights of targets do not count; the report's loss is what `loss` gave.
    ///
    /// With the gradient −w · (1 / Σ w as f32) it does what [`Trainer::step`] does with the weights w, bit for bit.
    ///
    /// Waits as [`Trainer::update`]. While `loss` runs, forward is done and nothing else of the step has begun.
    ///
    /// Errors: those of [`Trainer::update`]; more than one sweep (`InvalidArgument`), see
    /// [`schedule::train_with_loss`](crate::schedule::train_with_loss); the error of `loss`, or a loss or a gradient that is
    /// not finite (`NonFinite`), after which weights, moments and step number are as before.
    pub fn step_with_loss(&mut self, batches: &[Batch], lr: f64, loss: &mut Loss) -> Result<StepReport> {
        self.usable()?;
        check_rate(lr)?;
        self.stage_all(batches)?;
        let targets: Vec<&[i32]> = batches.iter().map(|batch| batch.targets).collect();
        let staged = self.take_staged()?;
        staged.sums.aimed()?;
        // The loss that is given is the step's, whatever weights say.
        let inputs = Inputs { lr, step: self.stats.steps + 1, weight: 1.0, row: 0 };
        let step_state = self.open_frame(inputs)?;
        let issued = self.infer(Purpose::TrainWithLoss(staged.micros))?;
        self.announced.clear();
        let operations = &self.runner.lists.numbered(issued.list).operations;
        let here = operations.iter().position(|operation| *operation == Operation::Loss);
        let here = here.expect("the list has the loss");
        self.issue(&issued, step_state, 0..here);
        self.reach_loss(&issued, here)?;
        let logprobs = self.host_logprobs(staged.micros);
        let mut dlogprobs = vec![0.0; logprobs.len()];
        // The rest of the list must be issued whatever happens here, since later lists rest on it.
        let given = catch_unwind(AssertUnwindSafe(|| loss(&logprobs, &mut dlogprobs)));
        let outcome = given.map(|given| given.and_then(|loss| self.hand_in(loss, &targets, &dlogprobs)));
        let goes_on = matches!(outcome, Ok(Ok(())));
        if !goes_on {
            self.runner.step_states[step_state].abandon();
        }
        self.issue(&issued, step_state, here..issued.waits.len());
        if goes_on {
            self.conclude(issued)?;
        } else {
            self.note(issued);
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic))?;
        self.committed(step_state, staged)
    }

    /// Waits until this thread may do [`Operation::Loss`]: for what the operation waits for, and for its lane.
    fn reach_loss(&mut self, issued: &Issued, here: usize) -> Result<()> {
        for &tick in issued.waits.waits(here) {
            self.reach(tick)?;
        }
        let last = self.lanes.last(Lane::Host);
        self.reach(last)
    }

    /// Writes what [`Operation::Loss`] leaves, if it can be used.
    fn hand_in(&self, loss: f64, targets: &[&[i32]], dlogprobs: &[f32]) -> Result<()> {
        all_finite(loss, targets, dlogprobs)?;
        let store = &self.runner.store;
        let n = self.runner.plan.policy.numeric.shape.n();
        for (micro, rows) in dlogprobs.chunks_exact(n).enumerate() {
            store.write_logprobs(MicroIndex::from(micro), rows);
        }
        store.set_loss_sum(loss);
        Ok(())
    }
}

/// Refuses a loss that is not finite, or a gradient that is not in a row that counts.
fn all_finite(loss: f64, targets: &[&[i32]], dlogprobs: &[f32]) -> Result<()> {
    let refuse = |what: String| {
        let message = format!("the caller's loss: {what} must be finite; nothing was updated");
        Err(Error::new(Status::NonFinite, message))
    };
    if !loss.is_finite() {
        return refuse(format!("loss {loss}"));
    }
    let rows = targets.iter().enumerate().flat_map(|(micro, targets)| {
        targets.iter().enumerate().map(move |(row, target)| (micro, row, *target))
    });
    for ((micro, row, target), d) in rows.zip(dlogprobs) {
        if target != IGNORED_TARGET && !d.is_finite() {
            return refuse(format!("the gradient {d} of row {row} of micro-batch {micro}"));
        }
    }
    Ok(())
}
