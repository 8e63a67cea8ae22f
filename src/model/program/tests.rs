//! Tests of programs: the rules of the builder, and the memory of every pass.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::base::{Dims, Shape};
use crate::model::decoder::{embedding, embedding_gradient, head_program, layer};
use crate::model::{HeadTask, ModelConfig, Norms, Rope, Sizes, UnitKind, Window, preset, shape, shape_names};
use crate::ops::{
    Activation, Element, GluBackward, GluForward, Heads, NormSpan, RmsnormBackward, RmsnormForward, Write,
    Zero,
};

const WRITES: [Write; 2] = [Write::Set, Write::Add];
const N: usize = 4;
const F: usize = 6;

/// An own buffer of f32 rows.
fn rows(b: &mut Builder, columns: usize) -> Value {
    b.own(Element::F32, N * columns)
}

fn set(b: &mut Builder, out: Value, columns: usize) {
    b.push(Zero { out, bytes: N * columns * 4 });
}

fn filled(b: &mut Builder, columns: usize) -> Value {
    let out = rows(b, columns);
    set(b, out, columns);
    out
}

/// The message of the panic when a program is refused.
fn refusal(write: impl FnOnce(&mut Builder)) -> String {
    let mut builder = Builder::new(DType::F32, Write::Set);
    let refused = catch_unwind(AssertUnwindSafe(|| {
        write(&mut builder);
        builder.finish();
    }));
    let message = refused.expect_err("the program is refused");
    match message.downcast::<String>() {
        Ok(message) => *message,
        Err(message) => (*message.downcast::<&str>().expect("a message")).to_owned(),
    }
}

fn is_refused(with: &str, write: impl FnOnce(&mut Builder)) {
    let message = refusal(write);
    assert!(message.starts_with(with), "refused with `{message}`, not `{with}`");
}

#[test]
fn only_current_values_are_read() {
    let (n, f) = (N, F);
    is_refused("GluForward: gate_up is not current", |b| {
        let (out, gate_up) = (rows(b, F), rows(b, 2 * F));
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n, f });
    });
    is_refused("GluForward: gate_up is not current", |b| {
        let (out, gate_up, dout) = (rows(b, F), filled(b, 2 * F), filled(b, F));
        b.push(GluBackward { activation: Activation::Silu, gate_up, dout, n, f });
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n, f });
    });
    is_refused("GluBackward: gate_up is not current", |b| {
        let (gate_up, dout) = (filled(b, 2 * F), filled(b, F));
        b.push(GluBackward { activation: Activation::Silu, gate_up, dout, n, f });
        b.push(GluBackward { activation: Activation::Silu, gate_up, dout, n, f });
    });
    is_refused("GluForward: gate_up is not current", |b| {
        let (out, gate_up) = (rows(b, F), filled(b, 2 * F));
        set(b, gate_up.next(), 2 * F);
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n, f });
    });
}

#[test]
fn a_value_is_written_once() {
    is_refused("Zero: out is written twice", |b| {
        let out = filled(b, F);
        set(b, out, F);
    });
    is_refused("Zero: out is written twice", |b| {
        let out = b.input(External::ResidualStream, Element::F32, N * F);
        set(b, out, F);
    });
}

#[test]
fn external_memory_is_declared_once() {
    is_refused("External(ResidualStream) is declared twice", |b| {
        b.input(External::ResidualStream, Element::F32, N);
        b.output(External::ResidualStream, Element::F32, N);
    });
}

#[test]
fn a_buffer_that_is_too_short_is_refused() {
    is_refused("GluForward: gate_up is 96 bytes, not 192", |b| {
        let (out, gate_up) = (rows(b, F), filled(b, F));
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n: N, f: F });
    });
    is_refused("GluForward: out is 80 bytes, not 96", |b| {
        let (out, gate_up) = (rows(b, 5), filled(b, 2 * F));
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n: N, f: F });
    });
}

#[test]
fn an_output_is_an_input_only_where_the_op_allows_it() {
    let (n, c) = (N, F);
    is_refused("GluForward: out may not be gate_up", |b| {
        let gate_up = filled(b, 2 * F);
        b.push(GluForward { activation: Activation::Silu, out: gate_up.next(), gate_up, n, f: F });
    });
    is_refused("RmsnormForward: out may not be rstd", |b| {
        let (out, x) = (rows(b, F), filled(b, F));
        let weight = b.parameters(&[("norm", F)], None).weights;
        b.push(RmsnormForward { residual: None, offset: 0.0, out, rstd: out, x, weight, eps: 0.0, n, c });
    });
    let backward = |b: &mut Builder, dx_write: Write| {
        let (dout, x, rstd) = (filled(b, F), filled(b, F), filled(b, 1));
        let weight = b.parameters(&[("norm", F)], None);
        let (dweight, dweight_write) = b.contribution(weight.gradient);
        let dx = if dx_write == Write::Set { x.next() } else { x };
        let weight = weight.weights;
        b.push(RmsnormBackward {
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
        });
    };
    backward(&mut Builder::new(DType::F32, Write::Set), Write::Set);
    is_refused("RmsnormBackward: dx may not be x", |b| backward(b, Write::Add));
    is_refused("GluForward: out may not be gate_up", |b| {
        let whole = filled(b, 3 * F);
        let gate_up = b.slice(whole, Element::F32, 0, N * 2 * F);
        let out = b.slice(whole, Element::F32, N * 2 * F - 1, N * F);
        b.push(GluForward { activation: Activation::Silu, out: out.next(), gate_up, n, f: F });
    });
}

#[test]
fn a_slice_and_its_whole_hold_the_same() {
    // The whole and its two halves.
    let halves = |b: &mut Builder| {
        let whole = filled(b, 2 * F);
        (whole, [0, 1].map(|half| b.slice(whole, Element::F32, half * N * F, N * F)))
    };
    let read = |b: &mut Builder, gate_up: Value, f: usize| {
        let out = rows(b, f);
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n: N, f });
    };
    let mut builder = Builder::new(DType::F32, Write::Set);
    let (whole, [first, second]) = halves(&mut builder);
    set(&mut builder, second.next(), F);
    read(&mut builder, first, F / 2);
    read(&mut builder, second.next(), F / 2);
    set(&mut builder, first.next(), F);
    let rewritten = builder.whole(whole);
    read(&mut builder, rewritten, F);

    is_refused("GluForward: gate_up is not current", |b| {
        let (whole, [first, _]) = halves(b);
        set(b, first.next(), F);
        read(b, whole, F);
    });
    is_refused("GluForward: gate_up is not current", |b| {
        let (whole, [first, _]) = halves(b);
        set(b, whole.next(), 2 * F);
        read(b, first, F / 2);
    });
    is_refused("GluForward: gate_up is not current", |b| {
        let (whole, [first, _]) = halves(b);
        let across = b.slice(whole, Element::F32, 1, N * F);
        set(b, first.next(), F);
        read(b, across, F / 2);
    });
    is_refused("a slice of the whole is not written", |b| {
        let (whole, [first, _]) = halves(b);
        set(b, first.next(), F);
        b.whole(whole);
    });
    is_refused("the slices of a whole leave a gap", |b| {
        let (whole, [_, second]) = halves(b);
        set(b, second.next(), F);
        b.whole(whole);
    });
    is_refused("a slice is out of bounds", |b| {
        let (whole, _) = halves(b);
        b.slice(whole, Element::F32, N * F + 1, N * F);
    });
    is_refused("slice: the value is not current", |b| {
        let (whole, [first, _]) = halves(b);
        set(b, first.next(), F);
        b.slice(whole, Element::F32, N * F - 1, N * F);
    });
}

#[test]
fn saved_memory_holds_the_values_that_backward_reads() {
    let (n, f) = (N, F);
    is_refused("GluBackward: gate_up is in saved memory", |b| {
        let (gate_up, dout) = (filled(b, 2 * F), filled(b, F));
        b.save(gate_up, Recompute::Mlp);
        b.push(GluBackward { activation: Activation::Silu, gate_up, dout, n, f });
        b.start_backward();
    });
    is_refused("GluForward: gate_up is in saved memory", |b| {
        let (gate_up, dout, out) = (filled(b, 2 * F), filled(b, F), rows(b, F));
        b.push(GluForward { activation: Activation::Silu, out, gate_up, n, f });
        b.push(GluBackward { activation: Activation::Silu, gate_up, dout, n, f });
        b.start_backward();
        let again = rows(b, F);
        b.push(GluForward { activation: Activation::Silu, out: again, gate_up: gate_up.next(), n, f });
    });
    is_refused("a forward value is used by slices", |b| {
        let gate_up = filled(b, 2 * F);
        b.start_backward();
        let (slice, out) = (b.slice(gate_up, Element::F32, 0, N * F), rows(b, F / 2));
        b.push(GluForward { activation: Activation::Silu, out, gate_up: slice, n, f: F / 2 });
    });
}

/// Small, odd configurations with the options of every family; and all known shapes.
fn configs() -> Vec<ModelConfig> {
    let dims = Dims { c: 20, h: 4, g: 2, d: 6, f: 27, v: 37, l: 2 };
    let mut configs = vec![ModelConfig::llama(dims); 4];
    for (number, config) in configs.iter_mut().enumerate() {
        config.tied = number % 2 == 1;
        config.qk_norm = (number / 2 == 1).then_some(NormSpan::Head);
        config.biases.qkv = number % 2 == 1;
        (config.biases.o, config.biases.mlp) = (number == 3, number == 3);
    }
    for norms in [Norms::After, Norms::Around] {
        let (qk_norm, window) =
            (Some(NormSpan::AllHeads), Some(Window { size: 4, layers: vec![true, false] }));
        let rope = Rope { windowed_theta: Some(500.0), rotated: Some(4), ..Rope::default() };
        configs.push(ModelConfig { norms, qk_norm, window, rope, ..ModelConfig::llama(dims) });
        let rope = Rope { without: Some(vec![true, false]), ..Rope::default() };
        configs.push(ModelConfig { norms, rope, ..ModelConfig::llama(dims) });
    }
    configs.push(ModelConfig::llama(Dims { c: 16, h: 3, g: 3, d: 14, f: 5, v: 11, l: 1 }));
    configs.extend(["tiny", "small"].map(|name| preset(name).unwrap()));
    let known = shape_names().map(|name| shape(name).unwrap());
    let normed =
        shape_names().map(|name| ModelConfig { qk_norm: Some(NormSpan::Head), ..shape(name).unwrap() });
    configs.extend(known.chain(normed));
    configs
}

/// Shapes of micro-batches, and rows of a chunk of logits.
const SHAPES: [(Shape, usize); 4] = [
    (Shape { b: 1, t: 1 }, 1),
    (Shape { b: 2, t: 9 }, 7),
    (Shape { b: 1, t: 4096 }, 1024),
    (Shape { b: 8, t: 32_768 }, 65_536),
];

fn sizes() -> impl Iterator<Item = Sizes> {
    SHAPES.into_iter().flat_map(|(shape, logits_chunk)| {
        [DType::F32, DType::Bf16].map(|activation_dtype| Sizes { shape, logits_chunk, activation_dtype })
    })
}

const KINDS: [UnitKind; 3] = [UnitKind::Layer(0), UnitKind::Attention(0), UnitKind::Mlp(0)];

/// Every program of a model.
fn programs(config: &ModelConfig, sizes: &Sizes) -> Vec<Program> {
    let mut programs = vec![embedding(config, sizes)];
    for write in WRITES {
        programs.extend(KINDS.map(|kind| layer(config, kind, sizes, write)));
        programs.extend(HeadTask::ALL.map(|task| head_program(config, sizes, task, write)));
        programs.push(embedding_gradient(config, sizes, write));
    }
    programs
}

/// The identity of an op: (is backward, index).
type Number = (bool, usize);

/// A byte range, and the op and operand that wrote it.
type Run = (Range<usize>, (Number, &'static str));

/// Memory that records the op and operand that wrote each byte.
struct Written<K>(HashMap<K, Vec<Run>>);

impl<K: Copy + Eq + std::hash::Hash> Written<K> {
    fn write(&mut self, memory: K, bytes: Range<usize>, by: (Number, &'static str)) {
        let runs = self.0.entry(memory).or_default();
        let remains = |(run, by): (Range<usize>, _)| {
            let (before, after) = (run.start..run.end.min(bytes.start), run.start.max(bytes.end)..run.end);
            [(before, by), (after, by)]
        };
        *runs = runs.drain(..).flat_map(remains).filter(|(run, _)| !run.is_empty()).collect();
        runs.push((bytes, by));
    }

    /// The writers of a byte range, relative to its start.
    fn read(&self, memory: K, bytes: Range<usize>) -> Vec<Run> {
        let runs = self
            .0
            .get(&memory)
            .into_iter()
            .flatten()
            .map(|(run, by)| (run.start.max(bytes.start)..run.end.min(bytes.end), *by));
        let mut runs: Vec<_> = runs.filter(|(run, _)| !run.is_empty()).collect();
        runs.iter_mut().for_each(|(run, _)| *run = run.start - bytes.start..run.end - bytes.start);
        runs.sort_by_key(|(run, _)| run.start);
        runs
    }
}

/// The ops of a pass: each op's number in the program, its operands and their locations.
type Placed = Vec<(Number, Vec<(Operand<Value>, Location)>)>;

impl Program {
    fn placed<'a>(&'a self, ops: impl IntoIterator<Item = &'a Op<Value>>, pass: &Pass) -> Placed {
        let find = |ops: &[Op<Value>], op: &Op<Value>| ops.iter().position(|other| std::ptr::eq(other, op));
        let mut placed = Placed::new();
        for (op, at) in ops.into_iter().zip(&pass.ops) {
            let number = match find(&self.forward, op) {
                Some(number) => (false, number),
                None => (true, find(&self.backward, op).expect("an op of the program")),
            };
            let mut locations = Vec::new();
            at.contract().each_operand(&mut |operand| locations.push(*operand.at));
            placed.push((number, operands(op).into_iter().zip(locations).collect()));
        }
        assert_eq!(placed.len(), pass.ops.len());
        placed
    }

    fn placed_forward(&self, recompute: Recompute) -> (Pass, Placed) {
        let pass = self.forward(recompute);
        let placed = self.placed(&self.forward, &pass);
        (pass, placed)
    }

    fn placed_backward(&self, recompute: Recompute) -> (Pass, Placed) {
        let pass = self.backward(recompute);
        let placed = self.placed(self.recomputed(recompute).into_iter().chain(&self.backward), &pass);
        (pass, placed)
    }

    fn is_own(&self, value: Value) -> bool {
        self.buffers[self.root(value.buffer).0 as usize].home == Home::Own
    }
}

/// Simulates the ops of a pass: calls `read` with the writers of each operand that an op reads.
fn run<K: Copy + Eq + std::hash::Hash>(
    ops: &Placed,
    memory: &mut Written<K>,
    at: impl Fn(Value, &Location) -> (K, Range<usize>),
    mut read: impl FnMut(Number, &Operand<Value>, Vec<(Range<usize>, (Number, &'static str))>),
) {
    for (number, operands) in ops {
        for (operand, location) in operands.iter().filter(|(operand, _)| operand.access != Access::Set) {
            let (key, bytes) = at(operand.at, location);
            read(*number, operand, memory.read(key, bytes));
        }
        for (operand, location) in operands.iter().filter(|(operand, _)| operand.access != Access::Read) {
            let (key, bytes) = at(operand.at, location);
            memory.write(key, bytes, (*number, operand.name));
        }
    }
}

/// In every mode each op reads the same values in the arena as if every buffer had separate memory.
#[test]
fn values_are_intact_from_their_write_to_their_last_read() {
    for config in configs() {
        for program in sizes().flat_map(|sizes| programs(&config, &sizes)) {
            let (mut separate, mut reads) = (Written(HashMap::new()), HashMap::new());
            let by_buffer = |value: Value, location: &Location| match program.root(value.buffer) {
                (root, bytes) if program.is_own(value) => ((None, root), bytes),
                _ => ((Some(location.base), 0), location.offset..location.offset + location.bytes),
            };
            let backward = program.placed_backward(Recompute::None).1;
            assert_eq!(
                backward.len(),
                program.backward.len(),
                "an op is recomputed though everything is saved"
            );
            for ops in [program.placed_forward(Recompute::Full).1, backward] {
                run(&ops, &mut separate, by_buffer, |number, operand, runs| {
                    let bytes: usize = runs.iter().map(|(run, _)| run.len()).sum();
                    let length = program.buffers[operand.at.buffer as usize].bytes;
                    assert!(
                        !program.is_own(operand.at) || bytes == length,
                        "{} is not written",
                        operand.name
                    );
                    reads.insert((number, operand.name), runs);
                });
            }
            for recompute in Recompute::ALL {
                let mut memory = Written(HashMap::new());
                let placed = |_: Value, location: &Location| {
                    (location.base, location.offset..location.offset + location.bytes)
                };
                for (_, ops) in [program.placed_forward(recompute), program.placed_backward(recompute)] {
                    run(&ops, &mut memory, placed, |number, operand, runs| {
                        assert_eq!(
                            runs,
                            reads[&(number, operand.name)],
                            "{recompute:?}, {} of {number:?}",
                            operand.name
                        );
                    });
                    memory.0.remove(&Base::Scratch);
                }
            }
        }
    }
}

/// The bytes of a buffer in a pass, and the indices of the first and the last op that use it.
struct Use {
    bytes: Range<usize>,
    base: Base,
    first: usize,
    last: usize,
}

#[test]
fn buffers_used_at_the_same_time_are_disjoint_and_within_their_memory() {
    for config in configs() {
        for program in sizes().flat_map(|sizes| programs(&config, &sizes)) {
            for recompute in Recompute::ALL {
                for (pass, ops) in [program.placed_forward(recompute), program.placed_backward(recompute)] {
                    let mut uses: HashMap<u32, Use> = HashMap::new();
                    for (number, (_, operands)) in ops.iter().enumerate() {
                        for (operand, location) in
                            operands.iter().filter(|(operand, _)| program.is_own(operand.at))
                        {
                            let (root, within) = program.root(operand.at.buffer);
                            let first = location.offset - within.start;
                            let found = Use {
                                bytes: first..first + program.buffers[root as usize].bytes,
                                base: location.base,
                                first: number,
                                last: number,
                            };
                            uses.entry(root).or_insert(found).last = number;
                        }
                    }
                    let uses: Vec<Use> = uses.into_values().collect();
                    for (number, one) in uses.iter().enumerate() {
                        let total = match one.base {
                            Base::Scratch => pass.scratch_bytes,
                            Base::Saved => pass.saved_bytes,
                            base => panic!("an own buffer in {base:?}"),
                        };
                        assert!(one.bytes.start.is_multiple_of(256) && one.bytes.end <= total);
                        for other in uses[..number].iter().filter(|other| other.base == one.base) {
                            // Saved values are also used before or after the pass.
                            let together =
                                one.base == Base::Saved || one.first <= other.last && other.first <= one.last;
                            let disjoint =
                                one.bytes.end <= other.bytes.start || other.bytes.end <= one.bytes.start;
                            assert!(disjoint || !together, "{recompute:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn memory_is_at_most_that_of_a_manual_layout() {
    let aligned = |bytes: usize| bytes.next_multiple_of(256);
    for config in configs() {
        let Dims { c, h, f, .. } = config.dims;
        let (qkv, attention_width) = (config.dims.qkv(), config.dims.attention_width());
        for sizes in sizes() {
            let n = sizes.shape.n();
            let row = |columns: usize| aligned(n * columns * sizes.activation_dtype.bytes());
            let f32s = |columns: usize| aligned(n * columns * 4);
            let heads = Heads::from(&config.dims);
            let normed = config.qk_norm.map_or(0, |span| row(qkv) + f32s(span.spans(&heads)));
            // Norms in front of attention and of the MLP, and after them.
            let (before, after) = match config.norms {
                Norms::Before => (2, 0),
                Norms::After => (0, 2),
                Norms::Around => (2, 2),
            };
            let rstds = (before + after) * f32s(1);
            // A buffer for each forward value, and one for the temporaries of half a backward.
            let scratch = (1 + before + after + after / 2) * row(c)
                + rstds
                + row(qkv)
                + normed
                + row(attention_width)
                + f32s(h)
                + (row(2 * f) + row(f)).max(row(attention_width) + row(qkv));
            let attention = row(attention_width) + f32s(h);
            let mlp = attention + row(qkv) + (1 + after / 2) * row(c);
            let selective = mlp + row(2 * f) + after / 2 * row(c);
            let all = selective + normed + before * row(c) + rstds + row(f);
            let saved = [0, attention, mlp, selective, all];
            for write in WRITES {
                let program = layer(&config, UnitKind::Layer(0), &sizes, write);
                for (recompute, expected) in Recompute::ALL.into_iter().zip(saved) {
                    let passes = [program.forward(recompute), program.backward(recompute)];
                    assert!(passes.iter().all(|pass| pass.scratch_bytes <= scratch), "{recompute:?}");
                    assert!(passes.iter().all(|pass| pass.saved_bytes == expected), "{recompute:?}");
                }
            }
            let chunk = sizes.logits_chunk.clamp(1, n);
            let logits = aligned(chunk * config.dims.logits_stride() * sizes.activation_dtype.bytes());
            for program in HeadTask::ALL.map(|task| head_program(&config, &sizes, task, Write::Set)) {
                assert!(program.forward(Recompute::Full).scratch_bytes <= row(c) + f32s(1) + logits);
            }
        }
    }
}
