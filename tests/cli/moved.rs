//! Runs that are resumed after their project was moved or restored, or that cannot be noted; jobs of
//! one line.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use horizon::checkpoint::Manifest;

use super::origins::{copy, records, run_of};
use super::{Ran, horizon_in, names, short, write_text};

/// A folder `sub` with a run of two steps in `sub/run`, its log and its export.
fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).unwrap();
    write_text(&sub.join("text.txt"));
    horizon_in(&sub, &short(&RUN)).well();
    dir
}

const RUN: [&str; 12] = [
    "--data",
    "text.txt",
    "--steps",
    "2",
    "--checkpoint-dir",
    "run",
    "--checkpoint-every",
    "1",
    "--log",
    "log.jsonl",
    "--out",
    "run/out",
];

fn resume(dir: &Path, more: &[&str]) -> Ran {
    horizon_in(dir, &[&["train", "--resume"], more].concat())
}

/// Runs a line of a shell in which `$0` is the command.
fn shell(dir: &Path, line: &str) -> Ran {
    let binary = env!("CARGO_BIN_EXE_horizon");
    Command::new("bash").args(["-c", line, binary]).current_dir(dir).output().unwrap().into()
}

#[test]
fn a_moved_project_is_found_again() {
    let dir = furnished();
    let here = |name: &str| dir.path().join(name).canonicalize().unwrap().display().to_string();
    let id = run_of(&dir.path().join("sub/run/out/horizon.json"));
    fs::rename(dir.path().join("sub"), dir.path().join("sub2")).unwrap();
    let ran = resume(&dir.path().join("sub2"), &["run/step-00000001"]).well();
    let outputs = format!("outputs    log {}, export {}, ", here("sub2/log.jsonl"), here("sub2/run/out"));
    assert!(ran.err.contains(&outputs), "{}", ran.err);
    assert_eq!(records(&dir.path().join("sub2/log.jsonl")), [(id.clone(), 1), (id.clone(), 2)]);
    assert_eq!(names(dir.path()), ["sub2"], "the old folder is not made again");
    // The folder of checkpoints alone was moved, and the rest is gone.
    fs::rename(dir.path().join("sub2/run"), dir.path().join("run")).unwrap();
    fs::rename(dir.path().join("sub2"), dir.path().join("sub3")).unwrap();
    let words = ["sub2/text.txt is gone", "read as --data", "add --data PATH"];
    resume(dir.path(), &["run"]).badly(1, &words);
    let ran = resume(dir.path(), &["run/step-00000002", "--data", "sub3/text.txt", "--quiet"]).well();
    assert!(ran.err.contains("not write to --log /") && !ran.err.contains("--out"), "{}", ran.err);
    assert_eq!(names(dir.path()), ["run", "sub3"]);
}

#[test]
fn a_noted_output_whose_folder_is_gone_is_not_written() {
    let dir = furnished();
    let sub = dir.path().join("sub");
    let log = ["run/step-00000001", "--log", "../logs/log.jsonl", "--quiet"];
    fs::create_dir(dir.path().join("logs")).unwrap();
    resume(&sub, &log).well();
    fs::remove_dir_all(dir.path().join("logs")).unwrap();
    let ran = resume(&sub, &["run", "--quiet"]).well();
    for word in ["warning: ", "not write to --log /", "logs/log.jsonl", "is gone", "add --log FILE"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    assert!(!ran.err.contains("--out"), "{}", ran.err);
    assert_eq!(names(dir.path()), ["sub"]);
}

#[test]
fn a_restored_run_continues_the_log_that_is_named() {
    let dir = furnished();
    let (sub, other) = (dir.path().join("sub"), dir.path().join("other"));
    let id = run_of(&sub.join("run/out/horizon.json"));
    copy(&sub, &other);
    let from = ["run/step-00000001", "--quiet", "--data", "text.txt"];
    let ran = resume(&other, &[&from[..], &["--log", "log.jsonl"]].concat()).well();
    assert!(ran.err.contains("add --out DIR") && !ran.err.contains("--log"), "{}", ran.err);
    assert_eq!(records(&other.join("log.jsonl")), [(id.clone(), 1), (id.clone(), 2)]);
    assert_eq!(run_of(&other.join("run/step-00000002/manifest.json")), id);
    // From then on it is at home there. The same for the export alone.
    assert!(resume(&other, &["run", "--quiet"]).well().err.is_empty());
    copy(&sub, &dir.path().join("third"));
    resume(&dir.path().join("third"), &[&from[..], &["--out", "run/out"]].concat()).well();
    assert_eq!(run_of(&dir.path().join("third/run/step-00000002/manifest.json")), id);
    // A branch and a log of another run do not.
    copy(&sub, &dir.path().join("fourth"));
    let fourth = |more: &[&str]| resume(&dir.path().join("fourth"), &[&from[..], more].concat());
    let words = ["log.jsonl is the log of another run"];
    fourth(&["--log", "log.jsonl", "--checkpoint-dir", "branch"]).badly(1, &words);
    let new = ["--data", "text.txt", "--steps", "1", "--log", "log.jsonl"];
    horizon_in(&dir.path().join("fourth"), &short(&new)).well();
    fourth(&["--log", "log.jsonl"]).badly(1, &words);
}

#[test]
fn paths_that_checkpoints_cannot_note_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("a\tb.txt"));
    write_text(&dir.path().join("text.txt"));
    let run = |more: &[&str]| {
        let binary = env!("CARGO_BIN_EXE_horizon");
        let mut command = Command::new(binary);
        command.args(short(&["--steps", "1"])).args(more).current_dir(dir.path());
        command
    };
    let kept = ["--checkpoint-dir", "run", "--data"];
    let ran: Ran = run(&[&kept[..], &["a\tb.txt"]].concat()).output().unwrap().into();
    ran.badly(1, &["--data a\\tb.txt: it has a control character", "rename it"]);
    let many = ["--data=t"; 65_537];
    let ran: Ran = run(&[&kept[..2], &many].concat()).output().unwrap().into();
    ran.badly(1, &["65536 values", "give folders"]);
    let log = std::ffi::OsStr::from_bytes(b"log\xff.jsonl");
    let ran: Ran = run(&[&kept[..], &["text.txt", "--log"]].concat()).arg(log).output().unwrap().into();
    ran.badly(1, &["it is not UTF-8", "rename it"]);
    assert_eq!(names(dir.path()), ["a\tb.txt", "text.txt"]);
    // Without checkpoints all are fine.
    let ran: Ran = run(&["--data", "a\tb.txt", "--log"]).arg(log).output().unwrap().into();
    ran.well();
    assert!(dir.path().join(log).exists());
}

#[test]
fn descriptors_are_not_noted_and_must_be_given_again() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let run = "\"$0\" train --quiet --seq-len 32 --micro-batch 2 --threads 1 --steps 1 --checkpoint-dir run";
    let line = format!("{run} --data <(cat text.txt) --log /dev/stdout");
    let ran = shell(dir.path(), &line).well();
    assert!(ran.err.contains("warning: --data and --log: ") && ran.err.contains("again"), "{}", ran.err);
    assert!(ran.out.contains("\"step\":1"), "{}", ran.out);
    let words = ["from a pipe", "give the same data again with --data"];
    resume(dir.path(), &["run"]).badly(1, &words);
    let ran = resume(dir.path(), &["run", "--data", "text.txt", "--quiet"]).well();
    assert!(ran.err.contains("the log of the run was a pipe"), "{}", ran.err);
}

#[test]
fn one_line_begins_a_run_and_continues_it() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let line = [&RUN[..], &["--resume", "run"]].concat();
    for made in [None, Some(""), Some(".lock")] {
        if let Some(file) = made {
            fs::remove_dir_all(dir.path().join("run")).unwrap();
            fs::create_dir(dir.path().join("run")).unwrap();
            if !file.is_empty() {
                fs::write(dir.path().join("run").join(file), "").unwrap();
            }
        }
        horizon_in(dir.path(), &short(&[&line[..], &["--init"]].concat())).well();
    }
    let id = run_of(&dir.path().join("run/step-00000002/manifest.json"));
    fs::remove_dir_all(dir.path().join("run/step-00000002")).unwrap();
    fs::remove_file(dir.path().join("run/latest")).unwrap();
    horizon_in(dir.path(), &short(&line)).well();
    assert_eq!(records(&dir.path().join("log.jsonl")), [(id.clone(), 1), (id.clone(), 2)]);
    // The same command without --resume names it; one that died early has nothing to resume.
    let words = ["run has checkpoints already", "to continue them: --resume ", "another folder"];
    horizon_in(dir.path(), &short(&RUN)).badly(1, &words);
    fs::create_dir(dir.path().join("early")).unwrap();
    fs::write(dir.path().join("early/.lock"), "").unwrap();
    resume(dir.path(), &["early"]).badly(1, &["has no checkpoint yet", "start it again without --resume"]);
    horizon_in(dir.path(), &short(&[&RUN[..], &["--resume", "nowhere"]].concat()))
        .badly(1, &["nowhere does not exist"]);
}

#[test]
fn a_finished_run_exports_and_shows_its_paths() {
    let dir = furnished();
    let sub = dir.path().join("sub");
    assert!(resume(&sub, &["run", "--out", "new", "--quiet"]).well().err.is_empty());
    assert!(sub.join("new/model.safetensors").exists());
    let shown = horizon_in(&sub, &["info", "run"]).well().out;
    let id = run_of(&sub.join("new/horizon.json"));
    let place = |name: &str| sub.canonicalize().unwrap().join(name).display().to_string();
    for (name, value) in [
        ("run", id),
        ("--data", place("text.txt")),
        ("--log", place("log.jsonl")),
        ("--out", place("run/out")),
    ] {
        assert!(shown.contains(&format!("{name:<13} {value}\n")), "no {name} {value} in {shown}");
    }
    // A branch that is refused warns of nothing.
    let ran = resume(&sub, &["run", "--checkpoint-dir", "text.txt"]);
    assert!(!ran.err.contains("warning"), "{}", ran.err);
    ran.badly(1, &["text.txt"]);
}

#[test]
fn changes_name_only_what_can_change() {
    let dir = furnished();
    let sub = dir.path().join("sub");
    let run = |more: &[&str]| resume(&sub, &[&["run", "--quiet"], more].concat());
    let ran = run(&["--seq-len", "16"]);
    assert!(!ran.err.contains("--resume-change") && !ran.err.contains("logits"), "{}", ran.err);
    ran.badly(1, &["seq-len is 16, the checkpoint's is 32; use the checkpoint's values"]);
    for name in ["data", "seq-len", "val-fraction"] {
        let words = ["cannot change", name, "--out EXPORT", "--model EXPORT", "these can change: mode"];
        run(&["--resume-change", name]).badly(1, &words);
    }
    let ran = run(&["--resume-change", "colour"]);
    assert!(!ran.err.contains("logits") && !ran.err.contains("seq-len"), "{}", ran.err);
    ran.badly(1, &["no option is named colour"]);
    // The warmup of other steps, the minimum of another learning rate, the chunk of another batch.
    let changes =
        ["--steps", "40", "--lr", "1e-4", "--micro-batch", "3", "--resume-change", "steps,lr,micro-batch"];
    fs::remove_dir_all(sub.join("run/out")).unwrap();
    run(&[&changes[..], &["--warmup", "7"]].concat()).badly(1, &["warmup is 7, the checkpoint's is 1"]);
    run(&changes).well();
}

#[test]
fn built_in_data_is_that_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let run = ["--steps", "1", "--checkpoint-dir", "run", "--val-batches", "1"];
    horizon_in(dir.path(), &short(&run)).well();
    let path = dir.path().join("run/step-00000001/manifest.json");
    let mut manifest = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
    manifest.position.as_mut().unwrap().windows += 1;
    fs::write(path, manifest.seal().unwrap()).unwrap();
    resume(dir.path(), &["run"])
        .badly(1, &["built-in data is that of the program that wrote the checkpoint"]);
}
