//! The letters: the one table of sizes, here and in `csrc/kernels.h`.

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// C: width of the residual stream.
    pub c: usize,
    /// H: query heads.
    pub h: usize,
    /// G: key/value heads; divides H.
    pub g: usize,
    /// D: head dimension; even.
    pub d: usize,
    /// F: width of the feed-forward network.
    pub f: usize,
    /// V: vocabulary.
    pub v: usize,
    /// L: decoder layers.
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

    /// Elements from one row of logits to the next: V, and what makes every row start on 16 bytes of bf16.
    pub fn logits_stride(&self) -> usize {
        self.v.next_multiple_of(8)
    }
}

/// The shape of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// B: sequences.
    pub b: usize,
    /// T: tokens of each sequence.
    pub t: usize,
}

impl Shape {
    /// N = B·T: rows.
    pub fn n(&self) -> usize {
        self.b * self.t
    }
}
