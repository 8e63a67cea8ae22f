//! Addresses of device spans, as launchers take them.

use std::ptr::NonNull;

use crate::device::DeviceSpan;
use crate::sys::cuda::bindings::hzk_bf16;

/// The address of a span's first elements.
///
/// # Panics
/// If the span is shorter.
pub(super) fn part<T>(span: &DeviceSpan, elements: usize) -> *mut T {
    let bytes = elements.checked_mul(size_of::<T>());
    assert!(
        bytes.is_some_and(|bytes| bytes <= span.bytes()),
        "{elements} elements of {} bytes leave a span of {} bytes",
        size_of::<T>(),
        span.bytes()
    );
    span.address().cast()
}

pub(super) fn base(span: &DeviceSpan, bytes: usize) -> NonNull<u8> {
    NonNull::new(part(span, bytes)).expect("a span is not null")
}

pub(super) fn bf16s(span: &DeviceSpan, elements: usize) -> *mut hzk_bf16 {
    part(span, elements)
}

pub(super) fn f32s(span: &DeviceSpan, elements: usize) -> *mut f32 {
    part(span, elements)
}

pub(super) fn f64s(span: &DeviceSpan, elements: usize) -> *mut f64 {
    part(span, elements)
}

pub(super) fn i32s(span: &DeviceSpan, elements: usize) -> *mut i32 {
    part(span, elements)
}

/// Elements between an address and one so many elements on, in the same span.
pub(super) fn on(base: *mut hzk_bf16, elements: usize) -> *mut hzk_bf16 {
    base.wrapping_add(elements)
}
