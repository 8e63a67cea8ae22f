//! Safe access to the memory of spans, for tests. Tests own the memory of their spans and use it
//! from one thread.

use horizon::host::{HostSpan, Plain, Pool};
use horizon::ops::{Kernels, Op};
use horizon::optim::{self, Spans, Step};

/// All numbers of a span.
pub fn numbers<T: Plain>(span: HostSpan) -> Vec<T> {
    let mut out = vec![T::default(); span.bytes() / size_of::<T>()];
    // SAFETY: the test owns the memory; see the module.
    unsafe { span.read(&mut out) };
    out
}

/// Writes the first numbers of a span.
pub fn set<T: Plain>(span: HostSpan, values: &[T]) {
    // SAFETY: the test owns the memory; see the module.
    unsafe { span.write(values) }
}

/// Sets every byte of a span to zero.
pub fn zero(span: HostSpan) {
    set(span, &vec![0u8; span.bytes()]);
}

/// Joins the f32 masters of weights and residuals.
pub fn read_master(weights: HostSpan, residual: HostSpan) -> Vec<f32> {
    let mut out = vec![0.0; weights.bytes() / 2];
    // SAFETY: the test owns the memory; see the module.
    optim::read_master(unsafe { weights.slice() }, unsafe { residual.slice() }, &mut out);
    out
}

/// Splits masters into weights and residuals.
pub fn write_master(weights: HostSpan, residual: HostSpan, values: &[f32]) {
    // SAFETY: the test owns the memory; see the module. The two spans are disjoint.
    optim::write_master(unsafe { weights.slice_mut() }, unsafe { residual.slice_mut() }, values);
}

/// One step of an optimizer.
pub fn update(pool: &Pool, spans: &Spans, step: &Step) {
    // SAFETY: the test owns the memory; see the module. Tests use disjoint spans.
    unsafe { optim::update(pool, spans, step) }
}

/// Runs an op.
pub fn run(kernels: &dyn Kernels, op: &Op) {
    // SAFETY: the test owns the memory; see the module. Tokens, rows and positions are within range.
    unsafe { kernels.run(op) }
}
