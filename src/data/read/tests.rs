//! Files of every kind, read with the byte tokenizer.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::json_rows::JsonRows;
use super::rows::Value;
use super::*;
use crate::data::tokenizer::Encoded;

/// Texts of the documents.
#[derive(Default)]
struct Texts(Vec<String>);

impl Sink for Texts {
    fn take(&mut self, document: Encoded, _: bool) -> Result<()> {
        self.0.push(document.tokens.iter().map(|&token| char::from(token as u8)).collect());
        Ok(())
    }

    fn ends_turn(&mut self, _: i32) {}
}

fn read_as(path: &Path, bad_lines: BadLines, threads: usize) -> (Result<Vec<String>>, Warnings) {
    let (mut texts, mut warnings) = (Texts::default(), Warnings::default());
    let outcome = read_documents(path, &Encoder::bytes(), bad_lines, threads, &mut warnings, &mut texts);
    (outcome.map(|()| texts.0), warnings)
}

/// Reads a path without warnings.
fn texts(path: &Path) -> Result<Vec<String>> {
    let (texts, warnings) = read_as(path, BadLines::Refuse, 2);
    assert_eq!(warnings, Warnings::default());
    texts
}

/// A folder for files of a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Reads a file alone.
    fn texts(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>> {
        texts(&self.put(name, bytes))
    }
}

/// Fails unless an error has all words.
fn refused(outcome: Result<Vec<String>>, words: &[&str]) {
    let error = outcome.unwrap_err();
    for word in words {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/files").join(name)
}

const ROWS: &str = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";

#[test]
fn rows_come_in_order_for_any_number_of_threads() {
    let lines: String = (0..1000).map(|k| format!("{{\"text\": \"row {k}\"}}\n")).collect();
    let path = Folder::new();
    let path = path.put("a.jsonl", lines);
    for threads in [1, 2, 5] {
        let (rows, warnings) = read_as(&path, BadLines::Refuse, threads);
        assert!(rows.unwrap().iter().enumerate().all(|(k, row)| *row == format!("row {k}")));
        assert_eq!(warnings, Warnings::default());
    }
}

#[test]
fn objects_are_read_in_every_layout() {
    let folder = Folder::new();
    let pretty = "{\n  \"text\": \"a\",\n  \"meta\": {\"k\": [1,\n 2]}\n}\n";
    for (name, text, expected) in [
        ("a.jsonl", ROWS.to_owned(), &["a", "b"][..]),
        ("A.JSONL", ROWS.to_owned(), &["a", "b"]),
        ("a.ndjson", ROWS.to_owned(), &["a", "b"]),
        ("a.jsonl.txt", ROWS.to_owned(), &["a", "b"]),
        ("a.json", ROWS.to_owned(), &["a", "b"]),
        ("a.jsonl", "\u{feff}{\"text\": \"a\"}\r\n\n  \n{\"text\": \"b\"}".to_owned(), &["a", "b"]),
        ("a.jsonl", ROWS.replace('\n', "\r"), &["a", "b"]),
        ("a.json", " [{\"text\": \"a\"},\n {\"text\": \"]b,\\\"\"}]\n".to_owned(), &["a", "]b,\""]),
        (
            "a.json",
            "\u{feff}[\n\n{\"text\": \"a\",\n\"x\": [NaN]}\n,{\"text\": \"b\"}\n]".to_owned(),
            &["a", "b"],
        ),
        ("a.json", "[]".to_owned(), &[]),
        ("a.json", "\n\n[{\"text\": \"a\"},\n\n\n{\"text\":\n\n\"b\"}]".to_owned(), &["a", "b"]),
        ("a.json", pretty.to_owned(), &["a"]),
        ("a.json", pretty.replace('\n', "\r\n"), &["a"]),
        (
            "a.jsonl",
            format!("\n{pretty}{pretty} {{\"text\": \"b\"}}{{\"text\": \"c\"}}"),
            &["a", "a", "b", "c"],
        ),
        ("a.jsonl", String::new(), &[]),
    ] {
        let (found, _) = read_as(&folder.put(name, &text), BadLines::Refuse, 2);
        assert_eq!(found.unwrap(), expected, "{text:?}");
    }
}

#[test]
fn errors_name_the_place_and_what_was_found() {
    let folder = Folder::new();
    for (name, text, words) in [
        ("a.json", "[{\"text\": \"a\"}, {\"txt\": \"b\"}]", &["a.json, element 2: no field"][..]),
        ("a.json", "[{\"text\": \"a\"}", &["not a JSON list", "truncated"]),
        ("a.json", "[{\"text\": \"a\"},]", &["not a JSON list", "comma"]),
        ("a.json", "[{\"text\": \"a\"},,{\"text\": \"a\"}]", &["not a JSON list", "comma"]),
        ("a.json", "[{\"text\": \"a\"}] {\"text\": \"b\"}", &["not a JSON list", "text follows"]),
        ("a.json", "[{\"text\": \"a\"}}", &["not a JSON list", "bracket"]),
        ("a.json", "{\"text\":\n\"a\"}\n{\"text\":\n7}", &["a.json, object 2: `text` is 7"]),
        ("a.json", "{\"text\":\n\"a\"}\n{\"text\":\n", &["a.json, object 2: not JSON objects", "truncated"]),
        ("a.json", "{\"text\":\n\"a\n\"}", &["a.json, line 1", "ends inside a value"]),
        (
            "a.json",
            "{\"train\": [{\"text\": \"a\"}, {\"text\": \"b\"}], \"test\": []}",
            &["line 1", "no field", "`train`, a list of 2, `test`, a list of 0", "jq -c '.train[]'"],
        ),
        (
            "a.json",
            "{\n\"text\": {\"0\": \"a\", \"1\": \"b\"}}",
            &["object 1", "`text` is", "an object of 2", "orient=\"records\", lines=True"],
        ),
        (
            "a.json",
            "{\"version\": \"1.0\", \"data\": [{\"text\": \"a\"}], \"meta\": null}",
            &["no field", "`data`, a list of 1", "jq -c '.data[]'"],
        ),
        ("a.json", "{\"my rows\": [{\"text\": \"a\"}]}", &["jq -c '.[\"my rows\"][]'"]),
        (
            "a.json",
            "{\"text\": [\"a\", \"b\"]}",
            &["`text` is a list of 2", "orient=\"records\", lines=True"],
        ),
        (
            "a.jsonl",
            "{\"text\": \"a\"}\n{\"text\": \"b\"",
            &["a.jsonl, line 2: not a JSON object: it ends inside"],
        ),
        ("a.jsonl", "\n\n\n{\"text\": 7}", &["a.jsonl, line 4"]),
        ("a.jsonl", "\n{\"text\":\n\n7\n\n\nx", &["a.jsonl, line 2"]),
        ("a.json", "{\"text\":\n\n7}\n\n{\"text\":\n7}", &["a.json, object 1"]),
        ("a.jsonl", "{\"text\": \"a\0\"}", &["line 1", "zero byte"]),
        ("a.jsonl", "<!DOCTYPE html><html>", &["a.jsonl is a web page", "download"]),
        ("a.txt", ROWS, &["a.txt has JSON rows", "name it .jsonl"]),
        ("a", "[{\"text\": \"a\"}]", &["a has JSON rows"]),
        ("a.npy", "<!-- x --><html>", &["a.npy is a web page"]),
        ("a.jsonl.1", "<?xml version=\"1.0\"?><Error>", &["a.jsonl.1 is a web page"]),
        ("a.gz", "<!doctype html>", &["a.gz is a web page"]),
        ("a.txt", "ab\0", &["a.txt is binary", "byte 3"]),
        ("a.u16", "ab", &["token file already"]),
        ("a.parquet", "ab", &["a.parquet is not a Parquet file"]),
    ] {
        refused(folder.texts(name, text), words);
    }
    for text in [
        "{\"data\": [{\"text\": \"a\"}]}",
        "{\"text\": [\"a\", \"b\"]}",
        "[{\"text\": \"a\"},]",
        "{\"text\": \"a\"},\n{\"text\": \"b\"},",
        "{\"text\": \"a\"}{\"text\": \"b\"}",
        "{'text': 'a'}",
        "// rows\n{\"text\": \"a\"}",
        "[\n  {\n \"x\": 1}]",
        "{\"name\": \"a\"}",
    ] {
        for name in ["b.txt", "b", "b.jsonl.bak", "b.jl"] {
            refused(folder.texts(name, text), &[&format!("{name} has JSON rows"), "name it .jsonl"]);
        }
    }
    for text in ["[1, 2", "{{ name }}", "{ a: 1 }", "// code", "[ ]"] {
        assert_eq!(folder.texts("a.txt", text).unwrap(), [text]);
    }
    for object in ["{\"ids\": [1, 2]}", "{\"x\": [\"b\", \"c\"], \"y\": 7}"] {
        let error = folder.texts("a.json", object).unwrap_err();
        assert!(!error.message().contains("jq") && !error.message().contains("to_json"), "{error}");
    }
    let error = folder.texts("a.jsonl", "{\"data\": [{\"a\": 1}]}\n".repeat(2)).unwrap_err();
    assert!(!error.message().contains("jq"), "{error}");
    for (name, words) in [
        ("tatsu-lab/alpaca", "hf download tatsu-lab/alpaca --repo-type dataset --local-dir alpaca"),
        ("https://huggingface.co/a.jsonl", "it is an address"),
        ("data/*.parquet", "leave out the quotes"),
    ] {
        refused(texts(Path::new(name)), &[name, words]);
    }
    refused(texts(&folder.0.path().join("none")), &["none"]);
}

#[test]
fn other_formats_are_refused_by_name() {
    let folder = Folder::new();
    let utf16: Vec<u8> = "\u{feff}{\"text\": \"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut tar = vec![b'a'; 512];
    tar[257..263].copy_from_slice(b"ustar\0");
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (names, start, words) in [
        (
            &["a.jsonl", "a.txt", "a.parquet", "a.bin", "a.u16"][..],
            &lfs[..],
            &["Git LFS pointer", "git lfs pull"][..],
        ),
        (&["a.jsonl.xz", "a.txt"], b"\xfd7zXZ\0\0\x04", &["xz -d"]),
        (&["a.jsonl.bz2"], b"BZh91AY&SY", &["bzip2 -d"]),
        (&["a.xlsx"], b"PK\x03\x04\x14\0", &["an Excel file", "CSV"]),
        (&["a.zip", "a.jsonl"], b"PK\x03\x04\x14\0", &["a zip archive", "unzip"]),
        (&["a.npz"], b"PK\x03\x04\x14\0", &["NumPy", "tofile"]),
        (&["a.pt", "a.bin"], b"PK\x03\x04\0\0archive/data.pkl", &["PyTorch"]),
        (&["a.tar", "a.txt"], &tar, &["tar -xf"]),
        (&["a.arrow", "data-00000-of-00001.arrow"], b"ARROW1\0\0", &["Arrow", "to_parquet"]),
        (&["a.arrow"], b"\xff\xff\xff\xff\x10\0", &["Arrow"]),
        (&["a.feather"], b"FEA1\0\0\0\0", &["Feather"]),
        (&["a.h5"], b"\x89HDF\r\n\x1a\n", &["HDF5"]),
        (&["a.npy", "a.bin", "a.u32"], b"\x93NUMPY\x01\0", &["NumPy array", "astype(\"<u4\").tofile"]),
        (&["a.pkl", "a.bin"], b"\x80\x04\x95\x10", &["pickle"]),
        (&["a.db"], b"SQLite format 3\0", &["SQLite"]),
        (&["a.pdf"], b"%PDF-1.7", &["PDF", "pdftotext"]),
        (&["a.gguf", "a.txt"], b"GGUF\x03\0\0\0", &["GGUF", "weights"]),
        (&["a.safetensors"], b"\x10\0\0\0\0\0\0\0{\"a\":{}}", &["safetensors"]),
        (&["a.jsonl", "a.txt", "a.csv"], &utf16, &["UTF-16", "Out-File -Encoding utf8"]),
    ] {
        for name in names {
            let path = folder.put(name, start);
            let error = match TokenFormat::of(&path) {
                Some(format) => crate::data::TokenFile::open(&path, format, 256).unwrap_err(),
                None => texts(&path).unwrap_err(),
            };
            assert!(matches!(error.status(), Status::BadFormat | Status::Unsupported));
            for word in [words, &[*name]].concat() {
                assert!(error.message().contains(word), "{name}: no {word:?} in {error}");
            }
        }
    }
}

#[test]
fn tokens_without_a_header_are_recognized() {
    let open = |bytes: Vec<u8>| {
        let opened = crate::data::TokenFile::from_bytes("train.bin", TokenFormat::Headed, 50_257, bytes);
        opened.unwrap_err().message().to_owned()
    };
    let tokens = [50_256u16, 11, 40_000, 7];
    let wide = |width: usize| -> Vec<u8> {
        let token = |token: &u16| u64::from(*token).to_le_bytes()[..width].to_vec();
        tokens.repeat(500).iter().flat_map(token).collect()
    };
    for (width, words) in [(2, "name it .u16"), (4, "name it .u32"), (8, "astype(\"<u4\")")] {
        let message = open(wide(width));
        assert!(message.contains(&format!("2000 tokens of uint{} without a header", 8 * width)), "{message}");
        assert!(message.contains("(50256, 11, 40000, …)") && message.contains(words), "{message}");
    }
    assert!(!open(vec![0xee; 4000]).contains("without a header"));
}

#[test]
fn a_byte_order_mark_is_no_token() {
    let folder = Folder::new();
    assert_eq!(folder.texts("a.txt", "\u{feff}ab").unwrap(), ["ab"]);
    assert_eq!(folder.texts("a.txt", "a\r\nb\r").unwrap(), ["a\r\nb\r"]);
    assert_eq!(folder.texts("a.csv", "\u{feff}text\nab\n").unwrap(), ["ab"]);
}

/// An empty file is a warning, and no document.
#[test]
fn empty_files_are_counted() {
    let folder = Folder::new();
    for (name, bytes) in
        [("a.txt", ""), ("a.txt", "\u{feff}"), ("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", "[]")]
    {
        let (found, warnings) = read_as(&folder.put(name, bytes), BadLines::Refuse, 1);
        assert!(found.unwrap().is_empty());
        assert_eq!((warnings.count(&Warning::EmptyFile), warnings.iter().count()), (1, 1), "{name}");
    }
}

#[test]
fn a_pipe_is_read_once() {
    for (text, expected) in [("\u{feff}two words", Ok("two words")), (ROWS, Err("file named .jsonl"))] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        // As the shell names `<(command)`.
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        match (texts(&path), expected) {
            (Ok(found), Ok(text)) => assert_eq!(found, [text]),
            (found, Err(words)) => refused(found, &["/dev/fd/", " has JSON rows", words]),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }
}

/// Small files that pretend to be endless.
#[cfg(feature = "text")]
#[test]
fn bombs_are_refused_before_they_fill_the_memory() {
    use std::io::Read;
    let folder = Folder::new();
    let text = || std::io::repeat(b'a').take(1 << 26);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut text(), &mut gzip).unwrap();
    for bytes in [gzip.finish().unwrap(), zstd::encode_all(text(), 1).unwrap()] {
        for (name, words) in [
            ("a.txt", "a.txt: it expands to more than 200 times its size"),
            ("a.jsonl", "a.jsonl: it expands to more than 200 times its size"),
            ("a.csv", "a row is longer than 16.0 MiB"),
        ] {
            refused(folder.texts(name, &bytes).map(|_| Vec::new()), &[words]);
        }
    }
    let endless = |start: &'static str| {
        Box::new(std::io::BufReader::new(start.as_bytes().chain(std::io::repeat(b'a'))))
    };
    let words = |error: Option<std::io::Error>| error.unwrap().to_string();
    let error = JsonRows::open(endless("")).unwrap().find_map(Result::err);
    assert_eq!(words(error), "a line is longer than 128.0 MiB, the most for a row");
    let error = JsonRows::open(endless("[1, \"")).unwrap().find_map(Result::err);
    assert_eq!(words(error), "an element is longer than 128.0 MiB, the most for a row");
    let error = csv::open(endless("text\n"), false).unwrap().find_map(Result::err);
    assert_eq!(words(error), "a row is longer than 16.0 MiB, the most for a table");
    let columns = std::io::Cursor::new("a,".repeat(20_000));
    let error = csv::open(Box::new(columns), false).err().unwrap();
    assert!(error.message().contains("the header has 20001 columns; the most are 16384"), "{error}");
}

/// A list is not read as one line, although it is one.
#[test]
fn a_list_on_one_line_is_split_at_its_elements() {
    let list = "\n \r\n [{\"text\": \"a\\\\\\\"],{\\u00e9\"}, {\"text\":\r\"b\"} ,[1, [2 3]]]\n\n";
    let read = |capacity| {
        let reader = std::io::BufReader::with_capacity(capacity, list.as_bytes());
        let records = JsonRows::open(reader).unwrap().map(|record| match record.unwrap().value {
            Value::Json(text) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        });
        records.collect::<Vec<_>>()
    };
    let expected = ["{\"text\": \"a\\\\\\\"],{\\u00e9\"}", "{\"text\":\n\"b\"}", "[1, [2 3]]"];
    (1..100).for_each(|capacity| assert_eq!(read(capacity), expected, "{capacity}"));
}

#[test]
fn a_bad_line_is_an_error_or_is_counted() {
    let folder = Folder::new();
    let path = folder.put("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 7}\nnonsense\n{\"text\": \"b\"}\n");
    refused(read_as(&path, BadLines::Refuse, 3).0, &["a.jsonl, line 3: `text` is 7"]);
    let (rows, warnings) = read_as(&path, BadLines::Skip, 3);
    assert_eq!(rows.unwrap(), ["a", "b"]);
    let (warning, skipped, first) = warnings.iter().next().unwrap();
    assert_eq!((warning, skipped), (&Warning::SkippedLine, 2));
    assert!(first.ends_with("line 3: `text` is 7; it must be a string"));

    let path = folder.put("a.csv", "text\na\nb,c\nd\n");
    let (rows, warnings) = read_as(&path, BadLines::Skip, 1);
    assert_eq!((rows.unwrap(), warnings.count(&Warning::SkippedLine)), (vec!["a".into(), "d".into()], 1));

    // Nothing is left, or the rest of the file cannot be read.
    let path = folder.put("b.jsonl", "x\n\n{\"text\": 7}\n");
    refused(
        read_as(&path, BadLines::Skip, 1).0,
        &["all 2 lines were skipped", "first", "b.jsonl, line 1: not a JSON"],
    );
    let path = folder.put("b.json", "[{\"text\": \"a\"}, ");
    refused(read_as(&path, BadLines::Skip, 1).0, &["not a JSON list"]);
}

mod folders;

#[cfg(feature = "text")]
mod formats {
    use std::fs::File;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::{Value as Json, from_slice};

    use super::*;
    use crate::data::read::rows::{Place, Value};

    fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_ref()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compressed_files_are_read_by_their_contents() {
        let folder = Folder::new();
        let four = ["row 0", "row 1", "row 2", "row 3"];
        assert_eq!(texts(&fixture("rows.jsonl.gz")).unwrap(), four);
        assert_eq!(texts(&fixture("rows.jsonl.zst")).unwrap(), four);
        assert_eq!(folder.texts("a.jsonl", gzip(ROWS)).unwrap(), ["a", "b"]);
        assert_eq!(folder.texts("a.jsonl.gz", ROWS).unwrap(), ["a", "b"]);
        assert_eq!(folder.texts("a.csv.gz", gzip("\u{feff}text\na\n")).unwrap(), ["a"]);
        assert_eq!(folder.texts("a.txt.gz", gzip("\u{feff}text\n")).unwrap(), ["text\n"]);
        assert_eq!(folder.texts("a.html.gz", gzip("<html>")).unwrap(), ["<html>"]);
        // As gzip -dc reads them: members one after the other, and zeros behind them.
        let members = [gzip("a"), gzip("b"), vec![0; 1000], gzip("c"), vec![0; 7]].concat();
        assert_eq!(folder.texts("a.txt.gz", members).unwrap(), ["abc"]);
        assert_eq!(
            folder.texts("a.json.zst", zstd::encode_all(ROWS.as_bytes(), 1).unwrap()).unwrap(),
            ["a", "b"]
        );
        for (name, bytes, words) in [
            ("a.jsonl.gz", gzip(gzip(ROWS)), &["a.jsonl.gz is a compressed file inside"][..]),
            ("a.gz", gzip(ROWS), &["a.gz has JSON rows", "name it .jsonl.gz"]),
            ("a.parquet.gz", gzip("PAR1"), &["a Parquet file that is compressed"]),
            ("b.txt.gz", [gzip("a"), b"x".to_vec()].concat(), &["not gzip follow its end"]),
            ("a.tar.gz", gzip([&[b'a'; 257][..], b"ustar\0"].concat()), &["tar archive"]),
            ("a.txt.gz", gzip("a\0"), &["binary"]),
        ] {
            refused(folder.texts(name, bytes), words);
        }
        // Compressed lines in many rounds and buffers, with a truncated end.
        let lines: String =
            (0..50_000u64).map(|k| format!("{{\"text\": \"{k}\", \"x\": \"{}\"}}\n", k * k)).collect();
        for (name, bytes) in
            [("b.jsonl.gz", gzip(&lines)), ("b.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap())]
        {
            let path = folder.put(name, &bytes);
            let one = read_as(&path, BadLines::Refuse, 1).0.unwrap();
            assert!(one.iter().enumerate().all(|(k, text)| *text == k.to_string()) && one.len() == 50_000);
            assert_eq!(read_as(&path, BadLines::Refuse, 3).0.unwrap(), one);
            for cut in [bytes.len() / 2, bytes.len() - 1] {
                let path = folder.put(name, &bytes[..cut]);
                refused(read_as(&path, BadLines::Skip, 2).0, &[name, "truncated"]);
            }
            let mut damaged = bytes;
            let middle = damaged.len() / 2;
            damaged[middle..middle + 64].fill(0x55);
            refused(read_as(&folder.put(name, damaged), BadLines::Skip, 2).0, &[name]);
        }
    }

    /// Values of pyarrow, written by `tests/data/files/generate.py`.
    #[test]
    fn parquet_has_the_values_of_pyarrow() {
        let expected: Json = from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap();
        for (name, rows) in expected.as_object().unwrap() {
            let found: Vec<(Place, Json)> = parquet::open(File::open(fixture(name)).unwrap())
                .unwrap()
                .map(|record| {
                    let record = record.unwrap();
                    let Value::Fields(fields, bytes) = record.value else {
                        panic!("{name}: {:?}", record.value)
                    };
                    assert!(bytes > 0);
                    (record.place, fields.into())
                })
                .collect();
            assert_eq!(found.len(), rows.as_array().unwrap().len());
            for (at, ((place, row), expected)) in found.iter().zip(rows.as_array().unwrap()).enumerate() {
                let group = if name == "chats.parquet" { 3 } else { 2 };
                assert_eq!(*place, Place { unit: "row", number: at as u64 + 1, group: Some(at / group + 1) });
                for (column, value) in expected.as_object().unwrap() {
                    assert_eq!(row[column], *value, "{name}, row {at}, {column}");
                }
            }
        }
        assert_eq!(texts(&fixture("brotli.parquet")).unwrap(), ["row 0", "row 1", "row 2", "row 3", "row 4"]);
    }

    #[test]
    fn parquet_that_cannot_be_read_is_named() {
        let folder = Folder::new();
        let chats = read_as(&fixture("chats.parquet"), BadLines::Refuse, 1).0;
        refused(chats, &["chats.parquet, row 1 (row group 1): "]);
        let bytes = fs::read(fixture("none.parquet")).unwrap();
        for end in [5, bytes.len() / 2, bytes.len() - 1] {
            refused(folder.texts("a.parquet", &bytes[..end]), &["a.parquet", "truncated"]);
        }
        // A row that is not valid UTF-8 or has a mark.
        let at = memchr::memmem::find(&bytes, b"row 1").unwrap();
        for (text, words) in
            [(&b"\xff\xfe"[..], "row 2 (row group 1)"), (b"\xef\xb7\x93", "row 2 (row group 1)")]
        {
            let mut bytes = bytes.clone();
            bytes[at..at + text.len()].copy_from_slice(text);
            refused(folder.texts("a.parquet", bytes), &["a.parquet, row ", words]);
        }
    }

    /// 2,000 rows of 1 MiB in 299 bytes.
    #[test]
    fn parquet_that_expands_without_bound_is_refused() {
        let read = read_as(&fixture("expanding.parquet"), BadLines::Refuse, 1).0;
        refused(read, &["expanding.parquet", "row ", "it expands to more than 200 times its size"]);
    }

    #[test]
    fn damaged_parquet_is_an_error_or_other_rows() {
        let folder = Folder::new();
        for name in ["none.parquet", "values.parquet"] {
            let bytes = fs::read(fixture(name)).unwrap();
            for at in (0..bytes.len()).step_by(if name == "none.parquet" { 4 } else { 101 }) {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x81;
                if let Err(error) = read_as(&folder.put("a.parquet", bytes), BadLines::Refuse, 1).0 {
                    assert!(error.message().contains("a.parquet"), "byte {at}: {error}");
                }
            }
        }
    }

    #[test]
    fn tables_of_text_have_a_header() {
        let folder = Folder::new();
        for (name, text, expected) in [
            ("a.csv", "text\na\n\"b, \"\"c\"\"\nd\"\n", &["a", "b, \"c\"\nd"][..]),
            ("a.csv", "prompt,completion\r\na,b\r\n\"x;y\",z\r\n", &["ab", "x;yz"]),
            ("a.CSV", "prompt;completion;\na;b,c;\n", &["ab,c"]),
            ("a.tsv", "prompt\tcompletion\na\tb, c\n", &["ab, c"]),
            ("a.tsv", "text\nhello, world\n", &["hello, world"]),
            ("a.tsv", "\"text\"\n\"a\tb\"\n", &["a\tb"]),
            ("a.csv", "sep=;\r\nprompt;completion\r\na;b,c\r\n", &["ab,c"]),
            ("a.csv", "\"a;b;c\",text\n1,d\n", &["d"]),
            ("a.csv", "prompt|completion\na|b, c\n", &["ab, c"]),
            ("a.csv", " prompt , completion\na,b\n", &["ab"]),
            ("a.csv", "text\ra\rb", &["a", "b"]),
            ("a.csv", "text,system\na,\n", &["a"]),
            ("a.csv", "\u{feff}text\na\n\"b \"\"c\"\"\"", &["a", "b \"c\""]),
            ("a.csv", "text\n5\" disk\n\"a\nb\"", &["5\" disk", "a\nb"]),
            ("a.csv", "", &[]),
        ] {
            let (found, _) = read_as(&folder.put(name, text), BadLines::Refuse, 1);
            assert_eq!(found.unwrap(), expected, "{text:?}");
        }
        for (text, words) in [
            ("text\nab\0\n", &["a.csv, line 2: `text` has a zero byte"][..]),
            ("prompt,completion\na,b\nc\n", &["a.csv, line 3: 1 cell, but the header has 2 columns"]),
            ("a, a\n1,2\n", &["a.csv: two columns", "`a`"]),
            ("prompt;answer\na;b\n", &["a.csv, line 2", "`answer`"]),
        ] {
            refused(folder.texts("a.csv", text), words);
        }
        refused(folder.texts("a.csv", b"text\ncaf\xe9\n"), &["line 2: `text`", "not UTF-8"]);
        for text in ["\"b\nc\n", "\"b", "\"b\"\"", "\"\"\"", "\"b\nc\"\"\n"] {
            let text = format!("text,system\na,\nx,{text}");
            refused(
                folder.texts("a.csv", &*text),
                &["a.csv, line 3: a quote opens a cell", "copy the file again"],
            );
            refused(folder.texts("a.csv", &*text.replace("x,", "")), &["line 3: a quote opens a cell"]);
        }
        refused(folder.texts("a.csv", "\"text\na\n"), &["a.csv: the header: a quote opens a cell"]);
        refused(folder.texts("a.csv", "text\na\n\u{fdd3}\n"), &["line 3: `text`", "U+FDD3"]);
        // The index of a data frame, as pandas writes it.
        let path = folder.put("a.csv", ",txt\n0,a\n");
        refused(texts(&path), &["line 2", "`Unnamed: 0`, `txt`"]);
    }
}
