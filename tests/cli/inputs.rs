//! Files in place of which something else lies: each is refused with its name, and nothing waits for
//! a writer or fills the memory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Ran, horizon_in, short, write_text};

/// A kind of odd file, how to make it, and the words that its error has.
type Odd = (&'static str, fn(&Path), &'static str);

const ODD: [Odd; 7] = [
    ("pipe", |path| mkfifo(path, Mode::S_IRWXU).unwrap(), "it is a named pipe"),
    ("socket", |path| drop(UnixListener::bind(path).unwrap()), "it is a socket"),
    ("folder", |path| fs::create_dir(path).unwrap(), "it is a folder"),
    ("device", |path| symlink("/dev/zero", path).unwrap(), "it is a device"),
    ("dangling", |path| symlink("nowhere", path).unwrap(), "it is a link to nowhere, which does not exist"),
    ("loop", |path| symlink(path, path).unwrap(), "it is a link that leads back to itself"),
    ("unreadable", unreadable, "Permission denied"),
];

fn unreadable(path: &Path) {
    fs::write(path, "{}").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
}

/// Replaces a path by each odd file and runs the command. Root may read a file without permissions.
fn each_odd(path: &Path, run: impl Fn() -> Ran) {
    let _ = fs::remove_file(path);
    for (kind, make, words) in ODD {
        make(path);
        if kind == "unreadable" && fs::read(path).is_ok() {
            println!("skipped: an unreadable {}, since root reads it", path.display());
            fs::remove_file(path).unwrap();
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let ran = run();
        // A folder of data is data.
        let of_data = kind == "folder" && ran.err.contains("contains no files to read");
        ran.badly(1, &[name, if of_data { "no files" } else { words }]);
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    }
}

/// A folder with a text, and a model with a tokenizer that has been trained for a step.
fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let checkpoint = ["--data", "text.txt", "--steps", "1", "--out", "model", "--checkpoint-dir", "run"];
    horizon_in(dir.path(), &short(&checkpoint)).well();
    dir
}

const TRAIN: [&str; 6] = ["--model", "model", "--data", "text.txt", "--steps", "1"];

#[test]
fn files_of_a_model_folder() {
    let dir = furnished();
    let here = dir.path();
    let at = |name: &str| here.join("model").join(name);
    let train = || horizon_in(here, &short(&TRAIN));
    for name in ["tokenizer.json", "chat_template.jinja", "generation_config.json", "merges.txt"] {
        each_odd(&at(name), train);
        symlink("/etc/passwd", at(name)).unwrap();
        train().badly(1, &[name, "is a link to /etc/passwd, outside of its folder"]);
        fs::remove_file(at(name)).unwrap();
    }
    for (name, of_passwd, of_empty) in [
        ("config.json", "not a JSON object", "not a JSON object"),
        ("model.safetensors", "not a complete safetensors file", "(0 bytes)"),
        ("model.safetensors.index.json", "not an index", "not an index"),
    ] {
        if name.ends_with("index.json") {
            fs::rename(at("model.safetensors"), here.join("weights")).unwrap();
        }
        let content = fs::read(at(name)).ok();
        let _ = fs::remove_file(at(name));
        each_odd(&at(name), train);
        symlink("/etc/passwd", at(name)).unwrap();
        train().badly(1, &[name, of_passwd]);
        fs::remove_file(at(name)).unwrap();
        fs::write(at(name), "").unwrap();
        train().badly(1, &[name, of_empty]);
        fs::write(at(name), content.unwrap_or_default()).unwrap();
    }
}

/// Links as the Hugging Face cache has them, between models, and of a whole folder.
#[test]
fn links_to_files_of_a_model_are_followed() {
    let dir = furnished();
    let here = dir.path();
    let snapshot = here.join("cache/models--a--b/snapshots/0f1e");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(here.join("cache/models--a--b/blobs")).unwrap();
    fs::write(here.join("model/merges.txt"), "#version: 0.2\n").unwrap();
    for name in ["config.json", "model.safetensors", "merges.txt"] {
        let blob = format!("blob-of-{}", name.len());
        fs::copy(here.join("model").join(name), here.join("cache/models--a--b/blobs").join(&blob)).unwrap();
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    symlink(&snapshot, here.join("link")).unwrap();
    fs::create_dir(here.join("other")).unwrap();
    for name in ["config.json", "model.safetensors", "merges.txt"] {
        symlink(here.join("link").join(name), here.join("other").join(name)).unwrap_or_default();
    }
    fs::remove_file(here.join("other/merges.txt")).unwrap();
    symlink("../model/merges.txt", here.join("other/merges.txt")).unwrap();
    for model in [snapshot.to_str().unwrap(), "link", "other"] {
        let train = ["--model", model, "--data", "text.txt", "--steps", "1", "--out", "out"];
        horizon_in(here, &short(&train)).well();
        let copied = here.join("out/merges.txt");
        assert_eq!(fs::read(&copied).unwrap(), b"#version: 0.2\n", "{model}");
        assert!(fs::symlink_metadata(&copied).unwrap().is_file());
    }
}

#[test]
fn files_that_options_name() {
    let dir = furnished();
    let here = dir.path();
    for name in ["odd.txt", "odd.jsonl", "odd.csv", "odd.parquet", "odd.bin", "odd.u16"] {
        each_odd(&here.join(name), || horizon_in(here, &short(&["--data", name])));
    }
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    fs::write(here.join("chat.jsonl"), chat).unwrap();
    for arguments in [
        &["sample", "--model", "model", "--prompt-file", "odd.jsonl"][..],
        &["plan", "--model", "tiny", "--machine", "odd.jsonl"],
        &["train", "--data", "chat.jsonl", "--chat-template", "odd.jsonl"],
        &["plot", "odd.jsonl", "--out", "odd.svg"],
    ] {
        each_odd(&here.join("odd.jsonl"), || horizon_in(here, arguments));
    }
}

#[test]
fn files_of_a_checkpoint() {
    let dir = furnished();
    let here = dir.path();
    for name in ["latest", "step-00000001/manifest.json", "step-00000001/unit-00001.state"] {
        let path = here.join("run").join(name);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let is_state = name != "latest";
        for (_, make, words) in ODD.into_iter().filter(|(kind, ..)| *kind != "unreadable") {
            make(&path);
            let is_link = fs::symlink_metadata(&path).unwrap().is_symlink();
            let words = if is_link && is_state { "it is a link, not a regular file" } else { words };
            let file = path.file_name().unwrap().to_str().unwrap();
            horizon_in(here, &["train", "--resume", "run", "--steps", "2"]).badly(1, &[file, words]);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
        fs::write(&path, content).unwrap();
    }
}

/// Anything but a file in a folder of data is a warning.
#[test]
fn odd_files_in_a_folder_of_data() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    write_text(&data.join("text.txt"));
    for (kind, make, _) in ODD.into_iter().filter(|(kind, ..)| !matches!(*kind, "folder" | "unreadable")) {
        make(&data.join(format!("{kind}.txt")));
    }
    let ran = horizon_in(dir.path(), &short(&["--data", "data", "--steps", "1"])).well();
    assert!(ran.err.contains("5 ") && ran.err.contains("dangling.txt"), "{}", ran.err);
}
