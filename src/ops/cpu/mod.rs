//! The CPU kernels: f32 storage, and the reference that other devices answer to.
//!
//! One op a file, both directions. Every op cuts its work into tiles whose shape depends on the op's sizes
//! alone; the workers of a [`Pool`] take tiles, and what a tile computes does not depend on who takes it.
//! So the bits are the same for any number of threads. `view` turns spans into slices, `cut` gives workers
//! disjoint pieces of an output, `vector` compiles loops for the machine at hand, `product` is the door to
//! the library of matrix products; the ops themselves are arithmetic on slices.

mod attention;
mod bias;
mod column_sum;
mod cross_entropy;
mod cut;
mod embed;
mod gradient;
mod matmul;
mod product;
mod qk_norm;
mod rmsnorm;
mod rope;
mod scratch;
mod swiglu;
mod vector;
mod view;

use std::sync::Arc;

use crate::base::{DType, Dims};
use crate::device::DeviceSpan;
use crate::host::{Isa, Pool};
use crate::ops::{Addends, Kernels, Linear, LossRows, NORM_BLOCK, Rows, TokenRows, Write};

use rope::RotationTable;
use scratch::Scratch;
use view::{Matrix, read, read_apart, write};

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

/// Elements of a linear layer's output, with what lies between its rows.
fn out_elements(sizes: &Linear) -> usize {
    sizes.n * sizes.out_stride
}

impl Kernels for CpuKernels {
    fn storage(&self) -> DType {
        Self::STORAGE
    }

    fn arithmetic(&self) -> String {
        // Products take the best instructions there are; the rest is the same with all.
        format!("cpu with {}", Isa::best())
    }

    fn embed_forward(
        &self,
        mut out: DeviceSpan,
        table: DeviceSpan,
        tokens: DeviceSpan,
        n: usize,
        c: usize,
        v: usize,
    ) {
        embed::forward(self, write(&mut out, n * c), read(&table, v * c), read(&tokens, n), c);
    }

    fn embed_backward(
        &self,
        mut dtable: DeviceSpan,
        dout: DeviceSpan,
        tokens: &TokenRows,
        n: usize,
        c: usize,
        v: usize,
    ) {
        let sorted = embed::Sorted {
            tokens: read(&tokens.tokens, n),
            order: read(&tokens.order, n),
            first: read(&tokens.first, tokens.distinct + 1),
        };
        embed::backward(self, write(&mut dtable, v * c), read(&dout, n * c), sorted, c);
    }

    fn rmsnorm_forward(
        &self,
        mut out: DeviceSpan,
        mut rstd: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        eps: f32,
        n: usize,
        c: usize,
    ) {
        let (out, rstd) = (write(&mut out, n * c), write(&mut rstd, n));
        rmsnorm::forward(self, out, rstd, read(&x, n * c), read(&weight, c), eps, c);
    }

    fn rmsnorm_backward(
        &self,
        mut dx: DeviceSpan,
        dx_write: Write,
        mut dweight: DeviceSpan,
        dweight_write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        rstd: DeviceSpan,
        weight: DeviceSpan,
        n: usize,
        c: usize,
    ) {
        let inputs = rmsnorm::Saved {
            x: read_apart(&x, n * c, &dx),
            rstd: read(&rstd, n),
            weight: read(&weight, c),
            dout: read(&dout, n * c),
        };
        let outputs = rmsnorm::Gradients {
            dx: write(&mut dx, n * c),
            dx_write,
            dweight: write(&mut dweight, c),
            dweight_write,
        };
        rmsnorm::backward(self, outputs, inputs, n, c);
    }

    fn matmul_forward(
        &self,
        mut out: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        addends: Addends,
        sizes: Linear,
    ) {
        let Linear { n, k, m, .. } = sizes;
        let elements = out_elements(&sizes);
        let residual = match &addends.residual {
            None => matmul::Residual::None,
            Some(residual) => {
                read_apart(residual, elements, &out).map_or(matmul::Residual::Out, matmul::Residual::Apart)
            }
        };
        let addends = matmul::Addends { residual, bias: addends.bias.as_ref().map(|bias| read(bias, m)) };
        let out = write(&mut out, elements);
        matmul::forward(self, out, read(&x, n * k), read(&weight, m * k), addends, sizes);
    }

    fn matmul_backward_input(
        &self,
        mut dx: DeviceSpan,
        dx_write: Write,
        dout: DeviceSpan,
        weight: DeviceSpan,
        sizes: Linear,
    ) {
        let Linear { n, k, m, .. } = sizes;
        let dout = read(&dout, out_elements(&sizes));
        matmul::backward_input(self, write(&mut dx, n * k), dx_write, dout, read(&weight, m * k), sizes);
    }

    fn matmul_backward_weight(
        &self,
        mut dweight: DeviceSpan,
        dweight_write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        sizes: Linear,
    ) {
        let Linear { n, k, m, .. } = sizes;
        let dout = read(&dout, out_elements(&sizes));
        let dweight = write(&mut dweight, m * k);
        matmul::backward_weight(self, dweight, dweight_write, dout, read(&x, n * k), sizes);
    }

    fn bias_backward(&self, mut dbias: DeviceSpan, dbias_write: Write, dout: DeviceSpan, n: usize, c: usize) {
        bias::backward(self, write(&mut dbias, c), dbias_write, read(&dout, n * c));
    }

    fn qk_norm_forward(
        &self,
        mut out: DeviceSpan,
        mut rstd: DeviceSpan,
        qkv: DeviceSpan,
        weights: [DeviceSpan; 2],
        eps: f32,
        n: usize,
        dims: &Dims,
    ) {
        let rstd = write(&mut rstd, n * (dims.h + dims.g)).split_at_mut(n * dims.h);
        let weights = weights.each_ref().map(|weight| read(weight, dims.d));
        let out = write(&mut out, n * dims.qkv());
        qk_norm::forward(self, out, rstd, read(&qkv, n * dims.qkv()), weights, eps, dims);
    }

    fn qk_norm_backward(
        &self,
        mut dqkv: DeviceSpan,
        mut dweights: [DeviceSpan; 2],
        dweights_write: Write,
        qkv: DeviceSpan,
        rstd: DeviceSpan,
        weights: [DeviceSpan; 2],
        n: usize,
        dims: &Dims,
    ) {
        let saved = qk_norm::Saved {
            qkv: read(&qkv, n * dims.qkv()),
            rstd: read(&rstd, n * (dims.h + dims.g)).split_at(n * dims.h),
            weights: weights.each_ref().map(|weight| read(weight, dims.d)),
        };
        let dweights = dweights.each_mut().map(|dweight| write(dweight, dims.d));
        qk_norm::backward(self, write(&mut dqkv, n * dims.qkv()), dweights, dweights_write, saved, dims);
    }

    fn rope_forward(&self, mut qkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims) {
        let n = rows.shape.n();
        let (qkv, positions) = (write(&mut qkv, n * dims.qkv()), read(&rows.positions, n));
        rope::rotate(self, qkv, positions, read(&inv_freq, dims.d / 2), dims, rope::Way::Forward);
    }

    fn rope_backward(&self, mut dqkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims) {
        let n = rows.shape.n();
        let (dqkv, positions) = (write(&mut dqkv, n * dims.qkv()), read(&rows.positions, n));
        rope::rotate(self, dqkv, positions, read(&inv_freq, dims.d / 2), dims, rope::Way::Backward);
    }

    fn attention_forward(
        &self,
        mut out: DeviceSpan,
        mut lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        window: usize,
        dims: &Dims,
    ) {
        let n = rows.shape.n();
        let (out, lse) = (write(&mut out, n * dims.attended()), write(&mut lse, n * dims.h));
        let visible = attention::Visible { doc_start: read(&rows.doc_start, n), window };
        attention::forward(self, out, lse, read(&qkv, n * dims.qkv()), visible, rows.shape, dims);
    }

    fn attention_backward(
        &self,
        mut dqkv: DeviceSpan,
        dout: DeviceSpan,
        out: DeviceSpan,
        lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        window: usize,
        dims: &Dims,
    ) {
        let n = rows.shape.n();
        let saved = attention::Saved {
            qkv: read(&qkv, n * dims.qkv()),
            out: read(&out, n * dims.attended()),
            lse: read(&lse, n * dims.h),
            dout: read(&dout, n * dims.attended()),
            visible: attention::Visible { doc_start: read(&rows.doc_start, n), window },
        };
        attention::backward(self, write(&mut dqkv, n * dims.qkv()), saved, rows.shape, dims);
    }

    fn swiglu_forward(&self, mut out: DeviceSpan, gate_up: DeviceSpan, n: usize, f: usize) {
        swiglu::forward(self, write(&mut out, n * f), read(&gate_up, n * 2 * f), f);
    }

    fn swiglu_backward(&self, mut gate_up: DeviceSpan, dout: DeviceSpan, n: usize, f: usize) {
        swiglu::backward(self, write(&mut gate_up, n * 2 * f), read(&dout, n * f), f);
    }

    fn cross_entropy_forward(
        &self,
        mut loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let targets = cross_entropy::Targets::new(rows, n);
        let logits = Matrix::new(read(&logits, n * stride), n, v, stride);
        cross_entropy::forward(self, &mut write(&mut loss, 1)[0], logits, targets);
    }

    fn cross_entropy_forward_backward(
        &self,
        mut loss: DeviceSpan,
        mut logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let targets = cross_entropy::Targets::new(rows, n);
        let (loss, logits) = (&mut write(&mut loss, 1)[0], write(&mut logits, n * stride));
        cross_entropy::forward_backward(self, loss, logits, targets, v, stride);
    }

    fn cross_entropy_logprobs(
        &self,
        mut logprobs: DeviceSpan,
        logits: DeviceSpan,
        targets: DeviceSpan,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let logits = Matrix::new(read(&logits, n * stride), n, v, stride);
        let classes = cross_entropy::Classes::new(&targets, n);
        cross_entropy::logprobs(self, write(&mut logprobs, n), logits, classes);
    }

    fn cross_entropy_backward(
        &self,
        mut logits: DeviceSpan,
        targets: DeviceSpan,
        dlogprobs: DeviceSpan,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let (classes, dlogprobs) = (cross_entropy::Classes::new(&targets, n), read(&dlogprobs, n));
        cross_entropy::backward(self, write(&mut logits, n * stride), classes, dlogprobs, v, stride);
    }

    fn zero(&self, mut out: DeviceSpan) {
        let bytes = out.bytes();
        gradient::zero(self, write(&mut out, bytes));
    }

    fn sum_of_squares(&self, mut out: DeviceSpan, x: DeviceSpan) {
        let x: &[f32] = read(&x, x.bytes() / 4);
        gradient::sum_of_squares(self, write(&mut out, x.len().div_ceil(NORM_BLOCK)), x);
    }

    fn round(&self, mut out: DeviceSpan, mut squares: Option<DeviceSpan>, x: DeviceSpan, to: DType) {
        let x: &[f32] = read(&x, x.bytes() / 4);
        let squares = squares.as_mut().map(|squares| write(squares, x.len().div_ceil(NORM_BLOCK)));
        match to {
            DType::Bf16 => gradient::round(self, write(&mut out, x.len()), squares, x),
            DType::F32 => gradient::copy(self, write(&mut out, x.len()), squares, x),
        }
    }

    fn widen(&self, mut out: DeviceSpan, x: DeviceSpan) {
        let x: &[f32] = read(&x, x.bytes() / 4);
        gradient::copy(self, write(&mut out, x.len()), None, x);
    }
}
