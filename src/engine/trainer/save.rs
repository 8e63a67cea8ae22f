//! Saving during training, and restoring.

use super::Trainer;
use crate::base::{Error, Name, Result, Status, phrase};
use crate::engine::slices::each;
use crate::engine::task::Purpose;
use crate::engine::{Sink, StateJob, StateSpan};
use crate::schedule::{Access, Content, Resource};

impl Trainer {
    /// Begins to save the state after the last step to a sink, and returns at once. Training may
    /// continue and does not change the saved state: AdamW of a unit, and
    /// [`Trainer::write_tensor`], wait until the unit has been saved. [`Trainer::save_wait`] and
    /// [`Trainer::save_outcome`] return the outcome.
    ///
    /// Saves every unit's [state](crate::engine::UnitState). The caller passes everything else to
    /// the sink when making it: step number ([`Stats::steps`](super::Stats::steps)), options, data
    /// position.
    ///
    /// After a failure of the device, saves on the calling thread before it returns, if the state
    /// is that of a completed step.
    ///
    /// Errors: a save is in progress, or its outcome was not taken (`InvalidState`); the sink is
    /// dropped unused. One save at a time, so that no outcome is lost and a slow disk is noticed.
    pub fn save(&mut self, sink: Box<dyn Sink>) -> Result<()> {
        self.may_save()?;
        self.saving = true;
        if self.failed.is_some() {
            self.runner.saving.begin(sink);
            let store = &self.runner.store;
            for unit in store.layout().indices() {
                self.runner.saving.unit(&store.unit_state(unit), unit == store.layout().head());
            }
            return Ok(());
        }
        let issued = self.infer(Purpose::Save)?;
        self.runner.saving.begin(sink);
        // A save uses no inputs, so any step state will do.
        self.issue(&issued, 0, 0..issued.waits.len());
        self.note(issued);
        Ok(())
    }

    /// Fails if [`Trainer::save`] would fail now; to be called before a sink is made.
    pub fn may_save(&self) -> Result<()> {
        self.readable()?;
        if self.saving {
            return Err(Error::new(
                Status::InvalidState,
                format!(
                    "a save is running, or its result was not fetched: call {} before the next save",
                    Name::SaveWait
                ),
            ));
        }
        Ok(())
    }

    /// Waits until the save has ended and takes its outcome: the sink's error, if any. Then another
    /// save may begin.
    ///
    /// Further errors: there is no save, or its outcome was taken (`InvalidState`); a failure of
    /// the device that interrupted the save.
    pub fn save_wait(&mut self) -> Result<()> {
        self.readable()?;
        if !self.saving {
            return Err(Error::new(
                Status::InvalidState,
                format!("no save was started, or {} has returned its result already", Name::SaveWait),
            ));
        }
        let units = self.layout().units.len() as u32;
        self.outside(&[Access::read(Resource::Checkpoint, Content::Saved { units })])?;
        self.saving = false;
        self.runner.saving.take_outcome().expect("the last unit of a save ends it")
    }

    /// Like [`Trainer::save_wait`], without blocking: `None` while the save is in progress, or if
    /// there is none.
    pub fn save_outcome(&mut self) -> Option<Result<()>> {
        if let Err(first) = self.readable() {
            return Some(Err(first));
        }
        let outcome = self.runner.saving.take_outcome()?;
        self.saving = false;
        Some(outcome)
    }

    /// Restores a saved state. `fill` is called once for every span of every
    /// [state](crate::engine::UnitState), on the trainer's threads, and writes all of the span. The
    /// next step has number `steps` + 1, and [`Stats`](super::Stats) continue from `steps` and
    /// `tokens`. [`TensorOptions`](crate::engine::TensorOptions) are unchanged. Before the
    /// first call of `fill`, waits for every unit like [`Trainer::write_tensor`].
    ///
    /// Errors: micro-batches are staged (`InvalidState`; nothing changes); more than 2⁶² steps or
    /// tokens (`InvalidArgument`; nothing changes); the error of the earliest span whose `fill`
    /// fails. The latter leaves a mixed state and poisons the trainer: every later call returns the
    /// same error.
    pub fn restore(&mut self, steps: u64, tokens: u64, fill: &StateJob) -> Result<()> {
        // A run counts on from here, and never to the largest number.
        const COUNT_MAX: u64 = 1 << 62;
        self.usable()?;
        self.nothing_staged()?;
        if steps > COUNT_MAX || tokens > COUNT_MAX {
            return Err(Error::argument(format!(
                "the state is of step {steps} and {tokens} tokens; both must be at most {COUNT_MAX}"
            )));
        }
        let runner = self.runner.clone();
        let units: Vec<_> = runner.store.layout().indices().collect();
        for &unit in &units {
            self.outside(&[Access::write(Resource::Master { unit }, Content::Weights(unit))])?;
        }
        let spans: Vec<_> = StateSpan::all(runner.plan.policy.mode.optimizer()).collect();
        let filled = each(&runner.pool, units.len() * spans.len(), &|number| {
            fill(&mut runner.store.fill(units[number / spans.len()], spans[number % spans.len()]))
        });
        let closing = phrase(
            "",
            ". The trainer has failed: close it and open another",
            ". The trainer has failed: open another",
        );
        filled.map_err(|error| self.fail(error.map(|message| message + &closing)))?;
        (self.stats.steps, self.stats.tokens) = (steps, tokens);
        Ok(())
    }
}
