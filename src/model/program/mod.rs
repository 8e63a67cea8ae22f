//! A program: the ops of a unit, forward and backward, over named buffers.
//!
//! Modules write programs through a [`Builder`]: they declare parameters and buffers and append ops with concrete sizes. A
//! [`Value`] is the content of a buffer between two writes. A value is written once; an op that works in place *consumes* its input, and
//! a later read of it is refused when the program is built. Nothing reorders, fuses or copies.
//!
//! The rest follows by folds over the finished program: the parameters' [places](Program::elements), the places of buffers by their
//! last use (`arena`), the ops that backward [repeats](Program::backward) for lack of kept values, and sums over the ops: cost,
//! matrix products, workspace.

mod arena;
mod builder;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::str::FromStr;

use crate::base::DType;
use crate::ops::{Access, Op, Operand};

pub use arena::{Base, Location, Pass};
pub use builder::{Builder, Weights};

/// Memory that a program is given when it runs. `[N]` arrays are those of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum External {
    /// The boundary below the unit, `[N, C]`.
    Input,
    /// The boundary above the unit, `[N, C]`.
    Output,
    /// The top of the residual stream, `[N, C]`: the head's input, then the gradient on its way down.
    ResidualStream,
    /// The tokens.
    Tokens,
    /// Each token's row in the part of the embedding that is on the device.
    Gathered,
    /// The rows sorted by token.
    Order,
    /// The beginning of each distinct token's rows in `Order`, `[N + 1]`.
    First,
    /// Rotary positions.
    Positions,
    /// The first row of each row's document.
    DocStart,
    /// One past the last row of each row's document.
    DocEnd,
    /// The class that each row should predict.
    Targets,
    /// The weight of each target, f32.
    TargetWeights,
    /// Rotary frequencies, f32 `[D/2]`.
    InvFreq,
    /// The loss sum, f64 `[1]`.
    Loss,
    /// Log-probabilities of the targets, then their gradient, f32.
    Logprobs,
    /// One row of logits, f32 `[V]`.
    Logits,
}

/// The unit that a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The program's own.
    Own,
    /// Another, whose parameter the program borrows: the embedding of a tied head.
    Borrowed,
}

/// The values that backward computes again from the boundary of its unit; the rest is kept from forward. Each keeps all that the
/// one before it keeps. A kept value has the bits that computing it again would give, so this is a matter of memory and time alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recompute {
    /// Everything; nothing is kept.
    #[default]
    Full,
    /// All but attention, whose output and log-sum-exp are kept.
    Linears,
    /// The second half of the layer and the first norm: queries, keys and values and the residual stream after attention are
    /// kept, too.
    Mlp,
    /// Norms and SwiGLU: gate and up are kept, too. Where heads are normalised, queries and keys are kept as they were before, and
    /// normalised and rotated again.
    Selective,
    /// Nothing; all that backward reads is kept.
    None,
}

impl Recompute {
    /// From the least that is kept to the most.
    pub const ALL: [Recompute; 5] =
        [Recompute::Full, Recompute::Linears, Recompute::Mlp, Recompute::Selective, Recompute::None];

    /// The name in options, plans and traces.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::Full => "full",
            Recompute::Linears => "linears",
            Recompute::Mlp => "mlp",
            Recompute::Selective => "selective",
            Recompute::None => "none",
        }
    }
}

impl FromStr for Recompute {
    type Err = String;

    fn from_str(name: &str) -> Result<Recompute, String> {
        Recompute::ALL.into_iter().find(|recompute| recompute.name() == name).ok_or_else(|| {
            let names = Recompute::ALL.map(Recompute::name).join(", ");
            format!("it must be one of {names}, each with :LAYERS if not for all")
        })
    }
}

/// A tensor of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name within its unit, e.g. `self_attn.q_proj.weight`.
    pub name: &'static str,
    /// Rows and columns `[out, in]`, or `[C]`.
    pub shape: Vec<usize>,
    /// First element within the unit.
    pub offset: usize,
}

/// The content of a buffer between two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    buffer: u32,
    /// 1 for the first write.
    version: u32,
}

impl Value {
    /// The value that takes this one's place: after an op that consumes it, or that is set over it.
    pub fn next(self) -> Value {
        Value { version: self.version + 1, ..self }
    }
}

/// The memory of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// bf16 weights from an element of a unit on.
    Weights(Owner, usize),
    /// Their f32 gradient.
    Gradient(Owner, usize),
    /// Bound when the program runs.
    External(External),
    /// Taken by the program.
    Own,
    /// From a byte of another buffer on, which is no part.
    Part(u32, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Buffer {
    home: Home,
    bytes: usize,
    /// The version that is kept from forward to backward, and the first [`Recompute`] that keeps it.
    kept: Option<(u32, Recompute)>,
}

/// The ops of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    activation_dtype: DType,
    buffers: Vec<Buffer>,
    parameters: Vec<Parameter>,
    elements: usize,
    forward: Vec<Op<Value>>,
    backward: Vec<Op<Value>>,
}

impl Program {
    /// The unit's own tensors, by offset.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Elements of the unit, padding counted.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The forward pass, which keeps the values that `recompute` does not compute again.
    pub fn forward(&self, recompute: Recompute) -> Pass {
        self.arrange(self.forward.iter(), recompute)
    }

    /// The backward pass. First it computes again the values that it reads and forward has not kept, with forward's ops and so
    /// with its bits.
    pub fn backward(&self, recompute: Recompute) -> Pass {
        self.arrange(self.again(recompute).into_iter().chain(&self.backward), recompute)
    }

    /// The forward ops that give what backward reads and is not kept.
    fn again(&self, recompute: Recompute) -> Vec<&Op<Value>> {
        let is_missing = |operand: &Operand<Value>| {
            let buffer = &self.buffers[operand.at.buffer as usize];
            operand.access != Access::Set
                && buffer.home == Home::Own
                && !buffer
                    .kept
                    .is_some_and(|(version, first)| version == operand.at.version && first <= recompute)
        };
        let missing = |op: &Op<Value>| operands(op).into_iter().filter(is_missing).map(|operand| operand.at);
        let mut needed: Vec<Value> = self.backward.iter().flat_map(missing).collect();
        let mut again = Vec::new();
        for op in self.forward.iter().rev() {
            if operands(op).iter().filter_map(result).any(|value| needed.contains(&value)) {
                needed.extend(missing(op));
                again.push(op);
            }
        }
        again.reverse();
        again
    }

    /// The buffer whose memory a buffer is in, and its bytes there.
    fn root(&self, buffer: u32) -> (u32, Range<usize>) {
        let Buffer { home, bytes, .. } = self.buffers[buffer as usize];
        match home {
            Home::Part(root, from) => (root, from..from + bytes),
            _ => (buffer, 0..bytes),
        }
    }

    /// Returns true if two buffers share memory.
    fn overlap(&self, one: u32, other: u32) -> bool {
        let ((one, bytes), (other, others)) = (self.root(one), self.root(other));
        one == other && bytes.start < others.end && others.start < bytes.end
    }
}

/// The operands of an op.
fn operands(op: &Op<Value>) -> Vec<Operand<Value>> {
    let mut operands = Vec::new();
    op.contract().each_operand(&mut |Operand { name, at, access, element, elements }| {
        operands.push(Operand { name, at: *at, access, element, elements });
    });
    operands
}

/// The value that an op leaves in an operand, if it writes there.
fn result(operand: &Operand<Value>) -> Option<Value> {
    match operand.access {
        Access::Read => None,
        Access::Set => Some(operand.at),
        Access::Update => Some(operand.at.next()),
    }
}
