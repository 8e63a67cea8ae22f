//! Parses a line of JSONL and encodes it, as bytes and with Hugging Face tokenizers and chat
//! templates.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{Encoder, EncoderSource, Row, Warnings};
use libfuzzer_sys::fuzz_target;

fn encoders() -> &'static [Encoder] {
    static ENCODERS: OnceLock<Vec<Encoder>> = OnceLock::new();
    ENCODERS.get_or_init(|| {
        let chat = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/chat");
        let source = |folder: Option<PathBuf>, template: &str| EncoderSource {
            tokenizer: TokenizerSource { folder, vocabulary: 424 },
            chat_template: Some(chat.join("templates").join(template)),
            time: Some(0),
            chat_worker: None,
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
    let mut warnings = Warnings::default();
    let Ok(rows) = Row::parse(line, &mut warnings) else { return };
    for (encoder, row) in encoders().iter().flat_map(|encoder| rows.iter().map(move |row| (encoder, row))) {
        if let Ok(encoded) = encoder.row(row, &mut warnings) {
            assert_eq!(encoded.tokens.len(), encoded.supervised.len());
            assert!(encoded.tokens.iter().all(|&token| (0..424).contains(&token)));
        }
    }
});
