//! A piece of memory as plain data: an address and a length.

use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};
use std::slice;

/// The memory that a [`Span`] is of.
pub mod side {
    /// Memory of this process.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Host {}

    /// Memory of a device. On the CPU device it is this process's, too.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Device {}
}

/// An address and a length. It owns nothing and borrows nothing: it may outlive its memory, and several may name the same.
///
/// # The law of spans
/// A function that reads or writes the memory of a span is `unsafe`. Its caller sees to it that, until it returns or the work
/// that it queues is done,
/// - the memory is there: the [`Arena`](super::Arena), device or array that the span is of has not been dropped;
/// - nobody else writes what it reads, or reads or writes what it writes.
///
/// Below the engine nobody decides this. In the engine the trainer owns the memory, the schedule orders the accesses, and
/// `check` proves the order.
#[derive(Debug, PartialEq, Eq)]
pub struct Span<Side> {
    base: NonNull<u8>,
    bytes: usize,
    side: PhantomData<Side>,
}

/// Host memory. Spans need no alignment, but for [`HostSpan::slice`] and [`HostSpan::slice_mut`].
pub type HostSpan = Span<side::Host>;

impl<Side> Copy for Span<Side> {}

impl<Side> Clone for Span<Side> {
    fn clone(&self) -> Self {
        *self
    }
}

// SAFETY: an address and a length give no access by themselves; what does is `unsafe` and argued there.
unsafe impl<Side> Send for Span<Side> {}
// SAFETY: no safe method looks at the memory, so sharing a span shares two numbers.
unsafe impl<Side> Sync for Span<Side> {}

impl<Side> Span<Side> {
    /// A span over `bytes` bytes at `base`.
    ///
    /// # Safety
    /// The bytes are of one allocation of the span's side, and initialised before they are read.
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

    /// The part from byte `offset`, `bytes` long.
    ///
    /// # Panics
    /// If the part leaves the span.
    pub fn subspan(&self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "a part of {bytes} bytes at {offset} leaves a span of {} bytes",
            self.bytes
        );
        // No pointer arithmetic that presumes the memory: it may be gone.
        let base = self.base.map_addr(|address| address.checked_add(offset).expect("the end has an address"));
        Span { base, bytes, side: PhantomData }
    }

    /// The address of the first elements.
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

/// Numbers without padding of which every bit pattern is a value.
///
/// # Safety
/// Implemented for such types only.
pub unsafe trait Plain: Copy + Default + Send + Sync + 'static {}

// SAFETY: no bytes at all, so none is padding or invalid.
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
    /// Copies the first `out.len()` numbers of the span out of it.
    ///
    /// # Panics
    /// If the span is shorter.
    ///
    /// # Safety
    /// The law of spans: the caller may read it.
    pub unsafe fn read<T: Plain>(&self, out: &mut [T]) {
        let from = self.subspan(0, mem::size_of_val(out));
        // SAFETY: `part` proved the length; the caller may read the span, in which no slice that is borrowed mutably can lie;
        // every pattern is a `T`.
        unsafe { ptr::copy_nonoverlapping(from.address(), out.as_mut_ptr().cast(), from.bytes()) }
    }

    /// Sets the first `values.len()` numbers of the span.
    ///
    /// # Panics
    /// If the span is shorter.
    ///
    /// # Safety
    /// The law of spans: the caller may write it.
    pub unsafe fn write<T: Plain>(&self, values: &[T]) {
        let to = self.subspan(0, mem::size_of_val(values));
        // SAFETY: `part` proved the length; the caller may write the span, in which no borrowed slice can lie; a `Plain` has no
        // padding, so whole bytes are copied.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr().cast(), to.address(), to.bytes()) }
    }

    /// The whole span as numbers.
    ///
    /// # Panics
    /// If its length is no whole number of them, or its address not aligned to them.
    ///
    /// # Safety
    /// The law of spans: the caller may read it for all of `'a`.
    pub unsafe fn slice<'a, T: Plain>(&self) -> &'a [T] {
        let (base, count) = self.numbers();
        // SAFETY: aligned and of that length, as `numbers` checked; the caller may read it; every pattern is a `T`.
        unsafe { slice::from_raw_parts(base, count) }
    }

    /// The whole span as numbers to write.
    ///
    /// # Panics
    /// As [`HostSpan::slice`].
    ///
    /// # Safety
    /// The law of spans: the caller may write it for all of `'a`.
    pub unsafe fn slice_mut<'a, T: Plain>(&self) -> &'a mut [T] {
        let (base, count) = self.numbers();
        // SAFETY: aligned and of that length, as `numbers` checked; it is the caller's alone; every pattern is a `T`.
        unsafe { slice::from_raw_parts_mut(base, count) }
    }

    fn numbers<T: Plain>(&self) -> (*mut T, usize) {
        let size = size_of::<T>();
        // Of no bytes there are as many as anybody likes.
        let count = self.bytes.checked_div(size).unwrap_or(0);
        assert_eq!(self.bytes, count * size, "bytes of a span of {size}-byte numbers");
        let base = self.address().cast::<T>();
        assert!(base.is_aligned(), "a span of {size}-byte numbers starts between two of them");
        (base, count)
    }
}
