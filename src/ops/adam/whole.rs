//! AdamW on masters that are whole f32 numbers, as other trainers keep them.

use std::slice;

use super::kernel::{Pass, Step, Stored, by_isa, element, numbers};
use super::{AdamScalars, TILE, chosen};
use crate::base::{DType, master};
use crate::host::{HostSpan, Isa, Plain, Pool};

/// The memory of a run of parameters whose masters are whole, all of the same number of elements.
#[derive(Clone, Copy, Debug)]
pub struct WholeSpans {
    /// f32: in and out.
    pub params: HostSpan,
    /// Where the new parameters go as bf16, rounded as the weights of a split master are. Out.
    pub copy: Option<HostSpan>,
    /// The gradient, before the scale. In.
    pub gradient: HostSpan,
    /// How the gradient is stored.
    pub gradient_dtype: DType,
    /// First moment, f32: in and out.
    pub m: HostSpan,
    /// Second moment, f32: in and out.
    pub v: HostSpan,
}

impl WholeSpans {
    /// How many parameters they are.
    pub fn elements(&self) -> usize {
        self.params.bytes() / 4
    }

    fn part(&self, start: usize, count: usize) -> WholeSpans {
        let gradient = self.gradient_dtype.bytes();
        WholeSpans {
            params: self.params.part(start * 4, count * 4),
            copy: self.copy.map(|copy| copy.part(start * 2, count * 2)),
            gradient: self.gradient.part(start * gradient, count * gradient),
            gradient_dtype: self.gradient_dtype,
            m: self.m.part(start * 4, count * 4),
            v: self.v.part(start * 4, count * 4),
        }
    }
}

/// [`update`](super::update) for whole masters: the same formula, the same bits as joining, updating and splitting.
/// 28 bytes of traffic a parameter with an f32 gradient, 26 with a bf16 one, and 2 more for the copy.
///
/// # Panics
/// If a span has another length than the parameters' elements ask for, or does not start on one of its elements.
pub fn update_whole(
    pool: &Pool,
    spans: &WholeSpans,
    scalars: &AdamScalars,
    gradient_scale: f32,
    decay: bool,
) {
    update_whole_with(chosen(), pool, spans, scalars, gradient_scale, decay);
}

/// As [`update_whole`], with the instruction set chosen by the caller: for tests and measurements.
///
/// # Panics
/// As [`update_whole`], and if this processor does not have the instruction set.
pub fn update_whole_with(
    isa: Isa,
    pool: &Pool,
    spans: &WholeSpans,
    scalars: &AdamScalars,
    gradient_scale: f32,
    decay: bool,
) {
    assert!(isa.is_here(), "this processor does not have {isa}");
    let elements = spans.elements();
    for (name, span, size) in [
        ("gradient", spans.gradient, spans.gradient_dtype.bytes()),
        ("m", spans.m, 4),
        ("v", spans.v, 4),
        ("copy", spans.copy.unwrap_or(spans.params.part(0, elements * 2)), 2),
    ] {
        assert_eq!(span.bytes(), elements * size, "bytes of {name} for {elements} parameters");
    }
    let step = Step { scalars: *scalars, gradient_scale, decay };
    pool.run(elements.div_ceil(TILE), &|_, tile| {
        let start = tile * TILE;
        let part = spans.part(start, TILE.min(elements - start));
        match part.gradient_dtype {
            DType::Bf16 => by_isa(isa, Whole(slices::<u16>(&part), &step)),
            DType::F32 => by_isa(isa, Whole(slices::<f32>(&part), &step)),
        }
    });
}

/// The streams of a run of parameters; G is how gradients are stored.
struct Slices<'a, G> {
    params: &'a mut [f32],
    copy: Option<&'a mut [u16]>,
    gradient: &'a [G],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

/// The spans as slices. The law of spans bounds `'a`: the call that got the spans.
fn slices<'a, G: Plain>(spans: &WholeSpans) -> Slices<'a, G> {
    let n = spans.elements();
    // SAFETY: `numbers` checks length and alignment; the tile is this thread's alone, and the law of spans gives
    // the call its parameters to write, apart from every other span of it.
    let params = unsafe { slice::from_raw_parts_mut(numbers(spans.params, n), n) };
    let copy = spans.copy.map(|copy| {
        // SAFETY: checked by `numbers`, and like the parameters nobody else's during the call.
        unsafe { slice::from_raw_parts_mut(numbers(copy, n), n) }
    });
    // SAFETY: checked by `numbers`; a gradient is only read, and nobody writes it during the call.
    let gradient = unsafe { slice::from_raw_parts(numbers(spans.gradient, n), n) };
    // SAFETY: checked by `numbers`; the tile's first moments are this thread's.
    let m = unsafe { slice::from_raw_parts_mut(numbers(spans.m, n), n) };
    // SAFETY: checked by `numbers`; the tile's second moments are this thread's.
    let v = unsafe { slice::from_raw_parts_mut(numbers(spans.v, n), n) };
    Slices { params, copy, gradient, m, v }
}

struct Whole<'a, G>(Slices<'a, G>, &'a Step);

impl<G: Stored> Pass for Whole<'_, G> {
    #[inline(always)]
    fn pass(self) {
        let Whole(Slices { params, copy, gradient, m, v }, step) = self;
        match (copy, step.decay) {
            (Some(copy), true) => elements::<G, true, true>(params, copy, gradient, m, v, step),
            (Some(copy), false) => elements::<G, true, false>(params, copy, gradient, m, v, step),
            (None, true) => elements::<G, false, true>(params, &mut [], gradient, m, v, step),
            (None, false) => elements::<G, false, false>(params, &mut [], gradient, m, v, step),
        }
    }
}

/// Slices are parameters of their own so that the compiler knows that they do not overlap. `copy` is empty
/// without COPY.
#[inline(always)]
fn elements<G: Stored, const COPY: bool, const DECAY: bool>(
    params: &mut [f32],
    copy: &mut [u16],
    gradient: &[G],
    m: &mut [f32],
    v: &mut [f32],
    step: &Step,
) {
    let n = params.len();
    let (gradient, m, v) = (&gradient[..n], &mut m[..n], &mut v[..n]);
    let copy = if COPY { &mut copy[..n] } else { copy };
    for at in 0..n {
        let (m_new, v_new, p) = element::<DECAY>(gradient[at].value(), m[at], v[at], params[at], step);
        (params[at], m[at], v[at]) = (p, m_new, v_new);
        if COPY {
            copy[at] = master::round(p);
        }
    }
}
