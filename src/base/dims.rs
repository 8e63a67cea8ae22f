//! The sizes of a model and a micro-batch. The same letters are used in `csrc/kernels.h`.

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// C: hidden size, the width of the residual stream.
    pub c: usize,
    /// H: number of query heads.
    pub h: usize,
    /// G: number of key/value heads (GQA); divides H.
    pub g: usize,
    /// D: head size; even.
    pub d: usize,
    /// F: intermediate size of the MLP.
    pub f: usize,
    /// V: vocabulary size.
    pub v: usize,
    /// L: number of decoder layers.
    pub l: usize,
}

impl Dims {
    /// Columns of the packed query, key and value rows: (H + 2·G)·D.
    pub fn qkv(&self) -> usize {
        (self.h + 2 * self.g) * self.d
    }

    /// Columns of the attention output: H·D.
    pub fn attention_width(&self) -> usize {
        self.h * self.d
    }

    /// Elements from one row of logits to the next: V rounded up to a multiple of 8, so that bf16
    /// rows are 16-byte aligned.
    pub fn logits_stride(&self) -> usize {
        self.v.next_multiple_of(8)
    }
}

/// The shape of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// B: sequences per micro-batch.
    pub b: usize,
    /// T: tokens per sequence.
    pub t: usize,
}

impl Shape {
    /// N = B·T: rows (tokens) per micro-batch. Saturates: it is asked before B and T are checked.
    pub fn n(&self) -> usize {
        self.b.saturating_mul(self.t)
    }
}
