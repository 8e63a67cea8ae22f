//! Saving under training, and the way back.

use super::Trainer;
use crate::base::{Error, Result, Status};
use crate::engine::slices::each;
use crate::engine::task::Purpose;
use crate::engine::{Sink, StateJob, StateSpan};
use crate::schedule::{Access, Content, Resource};

impl Trainer {
    /// Begins to save the state after the last step to a sink, and returns. Later calls, steps too, go on meanwhile and
    /// change nothing of what is saved: AdamW of a unit, and [`Trainer::write_tensor`] to one, wait until that
    /// unit has been saved. How it ended says [`Trainer::save_wait`] or [`Trainer::save_outcome`].
    ///
    /// What is saved is every unit's [state](crate::engine::UnitState). The rest (the step number, which is
    /// [`Stats::steps`](super::Stats::steps) now; options; where the data stood) is the caller's to hand to the
    /// sink when it makes it.
    ///
    /// Errors: a save is under way, or has ended and nobody has asked for its outcome (`InvalidState`): the sink is
    /// dropped unused. One save at a time, so that no outcome is lost and a slow disk is noticed.
    pub fn save(&mut self, sink: Box<dyn Sink>) -> Result<()> {
        self.may_save()?;
        let issued = self.infer(Purpose::Save)?;
        self.saving = true;
        self.runner.saving.begin(sink);
        // A save asks for nothing that a frame holds.
        self.issue(&issued, 0, 0..issued.waits.len());
        self.note(issued);
        Ok(())
    }

    /// Refuses what [`Trainer::save`] would refuse now, before there is a sink.
    pub fn may_save(&self) -> Result<()> {
        self.usable()?;
        if self.saving {
            return Err(Error::new(
                Status::InvalidState,
                "a save is under way, or its outcome has not been asked for: wait for it before the next",
            ));
        }
        Ok(())
    }

    /// Waits until the save has ended and gives its outcome: the sink's error, if it had one. Afterwards another may
    /// begin. An outcome is given once.
    ///
    /// Errors besides: no save was begun whose outcome is open (`InvalidState`); a failure of the device, under which
    /// the sink was dropped unfinished.
    pub fn save_wait(&mut self) -> Result<()> {
        self.usable()?;
        if !self.saving {
            return Err(Error::new(Status::InvalidState, "no save was begun whose outcome is open"));
        }
        let units = self.layout().units.len() as u32;
        self.outside(&[Access::read(Resource::Checkpoint, Content::Saved { units })])?;
        self.saving = false;
        self.runner.saving.take_outcome().expect("the last unit of a save ends it")
    }

    /// As [`Trainer::save_wait`], but waits for nothing: `None` while the save goes on, or if there is none.
    pub fn save_outcome(&mut self) -> Option<Result<()>> {
        if let Err(first) = self.usable() {
            return Some(Err(first));
        }
        let outcome = self.runner.saving.take_outcome()?;
        self.saving = false;
        Some(outcome)
    }

    /// Puts the state of a save into the store, and goes on from there: `fill` is called for every span of every
    /// [state](crate::engine::UnitState), each once, by the trainer's threads, and writes all of it. The next step is number
    /// `steps` + 1 of AdamW, and [`Stats`](super::Stats) count on from `steps` and `tokens`. What AdamW does to
    /// tensors apart stays as it is set. Waits, before the first call, as [`Trainer::write_tensor`] does for every unit.
    ///
    /// Errors: micro-batches are staged (`InvalidState`; nothing is changed); the error of the earliest span whose `fill`
    /// fails. After that the store holds states of two moments, so the trainer has failed: every later call gives the
    /// same error.
    pub fn restore(&mut self, steps: u64, tokens: u64, fill: &StateJob) -> Result<()> {
        self.usable()?;
        self.nothing_staged()?;
        let runner = self.runner.clone();
        let units: Vec<_> = runner.store.layout().indices().collect();
        for &unit in &units {
            self.outside(&[Access::write(Resource::Master { unit }, Content::Weights(unit))])?;
        }
        let spans: Vec<_> = StateSpan::all(runner.plan.policy.mode.optimizer()).collect();
        let filled = each(&runner.pool, units.len() * spans.len(), &|number| {
            fill(&mut runner.store.fill(units[number / spans.len()], spans[number % spans.len()]))
        });
        filled.map_err(|error| self.fail(error))?;
        (self.stats.steps, self.stats.tokens) = (steps, tokens);
        Ok(())
    }
}
