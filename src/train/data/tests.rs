use std::path::Path;

use super::*;

fn text(documents: &[&str]) -> Text {
    let mut text = Text::default();
    documents.iter().for_each(|document| text.push(document.as_bytes()));
    text
}

fn letters(tokens: &[i32]) -> String {
    tokens.iter().map(|&t| if t == IGNORED_TARGET { '·' } else { t as u8 as char }).collect()
}

fn bytes() -> Result<ByteTokenizer> {
    ByteTokenizer::for_model(None, 256)
}

fn token_file(path: &Path, tokens: &[u16]) {
    let header = [20_240_520, 1, tokens.len() as i32];
    let mut out: Vec<u8> = header.iter().flat_map(|w: &i32| w.to_le_bytes()).collect();
    out.resize(1024, 0);
    out.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    std::fs::write(path, out).unwrap();
}

#[test]
fn windows_stand_side_by_side_and_predict_the_next_token() {
    // 9 tokens make two windows of 4 (the ninth is the last target); 12 still make two.
    for document in ["abcdefghi", "abcdefghijkl"] {
        let data = Data::from_text(text(&[document]), 4).unwrap();
        assert_eq!(data.windows(), 2);
        let mut loader = Loader::new(&data, 2, None);
        let micro = loader.next(&data).unwrap();
        assert_eq!(letters(&micro.tokens), "abcdefgh");
        assert_eq!(letters(&micro.targets), "bcdefghi");
        assert_eq!(micro.starts, None);
        assert_eq!(micro.attended, 2 * (1 + 2 + 3 + 4));
    }
    assert_eq!(Data::from_text(text(&["abcdefgh"]), 4).unwrap().windows(), 1);
}

#[test]
fn documents_bound_targets_attention_and_positions() {
    let data = Data::from_text(text(&["ab", "cdefg", "hij"]), 4).unwrap();
    let mut loader = Loader::new(&data, 2, None);
    let micro = loader.next(&data).unwrap();
    assert_eq!(letters(&micro.tokens), "abcdefgh");
    assert_eq!(letters(&micro.targets), "b·defg·i");
    assert_eq!(micro.starts.as_deref(), Some(&[0, 0, 2, 2, 0, 0, 0, 3][..]));
    assert_eq!(micro.attended, (1 + 2 + 1 + 2) + (1 + 2 + 3 + 1));
}

#[test]
fn a_document_that_ends_with_its_window_has_no_target_there() {
    let data = Data::from_text(text(&["abcd", "efghi"]), 4).unwrap();
    let micro = Loader::new(&data, 1, None).next(&data).unwrap();
    assert_eq!((letters(&micro.targets).as_str(), micro.starts), ("bcd·", None));
}

#[test]
fn streams_do_not_run_into_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["one.bin", "two.bin"].map(|name| dir.path().join(name));
    token_file(&paths[0], &[1, 2, 3, 4, 5, 6]);
    token_file(&paths[1], &[11, 12, 13, 14, 15]);
    let data = Data::open(&paths, 2, 256, bytes).unwrap();
    assert_eq!((data.windows(), data.tokens()), (4, 11));
    let mut loader = Loader::new(&data, 1, None);
    let windows: Vec<_> = (0..5).map(|_| loader.next(&data).unwrap()).collect();
    let tokens: Vec<_> = windows.iter().map(|m| m.tokens.clone()).collect();
    assert_eq!(tokens, [[1, 2], [3, 4], [11, 12], [13, 14], [1, 2]]);
    assert_eq!(windows[3].targets, [14, 15]);
}

#[test]
fn validation_takes_every_window_once() {
    let data = Data::from_text(text(&["abcdefg"]), 2).unwrap();
    let mut loader = Loader::new(&data, 2, None);
    assert_eq!(letters(&loader.next_once(&data).unwrap().unwrap().targets), "bcde");
    let last = loader.next_once(&data).unwrap().unwrap();
    assert_eq!(letters(&last.targets), "fg··");
    assert!(loader.next_once(&data).unwrap().is_none());
}

#[test]
fn the_shuffle_depends_on_the_seed_and_not_on_the_micro_batch() {
    let long: String = (0..200u8).map(|k| (b' ' + k % 90) as char).collect();
    let data = Data::from_text(text(&[&long]), 4).unwrap();
    let take = |seed, micro_batch: usize| -> Vec<i32> {
        let mut loader = Loader::new(&data, micro_batch, Some(seed));
        (0..48 / micro_batch).flat_map(|_| loader.next(&data).unwrap().tokens).collect()
    };
    assert_eq!(take(1, 1), take(1, 8));
    assert_ne!(take(1, 1), take(2, 1));
}

#[test]
fn what_cannot_be_learned_from_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let open = |path: &Path| Data::open(&[path.to_owned()], 8, 256, bytes).unwrap_err();
    let short = open(&put("short.txt", b"abcdefgh"));
    assert_eq!(short.status(), Status::InvalidArgument);
    assert!(short.message().contains("short.txt") && short.message().contains("8 tokens"), "{short}");
    let jsonl = open(&put("chat.jsonl", b"{}"));
    assert_eq!(jsonl.status(), Status::Unsupported);
    assert!(jsonl.message().contains(".jsonl"), "{jsonl}");
    assert_eq!(open(&dir.path().join("none.txt")).status(), Status::NotFound);
    assert_eq!(open(&dir.path().join("none.bin")).status(), Status::NotFound);
    assert_eq!(Data::from_text(text(&["ab"]), 0).unwrap_err().status(), Status::InvalidArgument);
}

#[test]
fn the_tokenizer_is_asked_for_only_when_there_is_text() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = || Err(Error::new(Status::Unsupported, "no tokenizer"));
    let tokens = dir.path().join("t.bin");
    token_file(&tokens, &[1, 2, 3]);
    assert!(Data::open(&[tokens], 2, 256, refuse).is_ok());
    let words = dir.path().join("t.txt");
    std::fs::write(&words, "some words").unwrap();
    assert_eq!(Data::open(&[words], 2, 256, refuse).unwrap_err().message(), "no tokenizer");
}
