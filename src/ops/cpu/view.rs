//! Spans as slices, the one place where device memory becomes references; and rectangles of slices.

use std::marker::PhantomData;
use std::ops::Range;

use crate::device::DeviceSpan;

/// What spans hold: any bit pattern is a value.
///
/// # Safety
/// Every pattern of `size_of::<Self>()` bytes is a valid value.
pub(in crate::ops) unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: every pattern of 32 bits is an f32, be it a NaN.
unsafe impl Element for f32 {}
// SAFETY: every pattern of 64 bits is an f64, be it a NaN.
unsafe impl Element for f64 {}
// SAFETY: integers have no invalid pattern; as a bf16 every one is a number or a NaN.
unsafe impl Element for u16 {}
// SAFETY: every pattern of 32 bits is a signed integer.
unsafe impl Element for i32 {}
// SAFETY: every byte is a u8.
unsafe impl Element for u8 {}

/// The address of a span's first elements.
///
/// # Panics
/// If the span is shorter, or not aligned to its elements.
fn elements_at<T: Element>(span: &DeviceSpan, elements: usize) -> *mut T {
    let base = span.first::<T>(elements);
    assert!(base.is_aligned(), "a span is not aligned to its elements of {} bytes", size_of::<T>());
    base
}

/// The first elements of an input.
///
/// By the law of `ops` the caller of an op holds the right to read its inputs for the length of
/// the call, and none is an output unless the operation's contract says so; such an input is taken by
/// [`read_apart`].
///
/// # Panics
/// If the span is shorter, or not aligned to its elements.
pub(in crate::ops) fn read<T: Element>(span: &DeviceSpan, elements: usize) -> &[T] {
    let base = elements_at(span, elements);
    // SAFETY: device memory of the CPU is addressable and initialised, the elements lie in the span, and nobody
    // writes the inputs of a running operation, as said above.
    unsafe { std::slice::from_raw_parts(base, elements) }
}

/// The first elements of an output.
///
/// By the law of `ops` the caller of an op holds the right to write its outputs for the length of
/// the call, and an operation takes each of its outputs once.
///
/// # Panics
/// If the span is shorter, or not aligned to its elements.
pub(in crate::ops) fn write<T: Element>(span: &mut DeviceSpan, elements: usize) -> &mut [T] {
    let base = elements_at(span, elements);
    // SAFETY: a slice of the span's memory as in `read`, and alone there: nobody else reads or writes the
    // outputs of a running operation, as said above.
    unsafe { std::slice::from_raw_parts_mut(base, elements) }
}

/// The first elements of an input that may be the output `out`: none when it is, for then `out` holds it.
///
/// # Panics
/// If the two overlap in part; if the span is shorter, or not aligned to its elements.
pub(in crate::ops) fn read_apart<'a, T: Element>(
    span: &'a DeviceSpan,
    elements: usize,
    out: &DeviceSpan,
) -> Option<&'a [T]> {
    if span.address() == out.address() {
        return None;
    }
    let x = read(span, elements);
    let bytes = size_of_val(x);
    assert!(
        span.address().addr().abs_diff(out.address().addr()) >= bytes,
        "an input of {bytes} bytes overlaps a part of its output"
    );
    Some(x)
}

/// A rectangle of a row-major matrix, to write: nobody else reads or writes it while it lives.
pub(in crate::ops) struct TileMut<'a, T> {
    base: *mut T,
    rows: usize,
    columns: usize,
    stride: usize,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Element> TileMut<'a, T> {
    /// A slice as a tile.
    pub fn of(slice: &'a mut [T], rows: usize, columns: usize) -> Self {
        assert!(
            rows.checked_mul(columns).is_some_and(|elements| elements <= slice.len()),
            "the slice is shorter than the tile"
        );
        TileMut { base: slice.as_mut_ptr(), rows, columns, stride: columns, memory: PhantomData }
    }

    /// One row.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "the row leaves the tile");
        // SAFETY: the row lies in the tile, which is ours alone, and `&mut self` lends it once at a time.
        unsafe { std::slice::from_raw_parts_mut(self.base.wrapping_add(row * self.stride), self.columns) }
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        for row in 0..self.rows {
            self.row(row).fill(value);
        }
    }

    /// The columns before `at`, and those from it on.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        // SAFETY: the two share no column, and the tile itself is given up.
        unsafe { (self.cut(0..self.rows, 0..at), self.cut(0..self.rows, at..self.columns)) }
    }

    /// Part of the tile, lent.
    #[inline(always)]
    pub fn slice(&mut self, rows: Range<usize>, columns: Range<usize>) -> TileMut<'_, T> {
        // SAFETY: the part borrows the tile, which cannot be used while it lives.
        unsafe { self.cut(rows, columns) }
    }

    /// Part of the tile.
    ///
    /// # Safety
    /// While it lives, nothing else uses an element of this part: neither the tile nor another part.
    #[inline(always)]
    pub unsafe fn cut(&self, rows: Range<usize>, columns: Range<usize>) -> TileMut<'a, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows leave the tile");
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns leave the tile");
        // Of an empty part the corner may lie outside, and nobody asks for what is there.
        let base = self.base.wrapping_add(rows.start * self.stride + columns.start);
        let (rows, columns) = (rows.len(), columns.len());
        TileMut { base, rows, columns, stride: self.stride, memory: PhantomData }
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The address of the first element.
    pub fn address(&mut self) -> *mut T {
        self.base
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// A matrix to read, in any direction: one of its strides is 1.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a> {
    elements: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows × columns`, row-major, `stride` elements from one row to the next.
    pub fn new(elements: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride || rows <= 1, "rows overlap");
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * stride + columns <= elements.len(),
            "the matrix leaves its memory"
        );
        Matrix { elements, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The same memory read the other way.
    pub fn transposed(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from one row to the next, and from one column to the next.
    pub fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.column_stride)
    }

    /// A row of a matrix that is row-major.
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(self.column_stride == 1, "the row does not stand together");
        &self.elements[row * self.row_stride..][..self.columns]
    }

    /// The address of the first element.
    pub fn address(&self) -> *const f32 {
        self.elements.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    fn span(memory: &mut [f32]) -> DeviceSpan {
        // SAFETY: the slice is memory of this process, and the spans of a test die before it.
        unsafe { DeviceSpan::new(NonNull::from(&mut *memory).cast(), size_of_val(memory)) }
    }

    #[test]
    fn an_input_is_its_output_or_apart_from_it() {
        let mut memory = [1f32, 2.0, 3.0, 4.0];
        let whole = span(&mut memory);
        let (first, second) = (whole.subspan(0, 8), whole.subspan(8, 8));
        assert_eq!(read_apart::<f32>(&first, 2, &first), None);
        assert_eq!(read_apart(&second, 2, &first), Some(&[3f32, 4.0][..]));
        assert_eq!(read_apart(&first, 2, &second), Some(&[1f32, 2.0][..]));
    }

    #[test]
    #[should_panic(expected = "overlaps a part of its output")]
    fn an_input_that_overlaps_part_of_its_output_is_refused() {
        let mut memory = [0f32; 3];
        let whole = span(&mut memory);
        read_apart::<f32>(&whole.subspan(4, 8), 2, &whole.subspan(0, 8));
    }

    #[test]
    #[should_panic(expected = "leave a span of 12 bytes")]
    fn a_short_span_is_refused() {
        read::<f32>(&span(&mut [0f32; 3]), 4);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn a_crooked_span_is_refused() {
        read::<f32>(&span(&mut [0f32; 3]).subspan(2, 8), 2);
    }
}
