//! The speed of `horizon tokenize`: `cargo bench --bench tokenize -- [BINARY …] [--megabytes N]
//! [--rounds N]`, by default of this build's binary.
//!
//! Every round runs each binary on the same rows: chats, pairs, texts and token ids, with the test
//! tokenizer and with a BPE tokenizer of some 30,000 tokens made here, by one and by two threads.
//! The time of a run on one row is subtracted, so that starting and opening the tokenizer do not
//! count. Each measurement prints one line of JSON with the medians of the rounds; with two
//! binaries, OLD and NEW, also the ratio of their speeds (above 1: NEW is faster), the median of the
//! ratios within a round.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use support::bench::{median, number, rounded};

const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                        message['content'] + '<|im_end|>' + '\n' }}{% endfor %}";
const KINDS: [&str; 4] = ["chat", "pair", "text", "tokens"];
/// Words of the texts.
const WORDS: usize = 6000;

fn main() {
    let bytes = number("--megabytes").unwrap_or(4.0) * 1e6;
    let rounds = number("--rounds").unwrap_or(5);
    let mut binaries = binaries();
    if binaries.is_empty() {
        binaries.push(PathBuf::from(env!("CARGO_BIN_EXE_horizon")));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(18);
    let words = words(&mut rng);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let models = [("test", test_tokenizer()), ("large", large_tokenizer(&words))];
    for (name, tokenizer) in models {
        let folder = dir.path().join(name);
        let vocabulary = write_model(&folder, &tokenizer);
        for kind in KINDS {
            let (one, all) = (folder.join("one.jsonl"), folder.join("all.jsonl"));
            let mut rows = vec![row(kind, &words, vocabulary, &mut rng)];
            // Token rows are many times faster, and are to take about as long.
            let bytes = if kind == "tokens" { 16.0 * bytes } else { bytes };
            while rows.iter().map(String::len).sum::<usize>() < bytes as usize {
                rows.extend((0..100).map(|_| row(kind, &words, vocabulary, &mut rng)));
            }
            write(&one, &rows[0]);
            write(&all, &rows.concat());
            for threads in [1, 2] {
                let seconds = |binary: &PathBuf| {
                    let run = |data| seconds(binary, &folder, data, threads);
                    run(&all) - run(&one)
                };
                let times: Vec<Vec<f64>> =
                    (0..rounds).map(|_| binaries.iter().map(seconds).collect()).collect();
                let size = rows.iter().map(String::len).sum::<usize>() as f64;
                for (at, binary) in binaries.iter().enumerate() {
                    let time = median(times.iter().map(|round| round[at]));
                    let ratio = (at > 0).then(|| median(times.iter().map(|round| round[0] / round[at])));
                    println!(
                        "{}",
                        json!({
                            "tokenizer": name, "vocabulary": vocabulary, "rows": kind, "threads": threads,
                            "binary": binary, "rows_per_second": rounded(rows.len() as f64 / time, 0),
                            "mb_per_second": rounded(size / time / 1e6, 2),
                            "ratio": ratio.map(|ratio| rounded(ratio, 3)),
                        })
                    );
                }
            }
        }
    }
}

/// The arguments that are not options.
fn binaries() -> Vec<PathBuf> {
    let mut arguments = env::args().skip(1).peekable();
    let mut binaries = Vec::new();
    while let Some(argument) = arguments.next() {
        match &argument[..] {
            "--bench" => {}
            option if option.starts_with("--") => drop(arguments.next()),
            _ => binaries.push(PathBuf::from(argument)),
        }
    }
    binaries
}

/// Runs `horizon tokenize` and returns its wall time.
fn seconds(binary: &Path, model: &Path, data: &Path, threads: usize) -> f64 {
    let mut command = Command::new(binary);
    command.arg("tokenize").arg("--model").arg(model).arg("--data").arg(data);
    command.arg("--out").arg(model.join("out.bin")).args(["--threads", &threads.to_string(), "-q"]);
    let start = Instant::now();
    let output = command.output().expect("the command starts");
    let time = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    time
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the temporary folder is writable");
}

/// Writes a model folder without weights; returns the size of its vocabulary.
fn write_model(folder: &Path, tokenizer: &Value) -> usize {
    fs::create_dir(folder).expect("the temporary folder is writable");
    let added = tokenizer["added_tokens"].as_array().map_or(0, Vec::len);
    let vocabulary = tokenizer["model"]["vocab"].as_object().map_or(0, |vocab| vocab.len()) + added;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
        "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": vocabulary,
    });
    write(&folder.join("config.json"), &config.to_string());
    write(&folder.join("tokenizer.json"), &tokenizer.to_string());
    let config = json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE});
    write(&folder.join("tokenizer_config.json"), &config.to_string());
    vocabulary
}

fn test_tokenizer() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat/byte_level/tokenizer.json");
    serde_json::from_slice(&fs::read(path).expect("the test tokenizer is there")).expect("it is JSON")
}

/// A byte-level BPE tokenizer that has every beginning of every word as a token.
fn large_tokenizer(words: &[String]) -> Value {
    let mut tokenizer = test_tokenizer();
    let bytes = tokenizer["model"]["vocab"].as_object().expect("a vocabulary").clone();
    let bytes = bytes.keys().filter(|token| token.chars().count() == 1);
    let mut vocabulary: Vec<String> = bytes.cloned().collect();
    let (mut known, mut merges) = (BTreeSet::new(), Vec::new());
    for word in words {
        let word = format!("Ġ{word}");
        let ends: Vec<usize> = word.char_indices().map(|(at, _)| at).skip(2).chain([word.len()]).collect();
        let mut start = "Ġ".len();
        for end in ends {
            if known.insert(word[..end].to_owned()) {
                merges.push(format!("{} {}", &word[..start], &word[start..end]));
                vocabulary.push(word[..end].to_owned());
            }
            start = end;
        }
    }
    let tokens = vocabulary.len();
    let ids = vocabulary.into_iter().zip(0..);
    tokenizer["model"]["vocab"] = ids.map(|(token, id)| (token, json!(id))).collect::<Value>();
    tokenizer["model"]["merges"] = json!(merges);
    tokenizer["post_processor"] = Value::Null;
    for (token, id) in
        tokenizer["added_tokens"].as_array_mut().expect("added tokens").iter_mut().zip(tokens..)
    {
        token["id"] = json!(id);
    }
    tokenizer
}

fn words(rng: &mut impl Rng) -> Vec<String> {
    let mut word = || {
        let letters = rng.random_range(2..12);
        (0..letters).map(|_| char::from(b"etaoinshrdlucmfwypvbgkqjxz"[skewed(26, rng)])).collect()
    };
    (0..WORDS).map(|_| word()).collect()
}

/// A number below `end`, small ones more often.
fn skewed(end: usize, rng: &mut impl Rng) -> usize {
    (rng.random::<f64>().powi(2) * end as f64) as usize
}

/// A line of JSONL.
fn row(kind: &str, words: &[String], vocabulary: usize, rng: &mut impl Rng) -> String {
    let mut text = |most| {
        let count = rng.random_range(1..most);
        let words: Vec<&str> = (0..count).map(|_| &words[skewed(WORDS, rng)][..]).collect();
        words.join(" ")
    };
    let row = match kind {
        "chat" => {
            let roles = ["user", "assistant"].into_iter().cycle().take(4);
            let messages = roles.map(|role| json!({"role": role, "content": text(150)}));
            json!({"messages": messages.collect::<Vec<_>>()})
        }
        "pair" => json!({"prompt": text(200), "completion": text(200)}),
        "text" => json!({"text": text(400)}),
        _ => json!({"input_ids": (0..300).map(|_| rng.random_range(0..vocabulary)).collect::<Vec<_>>()}),
    };
    row.to_string() + "\n"
}
