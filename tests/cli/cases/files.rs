//! Files and folders by what is inside.

use super::models::utf16;
use super::{Case, assert_all, done, here, hi_yo, refused};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(here().join("data").join(name)).unwrap()
}

/// A file's name, its bytes, and its documents in `expected.json`.
type File<'a> = (&'a str, &'a str, Vec<u8>, &'a [&'a str]);

fn check(files: &[File]) {
    assert_all(files.iter().map(|(name, file, bytes, documents)| {
        let case = Case::new();
        case.write(file, bytes);
        (*name, case.has(file, documents))
    }));
}

#[test]
fn rows_are_rows_under_every_name() {
    let two = hi_yo().repeat(2);
    let pretty = |text: &str| {
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(text).unwrap()).unwrap()
    };
    let list = format!("[{}]", hi_yo().trim().to_owned() + "," + hi_yo().trim());
    let twice: &[&str] = &["hi yo", "hi yo"];
    check(&[
        ("d_ndjson", "data.ndjson", two.clone().into(), twice),
        ("d_upper_ext", "DATA.JSONL", two.clone().into(), twice),
        ("ndjson in capitals", "DATA.NDJSON", two.clone().into(), twice),
        ("saved by an editor", "data.jsonl.txt", two.clone().into(), twice),
        ("d_cr_only", "data.jsonl", two.replace('\n', "\r").into(), twice),
        ("CR LF", "data.jsonl", two.replace('\n', "\r\n").into(), twice),
        ("a byte order mark", "data.jsonl", format!("\u{feff}{two}").into(), twice),
        ("d_pretty_object", "data.json", pretty(&hi_yo()).into(), &["hi yo"]),
        ("a list", "data.json", list.clone().into(), twice),
        ("a list on many lines", "data.json", pretty(&list).into(), twice),
        ("JSON lines named .json", "data.json", two.into(), twice),
        ("gzip", "rows.jsonl.gz", fixture("rows.jsonl.gz"), twice),
        ("Zstandard", "rows.jsonl.zst", fixture("rows.jsonl.zst"), twice),
        ("Parquet", "rows.parquet", fixture("rows.parquet"), twice),
        ("csv", "rows.csv", "prompt,completion\n\"Q: 1+1?\n\",2\n".into(), &["pair"]),
        (
            "csv of Excel",
            "rows.csv",
            "\u{feff}prompt,completion\r\n\"a, \"\"b\"\"\nand c:\",\" d\"\r\n".into(),
            &["pair with a comma"],
        ),
        ("csv with a text", "rows.csv", "id,text\n7,\"hello world\nline two\n\"\n".into(), &["text"]),
        ("tsv", "ROWS.TSV", "completion\tprompt\n2\t\"Q: 1+1?\n\"\n".into(), &["pair"]),
    ]);
}

#[test]
fn text_is_text_without_marks() {
    check(&[
        ("d_bom_txt", "a.txt", "\u{feff}hello world\nline two\n".into(), &["text"]),
        ("text", "a.md", "hello world\nline two\n".into(), &["text"]),
        ("CR only", "a.txt", "hello world\rline two\r".into(), &["text with CR"]),
    ]);
    let case = Case::new();
    case.write("ds/a.txt", "\u{feff}hello world\nline two\n");
    case.write("ds/b/c.txt", "\u{feff}hello world\nline two\n");
    assert_all([("a mark in every file", case.has("ds", &["text", "text"]))]);
}

#[test]
fn folders_are_read_by_their_shards() {
    let lines = Case::new();
    lines.write("ds/train-00000.jsonl", hi_yo().repeat(2));
    lines.write("ds/train-00001.jsonl", hi_yo());
    lines.write("ds/README.md", "# A data set\n");
    lines.write("ds/.gitattributes", "*.jsonl filter=lfs\n");
    let parquet = Case::new();
    parquet.write("ds/README.md", "# A data set\n");
    for shard in 0..2 {
        parquet.write(&format!("ds/data/train-0000{shard}-of-00002.parquet"), fixture("rows.parquet"));
    }
    let several = Case::new();
    several.write("ds/a.jsonl.gz", fixture("rows.jsonl.gz"));
    several.write("ds/b.NDJSON", hi_yo());
    assert_all([
        ("d_folder_jsonl", lines.has("ds", &["hi yo"; 3])),
        ("shards of Parquet", parquet.has("ds", &["hi yo"; 4])),
        ("shards of several kinds", several.has("ds", &["hi yo"; 3])),
    ]);
}

#[test]
fn files_of_other_formats_are_refused_by_name() {
    let zip = b"PK\x03\x04\x14\0\0\0\0\0".to_vec();
    let tar = [&b"a.jsonl"[..], &[0; 250], b"ustar\x0000", &[0; 247]].concat();
    let rows = hi_yo();
    let files: [(&str, &str, Vec<u8>, &[&str]); 11] = [
        ("k_xz_zip", "a.jsonl.xz", b"\xfd7zXZ\0\0\x04".to_vec(), &["xz"]),
        ("xz inside", "a.jsonl", b"\xfd7zXZ\0\0\x04".to_vec(), &["xz"]),
        ("zip inside", "a.jsonl", zip.clone(), &["zip"]),
        ("Excel", "a.xlsx", zip, &["Excel", "csv"]),
        ("Arrow", "a.data", b"ARROW1\0\0\xff\xff\xff\xff".to_vec(), &["Arrow"]),
        ("tar inside", "a.jsonl", tar, &["tar"]),
        (
            "k_xz_zip, csv without a field to train on",
            "a.tsv",
            b"a\tb\n1\t2\n".to_vec(),
            &["a.tsv", "`a`", "`b`"],
        ),
        ("d_utf16", "data.jsonl", utf16(&rows, u16::to_le_bytes), &["UTF-16"]),
        ("UTF-16, big endian", "data.jsonl", utf16(&rows, u16::to_be_bytes), &["UTF-16"]),
        ("text in UTF-16", "a.txt", utf16("hello world\n", u16::to_le_bytes), &["UTF-16"]),
        ("gzip that is cut", "a.jsonl.gz", fixture("rows.jsonl.gz")[..40].to_vec(), &["a.jsonl.gz"]),
    ];
    assert_all(files.map(|(name, file, bytes, words)| {
        let case = Case::new();
        case.write(file, bytes);
        (name, refused(&case.tokenize(file), words))
    }));
}

#[test]
fn a_run_without_a_valid_line_says_that_all_are_skipped() {
    let case = Case::new();
    case.write("a.jsonl", "x\ny\n");
    let commands = ["train --model model --steps 1 --threads 1", "tokenize --model model --out out.bin"];
    assert_all(commands.map(|command| {
        let ran = case.run(&format!("{command} --data a.jsonl --skip-bad-lines"));
        ("d_skip_all_bad", refused(&ran, &["2 ", "line", "skip"]))
    }));
}

#[test]
fn bare_tokens_under_the_name_bin_are_read_or_explained() {
    let case = Case::new();
    case.write("train.bin", (0..200u16).flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    let ran = case
        .run("train --model model --data train.bin --seq-len 32 --steps 1 --micro-batch 1 --threads 1 -q");
    let outcome = done(&ran).or_else(|_| refused(&ran, &["train.bin", ".u16"]));
    assert_all([("k_nanogpt_bin", outcome)]);
}
