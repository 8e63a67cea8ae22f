//! The log of a run.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::base::{Error, Message, Result, RunId, Status};
use crate::host::files::try_lock;
use crate::host::folder::{create_folder_of, is_stream, open_stream, replaced_path, sync_parent};
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

/// The fields by which a line is recognized as a record. Earlier versions wrote no `run`; the first
/// three of the others are in logs of other programs, too.
#[derive(Deserialize)]
struct Found {
    run: Option<RunId>,
    step: u64,
    #[serde(rename = "loss")]
    _loss: f64,
    #[serde(rename = "grad_norm")]
    _grad_norm: f64,
    #[serde(rename = "tokens_per_second")]
    _tokens_per_second: f64,
    #[serde(rename = "tflops")]
    _tflops: f64,
    #[serde(rename = "rss_bytes")]
    _rss_bytes: u64,
}

/// The log: a file with one JSON object per line, written after every step.
///
/// A run that begins replaces an earlier log. One that resumes continues its own: of what is there,
/// it removes only its own records of later steps, and lines that a killed process left incomplete.
/// Both happen when the first record is written: a run that fails before loses no log. The file is
/// locked while it is open.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    run: RunId,
    /// Bytes that are kept; `None` for an open descriptor or a device.
    complete: Option<u64>,
    /// True once the file ends after these bytes.
    is_cut: bool,
    /// True if a line ends after these bytes.
    ends_line: bool,
    warning: Option<Message>,
}

impl Log {
    /// Checks in advance, without changing anything, that [`Log::open`] accepts the file.
    pub fn check(path: &Path, run: RunId, after: Option<u64>) -> Result<()> {
        if is_stream(path) {
            return Ok(());
        }
        replaced_path(path)?;
        match input::InputFile::open(path) {
            Ok(file) => Kept::of(&file.into_file(), path, run, after).map(drop),
            Err(error) if error.status() == Status::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens the log of a run that begins, or resumes after the step `after`. Missing folders are
    /// created. To a descriptor (`/dev/stdout`) and a character device, records are appended.
    ///
    /// Errors: the file cannot be written; it is another kind of file (`BadFormat`); a resumed run
    /// finds the log of another run, or lines of others behind its own records of later steps, or a
    /// run writes to it now (`InvalidState`).
    pub fn open(path: &Path, run: RunId, after: Option<u64>) -> Result<Log> {
        let cannot = |error: io::Error| Error::io(format!("cannot write the log {}", path.display()), &error);
        let log = |file, complete| Log {
            path: path.to_owned(),
            file,
            run,
            complete,
            is_cut: complete.is_none(),
            ends_line: true,
            warning: None,
        };
        if is_stream(path) {
            return Ok(log(open_stream(path).map_err(cannot)?, None));
        }
        create_folder_of(path)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.custom_flags(OFlag::O_NOCTTY.bits()).open(path).map_err(cannot)?;
        if let Ok(false) = try_lock(&file) {
            return Err(Error::new(
                Status::InvalidState,
                format!("another run writes the log {}; give another file", path.display()),
            ));
        }
        let kept = Kept::of(&file, path, run, after)?;
        let warning = kept.gap.map(|(last, next)| {
            Message::from(format!(
                "in the log {}, step {next} follows step {last}: it was changed since this run wrote it; the run \
                 continues it",
                path.display()
            ))
        });
        Ok(Log { ends_line: kept.ends_line, warning, ..log(file, Some(kept.bytes)) })
    }

    /// Takes the warning of a resumed run in whose log records are missing or repeated.
    pub fn take_warning(&mut self) -> Option<Message> {
        self.warning.take()
    }

    /// Returns true if a file is the log of this run, empty or missing. Errors: it cannot be read.
    pub fn is_of(path: &Path, run: RunId) -> Result<bool> {
        match Log::check(path, run, Some(u64::MAX)) {
            Err(error) if error.status() == Status::Io => Err(error),
            checked => Ok(checked.is_ok()),
        }
    }

    /// Appends a record. After an error the file ends with the previous record.
    pub fn write(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = if self.ends_line { Vec::new() } else { vec![b'\n'] };
        serde_json::to_writer(&mut line, &Line { run: self.run, record })
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
        self.ends_line = true;
        Ok(())
    }
}

/// The beginning of a log that a run keeps.
struct Kept {
    bytes: u64,
    /// False if the last line has no line break.
    ends_line: bool,
    /// The first two steps of this run that follow each other though they are not consecutive.
    gap: Option<(u64, u64)>,
}

impl Kept {
    /// Finds what a run that begins, or resumes after the step `after`, keeps of a log: of the
    /// lines of a run that resumes, those before its first record of a later step.
    ///
    /// Errors: the first line is no record (`BadFormat`); the run resumes and it is another run's, or
    /// a line that is not this run's is behind the first that is not kept (`InvalidState`).
    fn of(file: &File, path: &Path, run: RunId, after: Option<u64>) -> Result<Kept> {
        let mut kept = Kept { bytes: 0, ends_line: true, gap: None };
        let (mut line, mut lines) = (Vec::new(), BufReader::new(file));
        let (mut number, mut starts_line, mut is_cut, mut last) = (0, true, false, None);
        loop {
            line.clear();
            let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.map_err(|error| Error::reading(path, &error))? == 0 {
                break;
            }
            number += u64::from(starts_line);
            let found = serde_json::from_slice::<Found>(&line).ok().filter(|_| starts_line);
            if number == 1 && starts_line {
                check_first(&line, found.as_ref(), path, after.map(|_| run))?;
            }
            let Some(after) = after else { return Ok(kept) };
            starts_line = line.ends_with(b"\n");
            let own = found.filter(|found| found.run == Some(run)).map(|found| found.step);
            if own.is_some_and(|step| step > after) || own.is_none() && is_torn(&line, run, is_cut) {
                is_cut = true;
            } else if is_cut {
                return Err(Error::new(
                    Status::InvalidState,
                    format!(
                        "{}: line {number} is behind records of steps after {after}, which this run replaces, and is \
                         none itself; remove the line or give another file",
                        path.display()
                    ),
                ));
            } else {
                kept.bytes += line.len() as u64;
                kept.ends_line = starts_line;
                if let Some(step) = own {
                    kept.follow(last.replace(step), step);
                }
            }
        }
        // The next record is that of the step behind the checkpoint.
        if let (Some(after), Some(_)) = (after, last) {
            kept.follow(last, after.saturating_add(1));
        }
        Ok(kept)
    }

    fn follow(&mut self, last: Option<u64>, next: u64) {
        let last = last.filter(|&last| last.checked_add(1) != Some(next));
        self.gap = self.gap.or(last.map(|last| (last, next)));
    }
}

/// Checks the first line of a log that `run` continues, or of any log without it.
fn check_first(line: &[u8], found: Option<&Found>, path: &Path, run: Option<RunId>) -> Result<()> {
    let of = |found: &Found| run.is_none_or(|run| found.run == Some(run));
    match found {
        Some(found) if of(found) => Ok(()),
        None if begins_record(line, run) => Ok(()),
        Some(_) => Err(Error::new(
            Status::InvalidState,
            format!(
                "{} is the log of another run than that of the checkpoint; give another file",
                path.display()
            ),
        )),
        None => Err(Error::new(
            Status::BadFormat,
            format!("{} is not the log of a run: line 1 is no record; give another file", path.display()),
        )),
    }
}

/// True for a line that a killed process or a power cut left incomplete at the end of a log.
fn is_torn(line: &[u8], run: RunId, is_cut: bool) -> bool {
    begins_record(line, Some(run)) || line.contains(&0) && (is_cut || !line.ends_with(b"\n"))
}

/// True for an incomplete record of a run, or of any run, at the end of a log.
fn begins_record(line: &[u8], run: Option<RunId>) -> bool {
    let id = line.strip_prefix(b"{\"run\":\"").and_then(|rest| rest.get(..32));
    let id = id.and_then(|id| RunId::parse(str::from_utf8(id).ok()?));
    !line.ends_with(b"\n")
        && (line.len() as u64) < LINE_BYTES_MAX
        && id.is_some_and(|id| run.is_none_or(|run| id == run))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

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
        let old = &full[..1 + full.find('\n').unwrap()].replace(&format!("\"run\":\"{}\",", id(1)), "");
        let other = "{\"loss\":2.1,\"grad_norm\":1.5,\"learning_rate\":2e-5,\"epoch\":0.1,\"step\":10}\n";
        let odd = "\n# a note\n".to_owned() + &lines(2, &[1]) + &"x".repeat(1 << 17) + "\n";
        for (before, after, kept) in [
            (full.clone(), Some(2), lines(1, &[1, 2])),
            (full.clone(), Some(9), full.clone()),
            (full.clone(), Some(0), String::new()),
            (full[..full.len() - 1].to_owned(), Some(3), full.clone()),
            (full[..full.len() - 6].to_owned(), Some(3), lines(1, &[1, 2])),
            (full.clone() + "\0\0", Some(3), full.clone()),
            (full.clone() + "\0\n" + &lines(1, &[4]), Some(2), lines(1, &[1, 2])),
            (full.clone() + &odd + &lines(1, &[4, 5]), Some(4), full.clone() + &odd + &lines(1, &[4])),
            (full.clone() + "# a note", Some(3), full.clone() + "# a note\n"),
            (full[..100].to_owned(), Some(3), String::new()),
            (lines(1, &[4]), Some(3), String::new()),
            (lines(1, &[1]) + &lines(2, &[2]), Some(3), lines(1, &[1]) + &lines(2, &[2])),
            (String::new(), Some(3), String::new()),
            (lines(2, &[1, 2]), None, String::new()),
            (lines(2, &[1])[..100].to_owned(), None, String::new()),
            (old.to_owned(), None, String::new()),
        ] {
            fs::write(&path, &before).unwrap();
            Log::check(&path, id(1), after).unwrap();
            let mut log = Log::open(&path, id(1), after).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), before, "nothing is lost before a record");
            log.write(&record(7)).unwrap();
            let want = kept + &lines(1, &[7]);
            assert_eq!(fs::read_to_string(&path).unwrap(), want, "{before} after {after:?}");
        }
        for (before, after, word) in [
            ("another file\n", None, "not the log of a run"),
            ("another file\n", Some(1), "not the log of a run"),
            ("{\"step\":1,\"text\":\"a row of data\"}\n", None, "not the log of a run"),
            ("{\"run\":\"of data", None, "not the log of a run"),
            (other, None, "not the log of a run"),
            (other, Some(1), "not the log of a run"),
            (&(full.clone() + &odd), Some(2), "line 4 is behind records of steps after 2"),
            (&(full.clone() + &lines(1, &[1])), Some(2), "line 4 is behind records of steps after 2"),
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
        assert!(Log::is_of(&dir.path().join("none"), id(1)).unwrap());
        fs::write(&path, full + &odd).unwrap();
        assert!(Log::is_of(&path, id(1)).unwrap() && !Log::is_of(&path, id(2)).unwrap());
    }

    #[test]
    fn a_log_that_was_changed_is_continued_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        for (steps, words) in [
            (&[1, 2, 3, 4, 5][..], None),
            (&[3, 4, 5], None),
            (&[5, 6], None),
            (&[], None),
            (&[1, 2, 4, 5], Some("step 4 follows step 2")),
            (&[1, 2, 1, 2, 3, 4], Some("step 1 follows step 2")),
            (&[1, 2], Some("step 5 follows step 2")),
        ] {
            fs::write(&path, lines(1, steps)).unwrap();
            let warning = Log::open(&path, id(1), Some(4)).unwrap().take_warning();
            let warning = warning.as_ref().map(Message::as_str);
            assert_eq!(warning.is_some(), words.is_some(), "{steps:?}: {warning:?}");
            assert!(words.is_none_or(|words| warning.unwrap().contains(words)), "{warning:?}");
        }
        fs::write(&path, lines(2, &[1, 7])).unwrap();
        assert_eq!(Log::open(&path, id(1), None).unwrap().take_warning(), None);
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
        assert!(Log::check(&path, id(1), None).unwrap_err().message().contains("a pipe or a socket"));
        assert!(Log::open(&path, id(1), None).unwrap_err().message().contains("a pipe or a socket"));
    }

    #[test]
    fn an_open_descriptor_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all");
        fs::write(&path, "another's\n").unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        let open = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        Log::check(&open, id(1), Some(2)).unwrap();
        Log::open(&open, id(1), None).unwrap().write(&record(1)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "another's\n".to_owned() + &lines(1, &[1]));
    }

    #[test]
    fn missing_folders_are_created_and_folders_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("deep/linked/log.jsonl", at("link")).unwrap();
        for name in ["new/deep/log.jsonl", "link"] {
            Log::check(&at(name), id(1), None).unwrap();
            Log::open(&at(name), id(1), None).unwrap().write(&record(1)).unwrap();
        }
        assert_eq!(fs::read_to_string(at("deep/linked/log.jsonl")).unwrap(), lines(1, &[1]));
        for (name, words) in
            [("new/", "it names a folder"), ("no/", "it names a folder"), ("new", "it is a folder")]
        {
            assert!(Log::check(&at(name), id(1), None).unwrap_err().message().contains(words));
            assert!(Log::open(&at(name), id(1), None).unwrap_err().message().contains(words));
        }
    }
}
