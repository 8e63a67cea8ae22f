//! `horizon plan`, `calibrate` and `plot`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::{horizon, horizon_in};

#[test]
fn a_plan_is_a_table_for_people_and_an_object_for_programs() {
    let arguments = ["plan", "--model", "llama3.1-8b", "--machine", "h200", "--grad-accum", "4"];
    let table = horizon(&arguments).well().out;
    for word in [
        "8.03B parameters",
        "rates      measured: matmul, h2d, d2h; published: device memory; assumed: the rest",
        "simulated",
        "tokens/s",
        "bound by",
        "checkpoint 89.7 GiB",
        "1 GiB more device memory",
        "weights (bf16)                         15.0 GiB  the model, as it is uploaded",
    ] {
        assert!(table.contains(word), "no {word:?} in:\n{table}");
    }
    assert!(!table.contains(" 0 B\n"), "what takes nothing is left out:\n{table}");
    let text = horizon(&[&arguments[..], &["--json"]].concat()).well().out;
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["parameters"], 8_030_261_248u64);
    let matmul = &plan["machine_rates"]["matrix_flop_per_s"];
    assert_eq!((&matmul["value"][2], &matmul["basis"]), (&790e12.into(), &"measured".into()));
    assert!(matmul["source"].as_str().is_some_and(|source| source.contains("790 TFLOP/s")), "{matmul}");
    let sum = |name: &str| -> u64 {
        plan[name].as_array().unwrap().iter().map(|region| region["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(plan["device_bytes"], sum("device_regions"));
    assert_eq!(plan["host_bytes"], sum("host_regions"));
    let layers = plan["placement"]["layers"].as_array().unwrap();
    assert_eq!((&layers[0]["first"], &layers[layers.len() - 1]["last"]), (&0.into(), &31.into()));
    let again = horizon(&[&arguments[..], &["--json"]].concat()).well().out;
    assert_eq!(text, again, "the same question has the same answer");
}

#[test]
fn options_fixed_by_the_user_stay() {
    let text = horizon(&[
        "plan",
        "--model",
        "qwen2.5-7b",
        "--machine",
        "a100-pcie",
        "--json",
        "--slots",
        "3",
        "--sweeps",
        "2",
        "--spill",
        "all",
        "--recompute",
        "full,none:0-3",
    ])
    .well()
    .out;
    let plan: Value = serde_json::from_str(&text).unwrap();
    let placement = &plan["placement"];
    assert_eq!((&placement["weight_slots"], &placement["sweeps"]), (&3.into(), &2.into()));
    for run in placement["layers"].as_array().unwrap() {
        assert_eq!(run["boundary"], "spilled");
        let expected = if run["last"].as_u64().unwrap() <= 3 { "none" } else { "full" };
        assert_eq!(run["recompute"], expected, "{run}");
    }
    let mixed = ["plan", "--model", "tiny", "--machine", "h200", "--spill", "0"];
    let table = horizon(&mixed).well().out;
    assert!(table.contains("; inputs 3 on the device, 1 spilled; "), "{table}");
    let text = horizon(&[&mixed[..], &["--json"]].concat()).well().out;
    let plan: Value = serde_json::from_str(&text).unwrap();
    let layers = &plan["placement"]["layers"];
    assert_eq!((&layers[0]["boundary"], &layers[1]["boundary"]), (&"spilled".into(), &"device".into()));
}

#[test]
fn an_impossible_plan_is_refused_with_an_alternative() {
    let refused = ["plan", "--model", "dense-120b", "--machine", "h200"];
    horizon(&refused)
        .badly(1, &["host memory", "the described machine's memory", "bytes short", "would fit"]);
    let small = ["plan", "--model", "llama3.1-8b", "--machine", "h200", "--device-mem", "8GiB"];
    let fits = "32 micro-batches of 1 × 4096 tokens";
    horizon(&small).badly(1, &["device memory", "8589934592 bytes", "bytes short", fits]);
    let large = ["plan", "--model", "llama3.1-405b", "--machine", "h200"];
    horizon(&large).badly(
        1,
        &["; even the smallest step that is tried, 1 × 128 tokens with --mode compact and --clip 0, needs 3.7 TiB of \
           host memory"],
    );
    // The proposed mode is free to place gradients that mode streamed keeps on the host.
    let step =
        ["--micro-batch", "1", "--grad-accum", "1", "--seq-len", "128", "--clip", "0", "--host-mem", "60GiB"];
    let seven = [&["plan", "--model", "qwen2.5-7b", "--machine", "rtx4090"], &step[..]].concat();
    horizon(&[&seven[..], &["--mode", "streamed"]].concat())
        .badly(1, &["limit 60.0 GiB (--host-mem; the machine has 192.0 GiB)", "; --mode compact would fit"]);
    horizon(&[&seven[..], &["--mode", "compact"]].concat()).well();
    horizon(&["plan", "--model", "unheard-of"]).badly(1, &["unheard-of", "qwen2.5-72b"]);
    horizon(&["plan", "--model", "tiny", "--mode", "streamed"]).badly(1, &["cannot clip to 1", "--clip 0"]);
    horizon(&["plan", "--model", "tiny", "--clip", "-1"]).badly(1, &["clip is -1"]);
    horizon(&["plan", "--model", "tiny", "--slots", "-1"]).badly(2, &["'-1' for '--slots"]);
    horizon(&["plan", "--model", "tiny", "--machine", "abacus"]).badly(1, &["abacus", "gh200"]);
    horizon(&["plan", "--model", "tiny", "--spill", "0-9"]).badly(1, &["--spill names layer 9"]);
}

const CALIBRATE: [&str; 11] = [
    "calibrate",
    "--out",
    "here.json",
    "--name",
    "mine",
    "--threads",
    "1",
    "--tries",
    "1",
    "--device",
    "cpu",
];

/// A whole calibration. `tests/engine` tests shorter ones, of the library.
#[test]
fn a_calibration_can_be_planned_with() {
    if std::env::var_os("HZ_LONG").is_none() {
        return println!("skipped without HZ_LONG=1: it takes half a minute");
    }
    let folder = tempfile::tempdir().unwrap();
    let ran = horizon_in(folder.path(), &CALIBRATE).well();
    assert!(ran.err.contains("measuring RAM ("), "{}", ran.err);
    assert!(ran.err.contains("device cpu") && ran.err.contains("wrote here.json"), "{}", ran.err);
    let described: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("here.json")).unwrap()).unwrap();
    assert_eq!(described["name"], "mine");
    let rates = described["rates"].as_object().unwrap();
    assert!(rates.keys().all(|figure| described["sources"][figure].is_string()));
    let planned =
        horizon_in(folder.path(), &["plan", "--model", "tiny", "--machine", "here.json", "--seq-len", "64"]);
    assert!(planned.well().out.contains("machine    mine: "));
}

#[test]
fn a_calibration_that_is_killed_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_horizon"))
        .args(CALIBRATE)
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line.starts_with("measuring the disk (")), "it did not come to the disk");
    std::thread::sleep(Duration::from_millis(50));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn nonsensical_calibrations_are_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let calibrate = |arguments: &[&str]| horizon_in(folder.path(), &[&["calibrate"], arguments].concat());
    calibrate(&["--autotune", "tiny"]).badly(1, &["--out FILE", "--autotune-only"]);
    let table = ["--device", "cpu", "--autotune", "tiny"];
    calibrate(&[&table[..], &["--out", "here.json"]].concat()).badly(1, &["CUDA device", "`cpu`"]);
    let alone = [&table[..], &["--autotune-only"]].concat();
    let refused = calibrate(&alone);
    assert!(!refused.err.contains("autotuning"), "{}", refused.err);
    refused.badly(1, &["CUDA device", "`cpu`"]);
    calibrate(&["--autotune-only"]).badly(2, &["--autotune"]);
    calibrate(&["--autotune-only", "--autotune", "tiny", "--tries", "2"]).badly(2, &["--tries"]);
    calibrate(&["--device", "cpu", "--out", "no/here.json"]).badly(1, &["cannot write no/here.json"]);
    calibrate(&["--device", "cpu", "--out", "."]).badly(1, &["it is a folder"]);
    calibrate(&["--seq-len", "64"]).badly(2, &["--autotune"]);
    calibrate(&["--device", "abacus"]).badly(2, &["abacus", "cuda"]);
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn runs_and_steps_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let short = ["train", "--steps", "3", "--micro-batch", "2", "--quiet"];
    for name in ["one", "other"] {
        let (log, trace) = (format!("{name}.jsonl"), format!("{name}.json"));
        horizon_in(folder.path(), &[&short[..], &["--log", &log, "--trace", &trace]].concat()).well();
    }
    let drawn = |arguments: &[&str]| {
        let ran = horizon_in(folder.path(), &[&["plot", "--out", "drawn.svg"], arguments].concat()).well();
        assert_eq!(ran.err, "wrote drawn.svg\n");
        fs::read_to_string(folder.path().join("drawn.svg")).unwrap()
    };
    let logs = drawn(&["one.jsonl", "other.jsonl"]);
    assert!(logs.starts_with("<svg") && logs.trim_end().ends_with("</svg>"));
    for word in ["loss (nats per token)", "tokens per second", "memory (GiB)", "one", "other"] {
        assert!(logs.contains(word), "no {word:?}");
    }
    let holds = |drawn: String, words: &[&str]| {
        words.iter().for_each(|word| assert!(drawn.contains(word), "no {word:?}"));
    };
    let lanes = ["measured compute", "measured h2d", "measured host", "forward", "adam"];
    holds(drawn(&["one.json"]), &[&lanes[..], &["simulated compute", "simulated host"]].concat());
    holds(drawn(&["one.json", "other.json"]), &["one measured compute", "other simulated compute"]);
    let foreseen = ["plan", "--model", "llama3.1-8b", "--machine", "h200", "--trace", "foreseen.json"];
    horizon_in(folder.path(), &foreseen).well();
    holds(drawn(&["foreseen.json"]), &["simulated compute", "simulated d2h", "backward", "adam"]);
    let nowhere = ["plan", "--model", "tiny", "--seq-len", "64", "--trace", "/proc/no/trace.json"];
    horizon_in(folder.path(), &nowhere).badly(1, &["/proc/no"]);
    let plot = |arguments: &[&str]| horizon_in(folder.path(), &[&["plot"], arguments].concat());
    plot(&["one.json", "--out", "./one.json"]).badly(1, &["--out ./one.json does not end in .svg"]);
    fs::copy(folder.path().join("one.jsonl"), folder.path().join("one.svg")).unwrap();
    plot(&["one.svg", "--out", "./one.svg"]).badly(1, &["--out ./one.svg is the same as the file one.svg"]);
    plot(&["one.json", "--out", "no/drawn.svg"]).badly(1, &["no/drawn.svg", "there is no folder no"]);
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::copy(folder.path().join("one.json"), folder.path().join("more/one.json")).unwrap();
    holds(drawn(&["./one.json", "more/one.json"]), &["more/one measured compute", "./one measured compute"]);
    let log = fs::read_to_string(folder.path().join("one.jsonl")).unwrap();
    let (first, second) = log.split_once('\n').unwrap();
    fs::write(folder.path().join("cut.jsonl"), format!("{first}\n{}", &second[..40])).unwrap();
    holds(drawn(&["cut.jsonl"]), &["<circle"]);
    fs::write(folder.path().join("torn.jsonl"), format!("{}\n{first}\n", &second[..40])).unwrap();
    plot(&["torn.jsonl"]).badly(1, &["torn.jsonl: line 1: "]);
    horizon_in(folder.path(), &["plot", "one.json", "one.jsonl"]).badly(1, &["one kind"]);
    fs::write(folder.path().join("bad.jsonl"), "{\"a\": 1}\n").unwrap();
    horizon_in(folder.path(), &["plot", "bad.jsonl"]).badly(1, &["bad.jsonl", "--log"]);
}

/// Predicted and measured milliseconds of a line of the table at the end of a run; 0 if it is
/// missing.
fn times(table: &str, what: &str) -> (f64, f64) {
    let line = table.lines().find_map(|line| line.strip_prefix(what));
    let mut times =
        line.into_iter().flat_map(|line| line.split("ms")).map(|time| time.trim().parse().unwrap());
    (times.next().unwrap_or(0.0), times.next().unwrap_or(0.0))
}

/// Asserts that the table at the end has the means of the log, without the first step.
fn is_of_the_log(table: &str, log: &[Value]) {
    let mean = |number: &dyn Fn(&Value) -> &Value| {
        let numbers = log[1..].iter().map(|record| number(record).as_f64().unwrap());
        1e3 * numbers.sum::<f64>() / (log.len() - 1) as f64
    };
    let compared = |what: &str, predicted: f64, measured: f64| {
        let (shown_predicted, shown_measured) = times(table, what);
        let near = |one: f64, other: f64| (one - other).abs() < 0.006;
        assert!(
            near(shown_predicted, predicted) && near(shown_measured, measured),
            "{predicted}, {measured}: {what} in\n{table}"
        );
        measured
    };
    let step = |field: &'static str| mean(&|record| &record[field]);
    compared("step  ", step("predicted_step_seconds"), step("step_seconds"));
    for lane in ["compute", "h2d", "d2h", "host", "disk"] {
        let of = |field: &'static str| mean(&|record| &record["lanes"][lane][field]);
        let busy = compared(&format!("{lane} busy"), of("predicted_seconds"), of("busy_seconds"));
        assert!(busy > 0.0 || lane == "disk", "{lane} did nothing:\n{table}");
    }
}

#[test]
fn predicted_and_measured_stand_side_by_side_in_table_and_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = |steps: Range<usize>| -> Vec<Value> {
        let text = fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()[steps].to_vec()
    };
    let table = |arguments: &[&str]| {
        let ran = horizon_in(folder.path(), arguments).well();
        assert_eq!(ran.err.contains("placement  "), arguments.contains(&"--verbose"), "{}", ran.err);
        ran.err[ran.err.find("predicted").expect("a table")..].to_owned()
    };
    let start = ["train", "--steps", "5", "--micro-batch", "2", "--log", "log.jsonl", "--verbose"];
    let saves = ["--checkpoint-dir", "run", "--checkpoint-every", "2"];
    let whole = table(&[&start[..], &saves].concat());
    assert_eq!(log(0..5).len(), 5);
    is_of_the_log(&whole, &log(0..5));
    // The checkpoint of step 2 was complete before that of step 4 was begun.
    assert!(times(&whole, "disk busy").1 > 0.0, "{whole}");
    // The table of a resumed run has its own steps only.
    let on = table(&["train", "--resume", "run/step-00000002", "--machine", "cpu"]);
    assert_eq!(log(0..5).iter().map(|record| record["step"].as_u64().unwrap()).max(), Some(5));
    is_of_the_log(&on, &log(2..5));
    // A prediction that is far off for a machine that was not given comes with the commands to
    // measure it.
    let hint = |table: &str| table.contains("horizon calibrate --out");
    let (predicted, measured) = times(&whole, "step  ");
    let off = (predicted / measured - 1.0).abs();
    // The table is rounded, so the hint is undecided at the threshold.
    if (off - 0.25).abs() > 1e-3 {
        assert_eq!(hint(&whole), off > 0.25, "{whole}");
    }
    assert!(!hint(&on), "{on}");
}
