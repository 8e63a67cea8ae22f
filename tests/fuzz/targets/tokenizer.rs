//! Opens a `tokenizer.json`, encodes a text with it and decodes the tokens.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::{fs, panic};

use horizon::data::Warnings;
use horizon::data::tokenizer::TokenizerSource;
use libfuzzer_sys::fuzz_target;

const VOCABULARY: usize = 424;
const TEXT: &str = "Grüße, world!\n\n  fn main() { 12345 } 日本 <|im_end|>";

/// The folder from which tokenizers are opened.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let parent = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let parent = parent.into_iter().find(|folder| folder.is_dir()).expect("there is a folder");
        let folder = parent.join(format!("horizon-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder can be created");
        folder
    })
}

// Panics of the crate are caught and become errors, but the hook of the fuzzer would abort at once.
// Without it, those that are not caught still abort.
fuzz_target!(init: panic::set_hook(Box::new(|_| ())), |json: &[u8]| {
    fs::write(folder().join("tokenizer.json"), json).expect("the tokenizer can be written");
    let source = TokenizerSource { folder: Some(folder().clone()), vocabulary: VOCABULARY };
    let Ok(tokenizer) = source.open() else { return };
    let spans = [7..12];
    let Ok(encoded) = tokenizer.encode_document(TEXT.as_bytes(), &spans, &mut Warnings::default()) else {
        return;
    };
    assert_eq!(encoded.tokens.len(), encoded.supervised.len());
    assert!(encoded.tokens.iter().all(|&token| (0..VOCABULARY as i32).contains(&token)));
    let mut decoder = tokenizer.decoder();
    for token in encoded.tokens {
        let _ = decoder.push(token as usize);
    }
});
