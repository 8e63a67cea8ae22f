//! `horizon plan`, `calibrate` and `plot`.

use std::fs;

use serde_json::Value;

use crate::{horizon, horizon_in};

#[test]
fn a_plan_is_a_table_for_people_and_an_object_for_programs() {
    let arguments = ["plan", "--model", "llama3.1-8b", "--machine", "h200", "--grad-accum", "4"];
    let table = horizon(&arguments).well().out;
    for word in [
        "8.030 B parameters",
        "simulated",
        "tokens/s",
        "bound by",
        "a save     89.7 GiB",
        "1 GiB more device memory",
        "weights (bf16)",
    ] {
        assert!(table.contains(word), "no {word:?} in:\n{table}");
    }
    assert!(!table.contains(" 0 B\n"), "what takes nothing is left out:\n{table}");
    let text = horizon(&[&arguments[..], &["--json"]].concat()).well().out;
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["parameters"], 8_030_261_248u64);
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
fn what_is_pinned_stays() {
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
}

#[test]
fn what_cannot_be_planned_is_refused_with_what_can() {
    let refused = ["plan", "--model", "dense-120b", "--machine", "h200"];
    horizon(&refused)
        .badly(1, &["host memory", "the described machine's memory", "bytes short", "would fit"]);
    let small = ["plan", "--model", "llama3.1-8b", "--machine", "h200", "--device-mem", "2GiB"];
    horizon(&small).badly(1, &["device memory", "2147483648 bytes", "bytes short"]);
    horizon(&["plan", "--model", "unheard-of"]).badly(1, &["unheard-of", "qwen2.5-72b"]);
    horizon(&["plan", "--model", "tiny", "--machine", "abacus"]).badly(1, &["abacus", "gh200"]);
    horizon(&["plan", "--model", "tiny", "--spill", "0-9"]).badly(1, &["--spill speaks of layer 9"]);
}

#[test]
fn a_calibration_can_be_planned_with() {
    let folder = tempfile::tempdir().unwrap();
    let once = ["calibrate", "--out", "here.json", "--name", "mine", "--threads", "1", "--tries", "1"];
    let said = horizon_in(folder.path(), &[&once[..], &["--device", "cpu"]].concat()).well();
    assert!(said.err.contains("device cpu") && said.err.contains("wrote here.json"), "{}", said.err);
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
fn nonsensical_calibrations_are_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let calibrate = |arguments: &[&str]| horizon_in(folder.path(), &[&["calibrate"], arguments].concat());
    calibrate(&["--products", "tiny"]).badly(1, &["--out FILE", "--only-products"]);
    let table = ["--device", "cpu", "--products", "tiny"];
    calibrate(&[&table[..], &["--out", "here.json"]].concat()).badly(1, &["CUDA device", "`cpu`"]);
    calibrate(&[&table[..], &["--only-products"]].concat()).badly(1, &["CUDA device", "`cpu`"]);
    calibrate(&["--only-products"]).badly(2, &["--products"]);
    calibrate(&["--only-products", "--products", "tiny", "--tries", "2"]).badly(2, &["--tries"]);
    calibrate(&["--seq-len", "64"]).badly(2, &["--products"]);
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
        horizon_in(folder.path(), &[&["plot", "--out", "drawn.svg"], arguments].concat()).well();
        fs::read_to_string(folder.path().join("drawn.svg")).unwrap()
    };
    let logs = drawn(&["one.jsonl", "other.jsonl"]);
    assert!(logs.starts_with("<svg") && logs.trim_end().ends_with("</svg>"));
    for word in ["loss (nats per token)", "tokens per second", "memory (GiB)", "one", "other"] {
        assert!(logs.contains(word), "no {word:?}");
    }
    let lanes = drawn(&["one.json"]);
    for word in ["measured compute", "measured h2d", "measured host", "forward", "adam"] {
        assert!(lanes.contains(word), "no {word:?}");
    }
    horizon_in(folder.path(), &["plot", "one.json", "one.jsonl"]).badly(1, &["one kind"]);
    fs::write(folder.path().join("bad.jsonl"), "{\"a\": 1}\n").unwrap();
    horizon_in(folder.path(), &["plot", "bad.jsonl"]).badly(1, &["bad.jsonl", "--log"]);
}

#[test]
fn a_run_says_what_was_predicted_and_what_came() {
    let ran = horizon(&["train", "--steps", "4", "--micro-batch", "2"]).well();
    for word in ["placement  ", "predicted", "measured", "compute busy", "host busy"] {
        assert!(ran.err.contains(word), "no {word:?} in:\n{}", ran.err);
    }
}
