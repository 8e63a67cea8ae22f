//! Inputs that are made to fill the memory, the time or the screen. Each command has 1.5 GiB of
//! address space and 30 s, and ends with a short error that names the file.
//!
//! `HZ_LONG=1` runs the large ones, too.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::{Ran, horizon_in, short, write_text};

/// Runs the command under limits.
fn limited(folder: &Path, arguments: &[&str]) -> Ran {
    const SHELL: &str = "ulimit -v 1572864; ulimit -c 0; exec timeout -s KILL 30 \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", SHELL, env!("CARGO_BIN_EXE_horizon")]).args(arguments);
    command.current_dir(folder).output().unwrap().into()
}

/// A file that is made, by its name, the command that reads it, and words of the error.
type Hostile<'a> = (&'a str, Vec<u8>, &'a [&'a str], &'a str);

/// Objects in a field that is not used.
fn objects(field: &str, count: usize) -> Vec<u8> {
    format!("{{{field}\"unused\": [{}0]}}", "{\"\":0},".repeat(count)).into_bytes()
}

fn nested(depth: usize) -> Vec<u8> {
    format!("{{\"text\": {}", "[".repeat(depth)).into_bytes()
}

/// A file of which a value is a megabyte long.
fn long(before: &str, after: &str) -> Vec<u8> {
    format!("{before}{}{after}", "x".repeat(1 << 20)).into_bytes()
}

const TRAIN: [&str; 6] = ["train", "--model", "model", "--data", "text.txt", "--quiet"];
const PLOT: [&str; 4] = ["plot", "trace.json", "--out", "trace.svg"];
const TOKENIZE: [&str; 6] = ["tokenize", "--model", "tiny", "--show", "1", "--data"];

fn refuse(here: &Path, (name, content, command, words): Hostile) {
    let path = here.join(name);
    let before = fs::read(&path).ok();
    fs::write(&path, content).unwrap();
    let of_data = [command, &[name]].concat();
    let ran = limited(here, if command[0] == "tokenize" { &of_data } else { command });
    assert!(ran.err.len() < 10_000, "{name}: {} bytes of messages", ran.err.len());
    ran.badly(1, &[path.file_name().unwrap().to_str().unwrap(), words]);
    fs::remove_file(&path).unwrap();
    before.into_iter().for_each(|content| fs::write(&path, content).unwrap());
}

fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    horizon_in(dir.path(), &short(&["--data", "text.txt", "--steps", "1", "--out", "model"])).well();
    dir
}

#[test]
fn inputs_that_are_made_to_do_harm_are_refused() {
    let dir = furnished();
    let blanks = || vec![b' '; 1 << 20];
    let blanks_between = [&b"{\"text\": \"a\", "[..], &blanks(), b"\"b\": NaN,}"].concat();
    let many = "it has too many values";
    let parquet = include_bytes!("../data/files/expanding.parquet");
    let header = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let mut all: Vec<Hostile> = vec![
        ("model/config.json", blanks(), &TRAIN, "it is empty"),
        ("model/config.json", objects("", 1 << 20), &TRAIN, many),
        ("model/config.json", nested(1 << 18), &TRAIN, "nested too deeply"),
        ("model/config.json", long("{\"model_type\": \"", "\"}"), &TRAIN, "model_type"),
        ("model/config.json", long("{\"", "\": 1}"), &TRAIN, "error"),
        ("model/generation_config.json", objects("", 1 << 20), &TRAIN, many),
        ("model/special_tokens_map.json", objects("", 1 << 20), &TRAIN, many),
        ("model/tokenizer_config.json", objects("", 1 << 20), &TRAIN, many),
        ("model/model.safetensors", header, &TRAIN, "its header would have 18446744073709551615 bytes"),
        ("objects.jsonl", objects("\"text\": \"a\", ", 1 << 20), &TOKENIZE, many),
        ("blanks.jsonl", blanks_between, &TOKENIZE, "line 1: not a JSON object"),
        ("nested.jsonl", nested(1 << 18), &TOKENIZE, "nested too deeply"),
        ("long.jsonl", long("{\"text\": ", "}"), &TOKENIZE, "is not a JSON value"),
        ("key.jsonl", long("{\"", "\": 1}"), &TOKENIZE, "no field to train on"),
        ("expanding.parquet", parquet.to_vec(), &TOKENIZE, "it expands to more than 200 times its size"),
    ];
    if std::env::var_os("HZ_LONG").is_some() {
        all.extend([
            ("large.jsonl", objects("\"text\": \"a\", ", 18 << 20), &TOKENIZE[..], many),
            ("line.jsonl", objects("\"text\": \"a\", ", 20 << 20), &TOKENIZE, "a line is longer than 128"),
            (
                "blank.json",
                [&vec![b' '; 1 << 26], &b"[{\"text\": NaN,}]"[..]].concat(),
                &TOKENIZE,
                "element 1",
            ),
            ("trace.json", objects("\"traceEvents\": [], ", 8 << 20), &PLOT, "has no tasks"),
            ("trace.json", format!("[{}{{}}]", "[],".repeat(20 << 20)).into(), &PLOT, "has no tasks"),
        ]);
    }
    all.into_iter().for_each(|hostile| refuse(dir.path(), hostile));
}

/// Files of 40 GiB that have no blocks on the disk.
#[test]
fn sparse_files_are_not_read() {
    let dir = furnished();
    let here = dir.path();
    for (name, command) in [
        ("model/config.json", &TRAIN[..]),
        ("model/tokenizer.json", &TRAIN),
        ("log.jsonl", &["plot", "log.jsonl", "--out", "log.svg"]),
        ("trace.json", &["plot", "trace.json", "--out", "trace.svg"]),
        ("machine.json", &["plan", "--model", "tiny", "--machine", "machine.json"]),
    ] {
        let path = here.join(name);
        let before = fs::read(&path).ok();
        File::create(&path).unwrap().set_len(40 << 30).unwrap();
        limited(here, command).badly(1, &[path.file_name().unwrap().to_str().unwrap(), "is longer than"]);
        fs::remove_file(&path).unwrap();
        before.into_iter().for_each(|content| fs::write(&path, content).unwrap());
    }
}

#[test]
fn many_ids_that_are_left_out_are_one_warning() {
    let dir = furnished();
    let ids: Vec<u32> = (0..3000).collect();
    fs::write(dir.path().join("model/generation_config.json"), format!("{{\"eos_token_id\": {ids:?}}}"))
        .unwrap();
    let ran = limited(dir.path(), &short(&["--model", "model", "--data", "text.txt", "--steps", "1"])).well();
    assert_eq!(ran.err.matches("outside the vocabulary").count(), 1, "{}", ran.err);
}
