//! Every op at the sizes of real models, against what the machine can do in the same moment.
//!
//! ```text
//! cargo bench --bench ops -- [--device cpu|cuda[:i]] [--model NAME] [--products FILE] [--threads N] [--cpu-time] [--filter TEXT]
//! ```
//!
//! `--model` and `--filter` choose ops, `--products` names an autotune table. `--cpu-time` counts processor seconds of one thread
//! instead of seconds: for a machine that is busy with other things. An op that fails is reported, and the next one runs.
//!
//! `meter` says how each device is timed and what its ceilings are. Of a machine whose speed wanders, only the
//! percentages compare. FLOPs are those of the formula, 2 a multiply-add, and of attention what lies below the diagonal;
//! bytes are those an op must read and write once, so an op whose data fits a cache of the CPU may pass 100 %.

mod meter;
mod probe;

use std::path::PathBuf;
use std::process::ExitCode;

use horizon::base::{DType, Dims, Error, Result, Shape};
use horizon::ops::cuda::workspace::workspace_bytes;
use horizon::ops::{Addends, Extras, Kernels, Linear, LossRows, NORM_BLOCK, Rows, TokenRows, Write};
use meter::cuda::{Cuda, Effort};
use meter::{Inputs, Meter, Model, Work};
use probe::Clock;
use support::bench::{number, on_gpu, option};

const ON_CPU: &[Model] = &[
    ("a", Dims { c: 256, h: 4, g: 4, d: 64, f: 688, v: 256, l: 4 }, Shape { b: 8, t: 256 }, 2048),
    ("b", Dims { c: 512, h: 8, g: 8, d: 64, f: 1376, v: 32_000, l: 8 }, Shape { b: 4, t: 512 }, 512),
];

/// Llama 3 8B, and narrower models of the other head dimensions.
const ON_CUDA: &[Model] = &[
    ("8b", Dims { c: 4096, h: 32, g: 8, d: 128, f: 14336, v: 128_256, l: 32 }, Shape { b: 4, t: 4096 }, 2048),
    ("d64", Dims { c: 2048, h: 32, g: 8, d: 64, f: 8192, v: 128_256, l: 16 }, Shape { b: 4, t: 4096 }, 2048),
    ("d96", Dims { c: 3072, h: 32, g: 32, d: 96, f: 8192, v: 32_064, l: 32 }, Shape { b: 4, t: 4096 }, 2048),
    (
        "d256",
        Dims { c: 2048, h: 8, g: 4, d: 256, f: 16384, v: 256_000, l: 18 },
        Shape { b: 4, t: 4096 },
        2048,
    ),
];

/// For rehearsals on emulated kernels.
const TINY: Model = ("tiny", Dims { c: 64, h: 2, g: 1, d: 64, f: 48, v: 72, l: 1 }, Shape { b: 1, t: 16 }, 8);

/// Elements of the gradients.
const ELEMENTS: usize = 1 << 24;

struct Bench<'a, M> {
    meter: M,
    filter: &'a str,
}

impl<M: Meter> Bench<'_, M> {
    fn run(&mut self, name: &str, work: Work, op: impl Fn(&dyn Kernels)) {
        if name.contains(self.filter) {
            self.meter.time(name, work, &op);
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs(&self.meter)
    }

    /// Bytes of so many activations.
    fn bytes(&self, count: usize) -> f64 {
        (count * self.meter.kernels().storage().bytes()) as f64
    }

    fn everything(&mut self, models: &[Model], elements: usize) {
        for (model, dims, shape, chunk) in models {
            products(self, model, dims, shape.n(), *chunk);
            attention(self, model, dims, *shape);
            rows(self, model, dims, shape.n(), *chunk);
        }
        gradients(self, elements);
    }
}

fn products(bench: &mut Bench<impl Meter>, model: &str, dims: &Dims, n: usize, chunk: usize) {
    let Dims { c, f, .. } = *dims;
    for (name, sizes) in [
        ("qkv", Linear::dense(n, c, dims.qkv())),
        ("o", Linear::dense(n, dims.attended(), c)),
        ("gate_up", Linear::dense(n, c, 2 * f)),
        ("down", Linear::dense(n, f, c)),
        ("lm", horizon::model::head_linear(dims, chunk)),
    ] {
        if !format!("{model} {name} forward backward_input backward_weight").contains(bench.filter) {
            continue;
        }
        let (Linear { n, k, m, out_stride }, inputs) = (sizes, bench.inputs());
        let (x, w, y) = (inputs.activations(n * k), inputs.bf16s(k * m), inputs.activations(n * out_stride));
        let dw = inputs.f32s(k * m);
        let work = Work::Flops(2.0 * (n * k * m) as f64);
        bench.run(&format!("{model} {name} forward"), work, |kernels| {
            kernels.matmul_forward(y, x, w, Addends::default(), sizes);
        });
        bench.run(&format!("{model} {name} backward_input"), work, |kernels| {
            kernels.matmul_backward_input(x, Write::Set, y, w, sizes);
        });
        bench.run(&format!("{model} {name} backward_weight"), work, |kernels| {
            kernels.matmul_backward_weight(dw, Write::Set, y, x, sizes);
        });
    }
}

fn attention(bench: &mut Bench<impl Meter>, model: &str, dims: &Dims, shape: Shape) {
    let (n, t, inputs) = (shape.n(), shape.t, bench.inputs());
    // Every sequence is one document.
    let rows = Rows {
        shape,
        positions: inputs.i32s(n, |row| row % t),
        doc_start: inputs.i32s(n, |row| row / t * t),
        doc_end: inputs.i32s(n, |row| (row / t + 1) * t),
    };
    let [qkv, dqkv] = [0; 2].map(|_| inputs.activations(n * dims.qkv()));
    let [out, dout] = [0; 2].map(|_| inputs.activations(n * dims.attended()));
    let (lse, inv_freq) = (inputs.f32s(n * dims.h), inputs.f32s(dims.d / 2));
    let weights = [0; 2].map(|_| inputs.bf16s(dims.d));
    let dweights = [0; 2].map(|_| inputs.f32s(dims.d));
    let rstd = inputs.f32s(n * (dims.h + dims.g));
    let dbias = inputs.f32s(dims.qkv());
    // Of a window an eighth as wide as the sequence most rows see the whole.
    let narrow = t / 8;
    let windows =
        [("", 0, t * (t + 1) / 2), (", window", narrow, narrow * (narrow + 1) / 2 + (t - narrow) * narrow)];
    for (at, by) in bench.meter.attentions(dims.d).into_iter().enumerate() {
        bench.meter.select_attention(at);
        for (suffix, window, seen) in windows {
            let name = |pass: &str| format!("{model} attention_{pass}{suffix} {by}").trim_end().to_owned();
            // Two matmuls of the scores that are seen, five backward.
            let scores = (shape.b * dims.h * seen * dims.d * 2) as f64;
            bench.run(&name("forward"), Work::Flops(2.0 * scores), |k| {
                k.attention_forward(out, lse, qkv, &rows, window, dims);
            });
            bench.run(&name("backward"), Work::Flops(5.0 * scores), |k| {
                k.attention_backward(dqkv, dout, out, lse, qkv, &rows, window, dims);
            });
        }
    }
    let work = Work::Bytes(2.0 * bench.bytes(n * dims.qkv()));
    bench.run(&format!("{model} qk_norm_forward"), work, |k| {
        k.qk_norm_forward(dqkv, rstd, qkv, weights, 1e-5, n, dims);
    });
    let work = Work::Bytes(3.0 * bench.bytes(n * (dims.h + dims.g) * dims.d));
    bench.run(&format!("{model} qk_norm_backward"), work, |k| {
        k.qk_norm_backward(dqkv, dweights, Write::Add, qkv, rstd, weights, n, dims);
    });
    let work = Work::Bytes(bench.bytes(n * dims.qkv()));
    bench.run(&format!("{model} bias_backward"), work, |k| {
        k.bias_backward(dbias, Write::Add, dqkv, n, dims.qkv());
    });
    let work = Work::Bytes(2.0 * bench.bytes(n * (dims.h + dims.g) * dims.d));
    bench.run(&format!("{model} rope_forward"), work, |k| k.rope_forward(dqkv, &rows, inv_freq, dims));
}

fn rows(bench: &mut Bench<impl Meter>, model: &str, dims: &Dims, n: usize, chunk: usize) {
    let (Dims { c, f, v, .. }, stride) = (*dims, dims.logits_stride());
    let inputs = bench.inputs();
    let [x, out, dx] = [0; 3].map(|_| inputs.activations(n * c));
    let (rstd, weight, dweight) = (inputs.f32s(n), inputs.bf16s(c), inputs.f32s(c));
    let (gate_up, product) = (inputs.activations(n * 2 * f), inputs.activations(n * f));
    let (logits, loss) = (inputs.activations(chunk * stride), inputs.zeros(8));
    let targets = LossRows { targets: inputs.zeros(chunk * 4), weights: inputs.f32s(chunk), scale: 1.0 };
    // As many tokens as there are, their rows far apart.
    let distinct = n.min(v);
    let rows_of = |token: usize| (n - token).div_ceil(distinct);
    let mut first = vec![0; n + 1];
    for token in 0..n {
        first[token + 1] = first[token] + if token < distinct { rows_of(token) } else { 0 };
    }
    let mut by_token: Vec<usize> = (0..n).collect();
    by_token.sort_by_key(|row| row % distinct);
    let tokens = TokenRows {
        tokens: inputs.i32s(n, |row| row % distinct),
        order: inputs.i32s(n, |place| by_token[place]),
        first: inputs.i32s(n + 1, |token| first[token]),
        distinct,
    };
    let (table, dtable) = (inputs.bf16s(v * c), inputs.f32s(v * c));

    let work = Work::Bytes(bench.bytes(2 * n * c));
    bench.run(&format!("{model} rmsnorm_forward"), work, |k| {
        k.rmsnorm_forward(out, rstd, x, weight, 1e-5, n, c);
    });
    let work = Work::Bytes(bench.bytes(4 * n * c));
    bench.run(&format!("{model} rmsnorm_backward"), work, |k| {
        k.rmsnorm_backward(dx, Write::Add, dweight, Write::Set, out, x, rstd, weight, n, c);
    });
    let work = Work::Bytes(bench.bytes(3 * n * f));
    bench.run(&format!("{model} swiglu_forward"), work, |k| k.swiglu_forward(product, gate_up, n, f));
    let work = Work::Bytes(bench.bytes(5 * n * f));
    bench.run(&format!("{model} swiglu_backward"), work, |k| k.swiglu_backward(gate_up, product, n, f));
    let work = Work::Bytes(bench.bytes(chunk * v));
    bench.run(&format!("{model} cross_entropy_forward"), work, |k| {
        k.cross_entropy_forward(loss, logits, &targets, chunk, v, stride);
    });
    let work = Work::Bytes(bench.bytes(2 * chunk * v));
    bench.run(&format!("{model} cross_entropy_forward_backward"), work, |k| {
        k.cross_entropy_forward_backward(loss, logits, &targets, chunk, v, stride);
    });
    let work = Work::Bytes(bench.bytes(n * c) + (2 * n * c) as f64);
    bench.run(&format!("{model} embed_forward"), work, |k| {
        k.embed_forward(out, table, tokens.tokens, n, c, v);
    });
    let work = Work::Bytes(bench.bytes(n * c) + (8 * distinct * c) as f64);
    bench.run(&format!("{model} embed_backward"), work, |k| {
        k.embed_backward(dtable, out, &tokens, n, c, v);
    });
}

fn gradients(bench: &mut Bench<impl Meter>, count: usize) {
    let inputs = bench.inputs();
    let squares = inputs.zeros(count.div_ceil(NORM_BLOCK) * 8);
    let (x, rounded) = (inputs.f32s(count), inputs.zeros(count * 2));
    bench.run("sum_of_squares", Work::Bytes((count * 4) as f64), |k| k.sum_of_squares(squares, x));
    bench.run("round", Work::Bytes((count * 6) as f64), |k| k.round(rounded, Some(squares), x, DType::Bf16));
    bench.run("zero", Work::Bytes((count * 4) as f64), |k| k.zero(x));
}

/// What the rows of biases and norms of heads ask of a workspace.
fn extras(dims: &Dims) -> Extras {
    Extras { bias_columns: dims.qkv(), qk_norm: true }
}

/// All ops of the chosen models.
fn on_cuda(device: usize, filter: &str) -> Result<()> {
    let name = option("--model");
    let (models, effort, elements) = match name.as_deref() {
        Some("tiny") => (vec![TINY], Effort::TINY, 1 << 8),
        Some(name) => {
            (ON_CUDA.iter().copied().filter(|model| model.0 == name).collect(), Effort::FULL, ELEMENTS)
        }
        None => (ON_CUDA.to_vec(), Effort::FULL, ELEMENTS),
    };
    let workspace =
        models.iter().map(|(_, dims, shape, chunk)| workspace_bytes(dims, *shape, *chunk, extras(dims)));
    let workspace =
        workspace.max().ok_or_else(|| Error::argument("--model is none of 8b, d64, d96, d256, tiny"))?;
    let products = option("--products").map(PathBuf::from);
    let mut bench = Bench { meter: Cuda::new(device, workspace, products.as_deref(), effort)?, filter };
    bench.everything(&models, elements);
    let failed = bench.meter.failures();
    if failed > 0 { Err(Error::internal(format!("{failed} ops failed"))) } else { Ok(()) }
}

fn main() -> ExitCode {
    let (device, filter) =
        (option("--device").unwrap_or("cpu".into()), option("--filter").unwrap_or_default());
    match device.split_once(':').unwrap_or((&device, "0")) {
        ("cpu", _) => {
            let processor = std::env::args().any(|argument| argument == "--cpu-time");
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let (clock, threads) = match number("--threads").unwrap_or(cores) {
                _ if processor => (Clock::Processor, 1),
                threads => (Clock::Wall, threads),
            };
            Bench { meter: meter::cpu::Cpu::new(threads, clock), filter: &filter }
                .everything(ON_CPU, ELEMENTS);
            ExitCode::SUCCESS
        }
        ("cuda", index) => on_gpu(|| on_cuda(index.parse().expect("--device cuda:i"), &filter)),
        _ => panic!("--device is `{device}`; it is one of cpu, cuda, cuda:i"),
    }
}
