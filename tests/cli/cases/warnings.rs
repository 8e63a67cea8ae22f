//! Every kind of warning, and none for clean data.

use horizon::data::{Warning, Warnings};
use serde_json::{Value, json};

use super::{Case, assert_all, done, here, hi_yo, turns};

/// One warning of each kind.
fn all() -> [Warning; 25] {
    [
        Warning::SkippedLine,
        Warning::UnreadFile,
        Warning::UnusedField("mood".into()),
        Warning::UnusedTurnField("mood".into()),
        Warning::TwoSystemPrompts,
        Warning::ToolArguments,
        Warning::UntrainedRole,
        Warning::BosTwice,
        Warning::ToolsIgnored,
        Warning::ReasoningIgnored,
        Warning::ContentMissing,
        Warning::EmptyTurn,
        Warning::NoEndToken,
        Warning::AdjacentTurns,
        Warning::NothingTrained,
        Warning::BosRepeated,
        Warning::ToolCallsIgnored,
        Warning::MessageIgnored("system".into()),
        Warning::HeaderTrained,
        Warning::EndTwice,
        Warning::RoleTagged("user".into()),
        Warning::HeldOut,
        Warning::TokenFile,
        Warning::EmptyFile,
        Warning::NotRegular,
    ]
}

/// Returns a chat template, if not the model's, and a row that has the warning once. A new kind
/// does not compile without a row here; it also belongs into [`all`].
fn input(warning: &Warning) -> (Option<&'static str>, Value) {
    const BARE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}";
    const BEGIN: &str = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}\
                         <|im_end|>{% endif %}{% endfor %}";
    const UPPER: &str =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}";
    const NO_PROMPT: &str = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n<think></think>\
                             {{ m.content }}<|im_end|>\n{% endfor %}";
    const TAGGED: &str =
        "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %};{% endfor %}";
    let chat = |answer: Value| json!({"messages": [{"role": "user", "content": "hi"}, answer]});
    match warning {
        Warning::SkippedLine => (None, json!({"text": 7})),
        // Of the folder; see `entry`.
        Warning::UnreadFile
        | Warning::HeldOut
        | Warning::TokenFile
        | Warning::EmptyFile
        | Warning::NotRegular => (None, chat(json!({"role": "assistant", "content": "yo"}))),
        Warning::OnlyHeldOut => unreachable!("only of validation data"),
        Warning::Dropout => unreachable!("of a tokenizer, not of a row"),
        Warning::UnusedField(field) => (None, json!({"messages": turns(&["hi", "yo"]), field: "happy"})),
        Warning::UnusedTurnField(field) => {
            (None, chat(json!({"role": "assistant", "content": "yo", field: "happy"})))
        }
        Warning::TwoSystemPrompts => {
            let mut messages = turns(&["hi", "yo"]);
            let rude = json!({"role": "system", "content": "be rude"});
            messages.as_array_mut().unwrap().insert(0, rude);
            (None, json!({"system": "be kind", "messages": messages}))
        }
        Warning::ToolArguments => {
            let calls =
                json!([{"type": "function", "function": {"name": "add", "arguments": "one and two"}}]);
            (None, chat(json!({"role": "assistant", "content": "yo", "tool_calls": calls})))
        }
        Warning::UntrainedRole => {
            let mut messages = turns(&["hi", "yo"]);
            messages[0]["weight"] = json!(1);
            (None, json!({"messages": messages}))
        }
        Warning::BosTwice => (None, json!({"text": "<|begin|>hello"})),
        Warning::ToolsIgnored => {
            let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {}}}]);
            (None, json!({"tools": tools, "messages": turns(&["hi", "yo"])}))
        }
        Warning::ReasoningIgnored => {
            (None, chat(json!({"role": "assistant", "content": "yo", "reasoning_content": "so"})))
        }
        Warning::ContentMissing => (Some(UPPER), json!({"messages": turns(&["hi", "yo"])})),
        Warning::EmptyTurn => (None, json!({"messages": turns(&["hi", ""])})),
        Warning::NoEndToken => (Some(BARE), json!({"messages": turns(&["hi", "yo"])})),
        Warning::AdjacentTurns => {
            let answer = json!({"role": "assistant", "content": "yo"});
            (None, json!({"messages": [{"role": "user", "content": "hi"}, answer, answer]}))
        }
        Warning::NothingTrained => (None, chat(json!({"role": "assistant", "content": "yo", "weight": 0}))),
        // The template writes the BOS token, and so does the data.
        Warning::BosRepeated => (Some(BEGIN), json!({"messages": turns(&["<|begin|>hi", "yo"])})),
        Warning::ToolCallsIgnored => {
            let calls = json!([{"type": "function", "function": {"name": "add", "arguments": {}}}]);
            (Some(NO_PROMPT), chat(json!({"role": "assistant", "content": "yo", "tool_calls": calls})))
        }
        Warning::MessageIgnored(role) => {
            let mut messages = turns(&["hi", "yo"]);
            messages.as_array_mut().unwrap().insert(0, json!({"role": role, "content": "be kind"}));
            (Some(NO_PROMPT), json!({"messages": messages}))
        }
        Warning::HeaderTrained => (Some(NO_PROMPT), json!({"messages": turns(&["hi", "yo"])})),
        Warning::EndTwice => (Some(NO_PROMPT), json!({"messages": turns(&["hi", "yo<|im_end|>"])})),
        Warning::RoleTagged(_) => (Some(TAGGED), json!({"messages": turns(&["hi", "yo"])})),
    }
}

/// The entry of a folder that has the warning.
fn entry(warning: &Warning) -> Option<&'static str> {
    match warning {
        Warning::UnreadFile => Some("load.py"),
        Warning::HeldOut => Some("test.jsonl"),
        Warning::TokenFile => Some("tokens.bin"),
        Warning::EmptyFile => Some("empty.jsonl"),
        Warning::NotRegular => Some("link"),
        _ => None,
    }
}

#[test]
fn every_warning_appears_once_with_its_place() {
    assert_all(all().map(|warning| {
        let (template, row) = input(&warning);
        let case = Case::new();
        if let Some(template) = template {
            case.write("model/chat_template.jinja", template);
        }
        // A row that is clean by the model's template.
        let clean = if template.is_some() { String::new() } else { hi_yo() };
        case.write("ds/a.jsonl", format!("{row}\n{clean}"));
        case.write("ds/README.md", "# A data set\n");
        let entry = entry(&warning);
        match entry {
            Some("link") => std::os::unix::fs::symlink(case.path("model"), case.path("ds/link")).unwrap(),
            Some(name) => case.write(&format!("ds/{name}"), if name == "empty.jsonl" { "" } else { "x" }),
            None => {}
        }
        let data = if entry.is_some() { "ds" } else { "ds/a.jsonl" };
        let place = entry.unwrap_or("a.jsonl, line 1");
        let ran = case
            .run(&format!("tokenize --model model --data {data} --out out.bin --skip-bad-lines --threads 1"));
        let mut one = Warnings::default();
        one.add(warning.clone(), "");
        let text = one.to_string();
        let there = ran.err.lines().any(|line| line.starts_with(text.trim_end()) && line.contains(place));
        ("a warning", if there { Ok(()) } else { Err(format!("no {text:?} with {place} in {}", ran.err)) })
    }));
}

/// The data of a folder with splits, trained and validated on: each from its own files.
#[test]
fn validation_data_is_that_of_its_split() {
    let case = Case::new();
    case.write("ds/train.jsonl", hi_yo());
    case.write("ds/test.jsonl", hi_yo().replace("yo", "yo yo yo"));
    let run = |data: &str, val: &str| {
        let ran = case.run(&format!(
            "train --model model --data {data} --val {val} --seq-len 16 --micro-batch 1 --steps 1 --lr 0 \
             --threads 1 --no-shuffle -q --log log.jsonl"
        ));
        let log = String::from_utf8(case.read("log.jsonl")).unwrap();
        let of = |key: &str| {
            log.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()[key].as_f64())
                .next_back()
        };
        (ran.well().err, of("loss"), of("val_loss"))
    };
    let (warnings, loss, val_loss) = run("ds", "ds");
    assert!(val_loss.is_some());
    assert_eq!(
        (loss, val_loss),
        (run("ds/train.jsonl", "ds/test.jsonl").1, run("ds/train.jsonl", "ds/test.jsonl").2)
    );
    assert!(warnings.contains("warning: 1 file is for validation or test by its name, and not trained on"));
    assert!(warnings.contains("warning: validation data: 1 file is for validation or test"), "{warnings}");
}

#[test]
fn clean_data_has_no_warning() {
    let files: [(&str, Vec<u8>); 12] = [
        ("a.jsonl", hi_yo().into()),
        ("b.jsonl", json!({"prompt": "Q: 1+1?\n", "completion": "2"}).to_string().into()),
        ("c.jsonl", json!({"instruction": "add", "input": "1 and 2", "output": "3"}).to_string().into()),
        ("d.jsonl", json!({"tokens": [1, 2, 3]}).to_string().into()),
        (
            "e.jsonl",
            json!({"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [-100, 2]}).to_string().into(),
        ),
        ("f.jsonl", json!({"text": "hello world"}).to_string().into()),
        (
            "g.jsonl",
            json!({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]})
                .to_string()
                .into(),
        ),
        ("h.json", format!("[{}]", hi_yo().trim()).into()),
        ("i.csv", "prompt,completion\n\"Q: 1+1?\",2\n".into()),
        ("j.txt", "hello world\n".into()),
        ("k.parquet", std::fs::read(here().join("data/rows.parquet")).unwrap()),
        ("l.jsonl.gz", std::fs::read(here().join("data/rows.jsonl.gz")).unwrap()),
    ];
    let case = Case::new();
    assert_all(files.map(|(name, bytes)| {
        case.write(name, bytes);
        let ran = case.tokenize(name);
        let silent = if ran.err.contains("warning") { Err(ran.err.clone()) } else { Ok(()) };
        (name, done(&ran).and(silent))
    }));
}
