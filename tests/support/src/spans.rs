//! The memory of spans, for tests: whoever calls has kept it and is alone with it.

use horizon::host::{HostSpan, Plain, Pool};
use horizon::ops::{Kernels, Op};
use horizon::optim::{self, Spans, Step};

/// All numbers of a span.
pub fn numbers<T: Plain>(span: HostSpan) -> Vec<T> {
    let mut out = vec![T::default(); span.bytes() / size_of::<T>()];
    // SAFETY: as said at the top.
    unsafe { span.read(&mut out) };
    out
}

/// Sets the first numbers of a span.
pub fn set<T: Plain>(span: HostSpan, values: &[T]) {
    // SAFETY: as said at the top.
    unsafe { span.write(values) }
}

/// Sets every byte of a span to zero.
pub fn zero(span: HostSpan) {
    set(span, &vec![0u8; span.bytes()]);
}

/// The f32 masters of two spans of halves.
pub fn read_master(weights: HostSpan, residual: HostSpan) -> Vec<f32> {
    let mut out = vec![0.0; weights.bytes() / 2];
    // SAFETY: as said at the top.
    optim::read_master(unsafe { weights.slice() }, unsafe { residual.slice() }, &mut out);
    out
}

/// Splits masters into two spans of halves.
pub fn write_master(weights: HostSpan, residual: HostSpan, values: &[f32]) {
    // SAFETY: as said at the top, and the two are apart.
    optim::write_master(unsafe { weights.slice_mut() }, unsafe { residual.slice_mut() }, values);
}

/// One step of an optimizer.
pub fn update(pool: &Pool, spans: &Spans, step: &Step) {
    // SAFETY: as said at the top; tests give each span memory of its own.
    unsafe { optim::update(pool, spans, step) }
}

/// Runs an op.
pub fn run(kernels: &dyn Kernels, op: &Op) {
    // SAFETY: as said at the top; what an op counts by is in the test's own numbers.
    unsafe { kernels.run(op) }
}
