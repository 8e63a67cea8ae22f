//! The command `horizon`.
//!
//! Exit status: 0 done, 1 failed, 2 not understood (clap's), 130 stopped by Ctrl-C after the step, its checkpoint and the export.
#![forbid(unsafe_code)]

mod builtin;
mod calibrate;
mod info;
mod options;
mod placement;
mod plan;
mod plot;
mod progress;
mod resume;
mod sample;
mod tokenize;
mod train;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use horizon::base::{Error, Result};
use horizon::plan::MemoryLimits;

use crate::options::{Cli, Command};

/// What a shell expects of a process that an interrupt ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
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
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// Writes to standard output. Unlike `print!`, a closed pipe is an error, not a panic.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("cannot write to standard output", &error))
}

/// Warns of `--host-mem` that states more memory than the system reports.
fn warn_of_memory(limits: &MemoryLimits) {
    if let Some(warning) = limits.host.warning() {
        eprintln!("warning: {warning}");
    }
}
