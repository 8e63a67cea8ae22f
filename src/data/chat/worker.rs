//! Renders chat templates in worker processes.
//!
//! A template can loop for ever, double a text until the memory is full, or recurse until the stack
//! ends, which ends its process. So it is opened and rendered in another one, which the command
//! `horizon` limits, and whose death is an error of the row.
//!
//! Both sides send frames: the length of a JSON text in bytes (8, little-endian) and the text. The
//! worker first gets [`Sources`], then [`Request`]s, and answers each with a `Result`, whose error
//! is a text. It reads no files, no clock and no environment.

mod serve;

use std::borrow::Cow;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::Sources;
use super::{Conversation, Rendered};
use crate::base::{Error, Result, Status};
use crate::data::warning::Warnings;

pub use serve::serve;

/// Address space of a worker, its program and its stacks included.
pub const MEMORY_BYTES: u64 = 512 << 20;
/// Exit status of a worker whose request took too much processor time.
pub const OUT_OF_TIME: u8 = 3;
/// Rows in succession, and rows in all, that may end their worker before no more are tried.
const ENDED_IN_A_ROW_MAX: u32 = 3;
const ENDED_MAX: u32 = 30;
const MIB: u64 = 1 << 20;

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
        let workers = Workers { program: program.to_owned(), sources, state: Mutex::default() };
        let first = workers.start()?;
        workers.state.lock().idle.push(first);
        Ok(workers)
    }

    /// As [`super::ChatTemplate::render`].
    pub fn render(&self, conversation: &Conversation, warnings: &mut Warnings) -> Result<Rendered> {
        let (rendered, found) = self.ask(&Request::Render(Cow::Borrowed(conversation)))?;
        warnings.append(found);
        Ok(rendered)
    }

    /// As [`super::ChatTemplate::prompt`].
    pub fn prompt(&self, messages: &[Value]) -> Result<String> {
        self.ask(&Request::Prompt(Cow::Borrowed(messages)))
    }

    /// True once no more rows are rendered, since too many workers have ended.
    pub fn have_stopped(&self) -> bool {
        self.state.lock().stopped.is_some()
    }

    fn start(&self) -> Result<Worker> {
        let mut worker = Worker::start(&self.program)?;
        let opened = worker.ask(&self.sources).map_err(|end| self.error(&worker.ended(end)))?;
        answer::<()>(&opened)?;
        Ok(worker)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let idle = {
            let mut state = self.state.lock();
            if let Some(error) = &state.stopped {
                return Err(error.clone());
            }
            state.idle.pop()
        };
        let started = idle.map_or_else(|| self.start(), Ok);
        let mut worker = started.inspect_err(|error| self.state.lock().stopped = Some(error.clone()))?;
        match worker.ask(request) {
            Ok(bytes) => {
                {
                    let mut state = self.state.lock();
                    state.ended_in_a_row = 0;
                    state.idle.push(worker);
                }
                answer(&bytes)
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
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Worker {
    /// Starts a process without environment, in a process group of its own: signals of the terminal
    /// are for this process, which then closes the worker's standard input.
    fn start(program: &Path) -> Result<Worker> {
        let mut command = Command::new(program);
        command.arg("chat-worker").env_clear().process_group(0).current_dir("/");
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
        let pipes = process.stdin.take().zip(process.stdout.take().map(BufReader::new));
        Ok(Worker { process, pipes })
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, request: &impl Serialize) -> Result<Vec<u8>, End> {
        let request = frame(request);
        let bytes = request.len() as u64;
        let gone = |error| End::Gone(bytes, error);
        let (input, output) = self.pipes.as_mut().ok_or_else(|| gone(io::ErrorKind::BrokenPipe.into()))?;
        input.write_all(&request).map_err(gone)?;
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

/// Returns a value as a frame.
fn frame(value: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; size_of::<u64>()];
    serde_json::to_writer(&mut frame, value).expect("its types are those of JSON");
    let length = (frame.len() - size_of::<u64>()) as u64;
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
