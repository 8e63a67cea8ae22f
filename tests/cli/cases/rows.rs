//! Rows: their fields, masks and numbers.

use serde_json::{Value, json};

use super::{Case, Document, assert_all, done, equal, hi_yo, refused, turns};

/// Asserts that each row is the document of `expected.json`, by the template `calls.jinja`, which
/// shows reasoning, tool calls and tools.
fn check(cases: &[(&str, Value, &str)]) {
    let case = Case::new();
    let template = super::here().join("data/calls.jinja");
    std::fs::copy(template, case.path("model/chat_template.jinja")).unwrap();
    assert_all(cases.iter().map(|(name, row, document)| {
        case.write("data.jsonl", row.to_string());
        (*name, case.has("data.jsonl", &[document]))
    }));
}

/// Asserts that each text of a JSONL file is refused with all words and the line.
fn check_refused(cases: &[(&str, &str, &[&str])]) {
    let case = Case::new();
    assert_all(cases.iter().map(|(name, text, words)| {
        case.write("data.jsonl", text);
        let words = [&["data.jsonl", "line 1"], *words].concat();
        (*name, refused(&case.tokenize("data.jsonl"), &words))
    }));
}

/// Two turns; the first has one more field.
fn first_turn(field: &str, value: Value) -> Value {
    let mut messages = turns(&["a", "BAD", "b", "good"]);
    messages[1][field] = value;
    json!({"messages": messages})
}

#[test]
fn a_turn_that_is_marked_so_is_not_trained() {
    let sharegpt = |field: &str, value: Value| {
        json!({"conversations": [{"from": "human", "value": "a"},
                                 {"from": "gpt", "value": "BAD", field: value},
                                 {"from": "human", "value": "b"}, {"from": "gpt", "value": "good"}]})
    };
    let mut only_first = first_turn("weight", json!(1));
    only_first["messages"][3]["weight"] = json!(0);
    let mut prompted = first_turn("loss", json!(false));
    let messages = prompted.as_object_mut().unwrap().remove("messages").unwrap();
    let (prompt, completion) = messages.as_array().unwrap().split_at(1);
    let completion = json!({"prompt": prompt, "completion": completion});
    check(&[
        ("no mark", json!({"messages": turns(&["a", "BAD", "b", "good"])}), "both turns"),
        ("d_turn_weight", first_turn("weight", json!(0)), "the second turn"),
        ("d_turn_train", first_turn("train", json!(false)), "the second turn"),
        ("d_turn_trainable", first_turn("trainable", json!(false)), "the second turn"),
        ("d_turn_loss", first_turn("loss", json!(false)), "the second turn"),
        ("d_turn_loss_mask", first_turn("loss_mask", json!(0)), "the second turn"),
        ("training", first_turn("training", json!(false)), "the second turn"),
        ("masked", first_turn("masked", json!(true)), "the second turn"),
        ("weight 0.0", first_turn("weight", json!(0.0)), "the second turn"),
        ("weight 1", first_turn("weight", json!(1)), "both turns"),
        ("weight 1.0", first_turn("weight", json!(1.0)), "both turns"),
        ("masked: false", first_turn("masked", json!(false)), "both turns"),
        ("train: null", first_turn("train", Value::Null), "both turns"),
        ("the second turn has weight 0", only_first, "the first turn"),
        ("sharegpt, weight", sharegpt("weight", json!(0)), "the second turn"),
        ("sharegpt, train", sharegpt("train", json!(false)), "the second turn"),
        ("sharegpt, masked", sharegpt("masked", json!(true)), "the second turn"),
        ("completion of messages", completion, "the second turn"),
    ]);
    let (half, text) =
        (first_turn("weight", json!(0.5)).to_string(), first_turn("train", json!("no")).to_string());
    check_refused(&[("half a turn", &half, &["`weight`", "0.5"]), ("train: no", &text, &["`train`", "no"])]);
}

#[test]
fn masks_beside_tokens_are_obeyed() {
    // Tokens and training bits by the definition of each mask.
    type Masked<'a> = (&'a [u64], &'a [u64]);
    let cases: &[(&str, Value, &[Masked])] = &[
        (
            "t_padded_right",
            json!({"input_ids": [10, 11, 12, 13, 423, 423, 423], "attention_mask": [1, 1, 1, 1, 0, 0, 0]}),
            &[(&[10, 11, 12, 13], &[0, 1, 1, 1])],
        ),
        (
            "t_trl_attention_mask",
            json!({"input_ids": [40, 41, 42, 43, 44], "attention_mask": [0, 0, 0, 1, 1]}),
            &[(&[43, 44], &[0, 1])],
        ),
        (
            "t_trl_completion_mask",
            json!({"input_ids": [40, 41, 42, 43, 44], "completion_mask": [0, 0, 0, 1, 1]}),
            &[(&[40, 41, 42, 43, 44], &[0, 0, 0, 1, 1])],
        ),
        (
            "assistant_masks",
            json!({"input_ids": [40, 41, 42, 43, 44], "assistant_masks": [0, 1, 1, 0, 1]}),
            &[(&[40, 41, 42, 43, 44], &[0, 1, 1, 0, 1])],
        ),
        (
            "attention_mask of ones",
            json!({"input_ids": [40, 41, 42], "attention_mask": [1, 1, 1]}),
            &[(&[40, 41, 42], &[0, 1, 1])],
        ),
        (
            "attention_mask and completion_mask",
            json!({"input_ids": [40, 41, 42, 423], "attention_mask": [1, 1, 1, 0],
                   "completion_mask": [0, 0, 1, 0]}),
            &[(&[40, 41, 42], &[0, 0, 1])],
        ),
        (
            "attention_mask and labels",
            json!({"input_ids": [423, 40, 41, 42], "attention_mask": [0, 1, 1, 1],
                   "labels": [-100, -100, 41, 42]}),
            &[(&[40, 41, 42], &[0, 1, 1])],
        ),
        (
            "position_ids of two documents",
            json!({"input_ids": [40, 41, 42, 43, 44], "position_ids": [0, 1, 2, 0, 1]}),
            &[(&[40, 41, 42], &[0, 1, 1]), (&[43, 44], &[0, 1])],
        ),
        (
            "position_ids and labels",
            json!({"input_ids": [40, 41, 42, 43], "position_ids": [0, 1, 0, 1],
                   "labels": [-100, 41, 42, -100]}),
            &[(&[40, 41], &[0, 1]), (&[42, 43], &[0, 0])],
        ),
        (
            "masks that are null",
            json!({"input_ids": [40, 41], "attention_mask": null, "completion_mask": null, "labels": null}),
            &[(&[40, 41], &[0, 1])],
        ),
    ];
    let case = Case::new();
    assert_all(cases.iter().map(|(name, row, documents)| {
        case.write("data.jsonl", row.to_string());
        let document =
            |(tokens, trained): &(&[u64], &[u64])| Document::new(tokens.to_vec(), trained.to_vec());
        let want = documents.iter().map(document).collect();
        (*name, done(&case.tokenize("data.jsonl")).and_then(|()| equal(case.documents(), want)))
    }));
    check_refused(&[
        ("a mask too short", r#"{"input_ids": [1, 2], "attention_mask": [1]}"#, &["`attention_mask`"]),
        ("no mask", r#"{"input_ids": [1, 2], "completion_mask": [1, 7]}"#, &["`completion_mask`", "7"]),
        ("a jump", r#"{"input_ids": [1, 2], "position_ids": [0, 5]}"#, &["`position_ids`", "5"]),
    ]);
}

#[test]
fn one_thing_in_several_spellings_is_one() {
    let call = |call: Value| json!({"messages": [{"role": "user", "content": "add"}, call]});
    let function = |arguments: &str| -> Value {
        serde_json::from_str(&format!(
            r#"[{{"type": "function", "function": {{"name": "add", "arguments": {arguments}}}}}]"#
        ))
        .unwrap()
    };
    let text = function(r#""{\"n\": 123456789012345678901234567890}""#);
    let hi = json!({"role": "user", "content": "hi"});
    let reasons =
        |field: &str| json!({"messages": [hi, {"role": "assistant", "content": "yo", field: "so"}]});
    let parameters = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let tools = |parameters: &Value| {
        let function = json!({"name": "add", "parameters": parameters});
        json!([{"type": "function", "function": function}])
    };
    let with_tools = |tools: Value| json!({"tools": tools, "messages": turns(&["hi", "yo"])});
    let part = |text: &str| json!({"type": "text", "text": text});
    let kind = json!({"role": "system", "content": "be kind"});
    let with_system: Value = [&[kind], &turns(&["hi", "yo"]).as_array().unwrap()[..]].concat().into();
    check(&[
        ("c_system_field_and_message", json!({"system": "be kind", "messages": with_system}), "be kind"),
        (
            "sharegpt, the system twice",
            json!({"system": "be kind", "conversations": [{"from": "system", "value": "be kind"},
                   {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}),
            "be kind",
        ),
        ("reasoning_content", reasons("reasoning_content"), "reasoning"),
        ("reasoning", reasons("reasoning"), "reasoning"),
        ("thinking", reasons("thinking"), "reasoning"),
        (
            "arguments as text, content null",
            call(json!({"role": "assistant", "content": null, "tool_calls": text})),
            "a call",
        ),
        ("content empty", call(json!({"role": "assistant", "content": "", "tool_calls": text})), "a call"),
        ("no content", call(json!({"role": "assistant", "tool_calls": text})), "a call"),
        ("tools", with_tools(tools(&parameters)), "tools"),
        ("tools as text", with_tools(tools(&parameters).to_string().into()), "tools"),
        ("parameters as text", with_tools(tools(&parameters.to_string().into())), "tools"),
        (
            "content in parts",
            json!({"messages": [{"role": "user", "content": [part("hi "), part("there")]},
                                {"role": "assistant", "content": [part("yo")]}]}),
            "hi there yo",
        ),
        (
            "keys that are null",
            json!({"system": null, "tools": null, "prompt": null, "messages": [
                {"role": "user", "content": "hi", "name": null, "tool_calls": null},
                {"role": "assistant", "content": "yo", "tool_calls": null, "reasoning_content": null,
                 "weight": null}]}),
            "hi yo",
        ),
    ]);
    check_refused(&[(
        "a picture",
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            {"role": "assistant", "content": "yo"}]}"#
            .replace('\n', " ")
            .as_str(),
        &["image_url"],
    )]);
}

#[test]
fn numbers_and_texts_of_python_are_read_or_named() {
    let case = Case::new();
    let row = |more: &str| hi_yo().replace("{\"messages\"", &format!("{{{more}, \"messages\""));
    let cases = [
        ("d_nan", row(r#""score": NaN"#)),
        ("Infinity", row(r#""score": [1, {"a": -Infinity}, Infinity]"#)),
        ("an integer of 30 digits", row(r#""id": 123456789012345678901234567890"#)),
        ("half a character in a field that is not used", row(r#""note": "\ud83d""#)),
        ("a whole emoji in two halves", row(r#""note": "\ud83d\ude42""#)),
    ];
    assert_all(cases.map(|(name, text)| {
        case.write("data.jsonl", text);
        (name, case.has("data.jsonl", &["hi yo"]))
    }));
    let call = r#"{"messages": [{"role": "user", "content": "add"}, {"role": "assistant", "content": null,
        "tool_calls": [{"function": {"name": "add",
        "arguments": {"n": 123456789012345678901234567890}}}]}]}"#;
    let template = super::here().join("data/calls.jinja");
    case.write("data.jsonl", call.replace('\n', ""));
    let ran = case.run(&format!(
        "tokenize --model model --data data.jsonl --out out.bin --chat-template {}",
        template.display()
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(case.documents(), [Document::expected("a call")]);

    let half = hi_yo().replace("\"hi\"", r#""cut emoji \ud83d""#);
    check_refused(&[
        ("d_surrogate", &half, &["surrogate"]),
        ("NaN as text", r#"{"text": NaN}"#, &["`text`", "NaN"]),
        ("NaN as a token", r#"{"tokens": [1, NaN]}"#, &["`tokens`", "NaN"]),
        (
            "a token of 30 digits",
            r#"{"tokens": [123456789012345678901234567890]}"#,
            &["123456789012345678901234567890"],
        ),
    ]);
    case.write("data.jsonl", half + &hi_yo());
    let ran = case.run("tokenize --model model --data data.jsonl --out out.bin --skip-bad-lines").well();
    assert!(ran.err.contains("line 1") && ran.err.contains("surrogate"), "{}", ran.err);
    assert_eq!(case.documents(), [Document::expected("hi yo")]);
}
