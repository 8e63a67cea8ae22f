//! Parses a line of JSONL and encodes it, as bytes and with Hugging Face tokenizers and chat
//! templates.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{Encoder, EncoderSource, Row};
use libfuzzer_sys::fuzz_target;

fn encoders() -> &'static [Encoder] {
    static ENCODERS: OnceLock<Vec<Encoder>> = OnceLock::new();
    ENCODERS.get_or_init(|| {
        let chat = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/chat");
        let source = |folder: Option<PathBuf>, template: &str| EncoderSource {
            tokenizer: TokenizerSource { folder, vocabulary: 424 },
            chat_template: Some(chat.join("templates").join(template)),
        };
        [
            source(None, "thinking.jinja"),
            source(Some(chat.join("byte_level")), "marked.jinja"),
            source(Some(chat.join("metaspace")), "late_system.jinja"),
        ]
        .map(|source| source.open().expect("the fixtures can be opened"))
        .into()
    })
}

fuzz_target!(|line: &[u8]| {
    let Ok(row) = Row::parse(line) else { return };
    for encoder in encoders() {
        if let Ok(encoded) = encoder.row(&row) {
            assert_eq!(encoded.tokens.len(), encoded.supervised.len());
            assert!(encoded.tokens.iter().all(|&token| (0..424).contains(&token)));
        }
    }
});
