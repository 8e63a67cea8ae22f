//! Rows of every format, and the errors and warnings about them.

mod forms;

use serde_json::json;

use super::formats::{Field, IRRELEVANT, MESSAGE, SYSTEM};
use super::*;
use crate::base::Status;
use crate::data::warning::Warning;

fn read(row: &Value) -> (Result<Vec<Row>>, Warnings) {
    let mut warnings = Warnings::default();
    let rows = match row {
        Value::Object(row) => Row::of(row, &mut warnings),
        other => Row::parse(other.to_string().as_bytes(), &mut warnings),
    };
    (rows, warnings)
}

/// Reads one row without a warning.
fn clean(row: &Value) -> Row {
    let (rows, warnings) = read(row);
    assert_eq!(warnings, Warnings::default(), "{row}");
    let mut rows = rows.unwrap_or_else(|error| panic!("{row}: {error}"));
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn chat(row: &Value) -> Conversation {
    conversation(clean(row))
}

fn conversation(row: Row) -> Conversation {
    match row {
        Row::Chat(conversation) | Row::Instruction(conversation, _) => conversation,
        other => panic!("{other:?}"),
    }
}

/// Reads one message of the assistant.
fn answer(message: Value) -> Value {
    chat(&json!({"messages": [message]})).messages.remove(0)
}

/// Reads a row with one kind of warning, once.
fn warned(row: &Value, warning: &Warning) -> Conversation {
    let (rows, warnings) = read(row);
    let found: Vec<_> = warnings.iter().map(|(kind, count, _)| (kind, count)).collect();
    assert_eq!(found, [(warning, 1)], "{row}");
    conversation(rows.unwrap().remove(0))
}

fn refused(row: &Value, words: &[&str]) {
    let error = read(row).0.expect_err(&row.to_string());
    assert_eq!(error.status(), Status::BadFormat);
    for word in words {
        assert!(error.message().contains(word), "{row}: no {word:?} in {error}");
    }
}

/// A value that a field of a row may have.
fn sample(field: &Field) -> Value {
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    match field.names[0] {
        "messages" | "conversations" | "prompt" | "completion" => turns,
        "tools" | "functions" => json!([{"name": "f"}]),
        "documents" => json!([{"title": "a"}]),
        "chat_template_kwargs" => json!({"enable_thinking": false}),
        "history" => json!([["a", "b"]]),
        "tokens" | "input_ids" | "labels" => json!([7, 8]),
        "loss_mask" | "completion_mask" | "assistant_masks" | "attention_mask" => json!([1, 1]),
        "position_ids" => json!([0, 1]),
        "seq_lengths" => json!([2]),
        "cu_seqlens" => json!([0, 2]),
        _ => json!("text"),
    }
}

#[test]
fn every_field_of_the_table_is_read_under_every_name_and_no_other_is() {
    for format in &FORMATS {
        let needed = |row: &mut Map<String, Value>| {
            row.extend(format.needs.iter().map(|field| (field.names[0].to_owned(), sample(field))));
        };
        for field in format.needs.iter().chain(format.reads) {
            for name in field.names {
                let mut row = Map::from_iter([((*name).to_owned(), sample(field))]);
                if !format.needs.iter().any(|need| need.names == field.names) || format.needs.len() > 1 {
                    needed(&mut row);
                }
                clean(&Value::Object(row));
            }
        }
        let mut row = Map::new();
        needed(&mut row);
        row.extend(IRRELEVANT.iter().map(|field| ((*field).to_owned(), json!(1))));
        let empty = [("weight", Value::Null), ("images", json!([])), ("surprise", json!(""))];
        row.extend(empty.map(|(field, value)| (field.to_owned(), value)));
        clean(&Value::Object(row.clone()));
        for field in ["weight", "loss", "images", "surprise"] {
            row.insert(field.to_owned(), json!(1));
        }
        let (_, warnings) = read(&Value::Object(row));
        let fields = ["images", "loss", "surprise", "weight"];
        let expected = fields.map(|field| Warning::UnusedField(field.to_owned()));
        assert!(warnings.iter().map(|(warning, ..)| warning).eq(&expected), "{warnings}");
    }
    let (row, mut warnings) = (Map::from_iter([("system".to_owned(), json!("a"))]), Warnings::default());
    let text_format = &FORMATS[FORMATS.len() - 1];
    assert!(Fields::new(&row, text_format, &mut warnings).get(&SYSTEM).unwrap().is_none());
}

#[test]
fn every_field_of_a_message_in_the_table_is_taken_from_it() {
    let known = ["role", "content", "tool_calls", "reasoning_content", "reasoning", "thinking"];
    for field in MESSAGE {
        for name in field.names {
            let value = match field.names[0] {
                "tool_calls" => json!([{"name": "f", "arguments": {}}]),
                "function_call" => json!({"name": "f", "arguments": "{}"}),
                "weight" => json!(1),
                "masked" => json!(0),
                "train_detail" => json!([]),
                _ => json!("assistant"),
            };
            let mut message = json!({"role": "assistant", "content": "b"});
            message[field.names[0]].take();
            message[name] = value;
            let read = answer(message);
            assert!(read.as_object().unwrap().keys().all(|key| known.contains(&&key[..])), "{read}");
        }
    }
    let other = answer(json!({"from": "gpt", "value": "b", "name": "Ann", "step": null}));
    assert_eq!(other, json!({"role": "assistant", "content": "b", "name": "Ann"}));
}

#[test]
fn formats_are_recognized_by_their_fields() {
    assert_eq!(clean(&json!({"text": "a", "meta": 1})), Row::Text("a".into()));
    assert_eq!(clean(&json!({"prompt": "a", "completion": "b"})), Row::Pair("a".into(), "b".into()));
    // UltraChat has the first question as `prompt`.
    let row = |prompt: &str| {
        json!({"prompt": prompt, "messages": [{"role": "user", "content": [{"text": "a"}]},
                                                               {"role": "assistant", "content": "b"}]})
    };
    assert_eq!(chat(&row("a")).messages.len(), 2);
    assert_eq!(warned(&row("b"), &Warning::UnusedField("prompt".into())).messages.len(), 2);
    // tatsu-lab/alpaca has the rendered prompt and the answer as `text`.
    let row = |text: &str| json!({"instruction": "add", "input": "", "output": "sum", "text": text});
    chat(&row("### Instruction:\nadd\n\n### Response:\nsum"));
    warned(&row("add"), &Warning::UnusedField("text".into()));
}

#[test]
fn sharegpt_alpaca_and_dolly_become_messages() {
    let sharegpt = chat(&json!({
        "system": "be kind", "tools": "[{\"name\": \"f\"}]",
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
                          {"from": "observation", "value": "c"}, {"role": "gpt", "value": "d"},
                          {"from": "user", "content": "e"}]
    }));
    let roles: Vec<_> = sharegpt.messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "user"]);
    assert_eq!(sharegpt.trained, [false, false, true, false, true, false]);
    assert_eq!(sharegpt.messages[5], json!({"role": "user", "content": "e"}));
    assert_eq!(sharegpt.variables["tools"][0]["name"], "f");
    let alpaca = json!({"instruction": "add", "input": "1 2", "output": "3"});
    // databricks/databricks-dolly-15k
    let dolly = json!({"instruction": "add", "context": "1 2", "response": "3", "category": "math"});
    for row in [alpaca, dolly] {
        let Row::Instruction(conversation, Some((prompt, output))) = clean(&row) else {
            panic!("{row} is an instruction");
        };
        assert_eq!(conversation.messages[0]["content"], "add\n\n1 2");
        assert!(
            prompt.contains(", paired with") && prompt.ends_with("add\n\n### Input:\n1 2\n\n### Response:")
        );
        assert_eq!(output, "3");
    }
    let history = json!({"instruction": "c", "output": "d", "history": [["a", "b"]]});
    assert!(matches!(clean(&history), Row::Instruction(_, None)));
    assert_eq!(chat(&history).trained, [false, true, false, true]);
}

#[test]
fn messages_of_a_prompt_are_not_supervised() {
    let pair = chat(&json!({
        "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        "completion": [{"role": "assistant", "content": "d"}]
    }));
    assert_eq!(pair.trained, [false, false, false, true]);
}

/// The seven spellings: `weight` of OpenAI's fine-tuning, `train` and `training` of axolotl,
/// `masked` of torchtune, `loss` of LlamaFactory, and others.
#[test]
fn a_turn_with_a_mask_is_not_trained_on() {
    for (field, off, on) in [
        ("weight", json!(0), json!(1)),
        ("weight", json!(0.0), json!(1.0)),
        ("train", json!(false), json!(true)),
        ("training", json!("false"), json!("True")),
        ("trainable", json!(false), json!(null)),
        ("loss", json!(false), json!(true)),
        ("loss_mask", json!(0), json!(1)),
        ("weight", json!("0"), json!("1")),
        ("masked", json!(true), json!(false)),
    ] {
        for (list, role, content) in [("messages", "role", "content"), ("conversations", "from", "value")] {
            let row = json!({list: [
                // Some datasets have `masked: false` in every message.
                {role: "user", content: "a", field: if field == "masked" { &on } else { &off }},
                {role: "assistant", content: "BAD", field: off},
                {role: "user", content: "b"},
                {role: "assistant", content: "good", field: on},
            ]});
            let chat = chat(&row);
            assert_eq!(chat.trained, [false, false, false, true], "{row}");
            assert_eq!(chat.messages[1], json!({"role": "assistant", "content": "BAD"}));
        }
    }
    // https://docs.axolotl.ai: `train: true` on a question trains on it there.
    let question = json!({"conversations": [{"from": "human", "value": "a", "train": true}, {"from": "gpt", "value": "b"}]});
    assert_eq!(warned(&question, &Warning::UntrainedRole).trained, [false, true]);
}

#[test]
fn masks_that_cannot_be_followed_are_refused() {
    let row = |answer: Value| json!({"messages": [{"role": "user", "content": "a"}, answer]});
    let with = |fields: Value| {
        let mut message = json!({"role": "assistant", "content": "b"});
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        row(message)
    };
    for (fields, words) in [
        (json!({"weight": 0.5}), &["`messages`[1]", "`weight` is 0.5", "0 or 1", "without a weight"][..]),
        (json!({"weight": 2}), &["`weight` is 2"]),
        (json!({"loss_mask": [0, 1]}), &["`loss_mask` is [0,1]", "a row of `tokens`"]),
        (json!({"train": "yes"}), &["`train` is \"yes\"", "0 or 1"]),
        (json!({"train": "\u{fdd3}NaN"}), &["`train` is NaN"]),
        (json!({"train": true, "weight": 0}), &["`weight` is 0, but `train` is true", "contradict"]),
        (json!({"train": true, "masked": true}), &["`train` is true, but `masked` is true"]),
        (json!({"train_detail": [{"begin_offset": 0}]}), &["`train_detail`", "give `train`"]),
    ] {
        refused(&with(fields), words);
    }
}

#[test]
fn null_members_are_absent_and_null_content_is_empty_text() {
    let call = json!({"id": "1", "index": null, "function": {"name": "f", "arguments": {"a": null}, "strict": null}});
    let message =
        json!({"role": "assistant", "content": null, "tool_calls": [call], "refusal": null, "weight": null});
    let expected = json!({"role": "assistant", "content": null, "tool_calls":
        [{"id": "1", "function": {"name": "f", "arguments": {"a": null}}}]});
    assert_eq!(answer(message), expected);
    let plain = json!({"role": "assistant", "content": null, "tool_calls": null});
    assert_eq!(answer(plain), json!({"role": "assistant", "content": ""}));
    assert_eq!(answer(json!({"from": "gpt", "value": null})), json!({"role": "assistant", "content": ""}));
    assert_eq!(
        clean(&json!({"messages": null, "text": "a", "tools": null, "weight": null})),
        Row::Text("a".into())
    );
}

/// The parts of OpenAI's chat and responses API.
#[test]
fn text_parts_are_kept_and_other_parts_refused() {
    let part = |text: &str| json!({"type": "text", "text": text});
    let parts = json!([part("a"), "b", {"type": "output_text", "text": "c", "image": null}, null,
                       {"type": "text", "text": null}]);
    let content = answer(json!({"role": "assistant", "content": parts}))["content"].take();
    assert_eq!(content, json!([part("a"), part("b"), part("c"), part(""), part("")]));
    assert_eq!(super::content::joined(&content), "abc");
    assert_eq!(answer(json!({"role": "assistant", "content": []}))["content"], json!([]));
    let untold = json!({"messages": [{"role": "assistant", "content": [{"type": "text"}]}]});
    refused(&untold, &["`messages`[0]: `content`[0]: `text` is missing"]);
    let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    let words = ["`messages`[0]: `content`[1]: a part of type \"image_url\"", "type text"];
    refused(&json!({"messages": [{"role": "user", "content": image}]}), &words);
    let cached = json!([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]);
    let row = json!({"messages": [{"role": "assistant", "content": cached}]});
    warned(&row, &Warning::UnusedTurnField("content[].cache_control".into()));
}

/// As `_alias_reasoning_fields` of transformers 5.24, whose order of keys `tojson` prints.
#[test]
fn reasoning_is_one_field_with_three_names() {
    for (given, text) in [
        (
            json!({"role": "assistant", "content": "b", "reasoning": "why"}),
            r#"{"thinking":"why","role":"assistant","content":"b","reasoning":"why","reasoning_content":"why"}"#,
        ),
        (
            json!({"role": "assistant", "thinking": "why", "content": "b"}),
            r#"{"thinking":"why","role":"assistant","content":"b","reasoning_content":"why"}"#,
        ),
        (
            json!({"role": "assistant", "reasoning_content": "why", "content": "b"}),
            r#"{"thinking":"why","role":"assistant","reasoning_content":"why","content":"b"}"#,
        ),
        // Some templates print a header for an empty text.
        (
            json!({"role": "assistant", "content": "b", "reasoning": ""}),
            r#"{"thinking":"","role":"assistant","content":"b","reasoning":"","reasoning_content":""}"#,
        ),
        (
            json!({"role": "assistant", "content": "b", "reasoning": null}),
            r#"{"role":"assistant","content":"b"}"#,
        ),
    ] {
        assert_eq!(answer(given).to_string(), text);
    }
    let two = json!({"role": "assistant", "content": "b", "reasoning": "x", "thinking": "y"});
    refused(&json!({"messages": [two]}), &["`thinking` is \"y\", but `reasoning` is \"x\""]);
}

#[test]
fn tools_and_calls_as_json_text_are_decoded() {
    // OpenAI's API gives `arguments` as JSON text.
    let call =
        |arguments: Value| json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
    let arguments = json!({"city": "Paris", "n": 5});
    let mut decoded = json!({"role": "assistant", "content": "", "tool_calls": [call(arguments.clone())]});
    let text = arguments.to_string();
    for calls in [json!([call(json!(text))]), json!(json!([call(json!(text))]).to_string())] {
        assert_eq!(answer(json!({"role": "assistant", "content": "", "tool_calls": calls})), decoded);
    }
    let legacy =
        json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": text}});
    // LlamaFactory's ShareGPT format.
    let sharegpt =
        json!({"from": "function_call", "value": json!({"name": "f", "arguments": arguments}).to_string()});
    assert_eq!(answer(sharegpt), decoded);
    decoded["content"].take();
    assert_eq!(answer(legacy), decoded);
    for content in [json!({"role": "assistant"}), json!({"role": "assistant", "content": null})] {
        let mut message = content;
        message["tool_calls"] = call(json!(text));
        assert_eq!(answer(message), decoded, "one call in place of a list");
    }
    let broken =
        json!({"messages": [{"role": "assistant", "content": "", "tool_calls": [call(json!("{city"))]}]});
    let kept = warned(&broken, &Warning::ToolArguments);
    assert_eq!(kept.messages[0]["tool_calls"][0]["function"]["arguments"], "{city");
    for words in ["call f", "{\"name\": \"f\"}"] {
        let row = json!({"conversations": [{"from": "function_call", "value": words}]});
        assert_eq!(warned(&row, &Warning::ToolArguments).messages[0]["content"], words);
    }

    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let mut coded = tool.clone();
    coded["function"]["parameters"] = json!("{\"type\": \"object\"}");
    let with = |field: &str, value: Value| json!({"messages": [{"role": "assistant", "content": "b"}], field: value});
    for tools in [json!([tool]), json!([tool.to_string()]), json!(json!([tool]).to_string()), json!([coded])]
    {
        assert_eq!(chat(&with("tools", tools)).variables["tools"], json!([tool]));
    }
    assert_eq!(chat(&with("functions", json!([tool["function"]]))).variables["tools"], json!([tool]));
    coded["function"]["parameters"] = json!("none");
    warned(&with("tools", json!([coded])), &Warning::ToolArguments);
    refused(&with("tools", json!("[1")), &["`tools` is a string, but not JSON"]);
    refused(&with("tools", json!([5])), &["`tools`[0] is 5", "an object"]);
    refused(&with("tools", json!("\u{fdd3}NaN")), &["`tools` is NaN; it must be a list"]);
    // transformers: "Documents should be a list of dicts with 'title' and 'text' keys!"
    refused(&with("documents", json!(["a"])), &["`documents`[0] is \"a\"", "an object"]);
    assert_eq!(chat(&with("tools", tool.clone())).variables["tools"], json!([tool]));
    for absent in [json!({}), json!("null"), json!(" "), json!("{}"), json!([{"name": null}])] {
        assert!(chat(&with("tools", absent)).variables.is_empty());
    }
}

#[test]
fn a_row_has_the_first_format_with_content() {
    let text = Row::Text("a".into());
    assert_eq!(clean(&json!({"messages": [], "text": "a"})), text);
    assert_eq!(clean(&json!({"instruction": "", "output": "", "text": "a"})), text);
    let (rows, _) = read(&json!({"tokens": 512, "text": "a"}));
    assert_eq!(rows.unwrap(), [text]);
    assert_eq!(clean(&json!({"prompt": "", "completion": "b"})), Row::Pair("".into(), "b".into()));
    refused(&json!({"text": null}), &["found `text`, which is null"]);
    refused(&json!({"messages": []}), &["`messages` has no message with role assistant", "it is empty"]);
    refused(&json!({"tokens": 512}), &["`tokens` is 512; it must be a list"]);
    let without_instruction = json!({"instruction": "", "input": "a", "output": "b"});
    assert_eq!(chat(&without_instruction).messages[0]["content"], "a");
}

#[test]
fn roles_are_read_in_any_case_and_named_if_none_is_the_assistant() {
    for (name, role) in [
        ("User", "user"),
        ("Assistant", "assistant"),
        ("ai", "assistant"),
        ("Human", "user"),
        ("SYSTEM", "system"),
        ("GPT", "assistant"),
        ("Developer", "developer"),
    ] {
        for field in ["role", "from"] {
            let row =
                json!({"messages": [{field: name, "content": "a"}, {"role": "assistant", "content": "b"}]});
            assert_eq!(chat(&row).messages[0]["role"], role, "{row}");
        }
    }
    let row = json!({"messages": [{"role": "User", "content": "a"}, {"role": "Oracle", "content": "b"}]});
    refused(&row, &["no message with role assistant", "its roles are \"user\", \"Oracle\""]);
}

#[test]
fn rows_in_which_nothing_is_trained_on_are_counted() {
    let excluded = json!({"role": "assistant", "content": "b", "train": false});
    let chat = warned(&json!({"messages": [excluded]}), &Warning::NothingTrained);
    assert_eq!(chat.trained, [false]);
    for row in [
        json!({"text": ""}),
        json!({"prompt": "a", "completion": ""}),
        json!({"instruction": "a", "response": ""}),
    ] {
        let (rows, warnings) = read(&row);
        rows.unwrap();
        assert_eq!(warnings.count(&Warning::NothingTrained), 1, "{row}");
    }
}

/// The marks of numbers and of halves of characters that JSON values cannot hold.
#[test]
fn marks_are_refused_in_fields_that_are_used() {
    let nan = json!("\u{fdd3}NaN");
    let half = json!("cut \u{fdd4}");
    let row = |content: &Value, score: &Value| json!({"messages": [{"role": "assistant", "content": content}], "id": score});
    chat(&row(&json!("a"), &nan));
    chat(&row(&json!("a"), &half));
    refused(&row(&nan, &json!(1)), &["`content` is NaN; it must be a string"]);
    refused(&row(&half, &json!(1)), &["`content` has a lone surrogate", "cut \u{fffd}"]);
    refused(&json!({"text": half}), &["`text` has a lone surrogate"]);
    for mark in ['\u{fdd0}', '\u{fdd1}', '\u{fdd2}', '\u{fdd3}', '\u{fdd4}'] {
        let line = |field: &str| format!("{{\"id\": \"{mark}\", \"{field}\": \"a{mark}\"}}");
        let parse = |line: String| Row::parse(line.as_bytes(), &mut Warnings::default());
        let error = parse(line("text")).unwrap_err();
        assert!(
            error.message().contains("`text` has a lone surrogate") && !error.message().contains(mark),
            "{error}"
        );
        let unused = line("text").replace(&format!("a{mark}"), "a");
        assert_eq!(parse(unused).unwrap(), [Row::Text("a".into())]);
    }
    let mut warnings = Warnings::default();
    Row::parse(br#"{"text": "a", "\ud83d": 1}"#, &mut warnings).unwrap();
    assert_eq!(warnings.count(&Warning::UnusedField("\u{fffd}".into())), 1);
    refused(&json!({"tokens": [nan]}), &["`tokens`[0] is NaN"]);
    let digits = "\u{fdd3}123456789012345678901234567890";
    let call = |value: &Value| json!([{"name": "f", "arguments": {"a": value}}]);
    let message = |calls: Value| json!({"role": "assistant", "content": "", "tool_calls": calls});
    assert_eq!(answer(message(call(&json!(digits))))["tool_calls"][0]["arguments"]["a"], digits);
    refused(&json!({"messages": [message(call(&half))]}), &["`tool_calls` has a lone surrogate"]);
    let documents =
        json!({"messages": [{"role": "assistant", "content": "a"}], "documents": [{"text": half}]});
    refused(&documents, &["`documents` has a lone surrogate"]);
}

#[test]
fn formats_that_are_nearly_there_are_named_with_the_change() {
    for (row, words) in [
        (
            json!({"chosen": "a", "rejected": "b", "prompt": "c"}),
            &["`chosen` and `rejected`", "preference"][..],
        ),
        (json!({"question": "a", "answer": "b"}), &["`question` and `answer`", "`instruction` and `output`"]),
        (json!({"input": "a", "output": "b"}), &["`input` and `output`", "`prompt` and `completion`"]),
        (json!({"prompt": "a", "response": "b"}), &["`prompt` and `response`"]),
    ] {
        refused(&row, words);
    }
}

#[test]
fn errors_name_the_field_and_its_value() {
    let with = |field: &str, value: Value| json!({"messages": [{"role": "assistant", "content": "a"}], field: value});
    for (row, words) in [
        (json!([1]), &["not a JSON object"][..]),
        (json!({}), &["no field to train on", "none"]),
        (json!({"txt": "a"}), &["`txt`"]),
        (json!({"text": 5}), &["`text` is 5", "a string"]),
        (json!({"prompt": "a", "completion": 7}), &["`completion` is 7"]),
        (json!({"prompt": 1, "completion": "b"}), &["`prompt` is 1"]),
        (json!({"messages": "a"}), &["`messages` is \"a\"", "a list"]),
        (json!({"messages": [{"role": "user", "content": "a"}]}), &["no message with role assistant"]),
        (json!({"messages": [{"role": "user"}]}), &["`messages`[0]", "`content` is missing"]),
        (json!({"messages": [{"role": "user", "content": 5}]}), &["`content` is 5", "a list of text parts"]),
        (json!({"messages": [{"content": "a"}]}), &["`messages`[0]", "`role` is missing"]),
        (json!({"messages": [3]}), &["`messages`[0]: 3 is not a JSON object"]),
        (json!({"conversations": [{"from": "alien", "value": "a"}]}), &["`from` is \"alien\""]),
        (json!({"instruction": "a", "output": "b", "history": [["a"]]}), &["`history`[0]"]),
        (
            json!({"instruction": "a", "output": "b", "history": [["a", "\u{fdd3}NaN"]]}),
            &["`history`[0] is [\"a\",\"NaN\"]"],
        ),
        (
            json!({"instruction": "a", "output": "b", "history": [["a", "b"], ["a", 5]]}),
            &["`history`[1] is [\"a\",5]"],
        ),
        (with("tools", json!(5)), &["`tools` is 5"]),
        (with("chat_template_kwargs", json!({"messages": []})), &["`chat_template_kwargs` has `messages`"]),
    ] {
        refused(&row, words);
    }
    let long = json!({"text": vec![1; 1000]});
    assert!(read(&long).0.unwrap_err().message().len() < 200);
}
