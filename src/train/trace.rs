//! The trace of a run: a Chrome trace with the run's id.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, RunId, Status};
use crate::engine::Trainer;
use crate::host::folder::{check_replaceable, replace_file};
use crate::host::input::InputFile;
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
    /// Checks, without changing anything, that the file is new, empty or a trace.
    pub fn check(path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let mut beginning = Vec::new();
        let longest = RUN.len() + 32 + EVENTS.len();
        InputFile::open(path)?
            .into_file()
            .take(longest as u64)
            .read_to_end(&mut beginning)
            .map_err(|error| Error::reading(path, &error))?;
        if beginning.is_empty() || is_trace(&beginning) {
            return Ok(());
        }
        Err(Error::new(
            Status::BadFormat,
            format!("{} is not a trace, so a trace does not replace it; give another file", path.display()),
        ))
    }

    /// Checks that the file can be written.
    pub fn plan(path: &Path) -> Result<TraceFile> {
        TraceFile::check(path)?;
        check_replaceable(path)?;
        Ok(TraceFile(path.to_owned()))
    }

    /// Writes the trace, measured and, with a machine, simulated.
    ///
    /// Errors, which name the file: it cannot be written; an earlier one is then unchanged.
    pub fn write(&self, run: RunId, trainer: &mut Trainer, simulated: Option<&Machine>) -> Result<()> {
        TraceFile::check(&self.0)?;
        let cannot = |error| Error::writing(&self.0, &error);
        replace_file(&self.0, |mut file| {
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
