//! The loop of AdamW, compiled for each instruction set.
//!
//! The formula is written once, in plain Rust over slices that cannot overlap; the compiler turns it into
//! vectors of the width that each entry's target features allow. Rust never contracts a multiplication and an
//! addition, square roots and divisions are rounded correctly everywhere, so all versions give the same bits
//! by construction.

use super::AdamScalars;
use super::random::RandomBits;
use super::streams::{Body, Kept, Stored, Streams};
use crate::host::Isa;

/// What a whole call shares.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The numbers of the step.
    pub scalars: AdamScalars,
    /// The clip factor, or 1.
    pub gradient_scale: f32,
    /// Whether weight decay applies.
    pub decay: bool,
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

/// Element by element, for any types of storage. The random bits are for moments that are rounded.
pub struct Elements<'a, W, B, G, M>(pub Streams<'a, W, B, G, M>, pub &'a Step, pub RandomBits);

impl<W: Copy, B: Copy, G: Stored, M: Stored> Pass for Elements<'_, W, B, G, M>
where
    (W, B): Kept,
{
    #[inline(always)]
    fn pass(self) {
        if self.1.decay {
            self.with_decay::<true>();
        } else {
            self.with_decay::<false>();
        }
    }
}

impl<W: Copy, B: Copy, G: Stored, M: Stored> Elements<'_, W, B, G, M>
where
    (W, B): Kept,
{
    #[inline(always)]
    fn with_decay<const DECAY: bool>(self) {
        let Elements(streams, step, random) = self;
        let each = Each::<DECAY>(step, random);
        let (rest, start) = streams.by_block(&each);
        each.run(rest, start);
    }
}

/// One element after the other.
pub struct Each<'a, const DECAY: bool>(pub &'a Step, pub RandomBits);

impl<W: Copy, B: Copy, G: Stored, M: Stored, const DECAY: bool> Body<W, B, G, M> for Each<'_, DECAY>
where
    (W, B): Kept,
{
    #[inline(always)]
    fn run(&self, streams: Streams<'_, W, B, G, M>, start: usize) {
        let Streams { weights, beside, gradient, m, v } = streams;
        let random = self.1.skip(start as u32);
        elements::<W, B, G, M, DECAY>(weights, beside, gradient, m, v, self.0, random);
    }
}

/// Slices are parameters of their own so that the compiler knows that they do not overlap.
#[inline(always)]
fn elements<W: Copy, B: Copy, G: Stored, M: Stored, const DECAY: bool>(
    weights: &mut [W],
    beside: &mut [B],
    gradient: &[G],
    m: &mut [M],
    v: &mut [M],
    step: &Step,
    random: RandomBits,
) where
    (W, B): Kept,
{
    let n = weights.len();
    let (beside, gradient) = (&mut beside[..n], &gradient[..n]);
    let (m, v) = (&mut m[..n], &mut v[..n]);
    for at in 0..n {
        let p = (weights[at], beside[at]).join();
        let (m_new, v_new, p) = element::<DECAY>(gradient[at].value(), m[at].value(), v[at].value(), p, step);
        (weights[at], beside[at]) = <(W, B)>::split(p);
        let (m_bits, v_bits) = if M::ROUNDS { random.of_element(at as u32) } else { (0, 0) };
        m[at] = M::store(m_new, m_bits);
        v[at] = M::store(v_new, v_bits);
    }
}
