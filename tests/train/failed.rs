//! Runs that fail: the last good state is saved and exported, and the error says where.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use horizon::base::{Error, Message, unwatched};
use horizon::checkpoint::open;
use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{Data, DataOptions, DataPath, EncoderSource};
use horizon::train::metrics::StepRecord;
use horizon::train::{ModelSource, Observer, Outcome, Run, RunOptions, SaveOptions};
use serde_json::Map;
use support::folder::{names, states};

use crate::{SEQ_LEN, options};

/// Eight windows of data.
fn data(folder: &Path) -> Data {
    let tokens: Vec<u16> = (0..=8 * SEQ_LEN).map(|at| (at * at % 251) as u16).collect();
    let path = folder.join("tokens.u16");
    fs::write(&path, tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let encoder = EncoderSource {
        tokenizer: TokenizerSource { folder: None, vocabulary: 256 },
        chat_template: None,
        chat_worker: None,
        time: None,
    };
    let paths = [DataPath::parse(path.to_str().unwrap()).unwrap()];
    Data::open(&paths, &encoder, &DataOptions { threads: 1, ..DataOptions::new(SEQ_LEN) }).unwrap()
}

/// Calls a function after every step; warnings are collected.
struct Hook<'a>(&'a mut (dyn FnMut(u64) + Sync), Vec<String>);

impl Observer for Hook<'_> {
    fn stepped(&mut self, record: &StepRecord, _steps: u64, _remaining: f64) {
        (self.0)(record.step);
    }

    fn saved(&mut self, _step: u64, _folder: &Path) {}

    fn warned(&mut self, message: &Message) {
        self.1.push(message.to_string());
    }
}

/// Trains on windows in order, with `save`, `out` and a log in `folder`.
fn trained(
    folder: &Path,
    saves: bool,
    change: &dyn Fn(&mut RunOptions),
    stop: &AtomicBool,
    stepped: &mut (dyn FnMut(u64) + Sync),
) -> (Result<Outcome, Error>, Vec<String>) {
    let mut options = RunOptions { shuffle: false, steps: Some(6), ..options(1, 1) };
    options.log = Some(folder.join("log.jsonl"));
    options.out = Some(folder.join("out"));
    options.trace = Some(folder.join("trace.json"));
    if saves {
        let keep = std::num::NonZeroUsize::new(1);
        options.save = Some(SaveOptions { folder: folder.join("run"), every: 1, keep, note: Map::new() });
    }
    change(&mut options);
    let model = ModelSource::open("tiny", false).unwrap();
    let data = data(folder);
    let mut run = Run::open(model, data, None, options, &unwatched).unwrap();
    let mut hook = Hook(stepped, Vec::new());
    let ended = run.train(&mut hook, stop);
    (ended, hook.1)
}

/// The state after `step` steps of a run that is stopped there, and its exported weights.
fn stopped_after(step: u64, change: &dyn Fn(&mut RunOptions)) -> (Vec<u8>, Vec<u8>) {
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let mut stopper = |at| stop.store(at == step, std::sync::atomic::Ordering::Relaxed);
    let (ended, _) = trained(dir.path(), true, change, &stop, &mut stopper);
    assert!(ended.unwrap().stopped);
    let exported = fs::read(dir.path().join("out/model.safetensors")).unwrap();
    (states(open(&dir.path().join("run")).unwrap().folder()), exported)
}

/// Writes a token that the model does not have into the last window.
fn spoil(folder: &Path) {
    let file = File::options().write(true).open(folder.join("tokens.u16")).unwrap();
    file.write_all_at(&999u16.to_le_bytes(), 2 * (7 * SEQ_LEN as u64 + 3)).unwrap();
}

/// Data that becomes invalid, and a loss that is not finite. `keep` is 1,
/// but the checkpoint of the failed run replaces none: it may have begun to diverge before.
#[test]
fn a_step_that_fails_leaves_the_state_before_it() {
    let every_two = |options: &mut RunOptions| {
        options.steps = Some(8);
        if let Some(save) = &mut options.save {
            save.every = 2;
        }
    };
    let diverges = |options: &mut RunOptions| (options.lr, options.warmup) = (1e30, Some(0));
    type Change<'a> = &'a dyn Fn(&mut RunOptions);
    let cases: [(bool, Change, &str); 2] =
        [(true, &every_two, "tokens.u16 was written to"), (false, &diverges, "step 2")];
    for (spoils, change, word) in cases {
        for saves in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut stepped = |at| {
                if spoils && at == 1 {
                    spoil(dir.path());
                }
            };
            let never = AtomicBool::new(false);
            let (ended, warnings) = trained(dir.path(), saves, change, &never, &mut stepped);
            let error = ended.unwrap_err();
            assert!(error.message().contains(word) && warnings.is_empty(), "{error}, {warnings:?}");
            // The windows of some steps have been read when the data becomes invalid.
            let (_, step) = error.message().split_once("the weights after step ").unwrap();
            let step = step.split(' ').next().unwrap().parse().unwrap();
            assert!(if spoils { (1..8).contains(&step) } else { step == 1 }, "{error}");
            let (state, exported) = stopped_after(step, change);
            assert!(fs::read(dir.path().join("out/model.safetensors")).unwrap() == exported, "{error}");
            let log = fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
            assert_eq!(log.lines().count() as u64, step);
            let trace = fs::read(dir.path().join("trace.json")).unwrap();
            assert!(serde_json::from_slice::<serde_json::Value>(&trace).is_ok());
            let run = dir.path().join("run");
            if saves {
                let checkpoint = open(&run).unwrap();
                assert_eq!(checkpoint.manifest().step, step);
                assert!(states(checkpoint.folder()) == state, "{error}");
                assert!(error.message().contains(&format!("the checkpoint of step {step} is in")), "{error}");
                let kept = names(&run).iter().filter(|name| name.starts_with("step-")).count();
                assert_eq!(kept, if spoils && step > 2 && step % 2 == 1 { 2 } else { 1 });
            } else {
                assert!(!error.message().contains("checkpoint of"), "{error}");
            }
        }
    }
}

/// AdamW of a step whose loss is finite may make weights from which no training continues.
#[test]
fn weights_that_are_not_finite_are_neither_saved_nor_exported() {
    let dir = tempfile::tempdir().unwrap();
    let overflows =
        |options: &mut RunOptions| (options.lr, options.warmup, options.steps) = (3e38, Some(0), Some(1));
    let (ended, warnings) = trained(dir.path(), true, &overflows, &AtomicBool::new(false), &mut |_| {});
    let error = ended.unwrap_err();
    for word in
        ["the checkpoint of step 1 failed: save unit 0: element ", " is inf; weights must be", "is no ch"]
    {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    assert!(warnings.len() <= 1 && !dir.path().join("out").exists(), "{warnings:?}");
    assert!(names(&dir.path().join("run")).iter().all(|name| !name.starts_with("step-")));
}

/// Nothing is written to another folder at the path, and none is created.
#[test]
fn a_folder_of_checkpoints_that_is_moved_or_removed_gets_nothing_more() {
    for (moves, another) in [(true, true), (true, false), (false, false)] {
        let dir = tempfile::tempdir().unwrap();
        let [run, old] = ["run", "old"].map(|name| dir.path().join(name));
        let mut stepped = |step| {
            if step != 3 {
                return;
            }
            if moves {
                fs::rename(&run, &old).unwrap();
            } else {
                // A checkpoint is being written there.
                while run.exists() {
                    let _ = fs::remove_dir_all(&run);
                }
            }
            if another {
                fs::create_dir_all(run.join("step-00000001")).unwrap();
            }
        };
        let (ended, warnings) = trained(dir.path(), true, &|_| (), &AtomicBool::new(false), &mut stepped);
        let error = ended.unwrap_err();
        for word in ["checkpoint of step 6 failed", "/run was moved or removed", "there is no checkpoint"] {
            assert!(error.message().contains(word), "no {word:?} in {error}");
        }
        // The checkpoint that is being written may meet it, too: then `latest` cannot be written, or,
        // in a removal, the folder cannot be read.
        let (moved, others): (Vec<_>, Vec<_>) =
            warnings.iter().partition(|warning| warning.contains("/run was moved or removed"));
        assert!(moved.len() >= 3, "{warnings:?}");
        let meets = |warning: &&String| {
            warning.contains("/run/latest: No such file") || !moves && warning.contains("cannot read")
        };
        assert!(others.iter().all(meets), "{warnings:?}");
        assert_eq!(run.exists(), another);
        assert!(!another || names(&run) == ["step-00000001"]);
        assert!(!moves || (1..=3).contains(&open(&old).unwrap().manifest().step));
    }
}

/// The checkpoint is there all the same.
#[test]
fn what_takes_the_name_of_latest_is_an_error_that_says_which_checkpoint_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let latest = dir.path().join("run/latest");
    let mut stepped = |step| {
        if step == 1 {
            fs::create_dir_all(latest.join("thesis")).unwrap();
        }
    };
    let at_end = |options: &mut RunOptions| {
        if let Some(save) = &mut options.save {
            save.every = 9;
        }
    };
    let (ended, _) = trained(dir.path(), true, &at_end, &AtomicBool::new(false), &mut stepped);
    let error = ended.unwrap_err();
    for word in
        ["step-00000006 is complete, but `latest`", "it is a folder", "the checkpoint of step 6 is in"]
    {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    assert!(latest.join("thesis").exists());
    open(&dir.path().join("run/step-00000006")).unwrap();
}

#[test]
fn a_failed_run_replaces_no_export() {
    let (dir, never) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let run = |change: &dyn Fn(&mut RunOptions)| trained(dir.path(), false, change, &never, &mut |_| {}).0;
    run(&|options| (options.steps, options.warmup) = (Some(1), Some(0))).unwrap();
    let weights = || fs::read(dir.path().join("out/model.safetensors")).unwrap();
    let exported = weights();
    let error = run(&|options| (options.lr, options.warmup) = (1e30, Some(0))).unwrap_err();
    assert!(error.message().contains("out is kept: a failed run replaces none"), "{error}");
    assert!(!error.message().contains("the weights after"), "{error}");
    assert!(weights() == exported);
}

#[test]
fn the_last_checkpoint_and_the_export_fail_the_run_if_they_fail() {
    let never = AtomicBool::new(false);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // A folder of checkpoints that becomes a file.
    let mut replaced = |step| {
        if step == 5 {
            fs::remove_dir_all(&run).unwrap();
            fs::write(&run, "in the way").unwrap();
        }
    };
    let at_end = |options: &mut RunOptions| {
        if let Some(save) = &mut options.save {
            save.every = 9;
        }
    };
    let (ended, warnings) = trained(dir.path(), true, &at_end, &never, &mut replaced);
    let error = ended.unwrap_err();
    assert!(warnings.is_empty(), "{warnings:?}");
    for word in
        ["the checkpoint of step 6 failed", "there is no checkpoint", "the weights after step 6 are in"]
    {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut occupied = |step| {
        if step == 5 {
            fs::write(&out, "in the way").unwrap();
        }
    };
    let error = trained(dir.path(), true, &at_end, &never, &mut occupied).0.unwrap_err();
    assert!(error.message().contains("cannot export to"), "{error}");
    assert!(error.message().contains("the checkpoint of step 6 is in"), "{error}");
    assert_eq!(open(&dir.path().join("run")).unwrap().manifest().step, 6);
}
