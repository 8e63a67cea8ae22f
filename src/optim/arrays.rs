//! The arrays of a run of parameters: how each number is stored, and the loop over blocks with
//! prefetch.
//!
//! A block is a cache line of 16-bit numbers. Before each block the lines of the block `AHEAD`
//! blocks later are prefetched, because a core that computes does not issue enough loads ahead by
//! itself to saturate memory. Non-temporal stores gain nothing: every written line was just read
//! and is in the cache. The measurements behind `AHEAD` and the kind of prefetch are in
//! `benches/results/adam-cpu.md`.

use std::{array, slice};

use super::Spans;
use crate::base::master;
use crate::host::{HostSpan, Plain};

/// Elements of a block: one cache line of 16-bit numbers, two of f32.
pub const BLOCK: usize = 32;
/// Distance in blocks from the computed to the prefetched block.
const AHEAD: usize = 16;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Arrays of equal length. W and B are the storage types of parameters, G of gradients, S of the N
/// arrays of optimizer state.
pub struct Arrays<'a, W, B, G, S, const N: usize> {
    /// The parameters as f32, or their bf16 halves.
    pub weights: &'a mut [W],
    /// The residuals of a split master, or the bf16 copy of a whole one.
    pub extra: &'a mut [B],
    pub gradient: &'a [G],
    pub state: [&'a mut [S]; N],
}

impl<'a, W: Plain, B: Plain, G: Plain, S: Plain, const N: usize> Arrays<'a, W, B, G, S, N> {
    /// Converts spans to slices.
    ///
    /// # Safety
    /// For all of `'a` the caller has shared access to the gradient and exclusive access to the
    /// rest, and no two spans overlap.
    pub unsafe fn at(spans: &Spans) -> Self {
        let n = spans.elements();
        let (weights, extra) = spans.master.halves();
        // SAFETY: `numbers` checks length and alignment; the caller has exclusive access to the weights.
        let weights = unsafe { slice::from_raw_parts_mut(numbers(weights, n), n) };
        // SAFETY: as for the weights.
        let extra = unsafe { slice::from_raw_parts_mut(numbers(extra, n), n) };
        // SAFETY: `numbers` checks length and alignment; the caller keeps writers away.
        let gradient = unsafe { slice::from_raw_parts(numbers(spans.gradient, n), n) };
        let state = array::from_fn(|number| {
            // SAFETY: as for the weights; each state array is a separate span.
            unsafe { slice::from_raw_parts_mut(numbers(spans.state[number], n), n) }
        });
        Arrays { weights, extra, gradient, state }
    }
}

impl<'a, W, B, G, S, const N: usize> Arrays<'a, W, B, G, S, N> {
    /// Splits the arrays after `count` elements.
    pub fn split_at(self, count: usize) -> (Self, Self) {
        let (weights, weights_after) = self.weights.split_at_mut(count);
        let (extra, extra_after) = self.extra.split_at_mut(count);
        let (gradient, gradient_after) = self.gradient.split_at(count);
        let mut state_after = self.state;
        let state =
            state_after.each_mut().map(|array| array.split_off_mut(..count).expect("arrays of equal length"));
        let after = Arrays {
            weights: weights_after,
            extra: extra_after,
            gradient: gradient_after,
            state: state_after,
        };
        (Arrays { weights, extra, gradient, state }, after)
    }

    /// Runs `body` on every whole block, prefetching ahead. Returns the remaining elements and the
    /// number of the first of them.
    #[inline(always)]
    pub fn by_block(self, body: &impl Body<W, B, G, S, N>) -> (Self, usize) {
        let (weights, weights_rest) = self.weights.as_chunks_mut::<BLOCK>();
        let (extra, extra_rest) = self.extra.as_chunks_mut::<BLOCK>();
        let (gradient, gradient_rest) = self.gradient.as_chunks::<BLOCK>();
        let mut state = self.state;
        let n = weights.len();
        let (extra, gradient) = (&mut extra[..n], &gradient[..n]);
        for at in 0..n {
            prefetch_ahead(&weights[at]);
            prefetch_ahead(&extra[at]);
            prefetch_ahead(&gradient[at]);
            let block = Arrays {
                weights: &mut weights[at],
                extra: &mut extra[at],
                gradient: &gradient[at],
                // `map` and `each_mut` of arrays are not reliably inlined.
                state: array::from_fn(|number| {
                    let block = state[number].split_off_mut(..BLOCK).expect("arrays of equal length");
                    prefetch_ahead(block);
                    block
                }),
            };
            body.run(block, at * BLOCK);
        }
        let rest = Arrays { weights: weights_rest, extra: extra_rest, gradient: gradient_rest, state };
        (rest, n * BLOCK)
    }
}

/// The computation on the elements of a block. A trait, because a closure would be compiled without
/// the target features of the function that uses it.
pub trait Body<W, B, G, S, const N: usize> {
    /// Processes the elements of `arrays`; `start` is the number of the first. Implementations are
    /// `#[inline(always)]`.
    fn run(&self, arrays: Arrays<'_, W, B, G, S, N>, start: usize);
}

/// Prefetches the cache lines of the block `AHEAD` blocks after this one, on processors with a
/// prefetch instruction.
#[inline(always)]
fn prefetch_ahead<T>(block: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let ahead = block.as_ptr().cast::<i8>().wrapping_add(AHEAD * size_of_val(block));
        for line in (0..size_of_val(block)).step_by(LINE) {
            // SAFETY: a prefetch changes no program state and accepts any address; every x86-64 has SSE.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line)) };
        }
    }
}

/// Returns the address of the `n` numbers of a span, after checking its length and alignment.
fn numbers<T: Plain>(span: HostSpan, n: usize) -> *mut T {
    let size = size_of::<T>();
    assert_eq!(span.bytes(), n * size, "bytes of a span of {n} numbers of {size} bytes");
    let base = span.address().cast::<T>();
    assert!(base.is_aligned(), "a span of {size}-byte numbers is misaligned");
    base
}

/// A master weight as stored in the two arrays.
pub trait MasterWeight {
    /// Its f32 value.
    fn join(self) -> f32;
    /// Splits a value into its stored form.
    fn split(value: f32) -> Self;
}

/// The split master.
impl MasterWeight for (u16, i16) {
    #[inline(always)]
    fn join(self) -> f32 {
        master::join(self.0, self.1)
    }

    #[inline(always)]
    fn split(value: f32) -> Self {
        master::split(value)
    }
}

/// A whole master without a copy.
impl MasterWeight for (f32, ()) {
    #[inline(always)]
    fn join(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn split(value: f32) -> Self {
        (value, ())
    }
}

/// A whole master and its bf16 copy, which is write-only.
impl MasterWeight for (f32, u16) {
    #[inline(always)]
    fn join(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn split(value: f32) -> Self {
        (value, master::round(value))
    }
}

/// A stored gradient or state element: f32, or bf16 as `u16`.
pub trait Stored: Plain {
    /// True if storing rounds and thus needs random bits.
    const ROUNDS: bool;
    fn value(self) -> f32;
    /// Rounds stochastically. `random` is uniform over 16 bits; it is added below the bf16 bits
    /// before truncation, so the mean of the stored value is `value`.
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
