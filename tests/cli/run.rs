//! Runs that succeed, diverge or are interrupted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::{horizon_in, interrupt, names, short, with_signals, write_text};

const EXPORT: [&str; 4] = ["config.json", "generation_config.json", "horizon.json", "model.safetensors"];

fn records(path: &std::path::Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn more_host_memory_than_the_machine_reports_is_taken_at_the_users_word() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let stated = ["--data", "text.txt", "--steps", "1", "--host-mem", "64TiB"];
    let ran = horizon_in(dir.path(), &short(&stated)).well();
    let warning = "warning: host memory: limit 64.0 TiB (--host-mem; the machine reports ";
    assert!(ran.err.contains(warning), "{}", ran.err);
}

#[test]
fn a_model_is_trained_exported_trained_on_and_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let here = |name: &str| dir.path().join(name);
    write_text(&here("text.txt"));
    let first = ["--data", "text.txt", "--val", "text.txt", "--steps", "30", "--lr", "3e-3", "--out", "out"];
    let more = ["--val-every", "10", "--log", "log.jsonl", "--trace", "trace.json", "--export-dtype", "f32"];
    let ran = horizon_in(dir.path(), &short(&[&first[..], &more].concat())).well();
    assert!(ran.out.is_empty() && ran.err.is_empty(), "output in quiet mode: {}{}", ran.out, ran.err);
    assert_eq!(names(&here("out")), EXPORT);
    assert_eq!(names(dir.path()), ["log.jsonl", "out", "text.txt", "trace.json"]);

    let log = records(&here("log.jsonl"));
    assert_eq!(log.len(), 30);
    for (k, record) in log.iter().enumerate() {
        let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key} of {record}"));
        assert_eq!(number("step"), k as f64 + 1.0);
        assert_eq!(number("tokens"), 64.0);
        for key in ["loss", "grad_norm", "lr", "step_seconds", "tokens_per_second", "tflops"] {
            assert!(number(key) > 0.0, "{key} of {record}");
        }
        assert_eq!(record.get("val_loss").is_some(), (k + 1) % 10 == 0, "{record}");
    }
    let loss = |k: usize| log[k]["loss"].as_f64().unwrap();
    assert!((loss(0) - 256f64.ln()).abs() < 0.2, "a fresh model knows nothing: {}", loss(0));
    assert!(loss(29) < loss(0) - 2.0, "from {} to {}", loss(0), loss(29));
    assert!(log[29]["val_loss"].as_f64().unwrap() < loss(0) - 2.0);
    let trace: Value = serde_json::from_slice(&fs::read(here("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().or(trace.as_array()).unwrap();
    let waits = events.iter().filter(|event| event["name"] == "wait for a batch").count();
    assert_eq!(waits, 30, "one wait for a batch, however short, in every step");

    // Training continues from the export: f32 weights are the whole model but for the moments.
    let on =
        ["--model", "out", "--data", "text.txt", "--steps", "5", "--out", "again", "--log", "log2.jsonl"];
    horizon_in(dir.path(), &short(&on)).well();
    let on = records(&here("log2.jsonl"));
    assert!(on[0]["loss"].as_f64().unwrap() < loss(0) - 2.0, "{}", on[0]);
    assert!(on[0].get("val_loss").is_none());
    let bytes = |folder: &str| fs::metadata(here(folder).join("model.safetensors")).unwrap().len();
    assert!(bytes("again") < bytes("out") * 11 / 20, "bf16 takes half of f32");

    let sample = |more: &[&str]| {
        let start = ["sample", "--model", "again", "--prompt", "line 3 ", "--tokens", "12", "--threads", "1"];
        horizon_in(dir.path(), &[&start[..], more].concat()).well().out
    };
    let greedy = sample(&["--temperature", "0"]);
    assert!(greedy.starts_with("line 3 ") && greedy.len() >= 19, "{greedy:?}");
    assert_eq!(sample(&["--seed", "5"]), sample(&["--seed", "5"]));

    // A prompt from a file, as long as the model's 1024 positions and longer.
    for (tokens, warning) in [
        (1017, ""),
        (
            1020,
            "more tokens than the model positions (1024): the beginning of the prompt was left out for the last 3",
        ),
        (1100, "the prompt has 1100 tokens, the model 1024 positions: the first 76 are dropped\n"),
    ] {
        let prompt: String = "line 3 ".chars().cycle().take(tokens).collect();
        fs::write(here("prompt.txt"), &prompt).unwrap();
        let long = ["sample", "--model", "again", "--prompt-file", "prompt.txt", "--tokens", "8"];
        let ran = horizon_in(dir.path(), &long).well();
        assert!(ran.out.starts_with(&prompt) && ran.out.len() > tokens, "{}", ran.out);
        assert_eq!(ran.err.is_empty(), warning.is_empty(), "{}", ran.err);
        assert!(ran.err.contains(warning), "{}", ran.err);
    }
}

#[test]
fn a_run_is_the_same_again_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let losses = |threads: &str, log: &str| {
        let more = ["--data", "text.txt", "--steps", "4", "--log", log];
        let arguments =
            [&["train", "--seq-len", "32", "--micro-batch", "2", "-q", "--threads", threads], &more[..]];
        horizon_in(dir.path(), &arguments.concat()).well();
        records(&dir.path().join(log)).into_iter().map(|r| r["loss"].clone()).collect::<Vec<_>>()
    };
    let once = losses("1", "a.jsonl");
    assert_eq!(once, losses("1", "b.jsonl"));
    assert_eq!(once, losses("2", "c.jsonl"));
}

#[test]
fn a_run_is_the_same_wherever_things_wait() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let losses = |log: &str, placement: &[&str]| {
        let plain = ["train", "--seq-len", "32", "--micro-batch", "2", "--grad-accum", "3", "-q"];
        let more = ["--data", "text.txt", "--steps", "3", "--log", log];
        horizon_in(dir.path(), &[&plain[..], &more, placement].concat()).well();
        records(&dir.path().join(log)).into_iter().map(|r| r["loss"].clone()).collect::<Vec<_>>()
    };
    let plain = losses("plain.jsonl", &[]);
    let placed = ["--recompute", "selective,none:1-2", "--spill", "all", "--resident", "0,3", "--slots", "3"];
    assert_eq!(plain, losses("placed.jsonl", &placed));
    let swept = ["--sweeps", "2", "--accum-on-device", "1-2", "--slabs", "3", "--spill", "0"];
    assert_eq!(plain, losses("swept.jsonl", &swept));
    let waiting = ["--mode", "streamed", "--grad-place", "device"];
    assert_eq!(plain, losses("waiting.jsonl", &waiting));
}

#[test]
fn the_built_in_run_learns_and_shows_what() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["train", "--steps", "3", "--seq-len", "64", "--micro-batch", "2", "--val-batches", "1"];
    let ran = horizon_in(dir.path(), &arguments).well();
    for word in ["tiny", "built-in", "step 1/3", "step 3/3", "validation loss", "tokens/s", "left"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    let opening: Vec<&str> = ran.err.lines().take_while(|line| !line.starts_with("step 1/")).collect();
    assert_eq!(opening.len(), 6, "{}", ran.err);
    for (line, words) in opening.iter().zip([
        "model tiny parameters layers fresh",
        "data built-in tokens windows",
        "training 3 steps of 128 tokens gradient accumulation learning rate 3.0e-3 warmup cosine",
        "device cpu MiB weight",
        "host RAM MiB exact moments",
        "simulated per step tokens/s TFLOP/s bound by --verbose",
    ]) {
        words.split(' ').for_each(|word| assert!(line.contains(word), "no {word:?} in {line}"));
    }
    assert!(ran.out.starts_with("pub fn "), "{}", ran.out);
    assert!(names(dir.path()).is_empty());
}

/// A learning rate so high that step 2 has no finite loss: the weights after step 1 are exported.
#[test]
fn a_run_that_diverges_keeps_the_last_good_weights() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let more = ["--data", "text.txt", "--steps", "9", "--warmup", "0", "--lr", "1e30", "--out", "out"];
    let words = ["step 2", "must be finite", "the weights after step 1 are in", "out"];
    horizon_in(dir.path(), &short(&more)).badly(1, &words);
    assert_eq!(names(&dir.path().join("out")), EXPORT);
    let advice = "lower --lr or lengthen --warmup, and ";
    horizon_in(dir.path(), &short(&more)).badly(1, &[&format!("{advice}train again\n")]);
    let saving = ["--checkpoint-dir", "run", "--checkpoint-every", "1"];
    horizon_in(dir.path(), &short(&[&more[..], &saving].concat())).badly(
        1,
        &[
            &format!("{advice}resume from the last checkpoint: --resume run/step-00000001"),
            "--resume-change lr,min-lr,warmup",
        ],
    );
}

/// A machine file of this version with a table of an older one next to it.
#[test]
fn a_table_of_an_older_format_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let machine = horizon::plan::Description::open("cpu").unwrap().to_json();
    fs::write(dir.path().join("here.json"), machine).unwrap();
    fs::write(dir.path().join("here.products.json"), "{}").unwrap();
    let more = ["--data", "text.txt", "--steps", "1", "--machine", "here.json"];
    let ran = horizon_in(dir.path(), &short(&more)).well();
    let warning = "warning: here.products.json is of an older format: autotune again\n";
    assert_eq!(ran.err.matches(warning).count(), 1, "{}", ran.err);
    fs::write(dir.path().join("here.gemm.json"), "{}").unwrap();
    let ran = horizon_in(dir.path(), &short(&more)).well();
    assert!(!ran.err.contains("older format"), "{}", ran.err);
}

/// Several `--data` are combined; any other option given again replaces the first.
#[test]
fn options_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("a.txt"));
    fs::write(dir.path().join("b.txt"), "short").unwrap();
    let more = ["--data", "b.txt", "--steps", "9", "--data", "a.txt", "--steps", "2", "--log", "log.jsonl"];
    horizon_in(dir.path(), &short(&more)).well();
    assert_eq!(records(&dir.path().join("log.jsonl")).len(), 2);
}

#[test]
fn an_interrupt_finishes_the_step_and_exports() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let more =
        ["--data", "text.txt", "--steps", "1000000", "--warmup", "0", "--out", "out", "--log", "log.jsonl"];
    let quiet = short(&more);
    let loud: Vec<_> = quiet.into_iter().filter(|&argument| argument != "--quiet").collect();
    let mut child = with_signals()
        .arg(env!("CARGO_BIN_EXE_horizon"))
        .args(loud)
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let mut seen = Vec::new();
    seen.extend(lines.by_ref().take_while(|line| !line.starts_with("step 1/")));
    interrupt(&child);
    seen.extend(lines);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{seen:?}");
    let stderr = seen.join("\n");
    assert!(stderr.contains("stopped after step") && stderr.contains("exported to"), "{stderr}");
    assert_eq!(names(&dir.path().join("out")), EXPORT);
    assert!(!records(&dir.path().join("log.jsonl")).is_empty());
}
