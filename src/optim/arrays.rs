//! The streams of a run of parameters: how each number is stored, and how they are gone over.
//!
//! A run is done in blocks of a cache line of 16-bit numbers. Before a block the lines of the block `AHEAD`
//! blocks further on are asked for, because a core that computes looks too few loads ahead by itself to keep
//! memory busy: that is the pipeline, with loads in one stage and arithmetic in the other. Non-temporal stores have
//! nothing to save: what is written was read just before, and its lines are in the cache. The figures behind
//! `AHEAD` and the kind of prefetch are in `benches/results/adam-cpu.md`.

use std::{array, slice};

use super::Spans;
use crate::base::master;
use crate::host::{HostSpan, Plain};

/// Elements of a block: a cache line of 16-bit numbers, two of f32.
pub const BLOCK: usize = 32;
/// Blocks between the one that is computed and the one whose lines are asked for.
const AHEAD: usize = 16;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Arrays of equal length. W and B store parameters, G gradients, S the N arrays of the optimizer's state.
pub struct Arrays<'a, W, B, G, S, const N: usize> {
    /// The parameters, or the upper halves of them.
    pub weights: &'a mut [W],
    /// The residuals of a split master, or the bf16 copy of a whole one.
    pub beside: &'a mut [B],
    pub gradient: &'a [G],
    pub state: [&'a mut [S]; N],
}

impl<'a, W: Plain, B: Plain, G: Plain, S: Plain, const N: usize> Arrays<'a, W, B, G, S, N> {
    /// The spans as slices.
    ///
    /// # Safety
    /// For all of `'a` the caller may read the gradient and write the rest, and no two of the spans overlap.
    pub unsafe fn at(spans: &Spans) -> Self {
        let n = spans.elements();
        let (weights, beside) = spans.master.halves();
        // SAFETY: `numbers` checks length and alignment; the caller gives the weights to write, apart from the other spans.
        let weights = unsafe { slice::from_raw_parts_mut(numbers(weights, n), n) };
        // SAFETY: as for the weights: checked, ours to write, and apart from the other spans.
        let beside = unsafe { slice::from_raw_parts_mut(numbers(beside, n), n) };
        // SAFETY: checked, and the caller keeps writers away.
        let gradient = unsafe { slice::from_raw_parts(numbers(spans.gradient, n), n) };
        let state = array::from_fn(|number| {
            // SAFETY: as for the weights; each array of the state is a span of its own.
            unsafe { slice::from_raw_parts_mut(numbers(spans.state[number], n), n) }
        });
        Arrays { weights, beside, gradient, state }
    }
}

impl<'a, W, B, G, S, const N: usize> Arrays<'a, W, B, G, S, N> {
    /// The first `count` elements, and the others.
    pub fn split_at(self, count: usize) -> (Self, Self) {
        let (weights, weights_after) = self.weights.split_at_mut(count);
        let (beside, beside_after) = self.beside.split_at_mut(count);
        let (gradient, gradient_after) = self.gradient.split_at(count);
        let mut state_after = self.state;
        let state =
            state_after.each_mut().map(|array| array.split_off_mut(..count).expect("as many elements"));
        let after = Arrays {
            weights: weights_after,
            beside: beside_after,
            gradient: gradient_after,
            state: state_after,
        };
        (Arrays { weights, beside, gradient, state }, after)
    }

    /// Does every whole block, asking for lines ahead. Returns what is left over, and the number of its first
    /// element.
    #[inline(always)]
    pub fn by_block(self, body: &impl Body<W, B, G, S, N>) -> (Self, usize) {
        let (weights, weights_rest) = self.weights.as_chunks_mut::<BLOCK>();
        let (beside, beside_rest) = self.beside.as_chunks_mut::<BLOCK>();
        let (gradient, gradient_rest) = self.gradient.as_chunks::<BLOCK>();
        let mut state = self.state;
        let n = weights.len();
        let (beside, gradient) = (&mut beside[..n], &gradient[..n]);
        for at in 0..n {
            ask_ahead(&weights[at]);
            ask_ahead(&beside[at]);
            ask_ahead(&gradient[at]);
            let block = Arrays {
                weights: &mut weights[at],
                beside: &mut beside[at],
                gradient: &gradient[at],
                // Neither `map` nor `each_mut` of an array is sure to be inlined.
                state: array::from_fn(|number| {
                    let block = state[number].split_off_mut(..BLOCK).expect("as many elements");
                    ask_ahead(block);
                    block
                }),
            };
            body.run(block, at * BLOCK);
        }
        let rest = Arrays { weights: weights_rest, beside: beside_rest, gradient: gradient_rest, state };
        (rest, n * BLOCK)
    }
}

/// What is done with the elements of a block. A trait and no closure, because a closure would be compiled without
/// the vectors of the entry that it is used in.
pub trait Body<W, B, G, S, const N: usize> {
    /// Does the elements of `streams`, the first of which has the number `start`. Implementations are
    /// `#[inline(always)]`.
    fn run(&self, streams: Arrays<'_, W, B, G, S, N>, start: usize);
}

/// Asks for the cache lines of the block that stands `AHEAD` blocks after this one, if there is memory.
#[inline(always)]
fn ask_ahead<T>(block: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let ahead = block.as_ptr().cast::<i8>().wrapping_add(AHEAD * size_of_val(block));
        for line in (0..size_of_val(block)).step_by(LINE) {
            // SAFETY: a prefetch reads nothing that the program sees and faults on no address; SSE, whose it is,
            // belongs to every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line)) };
        }
    }
}

/// Where the `n` numbers of a span start.
fn numbers<T: Plain>(span: HostSpan, n: usize) -> *mut T {
    let size = size_of::<T>();
    assert_eq!(span.bytes(), n * size, "bytes of a span of {n} numbers of {size} bytes");
    let base = span.address().cast::<T>();
    assert!(base.is_aligned(), "a span of {size}-byte numbers starts between two of them");
    base
}

/// A parameter in the two streams that keep it.
pub trait MasterWeight {
    /// Its f32 value.
    fn join(self) -> f32;
    /// What is kept of a value.
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

/// A whole master and nothing beside it.
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

/// A whole master and its bf16 copy, which is only written.
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

/// A stored gradient or an element of the state: f32, or bf16 in a `u16`.
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
