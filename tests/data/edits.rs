//! A resumed run notices every change of what is trained on.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use horizon::data::{Data, DataOptions, DataPath, Encoder, Loader, Packing, TokenWriter, Warnings};
use serde_json::json;

use crate::{folder, source};

fn open(path: &Path, packing: Packing) -> horizon::Result<Data> {
    let encoder = source(&folder().join("byte_level"), 1 << 16, Some("turns"));
    let paths = [DataPath { path: path.to_owned(), weight: 1.0 }];
    Data::open(&paths, &encoder, &DataOptions { packing, ..DataOptions::new(16) })
}

/// Replaces the first place of `old`.
fn edited(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

fn flipped(bytes: &[u8], at: usize, bit: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Writes a token file of three documents, the second with a masked token.
fn token_file(path: &Path) {
    let mut writer = TokenWriter::create(path, 1 << 16, 0).unwrap();
    for (text, masked) in [("one two three", 9), ("four five six", 2), ("seven", 9)] {
        let mut document = Encoder::bytes().document(text.as_bytes(), &mut Warnings::default()).unwrap();
        document.supervised.iter_mut().skip(masked).take(1).for_each(|supervised| *supervised = false);
        writer.push(&document).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_changed_byte_of_a_token_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.bin");
    token_file(&path);
    let bytes = fs::read(&path).unwrap();
    let data = open(&path, Packing::Stream).unwrap();
    let position = Loader::new(&data, 1, None).position(&data);
    let (mut refused, mut noticed) = (0, 0);
    for at in 0..bytes.len() {
        fs::write(&path, flipped(&bytes, at, 0)).unwrap();
        match open(&path, Packing::Stream).and_then(|data| Loader::resume(&data, 1, &position)) {
            Ok(_) => panic!("byte {at} of {}", bytes.len()),
            Err(error) if error.message().contains("its hash is") => noticed += 1,
            Err(_) => refused += 1,
        }
    }
    // Tokens, loss mask and padding; of the header, what the reader cannot check.
    assert!(noticed > 60 && refused > 20, "{noticed} {refused}");
    fs::write(&path, &bytes).unwrap();
    let again = open(&path, Packing::Stream).unwrap();
    Loader::resume(&again, 1, &position).unwrap();
    assert_eq!(again.fingerprint(), data.fingerprint());
    assert_ne!(again.fingerprint(), open(&path, Packing::Documents).unwrap().fingerprint());
}

#[test]
fn a_changed_byte_of_text_and_rows_is_noticed() {
    let chat = |user: &str, answer: &str| json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]});
    let (one, two) = (chat("ask one", "tell one"), chat("ask two", "tell two"));
    let chats = format!("{one}\n{two}\n").into_bytes();
    let text = "a text of several words, ".repeat(9).into_bytes();
    let csv = "prompt,completion\nhow many?,seven\nhow few?,three\n".repeat(9).into_bytes();
    let rows = (0..9).map(|k| format!("{}\n", json!({"input_ids": [1, 2, 3, k], "labels": [-100, 2, 3, k]})));
    let rows: Vec<u8> = rows.collect::<String>().into_bytes();
    let parquet = fs::read(files().join("none.parquet")).unwrap();
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(&*fs::read(files().join("rows.jsonl.gz")).unwrap())
        .read_to_end(&mut unpacked)
        .unwrap();
    let cases: [(&str, Vec<u8>, Vec<u8>); 9] = [
        ("a.txt", edited(&text, b"words", b"swords"), text.clone()),
        ("b.txt", edited(&text, b"several", b"Several"), text),
        ("a.jsonl", edited(&chats, b"ask two", b"ask twp"), chats.clone()),
        ("b.jsonl", edited(&chats, b"tell two", b"tell twp"), chats),
        ("c.jsonl", edited(&rows, b"[1,2,3,8]", b"[7,2,3,8]"), rows.clone()),
        ("d.jsonl", edited(&rows, b"[-100,2,3,8]", b"[-100,2,-100,8]"), rows),
        ("a.csv", edited(&csv, b"three", b"thref"), csv),
        ("e.jsonl.gz", gzip(&edited(&unpacked, b"row 3", b"row 4")), gzip(&unpacked)),
        ("a.parquet", edited(&parquet, b"row 4", b"row 5"), parquet),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, after, before) in cases {
        let path = dir.path().join(name);
        let fingerprint = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            open(&path, Packing::Auto).unwrap_or_else(|error| panic!("{name}: {error}")).fingerprint()
        };
        let first = fingerprint(&before);
        assert_ne!(fingerprint(&after), first, "{name}");
        assert_eq!(fingerprint(&before), first, "{name}");
    }
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/files")
}
