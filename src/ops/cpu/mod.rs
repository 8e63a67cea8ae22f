//! The CPU backend: f32 activations; the reference for other devices.
//!
//! Every op cuts its work into tiles whose shape depends on the op's sizes alone. The workers of a
//! [`Pool`] take tiles in any order, and a tile's result does not depend on the worker, so the bits
//! are the same for any number of threads. `view` turns spans into slices, `cut` gives workers
//! disjoint chunks of an output, `vector` compiles loops for several instruction sets, `matmul`
//! calls the `gemm` crate; the ops themselves are arithmetic on slices.

pub(super) mod column_sum;
pub(super) mod cut;
pub(super) mod matmul;
mod scratch;
pub(super) mod vector;
pub(super) mod view;

use std::ops::Range;
use std::sync::Arc;

use crate::base::DType;
use crate::host::{Isa, Pool};
use crate::ops::rope::RotationTables;
use crate::ops::{Kernels, Op};

use scratch::Scratch;

/// [`Kernels`] on memory of this process, run by the threads of a pool.
///
/// Scratch memory (a few tiles per worker, one row of sums per row block, the cosines and sines of
/// rotary positions) grows when a larger shape first occurs and is then reused.
pub struct CpuKernels {
    pub(super) pool: Arc<Pool>,
    pub(super) scratch: Scratch,
    pub(super) rotations: RotationTables,
}

impl CpuKernels {
    /// The dtype of activations.
    pub const ACTIVATION_DTYPE: DType = DType::F32;

    /// Kernels that run on the pool's threads.
    pub fn new(pool: Arc<Pool>) -> Self {
        let scratch = Scratch::new(pool.threads());
        CpuKernels { pool, scratch, rotations: RotationTables::default() }
    }
}

/// The rows of block `index` of `count` rows in blocks of `block`.
pub(super) fn block(index: usize, block: usize, count: usize) -> Range<usize> {
    let start = index * block;
    start..(start + block).min(count)
}

impl Kernels for CpuKernels {
    fn activation_dtype(&self) -> DType {
        Self::ACTIVATION_DTYPE
    }

    fn arithmetic(&self) -> String {
        // Only matmuls depend on the instruction set.
        format!("cpu with {}", Isa::best())
    }

    unsafe fn run(&self, op: &Op) {
        op.cpu(self);
    }
}
