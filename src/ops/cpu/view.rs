//! Conversion of device spans to slices (the only place where CPU device memory becomes
//! references), and tiles of slices.

use std::marker::PhantomData;
use std::ops::Range;

use crate::device::DeviceSpan;

/// Types of span elements.
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

/// Returns the address of the first `elements` elements of a span.
///
/// # Panics
/// If the span is shorter or not aligned to `T`.
fn elements_at<T: Element>(span: &DeviceSpan, elements: usize) -> *mut T {
    let base = span.first::<T>(elements);
    assert!(base.is_aligned(), "a span is not aligned to its elements of {} bytes", size_of::<T>());
    base
}

/// Returns the first elements of an input.
///
/// By the rules of [`ops`](crate::ops), the caller of an op has shared access to its inputs for the
/// length of the call, and no input is an output unless the op says "may be"; such an input is read
/// with [`read_disjoint`].
///
/// # Panics
/// If the span is shorter or not aligned to `T`.
pub(in crate::ops) fn read<T: Element>(span: &DeviceSpan, elements: usize) -> &[T] {
    let base = elements_at(span, elements);
    // SAFETY: CPU device memory is addressable and initialised, the elements are within the span, and
    // by the rules above nothing writes the inputs of a running op.
    unsafe { std::slice::from_raw_parts(base, elements) }
}

/// Returns the first elements of an output.
///
/// By the rules of [`ops`](crate::ops), the caller of an op has exclusive access to its outputs for
/// the length of the call, and an op takes each output once.
///
/// # Panics
/// If the span is shorter or not aligned to `T`.
pub(in crate::ops) fn write<T: Element>(span: &mut DeviceSpan, elements: usize) -> &mut [T] {
    let base = elements_at(span, elements);
    // SAFETY: memory as in `read`; by the rules above nothing else reads or writes the outputs of a
    // running op.
    unsafe { std::slice::from_raw_parts_mut(base, elements) }
}

/// Returns the first elements of an input that may be the output `out`; `None` if it is, because
/// then `out` holds it.
///
/// # Panics
/// If the two overlap partially; if the span is shorter or not aligned to `T`.
pub(in crate::ops) fn read_disjoint<'a, T: Element>(
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
        "an input of {bytes} bytes partially overlaps its output"
    );
    Some(x)
}

/// An exclusive rectangle of a row-major matrix.
pub(in crate::ops) struct TileMut<'a, T> {
    base: *mut T,
    rows: usize,
    columns: usize,
    stride: usize,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Element> TileMut<'a, T> {
    /// Turns a slice into a dense tile.
    pub fn of(slice: &'a mut [T], rows: usize, columns: usize) -> Self {
        assert!(
            rows.checked_mul(columns).is_some_and(|elements| elements <= slice.len()),
            "{} elements are too few for a tile of {rows} × {columns}",
            slice.len()
        );
        TileMut { base: slice.as_mut_ptr(), rows, columns, stride: columns, memory: PhantomData }
    }

    /// Returns one row.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} is outside a tile of {} rows", self.rows);
        // SAFETY: the row is within the tile, which is exclusive, and `&mut self` lends one row at a time.
        unsafe { std::slice::from_raw_parts_mut(self.base.wrapping_add(row * self.stride), self.columns) }
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        for row in 0..self.rows {
            self.row(row).fill(value);
        }
    }

    /// Splits the tile before column `at`.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        // SAFETY: the two share no column, and the tile itself is consumed.
        unsafe { (self.cut(0..self.rows, 0..at), self.cut(0..self.rows, at..self.columns)) }
    }

    /// Borrows a part of the tile.
    #[inline(always)]
    pub fn slice(&mut self, rows: Range<usize>, columns: Range<usize>) -> TileMut<'_, T> {
        // SAFETY: the result borrows the tile, which cannot be used in the meantime.
        unsafe { self.cut(rows, columns) }
    }

    /// Returns a part of the tile.
    ///
    /// # Safety
    /// While the part lives, its elements are accessed through it alone: not through the tile or
    /// another part.
    #[inline(always)]
    pub unsafe fn cut(&self, rows: Range<usize>, columns: Range<usize>) -> TileMut<'a, T> {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} are outside a tile of {}",
            self.rows
        );
        assert!(
            columns.start <= columns.end && columns.end <= self.columns,
            "columns {columns:?} are outside a tile of {}",
            self.columns
        );
        // The base of an empty part may be out of bounds; it is never dereferenced.
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

/// A read-only matrix, row-major or column-major: one of its strides is 1.
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
        assert!(columns <= stride || rows <= 1, "rows of {columns} columns overlap at a stride of {stride}");
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * stride + columns <= elements.len(),
            "{} elements are too few for {rows} × {columns} at a stride of {stride}",
            elements.len()
        );
        Matrix { elements, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transpose, on the same memory.
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

    /// Returns a row of a row-major matrix.
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(self.column_stride == 1, "the matrix is not row-major");
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
        // SAFETY: the slice is memory of this process and outlives the spans of the test.
        unsafe { DeviceSpan::new(NonNull::from(&mut *memory).cast(), size_of_val(memory)) }
    }

    #[test]
    fn an_input_is_its_output_or_disjoint_from_it() {
        let mut memory = [1f32, 2.0, 3.0, 4.0];
        let whole = span(&mut memory);
        let (first, second) = (whole.subspan(0, 8), whole.subspan(8, 8));
        assert_eq!(read_disjoint::<f32>(&first, 2, &first), None);
        assert_eq!(read_disjoint(&second, 2, &first), Some(&[3f32, 4.0][..]));
        assert_eq!(read_disjoint(&first, 2, &second), Some(&[1f32, 2.0][..]));
    }

    #[test]
    #[should_panic(expected = "partially overlaps its output")]
    fn an_input_that_partially_overlaps_its_output_is_refused() {
        let mut memory = [0f32; 3];
        let whole = span(&mut memory);
        read_disjoint::<f32>(&whole.subspan(4, 8), 2, &whole.subspan(0, 8));
    }

    #[test]
    #[should_panic(expected = "leave a span of 12 bytes")]
    fn a_short_span_is_refused() {
        read::<f32>(&span(&mut [0f32; 3]), 4);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn a_misaligned_span_is_refused() {
        read::<f32>(&span(&mut [0f32; 3]).subspan(2, 8), 2);
    }
}
