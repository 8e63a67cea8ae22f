//! The record of a traced trainer: issued lists and finished tasks.

use std::io::{self, Write};

use crate::device::{TaskSpan, Tick};
use crate::engine::runner::Runner;
use crate::engine::task::Task;
use crate::plan::Machine;
use crate::schedule::{self, Label, Note, Process, Synced};

/// A list as it was issued.
#[derive(Debug)]
pub struct Issued {
    /// The list's number.
    pub list: u32,
    /// Ticks and waits of its operations.
    pub waits: Synced,
    /// The tick that the calling thread reached before it continued, if any.
    pub reached: Option<Tick>,
}

/// Everything since the lanes were opened.
#[derive(Debug, Default)]
pub struct Record {
    /// The lists, in order.
    pub lists: Vec<Issued>,
    /// Tasks of the lanes. Lanes keep a limited number, so early ones may be missing.
    pub spans: Vec<TaskSpan>,
    /// Marked work of the calling thread.
    pub notes: Vec<Note>,
}

impl Record {
    /// Writes the trace. With a machine, also simulates the same lists on it.
    pub fn write(&self, runner: &Runner, machine: Option<&Machine>, to: &mut impl Write) -> io::Result<()> {
        let waits = Synced::waits_by_tick(self.lists.iter().map(|issued| &issued.waits));
        let cost = runner.cost();
        let label = |span: &TaskSpan| {
            let operation = runner.lists.operation(Task::unpack(span.task));
            let waits = waits.get(&span.tick()).copied().unwrap_or(&[]);
            Some(Label { operation, bytes: cost.wire_bytes(&operation), waits })
        };
        let simulated = machine.map(|machine| self.simulate(runner, machine));
        let mut processes =
            vec![Process { name: "measured", spans: &self.spans, notes: &self.notes, label: &label }];
        if let Some(spans) = &simulated {
            processes.push(Process { name: "simulated", spans, notes: &[], label: &label });
        }
        schedule::write_trace(&processes, to)
    }

    /// Simulates the lists. Virtual time begins at the start of the first measured task.
    fn simulate(&self, runner: &Runner, machine: &Machine) -> Vec<TaskSpan> {
        let (cost, mut simulator) = (runner.cost(), machine.simulator(runner.plan.policy.mode));
        let origin_ns = self.spans.iter().map(|span| span.start_ns).min().unwrap_or(0);
        let mut runs = Vec::new();
        for issued in &self.lists {
            let list = runner.lists.numbered(issued.list);
            let run = simulator.issue(list, &issued.waits, |operation| cost.ns(machine, operation));
            issued.reached.into_iter().for_each(|tick| simulator.reach(tick));
            runs.push((issued.list, run));
        }
        simulator.finish();
        let mut spans = Vec::new();
        for (list, run) in runs {
            spans.extend(simulator.simulation(run).spans.iter().map(|span| TaskSpan {
                task: Task { list, step_state: 0, operation: span.task as u32 }.pack(),
                ready_ns: origin_ns + span.ready_ns,
                start_ns: origin_ns + span.start_ns,
                end_ns: origin_ns + span.end_ns,
                ..*span
            }));
        }
        spans
    }
}
