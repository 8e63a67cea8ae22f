//! `--resume`: a run continues with the options it was started with.
//!
//! Checkpoints note the options of their run under the options' names. A resumed run gets all of
//! them again, except those given anew. The library refuses, by name, what may not differ. The
//! chat template is not noted: a checkpoint has it among the model's files.
//!
//! # The paths in a note
//! A note can name only options of [`NOTED`] and [`NOTED_FLAGS`], each with values as on a command
//! line. Four of them are paths, and these are used as far as the checkpoint is trusted:
//!
//! | checkpoint | id of the run | `data`, `val` | `log`, `out` |
//! |---|---|---|---|
//! | continued in the folder in which it was written | the same | read | written to, if nothing is there, or what is there has the run's id |
//! | branch: `--checkpoint-dir` names another folder | new | read | left out |
//! | in another folder than it was written to, or another user's | new | must be given | left out |
//!
//! [`Origin`] distinguishes them. A folder that was renamed is still the same. A copy, a backup, a
//! file system that changes its inodes and one that hides the owner are not: paths are given anew. Warnings name all that
//! is left out. A checkpoint of another user therefore makes the command read its own files, and
//! write nothing but what the command line names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use horizon::base::format::{escaped, quoted, shown};
use horizon::base::{Error, Result, RunId, Status};
use horizon::checkpoint::{Changes, Checkpoint, open};
use horizon::data::DataPath;
use horizon::data::chat::now;
use horizon::hf::run_of_export;
use horizon::train::{Log, Origin};
use serde_json::{Map, Value, json};

use crate::model;
use crate::options::{self, Command, TrainOptions};
use crate::paths::is_same;

/// Options with values that checkpoints note. The others depend on the machine. `chat-template` was
/// noted by earlier versions.
const NOTED: &str = "model data val val-fraction chat-template pack val-every val-batches steps seq-len micro-batch \
                     grad-accum lr min-lr warmup schedule weight-decay beta1 beta2 eps clip mode grad-dtype \
                     grad-place seed out export-dtype log checkpoint-every keep";
/// Options without values that checkpoints note.
const NOTED_FLAGS: &str = "skip-bad-lines no-shuffle";

/// Options whose paths are read.
const READ: [&str; 2] = ["data", "val"];
/// Options whose paths are written to.
const WRITTEN: [&str; 2] = ["log", "out"];
/// Most values of options that a note may have.
const VALUES_MAX: usize = 1 << 16;

/// Values of options by name; a flag has none.
pub type Given = BTreeMap<String, Vec<String>>;

/// The options of a run: those given, and with `--resume` those noted in the checkpoint.
pub struct Effective {
    pub options: TrainOptions,
    /// The options noted in the run's checkpoints.
    pub given: Given,
    /// The time that chat templates print: when the run was started.
    pub time: i64,
    /// The id of the run.
    pub run: RunId,
    /// The checkpoint to resume from.
    pub checkpoint: Option<Checkpoint>,
}

/// Opens the checkpoint of `--resume`, if it is given, and adds the options noted there.
pub fn effective(options: TrainOptions, matches: &ArgMatches) -> Result<Effective> {
    let Some(resume) = &options.resume else {
        let (given, run) = (given(matches)?, new_id());
        return Ok(Effective { given, options, time: now()?, run, checkpoint: None });
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
    noted.retain(|name, _| {
        // Mutually exclusive options: a new value of one replaces both.
        let other = match &name[..] {
            "val" => "val-fraction",
            "val-fraction" => "val",
            other => other,
        };
        !is_given(matches, name) && !is_given(matches, other)
    });
    let run = leave_out_paths(&mut noted, &checkpoint, options.checkpoint_dir.as_deref())?;
    for (name, values) in noted {
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
    Ok(Effective { options: *options, given: given(matches)?, time, run, checkpoint: Some(checkpoint) })
}

fn new_id() -> RunId {
    RunId::from_bits(rand::random())
}

/// Removes the noted paths that a run with checkpoints in `folder` does not use, and warns of them.
/// Returns the id of the run.
///
/// Errors: paths to read are among them.
fn leave_out_paths(noted: &mut Given, checkpoint: &Checkpoint, folder: Option<&Path>) -> Result<RunId> {
    let had_out = noted.contains_key("out");
    let origin = Origin::of(checkpoint);
    let is_own = origin.as_ref().map_or(Ok(false), |origin| origin.has(checkpoint))?;
    let continues = folder.map_or(Ok(true), |folder| is_same(folder, &checkpoint.parent()?))?;
    let from = shown(checkpoint.folder());
    let foreign = format!("{from} is a copy, another user's, or of an earlier version");
    let (run, left_out, why) = match origin {
        Some(origin) if is_own && continues => {
            let others = take(noted, |name, path| WRITTEN.contains(&name) && !is_of(name, path, origin.id));
            (origin.id, others, "what is there now is not of this run".to_owned())
        }
        _ if is_own => {
            let left_out = take(noted, |name, _| WRITTEN.contains(&name));
            (new_id(), left_out, format!("they are of the run in {from}, from which this one branches off"))
        }
        _ => {
            let unread = take(noted, |name, _| READ.contains(&name));
            if !unread.is_empty() {
                return Err(Error::argument(format!(
                    "{foreign}, so the paths that it notes are not used; if they are right, add {}",
                    unread.join(" ")
                )));
            }
            let left_out = take(noted, |name, _| WRITTEN.contains(&name));
            (new_id(), left_out, foreign)
        }
    };
    if had_out && !noted.contains_key("out") {
        noted.remove("export-dtype");
    }
    if !left_out.is_empty() {
        message!(
            "warning: this run does not write to {}, which the checkpoint notes: {why}; to write, give other paths \
             with --log FILE and --out DIR",
            left_out.join(" and ")
        );
    }
    Ok(run)
}

/// Removes the options that `is_taken` selects by name and path. Returns them as on a command line.
fn take(noted: &mut Given, is_taken: impl Fn(&str, &Path) -> bool) -> Vec<String> {
    let is_taken =
        |name: &str, values: &[String]| values.iter().any(|value| is_taken(name, Path::new(value)));
    let (taken, left): (Given, Given) =
        std::mem::take(noted).into_iter().partition(|(name, values)| is_taken(name, values));
    *noted = left;
    let spelled = |(name, values): (String, Vec<String>)| {
        let values: Vec<String> = values.iter().map(quoted).collect();
        format!("--{name} {}", values.join(" "))
    };
    taken.into_iter().map(spelled).collect()
}

/// Returns true if a path of `--log` or `--out` has nothing, or the output of this run.
fn is_of(option: &str, path: &Path, run: RunId) -> bool {
    match option {
        "log" => Log::is_of(path, run),
        _ => match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none() || run_of_export(path) == Some(run),
            Err(_) => !path.exists(),
        },
    }
}

/// The note of a checkpoint; `validation` is the fingerprint of the validation data.
pub fn note(given: &Given, time: i64, validation: Option<u64>) -> Map<String, Value> {
    let fields = [("options", json!(given)), ("time", json!(time)), ("validation", json!(validation))];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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
    if noted.values().map(Vec::len).sum::<usize>() > VALUES_MAX {
        return Err(foreign(format!("it notes more than {VALUES_MAX} values of options")));
    }
    for (name, values) in &noted {
        let is_flag = words(NOTED_FLAGS).any(|flag| flag == name);
        if !is_flag && !words(NOTED).any(|known| known == name) {
            return Err(foreign(unknown(name, &manifest.horizon)));
        }
        let is_text = |value: &String| !value.contains(char::is_control);
        if is_flag != values.is_empty() || !values.iter().all(is_text) {
            return Err(foreign(format!(
                "the values that it notes for --{name} cannot be those of an option"
            )));
        }
    }
    Ok(noted)
}

/// The problem of a checkpoint that notes an unknown option.
fn unknown(name: &str, version: &str) -> String {
    let now = options::renamed::new_name("train", &format!("--{name}"));
    let now = now.map_or("unknown here".to_owned(), |new| format!("now {new}"));
    let (name, version) = (escaped(name, ""), escaped(version, ""));
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
pub fn is_given(matches: &ArgMatches, name: &str) -> bool {
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
