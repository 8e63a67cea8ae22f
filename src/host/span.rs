//! Spans: memory as an address and a length.

use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};
use std::slice;

/// Marker types for the two sides of a [`Span`].
pub mod side {
    /// Memory of this process.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Host {}

    /// Memory of a device. On the CPU device it is memory of this process, too.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Device {}
}

/// An address and a length. It neither owns nor borrows memory: it may outlive its memory, and
/// spans may overlap.
///
/// # Rules of spans
/// Functions that read or write the memory of a span are `unsafe`. Until the function returns, or
/// the work that it enqueues is done, the caller guarantees that
/// - the memory is valid: the [`Arena`](super::Arena), device or array that holds it has not been
///   dropped;
/// - no other access writes memory that is read, or reads or writes memory that is written.
///
/// Levels below the engine rely on these rules and do not enforce them. In the engine the trainer
/// owns the memory, the schedule orders the accesses, and `check` proves the order.
#[derive(Debug, PartialEq, Eq)]
pub struct Span<Side> {
    base: NonNull<u8>,
    bytes: usize,
    side: PhantomData<Side>,
}

/// A span of host memory. Only [`HostSpan::slice`] and [`HostSpan::slice_mut`] require alignment.
pub type HostSpan = Span<side::Host>;

impl<Side> Copy for Span<Side> {}

impl<Side> Clone for Span<Side> {
    fn clone(&self) -> Self {
        *self
    }
}

// SAFETY: an address and a length give no access by themselves; functions that access the memory
// are `unsafe`.
unsafe impl<Side> Send for Span<Side> {}
// SAFETY: no safe method accesses the memory, so sharing a span shares two numbers.
unsafe impl<Side> Sync for Span<Side> {}

impl<Side> Span<Side> {
    /// A span over `bytes` bytes at `base`.
    ///
    /// # Safety
    /// The bytes belong to one allocation on the span's side, and are initialized before they are
    /// read.
    pub unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        Span { base, bytes, side: PhantomData }
    }

    /// The address.
    pub fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The subspan of `bytes` bytes from byte `offset`.
    ///
    /// # Panics
    /// If it exceeds the span.
    pub fn subspan(&self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "a subspan of {bytes} bytes at {offset} exceeds a span of {} bytes",
            self.bytes
        );
        // Pointer arithmetic (`add`) would require live memory, but a span may dangle.
        let base = self.base.map_addr(|address| address.checked_add(offset).expect("the end has an address"));
        Span { base, bytes, side: PhantomData }
    }

    /// The address of the span as a pointer to `elements` elements.
    ///
    /// # Panics
    /// If the span is shorter.
    pub fn first<T>(&self, elements: usize) -> *mut T {
        let bytes = elements.checked_mul(size_of::<T>());
        assert!(
            bytes.is_some_and(|bytes| bytes <= self.bytes),
            "{elements} elements of {} bytes leave a span of {} bytes",
            size_of::<T>(),
            self.bytes
        );
        self.address().cast()
    }
}

/// Types without padding for which every bit pattern is a valid value.
///
/// # Safety
/// The type has no padding and no invalid bit patterns.
pub unsafe trait Plain: Copy + Default + Send + Sync + 'static {}

// SAFETY: zero-sized, so it has no padding and no invalid pattern.
unsafe impl Plain for () {}
// SAFETY: integers and IEEE floats have no padding and no invalid pattern.
unsafe impl Plain for u8 {}
// SAFETY: a 16-bit integer, also the bits of a bf16.
unsafe impl Plain for u16 {}
// SAFETY: a 16-bit integer, also the residual of a split master.
unsafe impl Plain for i16 {}
// SAFETY: a 32-bit integer, also a token.
unsafe impl Plain for i32 {}
// SAFETY: IEEE binary32; NaNs are values too.
unsafe impl Plain for f32 {}
// SAFETY: IEEE binary64; NaNs are values too.
unsafe impl Plain for f64 {}

impl HostSpan {
    /// Copies the first `out.len()` elements of the span to `out`.
    ///
    /// # Panics
    /// If the span is shorter.
    ///
    /// # Safety
    /// [Rules of spans](Span): the caller may read the span.
    pub unsafe fn read<T: Plain>(&self, out: &mut [T]) {
        let from = self.subspan(0, mem::size_of_val(out));
        // SAFETY: `subspan` checked the length; the caller may read the span, so the exclusively
        // borrowed `out` does not overlap it; every bit pattern is a `T`.
        unsafe { ptr::copy_nonoverlapping(from.address(), out.as_mut_ptr().cast(), from.bytes()) }
    }

    /// Copies `values` to the start of the span.
    ///
    /// # Panics
    /// If the span is shorter.
    ///
    /// # Safety
    /// [Rules of spans](Span): the caller may write the span.
    pub unsafe fn write<T: Plain>(&self, values: &[T]) {
        let to = self.subspan(0, mem::size_of_val(values));
        // SAFETY: `subspan` checked the length; the caller may write the span, so the borrowed
        // `values` do not overlap it; a `Plain` has no padding, so all bytes are initialized.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr().cast(), to.address(), to.bytes()) }
    }

    /// The whole span as a slice.
    ///
    /// # Panics
    /// If its length is not a multiple of the element size, or its address is not aligned.
    ///
    /// # Safety
    /// [Rules of spans](Span): the caller may read the span during `'a`.
    pub unsafe fn slice<'a, T: Plain>(&self) -> &'a [T] {
        let (base, count) = self.elements();
        // SAFETY: `elements` checked alignment and length; the caller may read the span; every bit
        // pattern is a `T`.
        unsafe { slice::from_raw_parts(base, count) }
    }

    /// The whole span as a mutable slice.
    ///
    /// # Panics
    /// As [`HostSpan::slice`].
    ///
    /// # Safety
    /// [Rules of spans](Span): the caller may write the span during `'a`.
    pub unsafe fn slice_mut<'a, T: Plain>(&self) -> &'a mut [T] {
        let (base, count) = self.elements();
        // SAFETY: `elements` checked alignment and length; the caller has exclusive access; every
        // bit pattern is a `T`.
        unsafe { slice::from_raw_parts_mut(base, count) }
    }

    fn elements<T: Plain>(&self) -> (*mut T, usize) {
        let size = size_of::<T>();
        // A zero-sized type gives an empty slice.
        let count = self.bytes.checked_div(size).unwrap_or(0);
        assert_eq!(self.bytes, count * size, "the span's length is not a multiple of {size} bytes");
        let base = self.address().cast::<T>();
        assert!(base.is_aligned(), "a span is not aligned to its elements of {size} bytes");
        (base, count)
    }
}
