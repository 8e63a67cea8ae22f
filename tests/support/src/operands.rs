//! Ops over operands that are only described, and their binding to memory.

use horizon::ops::{Op, Operand};

/// The content of an operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Any numbers of its type.
    Any,
    /// These numbers: rows, tokens, classes.
    Rows(Vec<i32>),
}

impl Fill {
    /// `count` numbers by a rule.
    pub fn rows(count: usize, value: impl Fn(usize) -> usize) -> Fill {
        Fill::Rows((0..count).map(|at| value(at) as i32).collect())
    }
}

/// The op on the memory that `memory` gives for each operand, in the order of its declaration.
pub fn bound<P, Q>(op: &Op<P>, mut memory: impl FnMut(Operand<&P>) -> Q) -> Op<Q> {
    let mut given = Vec::new();
    op.contract().each_operand(&mut |operand| given.push(memory(operand)));
    let mut given = given.into_iter();
    op.map(&mut |_| given.next().expect("an op has the operands of its contract"))
}
