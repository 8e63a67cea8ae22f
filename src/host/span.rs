//! A piece of host memory, and safe ways to move numbers in and out of it.

use std::mem;
use std::ptr::{self, NonNull};

/// A piece of host memory. A plain address: it owns nothing; the [`Arena`](super::Arena) it was carved from
/// must outlive it.
///
/// # The law of spans
/// Spans carry no borrow. Whoever calls [`read`](HostSpan::read), [`write`](HostSpan::write),
/// [`get`](HostSpan::get) or [`zero`](HostSpan::zero) holds the right to that memory for the length of the
/// call: in the engine the schedule gives that right and `check` proves it. Spans need no alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSpan {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a span is an address and a length; reading or writing through it is `unsafe` and argued there.
unsafe impl Send for HostSpan {}
// SAFETY: as above, a shared span gives no access by itself.
unsafe impl Sync for HostSpan {}

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
    /// A span over `bytes` bytes at `base`.
    ///
    /// # Safety
    /// The memory is allocated, initialised, and outlives every use of the span.
    pub unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        HostSpan { base, bytes }
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
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "a part of {bytes} bytes at {offset} leaves a host span of {} bytes",
            self.bytes
        );
        // SAFETY: `offset` is within the span, so the sum stays inside (or one past) the same allocation.
        let base = unsafe { self.base.add(offset) };
        HostSpan { base, bytes }
    }

    /// The first `out.len()` numbers of the span.
    ///
    /// # Panics
    /// If the span is shorter.
    pub fn read<T: Plain>(&self, out: &mut [T]) {
        let from = self.part(0, mem::size_of_val(out));
        // SAFETY: `part` proved the length; the law of spans gives the right to read; a slice borrowed
        // mutably cannot lie in memory that the caller may read through a span; every pattern is a `T`.
        unsafe { ptr::copy_nonoverlapping(from.address(), out.as_mut_ptr().cast(), from.bytes()) }
    }

    /// Sets the first `values.len()` numbers of the span.
    ///
    /// # Panics
    /// If the span is shorter.
    pub fn write<T: Plain>(&self, values: &[T]) {
        let to = self.part(0, mem::size_of_val(values));
        // SAFETY: `part` proved the length; the law of spans gives the right to write, which nobody has over
        // memory that is borrowed as a slice; a `Plain` has no padding, so whole bytes are copied.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr().cast(), to.address(), to.bytes()) }
    }

    /// Copies another span, as long as this one, which it does not meet.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy(&self, from: HostSpan) {
        assert_eq!(self.bytes, from.bytes, "a copy is as long as what it is of");
        // SAFETY: the lengths are equal; the law of spans gives the right to read the one and to write the other, which
        // nobody has at a time over memory that both name.
        unsafe { ptr::copy_nonoverlapping(from.address(), self.address(), self.bytes) }
    }

    /// Number `index` of the span, taken as an array of `T`.
    ///
    /// # Panics
    /// If it lies beyond the end.
    pub fn get<T: Plain>(&self, index: usize) -> T {
        let mut value = [T::default()];
        self.part(index * mem::size_of::<T>(), mem::size_of::<T>()).read(&mut value);
        value[0]
    }

    /// Sets every byte to zero.
    pub fn zero(&self) {
        // SAFETY: the span's own length; the law of spans gives the right to write.
        unsafe { ptr::write_bytes(self.address(), 0, self.bytes) }
    }
}
