//! Opens a chat template and renders a conversation with it.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use horizon::data::Warnings;
use horizon::data::chat::{ChatTemplate, Conversation};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

/// The file from which templates are opened.
fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let name = format!("horizon-fuzz-{}.jinja", std::process::id());
        [PathBuf::from("/dev/shm"), std::env::temp_dir()]
            .into_iter()
            .find(|folder| folder.is_dir())
            .expect("there is a folder for temporary files")
            .join(name)
    })
}

fuzz_target!(|source: &str| {
    fs::write(file(), source).expect("the template can be written");
    let Ok(template) = ChatTemplate::open(file(), None, Some(0)) else { return };
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, null]}}}]);
    let messages = vec![
        json!({"role": "system", "content": "one"}),
        json!({"role": "user", "content": "two"}),
        json!({"role": "assistant", "content": "three", "tool_calls": call}),
        json!({"role": "tool", "content": "four"}),
        json!({"role": "assistant", "content": "five"}),
    ];
    let _ = template.prompt(&messages);
    let conversation = Conversation::new(messages, 0, Default::default());
    let Ok(rendered) = template.render(&conversation, &mut Warnings::default()) else { return };
    let mut end = 0;
    for turn in rendered.turns {
        assert!(end <= turn.start && turn.start <= turn.end && rendered.text.get(turn.clone()).is_some());
        end = turn.end;
    }
});
