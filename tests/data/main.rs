//! Compares rendered text, tokens and loss masks of conversations with those of Hugging Face's
//! `tokenizers` and `transformers`, written by `chat/generate.py`.

mod edits;
mod jinja;
mod tokenizers;
mod turns;

use std::fs;
use std::path::{Path, PathBuf};

use horizon::data::chat::{ChatTemplate, Conversation};
use horizon::data::tokenizer::{Tokenizer, TokenizerSource};
use horizon::data::{Encoder, EncoderSource, Row, Warnings};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat")
}

/// The cases of every folder.
fn expected() -> Vec<(PathBuf, Value)> {
    let text = fs::read_to_string(folder().join("expected.json")).unwrap();
    let all: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(all.len() >= 2);
    all.into_iter().map(|(name, cases)| (folder().join(name), cases)).collect()
}

fn source(model: &Path, vocabulary: usize, template: Option<&str>) -> EncoderSource {
    EncoderSource {
        tokenizer: TokenizerSource { folder: Some(model.to_owned()), vocabulary },
        chat_template: template.map(|name| folder().join("templates").join(name).with_extension("jinja")),
        time: None,
        chat_worker: None,
    }
}

fn encoder(folder: &Path, cases: &Value, template: Option<&str>) -> Encoder {
    source(folder, cases["vocabulary"].as_u64().unwrap() as usize, template).open().unwrap()
}

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn conversation(case: &Value) -> Conversation {
    let mut variables = Map::new();
    if !case["tools"].is_null() {
        variables.insert("tools".into(), case["tools"].clone());
    }
    Conversation::new(list(&case["messages"]).to_vec(), 0, variables)
}

#[test]
fn tokens_equal_those_of_hugging_face() {
    for (folder, cases) in expected() {
        let encoder = encoder(&folder, &cases, None);
        let tokenizer: &Tokenizer = encoder.tokenizer().unwrap();
        assert_eq!(tokenizer.vocabulary() as u64, cases["vocabulary"].as_u64().unwrap());
        for case in list(&cases["texts"]) {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text.as_bytes(), &[]).unwrap().tokens, ids(&case["ids"]), "{text:?}");
            assert_eq!(tokenizer.encode_prompt(text.as_bytes()).unwrap(), ids(&case["document"]), "{text:?}");
            // A document ends with one EOS token.
            let document = encoder.document(text.as_bytes(), &mut Warnings::default()).unwrap();
            let bare = ids(&case["document"]);
            assert_eq!(document.tokens[..bare.len()], bare, "{text:?}");
            assert_eq!(document.tokens.len(), bare.len() + 1);
            assert!(tokenizer.is_end(document.tokens[bare.len()] as usize));
            assert!(!document.supervised[0] && document.supervised[1..].iter().all(|supervised| *supervised));
            // Decoding token by token gives the same text as decoding at once.
            let mut decoder = tokenizer.decoder();
            let bytes: Vec<u8> =
                ids(&case["ids"]).into_iter().flat_map(|id| decoder.push(id as usize).unwrap()).collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), case["decoded"].as_str().unwrap());
        }
    }
}

#[test]
fn templates_render_as_in_transformers_and_turns_are_found_exactly() {
    let (mut marked, mut by_hand) = (0, 0);
    for (folder, cases) in expected() {
        for case in list(&cases["chats"]) {
            let name = case["template"].as_str().unwrap();
            let encoder = encoder(&folder, &cases, Some(name));
            let template = encoder.template().unwrap();
            let conversation = conversation(case);
            let rendered = template.render(&conversation, &mut Warnings::default()).unwrap();
            assert_eq!(rendered.text, case["text"].as_str().unwrap(), "{name}");
            let hello = json!({"role": "user", "content": "hello"});
            assert_eq!(template.prompt(&[hello]).unwrap(), case["prompt"].as_str().unwrap(), "{name}");
            let encoded = encoder.row(&Row::Chat(conversation), &mut Warnings::default()).unwrap();
            assert_eq!(encoded.tokens, ids(&case["ids"]), "{name}");
            let turns: Vec<&str> = rendered.turns.iter().map(|turn| &rendered.text[turn.clone()]).collect();
            if let Some(mask) = case["mask"].as_array() {
                let mask: Vec<bool> = mask.iter().map(|mask| mask == 1).collect();
                assert_eq!(encoded.supervised, mask, "{name}");
                marked += 1;
            } else {
                let pieces: Vec<&str> =
                    list(&case["pieces"]).iter().map(|piece| piece.as_str().unwrap()).collect();
                assert_eq!(turns, pieces, "{name}");
                by_hand += 1;
            }
            // At least one supervised token per turn, and at most one per byte of the turns.
            let supervised = encoded.supervised.iter().filter(|supervised| **supervised).count();
            assert!(supervised >= turns.len() && supervised <= turns.concat().len(), "{name}");
        }
    }
    assert!(marked >= 3 && by_hand >= 7);
}

/// `{% generation %}` tags, and the search in the same template without them, give the same turns.
#[test]
fn tags_and_search_agree() {
    let dir = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(folder().join("templates/marked.jinja")).unwrap();
    let without = source.replace("{%- generation %}", "").replace("{%- endgeneration %}", "");
    assert!(without.len() + 30 < source.len());
    let path = dir.path().join("without.jinja");
    fs::write(&path, without).unwrap();
    for (folder, cases) in expected() {
        let marked = encoder(&folder, &cases, Some("marked"));
        let searched = ChatTemplate::open(&path, Some(&folder), None).unwrap();
        for case in list(&cases["chats"]).iter().filter(|case| case["template"] == "marked") {
            let conversation = conversation(case);
            let tagged = marked.template().unwrap().render(&conversation, &mut Warnings::default()).unwrap();
            assert_eq!(searched.render(&conversation, &mut Warnings::default()).unwrap(), tagged);
            // Of a prompt and its completion only the completion is supervised.
            let from = conversation.messages.len() - 1;
            let last = Conversation::new(conversation.messages, from, conversation.variables);
            let tagged_last = marked.template().unwrap().render(&last, &mut Warnings::default()).unwrap();
            assert_eq!(tagged_last.turns, tagged.turns[tagged.turns.len() - 1..]);
            assert_eq!(searched.render(&last, &mut Warnings::default()).unwrap(), tagged_last);
        }
    }
}

#[test]
fn conversations_that_a_template_cannot_render_are_refused() {
    let (folder, cases) = expected().into_iter().find(|(folder, _)| folder.ends_with("metaspace")).unwrap();
    let encoder = encoder(&folder, &cases, Some("instruct"));
    let render = |messages: Value| {
        let conversation = Conversation::new(list(&messages).to_vec(), 0, Map::new());
        encoder.template().unwrap().render(&conversation, &mut Warnings::default()).unwrap_err().to_string()
    };
    let twice = json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]);
    assert!(render(twice).contains("user and assistant must take turns"));
    let mark = json!([{"role": "user", "content": "a\u{fdd0}"}, {"role": "assistant", "content": "b"}]);
    assert!(render(mark).contains("message 0: `content` has one of the noncharacters"));
    // A template that renders only the last turn.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forgets.jinja");
    fs::write(&path, "{{ messages[-1].content }}").unwrap();
    let template = ChatTemplate::open(&path, None, None).unwrap();
    let turn = |content: &str| json!({"role": "assistant", "content": content});
    let conversation = Conversation::new(vec![turn("a"), turn("b")], 0, Map::new());
    let error = template.render(&conversation, &mut Warnings::default()).unwrap_err().to_string();
    assert!(error.contains("message 0") && error.contains("generation"), "{error}");
}

/// Prompt and completion are tokenized as one text; a token that spans their border is supervised.
#[test]
fn a_completion_is_supervised_to_its_end() {
    for (folder, cases) in expected() {
        let encoder = encoder(&folder, &cases, None);
        let tokenizer = encoder.tokenizer().unwrap();
        for (prompt, completion) in [("What is", " the capital"), ("The capi", "tal of France"), ("🙂", "🙂")]
        {
            let row = Row::Pair(prompt.into(), completion.into());
            let encoded = encoder.row(&row, &mut Warnings::default()).unwrap();
            let whole = tokenizer.encode_prompt(format!("{prompt}{completion}").as_bytes()).unwrap();
            assert_eq!(encoded.tokens[..whole.len()], whole);
            assert!(
                tokenizer.is_end(encoded.tokens[whole.len()] as usize)
                    && encoded.tokens.len() == whole.len() + 1
            );
            let start = encoded.supervised.iter().position(|supervised| *supervised).unwrap();
            assert!(encoded.supervised[start..].iter().all(|supervised| *supervised));
            // The tokens before the first supervised one are a prefix of the prompt, and nearly all
            // of it.
            let mut decoder = tokenizer.decoder();
            let before: Vec<u8> =
                encoded.tokens[1..start].iter().flat_map(|&id| decoder.push(id as usize).unwrap()).collect();
            let before = String::from_utf8(before).unwrap();
            assert!(prompt.starts_with(&before), "{before:?} before {completion:?}");
            assert!(prompt.len() - before.len() <= 8, "{before:?} of {prompt:?}");
        }
    }
}

/// Without a template an instruction becomes Alpaca's prompt; with one it becomes a conversation.
#[test]
fn instructions_use_the_template_if_there_is_one() {
    let (folder, cases) = expected().into_iter().find(|(folder, _)| folder.ends_with("byte_level")).unwrap();
    let line = br#"{"instruction": "add", "input": "1 and 2", "output": "three"}"#;
    let row = Row::parse(line, &mut Warnings::default()).unwrap().remove(0);
    let text = |encoder: &Encoder| {
        let mut decoder = encoder.tokenizer().unwrap().decoder();
        let encoded = encoder.row(&row, &mut Warnings::default()).unwrap();
        let bytes: Vec<u8> =
            encoded.tokens.iter().flat_map(|&id| decoder.push(id as usize).unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    };
    let plain = text(&encoder(&folder, &cases, None));
    assert!(plain.ends_with("### Instruction:\nadd\n\n### Input:\n1 and 2\n\n### Response:three"), "{plain}");
    let chat = text(&encoder(&folder, &cases, Some("turns")));
    assert_eq!(chat, "user\nadd\n\n1 and 2\nassistant\nthree\n");
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    for (folder, cases) in expected() {
        let vocabulary = cases["vocabulary"].as_u64().unwrap() as usize;
        let error = source(&folder, vocabulary / 2, None).open();
        let error = error
            .and_then(|encoder| encoder.document(b"the capital of France", &mut Warnings::default()))
            .unwrap_err();
        assert!(error.message().contains("outside the model's vocabulary"), "{error}");
        let line = format!("{{\"tokens\": [1, {vocabulary}]}}");
        let row = Row::parse(line.as_bytes(), &mut Warnings::default()).unwrap().remove(0);
        let error = encoder(&folder, &cases, None).row(&row, &mut Warnings::default()).unwrap_err();
        assert!(error.message().contains(&format!("token {vocabulary} is outside")), "{error}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_the_byte_offset() {
    let (folder, cases) = expected().remove(0);
    let error = encoder(&folder, &cases, None).document(b"abc\xff", &mut Warnings::default()).unwrap_err();
    assert!(error.message().contains("byte 3 is not valid UTF-8"), "{error}");
}
