//! `horizon chat-worker`, which the command starts for itself: renders chat templates within limits
//! of time and memory. Users do not call it, so it is in no help.

use std::fs::{self, File};
use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use horizon::base::{Error, Result};
use horizon::data::EncoderSource;
use horizon::data::chat::{MEMORY_BYTES, OUT_OF_TIME, seconds_max, serve};
use horizon::data::tokenizer::TokenizerSource;
use horizon::host::start_deep_thread;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::ClockId;
use nix::unistd::close;

/// The template engine ends recursion by its own limits before this stack is full, in most cases.
const STACK_BYTES: usize = 64 << 20;
/// Milliseconds between two looks at the time.
const LOOK_MS: u16 = 200;
/// No request is being worked on.
const IDLE: u64 = u64::MAX;

/// An encoder whose chat template is rendered by this program, in worker processes.
pub fn encoder(tokenizer: TokenizerSource, chat_template: Option<PathBuf>) -> EncoderSource {
    // This file is the program that runs, even if another one has taken its path.
    let chat_worker = Some(PathBuf::from("/proc/self/exe"));
    EncoderSource { tokenizer, chat_template, time: None, chat_worker }
}

/// Serves the process that started this one, until that ends or closes the pipe.
pub fn run() -> ExitCode {
    match limited() {
        Ok(code) => code,
        Err(error) => {
            message!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn limited() -> Result<ExitCode> {
    close_others();
    let limit = |resource, most| {
        setrlimit(resource, most, most).map_err(|error| Error::io("cannot set limits", &error.into()))
    };
    limit(Resource::RLIMIT_CORE, 0)?;
    limit(Resource::RLIMIT_AS, MEMORY_BYTES)?;
    // The processor time, in nanoseconds, at which the request has taken too long.
    let end = Arc::new(AtomicU64::new(IDLE));
    let timed = {
        let end = end.clone();
        move |bytes: Option<u64>| {
            let at = bytes.map_or(IDLE, |bytes| used_ns() + seconds_max(bytes) * 1_000_000_000);
            end.store(at, Ordering::Relaxed);
        }
    };
    let piped = |error| Error::io("the pipes of a chat worker", &error);
    let input = stdin();
    let requests = File::from(input.as_fd().try_clone_to_owned().map_err(piped)?);
    let mut answers = File::from(stdout().as_fd().try_clone_to_owned().map_err(piped)?);
    let serving = start_deep_thread("chat", STACK_BYTES, move || serve(requests, &mut answers, &timed))?;
    while !serving.is_finished() {
        // Without events of its own it waits for the end of the other side only.
        let mut ends = [PollFd::new(input.as_fd(), PollFlags::empty())];
        if poll(&mut ends, PollTimeout::from(LOOK_MS)).is_ok_and(|ended| ended > 0) {
            return Ok(ExitCode::SUCCESS);
        }
        if used_ns() > end.load(Ordering::Relaxed) {
            return Ok(ExitCode::from(OUT_OF_TIME));
        }
    }
    let served = serving.join().unwrap_or_else(|_| Err(Error::internal("the template engine panicked")));
    served.map(|()| ExitCode::SUCCESS)
}

/// The processor time of this process: unlike the clock's it stands still while the process, or the
/// machine, is stopped.
fn used_ns() -> u64 {
    let now = ClockId::CLOCK_PROCESS_CPUTIME_ID.now();
    now.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Closes the descriptors beyond standard error, which the command may have got from its caller.
fn close_others() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    for descriptor in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()) {
        if descriptor > 2 {
            // That of the folder is closed already.
            let _ = close(descriptor);
        }
    }
}
