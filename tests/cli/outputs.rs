//! Files that the command writes: replaced completely, never through a planted link, and by several
//! processes at once.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Ran, horizon_in, names, short, write_text};

const EXPORT: [&str; 4] = ["config.json", "generation_config.json", "horizon.json", "model.safetensors"];
/// The beginning of a trace.
const TRACE: &str = "[\n{\"name\":\"process_name\",";
const PLAN: [&str; 6] = ["plan", "--model", "tiny", "--seq-len", "64", "--trace"];

#[test]
fn outputs_replace_files_and_keep_their_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_text(&at("text.txt"));
    let trace = [&PLAN[..], &["trace.json"]].concat();
    let logged = short(&["--data", "text.txt", "--steps", "2", "--log", "log.jsonl", "--out", "model"]);
    horizon_in(dir.path(), &logged).well();
    for (out, content, arguments) in [
        ("trace.json", TRACE, &trace[..]),
        ("drawn.svg", "the old drawing", &["plot", "log.jsonl", "--out", "drawn.svg"]),
        (
            "tokens.bin",
            "HZTOKENS",
            &["tokenize", "--model", "model", "--data", "text.txt", "--out", "tokens.bin"],
        ),
        ("man/horizon.1", ".TH horizon 1", &["man", "--out", "man"]),
    ] {
        fs::create_dir_all(at(out).parent().unwrap()).unwrap();
        fs::write(at(out), content).unwrap();
        fs::set_permissions(at(out), Permissions::from_mode(0o600)).unwrap();
        let mut old = File::open(at(out)).unwrap();
        horizon_in(dir.path(), arguments).well();
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!(text, content, "{out} was truncated in place");
        assert!(fs::metadata(at(out)).unwrap().len() > 100, "{out}");
        assert_eq!(fs::metadata(at(out)).unwrap().permissions().mode() & 0o777, 0o600, "{out}");
    }
    assert!(names(dir.path()).iter().chain(&names(&at("man"))).all(|name| !name.starts_with('.')));
}

#[test]
fn outputs_go_through_links_of_the_user_alone_and_into_open_streams() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("victim"), "mine").unwrap();
    fs::create_dir(at("man")).unwrap();
    symlink("../victim", at("man/horizon.1")).unwrap();
    horizon_in(dir.path(), &["man", "--out", "man"]).well();
    assert!(!at("man/horizon.1").is_symlink() && fs::read(at("victim")).unwrap() == b"mine");
    fs::write(at("victim"), TRACE).unwrap();
    symlink("victim", at("trace.json")).unwrap();
    let plan = |out: &str| horizon_in(dir.path(), &[&PLAN[..], &[out]].concat());
    plan("trace.json").well();
    assert!(at("trace.json").is_symlink() && fs::metadata(at("victim")).unwrap().len() > 100);
    assert!(plan("/dev/stdout").well().out.contains("\"process_name\""));
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    plan("pipe").badly(1, &["cannot write pipe: it is a device, a pipe or a socket"]);
}

#[test]
fn a_folder_of_checkpoints_may_be_a_link_and_its_files_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_text(&at("text.txt"));
    for (folder, link) in [("one", ".lock"), ("two", "latest"), ("three", ".step-00000009.partial-1")] {
        fs::create_dir(at(folder)).unwrap();
        fs::create_dir_all(at("home")).unwrap();
        fs::write(at("home/thesis"), "years of work").unwrap();
        symlink(if folder == "three" { "../home" } else { "../home/thesis" }, at(folder).join(link)).unwrap();
        symlink(folder, at("run")).unwrap();
        let run = ["--data", "text.txt", "--steps", "1", "--checkpoint-dir", "run"];
        let ran = horizon_in(dir.path(), &short(&run));
        if folder == "one" {
            ran.badly(1, &["run/.lock is not a regular file; remove it"]);
        } else {
            ran.well();
            assert!(at("run").is_symlink());
            assert_eq!(names(&at(folder)), [".lock", "latest", "step-00000001"]);
            assert!(!at(folder).join("latest").is_symlink());
        }
        assert_eq!(fs::read(at("home/thesis")).unwrap(), b"years of work");
        fs::remove_file(at("run")).unwrap();
    }
}

#[test]
fn an_export_replaces_the_folder_behind_a_link_and_sweeps_what_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_text(&at("text.txt"));
    let export = |out| horizon_in(dir.path(), &short(&["--data", "text.txt", "--steps", "1", "--out", out]));
    export("out").well();
    symlink("out", at("link")).unwrap();
    fs::set_permissions(at("out"), Permissions::from_mode(0o700)).unwrap();
    for left in [".out.partial-7", ".out.partial-7-0123456789abcdef", ".out.replaced-7-0123456789abcdef"] {
        fs::create_dir(at(left)).unwrap();
        fs::copy(at("out/horizon.json"), at(left).join("horizon.json")).unwrap();
    }
    export("link/").well();
    assert_eq!(names(dir.path()), ["link", "out", "text.txt"]);
    assert_eq!(fs::metadata(at("out")).unwrap().permissions().mode() & 0o777, 0o700);
    export("out/x").well();
    export("link").badly(1, &["contains x, which is not from an export"]);
}

/// Starts the command as process 1 of a container of its own, which shares the folder; `None`, with
/// the reason printed, where there are no containers.
fn contained(here: &Path, arguments: &[&str]) -> Option<Child> {
    let unshare = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--pid", "--fork", "--mount-proc"]).args(command);
        unshare.current_dir(here).stdout(Stdio::piped()).stderr(Stdio::piped());
        unshare
    };
    let tried = unshare(&["true"]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        println!("skipped: no process namespaces here ({tried:?})");
        return None;
    }
    Some(unshare(&[&[env!("CARGO_BIN_EXE_horizon")], arguments].concat()).spawn().unwrap())
}

#[test]
fn containers_with_equal_process_ids_share_folders() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let ran = |child: Child| Ran::from(child.wait_with_output().unwrap());
    let export = short(&["--data", "text.txt", "--steps", "1", "--out", "out"]);
    let children: Option<Vec<_>> = (0..3).map(|_| contained(dir.path(), &export)).collect();
    let Some(children) = children else { return };
    children.into_iter().for_each(|child| drop(ran(child).well()));
    assert_eq!(names(dir.path()), ["out", "text.txt"]);
    assert_eq!(names(&dir.path().join("out")), EXPORT);

    let saved = short(&["--data", "text.txt", "--steps", "1", "--checkpoint-dir", "run"]);
    ran(contained(dir.path(), &saved).unwrap()).well();
    for locked in ["run", "run/.lock"] {
        let lock = File::open(dir.path().join(locked)).unwrap();
        lock.lock().unwrap();
        ran(contained(dir.path(), &saved).unwrap()).badly(1, &["another run writes its checkpoints to"]);
    }
}
