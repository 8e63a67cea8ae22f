//! A whole training step on the CPU device, optionally compared with PyTorch:
//!
//! ```text
//! cargo bench --bench step -- [--shape a|b] [--threads 2] [--rounds 5] [--steps 3]
//!                             [--torch PYTHON] [--torch-dtype f32|bf16-autocast]
//! ```
//!
//! A round runs some steps of ours and, with `--torch` (a Python with torch), as many of PyTorch's,
//! one after the other, so that both see the same machine. PyTorch runs `step_torch.py` (f32,
//! activation checkpointing per layer, fused AdamW, clipping) with MKL's vendor check overridden.
//! Ratios are taken within a round; the median is reported. Every round also runs a probe of fused
//! multiply-adds. Useful FLOPs are those of `train::metrics`, without recompute. Prints one line of
//! JSON per shape.

mod probe;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use horizon::base::{Dims, Shape};
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::host::Pool;
use horizon::model::ModelConfig;
use horizon::train::metrics::UsefulWork;
use probe::Clock;
use support::bench::{median, number, option, rounded};

fn config(shape: &str) -> (ModelConfig, Shape) {
    let (dims, shape) = match shape {
        "a" => (Dims { c: 256, h: 4, g: 4, d: 64, f: 688, v: 256, l: 4 }, Shape { b: 8, t: 256 }),
        "b" => (Dims { c: 512, h: 8, g: 8, d: 64, f: 1376, v: 32_000, l: 8 }, Shape { b: 4, t: 512 }),
        other => panic!("--shape must be a or b, not {other}"),
    };
    let config = ModelConfig { positions_max: shape.t, ..ModelConfig::llama(dims) };
    (config, shape)
}

/// Our trainer, with random weights and tokens.
struct Ours {
    trainer: Trainer,
    tokens: Vec<i32>,
}

impl Ours {
    fn open(config: &ModelConfig, shape: Shape, threads: usize) -> Ours {
        let options = TrainerOptions { shape, threads: Some(threads), ..TrainerOptions::default() };
        let mut trainer = Trainer::open(config, &options).expect("the model fits");
        trainer.write_fresh(1).expect("weights");
        let vocabulary = config.dims.v as u64;
        let token = |i: u64| ((i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocabulary) as i32;
        Ours { trainer, tokens: (0..=shape.n() as u64).map(token).collect() }
    }

    /// Returns tokens per second over some steps, including AdamW of the last one.
    fn run(&mut self, steps: usize) -> f64 {
        let n = self.tokens.len() - 1;
        let start = Instant::now();
        for _ in 0..steps {
            let batch = Batch::new(&self.tokens[..n], &self.tokens[1..]);
            self.trainer.step(&[batch], 1e-3).expect("a step");
        }
        self.trainer.sync().expect("all lanes finish");
        (steps * n) as f64 / start.elapsed().as_secs_f64()
    }
}

/// PyTorch in a separate process, which stays warm.
struct Torch {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Torch {
    fn start(python: &str, shape: &str, dtype: &str, threads: usize) -> Torch {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/step_torch.py");
        let mut process = Command::new(python)
            .arg(script)
            .args(["--serve", "--mkl-override", "--shape", shape, "--dtype", dtype])
            .args(["--threads", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {python}: {error}"));
        let requests = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Torch { process, requests, answers }
    }

    fn run(&mut self, steps: usize) -> f64 {
        writeln!(self.requests, "run {steps}").expect("PyTorch listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("PyTorch answers");
        let answer: serde_json::Value = serde_json::from_str(&line).expect("an answer in JSON");
        answer["tokens_per_second"].as_f64().expect("tokens_per_second")
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn main() {
    let number = |name: &str, default: usize| number(name).unwrap_or(default);
    let (threads, rounds, steps) = (number("--threads", 2), number("--rounds", 5), number("--steps", 3));
    let shapes = option("--shape").map_or(vec!["a".to_owned(), "b".to_owned()], |shape| vec![shape]);
    let (python, dtype) = (option("--torch"), option("--torch-dtype").unwrap_or("f32".to_owned()));
    let pool = Pool::new(threads).expect("threads start");

    for name in &shapes {
        let (config, shape) = config(name);
        let mut ours = Ours::open(&config, shape, threads);
        let mut torch = python.as_deref().map(|python| Torch::start(python, name, &dtype, threads));
        ours.run(1);
        if let Some(torch) = &mut torch {
            torch.run(1);
        }
        let (mut speeds, mut torch_speeds, mut ratios, mut percents) = (vec![], vec![], vec![], vec![]);
        // Every sequence is one document: a row attends to itself and all rows before it.
        let pairs = (shape.b * shape.t * (shape.t + 1) / 2) as u64;
        let flops = UsefulWork::new(&config).flop(shape.n() as u64, pairs, 0) / shape.n() as f64;
        for _ in 0..rounds {
            let speed = ours.run(steps);
            percents.push(100.0 * speed * flops / probe::flops_per_second(&pool, Clock::Wall));
            speeds.push(speed);
            if let Some(torch) = &mut torch {
                let other = torch.run(steps);
                ratios.push(speed / other);
                torch_speeds.push(other);
            }
        }
        let speed = median(speeds);
        let mut line = serde_json::json!({
            "bench": "step", "shape": name, "threads": threads, "rounds": rounds,
            "tokens_per_second": speed.round(),
            "useful_gflops": (speed * flops / 1e9).round(),
            "percent_of_fma_peak": median(percents).round(),
        });
        if torch.is_some() {
            line["torch"] = serde_json::json!({
                "dtype": dtype, "tokens_per_second": median(torch_speeds).round(),
                "ratios": ratios.iter().map(|ratio| rounded(*ratio, 3)).collect::<Vec<_>>(),
                "median_ratio": rounded(median(ratios), 3),
            });
        }
        println!("{line}");
    }
}
