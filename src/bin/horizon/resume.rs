//! `--resume`: a run goes on with the options that it was started with.
//!
//! What was said of a run is noted in its checkpoints under the names of the options. A run that goes on is told all of that
//! again, but for what is said anew; what may not differ is refused by the library, by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use horizon::base::{Error, Result, Status};
use horizon::checkpoint::{Changes, Checkpoint, open};
use horizon::data::DataPath;
use horizon::train::ModelSource;
use serde_json::{Map, Value, json};

use crate::options::{Cli, Command, TrainOptions};

/// Options that a run keeps; the others are of the machine or of the moment.
const KEPT: &str = "data val val-fraction chat-template pack val-every val-batches steps seq-len micro-batch grad-accum lr \
                    min-lr warmup schedule weight-decay beta1 beta2 eps clip mode grad-dtype grad-place seed out \
                    export-dtype log checkpoint-every keep";
/// Those of them that are said or not.
const FLAGS: &str = "skip-bad-lines no-shuffle";

/// Values of options by name; a flag has none.
pub type Said = BTreeMap<String, Vec<String>>;

/// What a run was told, in the end.
pub struct Told {
    pub options: TrainOptions,
    /// What of it the run keeps.
    pub said: Said,
    /// What it goes on from.
    pub checkpoint: Option<Checkpoint>,
}

/// With `--resume`, adds what the run was told before.
pub fn told(options: TrainOptions, matches: &ArgMatches) -> Result<Told> {
    let Some(resume) = &options.resume else {
        return Ok(Told { said: said(matches)?, options, checkpoint: None });
    };
    let checkpoint = open(&absolute(resume)?)?;
    if is_said(matches, "model") {
        let model = ModelSource::open(&options.model, true)?;
        checkpoint.agrees(&model.config.model, &Map::new(), &Changes::none())?;
    }
    let mut arguments: Vec<OsString> = vec!["horizon".into(), "train".into()];
    for (name, values) in noted(&checkpoint)? {
        // Validation is held out or given, whichever is said anew.
        let other = match &name[..] {
            "val" => "val-fraction",
            "val-fraction" => "val",
            other => other,
        };
        if is_said(matches, &name) || is_said(matches, other) {
            continue;
        }
        if values.is_empty() {
            arguments.push(format!("--{name}").into());
        }
        arguments.extend(values.iter().map(|value| OsString::from(format!("--{name}={value}"))));
    }
    arguments.extend(std::env::args_os().skip(2));
    let matches = Cli::command().try_get_matches_from(arguments).unwrap_or_else(|error| error.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (Command::Train(options), Some(matches)) = (cli.command, matches.subcommand_matches("train")) else {
        return Err(Error::internal("`train` became another command"));
    };
    Ok(Told { options: *options, said: said(matches)?, checkpoint: Some(checkpoint) })
}

/// The note of a checkpoint.
pub fn note(said: &Said) -> Value {
    json!({ "options": said })
}

fn noted(checkpoint: &Checkpoint) -> Result<Said> {
    let manifest = checkpoint.manifest();
    let foreign = |what: String| {
        let folder = checkpoint.folder().display();
        Error::new(Status::Unsupported, format!("{folder} was not written by this `horizon train`: {what}"))
    };
    let options = manifest.note.get("options").cloned().unwrap_or_default();
    let said: Said = serde_json::from_value(options)
        .map_err(|error| foreign(format!("it does not note the options of a run ({error})")))?;
    let known = |name: &String| words(KEPT).chain(words(FLAGS)).any(|known| known == name);
    match said.keys().find(|name| !known(name)) {
        Some(name) => {
            Err(foreign(format!("it notes --{name}, and was written by version {}", manifest.horizon)))
        }
        None => Ok(said),
    }
}

/// What of a command line a run keeps. Paths are noted so that they hold from anywhere.
fn said(matches: &ArgMatches) -> Result<Said> {
    let mut said = Said::new();
    for name in words(FLAGS).filter(|name| matches.get_flag(&id(name))) {
        said.insert(name.to_owned(), Vec::new());
    }
    for name in words(KEPT) {
        let Some(values) = matches.get_raw(&id(name)).filter(|_| is_said(matches, name)) else { continue };
        let texts = values.map(|value| match (name, value.to_str()) {
            (_, None) => Err(Error::argument(format!(
                "--{name} {}: what is not UTF-8 cannot be noted in a checkpoint",
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
        said.insert(name.to_owned(), texts.collect::<Result<_>>()?);
    }
    Ok(said)
}

fn words(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.split_whitespace()
}

/// What clap calls an option.
fn id(name: &str) -> String {
    name.replace('-', "_")
}

fn is_said(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(&id(name)) == Some(ValueSource::CommandLine)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(format!("cannot find {}", path.display()), &error))
}
