//! Checkpoints that are continued, branched off, moved, copied, or of another user.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use horizon::checkpoint::Manifest;
use serde_json::{Value, json};

use super::{Ran, horizon_in, names, short, write_text};

/// A folder with a run of four steps that was to have six: checkpoints of steps 2 and 4.
fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let run = ["--data", "text.txt", "--steps", "4", "--checkpoint-dir", "run", "--checkpoint-every", "2"];
    let outputs = ["--log", "log.jsonl", "--out", "out", "--export-dtype", "f32"];
    horizon_in(dir.path(), &short(&[&run[..], &outputs].concat())).well();
    dir
}

fn resume(dir: &Path, more: &[&str]) -> Ran {
    horizon_in(dir, &[&["train", "--quiet", "--resume"], more].concat())
}

/// Asserts success, and a warning only of checkpoints of later steps.
fn left_behind(ran: Ran) {
    let err = ran.well().err;
    assert!(err.lines().count() == 1 && err.contains("has 1 checkpoint of steps after step 2"), "{err}");
}

/// The run and the step of every record.
pub fn records(log: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(log).unwrap();
    let record = |line| -> Value { serde_json::from_str(line).unwrap() };
    let fields =
        |record: Value| (record["run"].as_str().unwrap().to_owned(), record["step"].as_u64().unwrap());
    text.lines().map(|line| fields(record(line))).collect()
}

/// The run noted in a checkpoint or an export.
pub fn run_of(file: &Path) -> String {
    let json: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let id = json.pointer("/manifest/note/run/id").unwrap_or(&json["run"]);
    id.as_str().unwrap().to_owned()
}

/// Rewrites the note of a checkpoint, with a checksum that matches.
fn rewrite(checkpoint: &Path, change: impl FnOnce(&mut Value)) {
    let path = checkpoint.join("manifest.json");
    let mut manifest = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest.note);
    fs::write(path, manifest.seal().unwrap()).unwrap();
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        match from.join(&name) {
            path if path.is_dir() => copy(&path, &to.join(name)),
            path => drop(fs::copy(path, to.join(name)).unwrap()),
        }
    }
}

/// Log and export.
fn outputs(dir: &Path) -> [Vec<u8>; 3] {
    ["log.jsonl", "out/horizon.json", "out/model.safetensors"].map(|name| fs::read(dir.join(name)).unwrap())
}

#[test]
fn a_run_continues_its_log_and_export() {
    let dir = furnished();
    let here = |name: &str| dir.path().join(name);
    let whole = records(&here("log.jsonl"));
    let id = run_of(&here("run/step-00000004/manifest.json"));
    assert_eq!(whole, [1, 2, 3, 4].map(|step| (id.clone(), step)));
    assert_eq!(run_of(&here("out/horizon.json")), id);
    // From an earlier step, given the log again, and after the folder was renamed.
    let weights = fs::read(here("out/model.safetensors")).unwrap();
    left_behind(resume(dir.path(), &["run/step-00000002"]));
    left_behind(resume(dir.path(), &["run/step-00000002", "--log", "log.jsonl"]));
    fs::rename(here("run"), here("moved")).unwrap();
    left_behind(resume(dir.path(), &["moved/step-00000002"]));
    assert_eq!(records(&here("log.jsonl")), whole);
    assert_eq!(run_of(&here("moved/step-00000004/manifest.json")), id);
    assert!(fs::read(here("out/model.safetensors")).unwrap() == weights);
    // Without its log and export it makes new ones.
    fs::remove_file(here("log.jsonl")).unwrap();
    fs::remove_dir_all(here("out")).unwrap();
    left_behind(resume(dir.path(), &["moved/step-00000002"]));
    assert_eq!(records(&here("log.jsonl")), whole[2..]);
    assert_eq!(run_of(&here("out/horizon.json")), id);
}

#[test]
fn a_run_leaves_alone_what_others_have_put_in_place_of_its_log_and_export() {
    let dir = furnished();
    let fresh = ["--data", "text.txt", "--steps", "1", "--log", "log.jsonl", "--out", "out"];
    horizon_in(dir.path(), &short(&fresh)).well();
    let before = outputs(dir.path());
    let ran = resume(dir.path(), &["run/step-00000002"]).well();
    for word in ["warning: ", "/log.jsonl", "/out", "not of this run", "--log FILE and --out DIR"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    resume(dir.path(), &["run/step-00000002", "--log", "log.jsonl"]).badly(1, &["the log of another run"]);
    fs::write(dir.path().join("notes.txt"), "years of work").unwrap();
    resume(dir.path(), &["run/step-00000002", "--log", "notes.txt"]).badly(1, &["not the log of a run"]);
    assert!(outputs(dir.path()) == before);
}

#[test]
fn a_branch_has_its_own_id_log_and_export() {
    let dir = furnished();
    let here = |name: &str| dir.path().join(name);
    let (before, id) = (outputs(dir.path()), run_of(&here("out/horizon.json")));
    let ran = resume(dir.path(), &["run/step-00000002", "--checkpoint-dir", "other"]).well();
    for word in ["warning: ", "/log.jsonl", "/out", "branches off", "--log FILE and --out DIR"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    let branch = run_of(&here("other/step-00000004/manifest.json"));
    assert_ne!(branch, id);
    let again = ["run/step-00000002", "--checkpoint-dir", "third", "--log", "log.jsonl"];
    resume(dir.path(), &again).badly(1, &["log.jsonl is the log of another run"]);
    assert!(outputs(dir.path()) == before);
    // The branch continues its own.
    let ends = ["--steps", "5", "--resume-change", "steps,warmup", "--log", "other.jsonl", "--out", "tuned"];
    assert!(resume(dir.path(), &[&["other"], &ends[..]].concat()).well().err.is_empty());
    assert_eq!(records(&here("other.jsonl")), [(branch.clone(), 5)]);
    assert_eq!(run_of(&here("tuned/horizon.json")), branch);
}

#[test]
fn a_copied_checkpoint_uses_only_paths_of_the_command_line() {
    let dir = furnished();
    let here = |name: &str| dir.path().join(name);
    copy(&here("run"), &here("copied"));
    let before = outputs(dir.path());
    let data = format!("add --data {}", here("text.txt").canonicalize().unwrap().display());
    resume(dir.path(), &["copied"]).badly(1, &["is a copy: restored from a backup", &data]);
    let ran = resume(dir.path(), &["copied/step-00000002", "--data", "text.txt"]).well();
    for word in ["warning: ", "/log.jsonl", "/out", "is a copy"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    assert!(outputs(dir.path()) == before);
    assert_ne!(run_of(&here("copied/step-00000004/manifest.json")), run_of(&here("out/horizon.json")));
    // From then on its checkpoints are of this folder.
    assert!(resume(dir.path(), &["copied"]).well().err.is_empty());
    // The same holds for a checkpoint that another user owns, if one can be made here,
    let owner = fs::metadata(here("run")).unwrap().uid();
    if chown(here("run"), Some(1), None).is_ok() {
        resume(dir.path(), &["run"]).badly(1, &["belongs to another user", &data]);
        chown(here("run"), Some(owner), None).unwrap();
    }
    // and for one without an id, as earlier versions wrote them.
    rewrite(&here("run/step-00000002"), |note| drop(note.as_object_mut().unwrap().remove("run")));
    resume(dir.path(), &["run/step-00000002"]).badly(1, &["is of an earlier version", &data]);
    resume(dir.path(), &["run/step-00000002", "--data", "text.txt"]).well();
    assert!(outputs(dir.path()) == before);
}

#[test]
fn a_strangers_checkpoint_is_refused_at_worst() {
    let dir = furnished();
    copy(&dir.path().join("run"), &dir.path().join("gift"));
    let gift = dir.path().join("gift/step-00000004");
    let before = (outputs(dir.path()), names(dir.path()));
    let given = fs::read(gift.join("manifest.json")).unwrap();
    let attempt = |change: &dyn Fn(&mut Value), words: &[&str]| {
        fs::write(gift.join("manifest.json"), &given).unwrap();
        rewrite(&gift, |note| change(note));
        resume(dir.path(), &["gift/step-00000004", "--checkpoint-dir", "new"]).badly(1, words);
        assert!((outputs(dir.path()), names(dir.path())) == before);
    };
    let set =
        |name: &'static str, value: Value| move |note: &mut Value| note["options"][name] = value.clone();
    for path in ["/dev/zero", "/proc/kmsg", "/no/such/file", "$(touch hacked)"] {
        attempt(&set("data", json!([path])), &["the paths that it notes are not used", path]);
    }
    attempt(&set("data", json!(["it's"])), &["add --data 'it'\\''s'"]);
    attempt(&set("data", json!(["\u{1b}[2J"])), &["notes for --data cannot be"]);
    attempt(&set("data", json!(vec!["x"; 70_000])), &["more than 65536 values"]);
    attempt(&set("data", json!([])), &["notes for --data cannot be"]);
    attempt(&set("data", json!(["text.txt"])), &["the paths that it notes are not used"]);
    attempt(&set("no-shuffle", json!(["x"])), &["notes for --no-shuffle cannot be"]);
    attempt(
        &set("gemm-table", json!(["/dev/zero"])),
        &["it notes the option --gemm-table, which is unknown"],
    );
    attempt(&set("machine\n", json!(["x"])), &["the option --machine\\n, which is unknown"]);
    attempt(
        &|note| note["options"] = json!("x"),
        &["cannot be resumed by this", "does not note the options of a run"],
    );
    attempt(&|note| note["descriptors"] = json!(["colour", "val"]), &["are not used"]);
    attempt(&|note| *note = json!({"options": {"data": ["x"]}, "run": "x"}), &["are not used"]);
}
