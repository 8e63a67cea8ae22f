//! Conversations and token files, from the command.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Ran, horizon_in, names, short, write_text};

/// Writes a tiny model with fresh weights, the tokenizer of `tests/data/chat/byte_level` and a chat
/// template.
pub fn chat_model(here: &Path) {
    write_text(&here.join("text.txt"));
    horizon_in(here, &short(&["--data", "text.txt", "--steps", "1", "--out", "model"])).well();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tests.join("byte_level").join(file), here.join("model").join(file)).unwrap();
    }
    fs::copy(tests.join("templates/turns.jinja"), here.join("model/chat_template.jinja")).unwrap();
    let path = here.join("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["vocab_size"] = 424.into();
    fs::write(path, config.to_string()).unwrap();
}

/// Makes it a base model: without a template, which is in `chat.jinja`; text ends with `<|end|>`,
/// but turns end with `<|im_end|>`.
fn base_model(here: &Path) {
    chat_model(here);
    fs::rename(here.join("model/chat_template.jinja"), here.join("chat.jinja")).unwrap();
    let special = json!({"bos_token": "<|begin|>", "eos_token": "<|end|>"});
    fs::write(here.join("model/tokenizer_config.json"), special.to_string()).unwrap();
    fs::write(here.join("model/generation_config.json"), r#"{"eos_token_id": 423, "top_p": 0.80}"#).unwrap();
}

/// Writes questions with one common answer, in every form of JSONL.
pub fn write_chats(path: &Path) {
    let lines: String = (0..60)
        .map(|k| {
            let (asked, answer) = (format!("What is {k}?"), "The capital of France is Paris.");
            let line = match k % 4 {
                0 => json!({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}),
                1 => json!({"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]}),
                2 => json!({"instruction": asked, "input": "", "output": answer}),
                _ => json!({"prompt": [{"role": "user", "content": asked}],
                            "completion": [{"role": "assistant", "content": answer}]}),
            };
            format!("{line}\n")
        })
        .collect();
    fs::write(path, lines).unwrap();
}

const TRAIN: [&str; 12] = [
    "train",
    "--model",
    "model",
    "--init",
    "--data",
    "chats.jsonl",
    "--seq-len",
    "96",
    "--micro-batch",
    "2",
    "--threads",
    "1",
];

#[test]
fn a_model_learns_to_answer_by_one_command() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    base_model(here);
    write_chats(&here.join("chats.jsonl"));
    let more = ["--steps", "60", "--lr", "3e-3", "--log", "log.jsonl", "--val-fraction", "0.1"];
    let chat = ["--out", "out", "--checkpoint-dir", "run", "--chat-template", "chat.jinja"];
    let ran = horizon_in(here, &[&TRAIN[..], &more, &chat].concat()).well();
    let ends = "in generation_config.json, since trained turns end with it: 422 (<|im_end|>)\n";
    for word in ["windows of 96", "held out", "of the tokens are padding", "validation loss", ends] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    let log = fs::read_to_string(here.join("log.jsonl")).unwrap();
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &records {
        let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key} of {record}"));
        assert!(number("tokens") > 96.0 && number("tokens") <= 192.0, "padding is not counted: {record}");
        assert!(
            number("data_seconds") >= 0.0 && number("data_seconds") <= number("step_seconds"),
            "{record}"
        );
        assert!(number("epoch") > 0.0, "{record}");
    }
    // All answers are equal and questions are masked, so the loss approaches 0.
    let loss = |k: usize| records[k]["loss"].as_f64().unwrap();
    assert!(loss(0) > 5.0 && loss(59) < 0.2, "from {} to {}", loss(0), loss(59));

    // The template and the end of its turns go with the model, also from a checkpoint.
    let template = fs::read(here.join("chat.jinja")).unwrap();
    fs::remove_file(here.join("chat.jinja")).unwrap();
    horizon_in(here, &["train", "--quiet", "--resume", "run", "--out", "resumed"]).well();
    for folder in ["out", "resumed"] {
        let read = |name: &str| fs::read(here.join(folder).join(name)).unwrap();
        assert_eq!(read("chat_template.jinja"), template);
        assert_eq!(read("generation_config.json"), b"{\"eos_token_id\": [423,422], \"top_p\": 0.80}");
    }

    // The trained model answers in its template's format and stops by itself.
    let ask = [
        "sample",
        "--model",
        "out",
        "--chat",
        "--prompt",
        "What is 7?",
        "--temperature",
        "0",
        "--threads",
        "1",
    ];
    assert_eq!(horizon_in(here, &ask).well().out, "The capital of France is Paris.\n");
}

#[test]
fn a_token_file_is_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    chat_model(here);
    write_chats(&here.join("chats.jsonl"));
    let tokenize = |more: &[&str]| {
        let start = ["tokenize", "--model", "model", "--data", "chats.jsonl", "--out", "chats.bin"];
        horizon_in(here, &[&start[..], more].concat())
    };
    let ran = tokenize(&["--threads", "2"]).well();
    assert!(ran.err.contains("in 60 documents") && ran.err.contains("trained on"), "{}", ran.err);
    let once = fs::read(here.join("chats.bin")).unwrap();
    tokenize(&["--threads", "1", "--quiet"]).well();
    assert!(fs::read(here.join("chats.bin")).unwrap() == once, "the number of threads changes nothing");
    assert_eq!(once[44..52], [423u32.to_le_bytes(), [0; 4]].concat(), "turns end with token 422");

    let losses = |data: &str| {
        let more = ["--data", data, "--seq-len", "64", "--steps", "4", "--log", "log.jsonl", "--init"];
        horizon_in(here, &short(&[&["--model", "model"], &more[..]].concat())).well();
        let log = fs::read_to_string(here.join("log.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].clone();
        log.lines().map(loss).collect::<Vec<_>>()
    };
    assert_eq!(losses("chats.bin"), losses("chats.jsonl"));
    let out = ["--model", "model", "--init", "--data", "chats.bin", "--steps", "1", "--out", "out"];
    horizon_in(here, &short(&out)).well();
    let generation: Value =
        serde_json::from_slice(&fs::read(here.join("out/generation_config.json")).unwrap()).unwrap();
    assert_eq!(generation["eos_token_id"], json!([422]));

    // A token file of another tokenizer is refused.
    let path = here.join("model/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "\n").unwrap();
    horizon_in(here, &short(&["--model", "model", "--init", "--data", "chats.bin"]))
        .badly(1, &["chats.bin", "another tokenizer"]);
    tokenize(&["--out", "chats.txt"]).badly(2, &["must end in .bin"]);
    horizon_in(here, &["tokenize", "--model", "model", "--data", "chats.bin", "--out", "x.bin"])
        .badly(1, &["chats.bin is a token file already"]);
}

#[test]
fn bad_lines_end_the_run_or_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let good = json!({"text": "a line of text that is long enough for a window of tokens"}).to_string();
    fs::write(here.join("lines.jsonl"), format!("{good}\n{{\"text\": 7}}\nnonsense\n{good}\n")).unwrap();
    let tokenize = ["tokenize", "--model", "tiny", "--data", "lines.jsonl", "--out", "lines.bin"];
    horizon_in(here, &tokenize).badly(1, &["lines.jsonl, line 2", "`text` is 7"]);
    assert_eq!(names(here), ["lines.jsonl"], "nothing half-written is left");
    let ran = horizon_in(here, &[&tokenize[..], &["--skip-bad-lines"]].concat()).well();
    let skipped =
        "2 invalid rows are skipped (the first: lines.jsonl, line 2: `text` is 7; it must be a string)\n";
    assert_eq!(ran.err.matches(&format!("warning: {skipped}")).count(), 1, "{}", ran.err);
    assert!(ran.err.contains("in 2 documents"), "{}", ran.err);
    assert_eq!(names(here), ["lines.bin", "lines.jsonl"]);
    // In quiet mode, too.
    let more = ["--data", "lines.jsonl", "--val", "lines.jsonl", "--steps", "1", "--skip-bad-lines"];
    let ran = horizon_in(here, &short(&more)).well();
    assert_eq!(ran.err, format!("warning: {skipped}warning: validation data: {skipped}"));
}

/// The counts are those of `apply_chat_template(return_assistant_tokens_mask=True)` of transformers
/// 5.24, for the template with `{% generation %}` around the assistant's turns.
#[test]
fn documents_are_shown_with_their_trained_tokens_marked() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    chat_model(here);
    write_chats(&here.join("chats.jsonl"));
    let show = ["tokenize", "--model", "model", "--data", "chats.jsonl", "--show", "2"];
    let ran = horizon_in(here, &show).well();
    let document = |number: u64| {
        format!(
            "document {}: 25 tokens, 8 trained on\n<|begin|><|im_start|>user\nWhat is {number}?<|im_end|>\n\
             <|im_start|>assistant\n⟦The capital of France is Paris.<|im_end|>⟧\n\n",
            number + 1
        )
    };
    assert_eq!(ran.out, document(0) + &document(1));
    assert!(ran.err.ends_with("trained on, in 60 documents\n"), "{}", ran.err);
    assert_eq!(names(here), ["chats.jsonl", "model", "text.txt"], "nothing is written");
    horizon_in(here, &show[..5]).badly(2, &["--out <FILE.bin>"]);
    horizon_in(here, &["tokenize", "--model", "model", "--data", "chats.jsonl:2", "--show", "1"])
        .badly(1, &["chats.jsonl:2 is a path with a weight", "`train --data`", "leave :2 out"]);

    // The reader has closed the pipe: the file is written all the same.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let command = Command::new(env!("CARGO_BIN_EXE_horizon"))
        .args(show)
        .args(["--out", "chats.bin"])
        .current_dir(here)
        .stdout(writer)
        .output();
    Ran::from(command.unwrap()).well();
    assert!(here.join("chats.bin").is_file());
}

/// Rows of tokens need no tokenizer, and are shown as ids. Nothing predicts the first token of a
/// document: of the second and the third no token is trained on.
#[test]
fn rows_of_tokens_are_shown_and_counted_without_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    chat_model(here);
    fs::remove_file(here.join("model/tokenizer.json")).unwrap();
    let rows = "{\"tokens\": [5, 6, 7], \"labels\": [5, -100, 7]}\n\
                {\"tokens\": [8, 9], \"labels\": [8, -100]}\n{\"tokens\": [4]}\n";
    fs::write(here.join("rows.jsonl"), rows).unwrap();
    let start = ["tokenize", "--model", "model", "--data", "rows.jsonl", "--show", "9", "--out", "rows.bin"];
    let ran = horizon_in(here, &start).well();
    let shown = "document 1: 3 tokens, 1 trained on\n5 6 ⟦7⟧\n\n\
                 document 2: 2 tokens, 0 trained on\n8 9\n\ndocument 3: 1 token, 0 trained on\n4\n\n";
    assert_eq!(ran.out, shown);
    let expected = "warning: 2 rows have nothing to train on (the first: rows.jsonl, line 2)\n\
                    wrote rows.bin: 6 tokens, 1 of them trained on, in 3 documents\n";
    assert_eq!(ran.err, expected);
    // Training agrees, also in quiet mode.
    let more = ["--model", "model", "--init", "--data", "rows.bin", "--steps", "1", "-q"];
    let left_out = "warning: left out: 2 documents have no supervised tokens within a window\n";
    assert_eq!(horizon_in(here, &short(&more)).well().err, left_out);
}

/// A token file has no chat template, but names the tokens that end turns, also those of masked
/// rows of tokens.
#[test]
fn a_token_file_names_its_ends_of_turns_and_not_its_template() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    base_model(here);
    write_chats(&here.join("chats.jsonl"));
    let tokenize = |more: &[&str]| {
        horizon_in(here, &[&["tokenize", "--model", "model", "--out", "a.bin", "--data"], more].concat())
            .well()
            .err
    };
    let stderr = tokenize(&["chats.jsonl", "--chat-template", "chat.jinja"]);
    let advice = "the file does not contain the chat template: train with --chat-template chat.jinja to export it \
                  with the model\n";
    assert!(stderr.ends_with(advice), "{stderr}");
    let ends = || fs::read(here.join("a.bin")).unwrap()[44..64].to_vec();
    for (labels, end) in [("[-100, 6, 422, -100]", 423u32), ("[5, 6, 422, 7]", 0), ("[-100, 6, 422, 7]", 0)] {
        let row = format!("{{\"tokens\": [5, 6, 422, 7], \"labels\": {labels}}}\n");
        fs::write(here.join("rows.jsonl"), row).unwrap();
        tokenize(&["rows.jsonl"]);
        assert_eq!(ends(), [&end.to_le_bytes()[..], &[0; 16]].concat(), "{labels}");
    }
}

#[test]
fn sources_have_weights() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_text(&here.join("text.txt"));
    let windows = |data: &[&str]| {
        let arguments =
            [&["train", "--seq-len", "32", "--micro-batch", "2", "--steps", "1", "--data"], data].concat();
        let stderr = horizon_in(here, &arguments).well().err;
        let count = stderr.split(" tokens, ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        count.parse::<u64>().unwrap()
    };
    let once = windows(&["text.txt"]);
    assert_eq!(windows(&["text.txt:3"]), 3 * once);
    assert_eq!(windows(&["text.txt:0.5"]), (once as f64 / 2.0).round() as u64);
}
