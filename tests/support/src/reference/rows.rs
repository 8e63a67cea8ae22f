//! Batches as arrays for kernels: rows by document and by token, computed plainly.

use horizon::base::Shape;
use horizon::device::DeviceSpan;

use super::device::Device;
use super::memory::Memory;

/// Row arrays of a micro-batch: sequences and documents.
#[derive(Clone, Copy)]
pub struct Rows {
    pub shape: Shape,
    /// The position of each row within its document.
    pub positions: DeviceSpan,
    /// The first row of each row's document.
    pub doc_start: DeviceSpan,
    /// One past the last row of each row's document.
    pub doc_end: DeviceSpan,
}

/// The tokens of a micro-batch and its rows sorted by token, the inputs of `EmbeddingBackward`.
#[derive(Clone, Copy)]
pub struct TokenRows {
    pub tokens: DeviceSpan,
    pub order: DeviceSpan,
    pub first: DeviceSpan,
    pub distinct: usize,
}

/// The memory of a [`Rows`].
pub struct DocumentRows {
    shape: Shape,
    positions: Memory,
    doc_start: Memory,
    doc_end: Memory,
}

impl DocumentRows {
    /// `starts[n]` is the start of row n's document within its sequence.
    pub fn new(device: &Device, shape: Shape, starts: &[i32]) -> Self {
        let row = |n: usize| (n / shape.t * shape.t) as i32 + starts[n];
        let doc_start: Vec<i32> = (0..shape.n()).map(row).collect();
        let positions: Vec<i32> = doc_start.iter().zip(0..).map(|(start, n)| n - start).collect();
        let end =
            |n: usize| (n..shape.n()).find(|&m| doc_start[m] != doc_start[n]).unwrap_or(shape.n()) as i32;
        let doc_end: Vec<i32> = (0..shape.n()).map(end).collect();
        DocumentRows {
            shape,
            positions: device.i32s(&positions),
            doc_start: device.i32s(&doc_start),
            doc_end: device.i32s(&doc_end),
        }
    }

    pub fn rows(&self) -> Rows {
        Rows {
            shape: self.shape,
            positions: self.positions.span(),
            doc_start: self.doc_start.span(),
            doc_end: self.doc_end.span(),
        }
    }
}

/// The memory of a [`TokenRows`].
pub struct SortedTokens {
    tokens: Memory,
    order: Memory,
    first: Memory,
    distinct: usize,
}

impl SortedTokens {
    pub fn new(device: &Device, tokens: &[i32]) -> Self {
        let mut order: Vec<i32> = (0..tokens.len() as i32).collect();
        order.sort_by_key(|&row| tokens[row as usize]);
        let token = |index: usize| tokens[order[index] as usize];
        let starts = |index: &usize| *index == 0 || token(*index) != token(index - 1);
        let mut first: Vec<i32> = (0..order.len()).filter(starts).map(|index| index as i32).collect();
        let distinct = first.len();
        first.resize(tokens.len() + 1, tokens.len() as i32);
        SortedTokens {
            tokens: device.i32s(tokens),
            order: device.i32s(&order),
            first: device.i32s(&first),
            distinct,
        }
    }

    pub fn rows(&self) -> TokenRows {
        TokenRows {
            tokens: self.tokens.span(),
            order: self.order.span(),
            first: self.first.span(),
            distinct: self.distinct,
        }
    }
}
