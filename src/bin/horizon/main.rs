//! The command `horizon`.
//!
//! Exit status: 0 done, 1 failed, 2 a command line that was not understood, 128 + the number of the
//! signal that stopped it.
#![forbid(unsafe_code)]
// They panic if the terminal has gone away.
#![deny(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod print;

mod builtin;
mod calibrate;
mod chat_worker;
mod info;
mod inherit;
mod install;
mod memory;
mod model;
mod opening;
mod options;
mod pages;
mod paths;
mod place;
mod placement;
mod plan;
mod plot;
mod progress;
mod resume;
mod sample;
mod show;
mod stop;
mod tokenize;
mod train;

use std::process::ExitCode;

use horizon::base::{Front, hide_caught_panics};
use horizon::data::chat::SUBCOMMAND;

use crate::options::Command;

fn main() -> ExitCode {
    hide_caught_panics();
    if std::env::args_os().nth(1).is_some_and(|subcommand| subcommand == SUBCOMMAND) {
        return chat_worker::run();
    }
    stop::make_size_limit_an_error();
    let (cli, matches) = options::parse(std::env::args_os());
    let ended = match cli.command {
        Command::Train(options) => {
            train::train(*options, matches.subcommand_matches("train").expect("it is the subcommand"))
        }
        Command::Info(options) => info::info(&options).map(|()| ExitCode::SUCCESS),
        Command::Sample(options) => sample::sample(&options).map(|()| ExitCode::SUCCESS),
        Command::Tokenize(options) => tokenize::tokenize(&options),
        Command::Plan(options) => plan::plan(&options).map(|()| ExitCode::SUCCESS),
        Command::Calibrate(options) => calibrate::calibrate(&options).map(|()| ExitCode::SUCCESS),
        Command::Plot(options) => plot::plot(&options).map(|()| ExitCode::SUCCESS),
        Command::Install(options) => install::install(&options).map(|()| ExitCode::SUCCESS),
        Command::Man(options) => pages::man(&options).map(|()| ExitCode::SUCCESS),
        Command::Completions(options) => pages::completions(&options).map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        message!("error: {}", error.message_for(Front::Command));
        ExitCode::FAILURE
    })
}
