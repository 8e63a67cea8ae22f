//! Ops with described operands, and their binding to memory.

use horizon::ops::{Op, Operand};

/// The contents of an operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Random numbers of its element type.
    Any,
    /// These integers: rows, tokens, classes.
    Rows(Vec<i32>),
}

impl Fill {
    /// `count` integers computed by `value`.
    pub fn rows(count: usize, value: impl Fn(usize) -> usize) -> Fill {
        Fill::Rows((0..count).map(|at| value(at) as i32).collect())
    }
}

/// The op with each operand bound to the result of `memory`, called in order of declaration.
pub fn bound<P, Q>(op: &Op<P>, mut memory: impl FnMut(Operand<&P>) -> Q) -> Op<Q> {
    let mut operands = Vec::new();
    op.contract().each_operand(&mut |operand| operands.push(memory(operand)));
    let mut operands = operands.into_iter();
    op.map(&mut |_| operands.next().expect("an op has the operands of its contract"))
}
