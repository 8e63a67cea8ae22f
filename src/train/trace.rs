//! The trace of a run: a Chrome trace with the run's id.

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, RunId};
use crate::engine::Trainer;
use crate::host::folder::{check_output, check_own, create_folder_of, is_stream, write_output};
use crate::plan::Machine;

/// The object form of a Chrome trace; viewers ignore `run`.
const RUN: &str = "{\"run\":\"";
const EVENTS: &str = "\",\n\"traceEvents\":";
/// The beginning of the array form, as plans and earlier versions write it.
const ARRAY: &str = "[\n{\"name\":\"process_name\",";

/// A file for a trace, which replaces an earlier trace when the run has ended.
#[derive(Debug)]
pub struct TraceFile(PathBuf);

impl TraceFile {
    /// Checks, without changing anything, that the file is new, empty, a trace or a device.
    pub fn check(path: &Path) -> Result<()> {
        check_own(path, "a trace", (RUN.len() + 32 + EVENTS.len()) as u64, is_trace)
    }

    /// Checks that the file can be written. Missing folders are created.
    pub fn plan(path: &Path) -> Result<TraceFile> {
        TraceFile::check(path)?;
        if !is_stream(path) {
            create_folder_of(path)?;
        }
        check_output(path)?;
        Ok(TraceFile(path.to_owned()))
    }

    /// Writes the trace, measured and, with a machine, simulated.
    ///
    /// Errors, which name the file: it cannot be written; an earlier one is then unchanged.
    pub fn write(&self, run: RunId, trainer: &mut Trainer, simulated: Option<&Machine>) -> Result<()> {
        TraceFile::check(&self.0)?;
        let cannot = |error| Error::writing(&self.0, &error);
        write_output(&self.0, |mut file| {
            write!(file, "{RUN}{run}{EVENTS}").map_err(cannot)?;
            match simulated {
                Some(machine) => trainer.trace_beside(machine, &mut file),
                None => trainer.trace(&mut file),
            }
            .map_err(|error| error.within(self.0.display()))?;
            file.write_all(b"}\n").map_err(cannot)
        })
    }
}

fn is_trace(beginning: &[u8]) -> bool {
    let of_run = beginning.strip_prefix(RUN.as_bytes()).and_then(|rest| rest.split_at_checked(32));
    let is_id = |id| str::from_utf8(id).is_ok_and(|id| RunId::parse(id).is_some());
    beginning.starts_with(ARRAY.as_bytes())
        || of_run.is_some_and(|(id, rest)| is_id(id) && rest == EVENTS.as_bytes())
}
