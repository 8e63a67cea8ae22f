//! Tests checkpoints through the library: state is restored bit for bit, and errors name damaged
//! files.

mod folders;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use horizon::base::{DType, Dims, Error, OwnedProgress, Shape, Status, unwatched};
use horizon::checkpoint::{Changes, Checkpoint, Checkpoints, Note, open};
use horizon::engine::{Batch, Sink, StateSpan, Trainer, TrainerOptions, UnitState};
use horizon::hf::FolderConfig;
use horizon::model::{ModelConfig, Rope};
use horizon::schedule::{GradWait, Mode};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use support::folder::{names, states};

const T: usize = 7;

fn config() -> ModelConfig {
    ModelConfig {
        positions_max: 16,
        ..ModelConfig::llama(Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 19, l: 3 })
    }
}

fn options() -> TrainerOptions {
    TrainerOptions { shape: Shape { b: 2, t: T }, threads: Some(2), ..TrainerOptions::default() }
}

fn opened(options: &TrainerOptions) -> Trainer {
    Trainer::open(&config(), options).unwrap()
}

fn steps(trainer: &mut Trainer, count: u64) {
    for _ in 0..count {
        let step = trainer.stats().steps as i32;
        let tokens: Vec<i32> = (0..2 * T as i32).map(|at| (at * 5 + step) % 19).collect();
        let targets: Vec<i32> = (0..2 * T as i32).map(|at| (at * 3 + step + 1) % 19).collect();
        let batch = Batch::new(&tokens, &targets);
        trainer.step(&[batch], 1e-2).unwrap();
    }
}

/// Opens a trainer with fresh weights and runs `count` steps.
fn trained(options: &TrainerOptions, count: u64) -> Trainer {
    let mut trainer = opened(options);
    trainer.write_fresh(3).unwrap();
    steps(&mut trainer, count);
    trainer
}

fn checkpoints(folder: &Path, keep: Option<usize>) -> Arc<Checkpoints> {
    let config = FolderConfig::of(config()).unwrap();
    Arc::new(
        Checkpoints::create(folder, config.files(DType::Bf16), keep.and_then(NonZeroUsize::new)).unwrap(),
    )
}

fn save(trainer: &mut Trainer, to: &Arc<Checkpoints>) {
    let note = Note { note: json!({ "of": "a test" }), ..Note::default() };
    trainer.save(to.writer(trainer, note).unwrap()).unwrap();
    trainer.save_wait().unwrap();
}

/// Writes checkpoints of steps 2 and 3; returns the state after step 3.
fn write_two(folder: &Path) -> Vec<u8> {
    let mut trainer = trained(&options(), 2);
    let to = checkpoints(folder, None);
    save(&mut trainer, &to);
    steps(&mut trainer, 1);
    save(&mut trainer, &to);
    state(&mut trainer)
}

fn restored(checkpoint: &Checkpoint, options: &TrainerOptions) -> Result<Trainer, Error> {
    let mut trainer = opened(options);
    checkpoint.restore_into(&mut trainer, &Changes::none(), &unwatched)?;
    Ok(trainer)
}

/// Returns every byte of the state, by saving a checkpoint.
fn state(trainer: &mut Trainer) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    save(trainer, &checkpoints(dir.path(), None));
    states(open(dir.path()).unwrap().folder())
}

#[test]
fn a_saved_state_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let want = write_two(dir.path());
    let checkpoint = open(dir.path()).unwrap();
    assert_eq!(checkpoint.folder(), dir.path().join("step-00000003"));
    checkpoint.verify().unwrap();
    let manifest = checkpoint.manifest();
    assert_eq!((manifest.step, manifest.tokens, manifest.position), (3, 3 * 2 * T as u64, None));
    assert_eq!((&manifest.numeric["clip"], &manifest.numeric["mode"]), (&json!(1.0), &json!("exact")));
    assert_eq!((&manifest.model["hidden_size"], &manifest.note), (&json!(8), &json!({ "of": "a test" })));
    let mut trainer = restored(&checkpoint, &options()).unwrap();
    assert_eq!((trainer.stats().steps, trainer.stats().tokens), (3, manifest.tokens));
    assert!(state(&mut trainer) == want);
    // The checkpoint also has the model's config.
    assert_eq!(FolderConfig::open(checkpoint.folder()).unwrap().model, config());
    // A checkpoint is opened by its own path; without `latest`, the newest.
    assert_eq!(open(&dir.path().join("step-00000002")).unwrap().manifest().step, 2);
    fs::remove_file(dir.path().join("latest")).unwrap();
    assert_eq!(open(dir.path()).unwrap().manifest().step, 3);
}

#[test]
fn a_run_resumes_from_every_step_in_every_mode() {
    for (mode, grad_wait) in
        [(Mode::Exact, GradWait::Host), (Mode::Streamed, GradWait::Device), (Mode::Compact, GradWait::Host)]
    {
        let plain = TrainerOptions { mode, grad_wait, ..options() };
        let want = state(&mut trained(&plain, 4));
        let dir = tempfile::tempdir().unwrap();
        let to = checkpoints(dir.path(), None);
        let mut trainer = trained(&plain, 0);
        for _ in 0..4 {
            // The next step runs during the save.
            trainer.save(to.writer(&trainer, Note::default()).unwrap()).unwrap();
            steps(&mut trainer, 1);
            trainer.save_wait().unwrap();
        }
        for stop in 0..4 {
            let checkpoint = open(&dir.path().join(format!("step-{stop:08}"))).unwrap();
            let placed = TrainerOptions {
                threads: Some(1 + stop % 3),
                weight_slots: 2 + stop % 2,
                grad_wait: if stop == 3 { GradWait::Device } else { grad_wait },
                ..plain.clone()
            };
            let mut trainer = restored(&checkpoint, &placed).unwrap();
            steps(&mut trainer, 4 - stop as u64);
            assert!(state(&mut trainer) == want, "{mode:?} from step {stop}");
        }
    }
}

type Change<'a> = &'a dyn Fn(&mut TrainerOptions);

fn refusal(checkpoint: &Checkpoint, config: &ModelConfig, change: Change) -> Error {
    let mut options = options();
    change(&mut options);
    let mut trainer = Trainer::open(config, &options).unwrap();
    trainer.write_fresh(3).unwrap();
    let error = checkpoint.restore_into(&mut trainer, &Changes::none(), &unwatched).unwrap_err();
    // The trainer is unchanged.
    assert_eq!((trainer.stats().steps, error.status()), (0, Status::InvalidArgument));
    trainer.sync().unwrap();
    error
}

#[test]
fn errors_name_every_difference() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let checkpoint = open(dir.path()).unwrap();
    let cases: [(Change, &str); 10] = [
        (&|o| o.mode = Mode::Compact, "mode is Mode::Compact, the checkpoint's is Mode::Exact"),
        (&|o| o.shape.b = 3, "shape.b is 3, the checkpoint's is 2"),
        (&|o| o.shape.t = 6, "shape.t is 6, the checkpoint's is 7"),
        (&|o| o.logits_chunk = Some(5), "logits_chunk is 5, the checkpoint's is 14"),
        (&|o| o.grad_dtype = DType::F32, "grad_dtype is DType::F32, the checkpoint's is DType::Bf16"),
        (&|o| o.clip = 0.1, "clip is 0.1, the checkpoint's is 1.0"),
        (&|o| o.adam.beta1 = 0.8, "beta1 is 0.8, the checkpoint's is 0.9"),
        (&|o| o.adam.beta2 = 0.8, "beta2 is 0.8, the checkpoint's is 0.999"),
        (&|o| o.adam.eps = 0.5, "eps is 0.5, the checkpoint's is 1e-8"),
        (&|o| o.adam.weight_decay = 0.5, "weight_decay is 0.5, the checkpoint's is 0.01"),
    ];
    for (change, sentence) in cases {
        let error = refusal(&checkpoint, &config(), change);
        assert!(error.message().contains(sentence), "{error}");
    }
    let both = refusal(&checkpoint, &config(), &|o| (o.clip, o.adam.beta1) = (0.5, 0.5));
    assert!(both.message().contains("allow the change (Changes::of([\"clip\", \"beta1\"]))"), "{both}");
    let wide = ModelConfig { rope: Rope { theta: 7.0, ..Rope::default() }, tied: true, ..config() };
    let error = refusal(&checkpoint, &wide, &|_| ());
    for word in [
        "another model",
        "rope_theta is 7.0, the checkpoint's is 10000.0",
        "tie_word_embeddings is true, the checkpoint's is false",
    ] {
        assert!(error.message().contains(word), "{error}");
    }
    let mut trainer = opened(&options());
    let error = checkpoint.restore_into(&mut trainer, &Changes::of(["colour"]), &unwatched).unwrap_err();
    assert!(error.message().contains("`colour` cannot change"), "{error}");
    let error = checkpoint.restore_into(&mut trainer, &Changes::of(["slots"]), &unwatched).unwrap_err();
    assert!(error.message().contains("`weight_slots` need not be listed"), "{error}");
}

#[test]
fn the_mode_may_change_if_allowed() {
    let modes = [Mode::Exact, Mode::Streamed, Mode::Compact];
    for from in modes {
        let dir = tempfile::tempdir().unwrap();
        let under = |mode| TrainerOptions { mode, grad_wait: GradWait::Device, ..options() };
        let mut trainer = trained(&under(from), 3);
        save(&mut trainer, &checkpoints(dir.path(), None));
        let checkpoint = open(dir.path()).unwrap();
        for to in modes.into_iter().filter(|&to| to != from) {
            let mut trainer = opened(&under(to));
            checkpoint.restore_into(&mut trainer, &Changes::none(), &unwatched).unwrap_err();
            checkpoint.restore_into(&mut trainer, &Changes::of(["mode"]), &unwatched).unwrap();
            let (was, is) = (spans(&mut restored(&checkpoint, &under(from)).unwrap()), spans(&mut trainer));
            for ((unit, span, was), (_, _, is)) in was.into_iter().zip(is) {
                let want = match (matches!(span, StateSpan::Optimizer(_)), from, to) {
                    (true, _, Mode::Compact) => was
                        .as_chunks()
                        .0
                        .iter()
                        .flat_map(|&bytes| half::bf16::from_f32(f32::from_le_bytes(bytes)).to_le_bytes())
                        .collect(),
                    (true, Mode::Compact, _) => was
                        .as_chunks()
                        .0
                        .iter()
                        .flat_map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32().to_le_bytes())
                        .collect(),
                    _ => was,
                };
                assert!(is == want, "{from:?} to {to:?}, {span:?} of unit {unit}");
            }
            steps(&mut trainer, 1);
            assert_eq!(trainer.stats().steps, 4);
        }
    }
}

/// Returns unit, span and bytes of all spans.
fn spans(trainer: &mut Trainer) -> Vec<(usize, StateSpan, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    save(trainer, &checkpoints(dir.path(), None));
    let checkpoint = open(dir.path()).unwrap();
    let manifest = checkpoint.manifest();
    let mut spans = Vec::new();
    for (number, unit) in manifest.units.iter().enumerate() {
        let file = fs::read(checkpoint.folder().join(&unit.name)).unwrap();
        for span in StateSpan::all(manifest.optimizer()) {
            let (start, bytes) = manifest.locate(unit, span).unwrap();
            spans.push((number, span, file[start as usize..(start + bytes) as usize].to_vec()));
        }
    }
    spans
}

/// Opens and restores a damaged checkpoint; returns the error.
fn damage(folder: &Path) -> Error {
    let found = open(folder).and_then(|checkpoint| restored(&checkpoint, &options()).map(drop));
    found.expect_err("damage was not detected")
}

#[test]
fn a_flipped_bit_in_any_file_is_detected_and_the_file_named() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let step = dir.path().join("step-00000003");
    let mut files: Vec<PathBuf> = names(&step).iter().map(|name| step.join(name)).collect();
    files.push(dir.path().join("latest"));
    assert_eq!(files.len(), 9, "{files:?}");
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let flips = if std::env::var_os("HZ_LONG").is_some() { 1000 } else { 30 };
    for path in files {
        let whole = fs::read(&path).unwrap();
        let small = whole.len() < 100;
        for flip in 0..if small { 8 * whole.len() } else { flips } {
            let bit = if small { flip } else { rng.random_range(0..8 * whole.len()) };
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            let error = damage(dir.path());
            let (name, message) = (path.display().to_string(), error.message());
            assert_eq!(error.status(), Status::BadFormat, "bit {bit} of {name}: {error}");
            assert!(message.starts_with(&name), "bit {bit} of {name}: {error}");
            let complete = if path.ends_with("latest") { "step 3 is complete" } else { "step 2 is complete" };
            assert!(message.contains(complete) && message.contains("resume from"), "{error}");
        }
        fs::write(&path, whole).unwrap();
    }
    open(dir.path()).unwrap().verify().unwrap();
}

#[test]
fn truncated_long_missing_and_linked_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let step = dir.path().join("step-00000003");
    for name in names(&step) {
        let path = step.join(&name);
        let whole = fs::read(&path).unwrap();
        let named = |word: &str| {
            let error = damage(dir.path());
            assert!(
                error.message().starts_with("cannot read ")
                    || error.message().starts_with(path.to_str().unwrap())
            );
            for word in [path.to_str().unwrap(), word, "step-00000002"] {
                assert!(error.message().contains(word), "no {word:?} in: {error}");
            }
        };
        let is_manifest = name == "manifest.json";
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        named(if is_manifest { "manifest" } else { "truncated" });
        fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
        named(if is_manifest { "manifest" } else { "too long" });
        fs::remove_file(&path).unwrap();
        named("No such file");
        // A link to the right bytes outside of the folder.
        let outside = dir.path().join("outside");
        fs::write(&outside, &whole).unwrap();
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        named("it is a link, not a regular file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        named("it is a folder, not a regular file");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &whole).unwrap();
    }
    open(dir.path()).unwrap().verify().unwrap();
}

/// Returns the file of a changed manifest with a correct checksum.
fn forged(manifest: &Value) -> Vec<u8> {
    let text = serde_json::to_string_pretty(manifest).unwrap();
    let checksum = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    format!("{{\n\"checksum\": \"{checksum:016x}\",\n\"manifest\": {text}\n}}\n").into_bytes()
}

#[test]
fn an_inconsistent_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let path = dir.path().join("step-00000003/manifest.json");
    let sealed: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let whole = &sealed["manifest"];
    fs::write(&path, forged(whole)).unwrap();
    open(dir.path()).unwrap().verify().unwrap();
    let huge = json!(u64::MAX / 4);
    for (pointer, value, word) in [
        ("/version", json!(2), "version 2 of the format; this build reads version 1"),
        ("/step", json!(-1), "invalid value"),
        ("/moments", json!("f64"), "moments are \"f64\""),
        ("/files/0/name", json!("../step-00000002/config.json"), "is not the name of a file in this folder"),
        ("/files/0/name", json!("/etc/passwd"), "is not the name of a file in this folder"),
        ("/files/0/name", json!(".."), "is not the name of a file in this folder"),
        ("/files/0/name", json!("./config.json"), "is not the name of a file in this folder"),
        ("/files/0/name", json!(""), "is not the name of a file in this folder"),
        ("/units/0/name", json!("a/b"), "is not the name of a file in this folder"),
        ("/units/0/name", json!("manifest.json"), "\"manifest.json\" is listed twice"),
        ("/units/0/name", whole["units"][1]["name"].clone(), "is listed twice"),
        ("/units/0/elements", huge.clone(), "does not match its"),
        ("/units/0/bytes", huge.clone(), "does not match its"),
        ("/units/0/checksums/m", json!("AB"), "\"AB\" is not a checksum"),
        ("/files/0/bytes", huge, "truncated"),
        ("/files/0/checksum", json!("0000000000000000"), "but must be 0000000000000000"),
        ("/units", json!([]), "the units do not match its model"),
    ] {
        let mut changed = whole.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, forged(&changed)).unwrap();
        let error = damage(dir.path());
        assert!(error.message().contains(word), "{pointer}: {error}");
    }
    let mut more = whole.clone();
    more["surprise"] = json!(1);
    fs::write(&path, forged(&more)).unwrap();
    assert!(damage(dir.path()).message().contains("surprise"));
    for (name, value) in [("m", None), ("surprise", Some(json!("0123456789abcdef")))] {
        let mut changed = whole.clone();
        let checksums = changed["units"][1]["checksums"].as_object_mut().unwrap();
        match value {
            Some(value) => checksums.insert(name.to_owned(), value),
            None => checksums.shift_remove(name),
        };
        fs::write(&path, forged(&changed)).unwrap();
        let error = damage(dir.path());
        let word = "unit-00001.state must have one checksum each for weights, residual, m, v";
        assert!(error.status() == Status::BadFormat && error.message().contains(word), "{name}: {error}");
    }
    for text in ["", "{}", "[1]", "null", "{\"manifest\": 1}", "{\"checksum\": \"\", \"manifest\": {}}"] {
        fs::write(&path, text).unwrap();
        let error = damage(dir.path());
        assert!(error.message().contains("manifest.json") && error.status() == Status::BadFormat, "{error}");
    }
}

#[test]
fn latest_must_name_an_existing_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let to = checkpoints(dir.path(), None);
    to.set_latest(2).unwrap();
    assert_eq!(open(dir.path()).unwrap().manifest().step, 2);
    to.set_latest(7).unwrap();
    for word in ["step-00000007", "No such file", "step 3 is complete"] {
        assert!(damage(dir.path()).message().contains(word), "{}", damage(dir.path()));
    }
    for text in ["", "step-00000003", "../step-00000003 0\n", "/tmp 0\n", "step-3 0\n"] {
        fs::write(dir.path().join("latest"), text).unwrap();
        assert!(damage(dir.path()).message().contains("latest is damaged"), "{}", damage(dir.path()));
    }
    let empty = tempfile::tempdir().unwrap();
    for (path, word) in [
        (empty.path(), "has no complete checkpoint"),
        (&empty.path().join("none"), "does not exist; give a folder with a checkpoint"),
    ] {
        let error = open(path).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().contains(word), "{error}");
    }
}

/// A writer that fails at a unit, as if the disk were full.
struct Failing(Box<dyn Sink>, usize);

impl Sink for Failing {
    fn unit(&mut self, state: &UnitState) -> Result<(), Error> {
        if state.unit.at() == self.1 {
            return Err(Error::new(Status::DiskFull, "no space is left"));
        }
        self.0.unit(state)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.0.finish()
    }
}

#[test]
fn a_failed_save_leaves_the_previous_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let before = names(dir.path());
    let to = checkpoints(dir.path(), Some(1));
    let mut trainer = restored(&open(dir.path()).unwrap(), &options()).unwrap();
    let mut alone = trained(&options(), 3);
    for unit in 0..trainer.layout().units.len() {
        steps(&mut trainer, 1);
        steps(&mut alone, 1);
        let writer = to.writer(&trainer, Note::default()).unwrap();
        trainer.save(Box::new(Failing(writer, unit))).unwrap();
        steps(&mut trainer, 1);
        steps(&mut alone, 1);
        assert_eq!(trainer.save_wait().unwrap_err().status(), Status::DiskFull);
        assert_eq!(names(dir.path()), before);
        assert_eq!(open(dir.path()).unwrap().manifest().step, 3);
    }
    assert!(state(&mut trainer) == state(&mut alone));
    save(&mut trainer, &to);
    assert_eq!(open(dir.path()).unwrap().manifest().step, trainer.stats().steps);
}

#[test]
fn progress_is_watched_and_can_cancel() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = trained(&options(), 1);
    let to = checkpoints(dir.path(), None);
    let calls = Arc::new(Mutex::new(Vec::new()));
    /// Records the calls; fails in the one with this number.
    fn watch(calls: &Arc<Mutex<Vec<(u64, u64)>>>, fails_at: usize) -> OwnedProgress {
        let calls = calls.clone();
        Box::new(move |done, total| {
            calls.lock().push((done, total));
            let fails = calls.lock().len() == fails_at;
            if fails { Err(Error::new(Status::Cancelled, "enough")) } else { Ok(()) }
        })
    }
    let save = |trainer: &mut Trainer, fails_at| {
        trainer.save(to.writer(trainer, Note::default())?.watched(watch(&calls, fails_at)))?;
        trainer.save_wait()
    };
    let complete = |calls: &Mutex<Vec<(u64, u64)>>| {
        let calls = std::mem::take(&mut *calls.lock());
        assert!(calls.is_sorted() && calls.len() > 4, "{calls:?}");
        assert_eq!(calls.last().map(|(done, total)| done == total), Some(true), "{calls:?}");
        calls.len()
    };
    let before = names(dir.path());
    for fails_at in [1, 4] {
        assert_eq!(save(&mut trainer, fails_at).unwrap_err().status(), Status::Cancelled);
        assert_eq!(calls.lock().drain(..).len(), fails_at);
        assert_eq!(names(dir.path()), before);
    }
    save(&mut trainer, 0).unwrap();
    let last = complete(&calls);
    assert_eq!(save(&mut trainer, last).unwrap_err().status(), Status::Cancelled);
    calls.lock().clear();

    let checkpoint = open(dir.path()).unwrap();
    let restore = |trainer: &mut Trainer, fails_at| {
        checkpoint.restore_into(trainer, &Changes::none(), &watch(&calls, fails_at))
    };
    let mut resumed = opened(&options());
    restore(&mut resumed, 0).unwrap();
    complete(&calls);
    assert!(state(&mut resumed) == state(&mut trainer));
    let error = restore(&mut resumed, 3).unwrap_err();
    let message = "enough. The trainer has failed: open another";
    assert_eq!((error.status(), error.message()), (Status::Cancelled, message));
    assert_eq!(calls.lock().len(), 3, "nothing is reported after the error");
    assert_eq!(resumed.sync().unwrap_err(), error, "the trainer has failed");
}
