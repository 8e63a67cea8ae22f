//! Whole training steps on a GPU, with the shapes of Qwen2.5 and random weights:
//!
//! ```text
//! cargo bench --bench step_cuda -- [--device N] [--shape 0.5b|1.5b|3b|7b] [--sequence 1024] [--micro 4] [--micros 4] [--steps 4]
//!     [--gemm-table FILE] [--machine FILE|NAME] [--recompute full|selective|none] [--mode exact|compact]
//!     [--cap BYTES] [--host-mem BYTES] [--threads N] [--trace FILE]
//! ```
//!
//! The placement is the one that `horizon train` would choose, searched for the given machine or
//! for the known machine most similar to this one; `--recompute` fixes the recompute mode of all
//! layers. `--gemm-table` names a GEMM autotune table; `--cap` and `--host-mem` limit device and
//! host memory, the latter for machines whose memory grows as it is touched.
//!
//! Prints one line of JSON: tokens per second; useful TFLOP/s as in `train::metrics` (6 · P_matmul
//! plus causal attention per token, no recompute), and their percentage of the matmul throughput
//! measured in the same run (8192³ bf16, median); the predicted step time; the idle share of each
//! lane in the measured steps; the bytes over the link compared with the minimum (weights up once,
//! gradients down once, tokens); and peaks of memory. Without a device it prints why and succeeds,
//! unless `HZ_REQUIRE_GPU` is 1. The shape `tiny` is for rehearsals on emulated kernels.

mod meter;
mod probe;

use std::process::ExitCode;
use std::time::Instant;

use horizon::base::{Dims, Error, Result, Shape};
use horizon::device::{Lane, TaskSpan};
use horizon::engine::{Batch, DeviceChoice, Trainer, TrainerOptions};
use horizon::model::{Layout, ModelConfig, preset, shape};
use horizon::ops::cuda::workspace;
use horizon::plan::Fixed;
use horizon::schedule::{self, Mode, Operation, Recompute};
use horizon::sys::cuda::need_device;
use horizon::train::metrics::UsefulWork;
use horizon::train::planning::{Planned, Why, here};
use support::bench::{number, on_gpu, option, rounded};

use crate::meter::Work;
use crate::meter::cuda::{Cuda, Effort};

/// Steps before the measured ones, which touch memory for the first time.
const WARM_UP: usize = 2;

fn config(name: &str, sequence: usize) -> ModelConfig {
    let config = match name {
        "tiny" => ModelConfig {
            dims: Dims { c: 48, h: 2, g: 1, d: 64, f: 40, v: 67, l: 3 },
            ..preset("tiny").expect("a preset")
        },
        size => shape(&format!("qwen2.5-{size}"))
            .unwrap_or_else(|| panic!("--shape {size} is no size of Qwen2.5")),
    };
    ModelConfig { positions_max: sequence, ..config }
}

/// FLOP/s of large bf16 matmuls.
fn matrix_rate(device: usize, effort: Effort) -> Result<f64> {
    Cuda::new(device, workspace::bytes(0), None, effort)?.ceiling(Work::Flops(0.0))
}

/// Times of the clip decisions of all training steps, in order.
fn decisions(spans: &[(Operation, TaskSpan)]) -> Vec<u64> {
    let decided = |(operation, span): &(Operation, TaskSpan)| {
        matches!(operation, Operation::ClipDecision { .. }).then_some(span.end_ns)
    };
    let mut times: Vec<u64> = spans.iter().filter_map(decided).collect();
    times.sort_unstable();
    times
}

/// Searches a plan; sets its placement in the options.
fn planned(name: &str, config: &ModelConfig, options: &mut TrainerOptions) -> Result<Planned> {
    let recompute = option("--recompute").map(|how| match how.as_str() {
        "full" => Recompute::Full,
        "selective" => Recompute::Selective,
        "none" => Recompute::None,
        other => panic!("--recompute must be full, selective or none, not {other}"),
    });
    let fixed = Fixed { recompute: recompute.map(|how| vec![how; config.dims.l]), ..Fixed::default() };
    let machine = option("--machine");
    let (machine, limits) = here(options.device, machine.as_deref(), options.device_mem, options.host_mem)?;
    let planned = Planned::search(name, config, options, &machine, limits, &fixed, Why::Times)?;
    options.place(&planned.plan().policy.placement);
    Ok(planned)
}

fn run() -> Result<()> {
    let device = number("--device").unwrap_or(0);
    need_device(device)?;
    let name = option("--shape").unwrap_or("0.5b".into());
    let is_tiny = name == "tiny";
    let sequence = number("--sequence").unwrap_or(if is_tiny { 13 } else { 1024 });
    let default = if is_tiny { 1 } else { 4 };
    let (micro, micros) = (number("--micro").unwrap_or(default), number("--micros").unwrap_or(default));
    let steps = number("--steps").unwrap_or(4).max(1);
    let config = config(&name, sequence);
    let mode = option("--mode").unwrap_or("exact".into());
    let mut options = TrainerOptions {
        device: DeviceChoice::Cuda(device),
        mode: match mode.as_str() {
            "exact" => Mode::Exact,
            "compact" => Mode::Compact,
            other => panic!("--mode must be exact or compact, not {other}"),
        },
        shape: Shape { b: micro, t: sequence },
        micros_max: micros,
        gemm_table: option("--gemm-table").map(Into::into),
        device_mem: number("--cap"),
        host_mem: number("--host-mem"),
        threads: number("--threads"),
        tracing: true,
        ..TrainerOptions::default()
    };
    // Measured before planning, because the kernels that it loads stay in device memory.
    let matrix_rate = matrix_rate(device, if is_tiny { Effort::TINY } else { Effort::FULL })?;
    let planned = planned(&name, &config, &mut options)?;
    eprint!("{}", planned.summary());
    let start = Instant::now();
    let mut trainer = Trainer::open(&config, &options)?;
    let open_seconds = start.elapsed().as_secs_f64();
    trainer.write_fresh(1)?;
    let fresh_seconds = start.elapsed().as_secs_f64() - open_seconds;
    eprintln!("opened in {open_seconds:.1} s, weights in {fresh_seconds:.1} s");

    let vocabulary = config.dims.v as u64;
    let token = |i: u64| ((i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocabulary) as i32;
    let n = options.shape.n();
    let tokens: Vec<i32> = (0..=(n * micros) as u64).map(token).collect();
    let batch = |at: usize| Batch::new(&tokens[at * n..(at + 1) * n], &tokens[at * n + 1..][..n]);
    let batches: Vec<Batch> = (0..micros).map(batch).collect();
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        trainer.announce(&tokens[..n * micros])?;
        let report = trainer.step(&batches, 1e-4)?;
        eprintln!("step {}: loss {:.4}, {:.2} s", step + 1, report.loss, start.elapsed().as_secs_f64());
    }
    let spans = trainer.spans()?;
    let times = decisions(&spans);
    let (from_ns, to_ns) = (times[times.len() - 1 - steps], times[times.len() - 1]);
    let seconds = (to_ns - from_ns) as f64 / 1e9;

    let step_tokens = (n * micros) as u64;
    let pairs = (micro * micros * sequence * (sequence + 1) / 2) as u64;
    let flops = UsefulWork::new(&config).flop(step_tokens, pairs, 0) * steps as f64 / seconds;
    let tasks: Vec<TaskSpan> = spans.iter().map(|(_, span)| *span).collect();
    let usage = schedule::usage(&tasks, from_ns, to_ns);
    let lanes: serde_json::Map<_, _> = Lane::ALL
        .iter()
        .map(|lane| {
            let idle = usage[lane.at()].idle_ns as f64 / (to_ns - from_ns) as f64;
            (lane.name().to_string(), rounded(100.0 * idle, 1).into())
        })
        .collect();
    let plan = planned.plan();
    let layout = Layout::new(&config);
    let cost = plan.cost(&layout, plan.micros_max);
    let inside = |span: &TaskSpan| from_ns < span.end_ns && span.end_ns <= to_ns;
    let moved: u64 = spans
        .iter()
        .filter(|(_, span)| inside(span))
        .filter_map(|(operation, _)| cost.wire_bytes(operation))
        .sum();
    let least = (4 * layout.parameters() + 8 * step_tokens as usize) as f64;
    if let Some(path) = option("--trace") {
        let failed = |error| Error::io(format!("cannot write {path}"), &error);
        let file = std::fs::File::create(&path).map_err(failed)?;
        trainer.trace(&mut std::io::BufWriter::new(file))?;
    }
    let stats = trainer.stats();
    let line = serde_json::json!({
        "bench": "step", "device": trainer.device().name, "shape": name,
        "parameters": layout.parameters(), "tokens_per_step": step_tokens, "sequence": sequence,
        "micro_batch": micro, "mode": mode, "placement": planned.json()["placement"],
        "autotuned": options.gemm_table.is_some(), "device_mem_cap": options.device_mem, "steps": steps,
        "step_seconds": rounded(seconds / steps as f64, 4),
        "predicted_seconds": rounded(planned.predicted().step_seconds, 4),
        "tokens_per_second": (step_tokens as f64 * steps as f64 / seconds).round(),
        "useful_tflops": rounded(flops / 1e12, 1),
        "matrix_tflops": rounded(matrix_rate / 1e12, 1),
        "percent_of_matrix_rate": rounded(100.0 * flops / matrix_rate, 1),
        "idle_percent": lanes,
        "link_bytes_per_step": moved / steps as u64,
        "of_the_least": rounded(moved as f64 / steps as f64 / least, 3),
        "device_bytes": stats.device_bytes, "host_bytes": stats.host_bytes,
        "open_seconds": rounded(open_seconds, 2), "fresh_seconds": rounded(fresh_seconds, 2),
    });
    println!("{line}");
    Ok(())
}

fn main() -> ExitCode {
    on_gpu(run)
}
