//! Tables of simulated steps on built-in machines.

use horizon::base::{Dims, Error, Result, Shape};
use horizon::engine::TrainerOptions;
use horizon::model::{Layout, ModelConfig, shape};
use horizon::plan::{Description, Fixed, MemoryLimits};
use horizon::schedule::Mode;
use horizon::train::metrics::UsefulWork;
use horizon::train::planning::{Planned, Why};

use crate::peers::{self, SimulatorError};
use crate::report::{Report, tokens};
use crate::{original, report};

/// Tokens of a sequence, as in the published measurements.
pub const T: usize = 1024;

/// Sequences of a micro-batch: the fastest is taken.
const MICROS: [usize; 3] = [4, 8, 16];

/// TFLOP/s of MegaTrain for Qwen2.5-7B with other numbers of layers, on GH200 (arXiv 2604.05091v1,
/// figure 5).
const PUBLISHED_DEPTH: [(usize, f64); 6] =
    [(28, 284.0), (42, 272.0), (56, 264.0), (84, 255.0), (132, 247.0), (180, 227.0)];

/// TFLOP/s of MegaTrain for 28 layers on GH200, by multiples of their width (figure 6).
const PUBLISHED_WIDTH: [(f64, &str); 5] =
    [(1.0, "406"), (3.0, "264"), (3.5, "193"), (4.0, "136"), (5.0, "about 100")];

/// Sequences of a step in the tables of schedules: about what MegaTrain's authors state for GH200
/// and H100, and what SlideFormer's authors state for RTX 4090.
fn sequences(machine: &str, model: &str) -> usize {
    match (machine.starts_with("rtx"), model) {
        (true, _) => 64,
        (false, "qwen2.5-7b") => 160,
        (false, _) => 96,
    }
}

/// Sequences of a step in the tables of depth and width.
const SCALED: usize = 64;

/// The modes of the tables, with the clip norm of each; 0 is no clipping.
pub const MODES: [(Mode, f64); 3] = [(Mode::Exact, 1.0), (Mode::Streamed, 0.0), (Mode::Compact, 1.0)];

/// Finds the fastest plan for a step of at least `sequences` sequences, over sizes of a
/// micro-batch.
fn fastest(
    name: &str,
    config: &ModelConfig,
    machine: &Description,
    sequences: usize,
    (mode, clip): (Mode, f64),
) -> Result<Planned> {
    let with = |b: usize| {
        let b = b.min(sequences);
        let options = TrainerOptions {
            mode,
            clip,
            shape: Shape { b, t: T },
            micros_max: sequences.div_ceil(b),
            ..TrainerOptions::default()
        };
        let spill = MemoryLimits::of(machine, None, None);
        Planned::search(name, config, &options, machine, spill, &Fixed::default(), Why::Times)
    };
    let [first, rest @ ..] = MICROS;
    rest.into_iter().fold(with(first), |best, b| match (best, with(b)) {
        (Ok(best), Ok(other)) if other.tokens_per_second > best.tokens_per_second => Ok(other),
        (Err(_), Ok(other)) => Ok(other),
        (best, _) => best,
    })
}

/// The fastest plan in mode exact, or else in mode compact, with a note that says so.
pub fn exact_or_compact(
    name: &str,
    config: &ModelConfig,
    machine: &Description,
    sequences: usize,
) -> (Result<Planned>, &'static str) {
    let [exact, _, compact] = MODES;
    match fastest(name, config, machine, sequences, exact) {
        Err(_) => (fastest(name, config, machine, sequences, compact), " (compact)"),
        exact => (exact, ""),
    }
}

/// The reason of a refusal in a few words, e.g. `needs 1.5 TiB of host memory`.
fn refusal(error: &Error) -> String {
    let need = error.message().split('(').next().unwrap_or_default();
    need.trim().replace("at least ", "")
}

/// Compares MegaTrain's schedule with ours: its tokens/s and useful TFLOP/s, ours, their ratio, the
/// busiest lane.
fn against_original(
    name: &str,
    config: &ModelConfig,
    machine: &Description,
    sequences: usize,
) -> Vec<String> {
    let (rows, pairs) = ((sequences * T) as u64, (sequences * T * (T + 1) / 2) as u64);
    let work = UsefulWork::new(config).flop(rows, pairs, 0) / 1e12;
    let seconds = original::seconds(config, machine, sequences, T);
    let per_second = rows as f64 / seconds;
    let mut cells = vec![tokens(per_second), format!("{:.0}", work / seconds)];
    match exact_or_compact(name, config, machine, sequences) {
        (Ok(planned), mode) => cells.extend([
            format!("{}{mode}", tokens(planned.tokens_per_second)),
            format!("{:.0}", planned.tflops),
            format!("{:.2}", planned.tokens_per_second / per_second),
            planned.explanation.busiest.to_string(),
        ]),
        (Err(error), _) => {
            cells.extend([refusal(&error), "–".to_owned(), "–".to_owned(), "–".to_owned()]);
        }
    }
    cells
}

const AGAINST_ORIGINAL: [&str; 6] =
    ["MegaTrain's, tok/s", "TFLOP/s", "ours, tok/s", "TFLOP/s", "gain", "busiest"];

fn head(first: &[&'static str]) -> Vec<&'static str> {
    first.iter().chain(&AGAINST_ORIGINAL).copied().collect()
}

/// Writes `plan-simulated.md` and `readme-peers.md`.
pub fn tables() {
    let error = SimulatorError::of_published();
    let compared = peers::compared();
    let mut report = Report::titled("Simulated steps");
    report.paragraph(
        "Written by `cargo bench --bench plan -- simulated`. Every figure is **simulated** from the machine descriptions in \
         `src/plan/machines/`, except those called published: they are their authors' own measurements. Nothing was \
         measured here. TFLOP/s are useful ones: 6 · parameters of matmuls a token + causal attention; no recompute, no \
         padding, no embedding.",
    );
    report.paragraph(&error.text());
    report.section("Published and simulated");
    report.paragraph(
        "Tokens per second, bf16, sequences of 1024 tokens. *Published*: measured by its authors. *Simulated*: the same \
         schedule; *ratio*: simulated over published, the simulator's error. *Horizon*: our fastest plan, simulated, in mode \
         exact with clipping unless it says compact, with its useful TFLOP/s and busiest lane. An RTX 4090 and 5090 have \
         256 GB of RAM here. A question mark: a step size that the authors do not state.",
    );
    peers::section(&mut report, &compared);
    report.paragraph("Sources:");
    peers::SOURCES.iter().for_each(|source| report.paragraph(source));
    schedules(&mut report);
    depth_and_width(&mut report);
    large(&mut report);
    let machines: Vec<&str> = Description::names().filter(|name| *name != "cpu").collect();
    rates(&mut report, &machines);
    report.write("plan-simulated.md");
    peers::write_readme(&compared, &error);
}

/// MegaTrain's schedule and ours at the same rates.
fn schedules(report: &mut Report) {
    report.section("MegaTrain's schedule and ours");
    report.paragraph(
        "Both simulated at the same rates. MegaTrain's schedule (`benches/plan/original.rs`) has three forward passes and \
         three uploads of every layer, no prefetch in backward, and AdamW after the step. Its batch is not compared with \
         device memory. It keeps 12 bytes a parameter, without an f32 master; mode exact keeps 14, with one. Where exact \
         does not fit, ours is compact and says so.",
    );
    let mut rows = Vec::new();
    for machine in ["gh200", "h100-sxm", "h100-pcie", "a100-pcie", "rtx5090", "rtx4090", "rtx3090"] {
        let described = Description::shipped(machine).expect("a built-in machine");
        for model in ["qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b"] {
            let config = shape(model).expect("a built-in shape");
            let sequences = sequences(machine, model);
            let mut cells = vec![machine.to_owned(), model.to_owned(), sequences.to_string()];
            cells.extend(against_original(model, &config, &described, sequences));
            rows.push(cells);
        }
    }
    report.table(&head(&["machine", "model", "sequences"]), &rows);
}

/// MegaTrain's experiments on the number of layers and their width.
fn depth_and_width(report: &mut Report) {
    let gh200 = Description::shipped("gh200").expect("a built-in machine");
    report.section("Depth: more layers of the 7B model on GH200");
    report.paragraph(&format!(
        "The authors do not state the step sizes; {SCALED} sequences are simulated. These ratios of MegaTrain's schedule, \
         simulated, to the published figure are therefore not in the median above."
    ));
    let base = shape("qwen2.5-7b").expect("a built-in shape");
    let rows: Vec<_> = PUBLISHED_DEPTH
        .iter()
        .map(|&(l, tflops)| {
            let config = ModelConfig { dims: Dims { l, ..base.dims }, ..base.clone() };
            let published = tflops / peers::six_p(&config);
            let seconds = original::seconds(&config, &gh200, SCALED, T);
            let ratio = (SCALED * T) as f64 / seconds / published;
            let first = [l.to_string(), billions(&config), tokens(published), format!("{ratio:.2}")];
            first.into_iter().chain(against_original("deeper", &config, &gh200, SCALED)).collect()
        })
        .collect();
    report.table(&head(&["layers", "parameters", "published", "ratio"]), &rows);

    report.section("Width: 28 wider layers on GH200");
    report.paragraph(
        "The figure gives multiples of a width that it does not name. Of the models of that paper two have 28 layers; only \
         the 1.5B one, 1536 wide, can be made five times as wide in 480 GB, so it is taken here, and no ratio is given.",
    );
    let base = shape("qwen2.5-1.5b").expect("a built-in shape");
    let rows: Vec<_> = PUBLISHED_WIDTH
        .iter()
        .map(|&(times, published)| {
            let wider = |size: usize| (size as f64 * times) as usize;
            let Dims { c, f, h, g, .. } = base.dims;
            let dims = Dims { c: wider(c), f: wider(f), h: wider(h), g: wider(g), ..base.dims };
            let config = ModelConfig { dims, ..base.clone() };
            let first = [format!("{times} × 1536"), billions(&config), published.to_owned()];
            first.into_iter().chain(against_original("wider", &config, &gh200, SCALED)).collect()
        })
        .collect();
    report.table(&head(&["width", "parameters", "published TFLOP/s"]), &rows);
}

/// The number of parameters, e.g. `7.6 B`.
fn billions(config: &ModelConfig) -> String {
    format!("{:.1} B", Layout::new(config).parameters() as f64 / 1e9)
}

/// The largest models.
fn large(report: &mut Report) {
    let head =
        ["mode", "clip", "tokens a step", "tokens/s", "TFLOP/s", "host memory", "device memory", "busiest"];
    let h200 = Description::shipped("h200").expect("a built-in machine");
    let rows = |model: &str, machine: &Description, steps: &[usize]| -> Vec<Vec<String>> {
        let with = |sequences: &usize| MODES.map(|mode| largest(model, machine, *sequences, mode));
        steps.iter().flat_map(with).collect()
    };
    report.section("120B dense on H200 with 1.5 TB of RAM");
    report.table(&head, &rows("dense-120b", &h200, &[16, 64, 128]));
    report.section("1T dense on H200 with 20 TB of RAM");
    let larger = Description { host_bytes: 20_000_000_000_000, ..h200.clone() };
    report.table(&head, &rows("dense-1t", &larger, &[64]));
}

fn largest(name: &str, machine: &Description, sequences: usize, mode: (Mode, f64)) -> Vec<String> {
    let config = shape(name).expect("a built-in shape");
    let mut cells = vec![
        mode.0.name().to_owned(),
        if mode.1 > 0.0 { "exact" } else { "none" }.to_owned(),
        report::grouped((sequences * T) as u64),
    ];
    match fastest(name, &config, machine, sequences, mode) {
        Ok(planned) => {
            let plan = planned.plan();
            cells.extend([
                tokens(planned.tokens_per_second),
                format!("{:.0}", planned.tflops),
                format!("{:.2} TB", plan.host.bytes() as f64 / 1e12),
                format!("{:.0} GB", plan.device.bytes() as f64 / 1e9),
                planned.explanation.busiest.to_string(),
            ]);
        }
        Err(error) => {
            cells.extend(["–".to_owned(), "–".to_owned(), refusal(&error), "–".to_owned(), "–".to_owned()]);
        }
    }
    cells
}

/// Adds which rates of the machines are measured, published and assumed.
pub fn rates(report: &mut Report, machines: &[&str]) {
    report.section("Rates");
    report.paragraph(
        "Which rates of the machines are measured, published or assumed; `horizon plan --machine NAME --json` gives every \
         value with its source.",
    );
    for name in machines {
        let machine = Description::shipped(name).expect("a built-in machine");
        let [.., matmul] = machine.rates.matrix_flop_per_s;
        let [adam, ..] = machine.rates.host_bytes_per_s;
        report.paragraph(&format!(
            "**{name}**: {}. Matmul {:.0} TFLOP/s, link {:.0} GB/s up and {:.0} down, AdamW {:.0} GB/s of RAM. {}.",
            machine.about,
            matmul / 1e12,
            machine.rates.up_bytes_per_s / 1e9,
            machine.rates.down_bytes_per_s / 1e9,
            adam / 1e9,
            capitalised(&machine.basis_line())
        ));
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
