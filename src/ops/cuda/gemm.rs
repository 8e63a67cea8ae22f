//! The three GEMMs of a linear layer as a column-major library sees them. Pure.
//!
//! A row-major `[rows, columns]` matrix has the same bytes as the column-major `[columns, rows]`
//! matrix of its transpose. So each GEMM computes the transposed result from exchanged operands,
//! and nothing is copied:
//!
//! | direction | row-major | column-major |
//! |---|---|---|
//! | forward | `out [N,M] = x [N,K] · weight [M,K]ᵀ` | `outᵀ [M,N] = (weightᵀ [K,M])ᵀ · xᵀ [K,N]` |
//! | backward input | `dx [N,K] = dout [N,M] · weight [M,K]` | `dxᵀ [K,N] = weightᵀ [K,M] · doutᵀ [M,N]` |
//! | backward weight | `dweight [M,K] = dout [N,M]ᵀ · x [N,K]` | `dweightᵀ [K,M] = xᵀ [K,N] · (doutᵀ [M,N])ᵀ` |

use serde::{Deserialize, Serialize};

use crate::base::{DType, Error, Result};
use crate::ops::{Linear, Write};

/// The three matmuls of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// `out = x · weightᵀ`, bf16.
    Forward,
    /// `dx = dout · weight`, bf16.
    BackwardInput,
    /// `dweight = doutᵀ · x`, f32.
    BackwardWeight,
}

/// One GEMM of a linear layer: the key of its algorithm, together with device and library.
/// Addresses are no part of it, so placement changes no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Forward, backward to the input, or backward to the weight.
    pub direction: Direction,
    /// True if the output itself, or forward's residual, is added.
    pub add: bool,
    /// True if forward adds a bias. Omitted from JSON if false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
    /// N: rows of x and out.
    pub n: usize,
    /// K: columns of x and weight.
    pub k: usize,
    /// M: columns of out, rows of weight.
    pub m: usize,
    /// Elements between rows of x and dx.
    pub x_stride: usize,
    /// Elements between rows of out and dout.
    pub out_stride: usize,
}

/// A column-major matrix: the elements of a column are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMajor {
    /// The type of its elements.
    pub dtype: DType,
    /// Length of a column.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Elements from one column to the next (BLAS: leading dimension).
    pub stride: usize,
}

/// An operand of a column-major GEMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// The matrix as stored.
    pub matrix: ColumnMajor,
    /// True if the transpose is multiplied.
    pub transpose: bool,
}

/// `out = a · b`, column-major. For the three directions, `a` is weight, weight, x and `b` is x,
/// dout, dout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    /// The left operand.
    pub a: Factor,
    /// The right operand.
    pub b: Factor,
    /// The result, and the layout of the residual.
    pub out: ColumnMajor,
}

impl Gemm {
    /// A GEMM of a linear layer with dense inputs. For forward, [`Write::Add`] means that a
    /// residual is added.
    pub fn of(direction: Direction, write: Write, sizes: Linear) -> Self {
        let Linear { n, k, m, out_stride } = sizes;
        Gemm { direction, add: write == Write::Add, bias: false, n, k, m, x_stride: k, out_stride }
    }

    /// The forward GEMM of a linear layer.
    pub fn forward(residual: bool, bias: bool, sizes: Linear) -> Self {
        let write = if residual { Write::Add } else { Write::Set };
        Gemm { bias, ..Gemm::of(Direction::Forward, write, sizes) }
    }

    /// Refuses invalid sizes: zeros, strides shorter than a row, counts over 2^31 − 1 (the
    /// library's kernels count rows in 32 bits). Refuses a bias in backward.
    pub fn check(&self) -> Result<()> {
        let counts = [self.n, self.k, self.m, self.x_stride, self.out_stride];
        if counts.iter().any(|count| *count == 0 || *count > i32::MAX as usize)
            || self.x_stride < self.k
            || self.out_stride < self.m
            || (self.bias && self.direction != Direction::Forward)
        {
            return Err(Error::internal(format!("invalid sizes or options of a GEMM: {self:?}")));
        }
        Ok(())
    }

    /// The bias as a matrix of one column, `[M]`: a column of forward's column-major output.
    pub fn bias_vector(&self) -> ColumnMajor {
        ColumnMajor { dtype: DType::Bf16, rows: self.m, columns: 1, stride: self.m }
    }

    /// The operands as a column-major library sees them.
    pub fn operands(&self) -> Operands {
        let stored = |dtype, row_length, row_count, stride| ColumnMajor {
            dtype,
            rows: row_length,
            columns: row_count,
            stride,
        };
        let plain = |matrix| Factor { matrix, transpose: false };
        let transposed = |matrix| Factor { matrix, transpose: true };
        let x = stored(DType::Bf16, self.k, self.n, self.x_stride);
        let out = stored(DType::Bf16, self.m, self.n, self.out_stride);
        let weight = |dtype| stored(dtype, self.k, self.m, self.k);
        match self.direction {
            Direction::Forward => Operands { a: transposed(weight(DType::Bf16)), b: plain(x), out },
            Direction::BackwardInput => Operands { a: plain(weight(DType::Bf16)), b: plain(out), out: x },
            Direction::BackwardWeight => {
                Operands { a: plain(x), b: transposed(out), out: weight(DType::F32) }
            }
        }
    }
}

impl ColumnMajor {
    /// Bytes from the first to the last element.
    pub fn bytes(&self) -> usize {
        ((self.columns - 1) * self.stride + self.rows) * self.dtype.bytes()
    }
}
