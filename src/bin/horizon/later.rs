//! What the design names and is not there yet: refused by name, so that nobody takes silence for consent.

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::{Arg, Command};

/// Options of `train`.
const TRAIN: &[(&str, &str)] = &[
    ("resume", "resuming"),
    ("checkpoint-every", "checkpointing"),
    ("checkpoint-dir", "checkpointing"),
    ("keep", "checkpointing"),
];

/// Commands.
const COMMANDS: &[(&str, &str)] = &[("tokenize", "tokenising into a file")];

/// Adds hidden options and commands that answer with what is missing.
pub fn refuse_in(command: Command) -> Command {
    let command = command.mut_subcommand("train", |train| {
        TRAIN.iter().fold(train, |train, &(name, what)| train.arg(refused(Arg::new(name).long(name), what)))
    });
    COMMANDS.iter().fold(command, |command, &(name, what)| {
        let rest = Arg::new("rest").num_args(0..).allow_hyphen_values(true).trailing_var_arg(true);
        command.subcommand(Command::new(name).hide(true).arg(refused(rest, what).default_value(" ")))
    })
}

fn refused(arg: Arg, what: &'static str) -> Arg {
    let refuse = move |_: String| -> Result<String, String> { Err(format!("{what} is not there yet")) };
    arg.hide(true)
        .num_args(0..)
        .default_missing_value(" ")
        .value_parser(NonEmptyStringValueParser::new().try_map(refuse))
}
