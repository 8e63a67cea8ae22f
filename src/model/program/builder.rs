//! The writing of a program, and the rules that it is held to.

use crate::base::DType;
use crate::model::program::{Buffer, External, Home, Owner, Parameter, Program, Recompute, Value};
use crate::ops::{Access, Element, Op, Write, Zero};

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
    /// By buffer: the number of writes so far; one where something is there from the start.
    versions: Vec<u32>,
    write: Write,
    backward: bool,
    /// Runs of elements that no tensor covers, of the unit and of borrowed ones.
    padding: Vec<(Owner, usize, usize)>,
}

impl Builder {
    /// An empty program for a device that stores activations so. Gradients and the loss are set or added to, by `write`.
    pub fn new(storage: DType, write: Write) -> Builder {
        let program = Program {
            storage,
            buffers: Vec::new(),
            parameters: Vec::new(),
            elements: 0,
            forward: Vec::new(),
            backward: Vec::new(),
        };
        Builder { program, versions: Vec::new(), write, backward: false, padding: Vec::new() }
    }

    /// What the program does to gradients and to the loss.
    pub fn write(&self) -> Write {
        self.write
    }

    fn buffer(&mut self, home: Home, bytes: usize, is_there: bool) -> Value {
        self.program.buffers.push(Buffer { home, bytes, kept: None });
        self.versions.push(u32::from(is_there));
        Value { buffer: self.program.buffers.len() as u32 - 1, version: 1 }
    }

    /// A buffer of the program's own, to be written.
    pub fn own(&mut self, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.storage);
        self.buffer(Home::Own, bytes, false)
    }

    /// Memory that is there when the program runs, and holds something.
    pub fn input(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.storage);
        self.buffer(Home::External(external), bytes, true)
    }

    /// Memory that is there when the program runs, to be written.
    pub fn output(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.storage);
        self.buffer(Home::External(external), bytes, false)
    }

    /// A sum over micro-batches that is there when the program runs; this one sets it or adds to it.
    pub fn sum(&mut self, external: External, element: Element, elements: usize) -> Value {
        let bytes = elements * element.bytes(self.program.storage);
        let is_there = self.write == Write::Add;
        self.buffer(Home::External(external), bytes, is_there)
    }

    /// Declares tensors of the unit, `(name, shape)`, which stand together without padding between them.
    pub fn parameters(&mut self, tensors: &[(&'static str, &[usize])]) -> Weights {
        let first = self.program.elements;
        let mut end = first;
        for &(name, shape) in tensors {
            self.program.parameters.push(Parameter { name, shape: shape.to_vec(), offset: end });
            end += shape.iter().product::<usize>();
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
    pub fn part(&mut self, whole: Value, element: Element, first: usize, elements: usize) -> Value {
        let is_there = self.versions[whole.buffer as usize] > 0;
        if is_there {
            self.check_current(whole, "a part");
        }
        let size = element.bytes(self.program.storage);
        let end = (first + elements) * size;
        assert!(end <= self.program.buffers[whole.buffer as usize].bytes, "a part leaves its whole");
        self.buffer(Home::Part(whole.buffer, first * size), elements * size, is_there)
    }

    /// The value of a whole all of whose parts have been written anew.
    pub fn whole(&mut self, of: Value) -> Value {
        self.check_current(of, "a whole");
        self.versions[of.buffer as usize] += 1;
        of.next()
    }

    /// The operand and the mode of the next contribution to a gradient or the loss: the program's first by its own mode, all others
    /// are added.
    pub fn contribution(&self, sum: Value) -> (Value, Write) {
        match self.versions[sum.buffer as usize] {
            0 => (sum, Write::Set),
            version => (Value { version, ..sum }, Write::Add),
        }
    }

    /// Keeps a value of forward for backward under `first` and all that keep more.
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
    /// If it reads a value that is not there, writes one twice, or is given a buffer that is too short.
    pub fn push(&mut self, op: impl Into<Op<Value>>) {
        let op = op.into();
        let (storage, name) = (self.program.storage, op.contract().name());
        let mut outputs = Vec::new();
        op.contract().each_operand(&mut |operand| {
            let (value, what) = (*operand.at, operand.name);
            let length = self.program.buffers[value.buffer as usize].bytes;
            let bytes = operand.bytes(storage);
            assert!(bytes <= length, "{name}: {what} is {length} bytes, not {bytes}");
            match operand.access {
                Access::Read | Access::Update => self.check_current(value, name),
                Access::Set => {
                    let version = self.versions[value.buffer as usize];
                    assert!(value.version == version + 1, "{name}: {what} is written twice");
                    outputs.push((value.buffer, what));
                }
            }
        });
        op.contract().each_operand(&mut |operand| {
            for (buffer, output) in outputs.iter().filter(|_| operand.access == Access::Read) {
                let apart = *buffer != operand.at.buffer || op.contract().may_be(output, operand.name);
                assert!(apart, "{name}: {output} may not be {}", operand.name);
            }
        });
        let versions = &mut self.versions;
        op.contract().each_operand(&mut |operand| {
            versions[operand.at.buffer as usize] += u32::from(operand.access != Access::Read);
        });
        let ops = if self.backward { &mut self.program.backward } else { &mut self.program.forward };
        ops.push(op);
    }

    fn check_current(&self, value: Value, what: &str) {
        let version = self.versions[value.buffer as usize];
        assert!(
            value.version == version,
            "{what}: the value is not there: write {} of {version}",
            value.version
        );
    }

    /// The program. What backward reads of forward is kept under [`Recompute::None`] if not before.
    pub fn finish(mut self) -> Program {
        let mut read = Vec::new();
        for op in &self.program.backward {
            op.contract().each_operand(&mut |operand| {
                if operand.access != Access::Set {
                    read.push(*operand.at);
                }
            });
        }
        let mut written = Vec::new();
        for op in &self.program.forward {
            op.contract().each_operand(&mut |operand| match operand.access {
                Access::Read => {}
                Access::Set => written.push(*operand.at),
                Access::Update => written.push(operand.at.next()),
            });
        }
        for value in read.into_iter().filter(|value| written.contains(value)) {
            let buffer = &mut self.program.buffers[value.buffer as usize];
            if buffer.home == Home::Own && buffer.kept.is_none() {
                buffer.kept = Some((value.version, Recompute::None));
            }
        }
        self.program
    }
}
