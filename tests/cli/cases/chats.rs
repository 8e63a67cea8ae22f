//! Special tokens, templates, answers and runs.

use std::fs;

use serde_json::{Value, json};

use super::{Case, Document, Ran, assert_all, expected, hi_yo, horizon_in, turns};

/// Removes special tokens from `tokenizer.json`; returns them as (id, content).
fn strip(case: &Case, names: &[&str]) -> Vec<(u64, String)> {
    let mut tokenizer = case.json("model/tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let (gone, stay): (Vec<Value>, Vec<Value>) =
        added.drain(..).partition(|token| names.contains(&token["content"].as_str().unwrap()));
    added.extend(stay);
    case.write("model/tokenizer.json", Value::Object(tokenizer).to_string());
    gone.iter()
        .map(|token| (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap().to_owned()))
        .collect()
}

/// Writes special tokens into `tokenizer_config.json`, as transformers does.
fn decoder(case: &Case, tokens: &[(u64, String)]) {
    let token = |content: &str| {
        json!({"content": content, "lstrip": false, "rstrip": false, "normalized": false,
               "single_word": false, "special": true})
    };
    let tokens: Value = tokens.iter().map(|(id, content)| (id.to_string(), token(content))).collect();
    case.set("model/tokenizer_config.json", json!({"added_tokens_decoder": tokens}));
}

/// Writes special tokens into `added_tokens.json`.
fn added(case: &Case, tokens: &[(u64, String)]) {
    let tokens: Value = tokens.iter().map(|(id, content)| (content.clone(), json!(id))).collect();
    case.write("model/added_tokens.json", tokens.to_string());
}

#[test]
fn special_tokens_are_known_wherever_they_are_written() {
    let turn = ["<|im_start|>", "<|im_end|>", "<|end|>"];
    type Put = fn(&Case, &[(u64, String)]);
    let cases: [(&str, Put, &[&str]); 4] = [
        ("tok_eos_not_in_json", |case, tokens| (decoder(case, tokens), added(case, tokens)).1, &turn),
        ("only in added_tokens_decoder", decoder, &turn),
        ("only in added_tokens.json", added, &turn),
        ("tok_extra_only_in_config", decoder, &["<|end|>"]),
    ];
    assert_all(cases.map(|(name, write, tokens)| {
        let case = Case::new();
        let tokens = strip(&case, tokens);
        write(&case, &tokens);
        case.write("data.jsonl", json!({"messages": turns(&["hi", "yo<|end|>"])}).to_string());
        (name, case.has("data.jsonl", &["hi yo<|end|>"]))
    }));
}

#[test]
fn text_that_begins_with_bos_has_it_once() {
    let case = Case::new();
    let rows =
        [json!({"text": "<|begin|>hello"}), json!({"prompt": "<|begin|>Q: 1+1?\n", "completion": "2"})];
    case.write("data.jsonl", rows.map(|row| row.to_string() + "\n").concat());
    assert_all([("tok_double_bos", case.has("data.jsonl", &["text with BOS", "pair with BOS"]))]);
    let warned = case.tokenize("data.jsonl").well().err;
    assert!(warned.contains("warning: 2 ") && warned.contains("BOS"), "{warned}");
}

/// Samples greedily.
fn sample(case: &Case, model: &str, more: &[&str]) -> Ran {
    let start = ["sample", "--model", model, "--temperature", "0", "--threads", "1"];
    horizon_in(case.path("").as_path(), &[&start[..], more].concat()).well()
}

/// Asserts that the answer to "What is 7?" is that of transformers, up to its end token.
fn answers(name: &str, case: &Case, model: &str) {
    let answer = sample(case, model, &["--chat", "--prompt", "What is 7?", "--tokens", "30"]);
    assert_eq!(answer.out.trim_end_matches('\n'), expected(&["texts", "answer"]), "{name}");
}

/// Trains a step that changes nothing and exports to `tuned`.
fn export(case: &Case, more: &str) {
    case.write("data.jsonl", hi_yo().repeat(4));
    let line = "train --model model --data data.jsonl --seq-len 16 --micro-batch 4 --steps 1 --threads 1 -q";
    case.run(&format!("{line} --lr 0 --warmup 0 --out tuned {more}")).well();
}

#[test]
fn a_template_given_for_training_is_exported() {
    let case = Case::new();
    fs::rename(case.path("model/chat_template.jinja"), case.path("chatml.jinja")).unwrap();
    export(&case, "--chat-template chatml.jinja");
    assert_eq!(
        case.read("tuned/chat_template.jinja"),
        case.read("chatml.jinja"),
        "s_chat_template_not_exported"
    );
    answers("s_chat_template_not_exported", &case, "tuned");

    // It replaces the model's own, wherever that is written.
    let case = Case::new();
    fs::rename(case.path("model/chat_template.jinja"), case.path("chatml.jinja")).unwrap();
    case.set("model/tokenizer_config.json", json!({"chat_template": "{{ messages[0].content }}"}));
    export(&case, "--chat-template chatml.jinja");
    answers("a template in tokenizer_config.json", &case, "tuned");
}

#[test]
fn the_end_token_that_was_trained_ends_answers() {
    for (name, ends) in [("s_eos_base_model", json!(423)), ("the end tokens are a list", json!([423, 420]))] {
        let case = Case::new();
        case.config(json!({"eos_token_id": ends}));
        case.write("model/generation_config.json", json!({"eos_token_id": ends}).to_string());
        case.set("model/tokenizer_config.json", json!({"eos_token": "<|end|>"}));
        export(&case, "");
        let ids = case.json("tuned/generation_config.json")["eos_token_id"].clone();
        let ids = ids.as_array().unwrap_or_else(|| panic!("{name}: eos_token_id is {ids}, no list"));
        assert!(ids.contains(&json!(422)) && ids.contains(&json!(423)), "{name}: {ids:?}");
        answers(name, &case, "tuned");
    }
}

#[test]
fn a_turn_without_an_end_token_is_reported() {
    let case = Case::new();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    case.write("model/chat_template.jinja", template);
    case.write("data.jsonl", hi_yo().repeat(2));
    let warned = case.tokenize("data.jsonl").well().err;
    assert!(warned.contains("warning: 2 ") && warned.contains("end"), "s_template_without_end: {warned}");
}

#[test]
fn a_prompt_is_used_whole_or_its_cut_is_reported() {
    let prompt = expected(&["texts", "prompt"]);
    let arguments = ["--prompt", prompt.as_str().unwrap(), "--tokens", "6"];
    let continuation = expected(&["texts", "continuation"]);
    let case = Case::new();
    let ran = sample(&case, "model", &arguments);
    let want = prompt.as_str().unwrap().to_owned() + continuation.as_str().unwrap() + "\n";
    assert_eq!(ran.out, want, "s_sample_context_512");
    assert_eq!(ran.err, "", "s_sample_context_512");

    case.config(json!({"max_position_embeddings": 256}));
    let ran = sample(&case, "model", &arguments);
    assert!(ran.err.contains("256"), "a prompt beyond the model's positions: {:?}", ran.err);
}

#[test]
fn a_continuation_keeps_its_first_space() {
    let case = Case::new();
    // As tokenizers after SentencePiece: the space at the beginning of a text is removed.
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let decoder = case.json("model/tokenizer.json")["decoder"].clone();
    case.set("model/tokenizer.json", json!({"decoder": {"type": "Sequence", "decoders": [decoder, strip]}}));
    let ran = sample(&case, "model", &["--prompt", "The", "--tokens", "2"]);
    assert_eq!(ran.out, expected(&["texts", "stripped"]).as_str().unwrap().to_owned() + "\n");
}

#[test]
fn a_resumed_run_calls_the_model_by_its_name() {
    let case = Case::new();
    fs::rename(case.path("model"), case.path("fox-7b")).unwrap();
    case.write("tok.jsonl", json!({"tokens": (0..64).collect::<Vec<u32>>()}).to_string());
    let line = "train --model fox-7b --data tok.jsonl --seq-len 16 --micro-batch 1 --steps 1 --threads 1 -q";
    case.run(&format!("{line} --checkpoint-dir run")).well();
    let ran =
        case.run("train --resume run --steps 2 --resume-change steps,warmup --threads 1 --verbose").well();
    assert!(ran.err.contains("fox-7b") && !ran.err.contains("tiny"), "r_resume_label: {}", ran.err);
}

#[test]
fn a_stream_goes_on_over_windows_without_a_target() {
    let case = Case::new();
    let behind = |first: i32| [&[first; 40][..], &[5, 6]].concat();
    let row = json!({"input_ids": behind(1), "labels": behind(-100)});
    case.write("data.jsonl", format!("{row}\n").repeat(8));
    let line = "train --model model --data data.jsonl --seq-len 8 --micro-batch 1 --steps 12 --threads 1 -q";
    case.run(&[line, "--log", "log.jsonl", "--pack", "stream"].join(" ")).well();
    let log = String::from_utf8(case.read("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 12, "t_stream_masked_window");
}

#[test]
fn rows_can_be_shown_before_training() {
    let case = Case::new();
    case.write("data.jsonl", hi_yo().repeat(3));
    let ran = case.run("tokenize --model model --data data.jsonl --out out.bin --show 2 -q").well();
    let shown = ran.out + &ran.err;
    assert_eq!(shown.matches("hi").count(), 2, "{shown}");
    assert_eq!(case.documents(), [0; 3].map(|_| Document::expected("hi yo")));
}
