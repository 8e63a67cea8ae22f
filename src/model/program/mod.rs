//! A program: the ops of a unit, forward and backward, over named buffers.
//!
//! Modules emit programs through a [`Builder`]: they declare parameters and buffers and append ops
//! with concrete sizes. A [`Value`] is the content of a buffer between two writes. A value is
//! written once; an op that works in place *consumes* its input, and the builder refuses any later
//! read of it. Nothing is reordered, fused or copied.
//!
//! All else is derived from the finished program: parameter [offsets](Program::parameters), buffer
//! offsets by last use (`arena`), the ops that [backward](Program::backward) recomputes (activation
//! checkpointing), and totals over the ops: cost, GEMMs, workspace.

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

/// Memory bound when a program runs. `[N]` arrays are those of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum External {
    /// The boundary below the unit, `[N, C]`.
    Input,
    /// The boundary above the unit, `[N, C]`.
    Output,
    /// The residual stream, `[N, C]`: the head's input, then its gradient throughout backward.
    ResidualStream,
    /// Token ids, `[N]`.
    Tokens,
    /// Each token's row in the rows of the embedding that are on the device, `[N]`.
    Gathered,
    /// The rows sorted by token.
    Order,
    /// The start of each distinct token's rows in `Order`, `[N + 1]`.
    First,
    /// Rotary positions.
    Positions,
    /// The first row of each row's document.
    DocStart,
    /// One past the last row of each row's document.
    DocEnd,
    /// The class to predict per row.
    Targets,
    /// The weight of each target, f32.
    TargetWeights,
    /// Rotary frequencies, f32, one table after the other.
    InvFreq,
    /// The loss accumulator, f64 `[1]`.
    Loss,
    /// Log-probabilities of the targets, then their gradient, f32.
    Logprobs,
    /// One row of logits, f32 `[V]`.
    Logits,
}

/// The unit that owns a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The program's unit.
    Own,
    /// Another unit: the embedding, for a tied head.
    Borrowed,
}

/// Activation checkpointing mode: what backward recomputes from the boundary of its unit; the rest
/// is saved in forward. Each mode saves all that the previous one saves. Recomputed values are
/// bit-equal to saved ones, so the mode affects only memory and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recompute {
    /// Recompute everything; save nothing.
    #[default]
    Full,
    /// Recompute all but attention, whose output and log-sum-exp are saved.
    Linears,
    /// Recompute the MLP and the first norm; also save queries, keys and values, the post-attention
    /// residual, and the output of attention if it is normalised.
    Mlp,
    /// Recompute norms and the gated unit; also save gate and up, and the output of the MLP if it is
    /// normalised. With QK-norm, queries and keys are saved before it; QK-norm and RoPE are
    /// recomputed.
    Selective,
    /// Recompute nothing; save all that backward reads.
    None,
}

impl Recompute {
    /// All modes, from the least saved to the most.
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
    /// The first element within the unit.
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
    /// The next value in the same buffer: after an op that consumes this one, or that overwrites
    /// it.
    pub fn next(self) -> Value {
        Value { version: self.version + 1, ..self }
    }
}

/// The memory of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// bf16 weights of a unit, from an element on.
    Weights(Owner, usize),
    /// The f32 gradient of a unit, from an element on.
    Gradient(Owner, usize),
    /// Bound when the program runs.
    External(External),
    /// Scratch or saved memory.
    Own,
    /// Another buffer, which is no slice, from a byte on.
    Slice(u32, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Buffer {
    home: Home,
    bytes: usize,
    /// The version that is saved from forward to backward, and the first [`Recompute`] that saves
    /// it.
    saved: Option<(u32, Recompute)>,
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
    /// The unit's own tensors, sorted by offset.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Elements of the unit, with padding.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The forward pass, which saves activations as `recompute` says.
    pub fn forward(&self, recompute: Recompute) -> Pass {
        self.arrange(self.forward.iter(), recompute, false)
    }

    /// The backward pass. It first recomputes the forward values that it reads and that were not
    /// saved, with the ops of forward and thus the same bits.
    pub fn backward(&self, recompute: Recompute) -> Pass {
        self.arrange(self.recomputed(recompute).into_iter().chain(&self.backward), recompute, true)
    }

    /// The forward ops that backward repeats.
    fn recomputed(&self, recompute: Recompute) -> Vec<&Op<Value>> {
        let is_missing = |operand: &Operand<Value>| {
            let buffer = &self.buffers[operand.at.buffer as usize];
            operand.access != Access::Set
                && buffer.home == Home::Own
                && !buffer
                    .saved
                    .is_some_and(|(version, first)| version == operand.at.version && first <= recompute)
        };
        let missing = |op: &Op<Value>| operands(op).into_iter().filter(is_missing).map(|operand| operand.at);
        let mut needed: Vec<Value> = self.backward.iter().flat_map(missing).collect();
        let mut recomputed = Vec::new();
        for op in self.forward.iter().rev() {
            if operands(op).iter().filter_map(result).any(|value| needed.contains(&value)) {
                needed.extend(missing(op));
                recomputed.push(op);
            }
        }
        recomputed.reverse();
        recomputed
    }

    /// The buffer that owns the memory of a buffer, and the byte range in it.
    fn root(&self, buffer: u32) -> (u32, Range<usize>) {
        let Buffer { home, bytes, .. } = self.buffers[buffer as usize];
        match home {
            Home::Slice(root, from) => (root, from..from + bytes),
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

/// The value that an op writes to an operand, if any.
fn result(operand: &Operand<Value>) -> Option<Value> {
    match operand.access {
        Access::Read => None,
        Access::Set => Some(operand.at),
        Access::Update => Some(operand.at.next()),
    }
}
