//! The builder of programs, and the rules that it enforces.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::DType;
use crate::model::program::{
    Buffer, External, Home, Owner, Parameter, Program, Recompute, Value, operands, result,
};
use crate::ops::{Access, Element, Op, Operand, Write, Zero};

/// Alignment in elements: 256 bytes of bf16, so that rows of any dtype start on cache lines.
const ALIGNMENT: usize = 128;

/// Tensors read by one matmul: their weights, and their gradient accumulator.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// bf16.
    pub weights: Value,
    /// Its gradient, f32.
    pub gradient: Value,
}

/// A program under construction.
pub struct Builder {
    program: Program,
    /// One per buffer.
    states: Vec<State>,
    write: Write,
    backward: bool,
    /// Padding after tensors of the unit and of borrowed ones: owner, first element, elements.
    padding: Vec<(Owner, usize, usize)>,
}

/// A written slice, other than `buffer`, that overlaps `range` of its whole.
fn overlapping_slice(
    slices: &BTreeMap<usize, (usize, u32)>,
    buffer: u32,
    range: &Range<usize>,
) -> Option<u32> {
    // Slices are disjoint, so of those that start before the end of the range, the last one reaches
    // farthest.
    let last = slices.range(..range.end).next_back();
    last.filter(|(_, (end, slice))| *end > range.start && *slice != buffer).map(|(_, (_, slice))| *slice)
}

/// The state of a buffer while ops are appended.
#[derive(Default)]
struct State {
    /// Number of writes so far; inputs start at 1.
    version: u32,
    /// For a slice: the version of its whole.
    of: u32,
    /// For a whole: the disjoint slices written since its last write; the first byte maps to the
    /// end and the buffer.
    slices: BTreeMap<usize, (usize, u32)>,
}

impl Builder {
    /// An empty program for a device with this activation dtype. `write` says if gradients and loss
    /// are set or added to.
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

    /// The write mode of gradients and loss.
    pub fn write(&self) -> Write {
        self.write
    }

    fn buffer(&mut self, home: Home, bytes: usize, is_written: bool) -> Value {
        let is_new = matches!(home, Home::Own | Home::Slice(..))
            || self.program.buffers.iter().all(|buffer| buffer.home != home);
        assert!(is_new, "{home:?} is declared twice");
        self.program.buffers.push(Buffer { home, bytes, saved: None });
        self.states.push(State { version: u32::from(is_written), ..State::default() });
        Value { buffer: self.program.buffers.len() as u32 - 1, version: 1 }
    }

    /// Declares a buffer in scratch or saved memory, to be written by an op.
    pub fn own(&mut self, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        self.buffer(Home::Own, bytes, false)
    }

    /// Declares external memory that is already written.
    pub fn input(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        self.buffer(Home::External(external), bytes, true)
    }

    /// Declares external memory to be written by an op.
    pub fn output(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        self.buffer(Home::External(external), bytes, false)
    }

    /// Declares an external accumulator over micro-batches, which the program sets or adds to.
    pub fn accumulator(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.activation_dtype);
        let is_written = self.write == Write::Add;
        self.buffer(Home::External(external), bytes, is_written)
    }

    /// Declares adjacent tensors of the unit, `(name, rows)`, without padding between them:
    /// matrices `[rows, columns]`, or vectors `[rows]`.
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

    /// Declares the first tensor of another unit.
    pub fn borrowed(&mut self, elements: usize) -> Weights {
        self.weights(Owner::Borrowed, 0, elements)
    }

    fn weights(&mut self, owner: Owner, first: usize, elements: usize) -> Weights {
        let end = first + elements;
        if !end.is_multiple_of(ALIGNMENT) {
            self.padding.push((owner, end, end.next_multiple_of(ALIGNMENT) - end));
        }
        let is_written = self.write == Write::Add;
        Weights {
            weights: self.buffer(Home::Weights(owner, first), elements * DType::Bf16.bytes(), true),
            gradient: self.buffer(Home::Gradient(owner, first), elements * DType::F32.bytes(), is_written),
        }
    }

    /// With [`Write::Set`], zeroes the padding in the gradient, because the whole gradient is later
    /// rounded and downloaded.
    pub fn zero_padding(&mut self) {
        if self.write == Write::Set {
            for (owner, first, elements) in std::mem::take(&mut self.padding) {
                let bytes = elements * DType::F32.bytes();
                let out = self.buffer(Home::Gradient(owner, first), bytes, false);
                self.push(Zero { out, bytes });
            }
        }
    }

    /// Declares `elements` elements of a value from `first` on as a value, with the same contents.
    pub fn slice(&mut self, whole: Value, element: Element, first: usize, elements: usize) -> Value {
        let Buffer { home, bytes, .. } = self.program.buffers[whole.buffer as usize];
        let (of, size) =
            (self.states[whole.buffer as usize].version, element.bytes(self.program.activation_dtype));
        assert!(!matches!(home, Home::Slice(..)), "a slice of a slice");
        assert!((first + elements) * size <= bytes, "a slice is out of bounds");
        assert!(of == 0 || of == whole.version, "a slice of a value that was overwritten");
        let slice = self.buffer(Home::Slice(whole.buffer, first * size), elements * size, of > 0);
        self.states[slice.buffer as usize].of = of;
        if of > 0 {
            self.check_current(slice, "slice", "the value");
        }
        slice
    }

    /// The new value of a whole after all of its slices have been written.
    ///
    /// # Panics
    /// If the slices written since the whole do not cover it exactly once.
    pub fn whole(&mut self, of: Value) -> Value {
        let state = &mut self.states[of.buffer as usize];
        let mut end = 0;
        for (first, (last, _)) in std::mem::take(&mut state.slices) {
            assert!(first == end, "the slices of a whole leave a gap");
            end = last;
        }
        assert!(end == self.program.buffers[of.buffer as usize].bytes, "a slice of the whole is not written");
        state.version += 1;
        of.next()
    }

    /// Returns operand and write mode for the next contribution to a gradient or the loss: the
    /// first one uses the mode of the program, all later ones are added.
    pub fn contribution(&self, accumulator: Value) -> (Value, Write) {
        match self.states[accumulator.buffer as usize].version {
            0 => (accumulator, Write::Set),
            version => (Value { version, ..accumulator }, Write::Add),
        }
    }

    /// Saves a forward value for backward under `first` and every mode that saves more. External
    /// memory stays anyway.
    pub fn save(&mut self, value: Value, first: Recompute) {
        let buffer = &mut self.program.buffers[value.buffer as usize];
        if buffer.home == Home::Own {
            buffer.saved = Some((value.version, first));
        }
    }

    /// All later ops belong to backward.
    pub fn start_backward(&mut self) {
        self.backward = true;
    }

    /// Appends an op.
    ///
    /// # Panics
    /// If it reads a value that is not current, writes one twice, gets a buffer that is too short,
    /// or an output that shares memory with another operand without permission.
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
                let disjoint = may_be || !self.program.overlap(output.at.buffer, other.at.buffer);
                assert!(disjoint, "{name}: {} may not be {}", output.name, other.name);
            }
        }
        for Value { buffer, .. } in operands.iter().filter_map(result) {
            let (root, range) = self.program.root(buffer);
            self.states[buffer as usize].version += 1;
            let slices = &mut self.states[root as usize].slices;
            if root == buffer {
                slices.clear();
            } else {
                let other = overlapping_slice(slices, buffer, &range);
                assert!(other.is_none(), "{name}: the slices of a whole overlap");
                slices.insert(range.start, (range.end, buffer));
            }
        }
        let ops = if self.backward { &mut self.program.backward } else { &mut self.program.forward };
        ops.push(op);
    }

    fn check_current(&self, value: Value, user: &str, what: &str) {
        let (state, (root, range)) = (&self.states[value.buffer as usize], self.program.root(value.buffer));
        let whole = &self.states[root as usize];
        let is_current = value.version == state.version
            && (root == value.buffer || state.of == whole.version)
            && overlapping_slice(&whole.slices, value.buffer, &range).is_none();
        assert!(is_current, "{user}: {what} is not current: not yet written, or overwritten since");
    }

    /// Returns the program. Forward values that backward reads are saved under [`Recompute::None`]
    /// unless saved before.
    ///
    /// # Panics
    /// If saved memory would hold another value than the one to save, or a forward value is used by
    /// slices, since those are not recomputed.
    pub fn finish(mut self) -> Program {
        let Program { buffers, forward, backward, .. } = &mut self.program;
        let written: Vec<Value> =
            forward.iter().flat_map(operands).filter_map(|operand| result(&operand)).collect();
        for operand in backward.iter().flat_map(operands).filter(|operand| operand.access != Access::Set) {
            let buffer = &mut buffers[operand.at.buffer as usize];
            if buffer.home == Home::Own && written.contains(&operand.at) {
                buffer.saved.get_or_insert((operand.at.version, Recompute::None));
            }
        }
        for (op, operand) in
            forward.iter().flat_map(|op| operands(op).into_iter().map(move |operand| (op, operand)))
        {
            if let Some((version, _)) = buffers[operand.at.buffer as usize].saved {
                let is_last = match result(&operand) {
                    Some(value) => value.version <= version,
                    None => operand.at.version == version,
                };
                let name = op.contract().name();
                assert!(
                    is_last,
                    "{name}: {} is in saved memory, which holds only the last value",
                    operand.name
                );
            }
        }
        if self.program.backward.is_empty() {
            return self.program;
        }
        let own_slice = |operand: Operand<Value>| {
            let (root, _) = self.program.root(operand.at.buffer);
            (root != operand.at.buffer && self.program.buffers[root as usize].home == Home::Own)
                .then_some(root)
        };
        let Program { forward, backward, .. } = &self.program;
        for root in forward.iter().chain(backward).flat_map(operands).filter_map(own_slice) {
            let by_forward = written.iter().any(|value| self.program.root(value.buffer).0 == root);
            assert!(!by_forward, "a forward value is used by slices, so backward could not recompute it");
        }
        self.program
    }
}
