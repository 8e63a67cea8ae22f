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

/// Adds hidden options that answer with what is missing.
pub fn refuse_in(command: Command) -> Command {
    command.mut_subcommand("train", |train| {
        TRAIN.iter().fold(train, |train, &(name, what)| train.arg(refused(Arg::new(name).long(name), what)))
    })
}

fn refused(arg: Arg, what: &'static str) -> Arg {
    let refuse = move |_: String| -> Result<String, String> { Err(format!("{what} is not there yet")) };
    arg.hide(true)
        .num_args(0..)
        .default_missing_value(" ")
        .value_parser(NonEmptyStringValueParser::new().try_map(refuse))
}
