//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use horizon::base::format::parse_size;
use horizon::base::{DType, Error};
use horizon::data::tokenizer::TokenizerSource;
use horizon::data::{BadLines, DataPath, EncoderSource, Packing};
use horizon::engine::DeviceChoice;
use horizon::host::{Pinning, check_threads};
use horizon::schedule::Mode;
use horizon::train::LrShape;

use crate::placement::PlacementOptions;

/// Trains large language models with the whole model in host RAM.
#[derive(Debug, Parser)]
#[command(
    name = "horizon",
    version,
    about,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on conversations, text or token files
    #[command(after_help = TRAIN_NOTES, args_override_self = true, allow_negative_numbers = true)]
    Train(Box<TrainOptions>),
    /// Show this machine, its devices and the built-in shapes; or a checkpoint
    Info(InfoOptions),
    /// Continue a text, or answer a question
    #[command(allow_negative_numbers = true)]
    Sample(SampleOptions),
    /// Write text or JSONL as a token file, with document bounds and what is learned of each
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Tokenize(TokenizeOptions),
    /// Say how fast a model would train, and what it would take, on this machine or another
    #[command(after_help = PLAN_NOTES, args_override_self = true, allow_negative_numbers = true)]
    Plan(PlanOptions),
    /// Measure this machine for the plan; takes a minute or two, more while other processes are at work
    #[command(allow_negative_numbers = true)]
    Calibrate(CalibrateOptions),
    /// Draw logs (loss, throughput, memory) or traces (what every lane did) as an SVG
    Plot(PlotOptions),
}

const PLAN_NOTES: &str = "Nothing is run and no weights are needed. Of all placements that fit, the one with the least simulated step \
time is shown; what you fix by an option stays fixed. Shapes known by name: tiny, small; qwen2.5-0.5b, -1.5b, -3b, -7b, -14b, -32b, \
-72b; llama3.1-8b, -70b, -405b; dense-120b, dense-1t. Machines known by name: cpu, h200, gh200, h100-pcie, a100-pcie, rtx4090, rtx3090.";

#[derive(Args, Debug)]
pub struct PlanOptions {
    /// A Hugging Face folder (its config.json alone is read), or a shape by name
    #[arg(long, value_name = "DIR|SHAPE")]
    pub model: String,
    /// Tokens of a sequence [default: 4096, or the model's maximum, if less]
    #[arg(long, value_name = "S", value_parser = positive)]
    pub seq_len: Option<usize>,
    /// Sequences of a micro-batch
    #[arg(long, value_name = "B", default_value_t = 4, value_parser = positive)]
    pub micro_batch: usize,
    /// Micro-batches of a step, their gradients summed
    #[arg(long, value_name = "G", default_value_t = 8, value_parser = positive)]
    pub grad_accum: usize,
    /// Whether gradients are clipped: 0 turns clipping off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub clip: f64,
    /// What the host keeps of a parameter: exact (14 bytes), streamed (12 bytes) or compact (10, or 8 where gradients
    /// wait on the device)
    #[arg(long, default_value = "exact", value_parser = parse_mode)]
    pub mode: Mode,
    /// What gradients are rounded to when they leave the device; f32 takes 2 more bytes a parameter
    #[arg(long, default_value = "bf16")]
    pub grad_dtype: Number,
    /// Most device memory to take, e.g. 80GiB [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub device_mem: Option<usize>,
    /// Most host memory to take, e.g. 1.5TB [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub host_mem: Option<usize>,
    #[command(flatten)]
    pub placement: PlacementOptions,
    /// Write the simulated step, and two before it, to FILE, for `horizon plot`, Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct CalibrateOptions {
    /// Where the description goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What the description is called
    #[arg(long, default_value = "here")]
    pub name: String,
    /// CPU threads that share a job [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// How often a measurement is taken, at most, while other processes are at work
    #[arg(long, value_name = "N", value_parser = positive, default_value = "3")]
    pub tries: usize,
    /// The device to measure: auto, cpu, cuda, or cuda:I for the I-th CUDA device
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub device: DeviceChoice,
    /// Measure on a CUDA device also by which algorithm each product of this model, a Hugging Face folder or a shape by name,
    /// takes the least time; the table goes beside --out FILE, as FILE.products.json, where `train --machine FILE` finds it
    #[arg(long, value_name = "DIR|SHAPE", required_if_eq("only_products", "true"))]
    pub products: Option<String>,
    /// With --products, measure nothing else: the table goes to --out, for `train --products`
    #[arg(long, conflicts_with_all = ["name", "threads", "tries"])]
    pub only_products: bool,
    /// With --products, tokens of a sequence
    #[arg(long, value_name = "S", default_value_t = 1024, value_parser = positive, requires = "products")]
    pub seq_len: usize,
    /// With --products, sequences of a micro-batch
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = positive, requires = "products")]
    pub micro_batch: usize,
}

#[derive(Args, Debug)]
pub struct PlotOptions {
    /// Logs that `horizon train --log` wrote, overlaid; or traces that `--trace` wrote
    #[arg(value_name = "RUN.jsonl|TRACE.json", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the picture goes
    #[arg(long, value_name = "FILE.svg", default_value = "plot.svg")]
    pub out: PathBuf,
}

const TRAIN_NOTES: &str = "Without --model and --data it trains the built-in shape `tiny`, byte by byte, on the sources this program was \
built from. Ctrl-C finishes the step that runs, writes a checkpoint if there is a place for them, exports, and ends with status 130; a second \
one ends at once.";

#[derive(Args, Debug)]
pub struct TrainOptions {
    /// A Hugging Face folder (config.json, *.safetensors; Llama, Mistral, Qwen2, Qwen3), or a built-in shape: tiny, small
    #[arg(long, value_name = "DIR|SHAPE", default_value = "tiny")]
    pub model: String,
    /// Start a folder's model from fresh weights (GPT-2's: normal 0.02); a built-in shape always does
    #[arg(long, conflicts_with = "resume")]
    pub init: bool,
    /// JSONL (.jsonl, .json: text, tokens, prompt and completion, alpaca, messages, sharegpt), text files, folders of
    /// text (every file a document), or token files (.bin of llm.c or `horizon tokenize`, .u16, .u32). PATH:2 is
    /// taken twice an epoch, PATH:0.5 half of it [default for a built-in shape: the sources of this program]
    #[arg(long, value_name = "PATH[:WEIGHT]", num_args = 1.., value_parser = parse_data)]
    pub data: Vec<DataPath>,
    /// Validation data, as for --data
    #[arg(long, value_name = "PATH", num_args = 1.., value_parser = parse_data)]
    pub val: Vec<DataPath>,
    /// Hold out this share of the data's windows for validation, evenly spread
    #[arg(long, value_name = "X", conflicts_with = "val")]
    pub val_fraction: Option<f64>,
    #[command(flatten)]
    pub encoding: EncodingOptions,
    /// How documents become windows: auto (whole where a part of them is not learned, as in conversations),
    /// stream (end to end, nothing is lost), documents (whole; longer ones are truncated, and counted)
    #[arg(long, default_value = "auto")]
    pub pack: Pack,
    /// Steps between validations; one follows the last step in any case (0: only that one)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub val_every: u64,
    /// Micro-batches of a validation at most, drawn once from all over its data
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub val_batches: usize,
    /// Optimizer steps [default: one pass over --data; 500 on the built-in data]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Tokens of a sequence [default: 128 for a built-in shape, else 1024 or the model's maximum, if less]
    #[arg(long, value_name = "S", value_parser = positive)]
    pub seq_len: Option<usize>,
    /// Sequences of a micro-batch
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = positive)]
    pub micro_batch: usize,
    /// Micro-batches of a step, their gradients summed
    #[arg(long, value_name = "G", default_value_t = 1, value_parser = positive)]
    pub grad_accum: usize,
    /// Peak learning rate [default: 3e-3 for a built-in shape, for a folder 2e-5, with --init 3e-4]
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// Least learning rate [default: a tenth of --lr]
    #[arg(long, value_name = "X")]
    pub min_lr: Option<f64>,
    /// Steps over which the rate rises in a straight line [default: 5 % of all]
    #[arg(long, value_name = "N")]
    pub warmup: Option<u64>,
    /// How the rate falls after the warmup; wsd holds it and decays over the last fifth
    #[arg(long, default_value = "cosine")]
    pub schedule: Shape,
    /// Decoupled weight decay, on tensors of two dimensions
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    pub weight_decay: f64,
    /// AdamW: decay of the first moment
    #[arg(long, value_name = "X", default_value_t = 0.9)]
    pub beta1: f64,
    /// AdamW: decay of the second moment
    #[arg(long, value_name = "X", default_value_t = 0.95)]
    pub beta2: f64,
    /// AdamW: added to the root of the second moment
    #[arg(long, value_name = "X", default_value = "1e-8")]
    pub eps: f64,
    /// Largest global gradient norm, exact; 0 turns clipping off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub clip: f64,
    /// What the host keeps: exact (14 bytes a parameter), streamed (12 bytes; needs --clip 0 or --grad-place device),
    /// or compact (10 bytes, 8 with --grad-place device: bf16 moments, rounded at random)
    #[arg(long, default_value = "exact", value_parser = parse_mode)]
    pub mode: Mode,
    /// What gradients are rounded to when they leave the device; f32 takes 2 more bytes a parameter
    #[arg(long, default_value = "bf16")]
    pub grad_dtype: Number,
    /// Where to compute: auto, cpu, cuda, or cuda:I for the I-th CUDA device
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub device: DeviceChoice,
    /// How host memory is pinned for a CUDA device: registered (huge pages of ours) or allocated (CUDA's allocator)
    #[arg(long, default_value = "registered", value_parser = parse_pinning)]
    pub pinning: Pinning,
    /// The table by which a CUDA device multiplies, which `horizon calibrate` wrote for this device and its cuBLASLt
    /// [default: what lies beside --machine FILE as FILE.products.json, else cuBLASLt's first choices]
    #[arg(long, value_name = "FILE")]
    pub products: Option<PathBuf>,
    /// Most device memory to take, e.g. 512MiB [default: what the plan needs]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub device_mem: Option<usize>,
    /// Host memory that may be taken, e.g. 48G, instead of what the system reports as available; more than that is taken
    /// with a warning, for virtual machines whose memory grows as it is used
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub host_mem: Option<usize>,
    /// CPU threads that share a job; never changes a bit of the result [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// Decides fresh weights and the order of the data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Take the data in order instead of shuffling it every epoch
    #[arg(long)]
    pub no_shuffle: bool,
    /// Folder to export the model to at the end, for Hugging Face; replaces an earlier export, nothing else
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What is exported: the bf16 weights, or their f32 masters
    #[arg(long, default_value = "bf16", requires = "out")]
    pub export_dtype: Number,
    /// Folder of checkpoints, from which a run goes on bit for bit: new, empty, or that of --resume. There is one after the
    /// last step and where the run is stopped; each takes as many bytes a parameter as the mode, less the gradient's
    /// [default: that of --resume]
    #[arg(long, value_name = "DIR")]
    pub checkpoint_dir: Option<PathBuf>,
    /// Steps between checkpoints, written while the next steps run (0: only the last) [default: 0]
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints to keep; the oldest go once a new one is whole [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub keep: Option<usize>,
    /// Go on from a checkpoint, or from the latest in a folder of checkpoints. Options, data and log are those of that run;
    /// of what is given anew, paths and places may differ, and what would change bits is refused by name
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Options that may differ from the checkpoint's, e.g. mode,lr: the run then goes on otherwise than it would have. Between
    /// f32 and bf16, moments are rounded to nearest
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "resume")]
    pub resume_change: Vec<String>,
    /// Write a JSON object per step to FILE (replaced; with --resume its steps so far are kept): step, loss, grad_norm, lr,
    /// tokens (padding left out), epoch, step_seconds, data_seconds (of these, waiting for data), tokens_per_second,
    /// tflops (10^12 useful FLOP/s: 6·P_matmul·tokens + causal attention, no recompute), rss_bytes, val_loss;
    /// predicted_step_seconds, and lanes: for compute, h2d, d2h, host (AdamW) and disk (saves) busy_seconds, which it was at
    /// work on since the record before, and predicted_seconds, the plan's for a step
    #[arg(long, value_name = "FILE.jsonl")]
    pub log: Option<PathBuf>,
    /// Write what every lane did to FILE at the end, and what the plan has it do, for `horizon plot`, Perfetto or
    /// chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub placement: PlacementOptions,
}

#[derive(Args, Debug)]
pub struct InfoOptions {
    /// A checkpoint, or a folder of checkpoints, to show instead of the machine
    #[arg(value_name = "DIR", conflicts_with = "measure")]
    pub checkpoint: Option<PathBuf>,
    /// Read all of the checkpoint and compare every checksum
    #[arg(long, requires = "checkpoint")]
    pub check: bool,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
    /// Measure memory and AdamW, too: takes a second or two, and half a GiB
    #[arg(long)]
    pub measure: bool,
}

#[derive(Args, Debug)]
pub struct SampleOptions {
    /// A Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// The text to continue; with --chat what the user says
    #[arg(long, value_name = "TEXT", default_value = "\n", allow_hyphen_values = true)]
    pub prompt: String,
    /// Ask by the model's chat template, and show the answer
    #[arg(long)]
    pub chat: bool,
    /// A chat template instead of the model's
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub chat_template: Option<PathBuf>,
    /// Tokens to draw at most; the model may end before
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub tokens: usize,
    /// How freely to draw; 0 takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    pub temperature: f64,
    /// Equal seeds draw equal texts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Where to compute: auto, cpu, cuda, or cuda:I for the I-th CUDA device
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub device: DeviceChoice,
    /// CPU threads that share a job [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shape {
    Constant,
    Linear,
    Cosine,
    Wsd,
}

impl From<Shape> for LrShape {
    fn from(shape: Shape) -> LrShape {
        match shape {
            Shape::Constant => LrShape::Constant,
            Shape::Linear => LrShape::Linear,
            Shape::Cosine => LrShape::Cosine,
            Shape::Wsd => LrShape::Wsd,
        }
    }
}

#[derive(Args, Debug)]
pub struct TokenizeOptions {
    /// The model whose tokens are written: a Hugging Face folder, or a built-in shape (bytes)
    #[arg(long, value_name = "DIR|SHAPE")]
    pub model: String,
    /// JSONL, text files, folders of text
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// The token file, for --data; replaced when the new one is whole
    #[arg(long, value_name = "FILE.bin", value_parser = parse_out)]
    pub out: PathBuf,
    #[command(flatten)]
    pub encoding: EncodingOptions,
    /// Threads that tokenize [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// From what is said to tokens.
#[derive(Args, Debug)]
pub struct EncodingOptions {
    /// A chat template (Jinja) instead of the model's
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Pass over lines that cannot be used, and count them, instead of ending with an error
    #[arg(long)]
    pub skip_bad_lines: bool,
}

impl EncodingOptions {
    /// What opens tokenizer and template.
    pub fn encoder(&self, tokenizer: TokenizerSource) -> EncoderSource {
        EncoderSource { tokenizer, chat_template: self.chat_template.clone() }
    }

    /// What is done about bad lines.
    pub fn bad_lines(&self) -> BadLines {
        if self.skip_bad_lines { BadLines::Skip } else { BadLines::Refuse }
    }
}

/// How documents become windows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Pack {
    Auto,
    Stream,
    Documents,
}

impl From<Pack> for Packing {
    fn from(pack: Pack) -> Packing {
        match pack {
            Pack::Auto => Packing::Auto,
            Pack::Stream => Packing::Stream,
            Pack::Documents => Packing::Documents,
        }
    }
}

fn parse_data(text: &str) -> Result<DataPath, String> {
    DataPath::parse(text).map_err(|error| error.message().to_owned())
}

fn parse_out(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "bin") {
        Ok(path)
    } else {
        Err("its name must end in .bin, by which --data knows it".to_owned())
    }
}

/// Number formats.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Number {
    Bf16,
    F32,
}

impl From<Number> for DType {
    fn from(number: Number) -> DType {
        match number {
            Number::Bf16 => DType::Bf16,
            Number::F32 => DType::F32,
        }
    }
}

fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    text.parse().map_err(|error: Error| error.message().to_owned())
}

fn parse_pinning(text: &str) -> Result<Pinning, String> {
    match text {
        "registered" => Ok(Pinning::Registered),
        "allocated" => Ok(Pinning::Allocated),
        _ => Err("it must be registered or allocated".to_owned()),
    }
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "exact" => Ok(Mode::Exact),
        "streamed" => Ok(Mode::Streamed),
        "compact" => Ok(Mode::Compact),
        _ => Err("it must be exact, streamed or compact".to_owned()),
    }
}

fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = positive(text)?;
    check_threads(threads).map_err(|error| error.message().to_owned())?;
    Ok(threads)
}

pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("it must be a whole number".to_owned()),
    }
}
