//! Chat templates of strangers, in the worker processes that render them.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use horizon::data::chat::Conversation;
use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{EncoderSource, Warnings};
use serde_json::{Map, Value, json};

use super::{Ran, horizon_in};

const TIME: &str = "of processor time, the limit for its size; correct the template, or give another one";
const MEMORY: &str = "it needs more than 512 MiB of memory";
const LENGTH: &str = "its text is longer than";
const DEPTH: &str = "its values or calls are nested too deeply";
/// The template engine refuses it.
const REFUSED: &str = "chat template: ";

fn row(content: &str) -> String {
    let messages = json!([{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]);
    json!({"messages": messages}).to_string() + "\n"
}

/// Tokenizes rows with a template.
fn tokenize(template: &str, rows: &[&str], more: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.jinja"), template).unwrap();
    let rows: String = rows.iter().map(|content| row(content)).collect();
    fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let all =
        ["tokenize", "--model", "tiny", "--data", "rows.jsonl", "--chat-template", "a.jinja", "--show", "9"];
    horizon_in(dir.path(), &[&all[..], &["--threads", "1"], more].concat())
}

fn namespace(start: &str, step: &str, end: &str) -> String {
    let times = "{% for a in range(99999) %}";
    format!("{{% set n = namespace(x={start}) %}}{times}{{% set n.x = {step} %}}{{% endfor %}}{end}")
}

/// `inner` within two loops of nearly 100,000 rounds.
fn loops(inner: &str) -> String {
    format!("{{% for a in range(99999) %}}{{% for b in range(99999) %}}{inner}{{% endfor %}}{{% endfor %}}")
}

fn macros(body: &str) -> String {
    format!("{{% macro a(n) %}}{body}{{% endmacro %}}{{{{ a(60) }}}}")
}

fn nested(open: &str, inner: &str, close: &str, times: usize) -> String {
    format!("{{{{ {}{inner}{} }}}}", open.repeat(times), close.repeat(times))
}

/// Templates that end at once, with the reason.
fn quick() -> Vec<(String, &'static str)> {
    let itself = "{% set n = namespace() %}{% set n.n = n %}";
    vec![
        ("{{ messages | tojson(indent=10 ** 9) }}".into(), MEMORY),
        ("{{ '%1000000000d' % 1 }}".into(), MEMORY),
        ("{{ range(99999) | join(range(99999) | join) }}".into(), MEMORY),
        ("{{ 'x' * 2000000 }}".into(), LENGTH),
        // Its message is shortened.
        ("{{ raise_exception('x' * 2000000) }}".into(), REFUSED),
        (format!("{itself}{{{{ n }}}}"), DEPTH),
        (nested("-", "1", "", 300_000), DEPTH),
        (nested("(", "1", ")", 100_000), REFUSED),
        (macros("{{ a(n) }}"), REFUSED),
        ("{{ 'x' * 10 ** 18 }}".into(), REFUSED),
        ("{{ range(10 ** 15) | length }}".into(), REFUSED),
    ]
}

/// Templates that take seconds, or as much memory as they may.
fn slow() -> Vec<(String, &'static str)> {
    let itself = "{% set n = namespace() %}{% set n.n = n %}";
    let mut all: Vec<(String, &str)> = vec![
        (format!("{itself}{{{{ n | tojson }}}}"), DEPTH),
        (format!("{itself}{{% set m = namespace() %}}{{% set m.n = m %}}{{{{ n == m }}}}"), DEPTH),
        (namespace("[]", "[n.x]", "{{ n.x }}"), DEPTH),
        (nested("not ", "1", "", 300_000), DEPTH),
        (nested("[", "", "]", 200_000), REFUSED),
        ("{{ ".repeat(100_000), REFUSED),
        ("{# ".repeat(100_000), REFUSED),
        ("{{ '".repeat(100_000), REFUSED),
        (format!("{{{{ a{} }}}}", ".a".repeat(100_000)), REFUSED),
        (namespace("'ab'", "n.x ~ n.x", "{{ n.x }}"), MEMORY),
        (namespace("'ab'", "n.x + n.x", "unseen"), MEMORY),
        (namespace("[1]", "n.x + n.x", ""), MEMORY),
        (namespace("[]", "n.x + [range(99999) | list]", ""), MEMORY),
        (format!("{{% set s = 'ab' %}}{}{{{{ s }}}}", "{% set s = s ~ s %}".repeat(60)), MEMORY),
        (format!("{{% set s = 'ab' %}}{}", "{% set s %}{{ s }}{{ s }}{% endset %}".repeat(60)), MEMORY),
        (loops("x").replace("range(99999) %}x", "range(99999) %}{{ 'x' * 9999 }}"), MEMORY),
        ("{% if 1 %}".repeat(100_000) + &"{% endif %}".repeat(100_000), TIME),
        ("{% for a in [1] %}".repeat(100_000) + &"{% endfor %}".repeat(100_000), TIME),
        ("{% generation %}".repeat(50_000) + &"{% endgeneration %}".repeat(50_000), TIME),
        (format!("{{{{ 1{} }}}}", " + 1".repeat(200_000)), TIME),
        (format!("{{{{ 2{} }}}}", " ** 2".repeat(100_000)), TIME),
        (macros("{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}"), TIME),
    ];
    let memory = [
        "{{ 'a\nb' | indent(10 ** 9) }}",
        "{{ messages | tojson(indent=10 ** 18) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ range(9999) | batch(10 ** 9, 'x') | list }}",
        "{{ range(99) | slice(10 ** 9) | list | length }}",
        "{% set s = 'a' * 99999 %}{{ s.replace('', s) }}",
        "{% set s = 'a' * 99999 %}{{ (s | list) | join(s) }}",
    ];
    let refused = [
        "{{ range(10 ** 9) }}",
        "{% for a in range(0, 10 ** 18, 1) %}{% endfor %}",
        "{{ ('x' * 10 ** 6) * 10 ** 6 }}",
        "{{ ([1] * 10 ** 9) | length }}",
        "{{ ([1] * 10 ** 18) | length }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a'.zfill(10 ** 9) }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ ('\t' * 9999).expandtabs(10 ** 6) }}",
        "{{ strftime_now('%1000000000Y') }}",
        "{{ ('%' * 10 ** 9) | urlencode }}",
        "{{ raise_exception('x' * 10 ** 9) }}",
        "{% macro f(n) %}{% if n > 1 %}{{ f(n - 1) }}{{ f(n - 2) }}{% endif %}{% endmacro %}{{ f(9999) }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro a() %}{% call a() %}{{ caller() }}{% endcall %}{% endmacro %}{{ a() }}",
        "{% for a in [1] recursive %}{{ loop([a]) }}{% endfor %}",
    ];
    let time = [
        "",
        "{% set c = a * b %}",
        "{% for c in range(99999) %}{% for d in range(99999) %}{% endfor %}{% endfor %}",
        "{% set c = range(99999) | sum %}",
        "{% set c = range(99999) | sort(reverse=true) %}",
        "{% set c = range(9999) | unique | list %}",
        "{% set c = dict(a=1, b=2, c=3) | dictsort %}",
        "{% set c = ('a' * 9999).replace('a', 'b') %}",
        "{% set c = ('a ' * 9999).split(' ') %}",
        "{% if 'b' in 'a' * 99999 %}{% endif %}",
        "{% set c = (messages * 9999) | groupby('role') %}",
        "{% set c = strftime_now('%c' * 99) %}",
        "{% set c = messages | tojson(indent=9) %}",
        "{% set c = b ** 2 % 1000007 %}",
    ];
    all.extend(memory.map(|template| (template.to_owned(), MEMORY)));
    all.extend(refused.map(|template| (template.to_owned(), REFUSED)));
    all.extend(time.map(|inner| (loops(inner), TIME)));
    all
}

/// `HZ_LONG` tries those that take long, too.
#[test]
fn a_hostile_template_ends_its_worker_and_not_the_command() {
    let mut all = quick();
    if std::env::var_os("HZ_LONG").is_some() {
        all.extend(slow());
        assert!(all.len() >= 70, "{}", all.len());
    }
    for (template, reason) in all {
        tokenize(&template, &["hi"], &[]).badly(1, &["a.jinja", reason][usize::from(reason == REFUSED)..]);
    }
}

#[test]
fn a_row_that_ends_its_worker_is_an_invalid_row_and_three_in_succession_end_the_run() {
    let template = "{% for m in messages %}{% if m.content == 'bad' %}{{ 'x' * 2000000 }}{% endif %}\
                    {{ m.role }}: {{ m.content }}\n{% endfor %}";
    tokenize(template, &["good", "bad"], &[])
        .badly(1, &["rows.jsonl, line 2: a.jinja: chat template: ", LENGTH]);
    let skipping = ["--skip-bad-lines"];
    let ran = tokenize(template, &["bad", "good", "bad", "bad", "good"], &skipping).well();
    assert!(ran.err.contains("3 invalid rows are skipped") && ran.out.contains("document 2:"), "{}", ran.err);
    assert!(!ran.out.contains("document 3:"));
    tokenize(template, &["good", "bad", "bad", "bad", "good"], &skipping)
        .badly(1, &["rows.jsonl, line 4: ", "3 rows have failed so, and no more are tried"]);
}

fn source(name: &str, program: Option<&str>) -> EncoderSource {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat");
    EncoderSource {
        tokenizer: TokenizerSource { folder: Some(folder.join("byte_level")), vocabulary: 2000 },
        chat_template: Some(folder.join("templates").join(name).with_extension("jinja")),
        time: Some(1_735_689_599),
        chat_worker: program.map(Into::into),
    }
}

#[test]
fn workers_render_as_the_process_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat/expected.json");
    let all: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let cases: Vec<&Value> = all["byte_level"]["chats"].as_array().unwrap().iter().collect();
    for name in ["dated", "ended", "instruct", "late_system", "marked", "thinking", "turns"] {
        let here = source(name, None).open().unwrap();
        let there = source(name, Some(env!("CARGO_BIN_EXE_horizon"))).open().unwrap();
        for case in &cases {
            let mut variables = Map::new();
            variables.insert("tools".into(), case["tools"].clone());
            // Numbers and values that are nested deeply arrive as they are.
            let deep = (0..200).fold(json!([1.0, -0.0, 5e-324, u64::MAX]), |inner, _| json!([inner]));
            variables.insert("deep".into(), deep);
            let messages = case["messages"].as_array().unwrap().clone();
            let conversation = Conversation::new(messages.clone(), 0, variables);
            let [mut found_here, mut found_there] = [(); 2].map(|()| Warnings::default());
            let rendered = here.template().unwrap().render(&conversation, &mut found_here);
            assert_eq!(there.template().unwrap().render(&conversation, &mut found_there), rendered, "{name}");
            assert_eq!(found_there, found_here, "{name}");
            let prompt = here.template().unwrap().prompt(&messages);
            assert_eq!(there.template().unwrap().prompt(&messages), prompt, "{name}");
        }
    }
}

#[test]
fn a_worker_that_cannot_be_started_is_an_error() {
    let error = source("turns", Some("/nowhere/horizon")).open().unwrap_err();
    assert!(error.message().starts_with("cannot start /nowhere/horizon"), "{error}");
}

/// A worker gets the time from the command, and nothing else of its environment.
#[test]
fn the_date_of_a_template_is_that_of_the_command() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.jinja"), "{{ strftime_now('%F') }}{{ messages[1].content }}").unwrap();
    fs::write(dir.path().join("rows.jsonl"), row("hi")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_horizon"));
    command.args([
        "tokenize",
        "--model",
        "tiny",
        "--data",
        "rows.jsonl",
        "--chat-template",
        "a.jinja",
        "--show",
        "1",
    ]);
    command.current_dir(dir.path()).env("SOURCE_DATE_EPOCH", "951825599");
    let ran = Ran::from(command.output().unwrap()).well();
    assert!(ran.out.contains("2000-02-29"), "{}", ran.out);
}

fn worker() -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_horizon"));
    command.arg("chat-worker").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// It does not wait for its limit of time.
#[test]
fn a_worker_ends_with_the_process_that_started_it() {
    assert!(worker().wait_with_output().unwrap().status.success(), "an idle one");
    let mut busy = worker();
    let mut send = |value: Value| {
        let text = value.to_string();
        let input = busy.stdin.as_mut().unwrap();
        input.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
        input.write_all(text.as_bytes()).unwrap();
    };
    send(json!({"templates": {"default": ["a", loops("")], "tool_use": null}, "special": [], "time": 0}));
    send(json!({"Prompt": []}));
    // Its first answer: the template is open.
    busy.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    drop(busy.stdin.take());
    assert!(busy.wait().unwrap().success());
}
