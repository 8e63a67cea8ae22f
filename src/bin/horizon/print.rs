//! Standard output and standard error, either of which may go away before the command ends.
//!
//! A message on standard error that cannot be written is dropped: the terminal may be closed, the
//! reader of a pipe may be dead, and a pipe that does not block may be full. A command that prints
//! a result ends quietly if the reader of its standard output has closed the pipe; any other
//! failure is an error.

use std::fmt::{Arguments, Display};
use std::io::{self, Write};
use std::os::fd::AsFd;

use horizon::base::format::escaped;
use horizon::base::{Error, Front, Result};
use horizon::plan::MemoryLimits;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Prints a line to standard error, like `eprintln!`, which would panic if it cannot be written.
macro_rules! message {
    ($($text:tt)*) => { $crate::print::line(format_args!($($text)*)) };
}

/// Prints a line to standard error; see [`message!`]. Its control characters, as in names of files,
/// are escaped.
pub fn line(text: Arguments) {
    let text = escaped(&format!("{text}\n"), "\n");
    let _ = write_whole_or_not(&mut io::stderr().lock(), text.as_bytes());
}

/// Writes all or nothing to a file that may not block.
fn write_whole_or_not(to: &mut (impl Write + AsFd), bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && written > 0 => {
                poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes to standard output. If the reader has closed the pipe, returns `Ok`.
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    #[test]
    fn a_pipe_that_does_not_block_gets_whole_lines() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let line = format!("a{}\n", "é".repeat(4096));
        let mut write = |text: &str| write_whole_or_not(&mut writer, text.as_bytes());
        write(&line[..4095]).unwrap();
        assert_eq!(write("é").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut first = vec![0; 4095];
        reader.read_exact(&mut first).unwrap();
        let rest = std::thread::spawn(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).map(|_| rest)
        });
        write(&line).unwrap();
        drop(writer);
        assert!(rest.join().unwrap().unwrap() == line.as_bytes());
    }
}
