//! Measurements that other systems' authors published, compared with simulated steps.

use horizon::base::{DType, Dims, Shape};
use horizon::engine::TrainerOptions;
use horizon::model::{Layout, ModelConfig, Recompute, shape};
use horizon::ops::NormSpan;
use horizon::plan::{Description, Plan};
use horizon::schedule::{AdamWhen, Boundary, LayerPlacement, Mode, Placement, Policy};
use support::bench::median;

use crate::original;
use crate::report::{Report, grouped, tokens};
use crate::simulated::{T, exact_or_compact};

/// Host RAM of the workstations, in bytes: SlideFormer's run of the 14B model takes 211 GiB.
const WORKSTATION: usize = 256 << 30;

/// A throughput as its authors state it.
#[derive(Clone, Copy)]
enum Speed {
    /// Tokens per second.
    Tokens(f64),
    /// 10¹² FLOP/s, counted as 6 · parameters a token: with embedding and padding, without
    /// attention.
    SixP(f64),
}

/// A schedule that can be simulated.
#[derive(Clone, Copy, PartialEq)]
enum Schedule {
    MegaTrain,
    SlideFormer,
    /// One that our operations cannot express.
    Other,
}

/// A published measurement, with sequences of 1024 tokens.
struct Published {
    system: &'static str,
    schedule: Schedule,
    /// A built-in machine.
    machine: &'static str,
    model: &'static str,
    /// Sequences of a step, and whether the authors state them.
    sequences: (usize, bool),
    speed: Speed,
    /// True if the row is in the table for the README.
    readme: bool,
}

const fn megatrain(
    machine: &'static str,
    model: &'static str,
    sequences: (usize, bool),
    tflops: f64,
    readme: bool,
) -> Published {
    let (system, schedule, speed) = ("MegaTrain", Schedule::MegaTrain, Speed::SixP(tflops));
    Published { system, schedule, machine, model, sequences, speed, readme }
}

const fn slideformer(model: &'static str, per_second: f64, readme: bool) -> Published {
    let (system, schedule) = ("SlideFormer", Schedule::SlideFormer);
    let speed = Speed::Tokens(per_second);
    Published { system, schedule, machine: "rtx4090", model, sequences: (64, true), speed, readme }
}

const fn llmq(
    machine: &'static str,
    model: &'static str,
    sequences: (usize, bool),
    per_second: f64,
    readme: bool,
) -> Published {
    let (system, schedule) = ("LLMQ", Schedule::Other);
    Published { system, schedule, machine, model, sequences, speed: Speed::Tokens(per_second), readme }
}

/// See [`SOURCES`].
const PUBLISHED: [Published; 17] = [
    slideformer("qwen3-4b", 65_536.0 / 14.4166, false),
    slideformer("qwen3-8b", 2398.0, true),
    slideformer("qwen3-14b", 1405.3, true),
    megatrain("gh200", "qwen2.5-7b", (158, true), 284.0, true),
    megatrain("gh200", "qwen2.5-14b", (96, true), 264.0, false),
    megatrain("h100-sxm", "qwen2.5-7b", (160, false), 272.0, true),
    megatrain("h100-sxm", "qwen2.5-32b", (96, true), 259.0, false),
    megatrain("a100-pcie", "qwen2.5-7b", (160, false), 128.0, true),
    megatrain("a100-pcie", "qwen2.5-14b", (96, false), 122.0, false),
    megatrain("a100-pcie", "qwen2.5-32b", (96, false), 114.0, false),
    megatrain("rtx3090", "qwen2.5-7b", (5, true), 35.0, false),
    megatrain("rtx3090", "qwen2.5-14b", (3, true), 30.0, true),
    llmq("rtx4090", "qwen2.5-7b", (512, true), 2778.0, true),
    llmq("rtx4090", "qwen2.5-14b", (512, true), 1349.0, false),
    llmq("rtx5090", "qwen2.5-7b", (64, false), 3100.0, true),
    llmq("h100-sxm", "qwen2.5-7b", (512, true), 13_830.0, true),
    llmq("h100-sxm", "qwen2.5-14b", (512, true), 6325.0, false),
];

/// The sources of [`PUBLISHED`].
pub const SOURCES: [&str; 4] = [
    "**SlideFormer** (arXiv 2603.16428): docs/user-guide/slideformer_megatron_fl.md of flagos-ai/Megatron-LM-FL, native \
     runs. PyTorch; f32 master and AdamW on the CPU, one micro-batch a step, no clipping, every layer recomputed. Its \
     schedule is simulated as mode streamed with full recompute, all boundaries spilled, one sweep, two weight slots.",
    "**MegaTrain** (arXiv 2604.05091v1, figure 1, tables 4, 7, 9, as several reviews that agree quote them; H100: README of \
     DLYuanGod/MegaTrain). PyTorch; bf16 parameters without an f32 master. Its authors state TFLOP/s; its code counts 6 · \
     parameters a token, padding included (examples/sft/train.py), by which they are converted to tokens/s here. They do not \
     say which H100; an SXM one is simulated. Its schedule is in `benches/plan/original.rs`.",
    "**LLMQ** (IST-DASLab/llmq at b77d969, benchmarks/4090x1.md, H100x1.md, README): bf16 runs. C++/CUDA; AdamW on the GPU \
     with bf16 moments, in host RAM where they do not fit. Our operations have no AdamW on the GPU, so its schedule is not \
     simulated. Its README gives two step sizes for RTX 5090; the one of the command is taken.",
    "**KTransformers** (kvcache-ai/ktransformers, commit 924754a): full fine-tuning of a mixture of experts that computes and \
     trains experts on the CPU. Horizon does not train mixtures of experts yet, so there is no simulated figure next to it.",
];

/// KTransformers' figure, which has no simulated counterpart.
const KTRANSFORMERS: [&str; 5] = ["KTransformers", "one PCIe GPU", "Qwen3-30B-A3B (MoE)", "4,096", "254"];

/// A measurement compared with simulated steps.
pub struct Compared {
    readme: bool,
    /// System, machine, model, tokens of a step, published, the same schedule simulated, ratio,
    /// ours simulated.
    cells: Vec<String>,
    /// Useful 10¹² FLOP/s of ours, and the busiest lane.
    more: [String; 2],
}

/// Compares every published measurement.
pub fn compared() -> Vec<Compared> {
    PUBLISHED.iter().map(compare).collect()
}

/// The shape of a model: a built-in one, or one of those that SlideFormer is measured on.
fn config_of(model: &str) -> ModelConfig {
    if let Some(config) = shape(model) {
        return config;
    }
    let (c, l, h, f, tied) = match model {
        "qwen3-4b" => (2560, 36, 32, 9728, true),
        "qwen3-8b" => (4096, 36, 32, 12_288, false),
        "qwen3-14b" => (5120, 40, 40, 17_408, false),
        _ => panic!("no shape {model}"),
    };
    let dims = Dims { c, h, g: 8, d: 128, f, v: 151_936, l };
    ModelConfig { tied, qk_norm: Some(NormSpan::Head), positions_max: 40_960, ..ModelConfig::llama(dims) }
}

/// A built-in machine; a workstation has the RAM of the published runs.
fn machine_of(name: &str) -> Description {
    let machine = Description::shipped(name).expect("a built-in machine");
    if matches!(name, "rtx4090" | "rtx5090") {
        return Description { host_bytes: WORKSTATION, ..machine };
    }
    machine
}

/// Published tokens per second, and those of the same schedule simulated, where it can be.
fn measured_and_simulated(published: &Published) -> (f64, Option<f64>) {
    let (config, machine) = (config_of(published.model), machine_of(published.machine));
    let sequences = published.sequences.0;
    let measured = match published.speed {
        Speed::Tokens(per_second) => per_second,
        Speed::SixP(tflops) => tflops / six_p(&config),
    };
    let seconds = match published.schedule {
        Schedule::MegaTrain => Some(original::seconds(&config, &machine, sequences, T)),
        Schedule::SlideFormer => Some(slideformer_seconds(&config, &machine, sequences)),
        Schedule::Other => None,
    };
    (measured, seconds.map(|seconds| (sequences * T) as f64 / seconds))
}

/// 10¹² FLOP a token as MegaTrain counts them.
pub fn six_p(config: &ModelConfig) -> f64 {
    6.0 * Layout::new(config).parameters() as f64 / 1e12
}

fn compare(published: &Published) -> Compared {
    let (sequences, stated) = published.sequences;
    let (measured, same) = measured_and_simulated(published);
    let (config, machine) = (config_of(published.model), machine_of(published.machine));
    let (ours, mode) = exact_or_compact(published.model, &config, &machine, sequences);
    let ours = ours.unwrap_or_else(|error| panic!("{} on {}: {error}", published.model, published.machine));
    Compared {
        readme: published.readme,
        cells: vec![
            published.system.to_owned(),
            published.machine.to_owned(),
            published.model.to_owned(),
            format!("{}{}", grouped((sequences * T) as u64), if stated { "" } else { " ?" }),
            match published.speed {
                Speed::Tokens(per_second) => grouped(per_second.round() as u64),
                Speed::SixP(_) => tokens(measured),
            },
            same.map_or("–".to_owned(), tokens),
            same.map_or("–".to_owned(), |same| format!("{:.2}", same / measured)),
            format!("{}{mode}", tokens(ours.tokens_per_second)),
        ],
        more: [format!("{:.0}", ours.tflops), ours.explanation.busiest.to_string()],
    }
}

/// Simulates a step of SlideFormer's schedule, in seconds. Device memory is not checked.
fn slideformer_seconds(config: &ModelConfig, machine: &Description, sequences: usize) -> f64 {
    let layout = Layout::new(config);
    let options = TrainerOptions {
        mode: Mode::Streamed,
        clip: 0.0,
        shape: Shape { b: sequences, t: T },
        ..TrainerOptions::default()
    };
    let numeric = options.numeric(&layout, DType::Bf16).expect("good options");
    let layer = LayerPlacement {
        recompute: Recompute::Full,
        boundary: Boundary::Spilled,
        ..LayerPlacement::default()
    };
    let placement = Placement {
        adam: AdamWhen::UnderBackward,
        layers: vec![layer; config.dims.l],
        ..Placement::default()
    };
    let policy = Policy { mode: options.mode, numeric, placement };
    let plan = Plan::new(config, &layout, policy, 1, DType::Bf16).expect("a plan");
    plan.predict(&layout, &machine.rates, 1).expect("a valid policy").step_ns as f64 / 1e9
}

/// The error of the simulator: simulated over published throughput of schedules that it can
/// simulate.
pub struct SimulatorError {
    /// By machine, in the order of [`PUBLISHED`].
    ratios: Vec<(&'static str, Vec<f64>)>,
    /// MegaTrain's 7B model on GH200, 10¹² FLOP/s: published and simulated.
    gh200: (f64, f64),
}

impl SimulatorError {
    /// The error over all published measurements.
    pub fn of_published() -> SimulatorError {
        let (mut ratios, mut gh200) = (Vec::<(&str, Vec<f64>)>::new(), None);
        for published in &PUBLISHED {
            let (measured, Some(same)) = measured_and_simulated(published) else { continue };
            match ratios.iter_mut().find(|(machine, _)| *machine == published.machine) {
                Some((_, ratios)) => ratios.push(same / measured),
                None => ratios.push((published.machine, vec![same / measured])),
            }
            if (published.machine, published.model) == ("gh200", "qwen2.5-7b") {
                let six_p = six_p(&config_of(published.model));
                gh200 = Some((measured * six_p, same * six_p));
            }
        }
        SimulatorError { ratios, gh200: gh200.expect("MegaTrain is measured on GH200") }
    }

    fn all(&self) -> Vec<f64> {
        self.ratios.iter().flat_map(|(_, ratios)| ratios).copied().collect()
    }

    /// One sentence for captions.
    pub fn short(&self) -> String {
        let all = self.all();
        format!(
            "The simulator's error: simulated throughput is {:.2} times the published one in the median of {} measurements of \
             other systems ({}), so expect less than this table in most cases.",
            median(all.iter().copied()),
            all.len(),
            range(&all)
        )
    }

    /// One paragraph for captions.
    pub fn text(&self) -> String {
        let all = self.all();
        let ranges: Vec<String> =
            self.ratios.iter().map(|(machine, ratios)| format!("{} on {machine}", range(ratios))).collect();
        let (published, simulated) = self.gh200;
        format!(
            "The simulator's error: over {} published measurements, simulated over published throughput of the same \
             schedule has a median of **{:.2}** ({}). It gives MegaTrain's schedule {simulated:.0} TFLOP/s on GH200, where \
             its authors measured {published:.0} (both count 6 · parameters a token). It models no interpreter \
             overhead, no unfused kernels and no throttling, so expect less than simulated in most cases; a ratio below 1 \
             means that the machine was faster than its description.",
            all.len(),
            median(all.iter().copied()),
            ranges.join(", ")
        )
    }
}

/// The least and the most of some ratios.
fn range(ratios: &[f64]) -> String {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{least:.2} to {most:.2}")
}

/// Adds the table of all measurements to the file of simulated steps.
pub fn section(report: &mut Report, rows: &[Compared]) {
    let mut head = HEAD.to_vec();
    head[HEAD.len() - 1] = "Horizon";
    head.extend(["TFLOP/s", "busiest"]);
    let dashes = vec!["–".to_owned(); head.len() - KTRANSFORMERS.len()];
    let last = KTRANSFORMERS.map(str::to_owned).into_iter().chain(dashes).collect();
    let all: Vec<Vec<String>> =
        rows.iter().map(|row| row.cells.iter().chain(&row.more).cloned().collect()).chain([last]).collect();
    report.table(&head, &all);
}

const HEAD: [&str; 8] =
    ["system", "machine", "model", "tokens a step", "published", "simulated", "ratio", "Horizon, simulated"];

/// Writes the table for the README.
pub fn write_readme(rows: &[Compared], error: &SimulatorError) {
    let mut report = Report::default();
    let dashes = vec!["–".to_owned(); HEAD.len() - KTRANSFORMERS.len()];
    let last = KTRANSFORMERS.map(str::to_owned).into_iter().chain(dashes).collect();
    let chosen: Vec<Vec<String>> =
        rows.iter().filter(|row| row.readme).map(|row| row.cells.clone()).chain([last]).collect();
    report.table(&HEAD, &chosen);
    report.paragraph(
        "Tokens per second, bf16, sequences of 1024 tokens. *Published*: measured by the authors of the \
         system (MegaTrain's are converted from TFLOP/s, and quoted from reviews). *Simulated*: the same schedule, by `cargo bench --bench plan -- simulated`; *ratio*: simulated over published. A question mark: a step size \
         that the authors do not state. Horizon does not train mixtures of experts yet. Sources: \
         [plan-simulated.md](benches/results/plan-simulated.md).",
    );
    report.paragraph(&error.text());
    report.write("readme-peers.md");
}
