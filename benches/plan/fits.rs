//! The largest built-in shape of some families that fits a machine, in each mode.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use horizon::base::Shape;
use horizon::device::Lane;
use horizon::engine::TrainerOptions;
use horizon::model::{Layout, ModelConfig, shape, shape_names};
use horizon::plan::{Description, Fixed, MemoryLimits};
use horizon::schedule::Mode;
use horizon::train::planning::{Planned, Why};

use crate::peers::SimulatorError;
use crate::report::{Report, grouped, tokens};
use crate::simulated::{MODES, rates};

/// Tokens of a sequence.
const T: usize = 4096;
/// Sequences of the small and of the large step.
const SMALL: usize = 1;
const LARGE: usize = 16;
/// Host RAM that is left to the system, in bytes.
const SYSTEM: usize = 4 << 30;

/// Machines with the host RAM that they typically have: built-in name, name for people, RAM, bytes
/// of RAM.
const MACHINES: [(&str, &str, &str, usize); 8] = [
    ("rtx4090", "RTX 4090, 24 GB", "64 GiB", 64 << 30),
    ("rtx4090", "RTX 4090, 24 GB", "128 GiB", 128 << 30),
    ("rtx4090", "RTX 4090, 24 GB", "256 GiB", 256 << 30),
    ("rtx5090", "RTX 5090, 32 GB", "64 GiB", 64 << 30),
    ("rtx5090", "RTX 5090, 32 GB", "128 GiB", 128 << 30),
    ("rtx5090", "RTX 5090, 32 GB", "256 GiB", 256 << 30),
    ("gh200", "GH200, 96 GB", "480 GB", 480_000_000_000),
    ("h200", "H200, 141 GB", "2 TiB", 2 << 40),
];

/// The largest shape that fits.
struct Largest {
    model: &'static str,
    parameters: usize,
    small: Planned,
    /// None if it does not fit.
    large: Option<Planned>,
}

/// Finds the largest shape whose plan fits a step of one sequence.
fn largest(
    shapes: &[(&'static str, ModelConfig)],
    machine: &Description,
    mode: Mode,
    clip: f64,
) -> Option<Largest> {
    let plan = |name: &str, config: &ModelConfig, b: usize, micros: usize| {
        let options = TrainerOptions {
            mode,
            clip,
            shape: Shape { b, t: T },
            micros_max: micros,
            ..TrainerOptions::default()
        };
        let limits = MemoryLimits::of(machine, None, None);
        Planned::search(name, config, &options, machine, limits, &Fixed::default(), Why::Times).ok()
    };
    // No mode takes fewer than 8 bytes a parameter; refusing by a search takes seconds.
    let may_fit = |config: &ModelConfig| Layout::new(config).parameters() * 8 <= machine.host_bytes;
    shapes.iter().filter(|(_, config)| may_fit(config)).find_map(|(model, config)| {
        let small = plan(model, config, SMALL, 1)?;
        let large = [1, 2, 4, 8].iter().filter_map(|&b| plan(model, config, b, LARGE / b));
        let large = large.min_by_key(|planned| planned.found.step_ns);
        Some(Largest { model, parameters: small.parameters, small, large })
    })
}

/// The part of a machine that works longest in a step.
fn busiest(planned: &Planned) -> &'static str {
    match planned.explanation.busiest {
        Lane::Compute => "GPU",
        Lane::H2d | Lane::D2h => "link",
        Lane::Host => "AdamW",
        Lane::Disk => "disk",
    }
}

/// A row: a machine and a mode.
struct Fit {
    about: &'static str,
    ram: &'static str,
    mode: Mode,
    largest: Option<Largest>,
}

/// A dash for a step that does not fit.
fn or_dash(planned: Option<&Planned>, cell: impl Fn(&Planned) -> String) -> String {
    planned.map_or("–".to_owned(), cell)
}

fn speed(planned: &Planned) -> String {
    tokens(planned.tokens_per_second)
}

impl Fit {
    /// The cells of `plan-fits.md`.
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.about.to_owned(), self.ram.to_owned(), self.mode.name().to_owned()];
        let Some(Largest { model, parameters, small, large }) = &self.largest else {
            cells.extend(vec!["–".to_owned(); 7]);
            return cells;
        };
        let host = small.plan().host.bytes() as f64 / 1e9;
        cells.extend([
            (*model).to_owned(),
            format!("{:.1} B", *parameters as f64 / 1e9),
            format!("{} GB", grouped(host.round() as u64)),
        ]);
        for planned in [Some(small), large.as_ref()] {
            cells.extend([or_dash(planned, speed), or_dash(planned, |planned| busiest(planned).to_owned())]);
        }
        cells
    }

    /// The cell of the README's table.
    fn short(&self) -> String {
        self.largest.as_ref().map_or("–".to_owned(), |Largest { model, small, large, .. }| {
            format!("{model} {} / {}", speed(small), or_dash(large.as_ref(), speed))
        })
    }
}

/// Beginnings of the names of the shapes that are tried.
const FAMILIES: [&str; 3] = ["qwen2.5", "llama3.1", "dense"];

/// Writes `plan-fits.md` and `readme-fits.md`.
pub fn tables() {
    let names = shape_names().filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)));
    let mut shapes: Vec<(&str, ModelConfig)> =
        names.map(|name| (name, shape(name).expect("it is built in"))).collect();
    shapes.sort_by_key(|(_, config)| Reverse(Layout::new(config).parameters()));
    let mut fits = Vec::new();
    for (name, about, ram, bytes) in MACHINES {
        let machine = Description::shipped(name).expect("a built-in machine");
        let machine = Description { host_bytes: bytes - SYSTEM, ..machine };
        for (mode, clip) in MODES {
            fits.push(Fit { about, ram, mode, largest: largest(&shapes, &machine, mode, clip) });
        }
    }
    let (terms, error) = (terms(&fits), SimulatorError::of_published());
    write_all(&fits, &[&terms, &error.text()]);
    write_readme(&fits, &format!("{terms} {}", error.short()));
}

/// The conditions of the figures in both tables.
fn terms(fits: &[Fit]) -> String {
    let found = || fits.iter().filter_map(|fit| fit.largest.as_ref());
    let parts = |planned: &mut dyn Iterator<Item = &Planned>| {
        planned.map(busiest).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" or ")
    };
    let small = parts(&mut found().map(|largest| &largest.small));
    let large = parts(&mut found().filter_map(|largest| largest.large.as_ref()));
    format!(
        "The largest `qwen2.5`, `llama3.1` or `dense` model that fits, and its **simulated** tokens/s at {} / {} tokens a step, where {small} / \
         {large} is busiest. The command is `horizon plan --seq-len {T}`, with the fastest of 1, 2, 4 and 8 sequences per \
         micro-batch and `--host-mem` 4 GiB below the RAM. A dash: does not fit. `exact` and `compact` clip gradients, \
         `streamed` does not (`--clip 0`).",
        grouped((SMALL * T) as u64),
        grouped((LARGE * T) as u64)
    )
}

fn write_all(fits: &[Fit], captions: &[&str]) {
    let mut report = Report::titled("The largest model that fits");
    report.paragraph(
        "Written by `cargo bench --bench plan -- fits`, from machine descriptions in `src/plan/machines/`; nothing was measured \
         here.",
    );
    captions.iter().for_each(|caption| report.paragraph(caption));
    let head = [
        "machine",
        "RAM",
        "mode",
        "model",
        "parameters",
        "host memory",
        "tok/s, 4k",
        "busiest",
        "tok/s, 64k",
        "busiest",
    ];
    let rows: Vec<Vec<String>> = fits.iter().map(Fit::cells).collect();
    report.table(&head, &rows);
    rates(&mut report, &["rtx4090", "rtx5090", "gh200", "h200"]);
    report.write("plan-fits.md");
}

/// Writes the table for the README: a row per machine, a column per mode.
fn write_readme(fits: &[Fit], caption: &str) {
    let mut report = Report::default();
    let row = |fits: &[Fit]| {
        let machine = [fits[0].about.to_owned(), fits[0].ram.to_owned()];
        machine.into_iter().chain(fits.iter().map(Fit::short)).collect()
    };
    let rows: Vec<Vec<String>> = fits.chunks(MODES.len()).map(row).collect();
    let modes = MODES.map(|(mode, _)| format!("`{}`", mode.name()));
    let head: Vec<&str> =
        ["machine", "host RAM"].into_iter().chain(modes.iter().map(String::as_str)).collect();
    report.table(&head, &rows);
    report.paragraph(caption);
    report.write("readme-fits.md");
}
