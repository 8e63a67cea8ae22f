//! The writing of a program, and the rules that it is held to.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::DType;
use crate::model::program::{
    Buffer, External, Home, Owner, Parameter, Program, Recompute, Value, operands, result,
};
use crate::ops::{Access, Element, Op, Operand, Write, Zero};

/// Elements: 256 bytes of bf16, so that rows of any storage type start on cache lines.
const ALIGNMENT: usize = 128;

/// Tensors that one product reads together: their weights, and the sum of their gradients over micro-batches.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// bf16.
    pub weights: Value,
    /// f32.
    pub gradient: Value,
}

/// A program that is being written.
pub struct Builder {
    program: Program,
    /// By buffer.
    states: Vec<State>,
    write: Write,
    backward: bool,
    /// Runs of elements that no tensor covers, of the unit and of borrowed ones.
    padding: Vec<(Owner, usize, usize)>,
}

/// A written part, other than `buffer`, that overlaps bytes of its whole.
fn other_part(parts: &BTreeMap<usize, (usize, u32)>, buffer: u32, place: &Range<usize>) -> Option<u32> {
    // Parts are apart: of those that begin before the end, the last one reaches farthest.
    let last = parts.range(..place.end).next_back();
    last.filter(|(_, (end, part))| *end > place.start && *part != buffer).map(|(_, (_, part))| *part)
}

/// A buffer while ops are appended.
#[derive(Default)]
struct State {
    /// Writes so far; one where something is there from the start.
    version: u32,
    /// Of a part: the version of its whole that it is made of.
    of: u32,
    /// Of a whole: the parts written since its last write, by their first bytes: their ends and buffers. They are apart.
    parts: BTreeMap<usize, (usize, u32)>,
}

impl Builder {
    /// An empty program for a device that stores activations so. Gradients and the loss are set or added to, by `write`.
    pub fn new(activation_dtype: DType, write: Write) -> Builder {
        let program = Program {
            activation_dtype,
            buffers: Vec::new(),
            parameters: Vec::new(),
            elements: 0,
            forward: Vec::new(),
            backward: Vec::new(),
        };
        Builder { program, states: Vec::new(), write, backward: false, padding: Vec::new() }
    }

    /// The mode of gradients and of the loss.
    pub fn write(&self) -> Write {
        self.write
    }

    fn buffer(&mut self, home: Home, bytes: usize, is_there: bool) -> Value {
        let is_new = matches!(home, Home::Own | Home::Part(..))
            || self.program.buffers.iter().all(|buffer| buffer.home != home);
        assert!(is_new, "{home:?} is declared twice");
        self.program.buffers.push(Buffer { home, bytes, kept: None });
        self.states.push(State { version: u32::from(is_there), ..State::default() });
        Value { buffer: self.program.buffers.len() as u32 - 1, version: 1 }
    }

    /// A buffer of the program's own, to be written.
    pub fn own(&mut self, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        self.buffer(Home::Own, bytes, false)
    }

    /// Memory that is there when the program runs, and holds something.
    pub fn input(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        self.buffer(Home::External(external), bytes, true)
    }

    /// Memory that is there when the program runs, to be written.
    pub fn output(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        self.buffer(Home::External(external), bytes, false)
    }

    /// A sum over micro-batches that is there when the program runs; this one sets it or adds to it.
    pub fn sum(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        let is_there = self.write == Write::Add;
        self.buffer(Home::External(external), bytes, is_there)
    }

    /// Declares tensors of the unit, `(name, rows)`, which stand together without padding between them: matrices
    /// `[rows, columns]`, or vectors `[rows]`.
    pub fn parameters(&mut self, tensors: &[(&'static str, usize)], columns: Option<usize>) -> Weights {
        let first = self.program.elements;
        let mut end = first;
        for &(name, rows) in tensors {
            let shape: Vec<usize> = [rows].into_iter().chain(columns).collect();
            let elements = shape.iter().product::<usize>();
            self.program.parameters.push(Parameter { name, shape, offset: end });
            end += elements;
        }
        self.program.elements = end.next_multiple_of(ALIGNMENT);
        self.weights(Owner::Own, first, end - first)
    }

    /// The first tensor of another unit.
    pub fn borrowed(&mut self, elements: usize) -> Weights {
        self.weights(Owner::Borrowed, 0, elements)
    }

    fn weights(&mut self, owner: Owner, first: usize, elements: usize) -> Weights {
        let end = first + elements;
        if !end.is_multiple_of(ALIGNMENT) {
            self.padding.push((owner, end, end.next_multiple_of(ALIGNMENT) - end));
        }
        let is_there = self.write == Write::Add;
        Weights {
            weights: self.buffer(Home::Weights(owner, first), elements * DType::Bf16.bytes(), true),
            gradient: self.buffer(Home::Gradient(owner, first), elements * DType::F32.bytes(), is_there),
        }
    }

    /// Zeroes what lies between the tensors and behind them in a gradient that the program sets: the whole of it is rounded and
    /// downloaded later.
    pub fn zero_padding(&mut self) {
        if self.write == Write::Set {
            for (owner, first, elements) in std::mem::take(&mut self.padding) {
                let bytes = elements * DType::F32.bytes();
                let out = self.buffer(Home::Gradient(owner, first), bytes, false);
                self.push(Zero { out, bytes });
            }
        }
    }

    /// Part of a value as a value of its own: `elements` elements from `first` on. It holds what the whole does.
    pub fn slice(&mut self, whole: Value, element: Element, first: usize, elements: usize) -> Value {
        let Buffer { home, bytes, .. } = self.program.buffers[whole.buffer as usize];
        let (of, size) =
            (self.states[whole.buffer as usize].version, element.bytes(self.program.activation_dtype));
        assert!(!matches!(home, Home::Part(..)), "a part has no parts");
        assert!((first + elements) * size <= bytes, "a part leaves its whole");
        assert!(of == 0 || of == whole.version, "a part's whole is written over");
        let part = self.buffer(Home::Part(whole.buffer, first * size), elements * size, of > 0);
        self.states[part.buffer as usize].of = of;
        if of > 0 {
            self.check_current(part, "a part", "what it holds");
        }
        part
    }

    /// The value of a whole all of whose parts have been written anew.
    ///
    /// # Panics
    /// If the parts written since the whole do not cover it, each byte once.
    pub fn whole(&mut self, of: Value) -> Value {
        let state = &mut self.states[of.buffer as usize];
        let mut end = 0;
        for (first, (last, _)) in std::mem::take(&mut state.parts) {
            assert!(first == end, "the parts of a whole leave a gap");
            end = last;
        }
        assert!(end == self.program.buffers[of.buffer as usize].bytes, "a part of the whole is not written");
        state.version += 1;
        of.next()
    }

    /// The operand and the mode of the next contribution to a gradient or the loss: the program's first by its own mode, all others
    /// are added.
    pub fn contribution(&self, sum: Value) -> (Value, Write) {
        match self.states[sum.buffer as usize].version {
            0 => (sum, Write::Set),
            version => (Value { version, ..sum }, Write::Add),
        }
    }

    /// Keeps a value of forward for backward under `first` and all that keep more. Memory that the program is given stays anyway.
    pub fn keep(&mut self, value: Value, first: Recompute) {
        let buffer = &mut self.program.buffers[value.buffer as usize];
        if buffer.home == Home::Own {
            buffer.kept = Some((value.version, first));
        }
    }

    /// All ops from here on are backward's.
    pub fn start_backward(&mut self) {
        self.backward = true;
    }

    /// Appends an op.
    ///
    /// # Panics
    /// If it reads a value that is not there, writes one twice, is given a buffer that is too short, or gives an output
    /// memory of another operand that it may not have.
    pub fn push(&mut self, op: impl Into<Op<Value>>) {
        let op = op.into();
        let (name, operands) = (op.contract().name(), operands(&op));
        for operand in &operands {
            let (what, length) = (operand.name, self.program.buffers[operand.at.buffer as usize].bytes);
            let bytes = operand.bytes(self.program.activation_dtype);
            assert!(bytes <= length, "{name}: {what} is {length} bytes, not {bytes}");
            match operand.access {
                Access::Read | Access::Update => self.check_current(operand.at, name, what),
                Access::Set => {
                    let state = &self.states[operand.at.buffer as usize];
                    assert!(operand.at.version == state.version + 1, "{name}: {what} is written twice");
                }
            }
        }
        for (number, output) in operands.iter().enumerate().filter(|(_, output)| result(output).is_some()) {
            for (_, other) in operands.iter().enumerate().filter(|(other, _)| *other != number) {
                let may_be = (output.access, other.access) == (Access::Set, Access::Read)
                    && output.at.buffer == other.at.buffer
                    && op.contract().may_be(output.name, other.name);
                let apart = may_be || !self.program.overlap(output.at.buffer, other.at.buffer);
                assert!(apart, "{name}: {} may not be {}", output.name, other.name);
            }
        }
        for Value { buffer, .. } in operands.iter().filter_map(result) {
            let (root, place) = self.program.root(buffer);
            self.states[buffer as usize].version += 1;
            let parts = &mut self.states[root as usize].parts;
            if root == buffer {
                parts.clear();
            } else {
                let other = other_part(parts, buffer, &place);
                assert!(other.is_none(), "{name}: the parts of a whole overlap");
                parts.insert(place.start, (place.end, buffer));
            }
        }
        let ops = if self.backward { &mut self.program.backward } else { &mut self.program.forward };
        ops.push(op);
    }

    fn check_current(&self, value: Value, user: &str, what: &str) {
        let (state, (root, place)) = (&self.states[value.buffer as usize], self.program.root(value.buffer));
        let whole = &self.states[root as usize];
        let is_there = value.version == state.version
            && (root == value.buffer || state.of == whole.version)
            && other_part(&whole.parts, value.buffer, &place).is_none();
        assert!(is_there, "{user}: {what} is not there: not written yet, or written over since");
    }

    /// The program. The values of forward that backward reads are kept under [`Recompute::None`] if not before.
    ///
    /// # Panics
    /// If kept memory would hold another value than the one to keep, or a value that forward writes is used by parts: those
    /// are not computed again.
    pub fn finish(mut self) -> Program {
        let Program { buffers, forward, backward, .. } = &mut self.program;
        let written: Vec<Value> =
            forward.iter().flat_map(operands).filter_map(|operand| result(&operand)).collect();
        for operand in backward.iter().flat_map(operands).filter(|operand| operand.access != Access::Set) {
            let buffer = &mut buffers[operand.at.buffer as usize];
            if buffer.home == Home::Own && written.contains(&operand.at) {
                buffer.kept.get_or_insert((operand.at.version, Recompute::None));
            }
        }
        for (op, operand) in
            forward.iter().flat_map(|op| operands(op).into_iter().map(move |operand| (op, operand)))
        {
            if let Some((version, _)) = buffers[operand.at.buffer as usize].kept {
                let is_last = match result(&operand) {
                    Some(value) => value.version <= version,
                    None => operand.at.version == version,
                };
                let name = op.contract().name();
                assert!(
                    is_last,
                    "{name}: {} is in kept memory, which holds one value, the last",
                    operand.name
                );
            }
        }
        if self.program.backward.is_empty() {
            return self.program;
        }
        let own_part = |operand: Operand<Value>| {
            let (root, _) = self.program.root(operand.at.buffer);
            (root != operand.at.buffer && self.program.buffers[root as usize].home == Home::Own)
                .then_some(root)
        };
        let Program { forward, backward, .. } = &self.program;
        for root in forward.iter().chain(backward).flat_map(operands).filter_map(own_part) {
            let by_forward = written.iter().any(|value| self.program.root(value.buffer).0 == root);
            assert!(!by_forward, "a value that backward may need is used by parts");
        }
        self.program
    }
}
