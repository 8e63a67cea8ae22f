//! The matmuls of a linear layer: forward, and backward to input and weight.

use crate::base::DType;
use crate::ops::cpu::cut::{Tiles, each};
use crate::ops::cpu::matmul::{DEPTH, multiply};
use crate::ops::cpu::vector::{add_bias, widen};
use crate::ops::cpu::view::{Matrix, TileMut, read, read_disjoint, write};
use crate::ops::cpu::{CpuKernels, block};
use crate::ops::cuda::{CudaKernels, gemm::{Direction, Gemm}};
use crate::ops::{Flops, Write, op};

/// Sizes of a linear layer, `out [N, M] = x [N, K] · weight [M, K]ᵀ`. All operands are dense except `out`, its gradient and
/// the residual, whose rows have a stride of `out_stride` elements; the elements between rows are neither read nor written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// N: rows.
    pub n: usize,
    /// K: columns in.
    pub k: usize,
    /// M: columns out.
    pub m: usize,
    /// Elements from one row of the output to the next; at least M.
    pub out_stride: usize,
}

impl Linear {
    /// A layer whose output is dense.
    pub fn dense(n: usize, k: usize, m: usize) -> Self {
        Linear { n, k, m, out_stride: m }
    }

    /// Elements of the output, including the gaps between its rows.
    pub fn out_elements(&self) -> usize {
        self.n * self.out_stride
    }

    fn flops(&self) -> Flops {
        Flops::Matmul([self.n, self.k, self.m])
    }

    /// Bytes of weight traffic. Weights are bf16; a device with f32 activations first widens them, which writes
    /// and reads a f32 copy.
    fn weight_traffic(&self, activation_dtype: DType) -> usize {
        let widened = if activation_dtype == DType::F32 { 2 * activation_dtype.bytes() } else { 0 };
        (2 + widened) * self.k * self.m
    }
}

op! {
    /// `out = residual + scale · x · weightᵀ`, then `+ bias`, in f32, rounded once.
    LinearForward {
        /// `[N, M]`.
        out: P = Set, Element::Activation, sizes.out_elements();
        /// `[N, K]`.
        x: P = Read, Element::Activation, sizes.n * sizes.k;
        /// `[M, K]`.
        weight: P = Read, Element::BF16, sizes.m * sizes.k;
        /// Same shape and stride as the output; may be the output itself.
        residual: Option<P> = Read, Element::Activation, sizes.out_elements();
        /// `[M]`: added to every row.
        bias: Option<P> = Read, Element::BF16, sizes.m;
    }
    /// The factor of the matmul.
    scale: f32;
    /// N, K, M.
    sizes: Linear;
    {
        fn may_be(&self, output: &str, input: &str) -> bool {
            (output, input) == ("out", "residual")
        }

        fn flops(&self) -> Flops {
            self.sizes.flops()
        }

        fn traffic(&self, activation_dtype: DType) -> usize {
            self.sizes.weight_traffic(activation_dtype)
        }
    }
}

op! {
    /// The gradient of the input: `dx = scale · dout · weight`.
    LinearBackwardInput {
        /// `[N, K]`; written as `dx_write` says.
        dx: P = dx_write.into(), Element::Activation, sizes.n * sizes.k;
        /// `[N, M]`.
        dout: P = Read, Element::Activation, sizes.out_elements();
        /// `[M, K]`.
        weight: P = Read, Element::BF16, sizes.m * sizes.k;
    }
    /// As in forward.
    scale: f32;
    /// `=` or `+=`.
    dx_write: Write;
    /// N, K, M.
    sizes: Linear;
    {
        fn flops(&self) -> Flops {
            self.sizes.flops()
        }

        fn traffic(&self, activation_dtype: DType) -> usize {
            self.sizes.weight_traffic(activation_dtype)
        }
    }
}

op! {
    /// The gradient of the weight: `dweight = scale · doutᵀ · x`.
    LinearBackwardWeight {
        /// `[M, K]`; written as `dweight_write` says.
        dweight: P = dweight_write.into(), Element::F32, sizes.m * sizes.k;
        /// `[N, M]`.
        dout: P = Read, Element::Activation, sizes.out_elements();
        /// `[N, K]`.
        x: P = Read, Element::Activation, sizes.n * sizes.k;
    }
    /// As in forward.
    scale: f32;
    /// `=` or `+=`.
    dweight_write: Write;
    /// N, K, M.
    sizes: Linear;
    {
        fn flops(&self) -> Flops {
            self.sizes.flops()
        }

        fn traffic(&self, _: DType) -> usize {
            0
        }
    }
}

/// Maximum rows of an activation tile.
const ROWS: usize = 1024;
/// Tile sizes are multiples of this many rows and columns: whole registers in either direction.
const STEP: usize = 16;
/// Columns of a tile. [`DEPTH`] terms of this many widened weight columns stay in the L2 cache while rows are
/// processed.
const COLUMNS: usize = 256;
/// Maximum rows of a weight-gradient tile.
const OUTPUTS: usize = 256;
/// Minimum number of tiles per matmul where sizes allow it, to balance threads.
const TILES_MIN: usize = 4;

/// Cuts an output into tiles: equal blocks of at most `rows_max` rows. An output of few tiles is cut further
/// along its longer side, because each tile reads the whole operand of the other side.
fn tiles(out: TileMut<'_, f32>, rows_max: usize) -> Tiles<'_, f32> {
    let (rows, columns) = (out.rows(), out.columns());
    let (down, across) = (rows.div_ceil(rows_max), columns.div_ceil(COLUMNS));
    let (down, across) = if rows >= columns {
        (down.max(TILES_MIN.div_ceil(across)), across)
    } else {
        (down, across.max(TILES_MIN.div_ceil(down)))
    };
    let block = |size: usize, blocks: usize| size.div_ceil(blocks).next_multiple_of(STEP);
    Tiles::new(out, (block(rows, down), block(columns, across).min(COLUMNS)))
}

/// The initial value of forward's output.
enum Residual<'a> {
    /// Zero: the output is set.
    None,
    /// The previous contents of the output.
    Out,
    /// Another matrix of the output's shape.
    Separate(&'a [f32]),
}

impl<P> LinearForward<P> {
    /// The matmul as a GEMM autotune table entry.
    pub fn gemm(&self) -> Gemm {
        Gemm::forward(self.residual.is_some(), self.bias.is_some(), self.sizes)
    }
}

impl<P> LinearBackwardInput<P> {
    /// The matmul as a GEMM autotune table entry.
    pub fn gemm(&self) -> Gemm {
        Gemm::of(Direction::BackwardInput, self.dx_write, self.sizes)
    }
}

impl<P> LinearBackwardWeight<P> {
    /// The matmul as a GEMM autotune table entry.
    pub fn gemm(&self) -> Gemm {
        Gemm::of(Direction::BackwardWeight, self.dweight_write, self.sizes)
    }
}

impl LinearForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let Linear { n, k, m, out_stride } = self.sizes;
        let elements = self.sizes.out_elements();
        let out_before = self.out;
        let residual = match &self.residual {
            None => Residual::None,
            Some(residual) => read_disjoint(residual, elements, &out_before).map_or(Residual::Out, Residual::Separate),
        };
        let bias: Option<&[u16]> = self.bias.as_ref().map(|bias| read(bias, m));
        let (x, weight): (&[f32], &[u16]) = (read(&self.x, n * k), read(&self.weight, m * k));
        let out = TileMut::of(write(&mut self.out, elements), n, out_stride).split_columns(m).0;
        cpu.scratch.reserve(DEPTH.min(k) * COLUMNS.min(m));
        each(&cpu.pool, tiles(out, ROWS), |worker, (rows, columns, mut out)| {
            if let Residual::Separate(residual) = residual {
                for (i, row) in rows.clone().enumerate() {
                    out.row(i).copy_from_slice(&residual[row * out_stride..][columns.clone()]);
                }
            }
            let mut scratch = cpu.scratch.worker(worker);
            let memory = scratch.take(DEPTH.min(k) * columns.len());
            let (x, weight) = (&x[rows.start * k..rows.end * k], &weight[columns.start * k..columns.end * k]);
            let mut write = if let Residual::None = residual { Write::Set } else { Write::Add };
            for index in 0..k.div_ceil(DEPTH) {
                let depth = block(index, DEPTH, k);
                let x = Matrix::new(&x[depth.start..], rows.len(), depth.len(), k);
                let wide = &mut memory[..depth.len() * columns.len()];
                for (wide, weight) in wide.chunks_exact_mut(depth.len()).zip(weight.chunks_exact(k)) {
                    widen(wide, &weight[depth.clone()]);
                }
                let weight = Matrix::new(wide, columns.len(), depth.len(), depth.len()).transposed();
                multiply(&mut out, write, self.scale, x, weight);
                write = Write::Add;
            }
            if let Some(bias) = bias {
                (0..rows.len()).for_each(|i| add_bias(out.row(i), &bias[columns.clone()]));
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let LinearForward { out, x, weight, residual, bias, scale, .. } = self;
        cuda.multiply(&self.gemm(), [out, weight, x], scale, [residual, bias]);
    }
}

impl LinearBackwardInput {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let Linear { n, k, m, out_stride } = self.sizes;
        let dout: &[f32] = read(&self.dout, self.sizes.out_elements());
        let weight: &[u16] = read(&self.weight, m * k);
        let dx = TileMut::of(write(&mut self.dx, n * k), n, k);
        cpu.scratch.reserve(DEPTH.min(m) * COLUMNS.min(k));
        each(&cpu.pool, tiles(dx, ROWS), |worker, (rows, columns, mut dx)| {
            let mut scratch = cpu.scratch.worker(worker);
            let memory = scratch.take(DEPTH.min(m) * columns.len());
            let mut write = self.dx_write;
            for index in 0..m.div_ceil(DEPTH) {
                let depth = block(index, DEPTH, m);
                let weight = &weight[depth.start * k..depth.end * k];
                let wide = &mut memory[..depth.len() * columns.len()];
                for (wide, weight) in wide.chunks_exact_mut(columns.len()).zip(weight.chunks_exact(k)) {
                    widen(wide, &weight[columns.clone()]);
                }
                let weight = Matrix::new(wide, depth.len(), columns.len(), columns.len());
                let dout = &dout[rows.start * out_stride + depth.start..];
                let dout = Matrix::new(dout, rows.len(), depth.len(), out_stride);
                multiply(&mut dx, write, self.scale, dout, weight);
                write = Write::Add;
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let LinearBackwardInput { dx, dout, weight, scale, dx_write, .. } = self;
        let residual = (dx_write == Write::Add).then_some(dx);
        cuda.multiply(&self.gemm(), [dx, weight, dout], scale, [residual, None]);
    }
}

impl LinearBackwardWeight {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let Linear { n, k, m, out_stride } = self.sizes;
        let dout: &[f32] = read(&self.dout, self.sizes.out_elements());
        let x: &[f32] = read(&self.x, n * k);
        let dweight = TileMut::of(write(&mut self.dweight, m * k), m, k);
        each(&cpu.pool, tiles(dweight, OUTPUTS), |_, (rows, columns, mut dweight)| {
            let dout = Matrix::new(&dout[rows.start..], n, rows.len(), out_stride).transposed();
            let x = Matrix::new(&x[columns.start..], n, columns.len(), k);
            multiply(&mut dweight, self.dweight_write, self.scale, dout, x);
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let LinearBackwardWeight { dweight, dout, x, scale, dweight_write, sizes } = self;
        if sizes.n == 0 {
            // A sum of no rows.
            return cuda.start_accumulator(&dweight, sizes.m * sizes.k, dweight_write);
        }
        let residual = (dweight_write == Write::Add).then_some(dweight);
        cuda.multiply(&self.gemm(), [dweight, x, dout], scale, [residual, None]);
    }
}
