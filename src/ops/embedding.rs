//! Token embedding.

use crate::base::DType;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, Tiles, each};
use crate::ops::cpu::vector::{add_scaled, scale, widen};
use crate::ops::cpu::view::{TileMut, read, write};
use crate::ops::cuda::{CudaKernels, address::*, launch};
use crate::ops::op;

op! {
    /// `out =` the rows of `table` given by `tokens`, times `scale`.
    EmbeddingForward {
        /// `[N, C]`.
        out: P = Set, Element::Activation, n * c;
        /// `[V, C]`.
        table: P = Read, Element::BF16, v * c;
        /// `[N]`, each below V.
        tokens: P = Read, Element::I32, n;
    }
    /// The factor of every element.
    scale: f32;
    /// N: rows.
    n: usize;
    /// C: columns.
    c: usize;
    /// V: rows of the table.
    v: usize;
    {
        /// Counts only the table rows that are read.
        fn traffic(&self, activation_dtype: DType) -> usize {
            self.n * self.c * (2 + activation_dtype.bytes())
        }
    }
}

op! {
    /// The gradient of [`EmbeddingForward`]: adds each row of `dout`, times `scale`, to its token's row of
    /// `dtable`, in ascending row order.
    EmbeddingBackward {
        /// `[V, C]`.
        dtable: P = Update, Element::F32, v * c;
        /// `[N, C]`.
        dout: P = Read, Element::Activation, n * c;
        /// `[N]`: the token of each row.
        tokens: P = Read, Element::I32, n;
        /// `[N]`: the row numbers sorted by token; rows of the same token ascend.
        order: P = Read, Element::I32, n;
        /// `[N + 1]`: the start of each distinct token's rows in `order`; `first[distinct]` is N.
        first: P = Read, Element::I32, n + 1;
    }
    /// As in forward.
    scale: f32;
    /// Distinct tokens. Set for each batch.
    distinct: usize;
    /// N: rows.
    n: usize;
    /// C: columns.
    c: usize;
    /// V: rows of the table.
    v: usize;
    {
        /// Counts only the table rows that are updated; as many as tokens while `distinct` is 0 (unknown).
        fn traffic(&self, activation_dtype: DType) -> usize {
            let updated = if self.distinct == 0 { self.n } else { self.distinct };
            (updated * 2 * 4 + self.n * activation_dtype.bytes()) * self.c
        }
    }
}

/// Rows of a forward tile.
const ROWS: usize = 64;
/// Columns of a backward tile. Each tile walks all rows, token by token.
const COLUMNS: usize = 64;

/// Returns the table row of a token.
///
/// # Panics
/// If the token is not below V: the caller has to check tokens.
fn row_of(token: i32, v: usize) -> usize {
    let row = usize::try_from(token).unwrap_or(usize::MAX);
    assert!(row < v, "token {token} is outside an embedding of {v} rows");
    row
}

impl EmbeddingForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let EmbeddingForward { scale: factor, n, c, v, .. } = self;
        let (table, tokens): (&[u16], &[i32]) = (read(&self.table, v * c), read(&self.tokens, n));
        each(&cpu.pool, Rows::new(write(&mut self.out, n * c), c, ROWS), |_, (rows, out)| {
            for (out, &token) in out.chunks_exact_mut(c).zip(&tokens[rows]) {
                widen(out, &table[row_of(token, v) * c..][..c]);
                if factor != 1.0 {
                    scale(out, factor);
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let EmbeddingForward { out, table, tokens, scale, n, c, v } = self;
        let (out, tokens, table) = (bf16s(&out, n * c), i32s(&tokens, n), bf16s(&table, v * c));
        launch!(cuda.hzk_embedding_forward(out, tokens, table, scale, n as i64, c as i64, v as i64));
    }
}

impl EmbeddingBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let EmbeddingBackward { scale, distinct, n, c, v, .. } = self;
        let (dout, tokens): (&[f32], &[i32]) = (read(&self.dout, n * c), read(&self.tokens, n));
        let (order, first): (&[i32], &[i32]) = (read(&self.order, n), read(&self.first, distinct + 1));
        let dtable = TileMut::of(write(&mut self.dtable, v * c), v, c);
        each(&cpu.pool, Tiles::new(dtable, (v, COLUMNS)), |_, (_, columns, mut dtable)| {
            for bounds in first.windows(2) {
                let rows = &order[bounds[0] as usize..bounds[1] as usize];
                let sum = dtable.row(row_of(tokens[rows[0] as usize], v));
                for &row in rows {
                    add_scaled(sum, &dout[row as usize * c..][columns.clone()], scale);
                }
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let EmbeddingBackward { dtable, dout, tokens, order, first, scale, distinct, n, c, v } = self;
        launch!(cuda.hzk_embedding_backward(
            f32s(&dtable, v * c),
            bf16s(&dout, n * c),
            i32s(&tokens, n),
            i32s(&order, n),
            i32s(&first, distinct + 1),
            scale,
            n as i64,
            distinct as i64,
            c as i64,
            v as i64,
        ));
    }
}
