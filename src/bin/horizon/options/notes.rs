//! Text after the options of each subcommand: examples, exit statuses, environment variables.

use std::fmt;

/// A titled paragraph of `--help`, and a section of the manual page.
pub struct Section {
    pub title: &'static str,
    pub lines: Vec<Line>,
    /// Also in the short help, `-h`.
    pub short: bool,
}

impl Section {
    fn new(title: &'static str, lines: &[Line]) -> Section {
        Section { title, lines: lines.to_vec(), short: true }
    }

    fn long(title: &'static str, lines: &[Line]) -> Section {
        Section { short: false, ..Section::new(title, lines) }
    }
}

#[derive(Clone, Copy)]
pub enum Line {
    /// A paragraph, wrapped for a terminal.
    Text(&'static str),
    /// A command to type.
    Command(&'static str),
    /// A term and its meaning.
    Entry(&'static str, &'static str),
}

use Line::{Command, Entry, Text};

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.title)?;
        self.lines.iter().try_for_each(|line| match line {
            Text(text) => text.lines().try_for_each(|line| writeln!(f, "  {line}")),
            Command(command) => writeln!(f, "    {command}"),
            Entry(term, meaning) => writeln!(f, "  {term}\n          {meaning}"),
        })
    }
}

/// The sections of a subcommand, or of `horizon` itself.
pub fn sections(command: &str) -> Vec<Section> {
    let examples: &[Line] = match command {
        "train" => &TRAIN,
        "plan" => &PLAN,
        "calibrate" => &CALIBRATE,
        "sample" => &SAMPLE,
        "tokenize" => &TOKENIZE,
        "plot" => &PLOT,
        "info" => &INFO,
        "install" => &INSTALL,
        "man" => &MAN,
        "completions" => &COMPLETIONS,
        _ => &MAIN,
    };
    let mut sections = match command {
        "train" => vec![Section::new("Placement", &PLACEMENT), Section::long("Exit status", &STATUS)],
        "plan" => vec![Section::new("Placement", &PLACEMENT), Section::long("Output", &PLAN_OUTPUT)],
        _ => vec![],
    };
    let variables = match command {
        "train" => [&[VISIBLE][..], &CUDA, &[ISA, EPOCH]].concat(),
        "sample" => [&[VISIBLE][..], &CUDA, &[EPOCH]].concat(),
        "calibrate" | "info" => [&[VISIBLE][..], &CUDA, &[ISA]].concat(),
        "plan" => vec![VISIBLE],
        "tokenize" => vec![EPOCH],
        "install" => INSTALL_VARIABLES.to_vec(),
        _ => vec![],
    };
    sections.push(Section::long("Environment variables", &[variables, vec![COLOR]].concat()));
    sections.push(Section::new("Examples", examples));
    sections
}

const MAIN: [Line; 6] = [
    Text("Train a small built-in model, predict a run, fine-tune a model and talk to it:"),
    Command("horizon train"),
    Command("horizon plan --model llama3.1-8b --machine h200"),
    Command("horizon train --model DIR --data chats.jsonl --out tuned"),
    Command("horizon sample --model tuned --chat --prompt \"What is the capital of France?\""),
    Text("`horizon SUBCOMMAND --help` has the options of a subcommand, with more examples."),
];

const TRAIN: [Line; 9] = [
    Text("Fine-tune a Hugging Face model on conversations:"),
    Command("horizon train --model DIR --data chats.jsonl --val-fraction 0.02 --out tuned"),
    Text("Train a small byte-level model from scratch:"),
    Command("horizon train --model small --data books/ --steps 500 --seq-len 256 --out my-model"),
    Text("Write checkpoints, and resume after an interruption:"),
    Command("horizon train --model DIR --data chats.jsonl --checkpoint-dir run --checkpoint-every 200"),
    Command("horizon train --resume run"),
    Text("Use a GPU with an autotuned GEMM table, and 64 sequences per step by gradient accumulation:"),
    Command("horizon train --model DIR --data chats.jsonl --gemm-table gemm.json --grad-accum 8"),
];

const PLAN: [Line; 5] = [
    Text("Predict the training of an 8B model on an H200, with 4 micro-batches per step:"),
    Command("horizon plan --model llama3.1-8b --machine h200 --grad-accum 4"),
    Text("Measure this machine and plan for it, with full activation checkpointing:"),
    Command("horizon calibrate --out here.json"),
    Command("horizon plan --model llama3.1-8b --machine here.json --recompute full"),
];

const CALIBRATE: [Line; 5] = [
    Text("Measure this machine and plan for it:"),
    Command("horizon calibrate --out here.json"),
    Command("horizon plan --model llama3.1-8b --machine here.json"),
    Text("Autotune the GEMMs of a model, with the sizes of its training:"),
    Command("horizon calibrate --autotune DIR --autotune-only --seq-len 4096 --out gemm.json"),
];

const SAMPLE: [Line; 4] = [
    Command("horizon sample --model tuned --prompt \"Once upon a time\""),
    Command("horizon sample --model tuned --chat --prompt \"What is the capital of France?\""),
    Command("horizon sample --model tuned --prompt \"def main():\" --temperature 0 --tokens 64"),
    Command("horizon sample --model tuned --chat --prompt-file question.txt"),
];

const TOKENIZE: [Line; 4] = [
    Command("horizon tokenize --model DIR --data chats.jsonl --show 3"),
    Command("horizon tokenize --model DIR --data chats.jsonl --out chats.bin"),
    Command("horizon tokenize --model DIR --data books/ articles.txt --out text.bin --threads 8"),
    Command("horizon train --model DIR --data chats.bin text.bin:0.5"),
];

const PLOT: [Line; 3] = [
    Command("horizon plot run.jsonl --out run.svg"),
    Command("horizon plot first.jsonl second.jsonl --out compared.svg"),
    Command("horizon plot step.json --out step.svg"),
];

const INFO: [Line; 4] = [
    Text("Show this machine with its RAM bandwidth:"),
    Command("horizon info --measure"),
    Text("Show the latest checkpoint in run/, and verify it:"),
    Command("horizon info run --check"),
];

const INSTALL: [Line; 7] = [
    Text("Install for yourself, and remove it again:"),
    Command("horizon install --prefix ~/.local"),
    Command("horizon install --prefix ~/.local --uninstall"),
    Text("Install into /usr/local without building as root; then sudo cp -dR stage/. /"),
    Command("horizon install --destdir stage"),
    Text("Fill the folder of a package:"),
    Command("horizon install --prefix /usr --libdir lib/x86_64-linux-gnu --destdir package"),
];

const INSTALL_VARIABLES: [Line; 4] = [
    Entry("DESTDIR", "Staging folder, if --destdir is not given."),
    Entry("CARGO", "The cargo that builds the library. [default: that of `cargo run`, or of PATH]"),
    Entry("CARGO_TARGET_DIR", "The library is built in its folder `install`. [default: target in the clone]"),
    Entry(
        "HZ_CUDA",
        "off: without CUDA kernels; require: an error if there is no CUDA toolkit. [default: auto]",
    ),
];

const MAN: [Line; 3] = [
    Command("horizon man | man -l -"),
    Command("horizon man --formats | less"),
    Command("horizon man --out ~/.local/share/man/man1"),
];

const COMPLETIONS: [Line; 2] = [
    Command("horizon completions bash > ~/.local/share/bash-completion/completions/horizon"),
    Command("horizon completions fish > ~/.config/fish/completions/horizon.fish"),
];

const PLACEMENT: [Line; 1] = [Text(
    "--recompute and the options after it decide where weights, activations and gradients are. They\n\
     never change the result. Those not given are chosen by a search for the shortest step, simulated\n\
     on --machine. LAYERS is all, none, a layer (3) or a range (0-7), counted from 0; several are\n\
     separated by commas.",
)];

const STATUS: [Line; 7] = [
    Entry("0", "The last step is done; the checkpoint and --out are written."),
    Entry(
        "1",
        "It failed. The message says what was found, where, what to do, and what was written: if a step \
         fails, the checkpoint and --out are of the step before it, but an earlier export in --out is kept.",
    ),
    Entry("2", "The command line was not understood."),
    Entry("129", "Stopped by SIGHUP: the terminal was closed."),
    Entry("130", "Stopped by SIGINT: Ctrl-C."),
    Entry("143", "Stopped by SIGTERM: kill, or a scheduler."),
    Text(
        "The first of these signals lets the running step end, and the checkpoint and --out are written. Those \
         within a second are the same request, since timeout sends each twice. A later one ends at once and writes \
         nothing, as does the first before training begins or after it. Earlier checkpoints stay complete, also after \
         kill -9. A signal that is ignored at start, as nohup ignores SIGHUP, stays ignored. A terminal or pipe that \
         goes away does not stop the run: messages are then lost.",
    ),
];

const PLAN_OUTPUT: [Line; 12] = [
    Entry("rates", "Basis of the machine's figures: measured, published or assumed."),
    Entry("step", "Micro-batches, sequences and tokens of a step."),
    Entry(
        "simulated",
        "Time of a step. TFLOP/s count useful work, without recompute: over the device's peak they are the MFU.",
    ),
    Entry("placement", "Buffers and sweeps, as the options under \"Memory and placement\" describe them."),
    Entry(
        "layers",
        "Layers by activation checkpointing (recompute), by offload of their inputs (spilled), by residence.",
    ),
    Entry(
        "busy",
        "Share of the step in which each lane works: compute, h2d (uploads), d2h (downloads), host (AdamW), disk.",
    ),
    Entry("checkpoint", "Size of a checkpoint, and the time to write it while training continues."),
    Entry("bound by", "The lane that limits the step."),
    Entry("with ...", "Time saved by more memory or faster hardware."),
    Entry("better", "A division of the step into micro-batches that takes less time."),
    Entry("device, host", "Memory by use."),
    Entry("of it pinned", "Page-locked host memory, which is copied to and from the device."),
];

const VISIBLE: Line =
    Entry("CUDA_VISIBLE_DEVICES", "Read by the CUDA driver: the devices to use, and their order.");
const CUDA: [Line; 2] = [
    Entry(
        "HZ_CUBLASLT",
        "libcublasLt.so or its folder. [default: searched for in library folders, CUDA_HOME and Python packages]",
    ),
    Entry(
        "HZ_CUDA_STREAM_MEMORY_OPS",
        "on, or off: CUDA streams wait for host threads without stream memory operations. [default: on]",
    ),
];
const ISA: Line = Entry(
    "HZ_ISA",
    "Instruction set of CPU AdamW: portable, avx2 or avx512. Never changes the result. [default: the best]",
);
const EPOCH: Line =
    Entry("SOURCE_DATE_EPOCH", "Date for chat templates, in seconds since 1970. [default: the clock]");
const COLOR: Line = Entry("NO_COLOR", "If set, help and errors are printed without bold and color.");
