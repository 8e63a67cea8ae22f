//! The command `horizon`.
//!
//! Exit status: 0 done, 1 failed, 2 a command line that was not understood, 130 stopped by Ctrl-C
//! after the step, its checkpoint and the export.
#![forbid(unsafe_code)]

mod builtin;
mod calibrate;
mod chat_worker;
mod info;
mod install;
mod memory;
mod model;
mod opening;
mod options;
mod pages;
mod placement;
mod plan;
mod plot;
mod progress;
mod resume;
mod sample;
mod show;
mod tokenize;
mod train;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use horizon::base::{Error, Front, Result, hide_caught_panics};
use horizon::plan::MemoryLimits;

use crate::options::Command;

/// The exit status of a process that an interrupt ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    hide_caught_panics();
    if std::env::args_os().nth(1).is_some_and(|subcommand| subcommand == chat_worker::NAME) {
        return chat_worker::run();
    }
    let (cli, matches) = options::parse(std::env::args_os());
    let ended = match cli.command {
        Command::Train(options) => {
            train::train(*options, matches.subcommand_matches("train").expect("it is the subcommand"))
        }
        Command::Info(options) => info::info(&options).map(|()| ExitCode::SUCCESS),
        Command::Sample(options) => sample::sample(&options).map(|()| ExitCode::SUCCESS),
        Command::Tokenize(options) => tokenize::tokenize(&options).map(|()| ExitCode::SUCCESS),
        Command::Plan(options) => plan::plan(&options).map(|()| ExitCode::SUCCESS),
        Command::Calibrate(options) => calibrate::calibrate(&options).map(|()| ExitCode::SUCCESS),
        Command::Plot(options) => plot::plot(&options).map(|()| ExitCode::SUCCESS),
        Command::Install(options) => install::install(&options).map(|()| ExitCode::SUCCESS),
        Command::Man(options) => pages::man(&options).map(|()| ExitCode::SUCCESS),
        Command::Completions(options) => pages::completions(&options).map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {}", error.message_for(Front::Command));
        ExitCode::FAILURE
    })
}

/// Writes to standard output. A closed pipe is an error, unlike with `print!`, which panics.
fn print(bytes: &[u8]) -> Result<()> {
    written(bytes).map_err(|error| cannot_print(&error))
}

/// As [`print`], but returns false if the pipe is closed: the reader has seen enough.
fn print_for_reader(bytes: &[u8]) -> Result<bool> {
    match written(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        ended => ended.map(|()| true).map_err(|error| cannot_print(&error)),
    }
}

fn written(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn cannot_print(error: &io::Error) -> Error {
    Error::io("cannot write to standard output", error)
}

/// Prints warnings about data, also in quiet mode. `which` names data other than `--data`.
fn warn_of_data(which: &str, warnings: &impl Display) {
    for line in warnings.to_string().lines() {
        eprintln!("{}", line.replacen("warning: ", &format!("warning: {which}"), 1));
    }
}

/// Warns if `--host-mem` states more memory than the system reports.
fn warn_of_memory(limits: &MemoryLimits) {
    if let Some(warning) = limits.host.warning() {
        eprintln!("warning: {}", warning.render(Front::Command));
    }
}
