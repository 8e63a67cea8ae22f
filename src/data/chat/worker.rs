//! Renders chat templates in worker processes.
//!
//! A template can loop for ever, double a text until the memory is full, or recurse until the stack
//! ends, which ends its process. So it is opened and rendered in another one, which the command
//! `horizon` limits, and whose death is an error of the row.
//!
//! Both sides send frames: the length of a JSON text in bytes (8, little-endian) and the text. The
//! worker first gets [`Sources`], then [`Request`]s, and answers each with a `Result`, whose error
//! is a text. It reads no files, no clock and no environment.
//!
//! Several requests are written at once, and so are their answers, since a change between two
//! processes takes longer than a row. Each has its own limits. If their worker ends, those without
//! an answer are asked one by one.

mod pipes;
mod serve;

use std::borrow::Cow;
use std::io::{self, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::Sources;
use super::{Conversation, Rendered};
use crate::base::{Error, Result, Status};
use crate::data::warning::Warnings;
use pipes::Pipes;

pub use serve::serve;

/// First argument of the command that makes it a worker.
pub const SUBCOMMAND: &str = "chat-worker";
/// Address space of a worker, its program and its stacks included.
pub const MEMORY_BYTES: u64 = 512 << 20;
/// Exit status of a worker whose request took too much processor time.
pub const OUT_OF_TIME: u8 = 3;
/// Rows in succession, and rows in all, that may end their worker before no more are tried.
const ENDED_IN_A_ROW_MAX: u32 = 3;
const ENDED_MAX: u32 = 30;
const MIB: u64 = 1 << 20;
/// Bytes that a pipe holds.
const PIPE_BYTES: usize = 1 << 16;
/// A worker that does nothing for six times as long, in which it is stopped, is ended.
const WAIT: Duration = Duration::from_secs(10);

/// Most processor time of a request of `bytes`, in seconds.
pub fn seconds_max(bytes: u64) -> u64 {
    5 + bytes / MIB
}

/// Most bytes of the answer to a request of `bytes`.
fn answer_bytes_max(bytes: u64) -> u64 {
    MIB + 16 * bytes
}

#[derive(Serialize, Deserialize)]
enum Request<'a> {
    Render(Cow<'a, Conversation>),
    Prompt(Cow<'a, [Value]>),
}

/// Workers with the same template: as many as threads render at the same time.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    sources: Sources,
    wait: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Worker>,
    ended_in_a_row: u32,
    ended: u32,
    /// Why no more requests are made.
    stopped: Option<Error>,
}

impl Workers {
    /// Starts the first worker, `program chat-worker`, which opens the template.
    ///
    /// Errors: it cannot be started (`Unsupported`), or the template is invalid.
    pub fn open(program: &Path, sources: Sources) -> Result<Workers> {
        Workers::waiting(program, sources, WAIT)
    }

    fn waiting(program: &Path, sources: Sources, wait: Duration) -> Result<Workers> {
        let workers = Workers { program: program.to_owned(), sources, wait, state: Mutex::default() };
        let first = workers.start()?;
        workers.state.lock().idle.push(first);
        Ok(workers)
    }

    /// As [`super::ChatTemplate::render`], for each conversation, with its warnings.
    pub fn render(&self, conversations: &[&Conversation]) -> Vec<Result<(Rendered, Warnings)>> {
        let request = |conversation: &&Conversation| frame(&Request::Render(Cow::Borrowed(*conversation)));
        let answers = self.ask_all(conversations.iter().map(request).collect());
        answers.into_iter().map(|bytes| answer(&bytes?)).collect()
    }

    /// As [`super::ChatTemplate::prompt`].
    pub fn prompt(&self, messages: &[Value]) -> Result<String> {
        answer(&self.ask(frame(&Request::Prompt(Cow::Borrowed(messages))))?)
    }

    /// True if this error says that no more rows are rendered, since too many workers have ended.
    pub fn have_stopped_by(&self, error: &Error) -> bool {
        self.state.lock().stopped.as_ref() == Some(error)
    }

    fn start(&self) -> Result<Worker> {
        let mut worker = Worker::start(&self.program, self.wait)?;
        let asked = worker.ask(frame(&self.sources));
        let opened = asked.map_err(|end| self.error(&worker.ended(end)))?;
        answer::<()>(&opened)?;
        Ok(worker)
    }

    /// Returns an idle worker, or a new one.
    fn take(&self) -> Result<Worker> {
        let idle = {
            let mut state = self.state.lock();
            if let Some(error) = &state.stopped {
                return Err(error.clone());
            }
            state.idle.pop()
        };
        let started = idle.map_or_else(|| self.start(), Ok);
        started.inspect_err(|error| self.state.lock().stopped = Some(error.clone()))
    }

    fn give_back(&self, worker: Worker) {
        let mut state = self.state.lock();
        state.ended_in_a_row = 0;
        state.idle.push(worker);
    }

    /// Asks one worker. If it ends, the requests that are left are asked alone.
    fn ask_all(&self, requests: Vec<Vec<u8>>) -> Vec<Result<Vec<u8>>> {
        let mut answers = Vec::with_capacity(requests.len());
        if requests.len() > 1
            && let Ok(mut worker) = self.take()
            && worker.ask_all(&requests, |answer| answers.push(Ok(answer))).is_ok()
        {
            self.give_back(worker);
        }
        let left = requests.into_iter().skip(answers.len());
        let left: Vec<_> = left.map(|request| self.ask(request)).collect();
        answers.extend(left);
        answers
    }

    fn ask(&self, request: Vec<u8>) -> Result<Vec<u8>> {
        let mut worker = self.take()?;
        match worker.ask(request) {
            Ok(answer) => {
                self.give_back(worker);
                Ok(answer)
            }
            Err(end) => {
                let error = self.error(&worker.ended(end));
                let mut state = self.state.lock();
                state.ended_in_a_row += 1;
                state.ended += 1;
                if state.ended_in_a_row < ENDED_IN_A_ROW_MAX && state.ended < ENDED_MAX {
                    return Err(error);
                }
                let rows = format!("; {} rows have failed so, and no more are tried", state.ended);
                Err(state.stopped.insert(error.map(|message| message + &rows)).clone())
            }
        }
    }

    fn error(&self, why: &str) -> Error {
        let place = &self.sources.templates.default.0;
        let advice = "correct the template, or give another one (--chat-template FILE)";
        Error::new(Status::BadFormat, format!("{place}: chat template: {why}; {advice}"))
    }
}

/// Reads an answer.
fn answer<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let answer: Result<T, String> =
        parsed(bytes).map_err(|error| Error::internal(format!("the answer of a chat worker: {error}")))?;
    answer.map_err(|message| Error::new(Status::BadFormat, message))
}

/// Parses JSON. Values may be nested as deeply as in the rows that they come from.
fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    deserializer.disable_recursion_limit();
    T::deserialize(&mut deserializer)
}

/// The reason why a worker gave no answer.
enum End {
    /// The answer would be longer than this.
    Long(u64),
    /// It has ended, or cannot be reached, after a request of this many bytes.
    Gone(u64, io::Error),
}

/// A worker process. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
struct Worker {
    process: Child,
    /// Its standard input and output.
    pipes: Option<BufReader<Pipes>>,
}

impl Worker {
    /// Starts a process without environment, in a process group of its own: signals of the terminal
    /// are for this process, which then closes the worker's standard input.
    fn start(program: &Path, wait: Duration) -> Result<Worker> {
        let mut command = Command::new(program);
        command.arg(SUBCOMMAND).env_clear().process_group(0).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|error| {
            Error::new(
                Status::Unsupported,
                format!(
                    "cannot start {} ({error}): chat templates are rendered in a process of their own, so the command \
                     must be able to start itself; mount /proc, and allow it to execute programs",
                    program.display()
                ),
            )
        })?;
        let pipes = Pipes::of(&mut process, wait);
        let mut worker = Worker { process, pipes: None };
        let pipes = pipes.map_err(|error| Error::io("the pipes of a chat worker", &error))?;
        worker.pipes = Some(BufReader::with_capacity(PIPE_BYTES, pipes));
        Ok(worker)
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, request: Vec<u8>) -> Result<Vec<u8>, End> {
        let bytes = content_bytes(&request);
        self.send(request, bytes)?;
        self.receive(bytes)
    }

    /// Sends requests, and calls `take` with the answer to each, in order.
    fn ask_all(&mut self, requests: &[Vec<u8>], mut take: impl FnMut(Vec<u8>)) -> Result<(), End> {
        self.send(requests.concat(), content_bytes(&requests[0]))?;
        requests.iter().try_for_each(|request| self.receive(content_bytes(request)).map(&mut take))
    }

    fn send(&mut self, requests: Vec<u8>, bytes: u64) -> Result<(), End> {
        let gone = || End::Gone(bytes, io::ErrorKind::BrokenPipe.into());
        self.pipes.as_mut().ok_or_else(gone)?.get_mut().send(requests);
        Ok(())
    }

    /// Waits for the answer to a request of `bytes`.
    fn receive(&mut self, bytes: u64) -> Result<Vec<u8>, End> {
        let gone = |error| End::Gone(bytes, error);
        let output = self.pipes.as_mut().ok_or_else(|| gone(io::ErrorKind::BrokenPipe.into()))?;
        let length = read_length(output).and_then(|length| length.ok_or(io::ErrorKind::UnexpectedEof.into()));
        let length = length.map_err(gone)?;
        let most = answer_bytes_max(bytes);
        if length > most {
            return Err(End::Long(most));
        }
        let mut answer = vec![0; length as usize];
        output.read_exact(&mut answer).map_err(gone)?;
        Ok(answer)
    }

    /// Ends the process and returns why it gave no answer.
    fn ended(&mut self, end: End) -> String {
        match end {
            End::Long(most) => {
                format!("its text is longer than {most} bytes, the limit for the size of the row")
            }
            End::Gone(_, error) if error.kind() == io::ErrorKind::TimedOut => {
                let pid = self.process.id();
                format!("its process {pid} has done nothing for a minute, as one does that is stopped")
            }
            End::Gone(bytes, error) => {
                self.pipes = None;
                let mut text = String::new();
                let errors = self.process.stderr.take();
                let read = errors.map(|errors| errors.take(4096).read_to_string(&mut text));
                // One that has ended keeps its status.
                let status = self.process.kill().and_then(|()| self.process.wait());
                match (read, status) {
                    (Some(Ok(_)), Ok(status)) => reason(status, &text, bytes),
                    _ => format!("its process failed ({error})"),
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The reason for the end of a worker that wrote `errors` to standard error.
fn reason(status: ExitStatus, errors: &str, bytes: u64) -> String {
    if status.code() == Some(OUT_OF_TIME.into()) {
        return format!(
            "it takes more than {} s of processor time, the limit for its size",
            seconds_max(bytes)
        );
    }
    if errors.contains("overflowed its stack") {
        return "its values or calls are nested too deeply".to_owned();
    }
    if errors.contains("memory allocation") {
        return format!("it needs more than {} MiB of memory", MEMORY_BYTES / MIB);
    }
    let how = match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    };
    format!("its process ended ({how}) {}", errors.lines().next().unwrap_or_default()).trim_end().to_owned()
}

/// Bytes of a frame without those of its length.
fn content_bytes(frame: &[u8]) -> u64 {
    (frame.len() - size_of::<u64>()) as u64
}

/// Returns a value as a frame.
fn frame(value: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; size_of::<u64>()];
    serde_json::to_writer(&mut frame, value).expect("its types are those of JSON");
    let length = content_bytes(&frame);
    frame[..size_of::<u64>()].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Reads the length of a frame; `None` at the end.
fn read_length(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut length = [0; size_of::<u64>()];
    match input.read_exact(&mut length) {
        Ok(()) => Ok(Some(u64::from_le_bytes(length))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `grep` reads, and answers nothing.
    #[test]
    fn a_worker_that_does_nothing_is_ended() {
        let sources = serde_json::from_str(r#"{"templates":{"default":["a",""]},"special":[],"time":0}"#);
        let wait = Duration::from_millis(20);
        let error = Workers::waiting(Path::new("grep"), sources.unwrap(), wait).unwrap_err();
        assert!(error.message().contains("has done nothing for a minute"), "{error}");
    }
}
