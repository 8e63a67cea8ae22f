//! The command line: subcommands here, their options in the modules.

mod install;
mod notes;
pub mod renamed;
mod tools;
mod train;
mod values;

use std::ffi::OsString;
use std::io;

use clap::error::ContextValue;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use horizon::base::format::{escaped, shortened};
pub use install::InstallOptions;
pub use notes::{Line, sections};
pub use tools::{
    CalibrateOptions, CompletionsOptions, InfoOptions, ManOptions, PlanOptions, PlotOptions, SampleOptions,
    TokenizeOptions,
};
pub use train::TrainOptions;
pub use values::{at_least_two, positive};

/// Groups of options, as `--help` and the manual pages head them.
pub mod heading {
    pub const MODEL: &str = "Model";
    pub const DATA: &str = "Data";
    pub const OPTIMIZATION: &str = "Optimization";
    pub const MEMORY: &str = "Memory and placement";
    pub const CHECKPOINTS: &str = "Checkpoints";
    pub const SAMPLING: &str = "Sampling";
    pub const OUTPUT: &str = "Logging and output";
    pub const DEVICE: &str = "Device";
    pub const INSTALLATION: &str = "Installation";
    pub const HELP: &str = "Help";
}

/// Trains large language models on one GPU with the whole model in host RAM
///
/// Weights, gradients and AdamW state live in host RAM (CPU offload). The GPU holds the layers in
/// use: each is uploaded when it is needed, its gradient is downloaded, and AdamW runs on the CPU,
/// all at the same time.
#[derive(Debug, Parser)]
#[command(
    name = "horizon",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train or fine-tune a model on conversations, text or token files
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Train(Box<TrainOptions>),
    /// Predict step time and memory of a training run, on this machine or another
    ///
    /// Searches the placements that fit for the one with the shortest simulated step. Nothing is
    /// trained and no weights are read. Placement options given here are fixed; the search decides
    /// the rest.
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Plan(PlanOptions),
    /// Measure this machine for `plan`, or autotune its GPU
    ///
    /// Measures the throughput of RAM, disk, link and device in half a minute to two minutes, and
    /// writes a machine file for --machine. With --autotune it also finds the fastest cuBLASLt
    /// algorithm of each GEMM of a model, for `train --gemm-table`.
    #[command(allow_negative_numbers = true)]
    Calibrate(CalibrateOptions),
    /// Generate text with a model, or answer a question
    #[command(allow_negative_numbers = true)]
    Sample(SampleOptions),
    /// Tokenize data into a token file with document bounds and loss masks, or show it
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Tokenize(TokenizeOptions),
    /// Plot logs (loss, throughput, memory) or traces (a timeline of each lane) as SVG
    Plot(PlotOptions),
    /// Show this machine, its devices and the built-in models, or a checkpoint
    Info(InfoOptions),
    /// Install the command, and the library for C and C++
    ///
    /// Builds the library with cargo and installs it, shared and static, with headers, horizon.pc,
    /// a CMake package, this command, manual pages, shell completions and documents. Repeated, it
    /// replaces what differs. Needs the clone of the repository in which this command was built.
    Install(InstallOptions),
    /// Print the manual page or the formats of data, or write all manual pages
    Man(ManOptions),
    /// Print a completion script for a shell
    Completions(CompletionsOptions),
}

/// The command with help flags, examples and notes.
pub fn command() -> clap::Command {
    let mut command = complete(Cli::command());
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, complete);
    }
    command
}

/// Completes a derived command. Values are listed in the text of their option, so clap's lists are
/// hidden.
fn complete(command: clap::Command) -> clap::Command {
    let sections = sections(command.get_name());
    let text = |all: bool| {
        let shown = sections.iter().filter(|section| all || section.short);
        shown.map(ToString::to_string).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    };
    command
        .mut_args(|arg| if takes_value(&arg) { arg.hide_possible_values(true) } else { arg })
        .disable_help_flag(true)
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::Help)
                .help("Print help: -h a line per option, --help all details")
                .help_heading(heading::HELP),
        )
        .after_help(text(false))
        .after_long_help(text(true))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// Parses arguments, the program's name first. Prints help or an error and exits where clap would.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> (Cli, ArgMatches) {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let subcommand = arguments.get(1).and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    parsed.unwrap_or_else(|mut error| {
        if let Some(message) = renamed::explain(&subcommand, &error) {
            message!("error: {message}");
            std::process::exit(error.exit_code());
        }
        escape(&mut error);
        let printed = error.print();
        if let Some(failed) = printed.err().filter(|failed| failed.kind() != io::ErrorKind::BrokenPipe) {
            message!("error: cannot write to standard output: {failed}");
            std::process::exit(1);
        }
        std::process::exit(error.exit_code())
    })
}

/// Escapes and shortens the arguments that an error quotes; the styles of clap stay.
fn escape(error: &mut clap::Error) {
    let shown = |text: &str| shortened(&escaped(text, ""));
    let context: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, mut value) in context {
        match &mut value {
            ContextValue::String(text) => *text = shown(text),
            ContextValue::Strings(texts) => texts.iter_mut().for_each(|text| *text = shown(text)),
            ContextValue::StyledStrs(texts) => {
                for text in texts {
                    let plain = text.to_string();
                    if escaped(&plain, "") != plain {
                        *text = escaped(&plain, "").into();
                    }
                }
            }
            _ => continue,
        }
        error.insert(kind, value);
    }
}

#[cfg(test)]
mod tests {
    use horizon::base::Name;

    use super::*;

    /// The lists of values that clap would print are hidden, since they would not fit a line.
    #[test]
    fn the_text_of_an_option_has_its_values() {
        for sub in command().get_subcommands() {
            for arg in sub.get_arguments().filter(|arg| takes_value(arg)) {
                let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
                for value in arg.get_possible_values() {
                    assert!(
                        text.contains(value.get_name()),
                        "{} {arg}: {}",
                        sub.get_name(),
                        value.get_name()
                    );
                }
            }
        }
    }

    #[test]
    fn options_in_messages_are_those_of_train() {
        let command = command();
        let train = command.find_subcommand("train").unwrap();
        let options: Vec<&str> = train.get_arguments().filter_map(Arg::get_long).collect();
        for name in Name::ALL {
            let [spelling, ..] = name.spellings();
            assert_eq!(options.contains(&name.key()), spelling.starts_with("--"), "{spelling}");
        }
    }

    #[test]
    fn examples_are_understood() {
        let mut parsed = 0;
        for command in std::iter::once(command()).chain(command().get_subcommands().cloned()) {
            let lines = sections(command.get_name()).into_iter().flat_map(|section| section.lines);
            for line in lines {
                let Line::Command(text) = line else { continue };
                let text = text.split(['|', '>']).next().unwrap_or_default();
                // Odd elements of the split are quoted.
                let words = text.split('"').enumerate().flat_map(|(at, piece)| match at % 2 {
                    0 => piece.split_whitespace().collect(),
                    _ => vec![piece],
                });
                let matches = super::command().try_get_matches_from(words);
                assert!(matches.is_ok(), "{text}: {matches:?}");
                parsed += 1;
            }
        }
        assert!(parsed > 20, "{parsed} examples");
    }
}
