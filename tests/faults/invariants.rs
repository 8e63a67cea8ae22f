//! Rules that hold in a folder of runs at any time. A finding is a message that begins with its
//! class.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use horizon::checkpoint;
use serde_json::Value;
use support::folder::{names, states};

/// Names of checkpoints, export, log and token file. No English words: messages are searched for
/// them.
pub const CHECKPOINTS: &str = "ckpts";
pub const EXPORT: &str = "hf";
pub const LOG: &str = "log.jsonl";
pub const TOKENS: &str = "tokens.bin";

/// Names and contents of the files of an export, except the one that identifies the run.
pub type Export = BTreeMap<String, Vec<u8>>;

/// The results in a folder. They are those of uninterrupted runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Name and states of the last checkpoint.
    pub state: Option<(String, Vec<u8>)>,
    pub export: Export,
    pub tokens: Vec<u8>,
    /// Step and loss of each record.
    pub log: Vec<(u64, f64)>,
}

impl Results {
    /// Reads the results. `Err`: a record of the log is incomplete, doubled or missing.
    pub fn of(folder: &Path) -> Result<Results, String> {
        let state = steps(folder).pop().map(|last| {
            let states = states(&folder.join(CHECKPOINTS).join(&last));
            (last, states)
        });
        let tokens = fs::read(folder.join(TOKENS)).unwrap_or_default();
        Ok(Results { state, export: export(folder), tokens, log: log(folder)? })
    }
}

/// The names of the folder's checkpoints, by step.
pub fn steps(folder: &Path) -> Vec<String> {
    let folder = folder.join(CHECKPOINTS);
    let found = if folder.is_dir() { names(&folder) } else { Vec::new() };
    found.into_iter().filter(|name| name.starts_with("step-")).collect()
}

pub fn export(folder: &Path) -> Export {
    let mut files = files(&folder.join(EXPORT));
    files.remove("horizon.json");
    files
}

/// Names and contents of the files in a folder; none if it does not exist.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let found = if folder.is_dir() { names(folder) } else { Vec::new() };
    let with_content = |name: String| {
        let content = fs::read(folder.join(&name)).ok()?;
        Some((name, content))
    };
    found.into_iter().filter_map(with_content).collect()
}

/// Steps and losses in the log: whole records, one for every step from 1 on.
fn log(folder: &Path) -> Result<Vec<(u64, f64)>, String> {
    let text = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    let record = |line: &str| {
        let record: Value = serde_json::from_str(line).ok()?;
        Some((record["step"].as_u64()?, record["loss"].as_f64()?))
    };
    let records: Option<Vec<_>> = text.lines().map(record).collect();
    let records = records.filter(|_| text.is_empty() || text.ends_with('\n'));
    let records = records.ok_or_else(|| format!("torn log: {text}"))?;
    let steps: Vec<u64> = records.iter().map(|record| record.0).collect();
    if !steps.is_sorted_by(|one, next| one < next) {
        return Err(format!("doubled records: steps {steps:?}"));
    }
    if !steps.iter().copied().eq(1..=steps.len() as u64) {
        return Err(format!("lost records: steps {steps:?}"));
    }
    Ok(records)
}

/// Checks that every checkpoint is complete, and `latest` names one.
pub fn complete(folder: &Path) -> Result<(), String> {
    let checkpoints = folder.join(CHECKPOINTS);
    for step in steps(folder) {
        let checked = checkpoint::open(&checkpoints.join(&step)).and_then(|checkpoint| checkpoint.verify());
        checked.map_err(|error| {
            let latest = fs::read_to_string(checkpoints.join("latest")).unwrap_or_default();
            format!("damaged checkpoint: {step}, the latest is {latest:?}: {error}")
        })?;
    }
    if checkpoints.join("latest").exists() {
        checkpoint::open(&checkpoints).map_err(|error| format!("damaged latest: {error}"))?;
    }
    Ok(())
}

/// Checks that the token file is the old or the new one, and the export one of these or of `others`.
pub fn old_or_new(folder: &Path, old: &Results, new: &Results, others: &[Export]) -> Result<(), String> {
    let export = export(folder);
    let is_there = folder.join(EXPORT).exists();
    let is_known = [&old.export, &new.export].into_iter().chain(others).any(|known| *known == export);
    if !is_known || is_there && export.is_empty() {
        return Err(format!("damaged export: it has {:?}", export.keys()));
    }
    let tokens = fs::read(folder.join(TOKENS)).unwrap_or_default();
    if tokens != new.tokens && tokens != old.tokens {
        return Err(format!("damaged token file: {} bytes", tokens.len()));
    }
    Ok(())
}

/// Checks that two results are equal, bit by bit.
pub fn equal(found: &Results, expected: &Results) -> Result<(), String> {
    let step = |results: &Results| results.state.as_ref().map(|(name, _)| name.clone());
    let steps = |results: &Results| results.log.iter().map(|record| record.0).collect::<Vec<_>>();
    if step(found) != step(expected) {
        return Err(format!("lost checkpoint: the last is {:?}, not {:?}", step(found), step(expected)));
    }
    if found.log != expected.log {
        let is_short = expected.log.starts_with(&found.log);
        let class = if is_short { "lost records" } else { "other log" };
        return Err(format!("{class}: steps {:?}, not {:?}", steps(found), steps(expected)));
    }
    for (what, same) in [
        ("weights", found.state == expected.state),
        ("export", found.export == expected.export),
        ("tokens", found.tokens == expected.tokens),
    ] {
        if !same {
            return Err(format!("other {what}: not the bits of the uninterrupted run"));
        }
    }
    Ok(())
}

/// Checks that nothing temporary is left.
pub fn clean(folder: &Path) -> Result<(), String> {
    let below = |name: &str| folder.join(name).is_dir().then(|| names(&folder.join(name)));
    let all = names(folder).into_iter().chain([CHECKPOINTS, EXPORT].into_iter().filter_map(below).flatten());
    let left: Vec<_> = all.filter(|name| name.starts_with('.') && name != ".lock").collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:?}")) }
}
