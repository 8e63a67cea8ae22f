//! Addresses of the query, key and value heads in packed rows.

use crate::device::DeviceSpan;
use crate::ops::cuda::address::{bf16s, f32s, on};
use crate::ops::{Heads, NormSpan};
use crate::sys::cuda::bindings::hzk_bf16;

impl Heads {
    /// H, G and D as launchers take them.
    pub(in crate::ops) fn counts(&self) -> (i64, i64, i64) {
        (self.h as i64, self.g as i64, self.d as i64)
    }
}

/// The first query, key and value head in packed rows; all have the same stride.
pub(in crate::ops) struct HeadColumns {
    pub q: *mut hzk_bf16,
    pub k: *mut hzk_bf16,
    pub v: *mut hzk_bf16,
    pub stride: i64,
}

impl HeadColumns {
    pub fn of(qkv: &DeviceSpan, n: usize, heads: &Heads) -> Self {
        let Heads { h, g, d } = *heads;
        let q = bf16s(qkv, n * heads.qkv());
        HeadColumns { q, k: on(q, h * d), v: on(q, (h + g) * d), stride: heads.qkv() as i64 }
    }
}

/// The query heads or the key heads of packed rows, and their `rstd`.
pub(in crate::ops) struct NormedHeads {
    pub base: *mut hzk_bf16,
    pub rstd: *mut f32,
    /// Spans of a row that are normalised alone.
    pub spans: usize,
    /// Columns of a span.
    pub width: usize,
    pub stride: i64,
}

/// The query heads and the key heads.
pub(in crate::ops) fn both_heads(
    qkv: &DeviceSpan,
    rstd: &DeviceSpan,
    span: NormSpan,
    n: usize,
    heads: &Heads,
) -> [NormedHeads; 2] {
    let HeadColumns { q, k, stride, .. } = HeadColumns::of(qkv, n, heads);
    let rstd = f32s(rstd, n * span.spans(heads));
    let [(q_spans, q_width), (k_spans, k_width)] = span.counts(heads);
    [
        NormedHeads { base: q, rstd, spans: q_spans, width: q_width, stride },
        NormedHeads { base: k, rstd: rstd.wrapping_add(n * q_spans), spans: k_spans, width: k_width, stride },
    ]
}
