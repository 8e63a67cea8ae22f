//! The three products of a linear layer, and how a column-major library sees them. Pure.
//!
//! A row-major `[rows, columns]` matrix is, byte for byte, the column-major `[columns, rows]` matrix of its
//! transpose. So each product is asked for transposed, with its factors exchanged, and nothing is moved:
//!
//! | direction | row-major | column-major |
//! |---|---|---|
//! | forward | `out [N,M] = x [N,K] · weight [M,K]ᵀ` | `outᵀ [M,N] = (weightᵀ [K,M])ᵀ · xᵀ [K,N]` |
//! | backward input | `dx [N,K] = dout [N,M] · weight [M,K]` | `dxᵀ [K,N] = weightᵀ [K,M] · doutᵀ [M,N]` |
//! | backward weight | `dweight [M,K] = dout [N,M]ᵀ · x [N,K]` | `dweightᵀ [K,M] = xᵀ [K,N] · (doutᵀ [M,N])ᵀ` |

use serde::{Deserialize, Serialize};

use crate::base::{DType, Error, Result};
use crate::ops::{Linear, Write};

/// Which product.
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

/// One product of a linear layer: all that the choice of its algorithm may depend on, besides device and library.
/// In particular not on addresses: where a tensor is placed changes no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Which of the three.
    pub direction: Direction,
    /// Whether something is added: the output itself, or forward's residual.
    pub add: bool,
    /// Whether forward adds a bias. Left out of JSON where it does not.
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

/// A column-major matrix: elements of a column lie side by side.
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

/// A factor of a column-major product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// The matrix as it lies in memory.
    pub matrix: ColumnMajor,
    /// Whether its transpose is what is multiplied.
    pub transpose: bool,
}

/// `out = a · b`, column-major. `a` is weight, weight, x and `b` is x, dout, dout for the three directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    /// The first factor.
    pub a: Factor,
    /// The second factor.
    pub b: Factor,
    /// The result, and what is added to it.
    pub out: ColumnMajor,
}

impl Gemm {
    /// One of the products of a linear layer, its inputs dense. [`Write::Add`] says of forward that a residual is
    /// added.
    pub fn of(direction: Direction, write: Write, sizes: Linear) -> Self {
        let Linear { n, k, m, out_stride } = sizes;
        Gemm { direction, add: write == Write::Add, bias: false, n, k, m, x_stride: k, out_stride }
    }

    /// The forward product of a linear layer.
    pub fn forward(residual: bool, bias: bool, sizes: Linear) -> Self {
        let write = if residual { Write::Add } else { Write::Set };
        Gemm { bias, ..Gemm::of(Direction::Forward, write, sizes) }
    }

    /// Refuses sizes that cannot be multiplied: zeros, strides shorter than a row, counts over 2^31 − 1 (the
    /// library's kernels count rows in 32 bits). Refuses a bias in backward.
    pub fn check(&self) -> Result<()> {
        let counts = [self.n, self.k, self.m, self.x_stride, self.out_stride];
        if counts.iter().any(|count| *count == 0 || *count > i32::MAX as usize)
            || self.x_stride < self.k
            || self.out_stride < self.m
            || (self.bias && self.direction != Direction::Forward)
        {
            return Err(Error::internal(format!("no GEMM is like this: {self:?}")));
        }
        Ok(())
    }

    /// A bias as a matrix of one column, `[M]`: as long as a column of forward's column-major output.
    pub fn bias_vector(&self) -> ColumnMajor {
        ColumnMajor { dtype: DType::Bf16, rows: self.m, columns: 1, stride: self.m }
    }

    /// The product as a column-major library sees it.
    pub fn operands(&self) -> Operands {
        let lies = |dtype, row_length, row_count, stride| ColumnMajor {
            dtype,
            rows: row_length,
            columns: row_count,
            stride,
        };
        let plain = |matrix| Factor { matrix, transpose: false };
        let transposed = |matrix| Factor { matrix, transpose: true };
        let x = lies(DType::Bf16, self.k, self.n, self.x_stride);
        let out = lies(DType::Bf16, self.m, self.n, self.out_stride);
        let weight = |dtype| lies(dtype, self.k, self.m, self.k);
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
    /// Bytes from the first element to the last.
    pub fn bytes(&self) -> usize {
        ((self.columns - 1) * self.stride + self.rows) * self.dtype.bytes()
    }
}
