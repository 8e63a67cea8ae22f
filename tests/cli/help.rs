//! Help, manual pages, completions, and names that have changed.

use std::fs;
use std::process::Command;

use super::{horizon, horizon_in};

const GROUPS: [&str; 10] = [
    "Model",
    "Data",
    "Optimization",
    "Memory and placement",
    "Checkpoints",
    "Sampling",
    "Logging and output",
    "Device",
    "Installation",
    "Help",
];

/// The output of a help call on a terminal of 100 columns.
fn help(arguments: &[&str]) -> String {
    let binary = env!("CARGO_BIN_EXE_horizon");
    let output = Command::new(binary).args(arguments).env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn subcommands() -> Vec<String> {
    let text = help(&["--help"]);
    let list = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<String> =
        list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert!(names.len() >= 10 && names.contains(&"train".to_owned()), "{names:?}");
    names.into_iter().filter(|name| name != "help").collect()
}

/// The long options of a subcommand's short help.
fn long_options(text: &str) -> Vec<&str> {
    let options = text.split("\nPlacement:").next().unwrap().split("\nExamples:").next().unwrap();
    let options = options.lines().filter_map(|line| {
        let line = line.trim_start();
        let option = if line.starts_with("--") { line } else { line.split_once(", ")?.1 };
        option.split(' ').next().filter(|option| option.starts_with("--"))
    });
    options.collect()
}

#[test]
fn every_option_has_a_group_and_one_line_and_every_subcommand_examples() {
    for name in subcommands() {
        let text = help(&[&name, "-h"]);
        let (options, examples) =
            text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name}: no examples in {text}"));
        let options = options.split("\nPlacement:\n").next().unwrap();
        let commands = examples.lines().filter(|line| line.starts_with("    horizon ")).count();
        assert!((2..=5).contains(&commands), "{name} has {commands} examples");
        let mut group = None;
        let mut seen = 0;
        for line in options.lines().skip_while(|line| !line.starts_with("Usage:")).skip(1) {
            if let Some(heading) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
                assert!(GROUPS.contains(&heading), "{name}: the group {heading} is unknown");
                group = Some(heading);
            } else if !line.is_empty() {
                assert!(group.is_some(), "{name}: no group for {line}");
                assert!(line.trim_start().starts_with(['-', '<', '[']), "{name}: a second line: {line}");
                seen += 1;
            }
        }
        assert!(seen > 0 && options.contains("-h, --help"), "{name}: {options}");
        assert!(help(&[&name, "--help"]).contains("\nEnvironment variables:\n"), "{name}");
    }
    let train = help(&["train", "--help"]);
    for word in
        ["Exit status:", "130", "HZ_CUDA_STREAM_MEMORY_OPS", "NO_COLOR", "MFU", "Gradient accumulation"]
    {
        assert!(train.contains(word), "no {word:?} in {train}");
    }
    for word in
        ["Activation checkpointing", "offload", "Megatron", "Layers that no item names are", "autotune"]
    {
        assert!(train.contains(word), "no {word:?} in {train}");
    }
}

/// The words after `one of` in an error message.
fn alternatives(arguments: &[&str]) -> Vec<String> {
    let error = horizon(arguments).err;
    let list = error.split(" one of ").nth(1).unwrap_or_else(|| panic!("no list in {error}"));
    list.trim().split(", ").map(ToOwned::to_owned).collect()
}

#[test]
fn the_help_of_plan_has_every_name_and_every_line_of_its_output() {
    let help = help(&["plan", "--help"]);
    let machines = alternatives(&["plan", "--model", "tiny", "--machine", "unheard-of"]);
    let models = alternatives(&["plan", "--model", "unheard-of"]);
    assert!(machines.len() > 5 && models.len() > 10, "{machines:?} {models:?}");
    for name in machines {
        assert!(help.contains(&name), "no machine {name} in {help}");
    }
    // A family is named once: qwen2.5-0.5b, -1.5b, -3b.
    for name in models {
        let short = name.rfind('-').map_or(&name[..], |at| &name[at..]);
        assert!(help.contains(&name) || help.contains(&format!(" {short}")), "no model {name} in {help}");
    }
    let output =
        horizon(&["plan", "--model", "llama3.1-8b", "--machine", "h200", "--grad-accum", "4"]).well().out;
    let described = help.split("\nOutput:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for label in output.lines().filter(|line| !line.starts_with(' ')).skip(2) {
        let words = if label.starts_with("of it") || label.starts_with("bound") { 2 } else { 1 };
        let label: Vec<&str> = label.split_whitespace().take(words).collect();
        let label = label.join(" ");
        assert!(described.contains(&label), "no {label:?} in {described}");
    }
}

#[test]
fn the_formats_of_data_are_printed() {
    let file = include_str!("../../src/data/formats.md");
    let text = horizon(&["man", "--formats"]).well().out;
    assert!(file.ends_with(&text) && text.starts_with("The format of a row is"), "{text}");
}

#[test]
fn manual_pages_have_every_option() {
    let folder = tempfile::tempdir().unwrap();
    horizon_in(folder.path(), &["man", "--out", "pages/man1"]).well();
    let page = |name: &str| {
        let text = fs::read_to_string(folder.path().join("pages/man1").join(name)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH EXAMPLES"), "{name}: {text}");
        text.replace("\\-", "-")
    };
    let main = page("horizon.1");
    assert_eq!(horizon(&["man"]).well().out.replace("\\-", "-"), main);
    for name in subcommands() {
        assert!(main.contains(&format!("horizon-{name}(1)")), "{name}");
        let (text, page) = (help(&[&name, "-h"]), page(&format!("horizon-{name}.1")));
        let options = long_options(&text);
        assert!(options.contains(&"--help"), "{text}");
        for option in options {
            assert!(page.contains(&format!("\\fB{option}\\fR")), "{name}: no {option} in {page}");
        }
    }
    assert!(page("horizon-train.1").contains(".SH \"EXIT STATUS\""));
    horizon_in(folder.path(), &["man", "--out", "/proc/pages"]).badly(1, &["/proc/pages"]);
}

#[test]
fn completions_are_shell_scripts() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = horizon(&["completions", shell]).well().out;
        for word in ["gemm-table", "calibrate", "autotune-only"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        fs::write(folder.path().join(shell), script).unwrap();
    }
    horizon(&["completions", "cmd"]).badly(2, &["bash", "powershell"]);
    match Command::new("bash").arg("-n").arg(folder.path().join("bash")).output() {
        Ok(parsed) => assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}"),
        Err(error) => println!("skipped: bash does not run here ({error})"),
    }
}

#[test]
fn old_names_are_refused_with_the_new_ones() {
    for (arguments, new) in [
        (&["train", "--products", "table.json"][..], "--gemm-table"),
        (&["train", "--steps", "1", "--products=table.json"], "--gemm-table"),
        (&["train", "--sum-on-device", "all"], "--accum-on-device"),
        (&["plan", "--model", "tiny", "--sum-on-device", "all"], "--accum-on-device"),
        (&["calibrate", "--products", "tiny"], "--autotune"),
        (&["calibrate", "--only-products"], "--autotune-only"),
    ] {
        let old = arguments.iter().rfind(|argument| argument.starts_with("--")).unwrap();
        let old = old.split('=').next().unwrap();
        let message = format!("option {old} of `horizon {}` was renamed: use {new}\n", arguments[0]);
        horizon(arguments).badly(2, &[&message]);
    }
    for (arguments, ours) in [
        (&["train", "--batch-size", "8"][..], "--micro-batch"),
        (&["train", "--batch=8"], "--micro-batch"),
        (&["train", "--per_device_train_batch_size", "8"], "--micro-batch"),
        (&["plan", "--model", "tiny", "--batch-size", "8"], "--micro-batch"),
        (&["calibrate", "--max-length", "512"], "--seq-len"),
        (&["train", "--gradient-accumulation-steps", "8"], "--grad-accum"),
        (&["train", "--gradient-checkpointing"], "--recompute"),
        (&["train", "--activation-checkpointing"], "--recompute"),
        (&["train", "--max-seq-length", "512"], "--seq-len"),
        (&["train", "--block-size", "512"], "--seq-len"),
        (&["train", "--max-steps", "9"], "--steps"),
        (&["train", "--num-train-epochs", "3"], "--steps"),
        (&["train", "--epochs", "3"], "--steps"),
        (&["train", "--learning-rate", "1e-5"], "--lr"),
        (&["train", "--warmup-steps", "3"], "--warmup"),
        (&["train", "--lr-scheduler-type", "cosine"], "--schedule"),
        (&["plan", "--model", "tiny", "--max-grad-norm", "1"], "--clip"),
        (&["train", "--output-dir", "out"], "--out"),
        (&["plot", "run.jsonl", "--output", "run.svg"], "--out"),
        (&["train", "--resume-from-checkpoint", "run"], "--resume"),
        (&["train", "--dataset", "chats.jsonl"], "--data"),
        (&["tokenize", "--train-file", "chats.jsonl"], "--data"),
        (&["sample", "--max-new-tokens", "9"], "--tokens"),
        (&["sample", "--max-tokens", "9"], "--tokens"),
    ] {
        let foreign = arguments.iter().rfind(|argument| argument.starts_with("--")).unwrap();
        let foreign = foreign.split('=').next().unwrap();
        horizon(arguments).badly(2, &[&format!("error: there is no option {foreign}: use {ours}\n")]);
    }
    // Only where the subcommand has the option.
    horizon(&["sample", "--batch-size", "8"]).badly(2, &["unexpected argument '--batch-size'"]);
    // A name that no option ever had is an unknown option.
    horizon(&["sample", "--products", "x"]).badly(2, &["unexpected argument '--products'"]);
}
