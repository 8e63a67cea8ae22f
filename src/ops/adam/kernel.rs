//! The loop of AdamW, compiled for each instruction set.
//!
//! The formula is written once, in plain Rust over slices that cannot overlap; the compiler turns it into
//! vectors of the width that each entry's target features allow. Rust never contracts a multiplication and an
//! addition, square roots and divisions are rounded correctly everywhere, so all versions give the same bits
//! by construction.
//!
//! Memory is left to the hardware. Every stream but the gradient is written where it was read, so a store finds
//! its line in the cache and non-temporal stores would save nothing. Software prefetch was measured and left
//! out: 256 to 4096 elements ahead it gave 50 to 85 % of the memory probe of `benches/adam.rs`, without it 85
//! to 100 % (one Zen 4 core, AVX-512, by processor time); five rising streams are what hardware prefetchers
//! know best.

use std::slice;

use super::pairs::Pairs;
use super::random::RandomBits;
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

/// Updates the elements of `spans` on this thread. `isa` is one that this processor has. With the random bits
/// of these elements the moments are bf16; without they are f32.
pub fn run(isa: Isa, spans: &AdamSpans, step: &Step, random: Option<RandomBits>) {
    let none = RandomBits::default();
    match (spans.gradient_dtype, random) {
        (DType::Bf16, None) => by_isa(isa, Elements(slices::<u16, f32>(spans), step, none)),
        (DType::F32, None) => by_isa(isa, Elements(slices::<f32, f32>(spans), step, none)),
        (DType::Bf16, Some(random)) => by_isa(isa, Pairs(slices(spans), step, random)),
        (DType::F32, Some(random)) => by_isa(isa, Elements(slices::<f32, u16>(spans), step, random)),
    }
}

/// The streams of a run of parameters: G is how gradients are stored, M how moments are.
pub struct Slices<'a, G, M> {
    pub weights: &'a mut [u16],
    pub residual: &'a mut [i16],
    pub gradient: &'a [G],
    pub m: &'a mut [M],
    pub v: &'a mut [M],
}

/// The spans as slices. The law of spans bounds `'a`: the call that got the spans.
fn slices<'a, G: Plain, M: Plain>(spans: &AdamSpans) -> Slices<'a, G, M> {
    let n = spans.elements();
    // SAFETY: `numbers` checks length and alignment; the law of spans gives the call the weights to write, and
    // the layout keeps every other span of the call apart from them.
    let weights = unsafe { slice::from_raw_parts_mut(numbers(spans.weights, n), n) };
    // SAFETY: as for the weights: checked, ours to write, and apart from the other four.
    let residual = unsafe { slice::from_raw_parts_mut(numbers(spans.residual, n), n) };
    // SAFETY: checked, and the law of spans keeps writers away during the call.
    let gradient = unsafe { slice::from_raw_parts(numbers(spans.gradient, n), n) };
    // SAFETY: as for the weights; the first moment is nobody else's.
    let m = unsafe { slice::from_raw_parts_mut(numbers(spans.m, n), n) };
    // SAFETY: as for the weights; the second moment is nobody else's.
    let v = unsafe { slice::from_raw_parts_mut(numbers(spans.v, n), n) };
    Slices { weights, residual, gradient, m, v }
}

/// Where the `n` numbers of a span start.
pub fn numbers<T: Plain>(span: HostSpan, n: usize) -> *mut T {
    let size = size_of::<T>();
    assert_eq!(span.bytes(), n * size, "bytes of a span of {n} numbers of {size} bytes");
    let base = span.address().cast::<T>();
    assert!(base.is_aligned(), "a span of {size}-byte numbers starts between two of them");
    base
}

/// A stored number: f32, or bf16 in a `u16`.
pub trait Stored: Plain {
    /// Whether storing rounds, so that random bits are wanted.
    const ROUNDS: bool;
    fn value(self) -> f32;
    /// `random` is uniform over 16 bits. Adding it below the bf16 and cutting off rounds up as often as the
    /// part that is cut off asks for: the mean of what is stored is the value.
    fn store(value: f32, random: u32) -> Self;
}

impl Stored for u16 {
    const ROUNDS: bool = true;

    #[inline(always)]
    fn value(self) -> f32 {
        master::widen(self)
    }

    #[inline(always)]
    fn store(value: f32, random: u32) -> u16 {
        (value.to_bits().wrapping_add(random) >> 16) as u16
    }
}

impl Stored for f32 {
    const ROUNDS: bool = false;

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32, _random: u32) -> f32 {
        value
    }
}

/// A way over a run of parameters, compiled into each instruction set's entry.
pub trait Pass {
    /// Does it. Implementations are `#[inline(always)]`: only inside an entry are there its vectors.
    fn pass(self);
}

/// Compiled for an instruction set that this processor has.
pub fn by_isa(isa: Isa, pass: impl Pass) {
    match isa {
        Isa::Portable => portable(pass),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller says that this processor has AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2(pass) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller says that this processor has AVX-512 F, BW, DQ and VL.
        Isa::Avx512 => unsafe { avx512(pass) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => unreachable!("no processor of this architecture has {isa}"),
    }
}

fn portable(pass: impl Pass) {
    pass.pass();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(pass: impl Pass) {
    pass.pass();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(pass: impl Pass) {
    pass.pass();
}

/// The formula of the module for one element: gradient as stored, m, v, p; new m, v, p.
#[inline(always)]
pub fn element<const DECAY: bool>(g: f32, m: f32, v: f32, p: f32, step: &Step) -> (f32, f32, f32) {
    let AdamScalars { gain1, gain2, rate, inv_sqrt_bias2, eps, decay } = step.scalars;
    let g = g * step.gradient_scale;
    let m = m + gain1 * (g - m);
    let v = v + gain2 * (g * g - v);
    let mut change = rate * m / (v.sqrt() * inv_sqrt_bias2 + eps);
    if DECAY {
        change += decay * p;
    }
    (m, v, p - change)
}

/// Element by element, for any types of storage.
struct Elements<'a, G, M>(Slices<'a, G, M>, &'a Step, RandomBits);

impl<G: Stored, M: Stored> Pass for Elements<'_, G, M> {
    #[inline(always)]
    fn pass(self) {
        let Elements(Slices { weights, residual, gradient, m, v }, step, random) = self;
        if step.decay {
            elements::<G, M, true>(weights, residual, gradient, m, v, step, random);
        } else {
            elements::<G, M, false>(weights, residual, gradient, m, v, step, random);
        }
    }
}

/// Slices are parameters of their own so that the compiler knows that they do not overlap.
#[inline(always)]
pub fn elements<G: Stored, M: Stored, const DECAY: bool>(
    weights: &mut [u16],
    residual: &mut [i16],
    gradient: &[G],
    m: &mut [M],
    v: &mut [M],
    step: &Step,
    random: RandomBits,
) {
    let n = weights.len();
    let (residual, gradient) = (&mut residual[..n], &gradient[..n]);
    let (m, v) = (&mut m[..n], &mut v[..n]);
    for at in 0..n {
        let (g, p) = (gradient[at].value(), master::join(weights[at], residual[at]));
        let (m_new, v_new, p) = element::<DECAY>(g, m[at].value(), v[at].value(), p, step);
        (weights[at], residual[at]) = master::split(p);
        let (m_bits, v_bits) = if M::ROUNDS { random.of_element(at as u32) } else { (0, 0) };
        m[at] = M::store(m_new, m_bits);
        v[at] = M::store(v_new, v_bits);
    }
}
