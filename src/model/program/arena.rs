//! Places of buffers: from the first use to the last a buffer has its memory alone.

use crate::base::DType;
use crate::model::program::{External, Home, Owner, Program, Recompute, Value, operands};
use crate::ops::{Access, Flops, Op};

/// Every buffer starts on a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// The memory that a location is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// A unit's bf16 weights.
    Weights(Owner),
    /// Its f32 gradient.
    Gradient(Owner),
    /// Memory of the compute lane, in which nothing stays from pass to pass.
    Scratch,
    /// Memory of the unit and the micro-batch, in which activations stay from forward to backward.
    Saved,
    /// Memory that the program finds.
    External(External),
}

/// The place of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The memory.
    pub base: Base,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
    /// Whether the op sets or changes it.
    pub writes: bool,
}

/// One direction of a program, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// The ops, in order.
    pub ops: Vec<Op<Location>>,
    /// Bytes of scratch memory: a multiple of 256.
    pub scratch_bytes: usize,
    /// Bytes of kept memory: a multiple of 256.
    pub saved_bytes: usize,
}

impl Pass {
    /// Bytes of the kernels' workspace that the ops need, beside that of matrix products.
    pub fn workspace_bytes(&self) -> usize {
        self.ops.iter().map(|op| op.contract().scratch_bytes()).max().unwrap_or(0)
    }

    /// Multiplications and additions in matrix products.
    pub fn product_flops(&self) -> f64 {
        let product = |op: &Op<Location>| match op.contract().flops() {
            Flops::Matmul(sizes) => 2.0 * sizes.iter().map(|size| *size as f64).product::<f64>(),
            _ => 0.0,
        };
        self.ops.iter().map(product).sum()
    }
}

/// A buffer's life in a pass: the numbers of the first and the last op that use it.
#[derive(Clone, Copy)]
struct Life {
    buffer: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

impl Program {
    pub(super) fn arrange<'a>(
        &'a self,
        ops: impl Iterator<Item = &'a Op<Value>> + Clone,
        recompute: Recompute,
    ) -> Pass {
        let aligned = |bytes: usize| bytes.next_multiple_of(ALIGNMENT);
        let mut offsets = vec![None; self.buffers.len()];
        let mut saved_bytes = 0;
        for (buffer, offset) in self.buffers.iter().zip(&mut offsets) {
            if buffer.kept.is_some_and(|(_, first)| first <= recompute) {
                *offset = Some((Base::Saved, saved_bytes));
                saved_bytes += aligned(buffer.bytes);
            }
        }
        let mut lives: Vec<Life> = Vec::new();
        for (number, op) in ops.clone().enumerate() {
            for operand in operands(op) {
                let (root, _) = self.root(operand.at.buffer);
                let buffer = root as usize;
                if self.buffers[buffer].home != Home::Own || offsets[buffer].is_some() {
                    continue;
                }
                match lives.iter_mut().find(|life| life.buffer == buffer) {
                    Some(life) => life.last = number,
                    None => {
                        let bytes = aligned(self.buffers[buffer].bytes);
                        lives.push(Life { buffer, bytes, first: number, last: number });
                    }
                }
            }
        }
        let scratch_bytes = place(lives, &mut |buffer, offset| {
            offsets[buffer] = Some((Base::Scratch, offset));
        });
        let locate = |value: &Value, writes: bool| {
            let (root, within) = self.root(value.buffer);
            let (base, offset) = match self.buffers[root as usize].home {
                Home::Weights(owner, element) => (Base::Weights(owner), element * DType::Bf16.bytes()),
                Home::Gradient(owner, element) => (Base::Gradient(owner), element * DType::F32.bytes()),
                Home::External(external) => (Base::External(external), 0),
                Home::Own => offsets[root as usize].expect("every buffer of an op has a place"),
                Home::Part(..) => unreachable!("a part's whole is no part"),
            };
            Location { base, offset: offset + within.start, bytes: within.len(), writes }
        };
        let located = |op: &Op<Value>| {
            // In the order in which `map` comes to them.
            let mut accesses = operands(op).into_iter().map(|operand| operand.access);
            op.map(&mut |value| locate(value, accesses.next() != Some(Access::Read)))
        };
        Pass { ops: ops.map(located).collect(), scratch_bytes, saved_bytes }
    }
}

/// Places buffers, the largest first, each at the lowest offset that is free for all its life (greedy by size: Pisarchyk & Lee
/// 2020). Returns the end of the last.
fn place(mut lives: Vec<Life>, at: &mut dyn FnMut(usize, usize)) -> usize {
    lives.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.buffer));
    let mut placed: Vec<(usize, Life)> = Vec::new();
    for life in lives {
        let mut offset = 0;
        // In the order of their offsets: a gap that is too short is passed over.
        for (taken, other) in &placed {
            let meets = other.first <= life.last && life.first <= other.last;
            if meets && *taken < offset + life.bytes {
                offset = offset.max(taken + other.bytes);
            }
        }
        let index = placed.partition_point(|(taken, _)| *taken <= offset);
        placed.insert(index, (offset, life));
        at(life.buffer, offset);
    }
    placed.iter().map(|(offset, life)| offset + life.bytes).max().unwrap_or(0)
}
