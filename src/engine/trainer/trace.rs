//! Traces: the recorded tasks of all lanes.

use std::io::{self, BufWriter};
use std::time::Instant;

use super::Trainer;
use crate::base::{Error, Name, Result, Status};
use crate::device::TaskSpan;
use crate::engine::record::Record;
use crate::engine::runner::Runner;
use crate::engine::task::Task;
use crate::plan::Machine;
use crate::schedule::{Note, Operation};

impl Trainer {
    /// Writes all recorded tasks in Chrome trace format, for Perfetto. Waits for all lanes.
    ///
    /// Errors: the trainer was opened without
    /// [`tracing`](crate::engine::TrainerOptions::tracing) (`InvalidState`).
    pub fn trace(&mut self, out: &mut dyn io::Write) -> Result<()> {
        self.write_trace(None, out)
    }

    /// Like [`Trainer::trace`], with a simulation of the same lists on a machine next to it.
    #[doc(hidden)]
    pub fn trace_beside(&mut self, machine: &Machine, out: &mut dyn io::Write) -> Result<()> {
        self.write_trace(Some(machine), out)
    }

    /// All recorded tasks. Waits for all lanes.
    ///
    /// Errors: the trainer was opened without tracing (`InvalidState`).
    #[doc(hidden)]
    pub fn spans(&mut self) -> Result<Vec<(Operation, TaskSpan)>> {
        let operation = |runner: &Runner, span: &TaskSpan| runner.lists.operation(Task::unpack(span.task));
        self.sync()?;
        let spans = &self.record()?.spans;
        Ok(spans.iter().map(|span| (operation(&self.runner, span), *span)).collect())
    }

    /// Adds an interval of the calling thread to the trace. Does nothing without tracing.
    #[doc(hidden)]
    pub fn mark(&mut self, name: &'static str, start: Instant, end: Instant) {
        if let (Some(record), Some(origin)) = (&mut self.record, self.lanes.origin()) {
            let ns = |at: Instant| at.saturating_duration_since(origin).as_nanos() as u64;
            record.notes.push(Note { name, start_ns: ns(start), end_ns: ns(end) });
        }
    }

    fn record(&self) -> Result<&Record> {
        self.record.as_ref().ok_or_else(|| {
            let message = format!("nothing was recorded: the trainer was opened without {}", Name::Tracing);
            Error::new(Status::InvalidState, message)
        })
    }

    fn write_trace(&mut self, machine: Option<&Machine>, out: &mut dyn io::Write) -> Result<()> {
        self.sync()?;
        self.record()?
            .write(&self.runner, machine, &mut BufWriter::new(out))
            .map_err(|error| Error::io("cannot write the trace", &error))
    }
}
