//! Extreme numbers in options and `config.json`: an error that names them, or a run.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Ran, horizon_in, write_text};

/// Zero, one, negative, around the limits of integers and floats, and no numbers at all.
const EXTREMES: [&str; 19] = [
    "0",
    "1",
    "-1",
    "1000000000",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1000000000000000000",
    "8191T",
    "1e308",
    "NaN",
    "-inf",
    "",
    " ",
    "٣",
    "1 2",
];
/// Those tried without `HZ_LONG`.
const FEW: [&str; 2] = ["-1", "9223372036854775808"];

/// Commands that end early, and their options; behind `=` the word for it in messages.
const OPTIONS: [(&[&str], &str); 4] = [
    (
        &["train", "--model=tiny", "--data=t.txt", "--host-mem=1"],
        "seq-len micro-batch grad-accum lr min-lr warmup weight-decay beta1 beta2 eps clip seed device-mem host-mem \
         slots slabs sweeps threads recompute spill resident accum-on-device val-every val-batches \
         val-fraction steps",
    ),
    (
        &["plan", "--model=tiny", "--host-mem=1"],
        "seq-len micro-batch grad-accum clip device-mem slots slabs sweeps recompute spill resident \
         accum-on-device machine",
    ),
    (&["sample", "--model=none"], "temperature tokens seed threads"),
    (&["tokenize", "--model=tiny", "--data=t.txt"], "show threads"),
];

/// Runs the command, which may fail but neither panic nor end by a signal.
fn ran(folder: &Path, arguments: &[&str]) -> Ran {
    let ran = horizon_in(folder, arguments);
    assert!(matches!(ran.code, Some(0..=2)), "{arguments:?}: {:?}\n{}", ran.code, ran.err);
    assert!(!ran.err.contains("panicked"), "{arguments:?}: {}", ran.err);
    ran
}

#[test]
fn extreme_values_of_options_end_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("t.txt"));
    let values = if std::env::var_os("HZ_LONG").is_some() { &EXTREMES[..] } else { &FEW[..] };
    for (command, options) in OPTIONS {
        for option in options.split_whitespace() {
            let own = format!("--{option}=");
            for value in values {
                let given = format!("{own}{value}");
                let mut arguments = vec![&given[..]];
                arguments.splice(0..0, command.iter().copied().filter(|other| !other.starts_with(&own)));
                let ran = ran(dir.path(), &arguments);
                // Refused while the command line is read.
                assert!(ran.code != Some(2) || ran.err.contains(option), "{given}: {}", ran.err);
            }
        }
    }
    let too_long = ["train", "--model=tiny", "--data=t.txt", "--seq-len=9223372036854775808"];
    horizon_in(dir.path(), &too_long)
        .badly(1, &["--seq-len is 9223372036854775808; it must be 1 … 2147483647"]);
    let heavy = ["train", "--model=tiny", "--data=t.txt:1e308", "--seq-len=8"];
    horizon_in(dir.path(), &heavy).badly(1, &["t.txt", "the data weight 1e308"]);
}

#[test]
fn extreme_sizes_of_models_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let small = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 128,
        "intermediate_size": 352, "max_position_embeddings": 1u64 << 40, "num_attention_heads": 4,
        "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "vocab_size": 256,
    });
    let million = 1u64 << 20;
    let longest = ["--seq-len=2147483647", "--micro-batch=1", "--grad-accum=8192"];
    let cases: [(Value, &[&str], &str); 9] = [
        (
            json!({"num_attention_heads": million, "head_dim": million}),
            &[],
            "num_attention_heads × head_dim is",
        ),
        (
            json!({"num_attention_heads": million, "num_key_value_heads": million, "head_dim": million}),
            &[],
            "head_dim",
        ),
        (json!({"head_dim": 1}), &[], "head_dim is 1"),
        (json!({"num_attention_heads": 7}), &[], "num_attention_heads (7)"),
        (json!({"vocab_size": 1u64 << 31}), &[], "vocab_size is 2147483648"),
        (json!({"num_hidden_layers": 1_000_000}), &[], "num_hidden_layers is 1000000"),
        (json!({"hidden_size": million}), &[], "of host memory"),
        (json!({"hidden_size": million, "num_hidden_layers": 1024}), &longest, "more than 2^60 bytes"),
        (json!({"max_position_embeddings": -1}), &[], "max_position_embeddings is -1"),
    ];
    for (change, shape, words) in cases {
        let mut config: Map<String, Value> = small.as_object().unwrap().clone();
        config.extend(change.as_object().unwrap().clone());
        fs::write(dir.path().join("config.json"), Value::from(config).to_string()).unwrap();
        horizon_in(dir.path(), &[&["plan", "--model=."], shape].concat()).badly(1, &[words]);
    }
}
