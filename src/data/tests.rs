use std::path::{Path, PathBuf};

use super::*;
use crate::base::{IGNORED_TARGET, Position, Status};
use crate::data::tokenizer::TokenizerSource;

fn text(documents: &[&str]) -> Documents {
    let mut text = Documents::default();
    documents.iter().for_each(|document| {
        text.push(&Encoder::bytes().document(document.as_bytes(), &mut Warnings::default()).unwrap())
    });
    text
}

fn letters(tokens: &[i32]) -> String {
    tokens.iter().map(|&t| if t == IGNORED_TARGET { '·' } else { t as u8 as char }).collect()
}

fn bytes() -> EncoderSource {
    EncoderSource {
        tokenizer: TokenizerSource { folder: None, vocabulary: 256 },
        chat_template: None,
        time: None,
        chat_worker: None,
    }
}

fn open(paths: &[PathBuf], seq_len: usize) -> Result<Data> {
    let paths: Vec<DataPath> =
        paths.iter().map(|path| DataPath { path: path.clone(), weight: 1.0 }).collect();
    Data::open(&paths, &bytes(), &DataOptions::new(seq_len))
}

fn token_file(path: &Path, tokens: &[u16]) {
    let header = [20_240_520, 1, tokens.len() as i32];
    let mut out: Vec<u8> = header.iter().flat_map(|w: &i32| w.to_le_bytes()).collect();
    out.resize(1024, 0);
    out.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    std::fs::write(path, out).unwrap();
}

#[test]
fn windows_are_consecutive_and_predict_the_next_token() {
    // 9 tokens make two windows of 4 (the ninth is only a target); 12 also make two.
    for document in ["abcdefghi", "abcdefghijkl"] {
        let data = Data::from_documents(text(&[document]), 4).unwrap();
        assert_eq!(data.windows(), 2);
        let mut loader = Loader::new(&data, 2, None);
        let micro = loader.next(&data).unwrap();
        assert_eq!(letters(&micro.tokens), "abcdefgh");
        assert_eq!(letters(&micro.targets), "bcdefghi");
        assert_eq!(micro.starts, None);
        assert_eq!(micro.attention_pairs, 2 * (1 + 2 + 3 + 4));
    }
    assert_eq!(Data::from_documents(text(&["abcdefgh"]), 4).unwrap().windows(), 1);
}

#[test]
fn targets_attention_and_positions_end_with_the_document() {
    let data = Data::from_documents(text(&["ab", "cdefg", "hij"]), 4).unwrap();
    let mut loader = Loader::new(&data, 2, None);
    let micro = loader.next(&data).unwrap();
    assert_eq!(letters(&micro.tokens), "abcdefgh");
    assert_eq!(letters(&micro.targets), "b·defg·i");
    assert_eq!(micro.starts.as_deref(), Some(&[0, 0, 2, 2, 0, 0, 0, 3][..]));
    assert_eq!(micro.attention_pairs, (1 + 2 + 1 + 2) + (1 + 2 + 3 + 1));
}

#[test]
fn a_document_that_ends_with_its_window_has_no_target_there() {
    let data = Data::from_documents(text(&["abcd", "efghi"]), 4).unwrap();
    let micro = Loader::new(&data, 1, None).next(&data).unwrap();
    assert_eq!((letters(&micro.targets).as_str(), micro.starts), ("bcd·", None));
}

#[test]
fn windows_do_not_span_sources() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["one.bin", "two.bin"].map(|name| dir.path().join(name));
    token_file(&paths[0], &[1, 2, 3, 4, 5, 6]);
    token_file(&paths[1], &[11, 12, 13, 14, 15]);
    let data = open(&paths, 2).unwrap();
    assert_eq!((data.windows(), data.report().tokens), (4, 11));
    let mut loader = Loader::new(&data, 1, None);
    let windows: Vec<_> = (0..5).map(|_| loader.next(&data).unwrap()).collect();
    let tokens: Vec<_> = windows.iter().map(|m| m.tokens.clone()).collect();
    assert_eq!(tokens, [[1, 2], [3, 4], [11, 12], [13, 14], [1, 2]]);
    assert_eq!(windows[3].targets, [14, 15]);
}

#[test]
fn validation_takes_every_window_once() {
    let data = Data::from_documents(text(&["abcdefg"]), 2).unwrap();
    let mut loader = Loader::new(&data, 2, None);
    assert_eq!(letters(&loader.next_once(&data).unwrap().unwrap().targets), "bcde");
    let last = loader.next_once(&data).unwrap().unwrap();
    assert_eq!(letters(&last.targets), "fg··");
    assert!(loader.next_once(&data).unwrap().is_none());
}

#[test]
fn the_shuffle_depends_on_the_seed_and_not_on_the_micro_batch() {
    let long: String = (0..200u8).map(|k| (b' ' + k % 90) as char).collect();
    let data = Data::from_documents(text(&[&long]), 4).unwrap();
    let take = |seed, micro_batch: usize| -> Vec<i32> {
        let mut loader = Loader::new(&data, micro_batch, Some(seed));
        (0..48 / micro_batch).flat_map(|_| loader.next(&data).unwrap().tokens).collect()
    };
    assert_eq!(take(1, 1), take(1, 8));
    assert_ne!(take(1, 1), take(2, 1));
}

#[test]
fn unusable_data_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let refused = |path: PathBuf| open(&[path], 8).unwrap_err();
    let short = refused(put("short.txt", b"abcdefgh"));
    assert_eq!(short.status(), Status::InvalidArgument);
    assert!(short.message().contains("short.txt") && short.message().contains("8 tokens"), "{short}");
    let table = refused(put("table.xlsx", b"PK\x03\x04"));
    assert_eq!(table.status(), Status::Unsupported);
    assert!(table.message().contains("table.xlsx is an Excel file"), "{table}");
    let chat = refused(put("chat.jsonl", b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}"));
    assert!(chat.message().contains("chat.jsonl, line 1: the model has no chat template"), "{chat}");
    let long = put("long.jsonl", b"{\"prompt\": \"more than a window\", \"completion\": \"a\"}");
    assert!(refused(long).message().contains("none of 1 document has"), "no supervised token in a window");
    assert_eq!(refused(dir.path().join("none.txt")).status(), Status::NotFound);
    assert_eq!(refused(dir.path().join("none.bin")).status(), Status::NotFound);
    assert_eq!(refused(dir.path().join("none.jsonl")).status(), Status::NotFound);
    assert_eq!(Data::from_documents(text(&["ab"]), 0).unwrap_err().status(), Status::InvalidArgument);
}

#[test]
fn the_encoder_is_opened_only_when_there_is_text() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let tokenizer = TokenizerSource { folder: Some(dir.path().to_owned()), vocabulary: 256 };
    let broken = EncoderSource { tokenizer, chat_template: None, time: None, chat_worker: None };
    let (tokens, words) = (dir.path().join("t.bin"), dir.path().join("t.txt"));
    token_file(&tokens, &[1, 2, 3]);
    std::fs::write(&words, "some words").unwrap();
    let open = |path: PathBuf| Data::open(&[DataPath { path, weight: 1.0 }], &broken, &DataOptions::new(2));
    assert!(open(tokens).is_ok());
    assert!(open(words).unwrap_err().message().contains("tokenizer.json"));
}

/// Rows of prompt and completion; the last has no supervised token in a window of 6.
const PAIRS: &str = r#"{"prompt": "ab", "completion": "cd"}
{"prompt": "", "completion": "xyz"}
{"prompt": "0123", "completion": "456789"}
{"prompt": "longer than a window", "completion": "!"}
"#;

#[test]
fn whole_documents_are_packed_and_losses_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.jsonl");
    std::fs::write(&path, PAIRS).unwrap();
    let data = open(&[path], 6).unwrap();
    assert_eq!(data.windows(), 2);
    let micro = Loader::new(&data, 2, None).next(&data).unwrap();
    assert_eq!(letters(&micro.tokens), "abcxy\x00012345");
    assert_eq!(letters(&micro.targets), "·cdyz····456");
    assert_eq!(micro.starts.as_deref(), Some(&[0, 0, 0, 3, 3, 5, 0, 0, 0, 0, 0, 0][..]));
    assert_eq!((micro.rows, micro.attention_pairs), (11, 6 + 3 + 21));
    let report = data.report();
    assert_eq!(
        report.left_out,
        LeftOut { truncated: 1, cut_tokens: 3, targetless: 1, targetless_windows: 0 }
    );
    assert_eq!((report.documents, report.packed_rows, report.padding()), (4, (12, 1), Some(1.0 / 12.0)));
    let text = report.to_string();
    let expected = "warning: truncated: 1 document is longer than a window, of 4 in all; 3 tokens are cut off\n\
                    warning: left out: 1 document has no supervised tokens within a window\n";
    assert_eq!(text, expected);
}

#[test]
fn packing_follows_the_option() {
    let dir = tempfile::tempdir().unwrap();
    let (pairs, words) = (dir.path().join("pairs.jsonl"), dir.path().join("words.txt"));
    std::fs::write(&pairs, PAIRS).unwrap();
    std::fs::write(&words, "abcdefghi").unwrap();
    let first = |path: &Path, packing| {
        let paths = [DataPath { path: path.to_owned(), weight: 1.0 }];
        let data = Data::open(&paths, &bytes(), &DataOptions { packing, ..DataOptions::new(6) }).unwrap();
        let micro = Loader::new(&data, 1, None).next(&data).unwrap();
        (data.windows(), letters(&micro.tokens), letters(&micro.targets))
    };
    assert_eq!(first(&pairs, Packing::Stream), (3, "abcdxy".into(), "·cd·yz".into()));
    assert_eq!(first(&words, Packing::Auto), (1, "abcdef".into(), "bcdefg".into()));
    assert_eq!(first(&words, Packing::Documents), (1, "abcdef".into(), "bcdefg".into()));
}

#[test]
fn windows_of_a_stream_without_a_target_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.jsonl");
    // Windows of 4, by their targets: ···c, d···, ····, ···e; f and g are the remainder.
    let rows = "{\"prompt\": \"0123\", \"completion\": \"cd\"}\n\
                {\"prompt\": \"0123456789\", \"completion\": \"efg\"}\n";
    std::fs::write(&path, rows).unwrap();
    let paths = [DataPath { path: path.clone(), weight: 1.0 }];
    let stream = |seq_len| {
        Data::open(&paths, &bytes(), &DataOptions { packing: Packing::Stream, ..DataOptions::new(seq_len) })
    };
    let data = stream(4).unwrap();
    assert_eq!(data.report().left_out, LeftOut { targetless_windows: 1, ..LeftOut::default() });
    assert_eq!(data.report().to_string(), "warning: left out: 1 window has no supervised tokens\n");
    let mut loader = Loader::new(&data, 1, None);
    let mut next = || letters(&loader.next(&data).unwrap().targets);
    assert_eq!([next(), next(), next(), next()], ["···c", "d···", "···e", "···c"]);
    std::fs::write(&path, "{\"prompt\": \"0123456789\", \"completion\": \"\"}\n").unwrap();
    let error = stream(4).unwrap_err();
    assert!(
        error
            .message()
            .contains("nothing to train on in 1 document: every token is masked from the loss, or"),
        "{error}"
    );
}

/// Returns the letters of every window of the given number of epochs.
fn windows_of(data: &Data, shuffle: Option<u64>, epochs: u64) -> Vec<String> {
    let mut loader = Loader::new(data, 1, shuffle);
    (0..epochs * data.windows()).map(|_| letters(&loader.next(data).unwrap().tokens)).collect()
}

#[test]
fn a_weight_is_the_number_of_passes_per_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let source = |name: &str, text: &str, weight: f64| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        DataPath { path, weight }
    };
    let paths =
        [source("a.txt", "abcdefghi", 1.0), source("b.txt", "012345678", 0.5), source("c.txt", "xyz", 3.0)];
    let data = Data::open(&paths, &bytes(), &DataOptions::new(2)).unwrap();
    assert_eq!(data.windows(), 4 + 2 + 3);
    let count = |windows: &[String], window: &str| windows.iter().filter(|other| *other == window).count();
    for shuffle in [None, Some(5)] {
        let windows = windows_of(&data, shuffle, 4);
        for epoch in windows.chunks(9) {
            assert!(["ab", "cd", "ef", "gh"].iter().all(|window| count(epoch, window) == 1), "{epoch:?}");
            assert_eq!(count(epoch, "xy"), 3);
        }
        // Each epoch takes another half of `b`, so two epochs take all of it.
        for epochs in windows.chunks(18) {
            assert!(["01", "23", "45", "67"].iter().all(|window| count(epochs, window) == 1), "{epochs:?}");
        }
    }
    assert_ne!(windows_of(&data, Some(5), 1), windows_of(&data, Some(6), 1));
}

#[test]
fn a_share_is_held_out_of_every_source() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["one.bin", "two.bin"].map(|name| dir.path().join(name));
    token_file(&paths[0], &(0..101).collect::<Vec<u16>>());
    token_file(&paths[1], &(100..121).collect::<Vec<u16>>());
    let (training, validation) = open(&paths, 2).unwrap().hold_out(0.2).unwrap();
    assert_eq!((training.windows(), validation.windows()), (40 + 8, 10 + 2));
    let mut all = [windows_of(&training, Some(1), 1), windows_of(&validation, None, 1)].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 60);
    assert_ne!(training.fingerprint(), validation.fingerprint());
    let one = || open(&paths[..1], 100).unwrap();
    assert!(one().hold_out(0.5).unwrap_err().message().contains("too few windows"));
    assert!(one().hold_out(1.0).is_err() && one().hold_out(f64::NAN).is_err());
    let huge = [DataPath { path: paths[0].clone(), weight: 1e308 }];
    let error = Data::open(&huge, &bytes(), &DataOptions::new(2)).unwrap_err();
    assert!(error.message().contains("the data weight 1e308 gives more than"), "{error}");
    assert!(open(&paths, 1 << 31).unwrap_err().message().contains("it must be 1 … 2147483647"));
}

/// A run that stops anywhere and resumes with another micro-batch gets the windows of an
/// uninterrupted one.
#[test]
fn a_position_is_resumed_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let words = dir.path().join("a.txt");
    std::fs::write(&words, (0..100).map(|k| (b' ' + k % 90) as char).collect::<String>()).unwrap();
    let half = DataPath { path: words.clone(), weight: 0.5 };
    let paths = [half, DataPath { path: words.clone(), weight: 1.0 }];
    let data = Data::open(&paths, &bytes(), &DataOptions::new(3)).unwrap();
    for shuffle in [None, Some(9)] {
        let whole = windows_of(&data, shuffle, 3);
        for stop in 0..2 * data.windows() as usize {
            let mut loader = Loader::new(&data, 1, shuffle);
            (0..stop).for_each(|_| drop(loader.next(&data).unwrap()));
            let position = loader.position(&data);
            let json = serde_json::to_string(&position).unwrap();
            let position: Position = serde_json::from_str(&json).unwrap();
            let mut resumed = Loader::resume(&data, 2, &position).unwrap();
            assert_eq!(letters(&resumed.next(&data).unwrap().tokens), whole[stop..stop + 2].concat());
        }
    }
    let position = Loader::new(&data, 1, Some(9)).position(&data);
    let other = Data::open(&paths, &bytes(), &DataOptions::new(4)).unwrap();
    assert!(Loader::resume(&other, 1, &position).unwrap_err().message().contains("windows an epoch"));
    std::fs::write(&words, (0..100).map(|k| (b'!' + k % 90) as char).collect::<String>()).unwrap();
    let other = Data::open(&paths, &bytes(), &DataOptions::new(3)).unwrap();
    assert!(Loader::resume(&other, 1, &position).unwrap_err().message().contains("its hash is"));
    // Checkpoints of earlier versions have no hash of all data.
    let json = format!(r#"{{"epoch":0,"window":1,"seed":9,"windows":{},"data":77}}"#, data.windows());
    let older: Position = serde_json::from_str(&json).unwrap();
    assert_eq!(older.fingerprint, None);
    Loader::resume(&other, 1, &older).unwrap();
    assert!(Loader::resume(&data, 1, &Position { epoch: 1 << 62, ..position }).is_err());
    assert!(Loader::resume(&data, 1, &Position { window: data.windows(), ..position }).is_err());
    assert!(Loader::resume(&data, 1, &Position { epoch: u64::MAX, ..position }).is_err());
}

#[test]
fn a_feeder_gives_the_batches_and_positions_of_the_loader() {
    let letters: String = (0..90).map(|k| (b'!' + k) as char).collect();
    let data = Arc::new(Data::from_documents(text(&[&letters]), 4).unwrap());
    let mut plain = Loader::new(&data, 2, Some(3));
    let mut feeder = Feeder::start(data.clone(), plain, 3).unwrap();
    for round in 0..20 {
        let micros: Vec<Micro> = (0..3).map(|_| plain.next(&data).unwrap()).collect();
        while round % 2 == 1 && feeder.peek().is_none() {
            std::thread::yield_now();
        }
        if let Some(step) = feeder.peek() {
            assert_eq!((&step.micros, step.next), (&micros, plain.position(&data)));
        }
        let step = feeder.take().unwrap();
        assert_eq!((step.micros, step.next), (micros, plain.position(&data)));
    }
}

#[test]
fn a_feeder_returns_an_error_of_its_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.bin");
    token_file(&path, &[1; 41]);
    let data = Arc::new(open(std::slice::from_ref(&path), 4).unwrap());
    // The mapped file changes while it is open.
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(1024)).unwrap();
    std::io::Write::write_all(&mut file, &[255; 82]).unwrap();
    let mut feeder = Feeder::start(data.clone(), Loader::new(&data, 1, None), 1).unwrap();
    assert!(feeder.peek().is_none());
    assert_eq!(feeder.take().unwrap_err().status(), Status::BadFormat);
    assert_eq!(feeder.take().unwrap_err().status(), Status::Internal);
}

#[test]
fn tokens_of_another_tokenizer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.bin");
    for (fingerprint, fits) in [(0, true), (1, true), (2, false)] {
        let mut writer = TokenWriter::create(&path, 256, fingerprint).unwrap();
        writer.push(&Encoder::bytes().document(b"abcdefgh", &mut Warnings::default()).unwrap()).unwrap();
        writer.finish().unwrap();
        let opened = open(std::slice::from_ref(&path), 4);
        assert_eq!(opened.is_ok(), fits);
        if let Err(error) = opened {
            assert!(error.message().contains("another tokenizer"), "{error}");
        }
    }
}
