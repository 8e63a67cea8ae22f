//! A step as it would run on a machine: the plan's own list in virtual time.

use std::io;

use crate::base::{Error, Result};
use crate::device::{Lane, TaskSpan};
use crate::model::Layout;
use crate::plan::{Cost, Machine, Plan};
use crate::schedule::{
    self, Geometry, Label, List, Operation, Peak, Process, Simulation, Simulator, Sync, Synced, Usage,
};

/// A step in the midst of many like it.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The step's operations.
    pub list: List,
    /// When they would happen; the task of a span is its position in the list.
    pub spans: Vec<TaskSpan>,
    /// From the decision of the step before to this step's, which is from step to step.
    pub step_ns: u64,
    /// What each lane does in that time.
    pub lanes: [Usage; Lane::COUNT],
    /// The operations that the decision had to wait for one behind the other, as positions in the list.
    pub critical: Vec<usize>,
    /// Device memory by category.
    pub memory: Vec<Peak>,
}

/// A list that follows itself, looked at once its beginning is forgotten.
pub(super) struct Steady {
    simulator: Simulator,
    /// The decision before the last one.
    pub from_ns: u64,
    /// The last decision.
    pub to_ns: u64,
    /// Where in the list the decision is.
    pub decide: usize,
    /// What the operations waited for, run by run.
    synced: Vec<Synced>,
}

/// Steps before the one that is looked at: the first has no AdamW before it, the second follows the first.
pub(super) const STEPS_BEFORE: usize = 2;

impl Steady {
    /// Runs a training step behind others like it, on lanes that have just been opened.
    pub fn run(
        geometry: &Geometry,
        list: &List,
        mut simulator: Simulator,
        cost_ns: impl Fn(&Operation) -> u64,
    ) -> Steady {
        let decide =
            list.operations.iter().position(|operation| matches!(operation, Operation::DecideClip { .. }));
        let decide = decide.expect("a training step decides");
        let mut sync = Sync::new(geometry);
        let mut decided_ns = [0; STEPS_BEFORE + 1];
        let mut all = Vec::with_capacity(decided_ns.len());
        for at in &mut decided_ns {
            let synced = sync.infer(list);
            simulator.issue(list, &synced, &cost_ns);
            let ticks = [synced.tick(decide)];
            simulator.reach(ticks[0]);
            sync.settle(&ticks);
            *at = simulator.caller_ns();
            all.push(synced);
        }
        simulator.finish();
        let [.., from_ns, to_ns] = decided_ns;
        Steady { simulator, from_ns, to_ns, decide, synced: all }
    }

    /// The last run of the list.
    pub fn last(&self) -> &Simulation {
        self.simulator.simulation(STEPS_BEFORE)
    }

    /// The spans of all runs.
    pub fn spans(&self) -> Vec<TaskSpan> {
        (0..=STEPS_BEFORE).flat_map(|run| self.simulator.simulation(run).spans.iter().copied()).collect()
    }

    /// From decision to decision.
    pub fn step_ns(&self) -> u64 {
        self.to_ns - self.from_ns
    }
}

impl Plan {
    /// A training step of `micros` micro-batches as it would run on a machine, when steps follow one another and the tokens
    /// of each are known before the one before it ends, as in `horizon train`.
    ///
    /// Errors: what the policy's validation refuses.
    pub fn predict(&self, layout: &Layout, machine: &Machine, micros: usize) -> Result<Prediction> {
        let cost = self.cost(layout, micros);
        let (list, steady) = self.steady(&cost, machine, micros)?;
        let Steady { from_ns, to_ns, decide, .. } = steady;
        let last = steady.last();
        Ok(Prediction {
            step_ns: steady.step_ns(),
            lanes: schedule::usage(&steady.spans(), from_ns, to_ns),
            critical: last.path_to(Some(decide)),
            memory: schedule::peaks(&self.geometry, &list, last, |resource| self.device.footprint(resource)),
            spans: last.spans.clone(),
            list,
        })
    }

    /// Writes that step, and those before it that fill the lanes, as a trace whose one process is `simulated`.
    ///
    /// Errors: as [`Plan::predict`]; those of `to`, into which nothing is buffered here.
    pub fn write_trace(
        &self,
        layout: &Layout,
        machine: &Machine,
        micros: usize,
        to: &mut impl io::Write,
    ) -> Result<()> {
        let cost = self.cost(layout, micros);
        let (list, steady) = self.steady(&cost, machine, micros)?;
        let waits = Synced::waits_by_tick(&steady.synced);
        let label = |span: &TaskSpan| {
            let operation = list.operations[span.task as usize];
            let waits = waits.get(&span.tick()).copied().unwrap_or(&[]);
            Some(Label { operation, bytes: cost.wire_bytes(&operation), waits })
        };
        let simulated = Process { name: "simulated", spans: &steady.spans(), notes: &[], label: &label };
        schedule::write_trace(&[simulated], to).map_err(|error| Error::io("cannot write the trace", &error))
    }

    /// A step's list, and how it runs behind others like it.
    fn steady(&self, cost: &Cost, machine: &Machine, micros: usize) -> Result<(List, Steady)> {
        let list = schedule::train_rows_first(&self.policy, &self.geometry, micros)?;
        let lanes = machine.simulator(self.policy.mode);
        let steady = Steady::run(&self.geometry, &list, lanes, |operation| cost.ns(machine, operation));
        Ok((list, steady))
    }
}
