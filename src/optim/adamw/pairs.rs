//! The loop of mode `compact`, whose arrays are all 16 bits wide: two elements per 32-bit word.
//!
//! Compact moves so few bytes that arithmetic would be the bottleneck. In 32-bit words the upper
//! bf16 is already an f32 after masking and the lower one after a shift, so vectors need no
//! widening, narrowing or packing, and one draw of 32 random bits serves both elements. The bits
//! are those of [`super::elements`].

use std::mem;

use super::super::arrays::{Arrays, Body};
use super::super::isa::Pass;
use super::super::random::RandomBits;
use super::{Each, Step, element};

/// The five arrays, all of 16-bit numbers.
type Halves<'a> = Arrays<'a, u16, i16, u16, u16, 2>;

/// The pass of such arrays.
pub struct Pairs<'a>(pub Halves<'a>, pub &'a Step<'a>, pub RandomBits);

impl Pass for Pairs<'_> {
    #[inline(always)]
    fn pass(self) {
        if self.1.decay {
            self.with_decay::<true>();
        } else {
            self.with_decay::<false>();
        }
    }
}

impl Pairs<'_> {
    #[inline(always)]
    fn with_decay<const DECAY: bool>(self) {
        let Pairs(arrays, step, random) = self;
        // Pairs start at even element indices; single elements before and after them are processed
        // separately.
        let head = random.before_pair().min(arrays.weights.len());
        let (single, arrays) = arrays.split_at(head);
        Each::<DECAY>(step, random).run(single, 0);
        let random = random.skip(head as u32);
        let (rest, start) = arrays.by_block(&EachTwo::<DECAY>(step, random));
        Each::<DECAY>(step, random).run(rest, start);
    }
}

/// The body of [`Pairs`].
struct EachTwo<'a, const DECAY: bool>(&'a Step<'a>, RandomBits);

impl<const DECAY: bool> Body<u16, i16, u16, u16, 2> for EachTwo<'_, DECAY> {
    #[inline(always)]
    fn run(&self, arrays: Halves<'_>, start: usize) {
        let Halves { weights, extra, gradient, state: [m, v] } = arrays;
        let EachTwo(step, random) = *self;
        pairs(
            weights.as_chunks_mut().0,
            extra.as_chunks_mut().0,
            gradient.as_chunks().0,
            m.as_chunks_mut().0,
            v.as_chunks_mut().0,
            &EachTwo::<DECAY>(step, random.skip(start as u32)),
        );
    }
}

/// Slices are separate parameters, so that the compiler knows that they do not overlap.
#[inline(always)]
fn pairs<const DECAY: bool>(
    weights: &mut [[u16; 2]],
    residual: &mut [[i16; 2]],
    gradient: &[[u16; 2]],
    m: &mut [[u16; 2]],
    v: &mut [[u16; 2]],
    EachTwo(step, random): &EachTwo<DECAY>,
) {
    let n = weights.len();
    let (residual, gradient) = (&mut residual[..n], &gradient[..n]);
    let (m, v) = (&mut m[..n], &mut v[..n]);
    for at in 0..n {
        let (w, r) = (word(weights[at]), word(residual[at].map(i16::cast_unsigned)));
        let (g, m_old, v_old) = (word(gradient[at]), word(m[at]), word(v[at]));
        // Sign-extend the i16 residual in the lower half; shift down the one in the upper half.
        let p_low = (w << 16).wrapping_add(((r << 16) as i32 >> 16) as u32);
        let p_high = (w & HIGH).wrapping_add((r as i32 >> 16) as u32);
        let (m_low, v_low, p_low) =
            element::<DECAY>(low(g), low(m_old), low(v_old), f32::from_bits(p_low), step);
        let (m_high, v_high, p_high) =
            element::<DECAY>(high(g), high(m_old), high(v_old), f32::from_bits(p_high), step);
        let (p_low, p_high) = (p_low.to_bits(), p_high.to_bits());
        weights[at] = halves(cut(p_low, 0x8000, p_high, 0x8000));
        residual[at] = signed_halves(p_low & LOW | p_high << 16);
        let bits = random.of_pair(at as u32);
        m[at] = halves(cut(m_low.to_bits(), bits & LOW, m_high.to_bits(), bits >> 16));
        v[at] = halves(cut(v_low.to_bits(), bits >> 16, v_high.to_bits(), bits & LOW));
    }
}

const LOW: u32 = 0xffff;
const HIGH: u32 = 0xffff_0000;

/// The bf16 in the lower half of a word.
#[inline(always)]
fn low(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

/// The bf16 in the upper half of a word.
#[inline(always)]
fn high(word: u32) -> f32 {
    f32::from_bits(word & HIGH)
}

/// Adds the rounding terms to two f32 patterns and truncates them to bf16.
#[inline(always)]
fn cut(low: u32, low_rounding: u32, high: u32, high_rounding: u32) -> u32 {
    low.wrapping_add(low_rounding) >> 16 | high.wrapping_add(high_rounding) & HIGH
}

/// Loads a pair as one word, its first number in the lower half.
#[inline(always)]
fn word(pair: [u16; 2]) -> u32 {
    // SAFETY: both types are four bytes without padding or invalid patterns.
    in_order(unsafe { mem::transmute::<[u16; 2], u32>(pair) })
}

/// The inverse of [`word`], as one store: two separate stores would make the compiler interleave
/// vectors.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    // SAFETY: both types are four bytes; any bits are two valid integers.
    unsafe { mem::transmute::<u32, [u16; 2]>(in_order(word)) }
}

/// [`halves`] for residuals.
#[inline(always)]
fn signed_halves(word: u32) -> [i16; 2] {
    // SAFETY: both types are four bytes; any bits are two valid signed integers.
    unsafe { mem::transmute::<u32, [i16; 2]>(in_order(word)) }
}

#[inline(always)]
fn in_order(word: u32) -> u32 {
    if cfg!(target_endian = "little") { word } else { word.rotate_left(16) }
}
