//! Tests resumed runs: they are bit-equal to an uninterrupted run, or refused.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use horizon::base::{Error, Message, Status, unwatched};
use horizon::checkpoint::{Changes, open};
use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{BadLines, Data, DataOptions, DataPath, EncoderSource, Packing};
use horizon::schedule::{Boundary, GradWait, LayerPlacement, Recompute};
use horizon::train::metrics::StepRecord;
use horizon::train::{ModelSource, Observer, Outcome, Resume, Run, RunOptions, SaveOptions};
use serde_json::Map;

use support::folder::{names, states};

use crate::{SEQ_LEN, options};

const STEPS: u64 = 12;

/// Writes a JSONL file with two kinds of rows, a token file and a text file.
fn write_data(folder: &Path) {
    let rows: Vec<String> = (0..18)
        .map(|k| match k % 3 {
            0 => format!("{{\"prompt\": \"what is {k}?\", \"completion\": \" it is {}\"}}", k * k),
            _ => format!("{{\"text\": \"number {k} follows number {}\"}}", k - 1),
        })
        .collect();
    fs::write(folder.join("rows.jsonl"), rows.join("\n")).unwrap();
    let tokens: Vec<u8> = (0..200u16).flat_map(|at| (at * at % 251).to_le_bytes()).collect();
    fs::write(folder.join("tokens.u16"), tokens).unwrap();
    fs::write(folder.join("text.txt"), "a text that says what a text says. ".repeat(8)).unwrap();
}

fn open_data(folder: &Path) -> (Data, Data) {
    let paths = ["rows.jsonl:0.7", "tokens.u16:1.5", "text.txt"]
        .map(|name| DataPath::parse(&folder.join(name).display().to_string()).unwrap());
    let encoder = EncoderSource {
        tokenizer: TokenizerSource { folder: None, vocabulary: 256 },
        chat_template: None,
        time: None,
        chat_worker: None,
    };
    let options = DataOptions {
        packing: Packing::Auto,
        bad_lines: BadLines::Refuse,
        threads: 1,
        ..DataOptions::new(SEQ_LEN)
    };
    Data::open(&paths, &encoder, &options).unwrap().hold_out(0.1).unwrap()
}

fn run_options(folder: &Path, every: u64) -> RunOptions {
    let mut options = RunOptions { steps: Some(STEPS), val_every: 5, ..options(2, 2) };
    options.save = Some(SaveOptions { folder: folder.to_owned(), every, keep: None, note: Map::new() });
    options
}

/// The events of a run; `stop` is set after step `stop_after`.
#[derive(Default)]
struct Watch {
    records: Vec<StepRecord>,
    saved: Vec<u64>,
    warnings: Vec<String>,
    stop_after: Option<u64>,
}

/// A watch with the `stop` of its run.
struct Stopper<'a>(&'a mut Watch, &'a AtomicBool);

impl Observer for Stopper<'_> {
    fn stepped(&mut self, record: &StepRecord, steps: u64, _remaining: f64) {
        assert_eq!(steps, STEPS);
        self.0.records.push(*record);
        if self.0.stop_after == Some(record.step) {
            self.1.store(true, Ordering::Relaxed);
        }
    }

    fn saved(&mut self, step: u64, _folder: &Path) {
        self.0.saved.push(step);
    }

    fn warned(&mut self, message: &Message) {
        self.0.warnings.push(message.to_string());
    }
}

fn started(data: &Path, options: RunOptions) -> Result<Run, Error> {
    let model = match &options.resume {
        Some(resume) => ModelSource::folder(resume.checkpoint.folder(), true)?,
        None => ModelSource::open("tiny", false)?,
    };
    let (data, val) = open_data(data);
    Run::open(model, data, Some(val), options, &unwatched)
}

fn trained(data: &Path, options: RunOptions, stop_after: Option<u64>) -> (Outcome, Watch) {
    let mut run = started(data, options).unwrap();
    let (mut watch, stop) = (Watch { stop_after, ..Watch::default() }, AtomicBool::new(false));
    let outcome = run.train(&mut Stopper(&mut watch, &stop), &stop).unwrap();
    (outcome, watch)
}

/// Resumes from the latest checkpoint in a folder.
fn resume(folder: &Path) -> Option<Resume> {
    Some(Resume { checkpoint: open(folder).unwrap(), changes: Changes::none() })
}

/// Returns the fields of records that do not depend on time.
fn timeless(records: &[StepRecord]) -> Vec<(u64, u64, u64, u64, u64, Option<u64>)> {
    let bits = |value: f64| value.to_bits();
    let fields = |r: &StepRecord| {
        (r.step, bits(r.loss), bits(r.grad_norm), bits(r.lr), bits(r.epoch), r.val_loss.map(bits))
    };
    records.iter().map(fields).collect()
}

fn step_folder(folder: &Path, step: u64) -> std::path::PathBuf {
    folder.join(format!("step-{step:08}"))
}

#[test]
fn a_run_stopped_after_any_step_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let whole = dir.path().join("whole");
    let (outcome, watch) = trained(dir.path(), run_options(&whole, 3), None);
    assert_eq!((outcome.steps, outcome.saved, watch.saved), (STEPS, Some(whole.clone()), vec![3, 6, 9, 12]));
    let want = states(&step_folder(&whole, STEPS));
    let want_records = timeless(&watch.records);
    assert!(watch.records[STEPS as usize - 1].epoch > 1.0, "the run must have more than one epoch");

    for stop in 1..=STEPS {
        let folder = dir.path().join(format!("stopped-{stop}"));
        let (outcome, first) = trained(dir.path(), run_options(&folder, 5), Some(stop));
        assert_eq!((outcome.stopped, outcome.steps), (stop < STEPS, stop));
        let mut options = run_options(&folder, 4);
        options.resume = resume(&folder);
        let trainer = &mut options.trainer;
        let layer = LayerPlacement::default();
        match stop % 6 {
            0 => trainer.threads = Some(2),
            1 => trainer.sweeps = 2,
            2 => trainer.layers = vec![LayerPlacement { recompute: Recompute::Selective, ..layer }; 4],
            3 => trainer.layers = vec![LayerPlacement { boundary: Boundary::Spilled, ..layer }; 4],
            4 => (trainer.weight_slots, trainer.slabs, trainer.device_mem) = (3, 4, Some(1 << 28)),
            _ => trainer.grad_wait = GradWait::Device,
        }
        let (outcome, rest) = trained(dir.path(), options, None);
        assert_eq!((outcome.stopped, outcome.steps), (false, STEPS));
        assert!(states(&step_folder(&folder, STEPS)) == want, "stopped after step {stop}");
        let records = [timeless(&first.records), timeless(&rest.records)].concat();
        assert_eq!(records, want_records, "stopped after step {stop}");
        assert!(first.warnings.is_empty() && rest.warnings.is_empty());
    }
    // Resumes from an earlier checkpoint into another folder, where only one checkpoint is kept.
    let mut options = run_options(&dir.path().join("elsewhere"), 1);
    options.save.as_mut().unwrap().keep = NonZeroUsize::new(1);
    options.resume = resume(&step_folder(&whole, 9));
    trained(dir.path(), options, None);
    assert_eq!(names(&dir.path().join("elsewhere")), [".lock", "latest", "step-00000012"]);
    assert!(states(&step_folder(&dir.path().join("elsewhere"), STEPS)) == want);
}

type Change<'a> = &'a dyn Fn(&mut RunOptions);

#[test]
fn options_that_differ_from_the_checkpoint_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let folder = dir.path().join("run");
    trained(dir.path(), run_options(&folder, 0), Some(3));
    let attempt = |change: Change| {
        let mut options = run_options(&folder, 1);
        options.resume = resume(&folder);
        change(&mut options);
        started(dir.path(), options).map(drop)
    };
    let cases: [(Change, &str); 10] = [
        (&|o| o.steps = Some(13), "steps is 13, the checkpoint's is 12"),
        (&|o| o.lr = 2e-3, "lr is 0.002, the checkpoint's is 0.001"),
        (&|o| o.min_lr = Some(0.0), "min-lr is 0.0, the checkpoint's is 0.0001"),
        (&|o| o.warmup = Some(1), "warmup is 1, the checkpoint's is 2"),
        (&|o| o.lr_shape = horizon::train::LrShape::Wsd, "schedule is wsd, the checkpoint's is linear"),
        (&|o| o.seed = 4, "seed is 4, the checkpoint's is 3"),
        (&|o| o.shuffle = false, "no-shuffle is true, the checkpoint's is false"),
        (&|o| o.trainer.micros_max = 1, "micros_max is 1, the checkpoint's is 2"),
        (&|o| o.trainer.shape.b = 1, "shape.b is 1, the checkpoint's is 2"),
        (&|o| o.trainer.adam.beta2 = 0.5, "beta2 is 0.5, the checkpoint's is 0.999"),
    ];
    for (change, sentence) in cases {
        let error = attempt(change).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(sentence), "{error}");
    }
    // Allowed options may differ; the position in the data stays.
    let allowed = |o: &mut RunOptions| {
        (o.steps, o.lr, o.warmup) = (Some(5), 5e-4, Some(0));
        o.resume.as_mut().unwrap().changes = Changes::of(["steps", "lr", "min-lr", "warmup"]);
    };
    attempt(&allowed).unwrap();
    let error = attempt(&|o| {
        allowed(o);
        o.steps = Some(2);
    });
    assert!(
        error.unwrap_err().message().contains("the checkpoint is of step 3, but the run has only 2 steps")
    );
    fs::write(dir.path().join("text.txt"), "another text, of the same length".repeat(8)).unwrap();
    let error = attempt(&|_| ()).unwrap_err();
    assert!(error.message().contains("windows an epoch") || error.message().contains("hash"), "{error}");
}

#[test]
fn checkpoints_of_another_run_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    trained(dir.path(), run_options(&mine, 0), Some(1));
    trained(dir.path(), run_options(&other, 0), Some(1));
    let before = states(&step_folder(&other, 1));
    let error = started(dir.path(), run_options(&other, 1)).map(drop).unwrap_err();
    assert!(error.message().contains("has checkpoints already"), "{error}");
    let options = RunOptions { resume: resume(&mine), ..run_options(&other, 1) };
    let error = started(dir.path(), options).map(drop).unwrap_err();
    assert_eq!(error.status(), Status::InvalidState);
    assert!(error.message().contains("other has checkpoints already"), "{error}");
    assert!(states(&step_folder(&other, 1)) == before);
    // Two runs at the same time are refused.
    let running = started(dir.path(), RunOptions { resume: resume(&mine), ..run_options(&mine, 1) }).unwrap();
    let error = started(dir.path(), RunOptions { resume: resume(&mine), ..run_options(&mine, 1) });
    assert!(error.map(drop).unwrap_err().message().contains("another run writes its checkpoints"));
    drop(running);
}

#[test]
fn the_log_has_every_step_once() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let (folder, log) = (dir.path().join("run"), dir.path().join("log.jsonl"));
    let logged = |options: RunOptions| RunOptions { log: Some(log.clone()), ..options };
    let steps = || -> Vec<u64> {
        let text = fs::read_to_string(&log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["step"].as_u64().unwrap()).collect()
    };
    trained(dir.path(), logged(run_options(&folder, 4)), Some(6));
    assert_eq!(steps(), [1, 2, 3, 4, 5, 6]);
    // Resuming from step 4 replaces the records of later steps.
    let options = RunOptions { resume: resume(&step_folder(&folder, 4)), ..run_options(&folder, 4) };
    let (_, watch) = trained(dir.path(), logged(options), None);
    let [warning] = &watch.warnings[..] else { panic!("{:?}", watch.warnings) };
    for word in ["/run has 1 checkpoint of steps after step 4", "up to step 6", "--checkpoint-dir"] {
        assert!(warning.contains(word), "no {word:?} in {warning}");
    }
    assert_eq!(steps(), (1..=STEPS).collect::<Vec<_>>());
    // Resuming after the last step changes nothing.
    let options = RunOptions { resume: resume(&folder), ..run_options(&folder, 4) };
    let (outcome, watch) = trained(dir.path(), logged(options), None);
    assert_eq!((outcome.steps, watch.records.len(), watch.saved.len()), (STEPS, 0, 0));
    assert_eq!(steps(), (1..=STEPS).collect::<Vec<_>>());
    // It only removes the old checkpoints that a killed run has left.
    let mut options = RunOptions { resume: resume(&folder), ..run_options(&folder, 4) };
    options.save.as_mut().unwrap().keep = NonZeroUsize::new(2);
    trained(dir.path(), options, None);
    assert_eq!(names(&folder), [".lock", "latest", "step-00000008", "step-00000012"]);
}

/// A file in place of a checkpoint makes that checkpoint fail.
#[test]
fn a_failed_checkpoint_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let folder = dir.path().join("run");
    let mut run = started(dir.path(), run_options(&folder, 2)).unwrap();
    fs::write(folder.join("step-00000004"), "").unwrap();
    let (mut watch, stop) = (Watch::default(), AtomicBool::new(false));
    let outcome = run.train(&mut Stopper(&mut watch, &stop), &stop).unwrap();
    assert_eq!((outcome.steps, watch.saved), (STEPS, vec![2, 6, 8, 10, 12]));
    assert_eq!(watch.warnings.len(), 1);
    for word in [
        "the checkpoint of step 4 failed",
        "step-00000004",
        "the checkpoint of step 2 is kept",
        "training continues",
    ] {
        assert!(watch.warnings[0].contains(word), "{}", watch.warnings[0]);
    }
}
