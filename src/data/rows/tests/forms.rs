//! Fields that are given twice, or as JSON text.

use super::*;

#[test]
fn fields_given_twice_are_one_or_are_refused() {
    let call = |name: &str| json!({"name": name, "arguments": {}});
    let calls = json!([{"id": "1", "type": "function", "function": call("f")}]);
    let nulls = json!({"name": null, "arguments": null});
    let both = |calls: &Value, older: Value| json!({"messages": [{"role": "assistant", "content": null, "tool_calls": calls, "function_call": older}]});
    for older in [json!(call("f")), json!("null"), json!({}), nulls.clone()] {
        assert_eq!(chat(&both(&calls, older)).messages[0]["tool_calls"], calls);
    }
    for empty in [json!([]), json!([{"id": null, "function": nulls}])] {
        assert_eq!(chat(&both(&empty, call("g"))).messages[0]["tool_calls"][0]["function"], call("g"));
    }
    assert_eq!(
        chat(&both(&json!([{"function": nulls}]), nulls.clone())).messages[0],
        json!({"role": "assistant", "content": ""})
    );
    refused(&both(&calls, call("g")), &["`messages`[0]", "`tool_calls` and `function_call` are different"]);

    let (tools, more) = (json!([{"name": "f"}]), json!([{"name": "g"}]));
    let kwargs = |tools: &Value, more: &Value| {
        json!({"messages": [{"role": "assistant", "content": "b"}], "tools": tools,
               "chat_template_kwargs": {"tools": more}})
    };
    for (a, b) in
        [(&tools, &json!([])), (&tools, &tools), (&json!(null), &tools), (&tools, &json!(tools.to_string()))]
    {
        assert_eq!(chat(&kwargs(a, b)).variables["tools"], tools);
    }
    refused(&kwargs(&tools, &more), &["`chat_template_kwargs`: `tools` is given twice"]);
    let functions =
        json!({"messages": [{"role": "assistant", "content": "b"}], "tools": [], "functions": tools});
    assert_eq!(chat(&functions).variables["tools"], json!([{"type": "function", "function": {"name": "f"}}]));
    let functions =
        json!({"messages": [{"role": "assistant", "content": "b"}], "tools": tools, "functions": more});
    refused(&functions, &["`functions`: `tools` is given twice"]);

    let message = json!({"role": "assistant", "from": "gpt", "content": "", "value": "b"});
    assert_eq!(answer(message), json!({"role": "assistant", "content": "b"}));
    for (field, value) in [("from", "human"), ("value", "c")] {
        let mut message = json!({"role": "assistant", "content": "b"});
        message[field] = json!(value);
        refused(&json!({"messages": [message]}), &[&format!("`{field}` is \"{value}\""), "give one of them"]);
    }
}

#[test]
fn a_system_prompt_given_twice_is_one_or_is_reported() {
    let row = |system: &str| json!({"system": system, "messages": [{"role": "system", "content": "be kind"}, {"role": "assistant", "content": "b"}]});
    for system in ["be kind", ""] {
        assert_eq!(chat(&row(system)).messages.len(), 2);
    }
    let two = warned(&row("be short"), &Warning::TwoSystemPrompts);
    assert_eq!((two.messages.len(), &two.messages[0]["content"]), (3, &json!("be short")));
    assert_eq!(two.trained, [false, false, true]);
    // Within the messages, and in parts.
    let kind = json!({"role": "system", "content": [{"type": "text", "text": "be kind "}]});
    let answer = json!({"role": "assistant", "content": "b"});
    let twice = json!({"messages": [kind, {"role": "system", "content": "be kind"}, answer]});
    assert_eq!(chat(&twice).messages, [kind.clone(), answer.clone()]);
    assert_eq!(chat(&twice).trained, [false, true]);
    let later = json!({"system": ["be ", "kind"], "messages": [answer, kind, answer]});
    assert_eq!(chat(&later).messages, [answer.clone(), kind.clone(), answer.clone()]);
    let new = json!({"system": [{"text": "new"}], "messages": [answer]});
    assert_eq!(
        chat(&new).messages[0],
        json!({"role": "system", "content": [{"type": "text", "text": "new"}]})
    );
    for two in [
        json!({"messages": [kind, {"role": "system", "content": "be rude"}, answer]}),
        json!({"system": "be rude", "messages": [answer, kind, answer]}),
    ] {
        warned(&two, &Warning::TwoSystemPrompts);
    }
    let names =
        json!({"system": "a", "system_prompt": "b", "messages": [{"role": "assistant", "content": "b"}]});
    refused(&names, &["`system` is \"a\", but `system_prompt` is \"b\""]);
}

/// CSV has lists as JSON text alone.
#[test]
fn lists_and_objects_may_be_json_text() {
    let turns = json!([{"role": "user", "content": "[1]"}, {"role": "assistant", "content": "b"}]);
    let text = |value: &Value| json!(value.to_string());
    for (row, field) in [
        (json!({"messages": turns, "chat_template_kwargs": {"a": 1}}), "messages"),
        (json!({"messages": turns, "chat_template_kwargs": {"a": 1}}), "chat_template_kwargs"),
        (json!({"conversation": turns}), "conversation"),
        (json!({"prompt": turns, "completion": turns}), "prompt"),
        (json!({"prompt": turns, "completion": turns}), "completion"),
        (json!({"input_ids": [1, 2], "labels": [-100, 2]}), "input_ids"),
        (json!({"input_ids": [1, 2], "labels": [-100, 2]}), "labels"),
        (json!({"tokens": [1, 2], "loss_mask": [0, 1]}), "loss_mask"),
        (json!({"instruction": "a", "output": "b", "history": [["c", "d"]]}), "history"),
    ] {
        let mut coded = row.clone();
        coded[field] = text(&row[field]);
        assert_eq!(clean(&coded), clean(&row), "{coded}");
    }
    for (prompt, completion) in [("[1, 2]", "[3]"), ("[", "{}"), ("null", "[{\"a\": 1}]")] {
        let pair = json!({"prompt": prompt, "completion": completion});
        assert_eq!(clean(&pair), Row::Pair(prompt.into(), completion.into()));
    }
    assert_eq!(clean(&json!({"messages": "null", "tokens": "", "text": "[1]"})), Row::Text("[1]".into()));
    refused(
        &json!({"messages": "[{'role': 'user'}]"}),
        &["`messages` is a string, but not JSON", "single quotes"],
    );
}
