//! Every CPU op at the sizes of two models, against what the machine can do in the same moment.
//!
//! `cargo bench --bench ops -- [--threads N] [--cpu-time] [FILTER]`. `--cpu-time` counts processor seconds of
//! one thread instead of seconds: for a machine that is busy with other things.
//!
//! An op's time is the least of several runs; between
//! them the ceilings are probed: fused multiply-adds on registers, for products and attention, and a
//! read-and-write pass over memory larger than the caches, for the rest. Of a machine whose speed wanders,
//! only the percentages compare. FLOPs are those of the formula, 2 a multiply-add; bytes are those an op must
//! read and write once, so an op whose data fits a cache may pass 100 %.

mod probe;

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use horizon::base::{DType, Dims, Shape};
use horizon::device::DeviceSpan;
use horizon::host::Pool;
use horizon::ops::cpu::CpuKernels;
use horizon::ops::{Kernels, Linear, LossRows, Rows, TokenRows, Write};
use probe::Clock;

const MODELS: &[(&str, Dims, Shape, usize)] = &[
    ("a", Dims { c: 256, h: 4, g: 4, d: 64, f: 688, v: 256, l: 4 }, Shape { b: 8, t: 256 }, 2048),
    ("b", Dims { c: 512, h: 8, g: 8, d: 64, f: 1376, v: 32_000, l: 8 }, Shape { b: 4, t: 512 }, 512),
];

/// What an op is held against.
#[derive(Clone, Copy)]
enum Work {
    Flops(f64),
    Bytes(f64),
}

struct Bench {
    pool: Arc<Pool>,
    clock: Clock,
    filter: String,
    /// In-place traffic of the bandwidth probe, larger than any cache here.
    traffic: Vec<f32>,
}

impl Bench {
    fn run(&mut self, name: &str, work: Work, op: impl Fn()) {
        if !name.contains(&self.filter) {
            return;
        }
        op();
        let (mut op_seconds, mut ceiling) = (f64::INFINITY, 0f64);
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.6 {
            op_seconds = op_seconds.min(self.clock.seconds(&op));
            ceiling = ceiling.max(match work {
                Work::Flops(_) => probe::flops_per_second(&self.pool, self.clock),
                Work::Bytes(_) => probe::bytes_per_second(&self.pool, self.clock, &mut self.traffic),
            });
        }
        let (amount, unit) = match work {
            Work::Flops(flops) => (flops, "GFLOP/s"),
            Work::Bytes(bytes) => (bytes, "GB/s"),
        };
        let rate = amount / op_seconds;
        println!(
            "{name:34} {:9.3} ms {:7.1} {unit:8} {:5.1} % of {:.0}",
            op_seconds * 1e3,
            rate / 1e9,
            100.0 * rate / ceiling,
            ceiling / 1e9
        );
    }
}

/// Memory that is never freed: the process ends with the bench.
fn memory(bytes: usize) -> DeviceSpan {
    let layout = Layout::from_size_align(bytes, 4096).expect("a size");
    // SAFETY: the size is not zero.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
    // SAFETY: zeroed above, and never freed.
    unsafe { DeviceSpan::new(base, bytes) }
}

fn f32s(count: usize) -> DeviceSpan {
    let span = memory(count * 4);
    // SAFETY: the memory holds `count` numbers and nobody else knows it yet.
    let values = unsafe { std::slice::from_raw_parts_mut(span.address().cast::<f32>(), count) };
    for (i, value) in values.iter_mut().enumerate() {
        *value = (i.wrapping_mul(2_654_435_761) % 2001) as f32 / 1000.0 - 1.0;
    }
    span
}

fn bf16s(count: usize) -> DeviceSpan {
    let span = memory(count * 2);
    // SAFETY: the memory holds `count` numbers and nobody else knows it yet.
    let values = unsafe { std::slice::from_raw_parts_mut(span.address().cast::<u16>(), count) };
    for (i, value) in values.iter_mut().enumerate() {
        *value = horizon::base::master::round((i.wrapping_mul(2_654_435_761) % 2001) as f32 / 1e4 - 0.1);
    }
    span
}

fn i32s(values: impl ExactSizeIterator<Item = i32>) -> DeviceSpan {
    let span = memory(values.len() * 4);
    // SAFETY: the memory holds as many numbers as the iterator gives, and nobody else knows it yet.
    let numbers = unsafe { std::slice::from_raw_parts_mut(span.address().cast::<i32>(), values.len()) };
    numbers.iter_mut().zip(values).for_each(|(number, value)| *number = value);
    span
}

fn products(bench: &mut Bench, k: &CpuKernels, model: &str, dims: &Dims, n: usize, chunk: usize) {
    let Dims { c, f, v, .. } = *dims;
    for (name, n, inputs, outputs) in [
        ("qkv", n, c, dims.qkv()),
        ("o", n, dims.attended(), c),
        ("gate_up", n, c, 2 * f),
        ("down", n, f, c),
        ("lm", chunk, c, v),
    ] {
        let (x, w, y) = (f32s(n * inputs), bf16s(inputs * outputs), f32s(n * outputs));
        let (dw, sizes) = (f32s(inputs * outputs), Linear::dense(n, inputs, outputs));
        let work = Work::Flops(2.0 * (n * inputs * outputs) as f64);
        bench.run(&format!("{model} {name} forward"), work, || {
            k.matmul_forward(y, x, w, None, sizes);
        });
        bench.run(&format!("{model} {name} backward_input"), work, || {
            k.matmul_backward_input(x, Write::Set, y, w, sizes);
        });
        bench.run(&format!("{model} {name} backward_weight"), work, || {
            k.matmul_backward_weight(dw, Write::Set, y, x, sizes);
        });
    }
}

fn attention(bench: &mut Bench, k: &CpuKernels, model: &str, dims: &Dims, shape: Shape) {
    let n = shape.n();
    // Every sequence is one document.
    let by_row = |value: fn(usize, usize) -> usize| i32s((0..n).map(|row| value(row, shape.t) as i32));
    let rows = Rows {
        shape,
        positions: by_row(|row, t| row % t),
        doc_start: by_row(|row, t| row / t * t),
        doc_end: by_row(|row, t| (row / t + 1) * t),
    };
    let (qkv, dqkv) = (f32s(n * dims.qkv()), f32s(n * dims.qkv()));
    let (out, dout, lse) = (f32s(n * dims.attended()), f32s(n * dims.attended()), f32s(n * dims.h));
    // Two products of T·(T + 1)/2 scores a head, five backward.
    let scores = (shape.b * dims.h * shape.t * (shape.t + 1) / 2 * dims.d * 2) as f64;
    bench.run(&format!("{model} attention_forward"), Work::Flops(2.0 * scores), || {
        k.attention_forward(out, lse, qkv, &rows, dims);
    });
    bench.run(&format!("{model} attention_backward"), Work::Flops(5.0 * scores), || {
        k.attention_backward(dqkv, dout, out, lse, qkv, &rows, dims);
    });
    let bytes = (n * (dims.h + dims.g) * dims.d * 8) as f64;
    let inv_freq = f32s(dims.d / 2);
    bench.run(&format!("{model} rope_forward"), Work::Bytes(bytes), || {
        k.rope_forward(dqkv, &rows, inv_freq, dims);
    });
}

fn rows(bench: &mut Bench, k: &CpuKernels, model: &str, dims: &Dims, n: usize, chunk: usize) {
    let Dims { c, f, v, .. } = *dims;
    let (x, out, rstd, weight, dweight) = (f32s(n * c), f32s(n * c), f32s(n), bf16s(c), f32s(c));
    bench.run(&format!("{model} rmsnorm_forward"), Work::Bytes((n * c * 8) as f64), || {
        k.rmsnorm_forward(out, rstd, x, weight, 1e-5, n, c);
    });
    let dx = f32s(n * c);
    bench.run(&format!("{model} rmsnorm_backward"), Work::Bytes((n * c * 16) as f64), || {
        k.rmsnorm_backward(dx, Write::Add, dweight, Write::Set, out, x, rstd, weight, n, c);
    });
    let (gate_up, product) = (f32s(n * 2 * f), f32s(n * f));
    bench.run(&format!("{model} swiglu_forward"), Work::Bytes((n * f * 12) as f64), || {
        k.swiglu_forward(product, gate_up, n, f);
    });
    bench.run(&format!("{model} swiglu_backward"), Work::Bytes((n * f * 20) as f64), || {
        k.swiglu_backward(gate_up, product, n, f);
    });
    let (logits, loss) = (f32s(chunk * v), memory(8));
    let targets = LossRows { targets: memory(chunk * 4), weights: f32s(chunk), scale: 1.0 };
    bench.run(
        &format!("{model} cross_entropy_forward_backward"),
        Work::Bytes((chunk * v * 8) as f64),
        || {
            k.cross_entropy_forward_backward(loss, logits, &targets, chunk, v, v);
        },
    );
    // Every row holds another token, or the rows share all of V.
    let (table, dtable) = (bf16s(v * c), f32s(v * c));
    let distinct = n.min(v);
    let rows_of = |token: usize| (n - token).div_ceil(distinct);
    let first = |token: usize| (0..token.min(distinct)).map(rows_of).sum::<usize>() as i32;
    let mut by_token: Vec<i32> = (0..n as i32).collect();
    by_token.sort_by_key(|&row| row as usize % distinct);
    let tokens = TokenRows {
        tokens: i32s((0..n).map(|row| (row % distinct) as i32)),
        order: i32s(by_token.into_iter()),
        first: i32s((0..n + 1).map(first)),
        distinct,
    };
    bench.run(&format!("{model} embed_forward"), Work::Bytes((n * c * 6) as f64), || {
        k.embed_forward(out, table, tokens.tokens, n, c, v);
    });
    bench.run(&format!("{model} embed_backward"), Work::Bytes((n * c * 12) as f64), || {
        k.embed_backward(dtable, out, &tokens, n, c, v);
    });
}

fn gradients(bench: &mut Bench, k: &CpuKernels) {
    let count = 1 << 24;
    let (x, rounded, sum) = (f32s(count), memory(count * 2), memory(8));
    bench.run("sum_of_squares", Work::Bytes((count * 4) as f64), || k.sum_of_squares(sum, x));
    bench.run("round", Work::Bytes((count * 6) as f64), || k.round(rounded, x, DType::Bf16));
    bench.run("zero", Work::Bytes((count * 4) as f64), || k.zero(x));
}

fn main() {
    let mut clock = Clock::Wall;
    let (mut threads, mut filter) = (std::thread::available_parallelism().map_or(1, usize::from), None);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => {
                threads = arguments.next().and_then(|n| n.parse().ok()).expect("--threads wants a number")
            }
            "--cpu-time" => (clock, threads) = (Clock::Processor, 1),
            _ => filter = Some(argument),
        }
    }
    let pool = Arc::new(Pool::new(threads).expect("a pool"));
    let kernels = CpuKernels::new(pool.clone());
    println!("{threads} threads");
    let mut bench = Bench { pool, clock, filter: filter.unwrap_or_default(), traffic: vec![0.0; 1 << 24] };
    for &(model, dims, shape, chunk) in MODELS {
        products(&mut bench, &kernels, model, &dims, shape.n(), chunk);
        attention(&mut bench, &kernels, model, &dims, shape);
        rows(&mut bench, &kernels, model, &dims, shape.n(), chunk);
    }
    gradients(&mut bench, &kernels);
}
