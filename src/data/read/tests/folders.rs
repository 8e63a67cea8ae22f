//! Folders: what is rows, what is text, and what is not read.

use std::os::unix::fs::symlink;

use super::*;

fn read(folder: &Folder) -> (Result<Vec<String>>, Warnings) {
    read_as(folder.0.path(), BadLines::Refuse, 1)
}

fn folder(files: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    files.iter().for_each(|(name, text)| drop(folder.put(name, text)));
    folder
}

/// Kinds of warnings with their counts.
fn counts(warnings: &Warnings) -> Vec<(Warning, u64)> {
    warnings.iter().map(|(warning, count, _)| (warning.clone(), count)).collect()
}

#[test]
fn a_folder_is_its_text_files_by_path() {
    let folder = Folder::new();
    for (name, bytes) in [
        ("b.txt", &b"bee"[..]),
        ("a/z.rs", b"zed"),
        ("README.md", b"read"),
        ("package.json", b"{\"name\": \"p\"}"),
        ("table.csv", b"a,b"),
        (".git/config", b"hidden"),
        (".secret", b"hidden"),
        ("target/debug/out.txt", b"built"),
        ("a/target", b"a file may be called so"),
    ] {
        folder.put(name, bytes);
    }
    let expected = ["read", "a file may be called so", "zed", "bee", "{\"name\": \"p\"}", "a,b"];
    assert_eq!(texts(folder.0.path()).unwrap(), expected);
    folder.put("a/empty.txt", "\u{feff}");
    folder.put("c.bin", b"sea\0");
    folder.put("d.png", b"\x89PNG\r\n\x1a\n");
    let (found, warnings) = read(&folder);
    assert_eq!(found.unwrap(), expected);
    let expected = [(Warning::UnreadFile, 1), (Warning::TokenFile, 1), (Warning::EmptyFile, 1)];
    assert_eq!(counts(&warnings), expected);
    assert!(warnings.to_string().contains("c.bin is a token file"), "{warnings}");
    let binary = Folder::new();
    binary.put("a.dat", b"a\0");
    refused(read(&binary).0, &["no text or rows", "a.dat is binary"]);
    refused(texts(Folder::new().0.path()), &["contains no files"]);
}

#[test]
fn a_folder_of_shards_is_their_rows() {
    let shards = folder(&[
        ("data/train-00001.jsonl", "{\"text\": \"b\"}"),
        ("data/train-00000.jsonl", "{\"text\": \"a\"}"),
        (".gitattributes", "*.jsonl"),
        ("README.md", "# Data"),
        ("LICENSE", "Apache"),
        ("notes.md", "text"),
        ("dataset_infos.json", "{}"),
        ("_SUCCESS", ""),
        ("desktop.ini", "[x]"),
    ]);
    assert_eq!(texts(shards.0.path()).unwrap(), ["a", "b"]);

    for (name, bytes) in [
        ("picture.png", &b"\x89PNG\r\n\x1a\n\0"[..]),
        ("logo.svg", b"<svg/>"),
        ("load.py", b"print()"),
        ("requirements.txt", b"datasets"),
        ("data/train-00000.jsonl~", b"{\"text\": \"a\"}"),
        ("data/train-00000.jsonl.bak", b"{\"text\": \"a\"}"),
        ("part", b"\0\x01"),
        ("tokens.bin", b"\0"),
        ("empty", b""),
        ("data/empty.jsonl", b""),
        ("latest.csv", b"text\nc\n"),
    ] {
        shards.put(name, bytes);
    }
    let (found, warnings) = read(&shards);
    assert_eq!(found.unwrap(), ["a", "b", "c"]);
    let expected = [(Warning::UnreadFile, 7), (Warning::TokenFile, 1), (Warning::EmptyFile, 2)];
    assert_eq!(counts(&warnings), expected);
    assert!(warnings.to_string().contains("jsonl.bak, a copy by its name"), "{warnings}");

    shards.put("a.txt", "text");
    refused(read(&shards).0, &["both rows", "empty.jsonl", "text", "a.txt"]);
}

/// Rows in files named as text are rows, and tables next to text are not text.
#[test]
fn rows_are_not_trained_on_as_text() {
    let row = "{\"text\": \"a\"}\n";
    for files in [
        &[("part-00000", row), ("part-00001", row), ("_SUCCESS", "")][..],
        &[("a.txt", row), ("b.jl", row)],
        &[("a.json", row), ("b.jsonl.1", row)],
        &[("a.csv", "text\na\n"), ("b.json", row), ("README.md", "# Data"), ("picture.svg", "<svg/>")],
    ] {
        let (found, _) = read(&folder(files));
        assert_eq!(found.unwrap(), ["a", "a"], "{files:?}");
    }
    for files in [
        &[("a.csv", "text\na\n"), ("b.txt", "text")][..],
        &[("a.json", row), ("b", "text")],
        &[("a.csv", "question,answer\n1,2\n"), ("b.txt", "text")],
        &[("a.csv", "text\na\n"), ("b.rs", "code")],
        &[("a.csv", "text\na\n"), ("b.py", "code")],
        &[("a", row), ("b.txt", "text")],
    ] {
        refused(read(&folder(files)).0, &["both rows", files[0].0, "text", files[1].0]);
    }
    let code = folder(&[("a.json", "{\"data\": [1]}"), ("b.py", "code"), ("c.json", "[{\"k\": 1}]")]);
    assert_eq!(texts(code.0.path()).unwrap(), ["{\"data\": [1]}", "code", "[{\"k\": 1}]"]);
}

#[test]
fn splits_are_trained_on_or_validated_on() {
    let splits = folder(&[
        ("train.jsonl", "{\"text\": \"a\"}"),
        ("data/test-00000.jsonl", "{\"text\": \"t\"}"),
        ("validation/0.json", "{\"text\": \"v\"}"),
    ]);
    for (validation, expected, warning) in
        [(false, &["a"][..], Warning::HeldOut), (true, &["t", "v"], Warning::OnlyHeldOut)]
    {
        let (mut found, mut warnings) = (Texts::default(), Warnings::default());
        let input = Input::find(splits.0.path(), validation, &mut warnings).unwrap();
        let reading = Reading { encoder: &Encoder::bytes(), bad_lines: BadLines::Refuse, threads: 1 };
        input.read(reading, &mut warnings, &mut found).unwrap();
        assert_eq!(found.0, expected);
        assert_eq!(counts(&warnings), [(warning, 2)]);
        assert!(warnings.to_string().contains("test-00000.jsonl"));
    }
    // A folder of one split is that split.
    for name in ["test.jsonl", "a.jsonl"] {
        assert_eq!(texts(folder(&[(name, ROWS)]).0.path()).unwrap(), ["a", "b"]);
    }
}

/// The Hub's cache has links to files only.
#[test]
fn links_to_files_are_followed_and_nothing_else() {
    let blobs = folder(&[("1", "{\"text\": \"a\"}"), ("more/b.jsonl", ROWS)]);
    let snapshot = Folder::new();
    let at = |name: &str| snapshot.0.path().join(name);
    fs::create_dir(at("data")).unwrap();
    symlink(blobs.0.path().join("1"), at("data/train.jsonl")).unwrap();
    assert_eq!(texts(snapshot.0.path()).unwrap(), ["a"]);
    symlink(blobs.0.path(), at("folder")).unwrap();
    symlink(snapshot.0.path(), at("loop")).unwrap();
    symlink("nothing", at("broken.jsonl")).unwrap();
    nix::unistd::mkfifo(&at("pipe.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (found, warnings) = read(&snapshot);
    assert_eq!(found.unwrap(), ["a"]);
    assert_eq!(counts(&warnings), [(Warning::NotRegular, 4)]);
}
