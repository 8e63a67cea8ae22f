//! Tests that every op's CPU and CUDA functions do what its contract declares.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::vec::IntoIter;

use horizon::base::{DType, Shape, master};
use horizon::host::Pool;
use horizon::ops::cpu::CpuKernels;
use horizon::ops::{
    Access, Activation, AttentionBackward, AttentionForward, BiasBackward, Contract, CrossEntropyBackward,
    CrossEntropyForward, CrossEntropyForwardBackward, CrossEntropyLogprobs, Element, EmbeddingBackward,
    EmbeddingForward, Flops, GluBackward, GluForward, Heads, Kernels, Linear, LinearBackwardInput,
    LinearBackwardWeight, LinearForward, NORM_BLOCK, NormSpan, Op, Operand, QkNormBackward, QkNormForward,
    QueryScaling, RmsnormBackward, RmsnormForward, Rope, RopeDirection, Rotation, Round, Squares, Widen,
    Write, Zero,
};
use support::operands::Fill::{self, Any};
use support::operands::bound;
use support::reference::Random;
use support::reference::device::Device;
use support::reference::memory::Memory;
use support::spans;

const WRITES: [Write; 2] = [Write::Set, Write::Add];
const OFFSETS: [f32; 2] = [0.0, 1.0];
const FACTORS: [f32; 2] = [1.0, 0.375];
/// The columns that are normalised together, and the offset.
const SPANS: [(NormSpan, f32); 3] = [(NormSpan::Head, 0.0), (NormSpan::Head, 1.0), (NormSpan::AllHeads, 1.0)];
const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

/// Small sizes that every device supports; rows and classes end within tiles and vectors.
const SHAPE: Shape = Shape { b: 2, t: 9 };
const HEADS: Heads = Heads { h: 2, g: 1, d: 64 };
const N: usize = 18;
const C: usize = 40;
const F: usize = 24;
const V: usize = 19;
const STRIDE: usize = 24;
const EPS: f32 = 1e-5;
/// Of attention scores.
const SCALE: f32 = 0.125;
/// A block and a tail.
const ELEMENTS: usize = NORM_BLOCK + 37;
/// Output and residual have gaps between rows.
const LINEAR: Linear = Linear { n: N, k: C, m: V, out_stride: STRIDE };

/// Lists instances of every op.
macro_rules! instances {
    ($($op:ident: $list:expr;)*) => {
        fn instances() -> Vec<Op<Fill>> {
            let mut ops = Vec::new();
            $(ops.extend($list.map(Op::$op));)*
            ops
        }

        /// Fails to compile until every op is in the list.
        fn _is_listed(op: &Op) {
            match op {
                $(Op::$op(_) => {})*
            }
        }
    };
}

instances! {
    AttentionForward: [0, 4].map(|window| AttentionForward {
        out: Any, lse: Any, qkv: Any, doc_start: doc_start(), scale: SCALE, window, shape: SHAPE, heads: HEADS,
    });
    AttentionBackward: [0, 4].map(|window| AttentionBackward {
        dqkv: Any, dout: Any, out: Any, lse: Any, qkv: Any, doc_start: doc_start(), doc_end: doc_end(), scale: SCALE,
        window, shape: SHAPE, heads: HEADS,
    });
    BiasBackward: WRITES.map(|dbias_write| BiasBackward { dbias: Any, dout: Any, dbias_write, n: N, c: C });
    CrossEntropyForward: [CrossEntropyForward {
        loss: Any, logits: Any, targets: targets(), weights: Any, n: N, v: V, stride: STRIDE,
    }];
    CrossEntropyForwardBackward: [CrossEntropyForwardBackward {
        loss: Any, logits: Any, targets: targets(), weights: Any, scale: 0.125, n: N, v: V, stride: STRIDE,
    }];
    CrossEntropyLogprobs: [CrossEntropyLogprobs {
        logprobs: Any, logits: Any, targets: targets(), n: N, v: V, stride: STRIDE,
    }];
    CrossEntropyBackward: [CrossEntropyBackward {
        logits: Any, targets: targets(), dlogprobs: Any, n: N, v: V, stride: STRIDE,
    }];
    EmbeddingForward: FACTORS.map(|scale| EmbeddingForward {
        out: Any, table: Any, tokens: tokens(), scale, n: N, c: C, v: V,
    });
    EmbeddingBackward: FACTORS.map(|scale| EmbeddingBackward {
        dtable: Any, dout: Any, tokens: tokens(), order: Fill::rows(N, |row| N - 1 - row),
        first: Fill::rows(N + 1, |token| token), scale, distinct: N, n: N, c: C, v: V,
    });
    Zero: [Zero { out: Any, bytes: 1001 }];
    Squares: [Squares { squares: Any, x: Any, n: ELEMENTS }];
    Round: [(DType::Bf16, None), (DType::Bf16, Some(Any)), (DType::F32, None), (DType::F32, Some(Any))]
        .map(|(to, squares)| Round { out: Any, squares, x: Any, to, n: ELEMENTS });
    Widen: [Widen { out: Any, x: Any, n: 1001 }];
    LinearForward: [(None, None, 1.0), (Some(Any), Some(Any), 1.0), (Some(Any), None, 0.375)]
        .map(|(residual, bias, scale)| LinearForward {
            out: Any, x: Any, weight: Any, residual, bias, scale, sizes: LINEAR,
        });
    LinearBackwardInput: each_two(WRITES, FACTORS).map(|(dx_write, scale)| LinearBackwardInput {
        dx: Any, dout: Any, weight: Any, scale, dx_write, sizes: LINEAR,
    });
    LinearBackwardWeight: each_two(WRITES, FACTORS).map(|(dweight_write, scale)| LinearBackwardWeight {
        dweight: Any, dout: Any, x: Any, scale, dweight_write, sizes: LINEAR,
    });
    QkNormForward: SPANS.map(|(span, offset)| QkNormForward {
        out: Any, rstd: Any, qkv: Any, q_weight: Any, k_weight: Any, span, offset, eps: EPS, n: N, heads: HEADS,
    });
    QkNormBackward: each_two(WRITES, SPANS).map(|(dweight_write, (span, offset))| QkNormBackward {
        dqkv: Any, dq_weight: Any, dk_weight: Any, qkv: Any, rstd: Any, q_weight: Any, k_weight: Any,
        span, offset, dweight_write, n: N, heads: HEADS,
    });
    RmsnormForward: each_two([None, Some(Any)], OFFSETS).map(|(residual, offset)| RmsnormForward {
        out: Any, rstd: Any, x: Any, weight: Any, residual, offset, eps: EPS, n: N, c: C,
    });
    RmsnormBackward: each_two(each_two(WRITES, WRITES), OFFSETS).map(|((dx_write, dweight_write), offset)| {
        RmsnormBackward {
            dx: Any, dweight: Any, dout: Any, x: Any, rstd: Any, weight: Any, offset, dx_write, dweight_write, n: N,
            c: C,
        }
    });
    Rope: each_two([RopeDirection::Forward, RopeDirection::Backward], rotations()).map(|(direction, rotation)| Rope {
        qkv: Any, positions: Fill::rows(N, |row| row % SHAPE.t), inv_freq: Any, direction, rotation, n: N,
        heads: HEADS,
    });
    GluForward: ACTIVATIONS.map(|activation| GluForward { out: Any, gate_up: Any, activation, n: N, f: F });
    GluBackward: ACTIVATIONS.map(|activation| GluBackward { gate_up: Any, dout: Any, activation, n: N, f: F });
}

/// Every pair of the elements of two lists.
fn each_two<A: Clone, B: Clone>(
    a: impl IntoIterator<Item = A>,
    b: impl IntoIterator<Item = B>,
) -> IntoIter<(A, B)> {
    let b: Vec<B> = b.into_iter().collect();
    let pairs: Vec<(A, B)> =
        a.into_iter().flat_map(|a| b.iter().map(move |b| (a.clone(), b.clone()))).collect();
    pairs.into_iter()
}

/// Whole heads; parts of heads in both orders of pairs; queries with factors.
fn rotations() -> [Rotation; 4] {
    let whole = Rotation::whole(&HEADS);
    let queries = Some(QueryScaling { beta: 0.1, positions: 4 });
    [
        whole,
        Rotation { r: 48, factor: 1.25, ..whole },
        Rotation { r: 32, interleaved: true, ..whole },
        Rotation { interleaved: true, queries, ..whole },
    ]
}

/// The second sequence has two documents.
fn doc_start() -> Fill {
    Fill::rows(N, |row| if row < 9 { 0 } else { 9 + (row - 9) / 5 * 5 })
}

fn doc_end() -> Fill {
    Fill::rows(N, |row| {
        if row < 9 {
            9
        } else if row < 14 {
            14
        } else {
            N
        }
    })
}

/// All different, so that no operand of the embedding is longer than necessary.
fn tokens() -> Fill {
    Fill::rows(N, |row| N - row)
}

/// The first target is ignored.
fn targets() -> Fill {
    Fill::Rows((0..N as i32).map(|row| if row == 0 { -100 } else { row }).collect())
}

/// For an operand with gaps between its rows: the length of a row and its stride.
fn gaps(op: &Op<Fill>, operand: &str) -> Option<(usize, usize)> {
    match (op, operand) {
        (Op::LinearForward(_), "out" | "residual")
        | (Op::LinearBackwardInput(_) | Op::LinearBackwardWeight(_), "dout")
        | (
            Op::CrossEntropyForward(_)
            | Op::CrossEntropyForwardBackward(_)
            | Op::CrossEntropyLogprobs(_)
            | Op::CrossEntropyBackward(_),
            "logits",
        ) => Some((V, STRIDE)),
        _ => None,
    }
}

/// An operand as bytes.
#[derive(Clone)]
struct Content {
    name: &'static str,
    access: Access,
    element_bytes: usize,
    bytes: Vec<u8>,
    /// True for the bytes between rows.
    is_gap: Vec<bool>,
}

impl Content {
    /// The bytes between rows (`gaps`), or all others.
    fn bytes_of(&self, all: &[u8], gaps: bool) -> Vec<u8> {
        assert_eq!(all.len(), self.bytes.len());
        all.iter().zip(&self.is_gap).filter(|(_, gap)| **gap == gaps).map(|(byte, _)| *byte).collect()
    }
}

/// The operands of an op, exactly as long as its contract says. Outputs that are set, and gaps, are
/// filled with `poison`.
fn contents(op: &Op<Fill>, activation_dtype: DType, poison: u8) -> Vec<Content> {
    let mut random = Random::new(41);
    let mut contents = Vec::new();
    op.contract().each_operand(&mut |operand: Operand<&Fill>| {
        let (element, length) = (operand.element, operand.bytes(activation_dtype));
        let element_bytes = element.bytes(activation_dtype);
        let mut numbers = || {
            let f32s = random.f32s(operand.elements, 1.0).into_iter();
            match element {
                Element::F64 => f32s.flat_map(|x| f64::from(x).to_ne_bytes()).collect(),
                Element::Byte => f32s.map(|x| x.to_bits() as u8).collect(),
                _ if element_bytes == 4 => f32s.flat_map(f32::to_ne_bytes).collect(),
                _ => f32s.flat_map(|x| master::round(x).to_ne_bytes()).collect(),
            }
        };
        let mut bytes: Vec<u8> = match operand.at {
            Fill::Rows(rows) => rows.iter().flat_map(|row| row.to_ne_bytes()).collect(),
            Any => numbers(),
        };
        assert_eq!(bytes.len(), length, "{} has another length than its rows", operand.name);
        let (row, stride) = gaps(op, operand.name).unwrap_or((1, 1));
        let is_gap: Vec<bool> = (0..length).map(|at| at / element_bytes % stride >= row).collect();
        for (byte, gap) in bytes.iter_mut().zip(&is_gap) {
            if *gap || operand.access == Access::Set {
                *byte = poison;
            }
        }
        contents.push(Content { name: operand.name, access: operand.access, element_bytes, bytes, is_gap });
    });
    contents
}

/// Runs an op on these contents, each in separate memory followed by a guard, and returns the
/// contents afterwards.
fn ran(device: &Device, op: &Op<Fill>, contents: &[Content]) -> Vec<Vec<u8>> {
    let results = device.run(|kernels| {
        let memory: Vec<Memory> = contents.iter().map(|content| device.bytes(&content.bytes)).collect();
        let mut spans = memory.iter().map(Memory::span);
        spans::run(kernels, &bound(op, |_| spans.next().expect("a content for each operand")));
        memory
    });
    results.iter().map(Memory::bytes).collect()
}

fn named(device: &Device, op: &Op<Fill>) -> String {
    format!("{} on {}", op.contract().name(), device.name())
}

#[test]
fn ops_write_what_they_declare_and_nothing_else() {
    for device in Device::all() {
        instances().iter().for_each(|op| writes_what_it_declares(&device, op));
    }
    for device in Device::by_wgmma() {
        let is_attention = |op: &&Op<Fill>| matches!(op, Op::AttentionForward(_) | Op::AttentionBackward(_));
        instances().iter().filter(is_attention).for_each(|op| writes_what_it_declares(&device, op));
    }
}

fn writes_what_it_declares(device: &Device, op: &Op<Fill>) {
    // 0xff is a NaN in f32, f64 and bf16; 0x3e is a number.
    let [poisoned, other_poison] = [0xff, 0x3e].map(|poison| contents(op, device.activation_dtype(), poison));
    let [results, others] = [&poisoned, &other_poison].map(|contents| ran(device, op, contents));
    for (((content, result), other_content), other) in
        poisoned.iter().zip(&results).zip(&other_poison).zip(&others)
    {
        let operand = format!("{} of {}", content.name, named(device, op));
        let changed = content.bytes != *result;
        assert_eq!(changed, content.access != Access::Read, "{operand}: declared as {:?}", content.access);
        let same = content.bytes_of(result, false) == content.bytes_of(other, false);
        assert!(same, "{operand}: the bits depend on previous contents of outputs or gaps");
        for (content, result) in [(content, result), (other_content, other)] {
            let gaps_intact = content.bytes_of(&content.bytes, true) == content.bytes_of(result, true);
            assert!(gaps_intact, "{operand}: elements between rows were written");
        }
    }
    for (at, content) in poisoned.iter().enumerate().filter(|(_, content)| content.access == Access::Update) {
        let mut negated = poisoned.clone();
        let elements = negated[at].bytes.chunks_exact_mut(content.element_bytes);
        elements.for_each(|element| *element.last_mut().expect("a byte") ^= 0x80);
        let [before, after] =
            [&results[at], &ran(device, op, &negated)[at]].map(|r| content.bytes_of(r, false));
        assert!(before != after, "{} of {}: was set, not updated", content.name, named(device, op));
    }
}

/// An op gives the same bits when an output is an input, where its contract allows it.
#[test]
fn outputs_may_be_the_inputs_that_the_contract_allows() {
    let mut pairs = 0;
    for device in Device::all() {
        for op in instances() {
            let contents = contents(&op, device.activation_dtype(), 0xff);
            let separate = ran(&device, &op, &contents);
            let is_input = |content: &Content| content.access == Access::Read;
            for (output, input) in (0..contents.len()).flat_map(|a| (0..contents.len()).map(move |b| (a, b)))
            {
                let [out, from] = [output, input].map(|at| &contents[at]);
                if is_input(out) || !is_input(from) || !op.contract().may_be(out.name, from.name) {
                    continue;
                }
                pairs += 1;
                assert_eq!(out.access, Access::Set, "{}: nothing to compare with", named(&device, &op));
                let results = device.run(|kernels| {
                    let memory: Vec<Memory> =
                        contents.iter().map(|content| device.bytes(&content.bytes)).collect();
                    let mut indices = (0..contents.len()).map(|at| if at == output { input } else { at });
                    spans::run(kernels, &bound(&op, |_| memory[indices.next().expect("an operand")].span()));
                    memory
                });
                for at in (0..contents.len()).filter(|at| *at != output) {
                    let expected = if at == input { &separate[output] } else { &separate[at] };
                    assert!(
                        results[at].bytes() == *expected,
                        "{} of {}: the bits differ when {} is {}",
                        contents[at].name,
                        named(&device, &op),
                        out.name,
                        from.name
                    );
                }
            }
        }
    }
    assert!(pairs > 0, "no op has an output that may be an input");
}

#[test]
fn an_operand_that_is_one_element_short_is_refused() {
    for device in Device::all() {
        let cpu = CpuKernels::new(Arc::new(Pool::new(1).expect("a pool")));
        let kernels: &dyn Kernels = match &device {
            Device::Cpu => &cpu,
            Device::Cuda(cuda) => cuda.kernels(),
        };
        for op in instances() {
            let contents = contents(&op, device.activation_dtype(), 0xff);
            let memory: Vec<Memory> = contents.iter().map(|content| device.bytes(&content.bytes)).collect();
            for (short, content) in contents.iter().enumerate() {
                // For cuBLASLt a matrix ends after the last column of the last row.
                if content.is_gap.last() == Some(&true)
                    && op.contract().flops() != Flops::None
                    && !device.is_cpu()
                {
                    continue;
                }
                let mut spans = memory.iter().map(Memory::span).enumerate();
                let op = bound(&op, |_| match spans.next().expect("an operand") {
                    (at, span) if at == short => span.subspan(0, span.bytes() - content.element_bytes),
                    (_, span) => span,
                });
                let operand = format!("{} of {}", content.name, op.contract().name());
                let panic = catch_unwind(AssertUnwindSafe(|| spans::run(kernels, &op))).err();
                let panic = panic.unwrap_or_else(|| {
                    panic!("{operand} on {}: a span that is one element short was accepted", device.name())
                });
                let message = panic.downcast_ref::<String>().expect("a formatted message");
                let is_clear =
                    ["leave a span of", "bytes are too short for"].iter().any(|text| message.contains(text));
                assert!(is_clear, "{operand} on {}: {message}", device.name());
            }
        }
    }
}

/// The least bytes of `csrc/kernels.h`, against which times are compared and from which they are
/// predicted.
#[test]
fn traffic_is_the_minimum_that_kernels_need() {
    let (n, c, f, v, heads) = (4096, 2048, 8192, 32_000, Heads { h: 16, g: 8, d: 128 });
    let (qkv, normed) = (n * heads.qkv(), n * heads.normed() * heads.d);
    let (eps, scale, stride, length) = (EPS, 1.0, v, 1 << 24);
    let (out, x, rstd, weight, dout, dweight, dx) = ((), (), (), (), (), (), ());
    let (logits, targets, weights, loss, logprobs, dlogprobs) = ((), (), (), (), (), ());
    let (q_weight, k_weight, positions, inv_freq) = ((), (), (), ());
    let (table, dtable, tokens, order, first) = ((), (), (), (), ());
    let dweight_write = Write::Add;
    let norm = |dx_write| RmsnormBackward {
        dx,
        dweight,
        dout,
        x,
        rstd,
        weight,
        offset: 0.0,
        dx_write,
        dweight_write,
        n,
        c,
    };
    let embedding =
        |distinct| EmbeddingBackward { dtable, dout, tokens, order, first, scale: 1.0, distinct, n, c, v };
    let round = |to| Round { out, squares: None, x, to, n: length };
    let ops: [(Op<()>, usize); 22] = [
        (RmsnormForward { out, rstd, x, weight, residual: None, offset: 0.0, eps, n, c }.into(), 4 * n * c),
        (norm(Write::Set).into(), 6 * n * c),
        (norm(Write::Add).into(), 8 * n * c),
        (
            QkNormForward {
                out,
                rstd,
                qkv: (),
                q_weight,
                k_weight,
                span: NormSpan::Head,
                offset: 0.0,
                eps,
                n,
                heads,
            }
            .into(),
            4 * qkv,
        ),
        (qk_norm_backward(n, heads).into(), 6 * normed),
        (
            Rope {
                qkv: (),
                positions,
                inv_freq,
                direction: RopeDirection::Forward,
                rotation: Rotation::whole(&heads),
                n,
                heads,
            }
            .into(),
            4 * normed,
        ),
        (GluForward { out, gate_up: (), activation: Activation::Silu, n, f }.into(), 6 * n * f),
        (GluBackward { gate_up: (), dout, activation: Activation::Silu, n, f }.into(), 10 * n * f),
        (BiasBackward { dbias: (), dout, dbias_write: Write::Add, n, c }.into(), 2 * n * c),
        (CrossEntropyForward { loss, logits, targets, weights, n, v, stride }.into(), 2 * n * v),
        (
            CrossEntropyForwardBackward { loss, logits, targets, weights, scale, n, v, stride }.into(),
            4 * n * v,
        ),
        (CrossEntropyLogprobs { logprobs, logits, targets, n, v, stride }.into(), 2 * n * v),
        (CrossEntropyBackward { logits, targets, dlogprobs, n, v, stride }.into(), 4 * n * v),
        (EmbeddingForward { out, table, tokens, scale: 1.0, n, c, v }.into(), 4 * n * c),
        (embedding(100).into(), 2 * n * c + 8 * 100 * c),
        // While the batch is unknown, as many tokens as rows.
        (embedding(0).into(), 2 * n * c + 8 * n * c),
        (Zero { out, bytes: length }.into(), length),
        (Squares { squares: (), x, n: length }.into(), 4 * length),
        (round(DType::Bf16).into(), 6 * length),
        (round(DType::F32).into(), 8 * length),
        (Widen { out, x, n: length }.into(), 6 * length),
        // Matmuls count their weights only: the rest grows with the rows, as their FLOPs do.
        (
            LinearForward {
                out,
                x,
                weight,
                residual: None,
                bias: None,
                scale: 1.0,
                sizes: Linear::dense(n, c, f),
            }
            .into(),
            2 * c * f,
        ),
    ];
    for (op, least) in ops {
        let traffic = op.contract().traffic(DType::Bf16);
        let name = op.contract().name();
        assert!(least <= traffic && traffic <= least + least / 50, "{name}: {traffic} bytes, not {least}");
    }
}

/// 2 · N · K · M.
#[test]
fn matmuls_count_flops_by_their_sizes() {
    for op in instances() {
        let is_matmul =
            matches!(op, Op::LinearForward(_) | Op::LinearBackwardInput(_) | Op::LinearBackwardWeight(_));
        let flops = op.contract().flops();
        assert_eq!(flops == Flops::Matmul([N, C, V]), is_matmul, "{}: {flops:?}", op.contract().name());
    }
}

fn attention_backward(shape: Shape, heads: Heads) -> AttentionBackward<()> {
    let (dqkv, dout, out, lse, qkv, doc_start, doc_end) = ((), (), (), (), (), (), ());
    AttentionBackward { dqkv, dout, out, lse, qkv, doc_start, doc_end, scale: SCALE, window: 0, shape, heads }
}

fn rmsnorm_backward(n: usize, c: usize) -> RmsnormBackward<()> {
    let (dx, dweight, dout, x, rstd, weight) = ((), (), (), (), (), ());
    let (dx_write, dweight_write) = (Write::Set, Write::Set);
    RmsnormBackward { dx, dweight, dout, x, rstd, weight, offset: 0.0, dx_write, dweight_write, n, c }
}

fn qk_norm_backward(n: usize, heads: Heads) -> QkNormBackward<()> {
    let (dqkv, dq_weight, dk_weight, qkv, rstd, q_weight, k_weight) = ((), (), (), (), (), (), ());
    let (span, offset, dweight_write) = (NormSpan::Head, 0.0, Write::Set);
    QkNormBackward {
        dqkv,
        dq_weight,
        dk_weight,
        qkv,
        rstd,
        q_weight,
        k_weight,
        span,
        offset,
        dweight_write,
        n,
        heads,
    }
}

fn bias_backward(n: usize, c: usize) -> BiasBackward<()> {
    BiasBackward { dbias: (), dout: (), dbias_write: Write::Set, n, c }
}

#[test]
fn scratch_bytes_are_counted() {
    let heads = Heads { h: 32, g: 8, d: 128 };
    // Partial sums of at most 512 rows; the row sums of attention.
    assert_eq!(rmsnorm_backward(4096, 4096).scratch_bytes(), 512 * 4096 * 4);
    assert_eq!(bias_backward(100, 20_000).scratch_bytes(), 100 * 20_000 * 4);
    let shape = Shape { b: 1, t: 1 << 20 };
    assert_eq!(attention_backward(shape, heads).scratch_bytes(), (1 << 20) * 32 * 4);
    // A quarter of the key tiles to aim for: four blocks share the query heads of a group.
    let shape = Shape { b: 1, t: 1024 };
    assert_eq!(attention_backward(shape, heads).scratch_bytes(), 4 * 2 * 1024 * 8 * 128 * 4 + 1024 * 32 * 4);
    for op in instances() {
        let scratch = op.contract().scratch_bytes();
        match op {
            Op::CrossEntropyForward(op) => assert_eq!(scratch, op.n * 4),
            Op::CrossEntropyForwardBackward(op) => assert_eq!(scratch, op.n * 4),
            Op::AttentionBackward(_)
            | Op::BiasBackward(_)
            | Op::QkNormBackward(_)
            | Op::RmsnormBackward(_) => {
                assert!(scratch > 0, "{}", op.contract().name());
            }
            _ => assert_eq!(scratch, 0, "{}", op.contract().name()),
        }
    }
}

#[cfg(hz_cuda)]
#[test]
fn scratch_bytes_match_the_launchers() {
    use horizon::sys::cuda::bindings as cu;

    for n in [0, 1, 2, 511, 512, 513, 4096, 100_000] {
        for c in [8, 64, 96, 4096, 16384] {
            // SAFETY: host functions of numbers.
            let (norm, bias) = unsafe {
                (
                    cu::hzk_rmsnorm_backward_scratch(n as i64, c as i64),
                    cu::hzk_bias_backward_scratch(n as i64, c as i64),
                )
            };
            assert_eq!(
                (norm, bias),
                (rmsnorm_backward(n, c).scratch_bytes(), bias_backward(n, c).scratch_bytes())
            );
        }
        for (h, g, d) in [(1, 1, 64), (8, 2, 96), (14, 2, 64), (28, 4, 128), (32, 32, 96), (257, 1, 256)] {
            let heads = Heads { h, g, d };
            // SAFETY: as above, a host function of numbers.
            let launcher =
                unsafe { cu::hzk_attention_backward_scratch(n as i64, h as i64, g as i64, d as i64) };
            let backward = attention_backward(Shape { b: 1, t: n }, heads);
            assert_eq!(launcher, backward.scratch_bytes(), "{n} x {heads:?}");
            let norm = qk_norm_backward(n, heads);
            for count in [h, g] {
                // SAFETY: as above. The launcher's blocks process several heads each, so it may need less.
                let launcher = unsafe { cu::hzk_qk_norm_backward_scratch(n as i64, count as i64, d as i64) };
                assert!(launcher <= norm.scratch_bytes(), "{n} rows of {count} heads of {d}");
            }
        }
    }
}
