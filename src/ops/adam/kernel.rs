//! The one loop of AdamW, compiled for each instruction set.
//!
//! The loop is written once, in plain Rust over slices that cannot overlap; the compiler turns it into vectors
//! of the width that each entry's target features allow. Rust never contracts a multiplication and an
//! addition, square roots and divisions are rounded correctly everywhere, so all versions give the same bits
//! by construction and there is one formula to read.

use std::slice;

use super::{AdamScalars, AdamSpans};
use crate::base::{DType, master};
use crate::host::{HostSpan, Isa, Plain};

/// What a whole call shares.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub scalars: AdamScalars,
    pub gradient_scale: f32,
    pub decay: bool,
}

/// Updates the elements of `spans` on this thread. `isa` is one that this processor has.
pub fn run(isa: Isa, spans: &AdamSpans, step: &Step) {
    let n = spans.elements();
    let gradient_bytes = n * spans.gradient_dtype.bytes();
    let lengths = [spans.residual.bytes(), spans.gradient.bytes(), spans.m.bytes(), spans.v.bytes()];
    assert_eq!(lengths, [2 * n, gradient_bytes, 4 * n, 4 * n], "residual, gradient, m, v of {n} weights");
    let weights = numbers::<u16>(spans.weights);
    let residual = numbers::<i16>(spans.residual);
    let (m, v) = (numbers::<f32>(spans.m), numbers::<f32>(spans.v));
    // SAFETY: the length is asserted above, alignment by `numbers`; the law of spans gives this call alone the
    // weights to write, and spans of one call lie in memory of their own.
    let weights = unsafe { slice::from_raw_parts_mut(weights, n) };
    // SAFETY: as for the weights, with as many numbers of the same size.
    let residual = unsafe { slice::from_raw_parts_mut(residual, n) };
    // SAFETY: as for the weights; `4 * n` bytes were asserted for the first moment.
    let m = unsafe { slice::from_raw_parts_mut(m, n) };
    // SAFETY: as for the weights; `4 * n` bytes were asserted for the second moment.
    let v = unsafe { slice::from_raw_parts_mut(v, n) };
    match spans.gradient_dtype {
        DType::Bf16 => {
            // SAFETY: `2 * n` bytes were asserted, and the law of spans keeps writers away during the call.
            let gradient = unsafe { slice::from_raw_parts(numbers::<u16>(spans.gradient), n) };
            by_isa(isa, Slices { weights, residual, gradient, m, v }, step);
        }
        DType::F32 => {
            // SAFETY: `4 * n` bytes were asserted, and the law of spans keeps writers away during the call.
            let gradient = unsafe { slice::from_raw_parts(numbers::<f32>(spans.gradient), n) };
            by_isa(isa, Slices { weights, residual, gradient, m, v }, step);
        }
    }
}

/// Where the numbers of a span start.
fn numbers<T: Plain>(span: HostSpan) -> *mut T {
    let base = span.address().cast::<T>();
    assert!(base.is_aligned(), "a span of {}-byte numbers starts between two of them", size_of::<T>());
    base
}

struct Slices<'a, G> {
    weights: &'a mut [u16],
    residual: &'a mut [i16],
    gradient: &'a [G],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

/// A stored gradient.
trait Gradient: Copy {
    fn value(self) -> f32;
}

impl Gradient for u16 {
    #[inline(always)]
    fn value(self) -> f32 {
        master::widen(self)
    }
}

impl Gradient for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

fn by_isa<G: Gradient>(isa: Isa, slices: Slices<G>, step: &Step) {
    match isa {
        Isa::Portable => portable(slices, step),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller says that this processor has AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2(slices, step) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller says that this processor has AVX-512 F, BW, DQ and VL.
        Isa::Avx512 => unsafe { avx512(slices, step) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => unreachable!("no processor of this architecture has {isa}"),
    }
}

fn portable<G: Gradient>(slices: Slices<G>, step: &Step) {
    by_decay(slices, step);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<G: Gradient>(slices: Slices<G>, step: &Step) {
    by_decay(slices, step);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<G: Gradient>(slices: Slices<G>, step: &Step) {
    by_decay(slices, step);
}

#[inline(always)]
fn by_decay<G: Gradient>(slices: Slices<G>, step: &Step) {
    let Slices { weights, residual, gradient, m, v } = slices;
    if step.decay {
        elements::<G, true>(weights, residual, gradient, m, v, step);
    } else {
        elements::<G, false>(weights, residual, gradient, m, v, step);
    }
}

/// The formula of the module, element by element.
#[inline(always)]
fn elements<G: Gradient, const DECAY: bool>(
    weights: &mut [u16],
    residual: &mut [i16],
    gradient: &[G],
    m: &mut [f32],
    v: &mut [f32],
    step: &Step,
) {
    let AdamScalars { gain1, gain2, rate, inv_sqrt_bias2, eps, decay } = step.scalars;
    let n = weights.len();
    let (residual, gradient) = (&mut residual[..n], &gradient[..n]);
    let (m, v) = (&mut m[..n], &mut v[..n]);
    for at in 0..n {
        let g = gradient[at].value() * step.gradient_scale;
        let m_new = m[at] + gain1 * (g - m[at]);
        let v_new = v[at] + gain2 * (g * g - v[at]);
        let p = master::join(weights[at], residual[at]);
        let mut change = rate * m_new / (v_new.sqrt() * inv_sqrt_bias2 + eps);
        if DECAY {
            change += decay * p;
        }
        let (weight, rest) = master::split(p - change);
        weights[at] = weight;
        residual[at] = rest;
        m[at] = m_new;
        v[at] = v_new;
    }
}
