//! Options of `horizon train`.

use std::path::PathBuf;

use clap::Args;
use horizon::base::format::parse_size;
use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{BadLines, DataPath, EncoderSource};

use crate::chat_worker::encoder;
use horizon::engine::DeviceChoice;
use horizon::host::Pinning;
use horizon::schedule::Mode;

use super::heading::{CHECKPOINTS, DATA, DEVICE, MEMORY, MODEL, OPTIMIZATION, OUTPUT};
use super::values::{self, Number, Pack, Shape, positive};
use crate::placement::PlacementOptions;

#[derive(Args, Debug)]
pub struct TrainOptions {
    /// Hugging Face folder, or a built-in model: tiny, small
    ///
    /// A folder holds config.json, *.safetensors and, to train on text, tokenizer.json. Without
    /// tokenizer.json, text is read as bytes if the vocabulary has 256 to 384 tokens, and refused
    /// otherwise. The built-in models read bytes and start from random weights. Families, by
    /// model_type: llama, mistral, qwen2, qwen3, smollm3, granite, seed_oss, phi3, olmo2, olmo3,
    /// exaone4, glm, glm4, helium, gemma3_text, cwm, ministral3.
    ///
    /// Links are followed. A file that exports copy (tokenizer, chat template, generation config)
    /// may be a link out of the folder only into the Hugging Face cache, to a file of the same name,
    /// or to one named by its hash (git-annex, DVC).
    #[arg(long, help_heading = MODEL, value_name = "DIR|NAME", default_value = "tiny")]
    pub model: String,
    /// Train from scratch: ignore the folder's weights
    ///
    /// Weights start from random numbers, normal with standard deviation 0.02 as in GPT-2. Built-in
    /// models always do. Not with --resume, unless --checkpoint-dir names the same folder.
    #[arg(long, help_heading = MODEL)]
    pub init: bool,

    /// Training data: JSONL, Parquet, CSV, text, folders, token files
    ///
    /// Rows: JSON objects, one per line or in one array, Parquet, CSV or TSV with a header; also
    /// compressed (.gz, .zst). They have `messages`, `conversations` (ShareGPT), `prompt` and
    /// `completion`, `instruction` and `output` (Alpaca), `text`, or `tokens` with optional
    /// `labels` or `loss_mask`. Only the assistant's turns, completions and outputs are trained on,
    /// each to the token that ends it and not the newline behind; prompts are masked from the loss.
    /// `horizon man --formats` prints all formats and fields.
    ///
    /// Text: each file is a document, and so is an open pipe: /dev/stdin, <(command).
    ///
    /// Refused: named pipes, devices, rows above 128 MiB or with millions of values, texts above 16
    /// GiB, compressed files and Parquet that expand to more than 32 MiB and 200 times their size,
    /// and files that become longer while they are read. A tokenizer takes about 280 bytes of
    /// memory per token of one text or row: split texts of many million tokens.
    ///
    /// Folders: the files below, of rows or else of text; links to files are followed. Not read:
    /// hidden files and folders named target; next to rows also README, LICENSE and other
    /// descriptions, binary and token files, and those of the test and validation splits, by their
    /// names. What is not read and may be data is a warning.
    ///
    /// Token files: .bin of llm.c or of `horizon tokenize`, .u16, .u32.
    ///
    /// PATH:2 is read twice per epoch, PATH:0.5 half of it. Default for a built-in model: the
    /// source code of this program.
    #[arg(long, help_heading = DATA, value_name = "PATH[:WEIGHT]", num_args = 1.., value_parser = values::data_path)]
    pub data: Vec<DataPath>,
    /// Validation data, in the formats of --data
    ///
    /// Of a folder with rows for validation or test, by the names of its files, and others: only the
    /// former. --data takes only the others.
    #[arg(long, help_heading = DATA, value_name = "PATH", num_args = 1.., value_parser = values::data_path)]
    pub val: Vec<DataPath>,
    /// Share of --data held out for validation, between 0 and 1
    ///
    /// Whole windows are held out, evenly spread over the data.
    #[arg(long, help_heading = DATA, value_name = "X", conflicts_with = "val", value_parser = values::number)]
    pub val_fraction: Option<f64>,
    /// Steps between validations
    ///
    /// A validation always follows the last step; 0 leaves it at that one.
    #[arg(long, help_heading = DATA, value_name = "N", default_value_t = 100, value_parser = values::whole::<u64>)]
    pub val_every: u64,
    /// Micro-batches per validation, at most
    ///
    /// They are drawn once from all validation data, so that every validation uses the same ones.
    #[arg(long, help_heading = DATA, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub val_batches: usize,
    /// Sequence length in tokens [default: 1024; built-in models: 128]
    ///
    /// The default is never longer than the model's max_position_embeddings.
    #[arg(long, help_heading = DATA, value_name = "TOKENS", value_parser = positive)]
    pub seq_len: Option<usize>,
    /// Packing: `auto`, `stream` or `documents`
    ///
    /// `stream`: documents are concatenated and cut into windows of --seq-len tokens; a remainder
    /// shorter than a window is left out, and so are windows in which nothing is trained on.
    ///
    /// `documents`: each window holds whole documents, with attention and positions of their own;
    /// longer documents are truncated, and their number is reported.
    ///
    /// `auto`: `documents` where a part of them is masked from the loss, as in conversations;
    /// otherwise `stream`.
    #[arg(long, help_heading = DATA, value_name = "HOW", default_value = "auto")]
    pub pack: Pack,
    #[command(flatten)]
    pub encoding: EncodingOptions,
    /// Read the data in order instead of shuffling it every epoch
    #[arg(long, help_heading = DATA)]
    pub no_shuffle: bool,

    /// Optimizer steps [default: one epoch; 500 on the built-in data]
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", value_parser = values::positive_steps)]
    pub steps: Option<u64>,
    /// Sequences per micro-batch
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub micro_batch: usize,
    /// Gradient accumulation: micro-batches per step
    ///
    /// A step trains on --grad-accum × --micro-batch × --seq-len tokens. Each layer is uploaded
    /// once per sweep for all its micro-batches, so more of them hide the transfers better.
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub grad_accum: usize,
    /// Peak learning rate [default: 2e-5; --init 3e-4; built-in 3e-3]
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", value_parser = values::number)]
    pub lr: Option<f64>,
    /// Final learning rate [default: a tenth of --lr]
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", value_parser = values::number)]
    pub min_lr: Option<f64>,
    /// Steps of linear warmup [default: 5 % of all steps]
    ///
    /// Step k of W, counted from 0, has lr · (k + 1)/W, as in llm.c. transformers has lr · k/W, so
    /// that its first step trains nothing.
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", value_parser = values::whole::<u64>)]
    pub warmup: Option<u64>,
    /// Decay after warmup: constant, linear, cosine or wsd
    ///
    /// wsd (warmup, stable, decay) holds the peak and decays over the last fifth of all steps.
    #[arg(long, help_heading = OPTIMIZATION, value_name = "HOW", default_value = "cosine")]
    pub schedule: Shape,
    /// Decoupled weight decay of tensors with two dimensions
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", default_value_t = 0.1, value_parser = values::number)]
    pub weight_decay: f64,
    /// AdamW: decay of the first moment
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", default_value_t = 0.9, value_parser = values::number)]
    pub beta1: f64,
    /// AdamW: decay of the second moment
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", default_value_t = 0.95, value_parser = values::number)]
    pub beta2: f64,
    /// AdamW: added to the square root of the second moment
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", default_value = "1e-8", value_parser = values::number)]
    pub eps: f64,
    /// Maximum global gradient norm; 0: no clipping
    #[arg(long, help_heading = OPTIMIZATION, value_name = "X", default_value_t = 1.0, value_parser = values::number)]
    pub clip: f64,
    /// Seed of fresh weights and data order
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 1, value_parser = values::whole::<u64>)]
    pub seed: u64,

    #[command(flatten)]
    pub state: StateOptions,
    /// Device memory to use, e.g. 20GiB [default: all that is free]
    ///
    /// K, M, G, T and KiB … TiB are powers of 1024; KB, MB, GB, TB are powers of 1000.
    ///
    /// On CUDA, the default leaves 1 GiB free for kernels and handles, at most a sixteenth of the
    /// device's memory.
    #[arg(long, help_heading = MEMORY, value_name = "SIZE", value_parser = parse_size)]
    pub device_mem: Option<usize>,
    /// Host memory to use, e.g. 48GiB [default: all that is available]
    ///
    /// K, M, G, T and KiB … TiB are powers of 1024; KB, MB, GB, TB are powers of 1000.
    ///
    /// May state more than the system reports, with a warning: the memory of some virtual machines
    /// grows as it is used.
    #[arg(long, help_heading = MEMORY, value_name = "SIZE", value_parser = parse_size)]
    pub host_mem: Option<usize>,
    #[command(flatten)]
    pub placement: PlacementOptions,

    /// Folder for checkpoints [default: that of --resume]
    ///
    /// It is new, empty, or that of --resume. A checkpoint is written after the last step and where
    /// the run is stopped; a run resumed from it is bit-identical. It takes the bytes per parameter
    /// of --mode without those of the gradient. --out, --log and --trace may lie in the folder.
    ///
    /// With --resume, another folder than its own makes a branch: a run with an id of its own, which
    /// does not write to the log and the export of the first. If both options name the same folder,
    /// the same command begins the run and, once there is a checkpoint, continues it.
    #[arg(long, help_heading = CHECKPOINTS, value_name = "DIR")]
    pub checkpoint_dir: Option<PathBuf>,
    /// Steps between checkpoints; 0: only the last [default: 0]
    ///
    /// Checkpoints are written while the next steps run.
    #[arg(long, help_heading = CHECKPOINTS, value_name = "N", value_parser = values::whole::<u64>)]
    pub checkpoint_every: Option<u64>,
    /// Number of checkpoints to keep [default: all]
    ///
    /// The oldest are deleted once a new one is complete. After resuming from an earlier step,
    /// checkpoints of later steps are deleted first. To keep them, give another --checkpoint-dir.
    #[arg(long, help_heading = CHECKPOINTS, value_name = "N", value_parser = positive)]
    pub keep: Option<usize>,
    /// Resume from a checkpoint, or the latest in a folder of them
    ///
    /// Options, data and log are those of the checkpoint, unless given again; so are the chat
    /// template and the date that it prints. Paths, devices and placement may differ; an option
    /// that would change the result is refused by name, and data that has changed by its hash.
    ///
    /// In a job script, give the whole command with --checkpoint-dir DIR --resume DIR: it begins the
    /// run, and continues it at every later start. To export a run that is complete: --resume DIR
    /// --out EXPORT.
    ///
    /// --log and --out of the checkpoint are used only if what is there has the run's id, or
    /// nothing is there, in a folder that exists; a warning names those that are not used. A branch
    /// (see --checkpoint-dir) uses neither. A renamed folder is the same folder, and paths that
    /// moved with it are found. Of a copied folder (a backup, or moved to another disk), or one of
    /// another user, no path is used: --data and --val must be given again, and so must --log and
    /// --out, which are continued if they have the copied run's id. Pipes are not noted and must be
    /// given again.
    #[arg(long, help_heading = CHECKPOINTS, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Options allowed to differ from the checkpoint, e.g. mode,lr
    ///
    /// The resumed run will then not be bit-identical to an uninterrupted one. What is computed from
    /// a named option changes with it (warmup with steps, min-lr with lr). With mode, moments are
    /// rounded to nearest from f32 to bf16. Data, model and sequence length cannot change: export,
    /// and begin a new run with --model EXPORT.
    #[arg(long, help_heading = CHECKPOINTS, value_name = "NAME,…", value_delimiter = ',', requires = "resume")]
    pub resume_change: Vec<String>,

    /// Folder for the trained model, in Hugging Face format
    ///
    /// Written after the last step, or where the run is stopped. Replaces an earlier export, and
    /// refuses a folder with other files. Like every output, it must not be, contain or lie inside
    /// an input or another output; only --log and --trace may lie in the folder of a model. A model
    /// with which a resumed run began is an input. The folder is always complete, also when several
    /// runs export to it or one is killed; hidden files `.DIR.partial-*` of a killed run are
    /// removed by the next. horizon.json in it has the run's id.
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Number format of --out: bf16, or f32 (master weights)
    #[arg(long, help_heading = OUTPUT, value_name = "DTYPE", default_value = "bf16", requires = "out")]
    pub export_dtype: Number,
    /// Write a JSON object per step to FILE
    ///
    /// An earlier log is replaced at the first step, any other file is refused. With --resume, the
    /// file must be the log of the same run, empty, or new; only its records of later steps are
    /// removed. Missing folders are created. A link is followed, also to a file that does not exist
    /// yet. /dev/stdout, other open descriptors and /dev/null are appended to. Fields:
    ///
    /// run (the run's id, 32 hexadecimal digits, as in its checkpoints, trace and export); step;
    /// loss (nats per token trained on); grad_norm (before clipping); lr; tokens (without padding);
    /// epoch; val_loss, after a validation.
    ///
    /// step_seconds; data_seconds (the part of it spent waiting for data); tokens_per_second;
    /// tflops (useful 10^12 FLOP/s: 6 per matmul parameter and token, plus causal attention,
    /// without recompute; over the device's peak it is the MFU); rss_bytes (host memory in use).
    ///
    /// predicted_step_seconds; lanes: for compute, h2d (uploads), d2h (downloads), host (AdamW) and
    /// disk (checkpoints) busy_seconds since the previous record, and predicted_seconds per step.
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.jsonl")]
    pub log: Option<PathBuf>,
    /// Write a timeline of all lanes, measured and simulated, to FILE
    ///
    /// Written at the end, as a Chrome trace: for `horizon plot`, Perfetto or chrome://tracing. An
    /// earlier trace is replaced, any other file is refused. Folders, links and /dev are as in
    /// --log.
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Print the whole plan before training
    #[arg(long, short, help_heading = OUTPUT, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print nothing but warnings and errors
    #[arg(long, short, help_heading = OUTPUT)]
    pub quiet: bool,

    #[command(flatten)]
    pub compute: ComputeOptions,
    /// Pinned memory: registered, or allocated
    ///
    /// registered: huge pages allocated by Horizon, registered with CUDA. allocated: CUDA's own
    /// allocator.
    #[arg(
        long, help_heading = DEVICE, value_name = "HOW", default_value = "registered",
        value_parser = values::pinning()
    )]
    pub pinning: Pinning,
    /// GEMM autotune table, from `horizon calibrate --autotune`
    ///
    /// It must be of this GPU and cuBLASLt version. Default: NAME.gemm.json next to --machine
    /// NAME.json, if it exists; otherwise cuBLASLt's first choices.
    #[arg(long, help_heading = DEVICE, value_name = "FILE")]
    pub gemm_table: Option<PathBuf>,
}

/// The training state in host memory.
#[derive(Args, Clone, Copy, Debug)]
pub struct StateOptions {
    /// State in host RAM: exact, streamed or compact
    ///
    /// exact: 14 bytes per parameter. bf16 weights and 16-bit residuals, together f32 master
    /// weights; bf16 gradients; f32 AdamW moments.
    ///
    /// streamed: 12 bytes. Gradients pass through a ring buffer and AdamW runs during the backward
    /// pass, so the global norm is not known in time: needs --clip 0 or --grad-place device.
    ///
    /// compact: 10 bytes, or 8 with --grad-place device. As exact, with bf16 moments, rounded
    /// stochastically.
    #[arg(long, help_heading = MEMORY, value_name = "MODE", default_value = "exact", value_parser = values::mode())]
    pub mode: Mode,
    /// Gradients in host RAM: bf16 or f32
    ///
    /// Gradients are accumulated on the device in f32 and rounded once. f32 takes 2 more bytes per
    /// parameter.
    #[arg(long, help_heading = MEMORY, value_name = "DTYPE", default_value = "bf16")]
    pub grad_dtype: Number,
}

/// The device that computes, and the CPU threads.
#[derive(Args, Clone, Copy, Debug)]
pub struct ComputeOptions {
    /// Device: auto, cpu, cuda, or cuda:N
    ///
    /// auto is the first CUDA device if there is one whose kernels support the model, otherwise the
    /// CPU.
    #[arg(long, help_heading = DEVICE, value_name = "DEVICE", default_value = "auto", value_parser = values::device)]
    pub device: DeviceChoice,
    /// CPU threads [default: all cores]
    ///
    /// They never change the result.
    #[arg(long, help_heading = DEVICE, value_name = "N", value_parser = values::threads)]
    pub threads: Option<usize>,
}

/// The way from JSONL and text to tokens.
#[derive(Args, Debug)]
pub struct EncodingOptions {
    /// Jinja chat template [default: the model's]
    ///
    /// `train` exports it with the model and keeps it in checkpoints, also if the data are token
    /// files. A token file does not contain the template: give it to `tokenize` and to `train`.
    #[arg(long, help_heading = DATA, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Skip and count invalid rows instead of failing
    ///
    /// Rows are lines or elements of JSON, and rows of CSV and Parquet. A path without a valid one
    /// still ends the run.
    #[arg(long, help_heading = DATA)]
    pub skip_bad_lines: bool,
}

impl EncodingOptions {
    /// The tokenizer and chat template to open.
    pub fn encoder(&self, tokenizer: TokenizerSource) -> EncoderSource {
        encoder(tokenizer, self.chat_template.clone())
    }

    /// The treatment of invalid lines.
    pub fn bad_lines(&self) -> BadLines {
        if self.skip_bad_lines { BadLines::Skip } else { BadLines::Refuse }
    }
}
