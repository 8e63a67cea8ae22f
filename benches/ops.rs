//! Every op at the sizes of real models, compared with the ceilings of the machine at the same
//! time.
//!
//! ```text
//! cargo bench --bench ops -- [--device cpu|cuda[:i]] [--model NAME] [--gemm-table FILE] [--threads N] [--cpu-time] [--filter TEXT]
//! ```
//!
//! `--model` and `--filter` select ops, `--gemm-table` names a GEMM autotune table. `--cpu-time`
//! measures CPU time of one thread instead of wall-clock time, for busy machines. If an op fails,
//! the error is printed and the next op runs.
//!
//! `meter` times ops and measures the ceilings of each device. On a machine of varying speed,
//! compare only the percentages. FLOPs and bytes are those of the ops' contracts: 2 FLOPs per
//! multiply-add, and operands read and written once, so an op whose data fits a CPU cache may
//! exceed 100 %. Attention counts only FLOPs below the diagonal.

mod meter;
mod probe;

use std::path::PathBuf;
use std::process::ExitCode;

use horizon::base::{DType, Dims, Error, Result, Shape};
use horizon::device::DeviceSpan;
use horizon::ops::cuda::workspace;
use horizon::ops::{
    Access, Activation, AttentionBackward, AttentionForward, BiasBackward, CrossEntropyBackward,
    CrossEntropyForward, CrossEntropyForwardBackward, CrossEntropyLogprobs, Element, EmbeddingBackward,
    EmbeddingForward, GluBackward, GluForward, Heads, Linear, LinearBackwardInput, LinearBackwardWeight,
    LinearForward, NormSpan, Op, QkNormBackward, QkNormForward, RmsnormBackward, RmsnormForward, Rope,
    RopeDirection, Rotation, Round, Squares, Widen, Write, Zero,
};
use meter::cuda::{Cuda, Effort};
use meter::{Meter, Model, content};
use probe::Clock;
use support::bench::{number, on_gpu, option};
use support::operands::Fill::{self, Any};
use support::operands::bound;

const ON_CPU: &[Model] = &[
    ("a", Dims { c: 256, h: 4, g: 4, d: 64, f: 688, v: 256, l: 4 }, Shape { b: 8, t: 256 }, 2048),
    ("b", Dims { c: 512, h: 8, g: 8, d: 64, f: 1376, v: 32_000, l: 8 }, Shape { b: 4, t: 512 }, 512),
];

/// Llama 3 8B, and smaller models with the other head dimensions.
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

/// An op with its name in the output.
type Named = (String, Op<Fill>);

/// Converts an op's name to snake case, e.g. `qk_norm_forward`.
fn snake(op: &Op<Fill>) -> String {
    let name = op.contract().name();
    let words = name.char_indices().flat_map(|(at, c)| {
        let gap = (at > 0 && c.is_uppercase()).then_some('_');
        gap.into_iter().chain(c.to_lowercase())
    });
    words.collect()
}

/// Every op at the sizes of a model.
fn ops_of((model, dims, shape, chunk): &Model) -> Vec<Named> {
    let matmuls = matmuls(dims, shape.n(), *chunk)
        .into_iter()
        .map(|(layer, op)| (format!("{model} {layer} {}", snake(&op).trim_start_matches("linear_")), op));
    let windows = [0, shape.t / 8].into_iter().flat_map(|window| {
        let suffix = if window == 0 { "" } else { ", window" };
        attention(dims, *shape, window).map(|op| (format!("{model} {}{suffix}", snake(&op)), op))
    });
    let rows = heads(dims, *shape).into_iter().chain(rows(dims, shape.n(), *chunk));
    matmuls.chain(windows).chain(rows.map(|op| (format!("{model} {}", snake(&op)), op))).collect()
}

/// The matmuls, with the names of their layers.
fn matmuls(dims: &Dims, n: usize, chunk: usize) -> Vec<(&'static str, Op<Fill>)> {
    let Dims { c, f, v, .. } = *dims;
    let layers = [
        ("qkv", Linear::dense(n, c, dims.qkv())),
        ("o", Linear::dense(n, dims.attention_width(), c)),
        ("gate_up", Linear::dense(n, c, 2 * f)),
        ("down", Linear::dense(n, f, c)),
        ("lm", Linear { out_stride: dims.logits_stride(), ..Linear::dense(chunk, c, v) }),
    ];
    let ops = layers.into_iter().flat_map(|(layer, sizes)| {
        let (dx_write, dweight_write) = (Write::Set, Write::Set);
        let ops = [
            LinearForward { out: Any, x: Any, weight: Any, residual: None, bias: None, scale: 1.0, sizes }
                .into(),
            LinearBackwardInput { dx: Any, dout: Any, weight: Any, scale: 1.0, dx_write, sizes }.into(),
            LinearBackwardWeight { dweight: Any, dout: Any, x: Any, scale: 1.0, dweight_write, sizes }.into(),
        ];
        ops.map(|op| (layer, op))
    });
    ops.collect()
}

/// Attention with one document per sequence.
fn attention(dims: &Dims, shape: Shape, window: usize) -> [Op<Fill>; 2] {
    let (n, t, heads, scale) = (shape.n(), shape.t, Heads::from(dims), 1.0 / (dims.d as f32).sqrt());
    let doc_start = || Fill::rows(n, |row| row / t * t);
    let doc_end = Fill::rows(n, |row| (row / t + 1) * t);
    [
        AttentionForward {
            out: Any,
            lse: Any,
            qkv: Any,
            doc_start: doc_start(),
            scale,
            window,
            shape,
            heads,
        }
        .into(),
        AttentionBackward {
            dqkv: Any,
            dout: Any,
            out: Any,
            lse: Any,
            qkv: Any,
            doc_start: doc_start(),
            doc_end,
            scale,
            window,
            shape,
            heads,
        }
        .into(),
    ]
}

/// The other ops on packed rows of heads.
fn heads(dims: &Dims, shape: Shape) -> Vec<Op<Fill>> {
    let (n, heads, eps, positions) =
        (shape.n(), Heads::from(dims), 1e-5, Fill::rows(shape.n(), |n| n % shape.t));
    vec![
        QkNormForward {
            out: Any,
            rstd: Any,
            qkv: Any,
            q_weight: Any,
            k_weight: Any,
            span: NormSpan::Head,
            offset: 0.0,
            eps,
            n,
            heads,
        }
        .into(),
        QkNormBackward {
            dqkv: Any,
            dq_weight: Any,
            dk_weight: Any,
            qkv: Any,
            rstd: Any,
            q_weight: Any,
            k_weight: Any,
            span: NormSpan::Head,
            offset: 0.0,
            dweight_write: Write::Add,
            n,
            heads,
        }
        .into(),
        BiasBackward { dbias: Any, dout: Any, dbias_write: Write::Add, n, c: heads.qkv() }.into(),
        Rope {
            qkv: Any,
            positions,
            inv_freq: Any,
            direction: RopeDirection::Forward,
            rotation: Rotation::whole(&heads),
            n,
            heads,
        }
        .into(),
    ]
}

/// Norms, SwiGLU, the embedding and the loss.
fn rows(dims: &Dims, n: usize, chunk: usize) -> Vec<Op<Fill>> {
    let (Dims { c, f, v, .. }, stride, eps) = (*dims, dims.logits_stride(), 1e-5);
    // As many distinct tokens as possible; rows of the same token are far from each other.
    let distinct = n.min(v);
    let tokens = || Fill::rows(n, |row| row % distinct);
    let mut by_token: Vec<usize> = (0..n).collect();
    by_token.sort_by_key(|row| row % distinct);
    let first = Fill::rows(n + 1, |token| {
        let before = token.min(distinct);
        before * (n / distinct) + before.min(n % distinct)
    });
    let targets = || Fill::rows(chunk, |_| 0);
    vec![
        RmsnormForward { out: Any, rstd: Any, x: Any, weight: Any, residual: None, offset: 0.0, eps, n, c }
            .into(),
        RmsnormBackward {
            dx: Any,
            dweight: Any,
            dout: Any,
            x: Any,
            rstd: Any,
            weight: Any,
            offset: 0.0,
            dx_write: Write::Add,
            dweight_write: Write::Set,
            n,
            c,
        }
        .into(),
        GluForward { out: Any, gate_up: Any, activation: Activation::Silu, n, f }.into(),
        GluBackward { gate_up: Any, dout: Any, activation: Activation::Silu, n, f }.into(),
        CrossEntropyForward { loss: Any, logits: Any, targets: targets(), weights: Any, n: chunk, v, stride }
            .into(),
        CrossEntropyForwardBackward {
            loss: Any,
            logits: Any,
            targets: targets(),
            weights: Any,
            scale: 1.0,
            n: chunk,
            v,
            stride,
        }
        .into(),
        CrossEntropyLogprobs { logprobs: Any, logits: Any, targets: targets(), n: chunk, v, stride }.into(),
        CrossEntropyBackward { logits: Any, targets: targets(), dlogprobs: Any, n: chunk, v, stride }.into(),
        EmbeddingForward { out: Any, table: Any, tokens: tokens(), scale: 1.0, n, c, v }.into(),
        EmbeddingBackward {
            dtable: Any,
            dout: Any,
            tokens: tokens(),
            order: Fill::rows(n, |index| by_token[index]),
            first,
            scale: 1.0,
            distinct,
            n,
            c,
            v,
        }
        .into(),
    ]
}

/// Ops on `n` elements of a gradient, and on logits that are copied to the host.
fn gradients(n: usize) -> Vec<Named> {
    let ops: [Op<Fill>; 4] = [
        Squares { squares: Any, x: Any, n }.into(),
        Round { out: Any, squares: Some(Any), x: Any, to: DType::Bf16, n }.into(),
        Zero { out: Any, bytes: n * 4 }.into(),
        Widen { out: Any, x: Any, n }.into(),
    ];
    ops.into_iter().map(|op| (snake(&op), op)).collect()
}

/// Memory of operands. Ops share memory of the same type and length, except that read-only operands
/// are not shared with written ones.
#[derive(Default)]
struct Inputs(Vec<((Element, usize, bool), DeviceSpan)>);

impl Inputs {
    fn bind(&mut self, meter: &impl Meter, op: &Op<Fill>) -> Op {
        let activation_dtype = meter.kernels().activation_dtype();
        let mut taken = Vec::new();
        bound(op, |operand| {
            if let Fill::Rows(_) = operand.at {
                return meter.memory(&content(&operand, activation_dtype));
            }
            let key = (operand.element, operand.elements, operand.access == Access::Read);
            let free = |(of, span): &&(_, DeviceSpan)| *of == key && !taken.contains(span);
            let span = self.0.iter().find(free).map(|(_, span)| *span).unwrap_or_else(|| {
                let span = meter.memory(&content(&operand, activation_dtype));
                self.0.push((key, span));
                span
            });
            taken.push(span);
            span
        })
    }
}

/// Times the ops whose names contain the filter; attention with each of its kernels.
fn time(meter: &mut impl Meter, ops: &[Named], filter: &str) {
    let mut inputs = Inputs::default();
    for (name, op) in ops {
        let kernels = match op {
            Op::AttentionForward(op) => meter.attentions(op.heads.d),
            Op::AttentionBackward(op) => meter.attentions(op.heads.d),
            _ => vec![""],
        };
        for (at, kernel) in kernels.into_iter().enumerate() {
            let name = format!("{name} {kernel}");
            if name.trim_end().contains(filter) {
                meter.select_attention(at);
                let op = inputs.bind(meter, op);
                meter.time(name.trim_end(), &op);
            }
        }
    }
}

/// All ops of the models, and of a gradient of `elements` elements.
fn everything(models: &[Model], elements: usize) -> Vec<Named> {
    models.iter().flat_map(ops_of).chain(gradients(elements)).collect()
}

/// Runs all ops of the selected models.
fn on_cuda(device: usize, filter: &str) -> Result<()> {
    let name = option("--model");
    let (models, effort, elements) = match name.as_deref() {
        Some("tiny") => (vec![TINY], Effort::TINY, 1 << 8),
        Some(name) => {
            (ON_CUDA.iter().copied().filter(|model| model.0 == name).collect(), Effort::FULL, ELEMENTS)
        }
        None => (ON_CUDA.to_vec(), Effort::FULL, ELEMENTS),
    };
    if models.is_empty() {
        return Err(Error::argument("unknown --model: it must be one of 8b, d64, d96, d256, tiny"));
    }
    let ops = everything(&models, elements);
    let scratch = ops.iter().map(|(_, op)| op.contract().scratch_bytes()).max().unwrap_or(0);
    let gemm_table = option("--gemm-table").map(PathBuf::from);
    let mut meter = Cuda::new(device, workspace::bytes(scratch), gemm_table.as_deref(), effort)?;
    time(&mut meter, &ops, filter);
    let failed = meter.failures();
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
            time(&mut meter::cpu::Cpu::new(threads, clock), &everything(ON_CPU, ELEMENTS), &filter);
            ExitCode::SUCCESS
        }
        ("cuda", index) => on_gpu(|| on_cuda(index.parse().expect("--device cuda:i"), &filter)),
        _ => panic!("--device is `{device}`; it must be one of cpu, cuda, cuda:i"),
    }
}
