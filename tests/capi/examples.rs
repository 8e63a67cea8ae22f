//! The tutorial programs of `tests/c/examples`: compiled, run, and their effects compared.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use horizon::data::TokenWriter;
use horizon::data::tokenizer::Encoded;
use tempfile::TempDir;

use crate::{ROOT, build, command, compiler_named, run};

/// The programs, sorted.
fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(ROOT).join("tests/c/examples")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut sources: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "c")).collect();
    sources.sort();
    sources
}

/// A compiled example and a folder of its own.
struct Example(TempDir);

impl Example {
    fn new(name: &str) -> Example {
        let folder = tempfile::tempdir().unwrap();
        build(&Path::new(ROOT).join(format!("tests/c/examples/{name}.c")), false, folder.path());
        Example(folder)
    }

    /// The command that runs it in its folder.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.0.path().join("program"));
        command.args(arguments).current_dir(&self.0);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    /// Runs it with arguments that it refuses. Returns its message.
    fn refuses(&self, arguments: &[&str]) -> String {
        let Output { status, stderr, .. } = self.command(arguments).output().unwrap();
        assert!(matches!(status.code(), Some(1 | 2)), "{arguments:?}: {status}");
        String::from_utf8(stderr).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Every number that follows `word` in an output.
fn numbers(output: &str, word: &str) -> Vec<f64> {
    let after = output.split(word).skip(1);
    after.map(|text| text.split([',', '\n']).next().unwrap().trim().parse().unwrap()).collect()
}

#[test]
fn examples_are_short() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let (opening, _) = text.split_once("*/").unwrap();
        assert!(
            opening.starts_with("/* ") && opening.lines().count() <= 5,
            "{}: its comment",
            path.display()
        );
        assert!(opening.contains("\n *     cc "), "{}: its comment says how to compile it", path.display());
        assert!(text.lines().count() <= 60, "{} has {} lines", path.display(), text.lines().count());
    }
}

#[test]
fn examples_compile_without_warnings_in_every_standard() {
    for name in ["gcc", "clang"] {
        if Command::new(name).arg("--version").output().is_err() {
            println!("skipped: {name} does not run");
            continue;
        }
        for standard in ["-std=c11", "-std=c17", "-std=c2x"] {
            run(compiler_named(Some(name), false).args([standard, "-fsyntax-only"]).args(sources()));
        }
    }
}

/// Writes the README's bytes as `horizon tokenize --model tiny` does.
fn write_tokens(path: &Path) {
    let bytes = fs::read(Path::new(ROOT).join("README.md")).unwrap();
    let tokens: Vec<i32> = bytes.into_iter().map(i32::from).collect();
    let supervised = vec![true; tokens.len()];
    let mut writer = TokenWriter::create(path, 256, 1).unwrap();
    writer.push(&Encoded { tokens, supervised }).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_model_of_tokens_c_is_fine_tuned() {
    let (tokens, finetune) = (Example::new("tokens"), Example::new("finetune"));
    write_tokens(&tokens.path("readme.bin"));
    let out = tokens.run(&["readme.bin", "model"]);
    for word in [", loss ", "validation loss "] {
        let losses = numbers(&out, word);
        assert!(losses[0] > 5.0 && *losses.last().unwrap() < 4.5, "{word}: {losses:?}");
    }
    assert!(tokens.refuses(&["program", "model"]).contains("program is not a token file"));
    assert!(tokens.refuses(&["nowhere", "model"]).contains("cannot open nowhere"));

    let model = tokens.path("model");
    let losses = numbers(&finetune.run(&[model.to_str().unwrap(), "tuned"]), "loss ");
    assert!(*losses.last().unwrap() < 0.1, "{losses:?}");
    let config = |path: PathBuf| fs::read_to_string(path.join("config.json")).unwrap();
    assert_eq!(config(finetune.path("tuned")), config(model));
    // The exported folder is again one to start from: its first loss is far below that of the model
    // it was made from.
    let again = numbers(&finetune.run(&["tuned", "again"]), "loss ");
    assert!(again[0] < losses[0] / 4.0, "{again:?} after {losses:?}");
    assert!(finetune.refuses(&["nowhere", "tuned"]).contains("nowhere"));
}

#[test]
fn loss_c_prefers_the_chosen_answer() {
    let losses = numbers(&Example::new("loss").run(&[]), "loss ");
    // The model is its own reference.
    assert!((losses[0] - 2f64.ln()).abs() < 1e-4 && *losses.last().unwrap() < 0.2, "{losses:?}");
}

#[test]
fn resume_c_continues_after_a_kill_with_the_same_bits() {
    let example = Example::new("resume");
    let mut killed = example.command(&["run", "resumed"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    lines.map(Result::unwrap).find(|line| line.starts_with("step 12:")).unwrap();
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().signal(), Some(9), "it was running");

    let first = |out: String| out.lines().next().unwrap().to_owned();
    let resumed = first(example.run(&["run", "resumed"]));
    assert!(resumed.starts_with("resumed after step ") && resumed != "resumed after step 40", "{resumed}");
    assert_eq!(first(example.run(&["other", "whole"])), "started after step 0");
    let weights = |folder: &str| fs::read(example.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("resumed") == weights("whole"), "the bits of a run without a kill");
}

#[test]
fn adamw_c_finds_the_weights() {
    let out = Example::new("adamw").run(&[]);
    assert!(*numbers(&out, "loss ").last().unwrap() < 1e-5, "{out}");
    let weight = numbers(&out, "last weight ")[0];
    assert!((weight - 0.969).abs() < 0.002, "{out}");
}

#[test]
fn plan_c_prints_the_plan_that_it_follows() {
    let example = Example::new("plan");
    let out = example.run(&["tiny"]);
    for word in ["parameters     0.8 million", "host memory ", "device memory ", "tokens/s", "  compute "] {
        assert!(out.contains(word), "no {word:?}: {out}");
    }
    let losses = numbers(&out, "loss ");
    assert!(losses[9] < 0.6 * losses[0], "{losses:?}");
    assert!(example.refuses(&["dense-1t"]).contains("of host memory"));
}
