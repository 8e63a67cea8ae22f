//! Trying placements: whether they fit, the least they can take, what they take.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Question;
use crate::base::Result;
use crate::device::Lane;
use crate::model::{Passes, Recompute};
use crate::plan::predict::{STEPS_BEFORE, Steady};
use crate::plan::{Cost, Plan, Work};
use crate::schedule::{
    self, Accumulator, Boundary, Geometry, GradWait, LayerPlacement, Mode, Operation, Placement, Policy,
};

/// How good a placement is: the step's time, and of equals the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    pub step_ns: u64,
    pub bytes: usize,
}

/// A placement that fits, and no more is known than what its lanes have to do.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub placement: Placement,
    /// No step is shorter than its busiest lane.
    pub least_ns: u64,
}

/// Adding up what the operations of a list take costs as much as simulating so many fewer of them.
const OF_A_RUN: usize = 6;

/// However long the lists, a placement is simulated for so much effort.
const A_PLACEMENT: usize = 150_000;

/// What has been tried.
pub struct Trials<'a> {
    pub question: Question<'a>,
    geometry: Geometry,
    passes: Arc<Passes>,
    works: Vec<Work>,
    pass_ns: Vec<u64>,
    known: FxHashMap<Placement, Score>,
    /// The least time of what fits, nothing of what does not.
    bounds: FxHashMap<Placement, Option<u64>>,
    /// What placements take, by the counts that decide it.
    taken: RefCell<FxHashMap<Counts, Taken>>,
    effort: usize,
    effort_left: usize,
}

/// Bytes on the device and on the host.
pub type Taken = (usize, usize);

/// All that memory depends on: slots and residents, slabs, sweeps, where gradients wait; and of layers, how many
/// keep what of their activations, keep their boundary, have a sum of their own.
type Counts = ([usize; 3], GradWait, [usize; Recompute::ALL.len()], [usize; 2]);

impl<'a> Trials<'a> {
    /// Errors: the question has no answer at all, whatever the room: see [`Plan::new`].
    pub fn new(question: Question<'a>, effort: usize) -> Result<Self> {
        let sweeps = question.fixed.sweeps.unwrap_or(1);
        let (fixed, least) = (question.fixed, Placement::default());
        let (weight_slots, slabs) =
            (fixed.weight_slots.unwrap_or(least.weight_slots), fixed.slabs.unwrap_or(least.slabs));
        let plan = question.plan(Placement { sweeps, weight_slots, slabs, ..least.clone() })?;
        // What is pinned has to be possible; whether AdamW's place is, is asked of every candidate.
        let counts = Placement { sweeps, weight_slots, slabs, ..least };
        Policy { mode: Mode::Exact, ..question.policy(counts) }.validate(&plan.geometry, question.micros)?;
        let works = Work::of_all(&plan.passes);
        Ok(Trials {
            question,
            geometry: plan.geometry,
            pass_ns: works.iter().map(|work| question.machine.ns(Lane::Compute, work)).collect(),
            works,
            passes: plan.passes,
            known: FxHashMap::default(),
            bounds: FxHashMap::default(),
            taken: RefCell::default(),
            effort,
            effort_left: effort,
        })
    }

    /// Placements simulated so far.
    pub fn simulated(&self) -> usize {
        self.known.len()
    }

    /// Whether there is nothing left to simulate with.
    fn is_exhausted(&self) -> bool {
        self.effort_left == 0 && self.known.len() >= (self.effort / A_PLACEMENT).max(1)
    }

    /// What a placement takes.
    pub fn taken(&self, placement: &Placement) -> Taken {
        let count =
            |has: &dyn Fn(&LayerPlacement) -> bool| placement.layers.iter().filter(|at| has(at)).count();
        let counts = (
            [placement.weight_slots + placement.residents(), placement.slabs, placement.sweeps],
            placement.grad_wait,
            Recompute::ALL.map(|recompute| count(&|layer| layer.recompute == recompute)),
            [
                count(&|layer| layer.boundary == Boundary::Kept),
                count(&|layer| layer.accumulator == Accumulator::OnDevice),
            ],
        );
        *self.taken.borrow_mut().entry(counts).or_insert_with(|| {
            let Question { config, layout, micros, .. } = self.question;
            let policy = self.question.policy(placement.clone());
            let plan = Plan::of(config, layout, self.passes.clone(), policy, micros);
            let plan = plan.expect("the question was checked");
            (plan.device.bytes(), plan.host.bytes())
        })
    }

    /// Whether a placement fits.
    pub fn fits(&self, placement: &Placement) -> bool {
        let (device, host) = self.taken(placement);
        self.question.fits(device, host)
    }

    /// A placement that fits and can be built, with its least time; nothing new once the effort is spent and something
    /// has been found.
    pub fn candidate(&mut self, placement: Placement) -> Option<Candidate> {
        let least_ns = match self.bounds.get(&placement) {
            Some(known) => *known,
            None if self.effort_left == 0 && !self.known.is_empty() => return None,
            None => {
                let least = if self.fits(&placement) { self.least_ns(&placement) } else { None };
                self.bounds.insert(placement.clone(), least);
                least
            }
        };
        least_ns.map(|least_ns| Candidate { placement, least_ns })
    }

    fn least_ns(&mut self, placement: &Placement) -> Option<u64> {
        let (policy, mut busy) = (self.question.policy(placement.clone()), [0; Lane::COUNT]);
        let list = schedule::train_rows_first(&policy, &self.geometry, self.question.micros).ok()?;
        let Question { layout, micros, .. } = self.question;
        let cost = Cost::of(layout, &self.passes, Cow::Borrowed(&self.works), &policy, micros);
        for operation in &list.operations {
            busy[operation.lane().at()] += self.ns(&cost, operation);
        }
        self.spend(list.operations.len() / OF_A_RUN);
        busy.into_iter().max()
    }

    /// The score of a candidate; nothing once the effort is spent.
    pub fn score(&mut self, candidate: &Candidate) -> Option<Score> {
        if let Some(score) = self.known.get(&candidate.placement) {
            return Some(*score);
        }
        if self.is_exhausted() {
            return None;
        }
        let policy = self.question.policy(candidate.placement.clone());
        let list = schedule::train_rows_first(&policy, &self.geometry, self.question.micros).ok()?;
        let Question { layout, machine, micros, .. } = self.question;
        let cost = Cost::of(layout, &self.passes, Cow::Borrowed(&self.works), &policy, micros);
        let lanes = machine.simulator(policy.mode);
        let steady = Steady::run(&self.geometry, &list, lanes, |operation| self.ns(&cost, operation));
        self.spend((STEPS_BEFORE + 1) * list.operations.len());
        let (device, host) = self.taken(&candidate.placement);
        let score = Score { step_ns: steady.step_ns(), bytes: device + host };
        self.known.insert(candidate.placement.clone(), score);
        Some(score)
    }

    /// The time of an operation; that of passes is known.
    fn ns(&self, cost: &Cost, operation: &Operation) -> u64 {
        match operation.pass() {
            Some(pass) => self.pass_ns[self.passes.number(pass)],
            None => cost.ns(self.question.machine, operation),
        }
    }

    fn spend(&mut self, operations: usize) {
        self.effort_left = self.effort_left.saturating_sub(operations);
    }
}
