//! `--resume`: a run continues with the options it was started with.
//!
//! Checkpoints note the options of their run under the options' names. A resumed run gets all of
//! them again, except those given anew. The library refuses, by name, what may not differ. The
//! chat template is not noted: a checkpoint has it among the model's files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use horizon::base::{Error, Result, Status};
use horizon::checkpoint::{Changes, Checkpoint, open};
use horizon::data::DataPath;
use horizon::data::chat::now;
use serde_json::{Map, Value, json};

use crate::model;
use crate::options::{self, Command, TrainOptions};

/// Options with values that checkpoints note. The others depend on the machine. `chat-template` was
/// noted by earlier versions.
const NOTED: &str = "model data val val-fraction chat-template pack val-every val-batches steps seq-len micro-batch \
                     grad-accum lr min-lr warmup schedule weight-decay beta1 beta2 eps clip mode grad-dtype \
                     grad-place seed out export-dtype log checkpoint-every keep";
/// Options without values that checkpoints note.
const NOTED_FLAGS: &str = "skip-bad-lines no-shuffle";

/// Values of options by name; a flag has none.
pub type Given = BTreeMap<String, Vec<String>>;

/// The options of a run: those given, and with `--resume` those noted in the checkpoint.
pub struct Effective {
    pub options: TrainOptions,
    /// The options noted in the run's checkpoints.
    pub given: Given,
    /// The time that chat templates print: when the run was started.
    pub time: i64,
    /// The checkpoint to resume from.
    pub checkpoint: Option<Checkpoint>,
}

/// Opens the checkpoint of `--resume`, if it is given, and adds the options noted there.
pub fn effective(options: TrainOptions, matches: &ArgMatches) -> Result<Effective> {
    let Some(resume) = &options.resume else {
        return Ok(Effective { given: given(matches)?, options, time: now()?, checkpoint: None });
    };
    let checkpoint = open(&absolute(resume)?)?;
    check_changes(&options.resume_change, &checkpoint)?;
    if is_given(matches, "model") {
        let model = model::open(&options.model, true)?;
        checkpoint.agrees(&model.config.model, &Map::new(), &Changes::none())?;
    }
    let mut arguments: Vec<OsString> = vec!["horizon".into(), "train".into()];
    let mut noted = noted(&checkpoint)?;
    // Only its name is needed; the checkpoint has the model.
    noted.entry("model".to_owned()).or_insert_with(|| vec![checkpoint.folder().display().to_string()]);
    for (name, values) in noted {
        // Mutually exclusive options: a new value of one replaces both.
        let other = match &name[..] {
            "val" => "val-fraction",
            "val-fraction" => "val",
            other => other,
        };
        if is_given(matches, &name) || is_given(matches, other) {
            continue;
        }
        if values.is_empty() {
            arguments.push(format!("--{name}").into());
        }
        arguments.extend(values.iter().map(|value| OsString::from(format!("--{name}={value}"))));
    }
    arguments.extend(std::env::args_os().skip(2));
    let (cli, matches) = options::parse(arguments);
    let (Command::Train(options), Some(matches)) = (cli.command, matches.subcommand_matches("train")) else {
        return Err(Error::internal("`train` was parsed as another subcommand"));
    };
    let time = checkpoint.manifest().note["time"].as_i64().map_or_else(now, Ok)?;
    Ok(Effective { options: *options, given: given(matches)?, time, checkpoint: Some(checkpoint) })
}

/// The note of a checkpoint; `validation` is the fingerprint of the validation data.
pub fn note(given: &Given, time: i64, validation: Option<u64>) -> Value {
    json!({ "options": given, "time": time, "validation": validation })
}

/// The fingerprint of the validation data in a note.
pub fn validation(note: &Value) -> Option<u64> {
    note["validation"].as_u64()
}

/// The options noted in a checkpoint.
fn noted(checkpoint: &Checkpoint) -> Result<Given> {
    let manifest = checkpoint.manifest();
    let foreign = |problem: String| {
        let folder = checkpoint.folder().display();
        Error::new(
            Status::Unsupported,
            format!("{folder} was not written by this version of `horizon train`: {problem}"),
        )
    };
    let options = manifest.note.get("options").cloned().unwrap_or_default();
    let noted: Given = serde_json::from_value(options)
        .map_err(|error| foreign(format!("it does not note the options of a run ({error})")))?;
    let known = |name: &String| words(NOTED).chain(words(NOTED_FLAGS)).any(|known| known == name);
    match noted.keys().find(|name| !known(name)) {
        Some(name) => Err(foreign(unknown(name, &manifest.horizon))),
        None => Ok(noted),
    }
}

/// The problem of a checkpoint that notes an unknown option.
fn unknown(name: &str, version: &str) -> String {
    let now = options::renamed::new_name("train", &format!("--{name}"));
    let now = now.map_or("unknown here".to_owned(), |new| format!("now {new}"));
    format!("it notes the option --{name}, which is {now}; version {version} wrote it")
}

/// Refuses `--resume-change` of names that are neither options nor values of the checkpoint.
fn check_changes(names: &[String], checkpoint: &Checkpoint) -> Result<()> {
    let (command, values) = (options::command(), &checkpoint.manifest().numeric);
    let train = command.find_subcommand("train").expect("it is a subcommand");
    let is_option = |name: &String| train.get_arguments().any(|arg| arg.get_long() == Some(name));
    match names.iter().find(|name| !values.contains_key(*name) && !is_option(name)) {
        Some(name) => Err(Error::argument(format!(
            "--resume-change: no option is named {name}; those that may change: {}",
            values.keys().cloned().collect::<Vec<_>>().join(", ")
        ))),
        None => Ok(()),
    }
}

/// The options of a command line that checkpoints note. Paths become absolute.
fn given(matches: &ArgMatches) -> Result<Given> {
    let mut given = Given::new();
    for name in words(NOTED_FLAGS).filter(|name| matches.get_flag(&id(name))) {
        given.insert(name.to_owned(), Vec::new());
    }
    for name in words(NOTED) {
        let Some(values) = matches.get_raw(&id(name)).filter(|_| is_given(matches, name)) else { continue };
        let texts = values.map(|value| match (name, value.to_str()) {
            (_, None) => Err(Error::argument(format!(
                "--{name} {}: it is not UTF-8, so checkpoints cannot note it",
                value.display()
            ))),
            ("data" | "val", Some(text)) => {
                let DataPath { path, weight } = DataPath::parse(text)?;
                let path = absolute(&path)?.display().to_string();
                Ok(if weight == 1.0 { path } else { format!("{path}:{weight}") })
            }
            ("chat-template" | "out" | "log", Some(text)) => {
                Ok(absolute(Path::new(text))?.display().to_string())
            }
            (_, Some(text)) => Ok(text.to_owned()),
        });
        given.insert(name.to_owned(), texts.collect::<Result<_>>()?);
    }
    Ok(given)
}

fn words(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.split_whitespace()
}

/// The name of an option in clap.
fn id(name: &str) -> String {
    name.replace('-', "_")
}

/// The option is on the command line.
fn is_given(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(&id(name)) == Some(ValueSource::CommandLine)
}

/// The absolute path.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(format!("cannot find {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_option_that_was_renamed_is_refused_with_its_new_name() {
        let problem = unknown("sum-on-device", "0.0.1");
        let expected =
            "it notes the option --sum-on-device, which is now --accum-on-device; version 0.0.1 wrote it";
        assert_eq!(problem, expected);
        assert!(unknown("colour", "9.0.0").contains("--colour, which is unknown here; version 9.0.0"));
    }
}
