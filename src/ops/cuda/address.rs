//! Raw addresses of device spans for kernel launchers. Each function panics if the span is too
//! short.

use std::ptr::NonNull;

use crate::device::DeviceSpan;
use crate::sys::cuda::bindings::hzk_bf16;

pub(in crate::ops) fn base(span: &DeviceSpan, bytes: usize) -> NonNull<u8> {
    NonNull::new(span.first(bytes)).expect("a span is not null")
}

pub(in crate::ops) fn bf16s(span: &DeviceSpan, elements: usize) -> *mut hzk_bf16 {
    span.first(elements)
}

pub(in crate::ops) fn f32s(span: &DeviceSpan, elements: usize) -> *mut f32 {
    span.first(elements)
}

pub(in crate::ops) fn f64s(span: &DeviceSpan, elements: usize) -> *mut f64 {
    span.first(elements)
}

pub(in crate::ops) fn i32s(span: &DeviceSpan, elements: usize) -> *mut i32 {
    span.first(elements)
}

/// The address `elements` elements after `base`, in the same span.
pub(in crate::ops) fn on(base: *mut hzk_bf16, elements: usize) -> *mut hzk_bf16 {
    base.wrapping_add(elements)
}
