//! Where the heads are in packed rows of queries, keys and values.

use crate::base::Dims;
use crate::device::DeviceSpan;
use crate::ops::cuda::address::{bf16s, f32s, on};
use crate::sys::cuda::bindings::hzk_bf16;

/// H, G and D as launchers take them.
pub(super) fn head_counts(dims: &Dims) -> (i64, i64, i64) {
    (dims.h as i64, dims.g as i64, dims.d as i64)
}

/// Queries, keys and values in the rows of one matrix, all of one stride.
pub(super) struct Heads {
    pub q: *mut hzk_bf16,
    pub k: *mut hzk_bf16,
    pub v: *mut hzk_bf16,
    pub stride: i64,
}

impl Heads {
    pub fn of(qkv: &DeviceSpan, n: usize, dims: &Dims) -> Self {
        let Dims { h, g, d, .. } = *dims;
        let q = bf16s(qkv, n * dims.qkv());
        Heads { q, k: on(q, h * d), v: on(q, (h + g) * d), stride: dims.qkv() as i64 }
    }
}

/// The heads of one kind in packed rows, with what their norm leaves.
pub(super) struct NormedHeads {
    pub base: *mut hzk_bf16,
    pub rstd: *mut f32,
    pub heads: usize,
    pub stride: i64,
}

/// Those of queries, then those of keys.
pub(super) fn both_heads(qkv: &DeviceSpan, rstd: &DeviceSpan, n: usize, dims: &Dims) -> [NormedHeads; 2] {
    let Heads { q, k, stride, .. } = Heads::of(qkv, n, dims);
    let rstd = f32s(rstd, n * (dims.h + dims.g));
    [
        NormedHeads { base: q, rstd, heads: dims.h, stride },
        NormedHeads { base: k, rstd: rstd.wrapping_add(n * dims.h), heads: dims.g, stride },
    ]
}
