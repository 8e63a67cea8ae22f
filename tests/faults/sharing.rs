//! Several processes on one folder, also in containers in which their ids are equal.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use horizon::Status;
use horizon::checkpoint::Checkpoints;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::inject::{self, Action, Fault};
use crate::invariants::{clean, complete, files, steps};
use crate::work::{PATIENCE, Ran, TRAIN, horizon, run, start, wait, workplace};

/// A container: the process is the first of its own, with the id 1.
const CONTAINER: [&str; 5] = ["--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// The command in a container.
fn contained(folder: &Path, words: &str) -> Command {
    let inner = horizon(folder, words);
    let mut command = Command::new("unshare");
    command.args(CONTAINER).arg(inner.get_program()).args(inner.get_args()).current_dir(folder);
    command
}

fn has_containers() -> bool {
    let tried = Command::new("unshare").args(CONTAINER).arg("true").output();
    let has = tried.is_ok_and(|output| output.status.success());
    if !has {
        println!("skipped: no containers here");
    }
    has
}

/// A run that ends only when it is stopped.
struct Endless(Option<Child>);

impl Endless {
    /// Starts the run and waits for its first checkpoint.
    fn start(folder: &Path, more: &str) -> Endless {
        let run = format!("{TRAIN} --steps 1000000 --checkpoint-dir ckpts --checkpoint-every 5 {more}");
        let endless = Endless(Some(start(horizon(folder, &run))));
        let begun = Instant::now();
        while !folder.join("ckpts/latest").exists() {
            assert!(begun.elapsed() < PATIENCE, "the run did not start");
            thread::sleep(Duration::from_millis(1));
        }
        endless
    }

    fn stop(mut self) -> Ran {
        let child = self.0.take().expect("it runs until here");
        // The child has not been waited for, so its id is still its own.
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        wait(child)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // After a failed test.
        if let Some(child) = &mut self.0 {
            child.kill().and_then(|()| child.wait()).unwrap();
        }
    }
}

#[test]
fn one_run_at_a_time_writes_to_a_folder_of_checkpoints() {
    let dir = workplace();
    let folder = dir.path();
    let endless = Endless::start(folder, "");
    let fresh = format!("{TRAIN} --steps 2 --checkpoint-dir ckpts");
    let mut commands = vec![horizon(folder, &fresh), horizon(folder, "train --quiet --resume ckpts")];
    if has_containers() {
        commands.push(contained(folder, &fresh));
    }
    for command in commands {
        run(command).failed(&["another run writes", "ckpts"]);
    }
    let stopped = endless.stop();
    assert_eq!((stopped.code(), &stopped.err[..]), (Some(143), ""), "the others have not disturbed it");
    complete(folder).unwrap();
    clean(folder).unwrap();
}

#[test]
fn an_interrupted_call_for_the_lock_is_repeated() {
    let dir = workplace();
    let endless = Endless::start(dir.path(), "");
    let mut second = horizon(dir.path(), "train --quiet --resume ckpts");
    let fault = Fault { action: Action::Fail(Errno::EINTR), calls: "lock", at: 1, lasts: false };
    inject::load(&mut second, dir.path(), Some(fault), Path::new("/dev/null"));
    run(second).failed(&["another run writes", "ckpts"]);
    assert_eq!(endless.stop().code(), Some(143));
}

#[test]
fn a_checkpoint_can_be_checked_while_later_ones_are_written() {
    let dir = workplace();
    let endless = Endless::start(dir.path(), "");
    for _ in 0..5 {
        let step = steps(dir.path()).pop().unwrap();
        run(horizon(dir.path(), &format!("info ckpts/{step} --check"))).succeeded();
        run(horizon(dir.path(), "info ckpts --check")).succeeded();
    }
    assert_eq!(endless.stop().code(), Some(143));
}

#[test]
fn an_export_never_replaces_a_file_that_appears_at_its_path() {
    let dir = workplace();
    let folder = dir.path();
    let endless = Endless::start(folder, "--keep 2 --out hf.bin");
    run(horizon(folder, "tokenize --quiet --model base --data rows.jsonl --out hf.bin")).succeeded();
    endless.stop().failed(&["hf.bin"]);
    assert!(fs::read(folder.join("hf.bin")).unwrap() == fs::read(folder.join("tokens.bin")).unwrap());
    complete(folder).unwrap();
    clean(folder).unwrap();
    run(horizon(folder, &format!("{TRAIN} --steps 1 --out hf.bin"))).failed(&["hf.bin"]);
}

/// Starts two runs and two tokenizations at the same time, each pair with one output.
fn at_once(dir: &TempDir, command: fn(&Path, &str) -> Command) {
    let folder = dir.path();
    let exported = |name: &str| {
        let mut files = files(&folder.join(name));
        files.remove("horizon.json");
        files
    };
    let train = |seed: u64, out: &str| format!("{TRAIN} --seed {seed} --steps 3 --out {out}");
    let tokenize = "tokenize --quiet --threads 1 --model base --data rows.jsonl --out twice.bin";
    for seed in 1..3 {
        run(horizon(folder, &train(seed, &format!("alone-{seed}")))).succeeded();
    }
    assert!(exported("alone-1") != exported("alone-2"));
    for _ in 0..5 {
        let trained = [1, 2].map(|seed| start(command(folder, &train(seed, "hf"))));
        let tokenized = [tokenize; 2].map(|words| start(command(folder, words)));
        let trained = trained.map(wait);
        assert!(trained.iter().any(|ran| ran.code() == Some(0)), "{trained:?}");
        // The second may be refused, and says so.
        trained.into_iter().filter(|ran| ran.code() != Some(0)).for_each(|ran| ran.failed(&["hf"]));
        tokenized.into_iter().for_each(|child| drop(wait(child).succeeded()));
        assert!([1, 2].iter().any(|seed| exported(&format!("alone-{seed}")) == exported("hf")));
        assert!(fs::read(folder.join("twice.bin")).unwrap() == fs::read(folder.join("tokens.bin")).unwrap());
        clean(folder).unwrap();
        fs::remove_dir_all(folder.join("hf")).unwrap();
        fs::remove_file(folder.join("twice.bin")).unwrap();
    }
}

#[test]
fn two_processes_may_write_one_output() {
    at_once(&workplace(), horizon);
}

#[test]
fn two_processes_with_the_same_id_may_write_one_output() {
    if has_containers() {
        at_once(&workplace(), contained);
    }
}

#[test]
fn one_of_two_threads_gets_a_folder_of_checkpoints() {
    let dir = workplace();
    let folder = dir.path().join("ckpts");
    for _ in 0..50 {
        let both = Barrier::new(2);
        let open = || {
            both.wait();
            let opened = Checkpoints::create(&folder, Vec::new(), None);
            // Neither is closed before the other has tried.
            both.wait();
            opened.map(drop).map_err(|error| error.status())
        };
        let mut opened = thread::scope(|scope| {
            let other = scope.spawn(open);
            [open(), other.join().unwrap()]
        });
        opened.sort_by_key(Result::is_err);
        assert_eq!(opened, [Ok(()), Err(Status::InvalidState)]);
    }
}
