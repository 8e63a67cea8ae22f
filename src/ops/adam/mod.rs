//! AdamW on the split master, in host memory (Loshchilov & Hutter 2019).
//!
//! One pass over the memory updates an element:
//!
//! ```text
//! g  = gradient · scale                     scale: 1, or the clip factor
//! m += (1 − β1) · (g − m)
//! v += (1 − β2) · (g² − v)
//! p  = join(weight, residual)
//! p −= lr·wd · p  +  (lr / bias1) · m / (√v / √bias2 + eps)        bias_i = 1 − β_i^step
//! weight, residual = split(p)
//! ```
//!
//! which is `torch.optim.AdamW` up to rounding: the moving averages are written so that one rounded scalar
//! serves both terms (β2 = 0.999 and 1 − β2 rounded apart would bias v by 1e-5), and decay and step are summed
//! before they meet p, so that p is rounded once. All arithmetic on elements is f32, each operation rounded by
//! itself (no fused multiply-add), so the bits depend on the inputs alone: not on the instruction set, the
//! number of threads, or where a span starts. Scalars are computed in f64 from the step number, here and
//! nowhere else, and rounded once.
//!
//! Memory traffic is 26 bytes a parameter with a bf16 gradient (14 read, 12 written), 28 with an f32 one.
//! [`update_compact`] keeps the moments as bf16, rounded at random so that on average nothing is lost: 18 bytes
//! (10 read, 8 written). Rounded to nearest, v would stand still as soon as a step changed it by less than
//! 2⁻⁹ of itself, which with β2 = 0.999 is always.
//!
//! [`update_whole`] is for masters that are whole f32 numbers, as other trainers keep them.
//!
//! The law of [`crate::ops`] holds for the spans of this module.

mod kernel;
mod master;
mod pairs;
mod random;
mod streams;
mod tiles;
mod whole;

use std::ops::Range;

use crate::base::{DType, Error, Result};
use crate::host::{HostSpan, Isa, Pool};

pub use kernel::Step;
use kernel::{Elements, by_isa};
pub use master::{read_gradient, read_master, write_master};
use pairs::Pairs;
use random::RandomBits;
use streams::{Places, Streams};
use tiles::over_tiles;
pub use whole::{WholeSpans, update_whole, update_whole_with};

/// What AdamW is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamOptions {
    /// Decay of the first moment, 0 ≤ β1 < 1.
    pub beta1: f64,
    /// Decay of the second moment, 0 ≤ β2 < 1.
    pub beta2: f64,
    /// Added to the root of the second moment; positive, so that an element without gradient stands still.
    pub eps: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
}

impl Default for AdamOptions {
    /// The defaults of `torch.optim.AdamW`.
    fn default() -> Self {
        AdamOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

impl AdamOptions {
    /// Refuses values that give no optimizer, and an `HZ_ISA` that this processor does not have
    /// (`InvalidArgument`). Asked once, when options come in.
    pub fn check(&self) -> Result<()> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::argument(format!("{name} is {beta}; it must be at least 0 and below 1")));
            }
        }
        if !(self.eps as f32 >= f32::MIN_POSITIVE && self.eps.is_finite()) {
            return Err(Error::argument(format!("eps is {}; it must be at least 1.2e-38", self.eps)));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(Error::argument(format!(
                "the weight decay is {}; it must be 0 or more",
                self.weight_decay
            )));
        }
        Isa::chosen().map(|_| ())
    }
}

/// The numbers that every element of a step shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamScalars {
    /// 1 − β1.
    pub gain1: f32,
    /// 1 − β2.
    pub gain2: f32,
    /// lr / (1 − β1^step).
    pub rate: f32,
    /// 1 / √(1 − β2^step).
    pub inv_sqrt_bias2: f32,
    /// eps.
    pub eps: f32,
    /// lr · weight decay.
    pub decay: f32,
}

impl AdamScalars {
    /// The scalars of step number `step`, counted from 1, at learning rate `lr`.
    ///
    /// # Panics
    /// If `step` is 0: its bias corrections would divide by zero.
    pub fn new(options: &AdamOptions, lr: f64, step: u64) -> AdamScalars {
        assert!(step > 0, "steps of AdamW count from 1");
        let step = i32::try_from(step).unwrap_or(i32::MAX); // where β^step has long been 0
        let bias1 = 1.0 - options.beta1.powi(step);
        let bias2 = 1.0 - options.beta2.powi(step);
        AdamScalars {
            gain1: (1.0 - options.beta1) as f32,
            gain2: (1.0 - options.beta2) as f32,
            rate: (lr / bias1) as f32,
            inv_sqrt_bias2: (1.0 / bias2.sqrt()) as f32,
            eps: options.eps as f32,
            decay: (lr * options.weight_decay) as f32,
        }
    }
}

/// The memory of a run of parameters, all of the same number of elements.
#[derive(Clone, Copy, Debug)]
pub struct AdamSpans {
    /// bf16: in and out.
    pub weights: HostSpan,
    /// i16: what makes the weights f32. In and out.
    pub residual: HostSpan,
    /// The gradient, before the scale. In.
    pub gradient: HostSpan,
    /// How the gradient is stored.
    pub gradient_dtype: DType,
    /// First moment: f32, for [`update_compact`] bf16. In and out.
    pub m: HostSpan,
    /// Second moment, stored as the first. In and out.
    pub v: HostSpan,
}

impl AdamSpans {
    /// How many parameters they are.
    pub fn elements(&self) -> usize {
        self.weights.bytes() / 2
    }

    /// The elements from `start`, `count` of them.
    ///
    /// # Panics
    /// If they leave the spans.
    pub fn part(&self, start: usize, count: usize) -> AdamSpans {
        let gradient = self.gradient_dtype.bytes();
        let moment = self.m.bytes() / self.elements().max(1); // 4, or 2 in compact
        AdamSpans {
            weights: self.weights.part(start * 2, count * 2),
            residual: self.residual.part(start * 2, count * 2),
            gradient: self.gradient.part(start * gradient, count * gradient),
            gradient_dtype: self.gradient_dtype,
            m: self.m.part(start * moment, count * moment),
            v: self.v.part(start * moment, count * moment),
        }
    }
}

/// What decides how bf16 moments are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// The seed of the run.
    pub seed: u64,
    /// The step number.
    pub step: u64,
    /// The number of the spans' first element among all elements of the model.
    pub first: u64,
}

/// One step of AdamW over a run of parameters with f32 moments, by the pool's threads. `gradient_scale` is the
/// clip factor, or 1; `decay` says whether weight decay applies to these parameters.
///
/// # Panics
/// If a span has another length than the weights' elements ask for, or does not start on one of its elements.
pub fn update(pool: &Pool, spans: &AdamSpans, scalars: &AdamScalars, gradient_scale: f32, decay: bool) {
    update_with(chosen(), pool, spans, scalars, gradient_scale, decay, None);
}

/// As [`update`], with bf16 moments that are rounded at random.
///
/// # Panics
/// As [`update`].
pub fn update_compact(
    pool: &Pool,
    spans: &AdamSpans,
    scalars: &AdamScalars,
    gradient_scale: f32,
    decay: bool,
    rounding: &Rounding,
) {
    update_with(chosen(), pool, spans, scalars, gradient_scale, decay, Some(rounding));
}

/// An `HZ_ISA` that cannot be followed was refused by [`AdamOptions::check`].
fn chosen() -> Isa {
    Isa::chosen().unwrap_or(Isa::Portable)
}

/// [`update_compact`] with a rounding, [`update`] without, with the instruction set chosen by the caller: for
/// tests and measurements.
///
/// # Panics
/// As [`update`], and if this processor does not have the instruction set.
pub fn update_with(
    isa: Isa,
    pool: &Pool,
    spans: &AdamSpans,
    scalars: &AdamScalars,
    gradient_scale: f32,
    decay: bool,
    rounding: Option<&Rounding>,
) {
    assert!(isa.is_here(), "this processor does not have {isa}");
    let elements = spans.elements();
    let moment = if rounding.is_some() { DType::Bf16 } else { DType::F32 };
    for (name, span, size) in [
        ("residual", spans.residual, 2),
        ("gradient", spans.gradient, spans.gradient_dtype.bytes()),
        ("m", spans.m, moment.bytes()),
        ("v", spans.v, moment.bytes()),
    ] {
        assert_eq!(span.bytes(), elements * size, "bytes of {name} for {elements} weights");
    }
    let step = Step { scalars: *scalars, gradient_scale, decay };
    over_tiles(pool, elements, spans.weights.address(), 2, &|start, count| {
        run(isa, spans, start..start + count, &step, rounding);
    });
}

/// Some rows of a matrix.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Elements of a row.
    pub elements: usize,
    /// Whether the row of this number is one of them.
    pub has: &'a (dyn Fn(usize) -> bool + Sync),
}

impl Rows<'_> {
    /// Calls `with` for every run of elements among some that is of these rows.
    fn runs(&self, among: Range<usize>, mut with: impl FnMut(Range<usize>)) {
        let end_of = |row: usize| ((row + 1) * self.elements).min(among.end);
        let mut start = among.start;
        while start < among.end {
            let (first, mut end) = (start / self.elements, start);
            let is_in = (self.has)(first);
            while end < among.end && (self.has)(end / self.elements) == is_in {
                end = end_of(end / self.elements);
            }
            if is_in {
                with(start..end);
            }
            start = end;
        }
    }
}

/// One step of AdamW over some rows of a matrix, by the pool's threads; with a rounding the moments are bf16. What it
/// does to an element are the bits that a step over all of them gives it.
///
/// # Panics
/// As [`update`].
pub fn update_rows(pool: &Pool, spans: &AdamSpans, rows: &Rows, step: &Step, rounding: Option<&Rounding>) {
    let isa = chosen();
    over_tiles(pool, spans.elements(), spans.weights.address(), 2, &|start, count| {
        rows.runs(start..start + count, |elements| run(isa, spans, elements, step, rounding));
    });
}

/// Updates some elements on this thread.
fn run(isa: Isa, spans: &AdamSpans, elements: Range<usize>, step: &Step, rounding: Option<&Rounding>) {
    let Range { mut start, end } = elements;
    while start < end {
        let (random, good) = rounding.map(|rounding| RandomBits::new(rounding, start)).unzip();
        let count = good.map_or(end - start, |good| good.min(end - start));
        run_keyed(isa, &spans.part(start, count), step, random);
        start += count;
    }
}

/// Updates the elements of `spans` on this thread. With the random bits of these elements the moments are bf16;
/// without they are f32.
fn run_keyed(isa: Isa, spans: &AdamSpans, step: &Step, random: Option<RandomBits>) {
    let places = Places {
        elements: spans.elements(),
        weights: spans.weights,
        beside: spans.residual,
        gradient: spans.gradient,
        m: spans.m,
        v: spans.v,
    };
    let none = RandomBits::default();
    type Split<'a, G, M> = Streams<'a, u16, i16, G, M>;
    match (spans.gradient_dtype, random) {
        (DType::Bf16, None) => by_isa(isa, Elements(Split::<u16, f32>::at(&places), step, none)),
        (DType::F32, None) => by_isa(isa, Elements(Split::<f32, f32>::at(&places), step, none)),
        (DType::Bf16, Some(random)) => by_isa(isa, Pairs(Split::at(&places), step, random)),
        (DType::F32, Some(random)) => by_isa(isa, Elements(Split::<f32, u16>::at(&places), step, random)),
    }
}
