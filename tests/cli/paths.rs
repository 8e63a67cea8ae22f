//! Outputs never destroy: conflicts between paths, and files that are not outputs of a run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, horizon_in, names, short, write_text};

/// Inputs under `in`: option, path, and a file in it.
const INPUTS: [(&str, &str, &str); 7] = [
    ("--model", "in/model", "in/model/config.json"),
    ("--data", "in/data", "in/data/rows.jsonl"),
    ("--data", "in/text.txt", "in/text.txt"),
    ("--val", "in/val.txt", "in/val.txt"),
    ("--chat-template", "in/chat.jinja", "in/chat.jinja"),
    ("--gemm-table", "in/gemm.json", "in/gemm.json"),
    ("--machine", "in/here.json", "in/here.json"),
];

/// Outputs, and whether they are folders.
const OUTPUTS: [(&str, bool); 4] =
    [("--log", false), ("--trace", false), ("--out", true), ("--checkpoint-dir", true)];

fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["in/model", "in/data/deep"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    for (_, _, file) in INPUTS {
        fs::write(dir.path().join(file), format!("the only copy of {file}\n")).unwrap();
    }
    dir
}

/// Every path under a folder with its content; that of a folder is empty, that of a link its target.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = match fs::symlink_metadata(&path).unwrap() {
            facts if facts.is_dir() => {
                found.extend(tree(&path));
                Vec::new()
            }
            facts if facts.is_symlink() => {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            }
            _ => fs::read(&path).unwrap(),
        };
        found.insert(path, content);
    }
    found
}

/// Asserts that a command is refused with these words, and changes nothing.
fn refused(dir: &Path, arguments: &[&str], words: &[&str]) {
    let before = tree(dir);
    horizon_in(dir, arguments).badly(1, words);
    assert!(tree(dir) == before, "{arguments:?} changed files");
}

#[test]
fn no_output_of_a_run_may_touch_an_input() {
    let dir = furnished();
    let here = |path: &str| dir.path().join(path);
    for (option, input, file) in INPUTS {
        let is_folder = input != file;
        for (output, writes_folder) in OUTPUTS {
            let check = |path: &str, word: &str| {
                let words = [&format!("{output} {path}"), word, option, input, "give another path"];
                refused(dir.path(), &["train", option, input, output, path], &words);
            };
            check(input, "is the same as");
            check(&here(input).display().to_string(), "is the same as");
            check(&input.replace("in/", "in/data/../"), "is the same as");
            symlink(input, here("link")).unwrap();
            symlink(here("link"), here("twice")).unwrap();
            check("link", "is the same as");
            check("twice", "is the same as");
            if is_folder && (option != "--model" || writes_folder) {
                check(&format!("{input}/new"), "lies inside");
                check("link/new/deep", "lies inside");
            }
            if writes_folder {
                check("in", "contains");
            } else {
                fs::hard_link(here(file), here("hard")).unwrap();
                check("hard", if is_folder { "is linked from" } else { "is the same as" });
                fs::remove_file(here("hard")).unwrap();
            }
            fs::remove_file(here("link")).unwrap();
            fs::remove_file(here("twice")).unwrap();
        }
    }
    // A link out of the data, into an output that exists, and one that leads nowhere yet.
    fs::write(here("log.jsonl"), "").unwrap();
    symlink(here("log.jsonl"), here("in/data/deep/rows.jsonl")).unwrap();
    refused(dir.path(), &["train", "--data", "in/data", "--log", "log.jsonl"], &["is linked from --data"]);
    symlink("in/data/new", here("dangling")).unwrap();
    refused(dir.path(), &["train", "--data", "in/data", "--log", "dangling"], &["lies inside --data"]);
    symlink("../../new.jsonl", here("in/data/later.jsonl")).unwrap();
    refused(dir.path(), &["train", "--data", "in/data", "--log", "new.jsonl"], &["is linked from --data"]);
}

#[test]
fn conflicts_state_their_reason_and_a_remedy() {
    let dir = furnished();
    for (paths, words) in [
        (
            ["--data", "in/data", "--log", "in/data/x"],
            ["read it as a part of this input", "name files with --data"],
        ),
        (["--data", ".", "--out", "zzz"], ["read it as a part of this input", "name files with --data"]),
        (
            ["--data", "in/data", "--checkpoint-dir", "in/data"],
            ["read it as a part of", "with --checkpoint-dir"],
        ),
        (
            ["--data", "in/data", "--checkpoint-dir", "in"],
            ["need a folder without inputs", "with --checkpoint-dir"],
        ),
        (
            ["--data", "in/data", "--out", "in"],
            ["--out replaces the whole folder", "another path with --out"],
        ),
        (["--model", "in/model", "--out", "in/model/x"], ["no longer be the model alone", "with --out"]),
        (
            ["--out", "run/step-00000099", "--checkpoint-dir", "run"],
            ["latest, step-DIGITS and .* are reserved", "--out"],
        ),
        (
            ["--log", "run/.x", "--checkpoint-dir", "run"],
            ["latest, step-DIGITS and .* are reserved", "--log"],
        ),
    ] {
        let arguments = [&["train"][..], &paths].concat();
        let ran = horizon_in(dir.path(), &arguments);
        assert!(!ran.err.contains("overwrite"), "{}", ran.err);
        ran.badly(1, &words);
    }
}

#[test]
fn files_may_be_written_into_the_folder_of_a_model_and_into_new_folders() {
    let dir = tempfile::tempdir().unwrap();
    let here = |path: &str| dir.path().join(path);
    write_text(&here("text.txt"));
    let run = |more: &[&'static str]| short(&[&["--data", "text.txt", "--steps", "1"][..], more].concat());
    horizon_in(dir.path(), &run(&["--out", "base"])).well();
    let on = ["--model", "base", "--checkpoint-dir", "run/step-log", "--trace", "new/deep/trace.json"];
    horizon_in(dir.path(), &run(&[&on[..], &["--log", "base/log.jsonl"]].concat())).well();
    assert!(here("base/log.jsonl").is_file() && here("new/deep/trace.json").is_file());
    let words = ["base/config.json", "is not the log of a run"];
    refused(dir.path(), &run(&["--model", "base", "--log", "base/config.json"]), &words);
    // A resumed run does not overwrite the model with which it began, from wherever it is resumed.
    let resumed = ["--resume", "../run/step-log", "--steps", "2", "--resume-change", "steps,warmup", "--out"];
    let resumed = short(&[&resumed[..], &["../base"]].concat());
    let before = tree(dir.path());
    horizon_in(&here("new"), &resumed)
        .badly(1, &["--out ../base is the same as the --model of the checkpoint"]);
    assert!(tree(dir.path()) == before);
    horizon_in(dir.path(), &run(&["--log", "new/"])).badly(1, &["it names a folder"]);
    horizon_in(dir.path(), &run(&["--log", "text.txt/x"])).badly(1, &["text.txt"]);
    horizon_in(dir.path(), &run(&["--trace", "/dev/null", "--log", "/dev/null"])).well();
    // Standard output in a file is appended to.
    fs::write(here("all"), "before\n").unwrap();
    let script = "exec \"$0\" train --log /dev/stdout \"$@\" >> all";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_horizon")]).args(&run(&[])[1..]);
    for _ in 0..2 {
        assert!(command.current_dir(dir.path()).status().unwrap().success());
    }
    let text = fs::read_to_string(here("all")).unwrap();
    let beginnings: Vec<_> = text.lines().map(|line| &line[..6]).collect();
    assert_eq!(beginnings, ["before", "{\"run\"", "{\"run\""]);
}

#[test]
fn commands_replace_only_files_of_their_own_kind() {
    let dir = furnished();
    let here = |path: &str| dir.path().join(path);
    for file in ["trace.json", "pytorch_model.bin", "machine.json", "horizon.1"] {
        fs::write(here(file), "PK\x03\x04 years of work").unwrap();
    }
    let tokenize = ["tokenize", "--model", "tiny", "--data", "in/text.txt", "--out"];
    let calibrate = ["calibrate", "--device", "cpu", "--tries", "1", "--out"];
    for (command, file, word) in [
        (&["plan", "--model", "tiny", "--trace"][..], "trace.json", "is not a trace"),
        (&tokenize, "pytorch_model.bin", "is not a token file"),
        (&calibrate, "machine.json", "is not a machine file"),
        (&["man", "--out"], ".", "horizon.1 is not a manual page of horizon"),
    ] {
        refused(dir.path(), &[command, &[file]].concat(), &[word, "give another file"]);
    }
    fs::write(here("llmc.bin"), [20_240_520_u32, 1].map(u32::to_le_bytes).concat()).unwrap();
    for _ in 0..2 {
        horizon_in(dir.path(), &[&tokenize[..], &["llmc.bin"]].concat()).well();
        horizon_in(dir.path(), &["man", "--out", "pages"]).well();
    }
}

#[test]
fn no_output_of_a_run_may_touch_another() {
    let dir = furnished();
    symlink("in", dir.path().join("link")).unwrap();
    for (one, other, word) in [
        (["--log", "new"], ["--trace", "./new"], "is the same as"),
        (["--log", "in/new"], ["--trace", "link/new"], "is the same as"),
        (["--out", "run"], ["--checkpoint-dir", "in/../run"], "is the same as"),
        (["--out", "link/new"], ["--checkpoint-dir", "in/new"], "is the same as"),
        (["--out", "tuned"], ["--log", "tuned/log.jsonl"], "contains"),
        (["--out", "tuned"], ["--trace", "tuned/trace.json"], "contains"),
        (["--out", "tuned"], ["--checkpoint-dir", "tuned/run"], "contains"),
        (["--log", "new"], ["--out", "new/tuned"], "contains"),
        (["--out", "run/step-00000009"], ["--checkpoint-dir", "run"], "lies inside"),
        (["--log", "run/latest"], ["--checkpoint-dir", "run"], "lies inside"),
        (["--trace", "run/.lock"], ["--checkpoint-dir", "run"], "lies inside"),
    ] {
        for (one, other) in [(one, other), (other, one)] {
            let arguments = [&["train", "--data", "in/text.txt"][..], &one, &other].concat();
            let word = if word == "is the same as" { word } else { "give another path" };
            refused(dir.path(), &arguments, &[one[0], other[0], word]);
        }
    }
}

#[test]
fn outputs_may_lie_among_the_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let into = ["--checkpoint-dir", "run", "--out", "run/final", "--log", "run/log.jsonl"];
    let more = ["--data", "text.txt", "--steps", "2", "--trace", "run/trace.json"];
    horizon_in(dir.path(), &short(&[&more[..], &into].concat())).well();
    let all = [".lock", "final", "latest", "log.jsonl", "step-00000002", "trace.json"];
    assert_eq!(names(&dir.path().join("run")), all);
    let on =
        ["--resume", "run", "--steps", "3", "--resume-change", "steps,warmup", "--checkpoint-dir", "run/b"];
    horizon_in(dir.path(), &short(&[&on[..], &["--out", "run/other"]].concat())).well();
    for (out, word) in
        [("run", "contains --log"), ("run/step-00000002/x", "lies inside"), ("run/latest", "lies inside")]
    {
        refused(dir.path(), &short(&["--resume", "run", "--out", out]), &["--out", word]);
    }
    refused(dir.path(), &short(&["--resume", "run", "--log", "text.txt"]), &["is the same as --data"]);
}

/// Needs a mount of its own; skipped, with a message, where there is none.
#[test]
fn a_bind_mount_is_no_way_around() {
    let dir = furnished();
    fs::create_dir(dir.path().join("other")).unwrap();
    let script =
        "mount --bind in/data other || exit 77; exec \"$0\" train --data in/data --log other/deep/new";
    let ran: Ran = match Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_horizon")])
        .current_dir(dir.path())
        .output()
    {
        Ok(output) => output.into(),
        Err(error) => return println!("skipped: no mount of its own here ({error})"),
    };
    if ran.code == Some(77) || ran.err.contains("unshare:") {
        return println!("skipped: no mount of its own here ({})", ran.err.trim());
    }
    ran.badly(1, &["--log other/deep/new lies inside --data in/data"]);
}

#[test]
fn other_commands_do_not_replace_their_inputs() {
    let dir = furnished();
    let here = |path: &str| dir.path().join(path);
    let tokenize = |more: &[&str], word: &str| {
        refused(dir.path(), &[&["tokenize", "--model", "tiny"], more].concat(), &["--out", word]);
    };
    fs::hard_link(here("in/text.txt"), here("hard.bin")).unwrap();
    tokenize(&["--data", "in/text.txt", "--out", "hard.bin"], "is the same as --data");
    tokenize(&["--data", "in/data", "--out", "in/data/x.bin"], "lies inside --data");
    let plan = ["plan", "--model", "in/model", "--trace"];
    refused(dir.path(), &[&plan[..], &["in/model/config.json"]].concat(), &["is the same as --model"]);
    let machine = ["in/here.json", "--machine", "in/here.json"];
    refused(dir.path(), &[&plan[..], &machine].concat(), &["is the same as --machine"]);
    let tuned = ["calibrate", "--autotune", "in/model", "--out", "in/model/config.json"];
    refused(dir.path(), &tuned, &["is the same as --autotune"]);
}

#[test]
fn only_outputs_of_runs_are_replaced_and_not_before_the_first_record() {
    let dir = tempfile::tempdir().unwrap();
    let here = |path: &str| dir.path().join(path);
    write_text(&here("text.txt"));
    fs::write(here("notes.txt"), "years of work\n").unwrap();
    fs::write(here("rows.jsonl"), "{\"step\": 1, \"text\": \"a row\"}\n").unwrap();
    let run = |more: &[&'static str]| {
        short(&[&["--data", "text.txt", "--steps", "1", "--checkpoint-dir", "run"], more].concat())
    };
    for file in ["notes.txt", "rows.jsonl"] {
        refused(dir.path(), &run(&["--log", file]), &[file, "is not the log of a run", "another file"]);
        refused(dir.path(), &run(&["--trace", file]), &[file, "is not a trace", "another file"]);
    }
    let outputs = ["--log", "log.jsonl", "--trace", "trace.json"];
    horizon_in(dir.path(), &run(&outputs)).well();
    let first = fs::read_to_string(here("log.jsonl")).unwrap();
    let trace = fs::read_to_string(here("trace.json")).unwrap();
    let id = &first[8..40];
    assert!(first.starts_with(&format!("{{\"run\":\"{id}\",\"step\":1,")), "{first}");
    assert!(trace.starts_with(&format!("{{\"run\":\"{id}\",\n\"traceEvents\":[")), "{trace}");
    horizon_in(dir.path(), &["plot", "trace.json", "--out", "trace.svg"]).well();
    horizon_in(dir.path(), &["plot", "log.jsonl", "--out", "log.svg"]).well();
    // Repeated by mistake: the checkpoints refuse, and log and trace are as they were.
    refused(dir.path(), &run(&outputs), &["run has checkpoints already"]);
    let again = ["--data", "text.txt", "--steps", "1"];
    horizon_in(dir.path(), &short(&[&again[..], &outputs].concat())).well();
    let second = fs::read_to_string(here("log.jsonl")).unwrap();
    assert!(second.lines().count() == 1 && &second[8..40] != id, "{second}");
    assert!(fs::read_to_string(here("trace.json")).unwrap().contains(&second[8..40]));
    // A plan's trace is a trace, too.
    horizon_in(dir.path(), &["plan", "--model", "tiny", "--trace", "trace.json"]).well();
    horizon_in(dir.path(), &short(&[&again[..], &outputs].concat())).well();
}
