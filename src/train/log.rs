//! The log of a run.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::base::{Error, Result, RunId, Status};
use crate::host::folder::sync_parent;
use crate::host::input;
use crate::train::metrics::StepRecord;

/// Longest line that can be a record.
const LINE_BYTES_MAX: u64 = 1 << 16;

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    run: RunId,
    #[serde(flatten)]
    record: &'a StepRecord,
}

/// The fields by which a line is recognized as a record. Earlier versions wrote no `run`.
#[derive(Deserialize)]
struct Found {
    run: Option<RunId>,
    step: u64,
    #[serde(rename = "loss")]
    _loss: f64,
    #[serde(rename = "grad_norm")]
    _grad_norm: f64,
}

/// The log: a file with one JSON object per line, written after every step.
///
/// Earlier records that the run does not continue are removed when its first record is written: a
/// run that fails before loses no log. The file is locked while it is open.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    run: RunId,
    /// Bytes of complete lines that are kept; `None` for a pipe or a terminal.
    complete: Option<u64>,
    /// True once the file ends after these lines.
    is_cut: bool,
}

impl Log {
    /// Checks in advance, without changing anything, that [`Log::open`] accepts the file.
    pub fn check(path: &Path, run: RunId, after: Option<u64>) -> Result<()> {
        if !path.exists() || is_stream(path) {
            return Ok(());
        }
        let file = input::InputFile::open(path)?.into_file();
        kept(&file, path, run, after).map(drop)
    }

    /// Opens the log of a run that begins, or resumes after the step `after`. A run that begins
    /// replaces an earlier log. One that resumes continues its own: records of later steps are
    /// replaced.
    ///
    /// Errors: the file cannot be written; it is another kind of file (`BadFormat`); a resumed run
    /// finds the log of another run, or a run writes to it now (`InvalidState`).
    pub fn open(path: &Path, run: RunId, after: Option<u64>) -> Result<Log> {
        let cannot = |error: io::Error| Error::io(format!("cannot write the log {}", path.display()), &error);
        let is_stream = is_stream(path);
        let mut options = File::options();
        options.read(!is_stream).write(true).create(!is_stream).truncate(false);
        let file = options.custom_flags(OFlag::O_NOCTTY.bits()).open(path).map_err(cannot)?;
        if is_stream {
            return Ok(Log { path: path.to_owned(), file, run, complete: None, is_cut: true });
        }
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::new(
                Status::InvalidState,
                format!("another run writes the log {}; give another file", path.display()),
            ));
        }
        let complete = Some(kept(&file, path, run, after)?);
        Ok(Log { path: path.to_owned(), file, run, complete, is_cut: false })
    }

    /// Returns true if a file is the log of this run, or empty.
    pub fn is_of(path: &Path, run: RunId) -> bool {
        Log::check(path, run, Some(0)).is_ok()
    }

    /// Appends a record. After an error the file ends with the previous record.
    pub fn write(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = serde_json::to_vec(&Line { run: self.run, record })
            .map_err(|error| Error::internal(error.to_string()))?;
        line.push(b'\n');
        self.append(&line)
            .map_err(|error| Error::io(format!("cannot write the log {}", self.path.display()), &error))
    }

    /// Syncs the records and the name of the file to disk.
    pub fn sync(&self) -> Result<()> {
        if self.complete.is_none() {
            return Ok(());
        }
        let synced = self.file.sync_all().and_then(|()| sync_parent(&self.path));
        synced.map_err(|error| Error::io(format!("cannot write the log {}", self.path.display()), &error))
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(complete) = &mut self.complete else { return self.file.write_all(line) };
        if !self.is_cut {
            self.file.set_len(*complete)?;
            self.is_cut = true;
        }
        self.file.write_all_at(line, *complete).inspect_err(|_| {
            let _ = self.file.set_len(*complete);
        })?;
        *complete += line.len() as u64;
        Ok(())
    }
}

/// True for a terminal, or a pipe that the shell has opened, as in `--log >(command)`.
fn is_stream(path: &Path) -> bool {
    path.starts_with("/dev") && path.metadata().is_ok_and(|facts| !facts.is_file() && !facts.is_dir())
}

/// Returns the bytes of the records that a run continues: those of this run up to the step `after`.
///
/// Errors: the first line is no record (`BadFormat`), or the run resumes and it is another run's
/// (`InvalidState`).
fn kept(file: &File, path: &Path, run: RunId, after: Option<u64>) -> Result<u64> {
    let (mut complete, mut line, mut lines) = (0, Vec::new(), BufReader::new(file));
    loop {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| Error::reading(path, &error))? == 0 {
            return Ok(complete);
        }
        let is_first = complete == 0;
        match (serde_json::from_slice::<Found>(&line), after) {
            (Ok(found), Some(after)) if found.run == Some(run) => {
                // A killed process may have left an incomplete last line.
                if found.step > after || !line.ends_with(b"\n") {
                    return Ok(complete);
                }
                complete += line.len() as u64;
            }
            (Ok(_), Some(_)) if is_first => {
                return Err(Error::new(
                    Status::InvalidState,
                    format!(
                        "{} is the log of another run than that of the checkpoint; give another file",
                        path.display()
                    ),
                ));
            }
            (Err(_), _) if is_first && !begins_record(&line, after.map(|_| run)) => {
                return Err(Error::new(
                    Status::BadFormat,
                    format!("{} is not the log of a run; give another file", path.display()),
                ));
            }
            _ => return Ok(complete),
        }
    }
}

/// True for the incomplete first record of a run, or of any run.
fn begins_record(line: &[u8], run: Option<RunId>) -> bool {
    let id = line.strip_prefix(b"{\"run\":\"").and_then(|rest| rest.get(..32));
    let id = id.and_then(|id| RunId::parse(str::from_utf8(id).ok()?));
    !line.ends_with(b"\n") && id.is_some_and(|id| run.is_none_or(|run| id == run))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::device::Lane;

    fn id(bits: u128) -> RunId {
        RunId::from_bits(bits)
    }

    fn record(step: u64) -> StepRecord {
        StepRecord {
            step,
            loss: 5.5,
            grad_norm: 2.0,
            lr: 1e-3,
            tokens: 512,
            epoch: 0.25,
            step_seconds: 0.5,
            data_seconds: 0.0,
            tokens_per_second: 1024.0,
            tflops: 0.01,
            rss_bytes: 0,
            predicted_step_seconds: None,
            lanes: Default::default(),
            val_loss: None,
        }
    }

    /// The lines of a run with these steps.
    fn lines(run: u128, steps: &[u64]) -> String {
        let line = |step: &u64| {
            serde_json::to_string(&Line { run: id(run), record: &record(*step) }).unwrap() + "\n"
        };
        steps.iter().map(line).collect()
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = Log::open(&path, id(10), None).unwrap();
        let mut record = record(1);
        record.lanes[Lane::Compute.at()].busy_seconds = 0.25;
        log.write(&record).unwrap();
        record.val_loss = Some(5.25);
        log.write(&record).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            concat!(
                r#"{"run":"0000000000000000000000000000000a","step":1,"loss":5.5,"grad_norm":2.0,"lr":0.001,"#,
                r#""tokens":512,"epoch":0.25,"step_seconds":0.5,"#,
                r#""data_seconds":0.0,"tokens_per_second":1024.0,"tflops":0.01,"rss_bytes":0,"lanes":{"#,
                r#""compute":{"busy_seconds":0.25},"h2d":{"busy_seconds":0.0},"d2h":{"busy_seconds":0.0},"#,
                r#""host":{"busy_seconds":0.0},"disk":{"busy_seconds":0.0}}}"#
            )
        );
        assert!(lines[1].ends_with(r#""val_loss":5.25}"#) && lines.len() == 2);
        assert!(Log::open(dir.path(), id(10), None).is_err());
    }

    /// The file before, the step after which run 1 resumes, and the file once it wrote another.
    #[test]
    fn only_the_first_record_replaces_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let full = lines(1, &[1, 2, 3]);
        let old = "{\"step\":1,\"loss\":2.0,\"grad_norm\":1.5}\n";
        for (before, after, kept) in [
            (full.clone(), Some(2), &[1, 2][..]),
            (full.clone(), Some(9), &[1, 2, 3]),
            (full.clone(), Some(0), &[]),
            (full[..full.len() - 1].to_owned(), Some(3), &[1, 2]),
            (full[..full.len() - 6].to_owned(), Some(3), &[1, 2]),
            (full[..100].to_owned(), Some(3), &[]),
            (lines(1, &[4]), Some(3), &[]),
            (lines(1, &[1]) + &lines(2, &[2]), Some(3), &[1]),
            (String::new(), Some(3), &[]),
            (lines(2, &[1, 2]), None, &[]),
            (lines(2, &[1])[..100].to_owned(), None, &[]),
            (old.to_owned(), None, &[]),
        ] {
            fs::write(&path, &before).unwrap();
            Log::check(&path, id(1), after).unwrap();
            let mut log = Log::open(&path, id(1), after).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), before, "nothing is lost before a record");
            log.write(&record(7)).unwrap();
            let want = lines(1, kept) + &lines(1, &[7]);
            assert_eq!(fs::read_to_string(&path).unwrap(), want, "{before} after {after:?}");
        }
        for (before, after, word) in [
            ("another file\n", None, "not the log of a run"),
            ("another file\n", Some(1), "not the log of a run"),
            ("{\"step\":1,\"text\":\"a row of data\"}\n", None, "not the log of a run"),
            ("{\"run\":\"of data", None, "not the log of a run"),
            (&"x".repeat(1 << 17), None, "not the log of a run"),
            (&lines(2, &[1]), Some(1), "the log of another run"),
            (&lines(2, &[1])[..100], Some(1), "not the log of a run"),
            (old, Some(1), "the log of another run"),
        ] {
            fs::write(&path, before).unwrap();
            let error = Log::open(&path, id(1), after).unwrap_err();
            assert!(error.message().contains(word), "{error}");
            assert_eq!(Log::check(&path, id(1), after).unwrap_err(), error);
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
        }
        assert!(Log::is_of(&dir.path().join("none"), id(1)));
    }

    #[test]
    fn a_log_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let log = Log::open(&path, id(1), None).unwrap();
        let error = Log::open(&path, id(2), None).unwrap_err();
        assert!(error.message().contains("another run writes the log"), "{error}");
        drop(log);
        Log::open(&path, id(2), None).unwrap();
    }

    #[test]
    fn a_device_is_written_to_and_a_named_pipe_refused() {
        let mut log = Log::open(Path::new("/dev/null"), id(1), None).unwrap();
        log.write(&record(1)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Log::check(&path, id(1), None).unwrap_err().message().contains("named pipe"));
    }
}
