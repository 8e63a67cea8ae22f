//! Parameters and gradients as f32, in and out of host memory: for import, export and inspection.

use crate::base::{DType, master};
use crate::host::HostSpan;

/// Numbers that are moved at a time: small enough for the stack and the first cache.
const BATCH: usize = 1024;

/// `out[i] = ` the f32 whose halves are the `i`-th of `weights` (bf16) and `residual` (i16).
///
/// # Panics
/// If a span holds fewer numbers than `out`.
pub fn read_master(weights: HostSpan, residual: HostSpan, out: &mut [f32]) {
    let (mut high, mut low) = ([0u16; BATCH], [0i16; BATCH]);
    for (batch, out) in out.chunks_mut(BATCH).enumerate() {
        let (high, low) = (&mut high[..out.len()], &mut low[..out.len()]);
        after(weights, batch * BATCH * 2).read(high);
        after(residual, batch * BATCH * 2).read(low);
        for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
            *out = master::join(*high, *low);
        }
    }
}

/// Splits `values` into `weights` (bf16) and `residual` (i16).
///
/// # Panics
/// If a span holds fewer numbers than `values`.
pub fn write_master(weights: HostSpan, residual: HostSpan, values: &[f32]) {
    let (mut high, mut low) = ([0u16; BATCH], [0i16; BATCH]);
    for (batch, values) in values.chunks(BATCH).enumerate() {
        let (high, low) = (&mut high[..values.len()], &mut low[..values.len()]);
        for ((high, low), value) in high.iter_mut().zip(low.iter_mut()).zip(values) {
            (*high, *low) = master::split(*value);
        }
        after(weights, batch * BATCH * 2).write(high);
        after(residual, batch * BATCH * 2).write(low);
    }
}

/// `out[i] = ` the `i`-th of a gradient stored as `dtype`.
///
/// # Panics
/// If the span holds fewer numbers than `out`.
pub fn read_gradient(gradient: HostSpan, dtype: DType, out: &mut [f32]) {
    match dtype {
        DType::F32 => gradient.read(out),
        DType::Bf16 => {
            let mut stored = [0u16; BATCH];
            for (batch, out) in out.chunks_mut(BATCH).enumerate() {
                let stored = &mut stored[..out.len()];
                after(gradient, batch * BATCH * 2).read(stored);
                for (out, stored) in out.iter_mut().zip(stored) {
                    *out = master::widen(*stored);
                }
            }
        }
    }
}

/// What follows byte `offset` of a span.
fn after(span: HostSpan, offset: usize) -> HostSpan {
    span.part(offset, span.bytes().saturating_sub(offset))
}
