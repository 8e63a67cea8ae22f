//! AdamW on masters that are whole f32 numbers, as other trainers keep them.

use super::kernel::{Elements, Step, by_isa};
use super::random::RandomBits;
use super::streams::{Kept, Places, Stored, Streams};
use super::tiles::over_tiles;
use super::{AdamScalars, chosen};
use crate::base::DType;
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
    over_tiles(pool, elements, spans.params.address(), 4, &|start, count| {
        let part = spans.part(start, count);
        let pass = (part.gradient_dtype, part.copy.is_some());
        let places = Places {
            elements: count,
            weights: part.params,
            beside: part.copy.unwrap_or(part.params.part(0, 0)),
            gradient: part.gradient,
            m: part.m,
            v: part.v,
        };
        match pass {
            (DType::Bf16, true) => run::<u16, u16>(isa, &places, &step),
            (DType::Bf16, false) => run::<(), u16>(isa, &places, &step),
            (DType::F32, true) => run::<u16, f32>(isa, &places, &step),
            (DType::F32, false) => run::<(), f32>(isa, &places, &step),
        }
    });
}

/// B is what is kept beside the parameters, G how gradients are stored.
fn run<B: Plain, G: Stored>(isa: Isa, places: &Places, step: &Step)
where
    (f32, B): Kept,
{
    by_isa(isa, Elements(Streams::<f32, B, G, f32>::at(places), step, RandomBits::default()));
}
