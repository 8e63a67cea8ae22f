//! Whole training steps on a GPU, at the shapes of Qwen2.5 with random weights:
//!
//! ```text
//! cargo bench --bench step_cuda -- [--device N] [--shape 0.5b|1.5b|3b|7b] [--sequence 2048] [--micro 4] [--micros 4]
//!                                  [--steps 4] [--cap BYTES] [--host-mem BYTES] [--recompute full|selective|none] [--trace FILE]
//! ```
//!
//! Tokens a second, useful TFLOP/s by `train::metrics` (6 · P_matmul + causal attention per token, no recompute), their
//! percentage of the matrix rate measured in the same run (the best of some 8192³ bf16 products), the time each lane is
//! busy and idle in the measured steps, the bytes that cross the link against the least possible (weights up once,
//! gradients down once, the tokens), and the peaks. One line of JSON. Without a device it says so and ends well, unless
//! `HZ_REQUIRE_GPU` is 1.

#[cfg(not(hz_cuda))]
fn main() {
    println!("no CUDA device: this build has no kernels");
    std::process::exit(i32::from(std::env::var("HZ_REQUIRE_GPU").as_deref() == Ok("1")));
}

#[cfg(hz_cuda)]
fn main() {
    if let Err(error) = step::run() {
        println!("no step on CUDA: {error}");
        std::process::exit(i32::from(std::env::var("HZ_REQUIRE_GPU").as_deref() == Ok("1")));
    }
}

#[cfg(hz_cuda)]
mod step {
    use std::sync::Arc;

    use horizon::base::{Dims, Result, Shape};
    use horizon::device::{DeviceSpan, Lane, TaskSpan};
    use horizon::engine::{Batch, DeviceChoice, Trainer, TrainerOptions};
    use horizon::model::{Layout, ModelConfig, preset};
    use horizon::ops::cuda::CudaKernels;
    use horizon::ops::cuda::table::Table;
    use horizon::ops::cuda::workspace::workspace_bytes;
    use horizon::ops::{Addends, Extras, Kernels, Linear};
    use horizon::plan::Cost;
    use horizon::schedule::{self, LayerPlacement, Operation, Recompute};
    use horizon::sys::cuda::cublaslt::{CublasLt, Handle};
    use horizon::sys::cuda::{DeviceMemory, Event, Stream, need_device, set_device};
    use horizon::train::metrics::UsefulWork;

    const SIDE: usize = 8192;

    fn option(name: &str) -> Option<String> {
        let arguments: Vec<String> = std::env::args().collect();
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} wants a value")).clone())
    }

    fn number(name: &str) -> Option<usize> {
        option(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name} {value}: a number")))
    }

    fn config(shape: &str, sequence: usize) -> ModelConfig {
        let (dims, tied) = match shape {
            "0.5b" => (Dims { c: 896, h: 14, g: 2, d: 64, f: 4864, v: 151_936, l: 24 }, true),
            "1.5b" => (Dims { c: 1536, h: 12, g: 2, d: 128, f: 8960, v: 151_936, l: 28 }, true),
            "3b" => (Dims { c: 2048, h: 16, g: 2, d: 128, f: 11_008, v: 151_936, l: 36 }, true),
            "7b" => (Dims { c: 3584, h: 28, g: 4, d: 128, f: 18_944, v: 152_064, l: 28 }, false),
            other => panic!("--shape is 0.5b, 1.5b, 3b or 7b, not {other}"),
        };
        ModelConfig { dims, tied, positions_max: sequence, ..preset("tiny").expect("a preset") }
    }

    /// FLOPs a second of large bf16 products: the best of some.
    fn matrix_rate(device: usize) -> Result<f64> {
        set_device(device)?;
        let stream = Arc::new(Stream::new()?);
        let side = Dims { c: SIDE, h: 1, g: 1, d: 64, f: SIDE, v: SIDE, l: 1 };
        let workspace =
            DeviceMemory::take(workspace_bytes(&side, Shape { b: 1, t: 1 }, 1, Extras::default()))?;
        let squares = [0; 3].map(|_| DeviceMemory::take(SIDE * SIDE * 2));
        let mut spans = Vec::new();
        for memory in &squares {
            let memory = memory.as_ref().map_err(Clone::clone)?;
            // SAFETY: device memory that outlives the products, which are waited for.
            let span = unsafe { DeviceSpan::new(memory.base(), memory.bytes()) };
            // SAFETY: new memory, used by this stream alone.
            unsafe { horizon::sys::cuda::fill(memory.base(), 0x3c, memory.bytes(), &stream)? };
            spans.push(span);
        }
        // SAFETY: device memory that outlives the kernels.
        let span = unsafe { DeviceSpan::new(workspace.base(), workspace.bytes()) };
        let handle = Handle::new(CublasLt::open()?)?;
        let kernels = CudaKernels::new(stream.clone(), span, handle, Table::default(), device)?;
        let mut best_ns = u64::MAX;
        for _ in 0..20 {
            let (start, end) = (Event::new(true)?, Event::new(true)?);
            start.record(&stream)?;
            kernels.matmul_forward(
                spans[0],
                spans[1],
                spans[2],
                Addends::default(),
                Linear::dense(SIDE, SIDE, SIDE),
            );
            end.record(&stream)?;
            end.synchronize()?;
            kernels.outcome()?;
            best_ns = best_ns.min(end.ns_since(&start)?.unsigned_abs());
        }
        Ok(2.0 * (SIDE as f64).powi(3) / (best_ns as f64 / 1e9))
    }

    /// When each training step was decided, in order.
    fn decisions(spans: &[(Operation, TaskSpan)]) -> Vec<u64> {
        let decided = |(operation, span): &(Operation, TaskSpan)| {
            matches!(operation, Operation::Decide { .. }).then_some(span.end_ns)
        };
        let mut times: Vec<u64> = spans.iter().filter_map(decided).collect();
        times.sort_unstable();
        times
    }

    pub fn run() -> Result<()> {
        let device = number("--device").unwrap_or(0);
        need_device(device)?;
        let name = option("--shape").unwrap_or("0.5b".into());
        let sequence = number("--sequence").unwrap_or(2048);
        let (micro, micros) = (number("--micro").unwrap_or(4), number("--micros").unwrap_or(4));
        let steps = number("--steps").unwrap_or(4).max(1);
        let config = config(&name, sequence);
        let recompute = match option("--recompute").as_deref() {
            None | Some("full") => Recompute::Full,
            Some("selective") => Recompute::Selective,
            Some("none") => Recompute::None,
            Some(other) => panic!("--recompute is full, selective or none, not {other}"),
        };
        let options = TrainerOptions {
            device: DeviceChoice::Cuda(device),
            shape: Shape { b: micro, t: sequence },
            micros_max: micros,
            layers: vec![LayerPlacement { recompute, ..LayerPlacement::default() }; config.dims.l],
            device_mem: number("--cap"),
            host_mem: number("--host-mem"),
            tracing: true,
            ..TrainerOptions::default()
        };
        let plan = Trainer::plan_for(&config, &options)?;
        let matrix_rate = matrix_rate(device)?;
        let mut trainer = Trainer::open(&config, &options)?;
        trainer.write_fresh(1)?;

        let vocabulary = config.dims.v as u64;
        let token = |i: u64| ((i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocabulary) as i32;
        let n = options.shape.n();
        let tokens: Vec<i32> = (0..=n as u64).map(token).collect();
        let batch = Batch { tokens: &tokens[..n], targets: &tokens[1..], weights: None, starts: None };
        let batches = vec![batch; micros];
        // The first steps touch and tune; what follows is alike.
        for _ in 0..steps + 2 {
            trainer.step(&batches, 1e-4)?;
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
                (lane.name().to_string(), ((idle * 1e3).round() / 10.0).into())
            })
            .collect();
        let layout = Layout::new(&config);
        let cost = Cost::new(&config, &layout, &plan.policy, plan.micros_max, CudaKernels::STORAGE);
        let inside = |span: &TaskSpan| from_ns < span.end_ns && span.end_ns <= to_ns;
        let moved: u64 = spans
            .iter()
            .filter(|(_, span)| inside(span))
            .filter_map(|(operation, _)| cost.wire_bytes(operation))
            .sum();
        let least = (4 * layout.parameters() + 8 * step_tokens as usize) as f64;
        if let Some(path) = option("--trace") {
            let file = std::fs::File::create(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            trainer.trace(&mut std::io::BufWriter::new(file))?;
        }
        let stats = trainer.stats();
        let line = serde_json::json!({
            "bench": "step", "device": trainer.device().name, "shape": name,
            "parameters": layout.parameters(), "tokens_per_step": step_tokens, "sequence": sequence,
            "micro_batch": micro, "recompute": option("--recompute").unwrap_or("full".into()),
            "device_mem_cap": options.device_mem, "steps": steps,
            "step_seconds": (seconds / steps as f64 * 1e4).round() / 1e4,
            "tokens_per_second": (step_tokens as f64 * steps as f64 / seconds).round(),
            "useful_tflops": (flops / 1e11).round() / 10.0,
            "matrix_tflops": (matrix_rate / 1e11).round() / 10.0,
            "percent_of_matrix_rate": (1e3 * flops / matrix_rate).round() / 10.0,
            "idle_percent": lanes,
            "link_bytes_per_step": moved / steps as u64,
            "of_the_least": (moved as f64 / steps as f64 / least * 1e3).round() / 1e3,
            "device_bytes": stats.device_bytes, "host_bytes": stats.host_bytes,
        });
        println!("{line}");
        Ok(())
    }
}
