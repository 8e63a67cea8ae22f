//! The pipes to a worker: requests are written while answers are read.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Waits in succession in which a worker may do nothing.
const IDLE_MAX: u32 = 6;
/// A worker that uses less than this part of a wait does nothing. The thread that watches the time
/// uses 1/10,000.
const IDLE_PART: u32 = 1000;

/// Both pipes. Reading answers writes the requests.
#[derive(Debug)]
pub struct Pipes {
    input: ChildStdin,
    output: ChildStdout,
    process: Pid,
    wait: Duration,
    requests: Vec<u8>,
    /// Bytes of the requests that are written.
    written: usize,
}

impl Pipes {
    /// Takes the pipes of a process that may do nothing for six times `wait`.
    pub fn of(process: &mut Child, wait: Duration) -> io::Result<Pipes> {
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        for pipe in [input.as_fd(), output.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let process = Pid::from_raw(process.id().cast_signed());
        Ok(Pipes { input, output, process, wait, requests: Vec::new(), written: 0 })
    }

    /// Writes these requests from now on. Their answers must be read before the next ones.
    pub fn send(&mut self, requests: Vec<u8>) {
        (self.requests, self.written) = (requests, 0);
    }

    /// Writes as much as the pipe takes.
    fn write(&mut self) -> io::Result<()> {
        while self.written < self.requests.len() {
            match at_once(self.input.write(&self.requests[self.written..]))? {
                Some(bytes) => self.written += bytes,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Waits for a pipe; false if none is ready in time.
    fn is_ready(&self) -> io::Result<bool> {
        let output = PollFd::new(self.output.as_fd(), PollFlags::POLLIN);
        let input = PollFd::new(self.input.as_fd(), PollFlags::POLLOUT);
        let pipes = if self.written < self.requests.len() { 2 } else { 1 };
        let timeout = PollTimeout::try_from(self.wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut [output, input][..pipes], timeout) {
            Err(Errno::EINTR) => Ok(true),
            ready => Ok(ready? > 0),
        }
    }

    /// The processor time of the process; 0 once it has ended.
    fn used(&self) -> Duration {
        let time = clock_getcpuclockid(self.process).and_then(|clock| clock.now());
        time.map_or(Duration::ZERO, Duration::from)
    }
}

impl Read for Pipes {
    /// Errors: also `TimedOut` if the process did nothing for six waits. Waits are counted, not
    /// seconds: one during which the machine, or this process, is stopped counts once.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (mut used, mut idle) = (Duration::ZERO, 0);
        loop {
            self.write()?;
            if self.is_ready()? {
                if let Some(bytes) = at_once(self.output.read(out))? {
                    return Ok(bytes);
                }
                continue;
            }
            let before = std::mem::replace(&mut used, self.used());
            idle = if used.saturating_sub(before) < self.wait / IDLE_PART { idle + 1 } else { 0 };
            if idle == IDLE_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Returns `None` for what is not possible at once.
fn at_once(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
