//! AdamW (Loshchilov & Hutter 2019).
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
//! It equals `torch.optim.AdamW` up to rounding. The moving averages use one rounded scalar for
//! both terms, since rounding β2 = 0.999 and 1 − β2 separately would bias v by 1e-5. Decay and step
//! are added before they are subtracted from p, so p is rounded once.
//!
//! The state is m and v, f32 or bf16. With a split master and a bf16 gradient, memory traffic is 26
//! bytes per parameter with f32 moments (14 read, 12 written) and 18 with bf16 ones (10 read, 8
//! written).

mod pairs;

use self::pairs::Pairs;
use super::arrays::{Arrays, Body, MasterWeight, Stored};
use super::isa::{Pass, by_isa};
use super::random::RandomBits;
use super::{Master, Spans, StateArray, Step};
use crate::base::{DType, Error, Name, Result, check_f32};
use crate::host::Isa;

/// The hyperparameters of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamOptions {
    /// Decay of the first moment, 0 ≤ β1 < 1.
    pub beta1: f64,
    /// Decay of the second moment, 0 ≤ β2 < 1.
    pub beta2: f64,
    /// Added to the root of the second moment. Positive, so that zero moments give a zero step.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
}

/// The smallest eps: positive and normal as an f32.
pub const EPS_MIN: f64 = f32::MIN_POSITIVE as f64;

impl Default for AdamOptions {
    /// The defaults of `torch.optim.AdamW`.
    fn default() -> Self {
        AdamOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

impl AdamOptions {
    /// Refuses invalid values, and an `HZ_ISA` that this processor does not support
    /// (`InvalidArgument`). Called once, when options are set.
    pub fn check(&self) -> Result<()> {
        for (name, beta) in [(Name::Beta1, self.beta1), (Name::Beta2, self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::argument(format!("{name} is {beta}; it must be at least 0 and below 1")));
            }
        }
        check_f32(Name::Eps, self.eps, EPS_MIN)?;
        check_f32(Name::WeightDecay, self.weight_decay, 0.0)?;
        Isa::chosen().map(|_| ())
    }
}

/// The scalars of a step, shared by all elements. Computed in f64 from the step number, only here,
/// and rounded once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamScalars {
    /// 1 − β1.
    pub gain1: f32,
    /// 1 − β2.
    pub gain2: f32,
    /// lr / (1 − β1^step).
    pub step_size: f32,
    /// 1 / √(1 − β2^step).
    pub inv_sqrt_bias2: f32,
    /// eps.
    pub eps: f32,
    /// lr · weight decay.
    pub decay: f32,
}

impl AdamScalars {
    /// The scalars of step number `step`, which counts from 1, at learning rate `lr`.
    ///
    /// # Panics
    /// If `step` is 0: the bias corrections would divide by zero.
    pub fn new(options: &AdamOptions, lr: f64, step: u64) -> AdamScalars {
        assert!(step > 0, "steps of AdamW count from 1");
        let step = i32::try_from(step).unwrap_or(i32::MAX); // β^step is 0 long before
        let bias1 = 1.0 - options.beta1.powi(step);
        let bias2 = 1.0 - options.beta2.powi(step);
        AdamScalars {
            gain1: (1.0 - options.beta1) as f32,
            gain2: (1.0 - options.beta2) as f32,
            step_size: (lr / bias1) as f32,
            inv_sqrt_bias2: (1.0 / bias2.sqrt()) as f32,
            eps: options.eps as f32,
            decay: (lr * options.weight_decay) as f32,
        }
    }
}

/// The state arrays: first and second moments.
pub fn state(moments: DType) -> &'static [StateArray; 2] {
    const F32: [StateArray; 2] = arrays("moments (f32)", DType::F32);
    const BF16: [StateArray; 2] = arrays("moments (bf16)", DType::Bf16);
    match moments {
        DType::F32 => &F32,
        DType::Bf16 => &BF16,
    }
}

const fn arrays(region: &'static str, dtype: DType) -> [StateArray; 2] {
    [StateArray { name: "m", region, dtype }, StateArray { name: "v", region, dtype }]
}

/// Updates the elements of `spans` on this thread. `random` is for bf16 moments.
///
/// # Safety
/// As [`update`](super::update), for these spans.
pub unsafe fn run(spans: &Spans, moments: DType, step: &Step, random: RandomBits) {
    type At<'a, W, B, G, M> = Arrays<'a, W, B, G, M, 2>;
    use DType::{Bf16, F32};
    let isa = step.isa;
    // SAFETY: the caller has access to the memory that `at` turns into slices, and no slice outlives
    // this call.
    unsafe {
        match (spans.master, spans.gradient_dtype, moments) {
            (Master::Split { .. }, Bf16, F32) => {
                by_isa(isa, Elements(At::<u16, i16, u16, f32>::at(spans), step, random));
            }
            (Master::Split { .. }, F32, F32) => {
                by_isa(isa, Elements(At::<u16, i16, f32, f32>::at(spans), step, random));
            }
            (Master::Split { .. }, Bf16, Bf16) => by_isa(isa, Pairs(At::at(spans), step, random)),
            (Master::Split { .. }, F32, Bf16) => {
                by_isa(isa, Elements(At::<u16, i16, f32, u16>::at(spans), step, random));
            }
            (Master::Whole { copy: Some(_), .. }, Bf16, F32) => {
                by_isa(isa, Elements(At::<f32, u16, u16, f32>::at(spans), step, random));
            }
            (Master::Whole { copy: None, .. }, Bf16, F32) => {
                by_isa(isa, Elements(At::<f32, (), u16, f32>::at(spans), step, random));
            }
            (Master::Whole { copy: Some(_), .. }, F32, F32) => {
                by_isa(isa, Elements(At::<f32, u16, f32, f32>::at(spans), step, random));
            }
            (Master::Whole { copy: None, .. }, F32, F32) => {
                by_isa(isa, Elements(At::<f32, (), f32, f32>::at(spans), step, random));
            }
            (Master::Whole { .. }, _, Bf16) => panic!("bf16 moments need a split master"),
        }
    }
}

/// The formula of the module for one element: takes the stored gradient, m, v and p; returns the
/// new m, v and p.
#[inline(always)]
fn element<const DECAY: bool>(g: f32, m: f32, v: f32, p: f32, step: &Step) -> (f32, f32, f32) {
    let AdamScalars { gain1, gain2, step_size, inv_sqrt_bias2, eps, decay } = step.scalars;
    let g = g * step.gradient_scale;
    let m = m + gain1 * (g - m);
    let v = v + gain2 * (g * g - v);
    let mut change = step_size * m / (v.sqrt() * inv_sqrt_bias2 + eps);
    if DECAY {
        change += decay * p;
    }
    (m, v, p - change)
}

/// The pass for any storage types, element by element. The random bits are for moments that are
/// rounded.
struct Elements<'a, W, B, G, M>(Arrays<'a, W, B, G, M, 2>, &'a Step<'a>, RandomBits);

impl<W: Copy, B: Copy, G: Stored, M: Stored> Pass for Elements<'_, W, B, G, M>
where
    (W, B): MasterWeight,
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
    (W, B): MasterWeight,
{
    #[inline(always)]
    fn with_decay<const DECAY: bool>(self) {
        let Elements(arrays, step, random) = self;
        let each = Each::<DECAY>(step, random);
        let (rest, start) = arrays.by_block(&each);
        each.run(rest, start);
    }
}

/// The body of [`Elements`].
struct Each<'a, const DECAY: bool>(&'a Step<'a>, RandomBits);

impl<W: Copy, B: Copy, G: Stored, M: Stored, const DECAY: bool> Body<W, B, G, M, 2> for Each<'_, DECAY>
where
    (W, B): MasterWeight,
{
    #[inline(always)]
    fn run(&self, arrays: Arrays<'_, W, B, G, M, 2>, start: usize) {
        let Arrays { weights, extra, gradient, state: [m, v] } = arrays;
        let Each(step, random) = *self;
        elements(weights, extra, gradient, m, v, &Each::<DECAY>(step, random.skip(start as u32)));
    }
}

/// Slices are separate parameters, so that the compiler knows that they do not overlap.
#[inline(always)]
fn elements<W: Copy, B: Copy, G: Stored, M: Stored, const DECAY: bool>(
    weights: &mut [W],
    extra: &mut [B],
    gradient: &[G],
    m: &mut [M],
    v: &mut [M],
    Each(step, random): &Each<DECAY>,
) where
    (W, B): MasterWeight,
{
    let n = weights.len();
    let (extra, gradient) = (&mut extra[..n], &gradient[..n]);
    let (m, v) = (&mut m[..n], &mut v[..n]);
    for at in 0..n {
        let p = (weights[at], extra[at]).join();
        let (m_new, v_new, p) = element::<DECAY>(gradient[at].value(), m[at].value(), v[at].value(), p, step);
        (weights[at], extra[at]) = <(W, B)>::split(p);
        let (m_bits, v_bits) = if M::ROUNDS { random.of_element(at as u32) } else { (0, 0) };
        m[at] = M::store(m_new, m_bits);
        v[at] = M::store(v_new, v_bits);
    }
}
