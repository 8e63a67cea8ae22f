//! What the lanes did, for people and for programs.

use std::io::{self, BufWriter};
use std::time::Instant;

use super::Trainer;
use crate::base::{Error, Result, Status};
use crate::device::TaskSpan;
use crate::engine::record::Record;
use crate::engine::runner::Runner;
use crate::engine::task::Task;
use crate::plan::Machine;
use crate::schedule::{Note, Operation};

impl Trainer {
    /// Writes what every lane did so far in Chrome trace format, which Perfetto opens. Waits for the lanes.
    /// Refused unless the trainer was opened with tracing.
    pub fn trace(&mut self, out: &mut dyn io::Write) -> Result<()> {
        self.write_trace(None, out)
    }

    /// As [`Trainer::trace`], and beside it what the same lists would do on a machine, from the same start.
    #[doc(hidden)]
    pub fn trace_beside(&mut self, machine: &Machine, out: &mut dyn io::Write) -> Result<()> {
        self.write_trace(Some(machine), out)
    }

    /// What every lane did so far, task by task. Waits for the lanes. Refused unless the trainer was opened with
    /// tracing.
    #[doc(hidden)]
    pub fn spans(&mut self) -> Result<Vec<(Operation, TaskSpan)>> {
        let operation = |runner: &Runner, span: &TaskSpan| runner.lists.operation(Task::unpack(span.task));
        self.sync()?;
        let spans = &self.record()?.spans;
        Ok(spans.iter().map(|span| (operation(&self.runner, span), *span)).collect())
    }

    /// Marks in the trace what the calling thread did from one instant to another; nothing without tracing.
    #[doc(hidden)]
    pub fn mark(&mut self, name: &'static str, start: Instant, end: Instant) {
        if let (Some(record), Some(origin)) = (&mut self.record, self.lanes.origin()) {
            let ns = |at: Instant| at.saturating_duration_since(origin).as_nanos() as u64;
            record.notes.push(Note { name, start_ns: ns(start), end_ns: ns(end) });
        }
    }

    fn record(&self) -> Result<&Record> {
        self.record.as_ref().ok_or_else(|| {
            Error::new(Status::InvalidState, "nothing was recorded: open the trainer with tracing on")
        })
    }

    fn write_trace(&mut self, machine: Option<&Machine>, out: &mut dyn io::Write) -> Result<()> {
        self.sync()?;
        self.record()?
            .write(&self.runner, machine, &mut BufWriter::new(out))
            .map_err(|error| Error::io("cannot write the trace", &error))
    }
}
