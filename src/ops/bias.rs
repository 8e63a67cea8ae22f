//! The bias of a linear layer: its gradient is the sum of the rows of `dout`. The forward matmul adds the bias itself.

use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::add;
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, PARTIAL_ROWS_MAX, address::*, launch};
use crate::ops::{Write, op};

op! {
    /// `dbias =` or `+=` the sum of the rows of `dout`.
    BiasBackward {
        /// `[C]`; written as `dbias_write` says.
        dbias: P = dbias_write.into(), Element::F32, c;
        /// `[N, C]`.
        dout: P = Read, Element::Activation, n * c;
    }
    /// `=` or `+=`.
    dbias_write: Write;
    /// N: rows.
    n: usize;
    /// C: columns.
    c: usize;
    {
        fn scratch_bytes(&self) -> usize {
            self.n.min(PARTIAL_ROWS_MAX) * self.c * 4
        }
    }
}

impl BiasBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let BiasBackward { dbias_write, n, c, .. } = self;
        let dout: &[f32] = read(&self.dout, n * c);
        let mut partials = cpu.scratch.partials.lock();
        let partials = partials.take(n.div_ceil(ROWS) * c);
        each(&cpu.pool, Rows::new(partials, c, 1), |_, (tile, partial)| {
            partial.fill(0.0);
            let rows = dout.chunks(ROWS * c).nth(tile.start).expect("a tile has rows");
            rows.chunks_exact(c).for_each(|dout| add(partial, dout));
        });
        column_sum::fold(cpu, write(&mut self.dbias, c), dbias_write, partials, c, 0);
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let BiasBackward { dbias, dout, dbias_write, n, c } = self;
        cuda.start_accumulator(&dbias, c, dbias_write);
        let (dbias, dout) = (f32s(&dbias, c), bf16s(&dout, n * c));
        launch!(cuda.hzk_bias_backward(dbias, cuda.scratch_of(&self), dout, n as i64, c as i64));
    }
}
