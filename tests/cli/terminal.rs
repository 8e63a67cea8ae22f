//! Terminals that go away, and signals.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use horizon::checkpoint::open;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use support::folder::states;

use super::{Ran, names, send, short, with_signals, write_text};

/// Longer than signals count as one request.
const SAME_REQUEST: Duration = Duration::from_millis(1100);

/// A folder with text to train on.
fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    dir
}

/// Arguments of a run that prints its steps and saves into `run`.
fn loud(steps: &str) -> Vec<&str> {
    let all = short(&["--data", "text.txt", "--warmup", "0", "--checkpoint-dir", "run", "--steps", steps]);
    all.into_iter().filter(|&argument| argument != "--quiet").collect()
}

/// Runs the command in a shell that evaluates `before`.
fn in_shell(folder: &Path, before: &str, arguments: &[&str]) -> Command {
    let mut command = with_signals();
    command
        .args(["sh", "-c", &format!("{before} exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_horizon")])
        .args(arguments)
        .current_dir(folder);
    command
}

#[test]
fn a_run_outlives_its_standard_error() {
    let whole = furnished();
    let ran: Ran = in_shell(whole.path(), "", &loud("6")).output().unwrap().into();
    assert!(ran.well().err.contains("wrote a checkpoint"));
    let want = states(&whole.path().join("run/step-00000006"));
    for way in ["closed", "full", "dead reader"] {
        let dir = furnished();
        let before = if way == "closed" { "exec 2>&-;" } else { "" };
        let mut command = in_shell(dir.path(), before, &loud("6"));
        match way {
            "full" => drop(command.stderr(File::options().write(true).open("/dev/full").unwrap())),
            _ => drop(command.stderr(Stdio::piped())),
        }
        let mut child = command.spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{way}");
        let step = dir.path().join("run/step-00000006");
        open(&step).unwrap().verify().unwrap();
        assert!(states(&step) == want, "{way}");
        for name in names(&step) {
            let bytes = fs::read(step.join(&name)).unwrap();
            assert!(!bytes.windows(7).any(|bytes| bytes == b"step 1/"), "{way}: a message is in {name}");
        }
    }
}

#[test]
fn a_closed_pipe_ends_a_listing_quietly_and_a_full_disk_is_an_error() {
    for arguments in [&["info"][..], &["man"], &["plan", "--model", "tiny", "--machine", "cpu"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_horizon"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran: Ran =
            Command::new(env!("CARGO_BIN_EXE_horizon")).args(arguments).stdout(full).output().unwrap().into();
        ran.badly(1, &["cannot write to standard output", "No space left"]);
    }
}

/// Starts a run and waits for its first line with `word`. Its later lines are not read.
fn started(mut command: Command, word: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    read_until(&mut err, word);
    (child, err)
}

fn read_until(err: &mut impl BufRead, word: &str) {
    let found = err.lines().map(|line| line.unwrap()).any(|line| line.contains(word));
    assert!(found, "no {word:?} on standard error");
}

#[test]
fn a_signal_ends_a_run_after_its_step_with_a_checkpoint() {
    for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let dir = furnished();
        let (mut child, mut err) = started(in_shell(dir.path(), "", &loud("1000000")), "step 1/");
        // Twice, as `timeout` does.
        send(&child, signal);
        send(&child, signal);
        read_until(&mut err, "to continue: horizon train --resume");
        drop(err);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        open(&dir.path().join("run")).unwrap().verify().unwrap();
    }
}

#[test]
fn a_later_signal_of_any_kind_ends_at_once() {
    let dir = furnished();
    // A step so long that all signals come within it.
    let long = ["train", "--data", "text.txt", "--steps", "9", "--seq-len", "1024", "--micro-batch", "32"];
    let more = ["--checkpoint-dir", "run", "--out", "out", "--grad-accum", "64", "--threads", "1"];
    let (mut child, mut err) = started(in_shell(dir.path(), "", &[&long[..], &more].concat()), "9 steps of");
    std::thread::sleep(Duration::from_millis(500));
    send(&child, Signal::SIGHUP);
    send(&child, Signal::SIGINT);
    read_until(
        &mut err,
        "SIGHUP: stopping after this step, once the checkpoint and --out are written; send another",
    );
    std::thread::sleep(SAME_REQUEST);
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(names(dir.path()), ["run", "text.txt"]);
    assert_eq!(names(&dir.path().join("run")), [".lock"]);
}

#[test]
fn a_blocked_terminal_keeps_no_signal_from_its_effect() {
    let dir = furnished();
    let (mut child, err) = started(in_shell(dir.path(), "", &loud("1000000")), "step 1/");
    let pipe = format!("/proc/self/fd/{}", err.get_ref().as_raw_fd());
    let mut filling = File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(pipe).unwrap();
    while filling.write(&[b'\n'; 4096]).is_ok() {}
    while filling.write(b"\n").is_ok() {}
    send(&child, Signal::SIGTERM);
    let run = dir.path().join("run");
    wait_until("a checkpoint", || open(&run).is_ok());
    std::thread::sleep(SAME_REQUEST);
    send(&child, Signal::SIGTERM);
    wait_until("the end", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = (0..3000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_so()
    });
    assert!(waited, "no {what} within 30 s");
}

#[test]
fn the_command_to_continue_is_for_a_shell_and_has_no_control_characters() {
    let dir = furnished();
    let arguments =
        [&loud("1000000")[..], &["--checkpoint-dir", "it's $a\x1b[31mred\n`b`", "--out", "new out"]].concat();
    let (mut child, mut err) = started(in_shell(dir.path(), "", &arguments), "step 1/");
    send(&child, Signal::SIGINT);
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.contains("exported to ") && !rest.contains('\x1b'), "{rest}");
    assert!(
        rest.contains("SIGINT: stopping after this step") && rest.contains("press Ctrl-C again"),
        "{rest}"
    );
    let (_, folder) = rest.split_once("to continue: horizon train --resume ").unwrap();
    let info = format!("exec \"$0\" info {}", folder.lines().next().unwrap());
    let mut shell = Command::new("bash");
    let ran: Ran = shell
        .args(["-c", &info, env!("CARGO_BIN_EXE_horizon")])
        .current_dir(dir.path())
        .output()
        .unwrap()
        .into();
    assert!(ran.well().out.contains(r"it's $a\u{1b}[31mred"));
}

#[test]
fn a_sample_that_cannot_be_printed_does_not_fail_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let run = ["train", "--steps", "1", "--seq-len", "32", "--micro-batch", "1", "--checkpoint-dir", "run"];
    let ran: Ran = in_shell(dir.path(), "", &run).stdout(full()).output().unwrap().into();
    assert!(ran.well().err.contains("warning: no sample: cannot write to standard output"));
    assert!(open(&dir.path().join("run")).is_ok());
    for help in ["--help", "-h"] {
        let ran: Ran = in_shell(dir.path(), "", &["train", help]).stdout(full()).output().unwrap().into();
        ran.badly(1, &["cannot write to standard output", "No space left"]);
    }
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let dir = furnished();
    let ignores = in_shell(dir.path(), "trap '' HUP INT;", &loud("40"));
    let (mut child, mut err) = started(ignores, "step 1/");
    for _ in 0..3 {
        send(&child, Signal::SIGHUP);
        send(&child, Signal::SIGINT);
    }
    read_until(&mut err, "step 40: wrote a checkpoint");
    drop(err);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_before_the_first_step_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text.txt"), "a long text, which is read for a while\n".repeat(1 << 20))
        .unwrap();
    let mut child = in_shell(dir.path(), "", &loud("9")).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    send(&child, Signal::SIGTERM);
    let status = child.wait().unwrap();
    // Before the command listens, the signal has its default action.
    assert!(status.code() == Some(143) || status.signal() == Some(15), "{status}");
    assert!(open(&dir.path().join("run")).is_err());
}

#[test]
fn tokenize_removes_its_partial_file_when_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rows.jsonl"), "{\"text\": \"a row of many\"}\n".repeat(1 << 20)).unwrap();
    let arguments = ["tokenize", "--model", "tiny", "--data", "rows.jsonl", "--out", "rows.bin"];
    let mut child = in_shell(dir.path(), "", &arguments).stderr(Stdio::null()).spawn().unwrap();
    while names(dir.path()).len() < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(names(dir.path()), ["rows.jsonl"]);
}
