//! Spans as slices: the one place where device memory becomes references.

use std::marker::PhantomData;
use std::ops::Range;

use crate::device::DeviceSpan;

/// What spans hold: any bit pattern is a value.
///
/// # Safety
/// Every pattern of `size_of::<Self>()` bytes is a valid value.
pub(super) unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: every pattern is a number or a NaN.
unsafe impl Element for f32 {}
// SAFETY: every pattern is a number or a NaN.
unsafe impl Element for f64 {}
// SAFETY: every pattern is a bf16.
unsafe impl Element for u16 {}
// SAFETY: every pattern is an integer.
unsafe impl Element for i32 {}
// SAFETY: every pattern is an integer.
unsafe impl Element for u8 {}

/// Memory that several workers read and write, `rows × columns`, row-major. References come out of it by
/// `unsafe` functions, and each caller says why no other worker touches what it takes.
#[derive(Clone, Copy)]
pub(super) struct Grid<'a, T> {
    base: *mut T,
    rows: usize,
    columns: usize,
    memory: PhantomData<&'a [T]>,
}

// SAFETY: a grid is an address and two lengths; whoever turns it into references argues for them.
unsafe impl<T: Element> Send for Grid<'_, T> {}
// SAFETY: sharing the address and the lengths gives no access by itself.
unsafe impl<T: Element> Sync for Grid<'_, T> {}

impl<'a, T: Element> Grid<'a, T> {
    /// The first `rows · columns` elements of a span.
    ///
    /// # Panics
    /// If the span is shorter, or not aligned to its elements.
    pub fn new(span: &'a DeviceSpan, rows: usize, columns: usize) -> Self {
        let bytes = rows.checked_mul(columns).and_then(|n| n.checked_mul(size_of::<T>()));
        assert!(
            bytes.is_some_and(|bytes| bytes <= span.bytes()),
            "{rows} × {columns} elements of {} bytes leave a span of {} bytes",
            size_of::<T>(),
            span.bytes()
        );
        let base = span.address().cast::<T>();
        assert!(base.is_aligned(), "a span is not aligned to its elements of {} bytes", size_of::<T>());
        Grid { base, rows, columns, memory: PhantomData }
    }

    /// Scratch memory as a grid.
    pub fn of(slice: &'a mut [T], rows: usize, columns: usize) -> Self {
        assert!(rows * columns <= slice.len(), "scratch is too short");
        Grid { base: slice.as_mut_ptr(), rows, columns, memory: PhantomData }
    }

    /// Rows to read.
    ///
    /// # Safety
    /// While the slice lives, no one writes these rows.
    pub unsafe fn rows(&self, rows: Range<usize>) -> &'a [T] {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows leave the grid");
        // SAFETY: the rows lie in the grid, whose memory is initialised, aligned and lives for 'a; the caller
        // keeps writers away.
        unsafe {
            std::slice::from_raw_parts(
                self.base.add(rows.start * self.columns),
                (rows.end - rows.start) * self.columns,
            )
        }
    }

    /// Rows to write.
    ///
    /// # Safety
    /// While the slice lives, no one else reads or writes these rows.
    pub unsafe fn rows_mut(&self, rows: Range<usize>) -> &'a mut [T] {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows leave the grid");
        // SAFETY: the rows lie in the grid, whose memory is initialised, aligned and lives for 'a; the caller
        // keeps everyone else away.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.add(rows.start * self.columns),
                (rows.end - rows.start) * self.columns,
            )
        }
    }

    /// Copies part of a row from the same place of a grid of the same shape, which may be this very memory.
    ///
    /// # Safety
    /// Nobody else touches this part of the row of either grid meanwhile.
    pub unsafe fn copy_row(&self, from: &Grid<T>, row: usize, columns: Range<usize>) {
        assert!(row < self.rows && columns.end <= self.columns, "the row leaves the grid");
        assert!(from.rows == self.rows && from.columns == self.columns, "the shapes differ");
        let at = row * self.columns + columns.start;
        // SAFETY: both places lie in their grids, whose shapes are equal; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from.base.add(at), self.base.add(at), columns.len()) }
    }

    /// A rectangle to write.
    ///
    /// # Safety
    /// While the tile lives, no one else reads or writes this rectangle.
    pub unsafe fn tile(&self, rows: Range<usize>, columns: Range<usize>) -> TileMut<'a, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows leave the grid");
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns leave the grid");
        TileMut {
            // SAFETY: the corner lies in the grid, or one past its end when the tile is empty.
            base: unsafe { self.base.add(rows.start * self.columns + columns.start) },
            rows: rows.end - rows.start,
            columns: columns.end - columns.start,
            stride: self.columns,
            memory: PhantomData,
        }
    }
}

/// All elements of a span, to read.
///
/// By the law of the floor the caller of an operation holds the right to read its inputs for the length of
/// the call, and no operation names an input as an output unless its contract says so; such operands are
/// taken as a [`Grid`].
pub(super) fn read<T: Element>(span: &DeviceSpan, elements: usize) -> &[T] {
    let grid = Grid::new(span, 1, elements);
    // SAFETY: nobody writes the inputs of a running operation, as said above.
    unsafe { grid.rows(0..1) }
}

/// A rectangle of a row-major matrix, to write.
pub(super) struct TileMut<'a, T> {
    base: *mut T,
    rows: usize,
    columns: usize,
    stride: usize,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Element> TileMut<'a, T> {
    /// A whole slice as a tile.
    pub fn of(slice: &'a mut [T], rows: usize, columns: usize) -> Self {
        assert!(rows * columns <= slice.len(), "the slice is shorter than the tile");
        TileMut { base: slice.as_mut_ptr(), rows, columns, stride: columns, memory: PhantomData }
    }

    /// One row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "the row leaves the tile");
        // SAFETY: the row lies in the tile, which is ours alone by the promise made to `Grid::tile` (or by the
        // borrow taken in `of`), and `&mut self` lends it once at a time.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.stride), self.columns) }
    }

    /// Some of the columns.
    pub fn into_columns(self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns leave the tile");
        // SAFETY: the corner lies in the tile, or one past its end when no column is left.
        let base = unsafe { self.base.add(columns.start) };
        TileMut { base, columns: columns.end - columns.start, ..self }
    }

    /// Part of the tile, lent.
    pub fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> TileMut<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows leave the tile");
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns leave the tile");
        TileMut {
            // SAFETY: the corner lies in the tile, or one past its end when the part is empty.
            base: unsafe { self.base.add(rows.start * self.stride + columns.start) },
            rows: rows.end - rows.start,
            columns: columns.end - columns.start,
            stride: self.stride,
            memory: PhantomData,
        }
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
pub(super) struct Matrix<'a> {
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

    /// Some of the rows.
    pub fn some_rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start < rows.end && rows.end <= self.rows, "rows leave the matrix");
        Matrix { elements: &self.elements[rows.start * self.row_stride..], rows: rows.len(), ..self }
    }

    /// A row of a matrix that is row-major.
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(self.column_stride == 1, "the row does not stand together");
        &self.elements[row * self.row_stride..][..self.columns]
    }

    /// One element.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.elements[row * self.row_stride + column * self.column_stride]
    }

    /// The address of the first element.
    pub fn address(&self) -> *const f32 {
        self.elements.as_ptr()
    }
}
