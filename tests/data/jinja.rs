//! Compares templates with what transformers renders of them, written by `chat/jinja.py`, and the
//! turns of the model families' templates with the ranges that their tags give.

use std::fs;
use std::path::Path;

use horizon::data::chat::{ChatTemplate, Conversation};
use horizon::data::{Row, Warning, Warnings};
use serde_json::{Map, Value, json};

use super::{folder, list};

fn template(dir: &Path, source: &str) -> horizon::base::Result<ChatTemplate> {
    let file = dir.join("a.jinja");
    fs::write(&file, source).unwrap();
    ChatTemplate::open(&file, Some(dir), None)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

#[test]
fn templates_mean_what_they_mean_in_jinja() {
    let dir = tempfile::tempdir().unwrap();
    let all = read("jinja.json");
    let render = |source: &str| {
        let mut variables = all["variables"].as_object().unwrap().clone();
        // As `json::object` reads it.
        variables.insert("big".into(), json!("\u{fdd3}123456789012345678901234567890"));
        let conversation = Conversation { variables, ..Default::default() };
        template(dir.path(), source)?.render(&conversation, &mut Warnings::default())
    };
    assert!(list(&all["cases"]).len() > 250);
    let differs = |case: &&Value| match (render(case[0].as_str().unwrap()), case[1].as_str()) {
        (Ok(rendered), Some(text)) => rendered.text != text,
        (rendered, text) => rendered.is_ok() || text.is_some(),
    };
    for case in list(&all["cases"]).iter().filter(differs) {
        println!("{case:#}: {:?}", render(case[0].as_str().unwrap()));
    }
    assert_eq!(list(&all["cases"]).iter().filter(differs).count(), 0);
    for case in list(&all["refused"]) {
        let (source, word) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        let error = render(source).unwrap_err();
        assert!(error.message().contains(word), "{source}: {error}");
    }
}

/// Integers of any size keep their digits, and NaN its name.
#[test]
fn numbers_that_json_cannot_hold_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let source =
        "{{ x }} {{ [x] | tojson }} {{ x is number }}{{ x is integer }}{{ x is string }} {{ 'x' ~ x }}";
    let digits = "9".repeat(50);
    for (number, printed) in [
        // f'{x} {json.dumps([x])} {isinstance(x, (int, float))}{isinstance(x, int)}False x{x}'
        (&digits[..], format!("{digits} [{digits}] TrueTrueFalse x{digits}")),
        (
            "123456789012345678901",
            "123456789012345678901 [123456789012345678901] TrueTrueFalse x123456789012345678901".into(),
        ),
        ("-Infinity", "-inf [-Infinity] TrueFalseFalse x-inf".into()),
    ] {
        let variables = Map::from_iter([("x".to_owned(), json!(format!("\u{fdd3}{number}")))]);
        let conversation = Conversation { variables, ..Default::default() };
        let rendered = template(dir.path(), source).unwrap().render(&conversation, &mut Warnings::default());
        assert_eq!(rendered.unwrap().text, printed);
    }
}

fn special_token((id, text): (u32, &Value)) -> Value {
    json!({"id": id, "content": text, "special": true})
}

/// For each family: turns found by tags are those of transformers; without the tags they are the
/// same; and each trained turn alone is its part of them.
#[test]
fn turns_of_the_model_families_are_those_of_their_tags() {
    let dir = tempfile::tempdir().unwrap();
    let all = read("families.json");
    let special: Vec<Value> = (0..).zip(list(&all["special"])).map(special_token).collect();
    fs::write(dir.path().join("tokenizer.json"), json!({"added_tokens": special}).to_string()).unwrap();
    for (family, of) in all["families"].as_object().unwrap() {
        fs::write(dir.path().join("tokenizer_config.json"), of["tokens"].to_string()).unwrap();
        let tagged = of["template"].as_str().unwrap();
        let plain = tagged.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        let [tagged, plain] = [tagged, &plain].map(|source| template(dir.path(), source).unwrap());
        for case in list(&of["cases"]) {
            let variables = case["tools"].as_array().map(|tools| ("tools".to_owned(), json!(tools)));
            let mut conversation =
                Conversation::new(list(&case["messages"]).to_vec(), 0, variables.into_iter().collect());
            let turns = |template: &ChatTemplate, conversation: &Conversation| {
                let rendered = template.render(conversation, &mut Warnings::default()).unwrap();
                assert_eq!(rendered.text, case["text"].as_str().unwrap(), "{family}");
                rendered.turns.into_iter().map(|turn| rendered.text[turn].to_owned()).collect::<Vec<_>>()
            };
            let expected: Vec<&str> =
                list(&case["turns"]).iter().map(|turn| turn.as_str().unwrap()).collect();
            assert_eq!(turns(&tagged, &conversation), expected, "{family}");
            let searched = of["searched"].as_bool().unwrap();
            if searched {
                assert_eq!(turns(&plain, &conversation), expected, "{family} without tags");
            }
            let assistant: Vec<usize> =
                (0..conversation.trained.len()).filter(|&at| conversation.trained[at]).collect();
            let mut alone = Vec::new();
            for &index in &assistant {
                conversation.trained = (0..conversation.trained.len()).map(|at| at == index).collect();
                let turn = turns(&tagged, &conversation);
                assert!(!searched || turn == turns(&plain, &conversation), "{family}");
                alone.extend(turn);
            }
            assert_eq!(alone, expected, "{family}, one turn after another");
        }
    }
}

/// A turn's text between tags without a text of its message: another turn must not take its place.
#[test]
fn tags_that_do_not_tell_their_message_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}yes{% endgeneration %}-\
                  {% generation %}{{ m.content }}{% endgeneration %};{% endif %}{% endfor %}";
    let template = template(dir.path(), source).unwrap();
    let turn = |content: &str| json!({"role": "assistant", "content": content});
    let mut conversation = Conversation::new(vec![turn("a"), turn("b")], 0, Map::new());
    let rendered = template.render(&conversation, &mut Warnings::default()).unwrap();
    assert_eq!((&rendered.text[..], rendered.turns.len()), ("yes-a;yes-b;", 4));
    conversation.trained[0] = false;
    let error = template.render(&conversation, &mut Warnings::default()).unwrap_err();
    assert!(error.message().contains("do not tell which text is whose"), "{error}");
}

/// ChatML; the changes of a case make it lose something.
const CHATML: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n\
                      {% if m.reasoning %}<think>{{ m.reasoning }}</think>{% endif %}{{ m.content | trim }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The warnings of rendering messages with ChatML, in which one text is replaced.
fn warnings(from: &str, to: &str, row: Value) -> Vec<(Warning, u64, String)> {
    let dir = tempfile::tempdir().unwrap();
    let special = json!({"added_tokens": [special_token((0, &"<|im_start|>".into())), special_token((1, &"<|im_end|>".into()))]});
    fs::write(dir.path().join("tokenizer.json"), special.to_string()).unwrap();
    assert!(from.is_empty() || CHATML.contains(from));
    let template = template(dir.path(), &CHATML.replace(from, to)).unwrap();
    let messages = list(&row["messages"]).to_vec();
    let mut variables = Map::new();
    for name in ["tools", "documents", "enable_thinking"] {
        variables.extend(row.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    let mut warnings = Warnings::default();
    template.render(&Conversation::new(messages, 0, variables), &mut warnings).unwrap();
    warnings.iter().map(|(kind, count, first)| (kind.clone(), count, first.to_owned())).collect()
}

#[test]
fn what_a_template_leaves_out_is_a_warning() {
    let talk = |answer: Value| json!({"messages": [{"role": "user", "content": "q"}, answer]});
    let says = |content: &str| talk(json!({"role": "assistant", "content": content}));
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let with = |mut row: Value, field: &str, value: Value| {
        row[field] = value;
        row
    };
    let thinks = talk(json!({"role": "assistant", "content": "a", "reasoning": " because "}));
    let clean = [
        says("answer"),
        says("  answer\n"),
        thinks.clone(),
        says("<think>x</think>\n\ny"),
        talk(
            json!({"role": "assistant", "content": [{"type": "text", "text": "a"}], "name": "b", "z": null}),
        ),
        with(says("a"), "tools", tools.clone()),
        with(says("a"), "tools", json!([])),
    ];
    for row in clean {
        // A template that prints a list of parts as such still contains its texts.
        let found =
            warnings("m.content | trim", "m.content if m.content is not string else m.content | trim", row);
        assert_eq!(found, []);
    }
    let content = "m.content | trim";
    let unused = |field: &str| Warning::UnusedField(field.to_owned());
    for (from, to, row, kind, example) in [
        ("<|im_end|>", "<|end|>", says("so it is"), Warning::NoEndToken, "so it is<|end|>\\n"),
        ("", "", says(" \n"), Warning::EmptyTurn, r#"{"role":"assistant","content":" \n"}"#),
        (content, "m.content[:2]", says("three"), Warning::ContentMissing, "three"),
        (content, "m.content | replace('\t', ' ')", says("a\tb"), Warning::ContentMissing, "a\tb"),
        ("m.reasoning %}", "m.thought %}", thinks, Warning::ReasoningIgnored, "a<|im_end|>"),
        (
            content,
            "m.content.split('</think>')[-1]",
            says("<think>\nx\n</think>y"),
            Warning::ReasoningIgnored,
            "y<|im_end|>",
        ),
        ("tools | tojson", "1", with(says("a"), "tools", tools), Warning::ToolsIgnored, "`add`"),
        ("", "", with(says("a"), "documents", json!([{"title": "t"}])), unused("documents"), ""),
        (
            "",
            "",
            with(says("a"), "enable_thinking", json!(false)),
            unused("chat_template_kwargs.enable_thinking"),
            "",
        ),
        (
            "",
            "",
            talk(json!({"role": "assistant", "content": "a", "ole": "x"})),
            Warning::UnusedTurnField("ole".into()),
            "\"x\"",
        ),
        (
            "",
            "",
            json!({"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            Warning::AdjacentTurns,
            "message 1",
        ),
    ] {
        assert_eq!(warnings(from, to, row), [(kind, 1, example.to_owned())]);
    }
}

/// Only trained turns are checked, but fields of all messages.
#[test]
fn turns_that_are_not_trained_on_are_not_checked() {
    let row = br#"{"prompt": [{"role": "assistant", "content": " "}, {"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}]}"#;
    let Row::Chat(conversation) = Row::parse(row, &mut Warnings::default()).unwrap().remove(0) else {
        panic!("it is a conversation");
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "<|im_end|>"}"#).unwrap();
    let mut warnings = Warnings::default();
    template(dir.path(), CHATML).unwrap().render(&conversation, &mut warnings).unwrap();
    assert_eq!(warnings, Warnings::default());
}
