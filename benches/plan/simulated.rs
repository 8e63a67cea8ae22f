//! Tables of simulated steps on machines that are not here.

use horizon::base::{DType, Dims, Error, Shape};
use horizon::engine::TrainerOptions;
use horizon::model::{Layout, ModelConfig, shape};
use horizon::plan::{Description, Fixed, MemoryLimits, Plan};
use horizon::schedule::{Mode, Placement, Policy};
use horizon::train::metrics::UsefulWork;
use horizon::train::planning::{Planned, Why};

use crate::original;

/// Tokens of a sequence in the original's figures.
const T: usize = 1024;

/// What the original's authors publish of sequences of 1024 tokens: machine, model, TFLOP/s as they write it, and the
/// sequences of a step where they say how many.
///
/// MegaTrain, arXiv 2604.05091v1: figure 1, tables 4, 7 and 9, figure 7; H100: its repository's README.
const PUBLISHED: [(&str, &str, &str, Option<usize>); 10] = [
    ("gh200", "qwen2.5-7b", "284", Some(158)),
    ("gh200", "qwen2.5-14b", "264", Some(96)),
    ("gh200", "qwen2.5-32b", "over 250", None),
    ("h100-pcie", "qwen2.5-7b", "272", None),
    ("h100-pcie", "qwen2.5-32b", "259", Some(96)),
    ("a100-pcie", "qwen2.5-7b", "128", None),
    ("a100-pcie", "qwen2.5-14b", "122", None),
    ("a100-pcie", "qwen2.5-32b", "114", None),
    ("rtx3090", "qwen2.5-7b", "35", Some(5)),
    ("rtx3090", "qwen2.5-14b", "30", Some(3)),
];

/// Of the 7B's layers on GH200, by their number: figure 5 there.
const PUBLISHED_DEPTH: [(usize, f64); 6] =
    [(28, 284.0), (42, 272.0), (56, 264.0), (84, 255.0), (132, 247.0), (180, 227.0)];

/// Of 28 layers on GH200, by how many times their width: figure 6 there.
const PUBLISHED_WIDTH: [(f64, &str); 5] =
    [(1.0, "406"), (3.0, "264"), (3.5, "193"), (4.0, "136"), (5.0, "about 100")];

/// Sequences of a step: what the original's authors say of the model on GH200 and H100 (158, rounded up to our
/// micro-batches), or a quarter of it on 24 GB.
fn batch(machine: &str, model: &str) -> usize {
    let whole = if model == "qwen2.5-7b" { 160 } else { 96 };
    if machine == "rtx3090" { whole / 4 } else { whole }
}

/// Sequences of a step of the tables of depth and width: as many as leave the deepest room beside them.
const SCALED: usize = 64;

/// Sequences of our micro-batch.
const MICRO: usize = 8;

fn useful(config: &ModelConfig, sequences: usize) -> f64 {
    let (tokens, attended) = ((sequences * T) as u64, (sequences * T * (T + 1) / 2) as u64);
    UsefulWork::new(config).flop(tokens, attended, 0)
}

/// The original's simulated step, seconds. Whether its batch fits the device is not asked: its authors say so.
fn original_seconds(config: &ModelConfig, machine: &Description, sequences: usize) -> f64 {
    let layout = Layout::new(config);
    let options = TrainerOptions { shape: Shape { b: sequences, t: T }, ..TrainerOptions::default() };
    let numeric = options.numeric(&layout, DType::Bf16).expect("good options");
    let policy = Policy { mode: Mode::Exact, numeric, placement: Placement::default() };
    let plan = Plan::new(config, &layout, policy.clone(), 1, DType::Bf16).expect("a plan");
    let cost = plan.cost(&layout, plan.micros_max);
    original::step_ns(&plan, &cost, &machine.rates) as f64 / 1e9
}

fn ours(
    name: &str,
    config: &ModelConfig,
    machine: &Description,
    sequences: usize,
    options: TrainerOptions,
) -> horizon::base::Result<Planned> {
    let options = TrainerOptions {
        shape: Shape { b: MICRO.min(sequences), ..options.shape },
        micros_max: sequences / MICRO.min(sequences),
        ..options
    };
    let spill = MemoryLimits::of(machine, None, None);
    Planned::search(name, config, &options, machine, spill, &Fixed::default(), Why::Gains)
}

fn options() -> TrainerOptions {
    TrainerOptions { shape: Shape { b: MICRO, t: T }, ..TrainerOptions::default() }
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

fn head(cells: &[&str]) {
    row(&cells.iter().map(|cell| cell.to_string()).collect::<Vec<_>>());
    row(&vec!["---".to_owned(); cells.len()]);
}

/// Beside each other on one machine: cells from the original's time on. Where exact does not fit, compact, which is named.
fn beside(name: &str, config: &ModelConfig, machine: &Description, sequences: usize) -> Vec<String> {
    let work = useful(config, sequences) / 1e12;
    let original = original_seconds(config, machine, sequences);
    let mut cells = vec![format!("{:.0}", work / original)];
    let in_mode = |mode| ours(name, config, machine, sequences, TrainerOptions { mode, ..options() });
    let (mode, planned) = match in_mode(Mode::Exact) {
        Err(_) => (" (compact)", in_mode(Mode::Compact)),
        exact => ("", exact),
    };
    match planned {
        Ok(planned) => {
            let seconds = planned.found.step_ns as f64 / 1e9;
            cells.push(format!("{:.0}{mode}", work / seconds));
            cells.push(format!("{:.2}", original / seconds));
            cells.push(format!("{:.2} k", planned.tokens_per_second / 1e3));
            cells.push(planned.explanation.busiest.to_string());
        }
        Err(error) => cells.push(refusal(&error)),
    }
    cells
}

/// A refusal's need and advice, without the limits between.
fn refusal(error: &Error) -> String {
    let message = error.message();
    let need = message.split(';').next().unwrap_or(message);
    match message.rsplit_once("bytes short; ") {
        Some((_, advice)) => format!("refused: {need}; {advice}"),
        None => format!("refused: {need}"),
    }
}

const INTRODUCTION: &str = "# Simulated steps

Every figure here but those called published is **simulated**, by `cargo bench --bench plan -- simulated`, from the
descriptions of machines in `src/plan/machines/`, which state the source of each rate. *Original* is MegaTrain's schedule
in our operations (`benches/plan/original.rs`): three forwards and three uploads a layer, AdamW after the step, no
prefetch on the way down. It runs at the same rates as ours, so without what an interpreter and unfused kernels cost it, and
whether its batch fits the device is not asked.

*Published* are its authors' own figures (MegaTrain, arXiv 2604.05091v1, as several reviews that agree quote its figures and
tables; for H100, which is not said to be the PCIe one, its repository's README), with the sequences of a step in
brackets where they are told. All sequences have 1024 tokens. Our
TFLOP/s are useful ones: 6·P_matmul a token + causal attention, no recompute, no padding, no embedding. Theirs count the
embedding and padding, too: at 7B the embedding alone makes them 8 % larger. Where the exact mode (14 bytes a
parameter; the original takes 12, without an f32 master) does not fit, ours is the compact one, and says so.
";

/// All tables.
pub fn tables() {
    println!("{INTRODUCTION}");
    println!("## The original and ours, on its machines\n");
    let columns = [
        "machine",
        "model",
        "sequences",
        "published (sequences)",
        "original",
        "ours",
        "ratio",
        "ours, tokens/s",
        "busiest",
    ];
    head(&columns);
    for machine in ["gh200", "h100-pcie", "a100-pcie", "rtx3090"] {
        let described = Description::shipped(machine).expect("a machine");
        for model in ["qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b"] {
            let config = shape(model).expect("a shape");
            let sequences = batch(machine, model);
            let published = PUBLISHED.iter().find(|(at, of, ..)| (*at, *of) == (machine, model));
            let mut cells = vec![
                machine.to_owned(),
                model.to_owned(),
                sequences.to_string(),
                published.map_or("–".to_owned(), |(.., tflops, at)| match at {
                    Some(at) => format!("{tflops} ({at})"),
                    None => (*tflops).to_owned(),
                }),
            ];
            cells.extend(beside(model, &config, &described, sequences));
            row(&cells);
        }
    }
    depth_and_width();
    large();
}

/// The 7B's layers, more of them; the 7B, wider.
fn depth_and_width() {
    let gh200 = Description::shipped("gh200").expect("a machine");
    let base = shape("qwen2.5-7b").expect("a shape");
    println!("\n## Depth: layers of the 7B on GH200, {SCALED} sequences\n");
    head(&["layers", "parameters", "published", "original", "ours", "ratio", "ours, tokens/s", "busiest"]);
    for (l, published) in PUBLISHED_DEPTH {
        let mut config = base.clone();
        config.dims.l = l;
        scaled(&config, &gh200, l.to_string(), format!("{published:.0}"));
    }
    println!("\n## Width: 28 layers made wider on GH200, {SCALED} sequences\n");
    println!(
        "Published are multiples of a width that what could be read does not name. Of the models used there, two have 28 layers, and"
    );
    println!(
        "of these only the 1.5B (1536 wide) can be made five times as wide in 480 GB: it is taken here.\n"
    );
    head(&["width", "parameters", "published", "original", "ours", "ratio", "ours, tokens/s", "busiest"]);
    let base = shape("qwen2.5-1.5b").expect("a shape");
    for (times, published) in PUBLISHED_WIDTH {
        let wider = |size: usize| (size as f64 * times) as usize;
        let mut config = base.clone();
        config.dims = Dims {
            c: wider(base.dims.c),
            f: wider(base.dims.f),
            h: wider(base.dims.h),
            g: wider(base.dims.g),
            ..base.dims
        };
        scaled(&config, &gh200, format!("{times} × 1536"), published.to_owned());
    }
}

fn scaled(config: &ModelConfig, machine: &Description, what: String, published: String) {
    let parameters = Layout::new(config).parameters();
    let mut cells = vec![what, format!("{:.1} B", parameters as f64 / 1e9), published];
    cells.extend(beside("scaled", config, machine, SCALED));
    row(&cells);
}

/// Columns of the tables of the largest models.
const LARGEST: [&str; 8] =
    ["mode", "clip", "tokens a step", "tokens/s", "TFLOP/s", "host memory", "device memory", "busiest"];

/// The largest models.
fn large() {
    println!("\n## 120B dense on H200 with 1.5 TB of RAM\n");
    head(&LARGEST);
    let h200 = Description::shipped("h200").expect("a machine");
    for sequences in [16, 64, 128] {
        for (mode, clip) in MODES {
            largest("dense-120b", &h200, sequences, mode, clip);
        }
    }
    println!("\n## 1T dense: H200 with as much RAM as it takes\n");
    head(&LARGEST);
    let mut larger = h200.clone();
    larger.host_bytes = 20_000_000_000_000;
    for (mode, clip) in MODES {
        largest("dense-1t", &larger, 64, mode, clip);
    }
}

const MODES: [(Mode, f64); 3] = [(Mode::Exact, 1.0), (Mode::Streamed, 0.0), (Mode::Compact, 1.0)];

fn largest(name: &str, machine: &Description, sequences: usize, mode: Mode, clip: f64) {
    let config = shape(name).expect("a shape");
    let options = TrainerOptions { mode, clip, ..options() };
    let mut cells = vec![
        format!("{mode:?}").to_lowercase(),
        if clip > 0.0 { "exact" } else { "none" }.to_owned(),
        format!("{} k", sequences * T / 1024),
    ];
    match ours(name, &config, machine, sequences, options) {
        Ok(planned) => {
            let plan = planned.plan();
            cells.push(format!("{:.0}", planned.tokens_per_second));
            cells.push(format!("{:.0}", planned.tflops));
            cells.push(format!("{:.2} TB", plan.host.bytes() as f64 / 1e12));
            cells.push(format!("{:.0} GB", plan.device.bytes() as f64 / 1e9));
            cells.push(planned.explanation.busiest.to_string());
        }
        Err(error) => cells.push(refusal(&error)),
    }
    row(&cells);
}
