//! `--resume`: a run continues with the options it was started with.
//!
//! Checkpoints note the options of their run under the options' names. A resumed run gets all of
//! them again, except those given anew. The library refuses, by name, what may not differ. The
//! chat template is not noted: a checkpoint has it among the model's files.
//!
//! A note can name only options of [`NOTED`] and [`NOTED_FLAGS`], each with values as on a command
//! line. The module [`inherit`](crate::inherit) says which of its paths are used. Names of open
//! descriptors (`/dev/stdin`) are not noted as paths: they name other things in another process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use horizon::base::format::escaped;
use horizon::base::{Error, Result, RunId, Status};
use horizon::checkpoint::{Changes, Checkpoint, open};
use horizon::data::DataPath;
use horizon::data::chat::now;
use horizon::host::folder::names_descriptor;
use serde_json::{Map, Value, json};

use crate::inherit::{READ, inherit, new_id, with_weight};
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

/// Options of which some cannot change when a run is resumed: they would make other data.
const DATA: &str = "model data val-fraction chat-template pack skip-bad-lines seq-len";
/// Most values of options that a note may have.
const VALUES_MAX: usize = 1 << 16;

/// Values of options by name; a flag has none.
pub type Given = BTreeMap<String, Vec<String>>;

/// The options of a run: those given, and with `--resume` those noted in the checkpoint.
pub struct Effective {
    pub options: TrainOptions,
    /// The options noted in the run's checkpoints.
    pub given: Noted,
    /// The time that chat templates print: when the run was started.
    pub time: i64,
    /// The id of the run.
    pub run: RunId,
    /// The checkpoint to resume from.
    pub checkpoint: Option<Checkpoint>,
    /// Warnings, for the time when nothing is refused any more.
    pub warnings: Vec<String>,
}

/// The options that checkpoints note.
#[derive(Default)]
pub struct Noted {
    /// Those that a resumed run has again.
    pub options: Given,
    /// Names of those that are left out: their values are open descriptors.
    descriptors: Vec<String>,
}

/// Opens the checkpoint of `--resume`, if it is given, and adds the options noted there.
pub fn effective(options: TrainOptions, matches: &ArgMatches) -> Result<Effective> {
    let Some(checkpoint) = resumed(&options)? else {
        let given = if options.checkpoint_dir.is_some() { given(matches)? } else { Noted::default() };
        let (warnings, run) = (given.warning().into_iter().collect(), new_id());
        return Ok(Effective { given, options, time: now()?, run, checkpoint: None, warnings });
    };
    check_changes(&options.resume_change, &checkpoint)?;
    if is_given(matches, "model") {
        let model = model::open(&options.model, true)?;
        checkpoint.agrees(&model.config.model, &Map::new(), &Changes::none())?;
    }
    let mut arguments: Vec<OsString> = vec!["horizon".into(), "train".into()];
    let mut noted = noted(&checkpoint, |name| is_given(matches, name))?;
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
    let (run, mut warnings) = inherit(&mut noted, &checkpoint, &options)?;
    warnings.extend(missing_descriptors(&checkpoint, matches)?);
    for (name, values) in noted {
        if values.is_empty() {
            arguments.push(format!("--{name}").into());
        }
        arguments.extend(values.iter().map(|value| OsString::from(format!("--{name}={value}"))));
    }
    arguments.extend(std::env::args_os().skip(2));
    let resume_change = with_derived(options.resume_change, matches);
    let (cli, matches) = options::parse(arguments);
    let (Command::Train(options), Some(matches)) = (cli.command, matches.subcommand_matches("train")) else {
        return Err(Error::internal("`train` was parsed as another subcommand"));
    };
    let time = checkpoint.manifest().note["time"].as_i64().map_or_else(now, Ok)?;
    let (given, options) = (given(matches)?, TrainOptions { resume_change, ..*options });
    warnings.extend(given.warning());
    Ok(Effective { options, given, time, run, checkpoint: Some(checkpoint), warnings })
}

/// Opens the checkpoint of `--resume`. Returns `None` if the run begins: the option is left out, or it
/// names the folder of `--checkpoint-dir`, which has no checkpoint.
fn resumed(options: &TrainOptions) -> Result<Option<Checkpoint>> {
    let Some(folder) = &options.resume else { return Ok(None) };
    let folder = absolute(folder)?;
    let own = options.checkpoint_dir.as_deref();
    let is_own = own.map_or(Ok(false), |own| is_same(own, &folder))?;
    if options.init && !is_own {
        let text = "the argument '--init' cannot be used with '--resume <DIR>', unless --checkpoint-dir names the same \
                    folder";
        options::command().error(ErrorKind::ArgumentConflict, text).exit();
    }
    match () {
        () if !has_none_yet(&folder) => open(&folder).map(Some),
        () if is_own => Ok(None),
        () if folder.is_dir() => Err(Error::new(
            Status::NotFound,
            format!(
                "{} has no checkpoint yet: the run ended before its first; start it again without --resume",
                folder.display()
            ),
        )),
        () => open(&folder).map(Some),
    }
}

/// Returns true if a folder is new, empty, or one of checkpoints that has none yet.
fn has_none_yet(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return fs::symlink_metadata(folder).is_err() };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let is_checkpoint = |name: &OsString| {
        let name = name.to_string_lossy();
        name == "latest" || name == "manifest.json" || name.starts_with("step-")
    };
    names.is_empty() || names.iter().any(|name| name == ".lock") && !names.iter().any(is_checkpoint)
}

/// Adds the options that change with others, unless the command line has them: their defaults are
/// computed from these.
fn with_derived(mut names: Vec<String>, matches: &ArgMatches) -> Vec<String> {
    for (name, derived) in [("steps", "warmup"), ("lr", "min-lr")] {
        if names.iter().any(|given| given == name) && !is_given(matches, derived) {
            names.push(derived.to_owned());
        }
    }
    names
}

/// Refuses a run whose data was read from a descriptor and is not given again. Returns a warning of
/// a log that was written to one.
fn missing_descriptors(checkpoint: &Checkpoint, matches: &ArgMatches) -> Result<Option<String>> {
    let noted = &checkpoint.manifest().note[DESCRIPTORS];
    let is_noted = |name: &str| noted.as_array().is_some_and(|names| names.iter().any(|noted| noted == name));
    let is_missing = |name: &&str| is_noted(name) && !is_given(matches, name);
    match READ.into_iter().find(is_missing) {
        Some(name) => Err(Error::argument(format!(
            "the run read its data from a pipe or another open descriptor (--{name}), which a checkpoint cannot note: \
             give the same data again with --{name}"
        ))),
        None => Ok(is_missing(&"log").then(|| {
            "warning: the log of the run was a pipe or another open descriptor, which a checkpoint cannot note: this \
             run has none; give it again with --log"
                .to_owned()
        })),
    }
}

impl Noted {
    /// A warning of the options that are left out.
    fn warning(&self) -> Option<String> {
        let names: Vec<String> = self.descriptors.iter().map(|name| format!("--{name}")).collect();
        let names = names.join(" and ");
        (!names.is_empty()).then(|| {
            format!(
                "warning: {names}: checkpoints do not note a pipe or another open descriptor: give {names} again when \
                 you resume"
            )
        })
    }
}

/// The field of a note with the options whose values were open descriptors.
const DESCRIPTORS: &str = "descriptors";

/// The note of a checkpoint; `validation` is the hash of the validation data.
pub fn note(given: &Noted, time: i64, validation: Option<u64>) -> Map<String, Value> {
    let fields = [
        ("options", json!(given.options)),
        (DESCRIPTORS, json!(given.descriptors)),
        ("time", json!(time)),
        ("validation", json!(validation)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The hash of the validation data in a note.
pub fn validation(note: &Value) -> Option<u64> {
    note["validation"].as_u64()
}

/// The options noted in a checkpoint, except those that are `replaced`.
fn noted(checkpoint: &Checkpoint, replaced: impl Fn(&str) -> bool) -> Result<Given> {
    let manifest = checkpoint.manifest();
    let unusable = |problem: String| {
        let folder = checkpoint.folder().display();
        Error::new(
            Status::Unsupported,
            format!("{folder} cannot be resumed by this `horizon train`: {problem}"),
        )
    };
    let options = manifest.note.get("options").cloned().unwrap_or_default();
    let mut noted: Given = serde_json::from_value(options)
        .map_err(|error| unusable(format!("it does not note the options of a run ({error})")))?;
    let is_flag = |name: &str| words(NOTED_FLAGS).any(|flag| flag == name);
    if let Some(name) = noted.keys().find(|name| !is_flag(name) && !words(NOTED).any(|known| known == *name))
    {
        return Err(unusable(unknown(name, &manifest.horizon)));
    }
    noted.retain(|name, _| !replaced(name));
    if noted.values().map(Vec::len).sum::<usize>() > VALUES_MAX {
        return Err(unusable(format!("it notes more than {VALUES_MAX} values of options")));
    }
    for (name, values) in &noted {
        if is_flag(name) != values.is_empty() || !values.iter().all(|value| is_text(value)) {
            return Err(unusable(format!(
                "the values that it notes for --{name} cannot be those of an option; give --{name} again"
            )));
        }
    }
    Ok(noted)
}

/// Returns true if a value has no control characters: a message that shows it stays one line.
fn is_text(value: &str) -> bool {
    !value.contains(char::is_control)
}

/// The problem of a checkpoint that notes an unknown option.
fn unknown(name: &str, version: &str) -> String {
    let now = options::renamed::new_name("train", &format!("--{name}"));
    let now = now.map_or("unknown here".to_owned(), |new| format!("now {new}"));
    let (name, version) = (escaped(name, ""), escaped(version, ""));
    format!("it notes the option --{name}, which is {now}; version {version} wrote it")
}

/// Refuses `--resume-change` of names that cannot change.
fn check_changes(names: &[String], checkpoint: &Checkpoint) -> Result<()> {
    let (command, values) = (options::command(), &checkpoint.manifest().numeric);
    let train = command.find_subcommand("train").expect("it is a subcommand");
    let is_option = |name: &str| train.get_arguments().any(|arg| arg.get_long() == Some(name));
    let is_data = |name: &str| words(DATA).any(|data| data == name);
    let changeable = || {
        let names = values.keys().filter(|name| (is_option(name) || *name == "device") && !is_data(name));
        names.cloned().collect::<Vec<_>>().join(", ")
    };
    if let Some(name) = names.iter().find(|name| is_data(name)) {
        return Err(Error::argument(format!(
            "--resume-change: `{name}` cannot change when a run is resumed: the data would be other data; export the \
             model (--resume {} --out EXPORT) and begin a new run with --model EXPORT; these can change: {}",
            checkpoint.folder().display(),
            changeable()
        )));
    }
    match names.iter().find(|name| !values.contains_key(*name) && !is_option(name)) {
        Some(name) => Err(Error::argument(format!(
            "--resume-change: no option is named {name}; those that may change: {}",
            changeable()
        ))),
        None => Ok(()),
    }
}

/// The options of a command line that checkpoints note. Paths become absolute. The chat template is
/// left out: a checkpoint has it.
///
/// Errors: checkpoints cannot note a value, or there are too many.
fn given(matches: &ArgMatches) -> Result<Noted> {
    let mut given = Noted::default();
    for name in words(NOTED_FLAGS).filter(|name| matches.get_flag(&id(name))) {
        given.options.insert(name.to_owned(), Vec::new());
    }
    for name in words(NOTED).filter(|name| *name != "chat-template") {
        let Some(values) = matches.get_raw(&id(name)).filter(|_| is_given(matches, name)) else { continue };
        let values: Vec<&OsStr> = values.collect();
        if (READ.contains(&name) || name == "log")
            && values.iter().any(|value| names_descriptor(Path::new(value)))
        {
            given.descriptors.push(name.to_owned());
            continue;
        }
        let texts = values.into_iter().map(|value| as_noted(name, value));
        given.options.insert(name.to_owned(), texts.collect::<Result<_>>()?);
    }
    if given.options.values().map(Vec::len).sum::<usize>() > VALUES_MAX {
        return Err(Error::argument(format!(
            "checkpoints can note {VALUES_MAX} values of options, and the command line has more: give folders with \
             --data and --val instead of their files"
        )));
    }
    Ok(given)
}

/// A value of an option as checkpoints note it.
fn as_noted(name: &str, value: &OsStr) -> Result<String> {
    let text = value.to_str().filter(|text| is_text(text)).ok_or_else(|| {
        let (shown, problem) = match value.to_str() {
            Some(text) => (escaped(text, ""), "has a control character"),
            None => (value.display().to_string(), "is not UTF-8"),
        };
        Error::argument(format!("--{name} {shown}: it {problem}, so checkpoints cannot note it; rename it"))
    })?;
    let path = |text: &Path| {
        let path = absolute(text)?;
        let is_noted = path.to_str().is_some_and(is_text);
        is_noted.then_some(path).ok_or_else(|| {
            let message = "the working directory has a name that checkpoints cannot note; rename it";
            Error::argument(message)
        })
    };
    match name {
        "data" | "val" => {
            let data = DataPath::parse(text)?;
            Ok(with_weight(&path(&data.path)?, data.weight))
        }
        "out" | "log" => Ok(path(Path::new(text))?.display().to_string()),
        _ => Ok(text.to_owned()),
    }
}

/// The noted options whose values are paths, for a description of a checkpoint.
pub fn noted_paths(note: &Value) -> Vec<(&'static str, Vec<String>)> {
    let values = |name: &str| serde_json::from_value(note["options"][name].clone()).unwrap_or_default();
    ["data", "val", "log", "out"].map(|name| (name, values(name))).into_iter().collect()
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
