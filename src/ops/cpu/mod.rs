//! The CPU kernels: f32 storage, and the reference that other devices answer to.
//!
//! One op a file, both directions. Every op cuts its work into tiles whose shape depends on the op's sizes
//! alone; the workers of a [`Pool`] take tiles, and what a tile computes does not depend on who takes it.
//! So the bits are the same for any number of threads. [`view`] turns spans into slices, [`vector`] compiles
//! loops for the machine at hand; everything else is arithmetic on slices.

mod attention;
mod cross_entropy;
mod embed;
mod gradient;
mod matmul;
mod product;
mod rmsnorm;
mod rope;
mod scratch;
mod swiglu;
mod vector;
mod view;

use std::sync::Arc;

use crate::base::{DType, Dims};
use crate::device::DeviceSpan;
use crate::host::Pool;
use crate::ops::{Kernels, LossRows, Rows, Write};

use rope::RotationTable;
use scratch::Scratch;
use view::{Grid, read};

/// [`Kernels`] on memory that this process can address, by the threads of a pool.
///
/// Scratch memory (a few tiles a worker, one row of sums per row block, the cosines of rotary positions)
/// grows when a larger shape is seen for the first time and is kept.
pub struct CpuKernels {
    pool: Arc<Pool>,
    scratch: Scratch,
    rotations: RotationTable,
}

impl CpuKernels {
    /// What activations are stored as.
    pub const STORAGE: DType = DType::F32;

    /// Kernels that run on the pool's threads.
    pub fn new(pool: Arc<Pool>) -> Self {
        let scratch = Scratch::new(pool.threads());
        CpuKernels { pool, scratch, rotations: RotationTable::default() }
    }
}

/// The rows of block `index` when `count` rows are cut into blocks of `block`.
fn block(index: usize, block: usize, count: usize) -> std::ops::Range<usize> {
    let start = index * block;
    start..(start + block).min(count)
}

impl Kernels for CpuKernels {
    fn storage(&self) -> DType {
        Self::STORAGE
    }

    fn embed_forward(&self, out: DeviceSpan, table: DeviceSpan, tokens: DeviceSpan, n: usize, c: usize) {
        embed::forward(self, Grid::new(&out, n, c), &table, read(&tokens, n), c);
    }

    fn embed_backward(&self, dtable: DeviceSpan, dout: DeviceSpan, tokens: DeviceSpan, n: usize, c: usize) {
        embed::backward(self, &dtable, read(&dout, n * c), read(&tokens, n), c);
    }

    fn rmsnorm_forward(
        &self,
        out: DeviceSpan,
        rstd: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        eps: f32,
        n: usize,
        c: usize,
    ) {
        let (out, rstd) = (Grid::new(&out, n, c), Grid::new(&rstd, n, 1));
        rmsnorm::forward(self, out, rstd, read(&x, n * c), read(&weight, c), eps, n, c);
    }

    fn rmsnorm_backward(
        &self,
        dx: DeviceSpan,
        dx_write: Write,
        dweight: DeviceSpan,
        dweight_write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        rstd: DeviceSpan,
        weight: DeviceSpan,
        n: usize,
        c: usize,
    ) {
        let outputs = rmsnorm::Gradients {
            dx: Grid::new(&dx, n, c),
            dx_write,
            dweight: Grid::new(&dweight, c, 1),
            dweight_write,
        };
        let inputs = rmsnorm::Saved {
            x: Grid::new(&x, n, c),
            rstd: read(&rstd, n),
            weight: read(&weight, c),
            dout: read(&dout, n * c),
        };
        rmsnorm::backward(self, outputs, inputs, n, c);
    }

    fn matmul_forward(
        &self,
        out: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        residual: Option<DeviceSpan>,
        n: usize,
        k: usize,
        m: usize,
    ) {
        let residual = residual.as_ref().map(|residual| Grid::new(residual, n, m));
        let out = Grid::new(&out, n, m);
        matmul::forward(self, out, read(&x, n * k), read(&weight, m * k), residual, n, k, m);
    }

    fn matmul_backward_input(
        &self,
        dx: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        weight: DeviceSpan,
        n: usize,
        k: usize,
        m: usize,
    ) {
        let dx = Grid::new(&dx, n, k);
        matmul::backward_input(self, dx, write, read(&dout, n * m), read(&weight, m * k), n, k, m);
    }

    fn matmul_backward_weight(
        &self,
        dweight: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        n: usize,
        k: usize,
        m: usize,
    ) {
        let dweight = Grid::new(&dweight, m, k);
        matmul::backward_weight(self, dweight, write, read(&dout, n * m), read(&x, n * k), n, k, m);
    }

    fn rope_forward(&self, qkv: DeviceSpan, rows: &Rows, theta: f64, dims: &Dims) {
        let n = rows.shape.n();
        let qkv = Grid::new(&qkv, n, dims.qkv());
        rope::rotate(self, qkv, read(&rows.starts, n), rows.shape, theta, dims, rope::Way::Forward);
    }

    fn rope_backward(&self, dqkv: DeviceSpan, rows: &Rows, theta: f64, dims: &Dims) {
        let n = rows.shape.n();
        let dqkv = Grid::new(&dqkv, n, dims.qkv());
        rope::rotate(self, dqkv, read(&rows.starts, n), rows.shape, theta, dims, rope::Way::Backward);
    }

    fn attention_forward(&self, out: DeviceSpan, lse: DeviceSpan, qkv: DeviceSpan, rows: &Rows, dims: &Dims) {
        let n = rows.shape.n();
        let (out, lse) = (Grid::new(&out, n, dims.attended()), Grid::new(&lse, n, dims.h));
        let (qkv, starts) = (read(&qkv, n * dims.qkv()), read(&rows.starts, n));
        attention::forward(self, out, lse, qkv, starts, rows.shape, dims);
    }

    fn attention_backward(
        &self,
        dqkv: DeviceSpan,
        dout: DeviceSpan,
        out: DeviceSpan,
        lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        dims: &Dims,
    ) {
        let n = rows.shape.n();
        let saved = attention::Saved {
            qkv: read(&qkv, n * dims.qkv()),
            out: read(&out, n * dims.attended()),
            lse: read(&lse, n * dims.h),
            dout: read(&dout, n * dims.attended()),
            starts: read(&rows.starts, n),
        };
        attention::backward(self, Grid::new(&dqkv, n, dims.qkv()), saved, rows.shape, dims);
    }

    fn swiglu_forward(&self, out: DeviceSpan, gate_up: DeviceSpan, n: usize, f: usize) {
        swiglu::forward(self, Grid::new(&out, n, f), read(&gate_up, n * 2 * f), n, f);
    }

    fn swiglu_backward(&self, gate_up: DeviceSpan, dout: DeviceSpan, n: usize, f: usize) {
        swiglu::backward(self, Grid::new(&gate_up, n, 2 * f), read(&dout, n * f), n, f);
    }

    fn cross_entropy_forward(
        &self,
        loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
    ) {
        let targets = cross_entropy::Targets::new(rows, n);
        cross_entropy::forward(self, Grid::new(&loss, 1, 1), read(&logits, n * v), targets, n, v);
    }

    fn cross_entropy_forward_backward(
        &self,
        loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
    ) {
        let targets = cross_entropy::Targets::new(rows, n);
        let logits = Grid::new(&logits, n, v);
        cross_entropy::forward_backward(self, Grid::new(&loss, 1, 1), logits, targets, n, v);
    }

    fn zero(&self, out: DeviceSpan) {
        gradient::zero(self, Grid::new(&out, out.bytes(), 1), out.bytes());
    }

    fn sum_of_squares(&self, out: DeviceSpan, x: DeviceSpan) {
        gradient::sum_of_squares(self, Grid::new(&out, 1, 1), read(&x, x.bytes() / 4));
    }

    fn round(&self, out: DeviceSpan, x: DeviceSpan, to: DType) {
        let x: &[f32] = read(&x, x.bytes() / 4);
        match to {
            DType::Bf16 => gradient::round(self, Grid::new(&out, x.len(), 1), x),
            DType::F32 => gradient::copy(self, Grid::new(&out, x.len(), 1), x),
        }
    }

    fn widen(&self, out: DeviceSpan, x: DeviceSpan) {
        let x: &[f32] = read(&x, x.bytes() / 4);
        gradient::copy(self, Grid::new(&out, x.len(), 1), x);
    }
}
