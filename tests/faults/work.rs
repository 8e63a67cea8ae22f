//! Runs of the command on a model so small that a run takes milliseconds.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

/// Longest wait for a process, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Training of the model `base` on `tokens.bin`, by a schedule that does not depend on the number of
/// steps.
pub const TRAIN: &str = "train --quiet --threads 1 --model base --data tokens.bin --seq-len 16 --micro-batch 1 \
                         --grad-accum 2 --schedule constant --warmup 1 --lr 1e-3";

/// A folder in RAM, if there is a file system there, with the model `base`, rows in `rows.jsonl`, and
/// their tokens in `tokens.bin`.
pub fn workplace() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("horizon-faults-").tempdir_in(parent).unwrap();
    furnish(dir.path());
    dir
}

/// Writes the files that a run needs into a folder.
pub fn furnish(folder: &Path) {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16,
        "vocab_size": 256, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": true,
    });
    fs::create_dir(folder.join("config")).unwrap();
    fs::write(folder.join("config/config.json"), config.to_string()).unwrap();
    let row = |k| format!("{}\n", json!({ "text": format!("line {} is like line {}", k % 7, k % 5) }));
    fs::write(folder.join("rows.jsonl"), (0..60).map(row).collect::<String>()).unwrap();
    let tokenize = "tokenize --quiet --threads 1 --model config --data rows.jsonl --out tokens.bin";
    let fresh = "train --quiet --threads 1 --model config --init --data tokens.bin --seq-len 16 --micro-batch 1 \
                 --steps 1 --out base";
    for words in [tokenize, fresh] {
        run(horizon(folder, words)).succeeded();
    }
    fs::remove_dir_all(folder.join("config")).unwrap();
}

/// The command in a folder, with words separated by spaces.
pub fn horizon(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_horizon"));
    command.current_dir(folder).args(words.split_whitespace());
    command
}

/// The end of a process.
#[derive(Debug)]
pub struct Ran {
    /// `None` if it did not end in time.
    pub status: Option<ExitStatus>,
    pub err: String,
}

impl Ran {
    /// Asserts success.
    pub fn succeeded(self) -> Ran {
        assert_eq!(self.code(), Some(0), "{}", self.err);
        self
    }

    /// Asserts failure with a message that has every word.
    pub fn failed(self, words: &[&str]) {
        assert_eq!(self.code(), Some(1), "{}", self.err);
        assert!(self.err.contains("error: ") && !self.err.contains("panicked"), "{}", self.err);
        words.iter().for_each(|word| assert!(self.err.contains(word), "no {word:?} in: {}", self.err));
    }

    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }
}

/// Starts a command whose messages are kept.
pub fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end of a process; kills it if it takes too long.
pub fn wait(mut child: Child) -> Ran {
    let mut stderr = child.stderr.take().expect("it was started by `start`");
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        let _ = send.send(String::from_utf8_lossy(&text).into_owned());
    });
    let ended = receive.recv_timeout(PATIENCE);
    if ended.is_err() {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    Ran { status: ended.is_ok().then_some(status), err: ended.unwrap_or_default() }
}

pub fn run(command: Command) -> Ran {
    wait(start(command))
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}
