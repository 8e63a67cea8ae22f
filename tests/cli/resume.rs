//! Checkpoints: runs that are stopped, killed or out of disk space, and resumed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use horizon::checkpoint::open;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use support::folder::states;

use super::data::{chat_model, write_chats};
use super::{Ran, SHORT, horizon_in, interrupt, names, short, with_signals, write_text};

fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    dir
}

fn train(dir: &Path, more: &[&str]) -> Ran {
    horizon_in(dir, &[&["train", "--quiet"], more].concat())
}

fn steps(log: &Path) -> Vec<u64> {
    let text = fs::read_to_string(log).unwrap();
    let record = |line| serde_json::from_str::<Value>(line).unwrap();
    text.lines().map(|line| record(line)["step"].as_u64().unwrap()).collect()
}

#[test]
fn resume_without_options_uses_the_options_of_the_run() {
    let dir = furnished();
    let here = |name: &str| dir.path().join(name);
    let started =
        ["--data", "text.txt", "--val-fraction", "0.1", "--steps", "6", "--lr", "1e-3", "--warmup", "2"];
    let more = ["--no-shuffle", "--seed", "5", "--clip", "0.5", "--schedule", "linear", "--grad-accum", "2"];
    let ends = ["--checkpoint-dir", "run", "--checkpoint-every", "2", "--log", "log.jsonl", "--out", "out"];
    horizon_in(dir.path(), &short(&[&started[..], &more, &ends].concat())).well();
    assert_eq!(names(&here("run")), [".lock", "latest", "step-00000002", "step-00000004", "step-00000006"]);
    let (want, exported) =
        (states(&here("run/step-00000006")), fs::read(here("out/model.safetensors")).unwrap());
    fs::remove_dir_all(here("out")).unwrap();
    fs::remove_dir_all(here("run/step-00000006")).unwrap();

    // Resumed from another folder, with another placement: all else is as before. The checkpoints
    // after step 2 are not the latest any more.
    fs::create_dir(here("elsewhere")).unwrap();
    let from =
        ["--resume", "../run/step-00000002", "--threads", "2", "--recompute", "full", "--spill", "all"];
    train(&here("elsewhere"), &[&from[..], &["--keep", "2"]].concat()).well();
    assert_eq!(names(&here("run")), [".lock", "latest", "step-00000004", "step-00000006"]);
    assert!(states(&here("run/step-00000006")) == want);
    assert!(fs::read(here("out/model.safetensors")).unwrap() == exported);
    assert_eq!(steps(&here("log.jsonl")), [1, 2, 3, 4, 5, 6]);
    assert!(names(&here("elsewhere")).is_empty());

    // The original command with --resume added does the same. A checkpoint may be moved.
    fs::rename(here("run"), here("moved")).unwrap();
    let on = ["--resume", "moved/step-00000004", "--checkpoint-dir", "third", "--model", "tiny"];
    horizon_in(dir.path(), &short(&[&started[..], &more, &on].concat())).well();
    assert!(states(&here("third/step-00000006")) == want);

    let resume = |more: &[&str]| train(dir.path(), &[&["--resume", "moved/step-00000004"], more].concat());
    resume(&["--lr", "0.5"]).badly(1, &["lr is 0.5, the checkpoint's is 0.001", "--resume-change lr,min-lr"]);
    resume(&["--seq-len", "16"]).badly(1, &["seq-len is 16, the checkpoint's is 32"]);
    resume(&["--mode", "compact"])
        .badly(1, &["mode is compact, the checkpoint's is exact", "--resume-change mode"]);
    resume(&["--model", "small"]).badly(1, &["another model", "hidden_size is 384, the checkpoint's is 128"]);
    resume(&["--init"]).badly(2, &["--init", "--resume"]);
    resume(&["--val", "text.txt"]).badly(1, &["windows an epoch"]);
    resume(&["--checkpoint-dir", "third"]).badly(1, &["third has checkpoints already"]);
    resume(&["--resume-change", "colour"]).badly(1, &["no option is named colour", "clip"]);
    resume(&["--resume-change", "data"]).badly(1, &["`data` cannot change", "clip"]);
    resume(&["--out", "moved"]).badly(1, &["--out moved is the same as --resume"]);
    resume(&["--mode", "compact", "--resume-change", "mode", "--checkpoint-dir", "compact"]).well();
    assert!(states(&here("compact/step-00000006")).len() < want.len());

    let info = |more: &[&str]| horizon_in(dir.path(), &[&["info"], more].concat());
    let shown = info(&["third", "--check"]).well().out;
    for word in [
        "step-00000006: every checksum is right",
        "step          6",
        "lr 0.001",
        "hidden_size 128",
        "window ",
    ] {
        assert!(shown.contains(word), "no {word:?} in {shown}");
    }
    let json: Value = serde_json::from_str(&info(&["third", "--json"]).well().out).unwrap();
    assert_eq!((&json["manifest"]["step"], &json["checked"]), (&Value::from(6), &Value::from(false)));
    let unit = here("third/step-00000006/unit-00002.state");
    let mut bytes = fs::read(&unit).unwrap();
    bytes[1000] ^= 1;
    fs::write(&unit, bytes).unwrap();
    info(&["third", "--check"]).badly(1, &["unit-00002.state", "`weights` is damaged"]);
    train(dir.path(), &["--resume", "third", "--checkpoint-dir", "fourth"])
        .badly(1, &["unit-00002.state", "`weights` is damaged"]);
    assert_eq!(names(&here("fourth")), [".lock"]);

    train(dir.path(), &["--resume", "nowhere"]).badly(1, &["nowhere does not exist", "checkpoint"]);
    info(&["out"]).badly(1, &["out has a model, but no checkpoint"]);
    info(&["text.txt"]).badly(1, &["text.txt is a file"]);
    for folder in ["third", "moved/step-00000004"] {
        horizon_in(dir.path(), &["sample", "--model", folder])
            .badly(1, &["is a checkpoint, not a model", "--resume", "--out DIR"]);
    }
    let finished = horizon_in(dir.path(), &["train", "--resume", "compact"]).well();
    let on = "6 of 6 steps are done; to continue it: --steps 12 --resume-change steps,warmup";
    assert!(finished.err.contains(on), "{}", finished.err);
    train(dir.path(), &["--resume", "compact", "--steps", "12", "--resume-change", "steps,warmup"]).well();
    train(dir.path(), &["--resume-change", "lr"]).badly(2, &["--resume"]);
    train(dir.path(), &["--checkpoint-every", "2"]).badly(1, &["--checkpoint-dir"]);
    train(dir.path(), &["--keep", "2"]).badly(1, &["--checkpoint-dir"]);
    train(dir.path(), &["--checkpoint-dir", "text.txt"]).badly(1, &["text.txt"]);
    train(dir.path(), &["--checkpoint-dir", "third", "--data", "text.txt"])
        .badly(1, &["third", "has checkpoints already"]);
    let note = fs::read_to_string(here("third/step-00000006/manifest.json")).unwrap();
    assert!(note.contains(here("text.txt").to_str().unwrap()));
}

/// The template prints the date, and the model has a name.
#[test]
fn a_resumed_run_has_the_date_and_the_name_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    chat_model(dir.path());
    write_chats(&dir.path().join("chats.jsonl"));
    let template = fs::read_to_string(dir.path().join("model/chat_template.jinja")).unwrap();
    fs::write(dir.path().join("dated.jinja"), "{{ strftime_now('%d %b %Y') }}".to_owned() + &template)
        .unwrap();
    let on_day = |day: u64, more: &[&str]| -> Ran {
        Command::new(env!("CARGO_BIN_EXE_horizon"))
            .args([&["train", "--threads", "1"], more].concat())
            .current_dir(dir.path())
            .env("SOURCE_DATE_EPOCH", (86_400 * day).to_string())
            .output()
            .unwrap()
            .into()
    };
    let data =
        ["--data", "chats.jsonl", "--seq-len", "96", "--micro-batch", "2", "--chat-template", "dated.jinja"];
    let run = ["--model", "model", "--init", "--steps", "1", "--checkpoint-dir", "run"];
    on_day(20_000, &[&data[..], &run].concat()).well();
    fs::remove_file(dir.path().join("dated.jinja")).unwrap();
    let more = ["--resume", "run", "--steps", "2", "--resume-change", "steps,warmup", "--verbose"];
    // With the date of this day, the data would be other data, which is refused.
    let ran = on_day(20_001, &more).well();
    assert_eq!(
        ran.err.matches(&format!("model      {}: ", dir.path().join("model").display())).count(),
        2,
        "in the opening and in the plan: {}",
        ran.err
    );
    let note = |step: u64| {
        let text = fs::read_to_string(dir.path().join(format!("run/step-0000000{step}/manifest.json")));
        serde_json::from_str::<Value>(&text.unwrap()).unwrap()["manifest"]["note"].clone()
    };
    assert_eq!((&note(1)["time"], &note(2)["time"]), (&json!(1_728_000_000), &json!(1_728_000_000)));
    assert!(note(2)["options"].get("chat-template").is_none(), "the checkpoint has the template");

    // Another template makes other data.
    fs::write(dir.path().join("other.jinja"), "Hello! ".to_owned() + &template).unwrap();
    let other = ["--resume", "run/step-00000001", "--chat-template", "other.jinja"];
    on_day(20_000, &other).badly(1, &["--chat-template other.jinja differs", "leave the option out"]);
}

#[test]
fn an_interrupt_writes_a_checkpoint_and_prints_the_command_to_resume() {
    let dir = furnished();
    let arguments =
        ["train", "--seq-len", "32", "--micro-batch", "2", "--threads", "1", "--data", "text.txt"];
    let more = ["--steps", "1000000", "--checkpoint-dir", "run", "--log", "log.jsonl"];
    let mut child = with_signals()
        .arg(env!("CARGO_BIN_EXE_horizon"))
        .args(arguments)
        .args(more)
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line.starts_with("step 1/")), "the run did not start");
    interrupt(&child);
    let stderr = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
    let folder = dir.path().join("run").canonicalize().unwrap();
    assert!(
        stderr.contains(&format!("to continue: horizon train --resume {}", folder.display())),
        "{stderr}"
    );
    let done = *steps(&dir.path().join("log.jsonl")).last().unwrap();
    assert_eq!(open(&folder).unwrap().manifest().step, done);
    let ran = train(dir.path(), &["--resume", "run", "--steps", "3"]);
    ran.badly(1, &["steps is 3, the checkpoint's is 1000000"]);
}

/// Writing fails once the manifest's file is there (the limit stands for a full disk): a warning,
/// and training continues to the end, where it is an error.
#[test]
fn a_checkpoint_that_cannot_be_written_is_a_warning_before_the_end() {
    let dir = furnished();
    let limited = |blocks: usize, more: &[&str]| -> Ran {
        let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_horizon")])
            .args(short(&[&["--data", "text.txt", "--steps", "4", "--log", "log.jsonl"], more].concat()))
            .current_dir(dir.path())
            .output()
            .unwrap()
            .into()
    };
    let ran = limited(200, &["--checkpoint-dir", "run", "--checkpoint-every", "2"]);
    ran.badly(
        1,
        &[
            "warning: the checkpoint of step 2 failed",
            "unit-0000",
            "too large",
            "training continues",
            "error: the checkpoint of step 4 failed",
            "there is no checkpoint",
        ],
    );
    assert_eq!(names(&dir.path().join("run")), [".lock"]);
    assert_eq!(steps(&dir.path().join("log.jsonl")), [1, 2, 3, 4]);
    // An earlier checkpoint is kept.
    horizon_in(
        dir.path(),
        &short(&["--data", "text.txt", "--steps", "4", "--checkpoint-dir", "one", "--checkpoint-every", "2"]),
    )
    .well();
    let before = states(&dir.path().join("one/step-00000002"));
    let ran = limited(200, &["--resume", "one/step-00000002", "--log", "one.jsonl"]);
    ran.badly(1, &["the checkpoint of step 4 failed", "the checkpoint of step 2 is in", "--resume "]);
    assert!(states(&dir.path().join("one/step-00000002")) == before);
    assert_eq!(open(&dir.path().join("one")).unwrap().manifest().step, 2);
}

/// A disk that fills up during the run. Needs a small file system of its own; skipped, with a
/// message, where it cannot be mounted.
#[test]
fn a_disk_that_fills_up_leaves_the_checkpoint_before_and_training_alive() {
    let dir = furnished();
    fs::create_dir(dir.path().join("disk")).unwrap();
    let run = format!("\"$0\" {} --data text.txt --checkpoint-dir disk/run", SHORT.join(" "));
    // Space for the latest checkpoint, a complete one that did not become the latest, and a third,
    // 9 MiB each.
    let script = format!(
        "mount -t tmpfs -o size=40m none disk || exit 77\n\
         {run} --steps 150 --log log.jsonl --checkpoint-every 1 --keep 1 & child=$!\n\
         until [ -s disk/run/latest ]; do sleep 0.01; done\n\
         cat /dev/zero > disk/filler 2>/dev/null\nwait $child && exit 78\n\
         rm disk/filler\ncat disk/run/latest\n\"$0\" train -q --resume disk/run || exit\nls -A disk/run"
    );
    let ran: Ran = match Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_horizon")])
        .current_dir(dir.path())
        .output()
    {
        Ok(output) => output.into(),
        Err(error) => return println!("skipped: no file system of its own here ({error})"),
    };
    if ran.code == Some(77) || ran.err.contains("unshare:") {
        return println!("skipped: no file system of its own here ({})", ran.err.trim());
    }
    let ran = ran.well();
    assert!(ran.err.contains("warning: the checkpoint of step"), "{}", ran.err);
    assert!(ran.err.contains("disk space") || ran.err.contains("No space left"), "{}", ran.err);
    assert!(ran.out.starts_with("step-"), "{}", ran.out);
    // The run continued to its end, and the resumed one could write its checkpoint.
    assert_eq!(steps(&dir.path().join("log.jsonl")), (1..=150).collect::<Vec<_>>());
    assert!(ran.out.ends_with(".lock\nlatest\nstep-00000150\n"), "{}", ran.out);
}

/// Maximum wait of a test on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn latest_of(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join("latest")).ok()
}

/// A run is killed at random moments, most of them while a checkpoint is written. The latest
/// checkpoint loads, a partial one is never taken for complete, and the final state is bit-equal to
/// that of an uninterrupted run.
#[test]
fn a_killed_run_resumes_from_its_latest_checkpoint() {
    let kills = if std::env::var_os("HZ_LONG").is_some() { 200 } else { 20 };
    let dir = furnished();
    let steps = (3 * kills).to_string();
    let arguments = ["--data", "text.txt", "--steps", &steps, "--warmup", "3", "--lr", "1e-3"];
    let started = |folder: &str, more: &[&str]| -> Child {
        Command::new(env!("CARGO_BIN_EXE_horizon"))
            .args(short(&arguments))
            .args(["--checkpoint-dir", folder])
            .args(more)
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    assert!(started("whole", &[]).wait().unwrap().success());
    let last = format!("step-{:0>8}", steps);
    let want = states(&dir.path().join("whole").join(&last));

    let run = dir.path().join("run");
    let every = ["--checkpoint-every", "1", "--keep", "2", "--log", "log.jsonl"];
    let resumed = [&every[..], &["--resume", "run"]].concat();
    let seed = 17;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut kill, mut half_written) = (0, 0);
    while kill < kills {
        let has_any = names(&run).iter().any(|name| name.starts_with("step-"));
        let mut child = started("run", if has_any { &resumed } else { &every });
        // Waits until a checkpoint is being written or, every other time, complete; then a random
        // time.
        let (latest, partial) = (latest_of(&run), format!(".partial-{}-", child.id()));
        let is_at_work = || match kill % 2 {
            0 => names(&run).iter().any(|name| name.contains(&partial)),
            _ => latest_of(&run) != latest,
        };
        let begun = Instant::now();
        while !is_at_work() && child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let code = status.code();
        assert!(code.is_none() || code == Some(0), "{}", stderr_of(child));
        kill += 1;
        let mut found = names(&run);
        half_written += usize::from(found.iter().any(|name| name.starts_with(".step-")));
        found.retain(|name| name.starts_with("step-"));
        // Every folder named as a checkpoint is one; the latest is the newest or the one before it.
        for name in &found {
            open(&run.join(name)).and_then(|checkpoint| checkpoint.verify()).unwrap();
        }
        if let Some(newest) = found.last() {
            let latest = open(&run).unwrap().manifest().step;
            let newest = open(&run.join(newest)).unwrap().manifest().step;
            assert!(
                latest == newest || latest + 1 == newest,
                "seed {seed}, kill {kill}: {latest} of {found:?}"
            );
        }
    }
    println!("{kills} kills, {half_written} of them with a checkpoint half-written");
    assert!(half_written > 0, "no kill hit a checkpoint that was being written");
    let child = started("run", &[&["--checkpoint-every", "0"], &resumed[2..]].concat());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(states(&run.join(&last)) == want, "seed {seed}: killed and resumed is not whole");
    assert!(!names(&run).iter().any(|name| name.starts_with(".step-") || name.starts_with(".latest")));
    let log = self::steps(&dir.path().join("log.jsonl"));
    assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "every step once");
}

fn stderr_of(child: Child) -> String {
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned()
}
