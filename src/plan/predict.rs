//! Simulates a step on a machine: the plan's own list in virtual time.

use std::io;

use crate::base::{Error, Result};
use crate::device::{Lane, TaskSpan};
use crate::model::Layout;
use crate::plan::{Cost, Machine, Plan};
use crate::schedule::{
    self, Geometry, Label, List, Operation, Peak, Process, Simulation, Simulator, Sync, Synced, Usage,
};

/// A simulated step among many equal ones (steady state).
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The step's operations.
    pub list: List,
    /// The spans of the operations; the task of a span is its position in the list.
    pub spans: Vec<TaskSpan>,
    /// Step time: from the previous step's clip decision to this step's.
    pub step_ns: u64,
    /// The use of each lane in that time.
    pub lanes: [Usage; Lane::COUNT],
    /// The critical path of the clip decision: each operation waited for the one before. Positions
    /// in the list.
    pub critical: Vec<usize>,
    /// Peak device memory by category.
    pub memory: Vec<Peak>,
}

/// A list repeated until its beginning no longer matters.
pub(super) struct Steady {
    simulator: Simulator,
    /// Time of the clip decision before the last.
    pub from_ns: u64,
    /// Time of the last clip decision.
    pub to_ns: u64,
    /// Position of the clip decision in the list.
    pub clip_decision: usize,
    /// The waits of each repetition.
    synced: Vec<Synced>,
}

/// Steps simulated before the measured one: the first has no AdamW before it, the second follows
/// such a step.
pub(super) const STEPS_BEFORE: usize = 2;

impl Steady {
    /// Simulates a training step after others like it, on lanes that have just been opened.
    pub fn run(
        geometry: &Geometry,
        list: &List,
        mut simulator: Simulator,
        cost_ns: impl Fn(&Operation) -> u64,
    ) -> Steady {
        let clip_decision =
            list.operations.iter().position(|operation| matches!(operation, Operation::ClipDecision { .. }));
        let clip_decision = clip_decision.expect("a training step has a clip decision");
        let mut sync = Sync::new(geometry);
        let mut decisions_ns = [0; STEPS_BEFORE + 1];
        let mut all = Vec::with_capacity(decisions_ns.len());
        for at in &mut decisions_ns {
            let synced = sync.infer(list);
            simulator.issue(list, &synced, &cost_ns);
            let ticks = [synced.tick(clip_decision)];
            simulator.reach(ticks[0]);
            sync.settle(&ticks);
            *at = simulator.caller_ns();
            all.push(synced);
        }
        simulator.finish();
        let [.., from_ns, to_ns] = decisions_ns;
        Steady { simulator, from_ns, to_ns, clip_decision, synced: all }
    }

    /// The last repetition of the list.
    pub fn last(&self) -> &Simulation {
        self.simulator.simulation(STEPS_BEFORE)
    }

    /// The spans of all repetitions.
    pub fn spans(&self) -> Vec<TaskSpan> {
        (0..=STEPS_BEFORE).flat_map(|run| self.simulator.simulation(run).spans.iter().copied()).collect()
    }

    /// Step time, from clip decision to clip decision.
    pub fn step_ns(&self) -> u64 {
        self.to_ns - self.from_ns
    }
}

impl Plan {
    /// Simulates a training step of `micros` micro-batches in a sequence of steps, where the tokens
    /// of each are known before the previous one ends, as in `horizon train`.
    ///
    /// Errors: those of [`Policy::validate`](schedule::Policy::validate).
    pub fn predict(&self, layout: &Layout, machine: &Machine, micros: usize) -> Result<Prediction> {
        let cost = self.cost(layout, micros);
        let (list, steady) = self.steady(&cost, machine, micros)?;
        let Steady { from_ns, to_ns, clip_decision, .. } = steady;
        let last = steady.last();
        Ok(Prediction {
            step_ns: steady.step_ns(),
            lanes: schedule::usage(&steady.spans(), from_ns, to_ns),
            critical: last.path_to(Some(clip_decision)),
            memory: schedule::peaks(&self.geometry, &list, last, |resource| self.device.footprint(resource)),
            spans: last.spans.clone(),
            list,
        })
    }

    /// Writes a trace of the step of [`Plan::predict`] and the steps before it. Its one process is
    /// named `simulated`.
    ///
    /// Errors: those of [`Plan::predict`]; those of `to`. Nothing is buffered here; pass a buffered
    /// writer.
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

    /// A step's list, and its simulation in steady state.
    fn steady(&self, cost: &Cost, machine: &Machine, micros: usize) -> Result<(List, Steady)> {
        let list = schedule::train_rows_first(&self.policy, &self.geometry, micros)?;
        let lanes = machine.simulator(self.policy.mode);
        let steady = Steady::run(&self.geometry, &list, lanes, |operation| cost.ns(machine, operation));
        Ok((list, steady))
    }
}
