//! The command `horizon`, as a process.

mod bad_input;
mod cases;
mod data;
mod help;
mod hostile;
mod inputs;
mod install;
mod moved;
mod numbers;
mod origins;
mod outputs;
mod paths;
mod plan;
mod readme;
mod resume;
mod run;
mod terminal;
mod worker;

use std::path::Path;
use std::process::{Child, Command, Output};

use horizon::base::Name;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs the command in a folder.
fn horizon_in(folder: &Path, arguments: &[&str]) -> Ran {
    Command::new(env!("CARGO_BIN_EXE_horizon")).args(arguments).current_dir(folder).output().unwrap().into()
}

/// `env` with default actions of signals: a shell starts its background jobs, and so maybe the tests,
/// with SIGINT ignored, which the command respects.
fn with_signals() -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,TERM");
    command
}

fn horizon(arguments: &[&str]) -> Ran {
    horizon_in(Path::new(env!("CARGO_MANIFEST_DIR")), arguments)
}

/// Sends SIGINT, as ^C does.
fn interrupt(child: &Child) {
    send(child, Signal::SIGINT);
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).unwrap();
    // The child has not been waited for, so its id is still its own.
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Status and output of a process.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        ran.has_names_of_the_command();
        ran
    }
}

impl Ran {
    /// Asserts that messages have no names of the library, and no output has marks.
    fn has_names_of_the_command(&self) {
        assert!(!(self.out.clone() + &self.err).contains(|c| ('\u{fdd0}'..='\u{fdef}').contains(&c)));
        assert!(!self.err.contains("hz_") && !self.err.contains("::"), "{}", self.err);
        for name in Name::ALL {
            let [command, of_library @ ..] = name.spellings();
            let foreign = of_library.iter().any(|name| name.contains(['_', '.']) && self.err.contains(name));
            assert!(!foreign, "{command} in: {}", self.err);
        }
    }

    /// Asserts success.
    fn well(self) -> Ran {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self
    }

    /// Asserts that it ended with `code` and an error message with every word.
    fn badly(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains("error: "), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
    }
}

/// Sorted names in a folder, hidden ones included; none if the folder does not exist.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Writes a few kilobytes of text that is easy to predict.
fn write_text(path: &Path) {
    let text: String =
        (0..200).map(|k| format!("line {} says the same as line {}\n", k % 7, k % 5)).collect();
    std::fs::write(path, text).unwrap();
}

/// A training run that takes a moment.
const SHORT: [&str; 8] = ["train", "--seq-len", "32", "--micro-batch", "2", "--threads", "1", "--quiet"];

fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SHORT.iter().chain(more).copied().collect()
}

#[test]
fn help_names_every_option_with_its_default() {
    let ran = horizon(&["--help"]).well();
    for command in ["train", "info", "sample", "tokenize", "install", "man", "completions"] {
        assert!(ran.out.contains(command), "{}", ran.out);
    }
    let ran = horizon(&["train", "--help"]).well();
    let options = "model data val val-fraction pack chat-template skip-bad-lines steps seq-len micro-batch \
                   grad-accum lr min-lr warmup schedule weight-decay grad-dtype beta1 beta2 eps clip mode device \
                   pinning gemm-table device-mem host-mem threads seed no-shuffle init out export-dtype \
                   checkpoint-dir checkpoint-every keep resume resume-change log trace verbose quiet grad-place \
                   sweeps slots slabs recompute spill resident accum-on-device machine val-every val-batches";
    for option in options.split_whitespace() {
        assert!(ran.out.contains(&format!("--{option}")), "--{option} is not in the help");
    }
    assert!(ran.out.contains("20GiB") && ran.out.contains("[default:"), "{}", ran.out);
    assert!(horizon(&["--version"]).well().out.starts_with("horizon "));
}

#[test]
fn unknown_options_and_values_are_refused_by_name() {
    for (arguments, word) in [
        (&["train", "--device", "cuda:x"][..], "there is no device `cuda:x`"),
        (&["train", "--pinning", "glued"], "registered, allocated"),
    ] {
        horizon(arguments).badly(2, &[word]);
    }
    horizon(&["train", "--no-such-option"]).badly(2, &["--no-such-option"]);
    horizon(&["dance"]).badly(2, &["dance"]);
}

#[test]
fn arguments_in_errors_are_escaped_and_short() {
    let value = "a\u{202e}\u{9b}\r\nb\x1b[31m";
    let option = format!("--{value}");
    for arguments in [
        &["train", "--seq-len", value][..],
        &["train", "--mode", value],
        &["train", "--recompute", value],
        &["train", "--device", value],
        &["train", "--device-mem", value],
        &["train", &option],
        &["completions", value],
        &[value],
    ] {
        let ran = horizon(arguments);
        assert!(ran.err.contains("a\\u{202e}\\u{9b}\\r\\nb\\u{1b}[31m"), "{}", ran.err);
        assert!(!ran.err.contains(['\u{202e}', '\u{9b}', '\r', '\x1b']), "{}", ran.err);
        ran.badly(2, &["\n\nFor more information"]);
    }
    let long = "1".repeat(5000) + "X";
    for option in ["--device-mem", "--host-mem", "--device"] {
        let ran = horizon(&["train", option, &long]);
        assert!(ran.err.len() < 400, "{}", ran.err);
        ran.badly(2, &["1…"]);
    }
}

#[test]
fn info_is_for_people_and_for_programs() {
    let text = horizon(&["info"]).well().out;
    assert!(text.contains("tiny") && text.contains("small") && text.contains("GiB"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&horizon(&["info", "--json"]).well().out).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["models"][0]["name"], "tiny");
    assert!(json["host_memory_bytes"].as_u64().unwrap() > 0);
    assert!(json["devices"][0]["name"].as_str().unwrap().starts_with("cpu"));
    assert!(
        json["nodes"][0]["memory_bytes"].as_u64().is_some() && json["huge_pages"]["transparent"].is_boolean()
    );
    assert!(json["measured"].is_null(), "nothing is measured unasked");
    // HZ_ISA is AdamW's.
    let binary = env!("CARGO_BIN_EXE_horizon");
    let portable = Command::new(binary).args(["info", "--json"]).env("HZ_ISA", "portable").output().unwrap();
    let portable: serde_json::Value = serde_json::from_slice(&portable.stdout).unwrap();
    assert_eq!(portable["isa"], "portable");
    assert_eq!(portable["matmul_isa"], json["matmul_isa"]);
    let targets = json["cuda"]["targets"].as_str();
    let kernels =
        targets.map_or("built without CUDA kernels".to_owned(), |names| format!("kernels for {names}"));
    assert!(text.contains(&kernels), "{text}");
    for word in ["processor", "node 0", "huge pages", "pinnable"] {
        assert!(text.contains(word), "no {word}: {text}");
    }
}

#[test]
fn a_cuda_device_that_cannot_be_used_is_refused_with_what_is_missing() {
    let json: serde_json::Value = serde_json::from_str(&horizon(&["info", "--json"]).well().out).unwrap();
    let missing = json["missing_for_cuda"].as_array().unwrap();
    if missing.is_empty() {
        return println!("skipped: a CUDA device can be used here");
    }
    assert!(horizon(&["info"]).well().out.contains("no CUDA "));
    let ran = horizon(&["train", "--device", "cuda:0", "--steps", "1"]);
    // The kernels may refuse the built-in model first.
    ran.badly(1, &["--device cpu"]);
}

#[test]
fn info_measures_when_asked() {
    let json: serde_json::Value =
        serde_json::from_str(&horizon(&["info", "--json", "--measure"]).well().out).unwrap();
    for figure in ["read_bytes_per_second", "write_bytes_per_second", "adam_parameters_per_second"] {
        assert!(json["measured"][figure].as_f64().unwrap() > 0.0, "{json}");
    }
    assert!(horizon(&["info", "--measure"]).well().out.contains("parameters/s"));
}
