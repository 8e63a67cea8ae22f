//! Standard output and standard error, either of which may go away before the command ends.
//!
//! A message on standard error that cannot be written is dropped: the terminal may be closed, and
//! the reader of a pipe may be dead. A command that prints a result ends quietly if the reader of
//! its standard output has closed the pipe; any other failure is an error.

use std::fmt::{Arguments, Display};
use std::io::{self, Write};

use horizon::base::{Error, Front, Result};
use horizon::plan::MemoryLimits;

/// Prints a line to standard error, like `eprintln!`, which would panic if it cannot be written.
macro_rules! message {
    ($($text:tt)*) => { $crate::print::line(format_args!($($text)*)) };
}

/// Prints a line to standard error; see [`message!`].
pub fn line(text: Arguments) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Writes to standard output. A closed pipe is no error.
pub fn print(bytes: &[u8]) -> Result<()> {
    print_for_reader(bytes).map(drop)
}

/// Like [`print`]. Returns false if the pipe is closed: the reader has seen enough.
pub fn print_for_reader(bytes: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("cannot write to standard output", &error)),
    }
}

/// Prints warnings about data, also in quiet mode. `which` names data other than `--data`.
pub fn warn_of_data(which: &str, warnings: &impl Display) {
    for line in warnings.to_string().lines() {
        message!("{}", line.replacen("warning: ", &format!("warning: {which}"), 1));
    }
}

/// Warns if `--host-mem` states more memory than the system reports.
pub fn warn_of_memory(limits: &MemoryLimits) {
    if let Some(warning) = limits.host.warning() {
        message!("warning: {}", warning.render(Front::Command));
    }
}
