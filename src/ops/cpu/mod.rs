//! The CPU backend: f32 storage, and the reference that other devices answer to.
//!
//! Every op cuts its work into tiles whose shape depends on the op's sizes alone; the workers of a [`Pool`] take tiles, and
//! what a tile computes does not depend on who takes it. So the bits are the same for any number of threads. `view` turns
//! spans into slices, `cut` gives workers disjoint pieces of an output, `vector` compiles loops for the machine at hand,
//! `product` calls the library of matrix products; the ops themselves are arithmetic on slices.

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
use crate::ops::rope::RotationTable;
use crate::ops::{Kernels, Op};

use scratch::Scratch;

/// [`Kernels`] on memory that this process can address, by the threads of a pool.
///
/// Scratch memory (a few tiles a worker, one row of sums per row block, the cosines of rotary positions) grows when a larger
/// shape is seen for the first time and is kept.
pub struct CpuKernels {
    pub(super) pool: Arc<Pool>,
    pub(super) scratch: Scratch,
    pub(super) rotations: RotationTable,
}

impl CpuKernels {
    /// What activations are stored as.
    pub const ACTIVATION_DTYPE: DType = DType::F32;

    /// Kernels that run on the pool's threads.
    pub fn new(pool: Arc<Pool>) -> Self {
        let scratch = Scratch::new(pool.threads());
        CpuKernels { pool, scratch, rotations: RotationTable::default() }
    }
}

/// The rows of block `index` when `count` rows are cut into blocks of `block`.
pub(super) fn block(index: usize, block: usize, count: usize) -> Range<usize> {
    let start = index * block;
    start..(start + block).min(count)
}

impl Kernels for CpuKernels {
    fn activation_dtype(&self) -> DType {
        Self::ACTIVATION_DTYPE
    }

    fn arithmetic(&self) -> String {
        // Products take the best instructions there are; the rest is the same with all.
        format!("cpu with {}", Isa::best())
    }

    unsafe fn run(&self, op: &Op) {
        op.cpu(self);
    }
}
