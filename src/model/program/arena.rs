//! Memory offsets of buffers: a buffer has its memory exclusively from its first to its last use.

use crate::base::DType;
use crate::model::program::{External, Home, Owner, Program, Recompute, Value, operands};
use crate::ops::{Access, Flops, Op};

/// Every buffer starts on a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// The memory region of a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// A unit's bf16 weights.
    Weights(Owner),
    /// A unit's f32 gradient.
    Gradient(Owner),
    /// Scratch memory of the compute lane; its contents do not survive a pass.
    Scratch,
    /// Memory per unit and micro-batch, for activations saved from forward to backward.
    Saved,
    /// Memory bound when the program runs.
    External(External),
}

/// The memory of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The memory region.
    pub base: Base,
    /// The first byte within the region.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
    /// True if the op writes it.
    pub writes: bool,
}

/// One direction of a program, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// The ops, in order.
    pub ops: Vec<Op<Location>>,
    /// Bytes of scratch memory: a multiple of 256.
    pub scratch_bytes: usize,
    /// Bytes of saved activations: a multiple of 256.
    pub saved_bytes: usize,
}

impl Pass {
    /// Bytes of kernel workspace that the ops need, without that of GEMMs.
    pub fn workspace_bytes(&self) -> usize {
        self.ops.iter().map(|op| op.contract().scratch_bytes()).max().unwrap_or(0)
    }

    /// FLOPs of the matmuls.
    pub fn matmul_flops(&self) -> f64 {
        let matmul = |op: &Op<Location>| match op.contract().flops() {
            Flops::Matmul(sizes) => 2.0 * sizes.iter().map(|size| *size as f64).product::<f64>(),
            _ => 0.0,
        };
        self.ops.iter().map(matmul).sum()
    }
}

/// The lifetime of a buffer in a pass: the indices of the first and the last op that use it.
#[derive(Clone, Copy)]
struct Lifetime {
    buffer: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

impl Program {
    /// Assigns memory to the buffers of a pass that saves activations as `recompute` says. Backward has no memory for
    /// the unit's output: an op that it repeats for another of its results writes the output to scratch.
    pub(super) fn arrange<'a>(
        &'a self,
        ops: impl Iterator<Item = &'a Op<Value>> + Clone,
        recompute: Recompute,
        is_backward: bool,
    ) -> Pass {
        let is_own =
            |home: Home| home == Home::Own || (is_backward && home == Home::External(External::Output));
        let aligned = |bytes: usize| bytes.next_multiple_of(ALIGNMENT);
        let mut offsets = vec![None; self.buffers.len()];
        let mut saved_bytes = 0;
        for (buffer, offset) in self.buffers.iter().zip(&mut offsets) {
            if buffer.saved.is_some_and(|(_, first)| first <= recompute) {
                *offset = Some((Base::Saved, saved_bytes));
                saved_bytes += aligned(buffer.bytes);
            }
        }
        let mut lifetimes: Vec<Lifetime> = Vec::new();
        for (number, op) in ops.clone().enumerate() {
            for operand in operands(op) {
                let (root, _) = self.root(operand.at.buffer);
                let buffer = root as usize;
                if !is_own(self.buffers[buffer].home) || offsets[buffer].is_some() {
                    continue;
                }
                match lifetimes.iter_mut().find(|lifetime| lifetime.buffer == buffer) {
                    Some(lifetime) => lifetime.last = number,
                    None => {
                        let bytes = aligned(self.buffers[buffer].bytes);
                        lifetimes.push(Lifetime { buffer, bytes, first: number, last: number });
                    }
                }
            }
        }
        let scratch_bytes = assign_offsets(lifetimes, &mut |buffer, offset| {
            offsets[buffer] = Some((Base::Scratch, offset));
        });
        let locate = |value: &Value, writes: bool| {
            let (root, within) = self.root(value.buffer);
            let (base, offset) = match self.buffers[root as usize].home {
                Home::Weights(owner, element) => (Base::Weights(owner), element * DType::Bf16.bytes()),
                Home::Gradient(owner, element) => (Base::Gradient(owner), element * DType::F32.bytes()),
                home if is_own(home) => offsets[root as usize].expect("every buffer of an op has memory"),
                Home::External(external) => (Base::External(external), 0),
                Home::Own | Home::Slice(..) => unreachable!("slices have no slices"),
            };
            Location { base, offset: offset + within.start, bytes: within.len(), writes }
        };
        let located = |op: &Op<Value>| {
            // In the order in which `map` visits the operands.
            let mut accesses = operands(op).into_iter().map(|operand| operand.access);
            op.map(&mut |value| locate(value, accesses.next() != Some(Access::Read)))
        };
        Pass { ops: ops.map(located).collect(), scratch_bytes, saved_bytes }
    }
}

/// Assigns offsets to buffers, the largest first, each at the lowest offset that is free for its
/// whole lifetime (greedy by size: Pisarchyk & Lee 2020). Calls `at(buffer, offset)` for each;
/// returns the total bytes.
fn assign_offsets(mut lifetimes: Vec<Lifetime>, at: &mut dyn FnMut(usize, usize)) -> usize {
    lifetimes.sort_by_key(|lifetime| (std::cmp::Reverse(lifetime.bytes), lifetime.buffer));
    let mut placed: Vec<(usize, Lifetime)> = Vec::new();
    for lifetime in lifetimes {
        let mut offset = 0;
        // Sorted by offset, so gaps that are too short are skipped.
        for (taken, other) in &placed {
            let coexist = other.first <= lifetime.last && lifetime.first <= other.last;
            if coexist && *taken < offset + lifetime.bytes {
                offset = offset.max(taken + other.bytes);
            }
        }
        let index = placed.partition_point(|(taken, _)| *taken <= offset);
        placed.insert(index, (offset, lifetime));
        at(lifetime.buffer, offset);
    }
    placed.iter().map(|(offset, lifetime)| offset + lifetime.bytes).max().unwrap_or(0)
}
