//! Trials of placements: memory, lower bounds of the step time, simulations.

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

/// The score of a placement, less is better: step time, then memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    pub step_ns: u64,
    pub bytes: usize,
}

/// A placement that fits but has not been simulated.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub placement: Placement,
    /// Lower bound of the step time: the work of the busiest lane.
    pub least_ns: u64,
}

/// Summing the work of a list costs as much as simulating this fraction of its operations.
const SUM_DIVISOR: usize = 6;

/// A search simulates at least effort / `PLACEMENT_EFFORT` placements, even if their lists exceed
/// the effort.
const PLACEMENT_EFFORT: usize = 150_000;

/// The placements tried so far.
pub struct Trials<'a> {
    pub question: Question<'a>,
    geometry: Geometry,
    passes: Arc<Passes>,
    works: Vec<Work>,
    pass_ns: Vec<u64>,
    known: FxHashMap<Placement, Score>,
    /// Lower bounds of the step time; `None` for placements that do not fit.
    bounds: FxHashMap<Placement, Option<u64>>,
    /// Memory of placements, by the counts that determine it.
    taken: RefCell<FxHashMap<Counts, Taken>>,
    effort: usize,
    effort_left: usize,
}

/// Bytes on the device and on the host.
pub type Taken = (usize, usize);

/// The counts that determine memory: slots with residents, slabs and sweeps; the place of waiting
/// gradients; layers by saved activations; layers with a kept boundary, and with an accumulator of
/// their own.
type Counts = ([usize; 3], GradWait, [usize; Recompute::ALL.len()], [usize; 2]);

impl<'a> Trials<'a> {
    /// Errors: the question has no answer under any memory limit; those of [`Plan::new`].
    pub fn new(question: Question<'a>, effort: usize) -> Result<Self> {
        let sweeps = question.fixed.sweeps.unwrap_or(1);
        let (fixed, least) = (question.fixed, Placement::default());
        let (weight_slots, slabs) =
            (fixed.weight_slots.unwrap_or(least.weight_slots), fixed.slabs.unwrap_or(least.slabs));
        let plan = question.plan(Placement { sweeps, weight_slots, slabs, ..least.clone() })?;
        // Fixed options must be valid; the time of AdamW is checked for every candidate.
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

    /// Number of placements simulated so far.
    pub fn simulated(&self) -> usize {
        self.known.len()
    }

    /// True if the effort is spent and enough placements are simulated; see [`PLACEMENT_EFFORT`].
    fn is_exhausted(&self) -> bool {
        self.effort_left == 0 && self.known.len() >= (self.effort / PLACEMENT_EFFORT).max(1)
    }

    /// The memory of a placement.
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
            let plan = plan.expect("the question is valid");
            (plan.device.bytes(), plan.host.bytes())
        })
    }

    /// True if a placement fits.
    pub fn fits(&self, placement: &Placement) -> bool {
        let (device, host) = self.taken(placement);
        self.question.fits(device, host)
    }

    /// The candidate of a placement that fits and can be built; `None` otherwise. Also `None` for
    /// new placements once the effort is spent, if one has been simulated.
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
        self.spend(list.operations.len() / SUM_DIVISOR);
        busy.into_iter().max()
    }

    /// The score of a candidate; `None` once the effort is spent.
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

    /// The time of an operation; those of passes are precomputed.
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
