//! Options of the other subcommands.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use horizon::base::format::parse_size;

use super::heading::{CHECKPOINTS, DATA, DEVICE, MEMORY, MODEL, OPTIMIZATION, OUTPUT, SAMPLING};
use super::train::{ComputeOptions, EncodingOptions, StateOptions};
use super::values::{self, positive};
use crate::placement::PlacementOptions;

#[derive(Args, Debug)]
pub struct PlanOptions {
    /// Hugging Face folder (only config.json is read), or a model name
    ///
    /// Names: tiny, small; qwen2.5-0.5b, -1.5b, -3b, -7b, -14b, -32b, -72b; qwen3-0.6b, -1.7b, -4b,
    /// -8b, -14b, -32b; llama3.1-8b, -70b, -405b; gemma3-270m, -1b, -4b, -12b, -27b; phi3.5-3.8b;
    /// phi4-3.8b, -14b; olmo2-1b, -7b, -13b, -32b; olmo3-7b, -32b; smollm3-3b; ministral3-3b, -8b,
    /// -14b; glm4-9b, -32b; granite3.3-2b, -8b; seed-oss-36b; exaone4-1.2b, -32b; helium1-2b;
    /// cwm-32b; dense-120b, dense-1t.
    #[arg(long, help_heading = MODEL, value_name = "DIR|NAME")]
    pub model: String,

    /// Sequence length in tokens [default: 4096, or the model's maximum]
    #[arg(long, help_heading = OPTIMIZATION, value_name = "TOKENS", value_parser = positive)]
    pub seq_len: Option<usize>,
    /// Sequences per micro-batch
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub micro_batch: usize,
    /// Gradient accumulation: micro-batches per step
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub grad_accum: usize,
    /// Maximum global gradient norm; 0: no clipping
    ///
    /// Only whether it is 0 matters to a plan: clipping needs all gradients before the first
    /// update.
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", default_value_t = 1.0, value_parser = values::number)]
    pub clip: f64,

    #[command(flatten)]
    pub state: StateOptions,
    /// Device memory to use, e.g. 80GiB [default: the machine's]
    ///
    /// K, M, G, T and KiB … TiB are powers of 1024; KB, MB, GB, TB are powers of 1000.
    #[arg(long, help_heading = MEMORY, value_name = "SIZE", value_parser = parse_size)]
    pub device_mem: Option<usize>,
    /// Host memory to use, e.g. 1.5TB [default: the machine's]
    ///
    /// K, M, G, T and KiB … TiB are powers of 1024; KB, MB, GB, TB are powers of 1000.
    #[arg(long, help_heading = MEMORY, value_name = "SIZE", value_parser = parse_size)]
    pub host_mem: Option<usize>,
    #[command(flatten)]
    pub placement: PlacementOptions,

    /// Write a timeline of the simulated step to FILE
    ///
    /// Contains the step and the two before it, as a Chrome trace: for `horizon plot`, Perfetto or
    /// chrome://tracing. An earlier trace is replaced, any other file is refused.
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object
    ///
    /// horizon.h describes its fields, at hz_plan_json. Sizes are bytes, times seconds.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct CalibrateOptions {
    /// Autotune the GEMMs of this model, a Hugging Face folder or a name
    ///
    /// For each GEMM shape finds the fastest cuBLASLt algorithm, and for attention the faster
    /// kernel. Needs a CUDA device. The table is written next to --out NAME.json, as
    /// NAME.gemm.json, where `train --machine NAME.json` finds it.
    #[arg(long, help_heading = MODEL, value_name = "DIR|NAME", required_if_eq("autotune_only", "true"))]
    pub autotune: Option<String>,
    /// Autotune only: write the table to --out, for `train --gemm-table`
    #[arg(long, help_heading = MODEL, conflicts_with_all = ["name", "threads", "tries"])]
    pub autotune_only: bool,
    /// Autotune: sequence length in tokens, as in training
    #[arg(
        long, help_heading = MODEL, value_name = "TOKENS", default_value_t = 1024, value_parser = positive,
        requires = "autotune"
    )]
    pub seq_len: usize,
    /// Autotune: sequences per micro-batch, as in training
    #[arg(
        long, help_heading = MODEL, value_name = "N", default_value_t = 8, value_parser = positive,
        requires = "autotune"
    )]
    pub micro_batch: usize,

    /// Machine file to write [default: standard output]
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.json")]
    pub out: Option<PathBuf>,
    /// Name of the machine in the file
    #[arg(long, help_heading = OUTPUT, default_value = "here")]
    pub name: String,

    #[command(flatten)]
    pub compute: ComputeOptions,
    /// Attempts per measurement, at most, while other processes run
    #[arg(long, help_heading = DEVICE, value_name = "N", value_parser = positive, default_value = "3")]
    pub tries: usize,
}

#[derive(Args, Debug)]
pub struct SampleOptions {
    /// Hugging Face folder
    #[arg(long, help_heading = MODEL, value_name = "DIR")]
    pub model: String,

    /// Text to continue; with --chat the user's message
    ///
    /// The model sees all of it, up to its number of positions; if it is longer, its beginning is
    /// dropped, with a warning.
    #[arg(long, help_heading = DATA, value_name = "TEXT", default_value = "\n", allow_hyphen_values = true)]
    pub prompt: String,
    /// File with the prompt, as it is, up to 16 MiB; -: standard input
    #[arg(long, help_heading = DATA, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Apply the chat template to --prompt and print the answer
    #[arg(long, help_heading = DATA)]
    pub chat: bool,
    /// Jinja chat template [default: the model's]
    #[arg(long, help_heading = DATA, value_name = "FILE", requires = "chat")]
    pub chat_template: Option<PathBuf>,

    /// Maximum number of new tokens; the model may stop earlier
    #[arg(long, help_heading = SAMPLING, value_name = "N", default_value_t = 256, value_parser = values::whole::<usize>)]
    pub tokens: usize,
    /// Sampling temperature; 0: always the most likely token
    #[arg(long, help_heading = SAMPLING, value_name = "X", default_value_t = 0.8, value_parser = values::number)]
    pub temperature: f64,
    /// Seed of the random numbers; equal seeds give equal text
    #[arg(long, help_heading = SAMPLING, value_name = "N", default_value_t = 1, value_parser = values::whole::<u64>)]
    pub seed: u64,

    #[command(flatten)]
    pub compute: ComputeOptions,
}

#[derive(Args, Debug)]
pub struct TokenizeOptions {
    /// Model whose tokenizer is used: Hugging Face folder, or tiny, small
    ///
    /// The tokens of the built-in models are bytes.
    #[arg(long, help_heading = MODEL, value_name = "DIR|NAME")]
    pub model: String,

    /// JSONL, Parquet, CSV, text, folders of them; see `train --data`
    #[arg(long, help_heading = DATA, value_name = "PATH", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    #[command(flatten)]
    pub encoding: EncodingOptions,

    /// Token file to write, for `train --data`
    ///
    /// An existing token file is replaced once the new one is complete; any other file is refused.
    /// With --show it may be left out.
    #[arg(
        long, help_heading = OUTPUT, value_name = "FILE.bin", required_unless_present = "show",
        value_parser = values::token_file
    )]
    pub out: Option<PathBuf>,
    /// Print the first N documents, with the tokens marked that are trained on
    ///
    /// As text, on standard output: trained tokens are green on a terminal and in ⟦brackets⟧
    /// elsewhere, special tokens appear by name, control and invisible characters are escaped; rows
    /// of tokens for a model without a tokenizer appear as ids. A document's first token is never
    /// trained on, since nothing predicts it. All data is still
    /// read, counted and checked.
    #[arg(long, help_heading = OUTPUT, value_name = "N", value_parser = values::positive_steps)]
    pub show: Option<u64>,
    /// Print nothing but warnings, errors and --show
    #[arg(long, short, help_heading = OUTPUT)]
    pub quiet: bool,

    /// CPU threads that tokenize [default: all cores]
    #[arg(long, help_heading = DEVICE, value_name = "N", value_parser = values::threads)]
    pub threads: Option<usize>,
}

#[derive(Args, Debug)]
pub struct PlotOptions {
    /// Logs of `train --log`, or traces of --trace; several are overlaid
    ///
    /// A log may have up to 1 GiB, a trace up to 128 MiB and 524288 tasks.
    #[arg(help_heading = DATA, value_name = "RUN.jsonl|TRACE.json", required = true)]
    pub files: Vec<PathBuf>,

    /// Picture to write
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg", default_value = "plot.svg")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct InfoOptions {
    /// Checkpoint, or folder of checkpoints, to show instead of the machine
    #[arg(help_heading = CHECKPOINTS, value_name = "DIR", conflicts_with = "measure")]
    pub checkpoint: Option<PathBuf>,
    /// Read the whole checkpoint and verify every checksum
    #[arg(long, help_heading = CHECKPOINTS, requires = "checkpoint")]
    pub check: bool,

    /// Print one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Measure RAM bandwidth and AdamW: two seconds, half a GiB
    #[arg(long, help_heading = DEVICE)]
    pub measure: bool,
}

#[derive(Args, Debug)]
pub struct ManOptions {
    /// Folder for the pages of all subcommands [default: print the main page]
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the formats of training data and all their fields instead
    #[arg(long, help_heading = OUTPUT, conflicts_with = "out")]
    pub formats: bool,
}

#[derive(Args, Debug)]
pub struct CompletionsOptions {
    /// Shell: bash, elvish, fish, powershell or zsh
    #[arg(help_heading = OUTPUT, value_name = "SHELL")]
    pub shell: Shell,
}
