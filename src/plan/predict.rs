//! A step as it would run on a machine: the plan's own list in virtual time.

use crate::base::{DType, Result};
use crate::device::{Lane, TaskSpan};
use crate::model::{Layout, ModelConfig};
use crate::plan::{Cost, Machine, Plan};
use crate::schedule::{self, List, Operation, Peak, Simulator, Sync, Usage};

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

/// Steps before the one that is looked at: the first has no AdamW before it, the second follows the first.
const STEPS_BEFORE: usize = 2;

impl Plan {
    /// A training step of `micros` micro-batches as it would run on a machine, when steps follow one another.
    ///
    /// Errors: what the policy's validation refuses.
    pub fn predict(
        &self,
        config: &ModelConfig,
        layout: &Layout,
        storage: DType,
        machine: &Machine,
        micros: usize,
    ) -> Result<Prediction> {
        let cost = Cost::new(config, layout, &self.policy, storage);
        let list = schedule::train(&self.policy, &self.geometry, micros)?;
        let decide =
            list.operations.iter().position(|operation| matches!(operation, Operation::Decide { .. }));
        let decide = decide.expect("a training step decides");
        let (mut sync, mut simulator) = (Sync::new(&self.geometry), Simulator::new());
        let (mut spans, mut from_ns) = (Vec::new(), 0);
        for _ in 0..STEPS_BEFORE {
            let synced = sync.infer(&list);
            let run = simulator.run(&list, &synced, |operation| cost.ns(machine, operation));
            spans.extend(run.spans);
            let ticks = [synced.tick(decide)];
            simulator.reach(ticks[0]);
            sync.settle(&ticks);
            from_ns = simulator.caller_ns();
        }
        let run = simulator.run(&list, &sync.infer(&list), |operation| cost.ns(machine, operation));
        spans.extend(&run.spans);
        let to_ns = run.spans[decide].end_ns;
        Ok(Prediction {
            step_ns: to_ns - from_ns,
            lanes: schedule::usage(&spans, from_ns, to_ns),
            critical: run.path_to(Some(decide)),
            memory: schedule::peaks(&self.geometry, &list, &run, |resource| self.device.footprint(resource)),
            spans: run.spans,
            list,
        })
    }
}
