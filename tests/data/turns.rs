//! Turns that are trained on, and warnings about what a template leaves out, in small templates.

use std::fs;
use std::path::Path;

use horizon::data::chat::{ChatTemplate, Conversation, Rendered};
use horizon::data::{Warning, Warnings};
use serde_json::{Value, json};

use super::list;

/// A folder whose special tokens are those of the tests.
fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let special =
        ["<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "<|tool|>", "<think>"];
    let special: Vec<Value> = (0..)
        .zip(special)
        .map(|(id, text): (u32, _)| json!({"id": id, "content": text, "special": true}))
        .collect();
    fs::write(dir.path().join("tokenizer.json"), json!({"added_tokens": special}).to_string()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    dir
}

fn template(dir: &Path, source: &str) -> ChatTemplate {
    let file = dir.join("a.jinja");
    fs::write(&file, source).unwrap();
    ChatTemplate::open(&file, Some(dir), None).unwrap()
}

/// A row: messages with `train: 0` are not trained on; every other field is a variable.
fn conversation(row: &Value) -> Conversation {
    let messages = list(&row["messages"]);
    let mut variables = row.as_object().unwrap().clone();
    variables.remove("messages");
    let trained =
        messages.iter().map(|message| message["role"] == "assistant" && message["train"] != 0).collect();
    let bare = |message: &Value| {
        let mut message = message.clone();
        message.as_object_mut().unwrap().remove("train");
        message
    };
    Conversation { messages: messages.iter().map(bare).collect(), trained, variables }
}

fn render(source: &str, row: &Value) -> (Rendered, Warnings) {
    let (dir, mut warnings) = (model(), Warnings::default());
    let rendered = template(dir.path(), source).render(&conversation(row), &mut warnings);
    (rendered.unwrap_or_else(|error| panic!("{source} {row}: {error}")), warnings)
}

/// The texts that are trained on.
fn trained(source: &str, row: &Value) -> Vec<String> {
    let (Rendered { text, turns }, _) = render(source, row);
    turns.into_iter().map(|turn| text[turn].to_owned()).collect()
}

fn kinds(source: &str, row: &Value) -> Vec<(Warning, String)> {
    let (_, warnings) = render(source, row);
    warnings.iter().map(|(kind, _, first)| (kind.clone(), first.to_owned())).collect()
}

fn q() -> Value {
    json!({"role": "user", "content": "q"})
}

fn a(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

fn untrained(mut message: Value) -> Value {
    message["train"] = json!(0);
    message
}

fn calling(mut message: Value, names: &[&str]) -> Value {
    let call = |name: &&str| json!({"type": "function", "function": {"name": name, "arguments": {"x": 1}}});
    message["tool_calls"] = names.iter().map(call).collect();
    message
}

fn talk(messages: &[Value]) -> Value {
    json!({"messages": messages})
}

/// The k-th range is the k-th turn, even if ranges touch or are empty.
#[test]
fn tagged_turns_that_touch_have_their_own_messages() {
    let source = "{% for m in messages %}{% if m.role=='assistant' %}{% generation %}{{ m.content }}\
                  {% if m.tool_calls %}CALL{% endif %}</s>{% endgeneration %}{% elif m.role=='user' %}[{{ m.content }}]\
                  {% endif %}{% endfor %}";
    let call = || calling(a(""), &["add"]);
    let tool = json!({"role": "tool", "content": "3"});
    for (messages, expected) in [
        (vec![q(), untrained(call()), tool.clone(), a("b")], &["b</s>"][..]),
        (vec![q(), call(), tool.clone(), untrained(a("b"))], &["CALL</s>"]),
        (vec![q(), call(), tool, a("b")], &["CALL</s>b</s>"]),
        (vec![q(), a("a"), untrained(a(""))], &["a</s>"]),
        (vec![q(), a(""), untrained(a("b"))], &["</s>"]),
        (vec![q(), a("a"), untrained(a("b"))], &["a</s>"]),
        (vec![q(), a("a"), a("b")], &["a</s>b</s>"]),
    ] {
        assert_eq!(trained(source, &talk(&messages)), expected, "{messages:?}");
    }
    // Tags without an end token: the range of an empty turn is empty.
    let open = source.replace("</s>{% endgeneration %}", "{% endgeneration %}");
    assert_eq!(trained(&open, &talk(&[q(), a(""), q(), untrained(a("b"))])), [""; 0]);
    assert_eq!(trained(&open, &talk(&[q(), untrained(a("")), q(), a("b")])), ["b"]);
}

/// As `apply_chat_template(return_assistant_tokens_mask=True)`.
#[test]
fn a_template_that_tags_every_role_is_reported() {
    let source = "{% for m in messages %}{% generation %}{{ m.content }}</s>{% endgeneration %};{% endfor %}";
    let row = talk(&[json!({"role": "user", "content": "question"}), a("answer")]);
    assert_eq!(trained(source, &row), ["question</s>", "answer</s>"]);
    assert_eq!(kinds(source, &row), [(Warning::RoleTagged("user".into()), "message 0".into())]);
    let row = talk(&[json!({"role": "user", "content": "question"}), a("answer"), q(), untrained(a("b"))]);
    assert_eq!(trained(source, &row), ["answer</s>"]);
}

/// Values by `apply_chat_template`, which gives templates null and lists as they are; text in their
/// place is what the other templates expect.
#[test]
fn content_is_null_or_a_list_for_templates_that_ask_for_it() {
    let asks = "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}CALL</s>\
                {% elif m.content is string %}{{ m.content }}</s>{% else %}\
                {% for part in m['content'] %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}";
    let plain =
        "{% for m in messages %}{{ m.content + ';' }}{% if m.tool_calls %}CALL</s>{% endif %}{% endfor %}";
    let mut call = calling(a(""), &["add"]);
    call["content"] = Value::Null;
    let parts = json!([{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]);
    let asked = json!({"role": "user", "content": parts});
    let row = talk(&[asked.clone(), call]);
    assert_eq!(render(asks, &row).0.text, "<b><c>CALL</s>");
    assert_eq!(render(plain, &row).0.text, "bc;;CALL</s>");
    assert_eq!(trained(plain, &row), [";CALL</s>"]);
    // The answer is a list of parts.
    let row = talk(&[q(), json!({"role": "assistant", "content": parts})]);
    let shown = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}\
                 {{ part if part is string else part.text }}{% endfor %}<|im_end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    assert_eq!(trained(shown, &row), ["bc<|im_end|>"]);
    // A prompt, too.
    let dir = model();
    assert_eq!(template(dir.path(), plain).prompt(&[asked]).unwrap(), "bc;");
}

#[test]
fn whitespace_of_the_header_is_not_trained_on() {
    // The generation prompt continues behind the header.
    let source = "{% for m in messages %}<|{{ m.role }}|>\n\n{{ m.content }}</s>\n{% endfor %}\
                  {% if add_generation_prompt %}<|assistant|>\n\n<think>\n{% endif %}";
    assert_eq!(trained(source, &talk(&[q(), a("ans")])), ["ans</s>"]);
    assert_eq!(trained(source, &talk(&[q(), a("ans"), q(), a("b")])), ["ans</s>", "b</s>"]);
    // The whitespace behind an end token, where the prompt has another ending.
    let source = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}\
                  {{ m.content }}</s>\n\n{% endif %}{% endfor %}{% if messages[-1].role != 'user' %}<|end|>{% endif %}";
    let tool = json!({"role": "tool", "content": "result of the tool"});
    assert_eq!(trained(source, &talk(&[q(), tool, a("ans")])), ["ans</s>"]);
}

/// As the tags of transformers: `{% generation %}{{ m.content }}<|end|>{% endgeneration %}\n`.
#[test]
fn a_token_that_closes_the_conversation_is_not_part_of_the_last_turn() {
    let source = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}";
    assert_eq!(trained(source, &talk(&[q(), a("b"), q(), a("c")])), ["b<|end|>", "c<|end|>"]);
    assert_eq!(trained(source, &talk(&[q(), a("c")])), ["c<|end|>"]);
    let always = source.replace("<|end|>\n", "<|end|></s>\n").replace("{{ eos_token }}", "");
    assert_eq!(trained(&always, &talk(&[q(), a("c")])), ["c<|end|></s>"]);
}

/// Qwen 3 adds an empty part of reasoning to the last turn, which the model generates.
#[test]
fn reasoning_that_the_template_adds_is_trained_on_behind_another_turn() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}\
                  <think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let last = "<think>\n\n</think>\n\nb<|im_end|>";
    assert_eq!(trained(source, &talk(&[q(), a("b")])), [last]);
    assert_eq!(trained(source, &talk(&[q(), a("a"), a("b")])), ["a<|im_end|>", last]);
    assert_eq!(trained(source, &talk(&[a("a"), q(), a("b")])), ["a<|im_end|>", last]);
}

#[test]
fn a_header_without_a_generation_prompt_is_not_trained_on() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let row = talk(&[q(), a("b"), q(), a("")]);
    assert_eq!(trained(source, &row), ["b<|im_end|>", "<|im_end|>"]);
    // Text that may be the model's.
    let thinks = source.replace("\n{{ m.content }}", "\n<think></think>{{ m.content }}");
    let row = talk(&[q(), a("b")]);
    assert_eq!(trained(&thinks, &row), ["<|im_start|>assistant\n<think></think>b<|im_end|>"]);
    assert_eq!(kinds(&thinks, &row), [(Warning::HeaderTrained, "message 1".into())]);
    // No header.
    let mistral = "{% for m in messages %}{{ '[INST] ' ~ m.content ~ ' [/INST]' if m.role == 'user' else \
                   ' ' ~ m.content ~ '</s>' }}{% endfor %}";
    assert_eq!(trained(mistral, &row), [" b</s>"]);
    assert_eq!(kinds(mistral, &row), []);
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn tool_calls_that_a_template_does_not_show_are_reported() {
    let shows = CHATML
        .replace("<|im_end|>", "{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}<|im_end|>");
    let first = shows.replace("for c in m.tool_calls", "for c in (m.tool_calls or [])[:1]");
    let warning = |name: &str| vec![(Warning::ToolCallsIgnored, format!("`{name}`"))];
    for (source, content, names, expected) in [
        (CHATML, "Let me look.", &["f"][..], warning("f")),
        (CHATML, "I call get_weather.", &["get_weather"], warning("get_weather")),
        (&shows, "Let me look.", &["f"], vec![]),
        (&shows, "I call get_weather.", &["get_weather"], vec![]),
        (&shows, "Let me look.", &["get_weather", "get_weather", "get_time"], vec![]),
        (&first, "Let me look.", &["get_weather", "get_time"], warning("get_time")),
    ] {
        assert_eq!(kinds(source, &talk(&[q(), calling(a(content), names)])), expected, "{source} {content}");
    }
}

#[test]
fn messages_that_a_template_does_not_show_are_reported() {
    let source = CHATML.replace("messages %}", "messages if m.role in ['user', 'assistant'] %}");
    let system = json!({"role": "system", "content": "Be very brief."});
    let tool = json!({"role": "tool", "content": "{\"sum\": 3}"});
    let row = talk(&[system, q(), untrained(a("first")), tool, a("b")]);
    let ignored = |role: &str| Warning::MessageIgnored(role.into());
    let expected = [(ignored("system"), "Be very brief.".into()), (ignored("tool"), "{\"sum\": 3}".into())];
    assert_eq!(kinds(&source, &row), expected);
    assert_eq!(kinds(CHATML, &row), []);
    let written =
        CHATML.replace("{{ m.content }}", "{{ m.content | tojson if m.role == 'tool' else m.content }}");
    assert_eq!(kinds(&written, &row), []);
    let shouted =
        CHATML.replace("{{ m.content }}", "{{ m.content | upper if m.role == 'system' else m.content }}");
    assert_eq!(kinds(&shouted, &row), []);
}

/// Many parts in doubt are looked for in one rendering.
#[test]
fn many_parts_that_a_template_does_not_show_are_counted() {
    let tool = |at: usize| json!({"role": "tool", "content": format!("result {at}")});
    let one = |at: usize| [q(), calling(a("Let me look."), &["f", "g"]), tool(at), a("b")];
    let row = talk(&(0..40).flat_map(one).collect::<Vec<Value>>());
    let ignores = CHATML.replace("messages %}", "messages if m.role != 'tool' %}");
    let shouts =
        CHATML.replace("{{ m.content }}", "{{ m.content | upper if m.role == 'tool' else m.content }}");
    let shows = ignores
        .replace("<|im_end|>", "{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}<|im_end|>");
    let first = shows.replace("for c in m.tool_calls", "for c in (m.tool_calls or [])[:1]");
    for (source, messages, calls) in
        [(CHATML, 0, 40), (&ignores, 40, 40), (&shouts, 0, 40), (&shows, 40, 0), (&first, 40, 40)]
    {
        let (_, warnings) = render(source, &row);
        assert_eq!(warnings.count(&Warning::MessageIgnored("tool".into())), messages, "{source}");
        assert_eq!(warnings.count(&Warning::ToolCallsIgnored), calls, "{source}");
    }
}

#[test]
fn tools_that_a_template_does_not_show_are_reported() {
    let tool = |name: Value| json!([{"type": "function", "function": {"name": name, "description": "Finds the sum"}}]);
    let row = |tools: Value| json!({"tools": tools, "messages": [{"role": "user", "content": "use add_up"}, a("b")]});
    let shows = format!("{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{CHATML}");
    let never = format!("{{% if tools and false %}}{{{{ tools | tojson }}}}{{% endif %}}{CHATML}");
    for source in [CHATML, &never] {
        let found = kinds(source, &row(tool(json!("add_up"))));
        assert_eq!(found, [(Warning::ToolsIgnored, "`add_up`".into())], "{source}");
        assert_eq!(kinds(source, &row(tool(Value::Null)))[0].0, Warning::ToolsIgnored, "{source}");
    }
    assert_eq!(kinds(&shows, &row(tool(json!("add_up")))), []);
    assert_eq!(kinds(&shows, &row(tool(Value::Null))), []);
    assert_eq!(kinds(CHATML, &row(json!([]))), []);
}

#[test]
fn an_end_token_in_the_content_is_reported() {
    assert_eq!(kinds(CHATML, &talk(&[q(), a("b<|im_end|>")]))[0].0, Warning::EndTwice);
    assert_eq!(kinds(CHATML, &talk(&[q(), a("b<|end|>")])), []);
}

#[test]
fn fields_that_nothing_reads_are_reported() {
    let source = format!("{{# m.mood #}}{{% set mood = 'tools' %}}{CHATML}");
    let mut answer = a("b");
    for (key, value) in
        [("id", json!("x")), ("timestamp", json!(3)), ("model", json!("m")), ("refusal", json!(""))]
    {
        answer[key] = value;
    }
    assert_eq!(kinds(&source, &talk(&[q(), answer.clone()])), []);
    answer["mood"] = json!("\u{fdd3}NaN");
    answer["tools"] = json!([{"name": "f", "note": "\u{fdd4}"}]);
    let unused = |name: &str, example: &str| (Warning::UnusedTurnField(name.into()), example.to_owned());
    let expected = [unused("mood", "NaN"), unused("tools", "[{\"name\":\"f\",\"note\":\"\u{fffd}\"}]")];
    assert_eq!(kinds(&source, &talk(&[q(), answer.clone()])), expected);
    let reads = CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m['mood'] ~ m.get('tools') }}");
    answer["tools"] = json!("tools");
    assert_eq!(kinds(&reads, &talk(&[q(), answer])), []);
}

#[test]
fn marks_are_refused_where_a_template_reads_them() {
    let dir = model();
    let refused = |source: &str, key: &str| {
        let mut answer = a("b");
        answer[key] = json!("\u{fdd4}");
        let row = talk(&[q(), answer]);
        let rendered = template(dir.path(), source).render(&conversation(&row), &mut Warnings::default());
        rendered.err().map(|error| error.message().to_owned())
    };
    assert_eq!(refused(CHATML, "id"), None);
    for (source, key) in [
        (CHATML, "content"),
        (CHATML, "reasoning"),
        (&CHATML.replace("{{ m.content }}", "{{ m.id }}{{ m.content }}")[..], "id"),
        (&CHATML.replace("{{ m.content }}", "{{ m }}"), "id"),
    ] {
        let message = refused(source, key).unwrap_or_else(|| panic!("{key} in {source}"));
        assert!(message.contains(&format!("message 1: `{key}` has")), "{message}");
    }
}

/// As `get_chat_template(tools=…)` of transformers.
#[test]
fn rows_with_tools_use_the_template_for_tools() {
    let dir = model();
    let text = |row: Value| {
        let template = ChatTemplate::of_folder(dir.path(), None).unwrap().unwrap();
        template.render(&conversation(&row), &mut Warnings::default()).unwrap().text
    };
    let put = |name: &str, content: String| fs::write(dir.path().join(name), content).unwrap();
    let (default, tool_use) = (CHATML.to_owned(), format!("TOOLS{CHATML}"));
    let list = json!([{"name": "tool_use", "template": tool_use}, {"name": "default", "template": default}]);
    let with = |tools: Value| json!({"tools": tools, "messages": [q(), a("b")]});
    let check = || {
        assert!(text(with(json!([{"name": "f"}]))).starts_with("TOOLS"));
        assert!(text(with(json!([]))).starts_with("TOOLS"));
        assert!(text(with(Value::Null)).starts_with("<|im_start|>"));
        assert!(text(talk(&[q(), a("b")])).starts_with("<|im_start|>"));
    };
    put("tokenizer_config.json", json!({"chat_template": list}).to_string());
    check();
    put("tokenizer_config.json", "{}".to_owned());
    put("chat_template.jinja", default);
    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    put("additional_chat_templates/tool_use.jinja", tool_use);
    check();
    put("additional_chat_templates/tool_use.jinja", "{% if %}".to_owned());
    let error = ChatTemplate::of_folder(dir.path(), None).unwrap_err();
    assert!(error.message().contains("tool_use.jinja"), "{error}");
}

#[test]
fn a_template_is_read_from_json() {
    let dir = model();
    let file = dir.path().join("chat_template.json");
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        let template = ChatTemplate::open(&file, None, None)?;
        assert_eq!(ChatTemplate::source_of(&file)?, "hello {{ messages | length }}");
        template.prompt(&[])
    };
    let source = "hello {{ messages | length }}";
    assert_eq!(open(source).unwrap(), "hello 0");
    assert_eq!(open(&json!({"chat_template": source}).to_string()).unwrap(), "hello 0");
    let one = json!([{"name": "default", "template": source}]);
    assert_eq!(open(&json!({"chat_template": one}).to_string()).unwrap(), "hello 0");
    let two = json!([{"name": "default", "template": source}, {"name": "rag", "template": source}]);
    for (text, word) in [
        (json!({"chat_template": two}).to_string(), "several templates"),
        (json!({"eos_token": "</s>"}).to_string(), "JSON without a field `chat_template`"),
    ] {
        let error = open(&text).unwrap_err();
        assert!(error.message().contains(word) && error.message().contains("chat_template.json"), "{error}");
    }
    let error = ChatTemplate::open(dir.path(), None, None).unwrap_err();
    assert!(error.message().contains("it is a folder"), "{error}");
}
