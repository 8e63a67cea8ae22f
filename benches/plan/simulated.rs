//! Tables of simulated steps on machines that are not here.

use horizon::base::{DType, Error, Shape};
use horizon::engine::TrainerOptions;
use horizon::model::{Layout, ModelConfig, shape};
use horizon::plan::{Cost, Description, Pins, Plan, Room};
use horizon::schedule::{Mode, Placement, Policy};
use horizon::train::metrics::UsefulWork;
use horizon::train::planning::{Planned, Why};

use crate::original;

/// Tokens of a sequence in the original's figures.
const T: usize = 1024;

/// What the original's authors publish, TFLOP/s: its README and paper, as the project's FIELD notes have them.
const PUBLISHED: [(&str, &str, f64); 8] = [
    ("gh200", "qwen2.5-7b", 284.0),
    ("gh200", "qwen2.5-14b", 264.0),
    ("h100-pcie", "qwen2.5-7b", 272.0),
    ("h100-pcie", "qwen2.5-32b", 259.0),
    ("a100-pcie", "qwen2.5-7b", 128.0),
    ("a100-pcie", "qwen2.5-14b", 122.0),
    ("a100-pcie", "qwen2.5-32b", 114.0),
    ("rtx3090", "qwen2.5-14b", 30.0),
];

/// Sequences of a step: the original's published batch for 7B (158) and 32B (96), a number between for 14B; on 24 GB
/// a quarter.
fn batch(machine: &str, model: &str) -> usize {
    let whole = match model {
        "qwen2.5-7b" => 160,
        "qwen2.5-14b" => 128,
        _ => 96,
    };
    if machine == "rtx3090" { whole / 4 } else { whole }
}

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
    let cost = Cost::new(config, &layout, &policy, plan.micros_max, DType::Bf16);
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
    let room = Room::of(machine, None, None);
    Planned::search(name, config, &options, machine, room, &Pins::default(), Why::Gains)
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

/// Beside each other on one machine: cells from the original's time on.
fn beside(name: &str, config: &ModelConfig, machine: &Description, sequences: usize) -> Vec<String> {
    let work = useful(config, sequences) / 1e12;
    let original = original_seconds(config, machine, sequences);
    let mut cells = vec![format!("{:.0}", work / original)];
    match ours(name, config, machine, sequences, options()) {
        Ok(planned) => {
            let seconds = planned.found.step_ns as f64 / 1e9;
            cells.push(format!("{:.0}", work / seconds));
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

/// All tables.
pub fn tables() {
    println!("# Simulated steps\n");
    println!(
        "Every figure here but those called published is **simulated**, by `cargo bench --bench plan -- simulated`, from the"
    );
    println!(
        "descriptions of machines in `src/plan/machines/`, which state the source of each rate. *Original* is MegaTrain's schedule"
    );
    println!(
        "in our operations (`benches/plan/original.rs`): three forwards and three uploads a layer, AdamW after the step, no"
    );
    println!(
        "prefetch on the way down, at the same rates as ours, so without what an interpreter and unfused kernels cost it. TFLOP/s are useful"
    );
    println!(
        "ones (6·P_matmul a token + causal attention, no recompute counted), sequences have {T} tokens.\n"
    );
    println!("## The original and ours, on its machines\n");
    let columns = [
        "machine",
        "model",
        "sequences",
        "original, published",
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
            let published = PUBLISHED.iter().find(|(at, of, _)| (*at, *of) == (machine, model));
            let mut cells = vec![
                machine.to_owned(),
                model.to_owned(),
                sequences.to_string(),
                published.map_or("–".to_owned(), |(_, _, tflops)| format!("{tflops:.0}")),
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
    println!(
        "\nThe authors' own figures for depth and width were not to be found where this could be searched."
    );
    println!("\n## Depth: layers of the 7B on GH200, 128 sequences\n");
    head(&["layers", "parameters", "original", "ours", "ratio", "ours, tokens/s", "busiest"]);
    for l in [28, 42, 56, 84, 112, 140] {
        let mut config = base.clone();
        config.dims.l = l;
        scaled(&config, &gh200, l.to_string());
    }
    println!("\n## Width: the 7B's layers made wider on GH200, 128 sequences\n");
    head(&["width", "parameters", "original", "ours", "ratio", "ours, tokens/s", "busiest"]);
    for (c, heads) in [(3584, 28), (5120, 40), (7168, 56), (8960, 70)] {
        let mut config = base.clone();
        config.dims.c = c;
        config.dims.h = heads;
        // Seven or five query heads to a key head.
        config.dims.g = if heads % 7 == 0 { heads / 7 } else { heads / 5 };
        config.dims.f = base.dims.f * c / base.dims.c / 128 * 128;
        scaled(&config, &gh200, c.to_string());
    }
}

fn scaled(config: &ModelConfig, machine: &Description, what: String) {
    let parameters = Layout::new(config).parameters();
    let mut cells = vec![what, format!("{:.1} B", parameters as f64 / 1e9)];
    cells.extend(beside("scaled", config, machine, 128));
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
