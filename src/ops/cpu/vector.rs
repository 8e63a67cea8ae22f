//! Loops compiled for several instruction sets, and the arithmetic they share.
//!
//! A function declared by [`vectorised!`] has one body, compiled for AVX-512, for AVX2 and for the
//! target's baseline; each call runs the widest version that the processor supports. All versions
//! do the same arithmetic in the same order: multiplications and additions are never fused, and
//! sums run in [`LANES`] lanes that are added in a fixed order. So the bits do not depend on the
//! version.

/// Partial sums of a reduction.
pub(in crate::ops) const LANES: usize = 32;

/// Declares a function whose body is compiled once per instruction set; see the module.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::ops::cpu::vector::instruction_set() {
                    // SAFETY: `instruction_set` found these features.
                    $crate::ops::cpu::vector::InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `instruction_set` found AVX2 and FMA.
                    $crate::ops::cpu::vector::InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::cpu::vector::InstructionSet::Baseline => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(in crate::ops) use vectorised;

/// The instruction sets that bodies are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum InstructionSet {
    Avx512,
    Avx2,
    Baseline,
}

/// The widest set that this processor supports. The standard library caches CPUID.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(in crate::ops) fn instruction_set() -> InstructionSet {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => InstructionSet::Avx512,
        (true, false) => InstructionSet::Avx2,
        (false, _) => InstructionSet::Baseline,
    }
}

/// e^x within 2 ulp; 0 below −86.5 (where the result is under 2⁻¹²⁴), ∞ above 88.7; NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½·ln 2 (Cody & Waite), a polynomial of degree 7 in r (Cephes' `expf`),
/// and 2ⁿ built from exponent bits. Branch-free, so loops over it vectorise.
#[inline(always)]
pub(in crate::ops) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ leaves the nearest integer in the low mantissa bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = x * LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * (r * r) + r + 1.0;
    // 2ⁿ⁻¹, then ·2, because n can be 128, where 2ⁿ overflows.
    let exponent = shifted.to_bits().wrapping_add(126).wrapping_shl(23);
    let scaled = value * f32::from_bits(exponent) * 2.0;
    let above = if x > 88.722_83 { f32::INFINITY } else { scaled };
    if x < -86.5 { 0.0 } else { above }
}

/// Reduces the lanes in a fixed order.
#[inline(always)]
pub(in crate::ops) fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ term(i) over `0..count`, in lanes. To vectorise, `term` must not panic: cut indexed slices to
/// `count`.
macro_rules! lane_sum {
    ($count:expr, $term:expr) => {{
        let count = $count;
        let term = $term;
        let mut lanes = [0f32; $crate::ops::cpu::vector::LANES];
        let whole = count / lanes.len() * lanes.len();
        let mut start = 0;
        while start < whole {
            for lane in 0..lanes.len() {
                lanes[lane] += term(start + lane);
            }
            start += lanes.len();
        }
        for (lane, at) in (whole..count).enumerate() {
            lanes[lane] += term(at);
        }
        $crate::ops::cpu::vector::fold(lanes, |a, b| a + b)
    }};
}
pub(in crate::ops) use lane_sum;

vectorised! {
    /// The largest element; −∞ for an empty slice. NaNs are skipped.
    pub(in crate::ops) fn maximum(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for lane in 0..LANES {
                lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane = if value > *lane { value } else { *lane };
        }
        fold(lanes, |a, b| if b > a { b } else { a })
    }
}

vectorised! {
    /// `x = exp(x − shift)` in place; returns the sum.
    pub(in crate::ops) fn exp_and_sum(x: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let mut chunks = x.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for lane in 0..LANES {
                let value = exp(chunk[lane] - shift);
                chunk[lane] = value;
                lanes[lane] += value;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
            *x = exp(*x - shift);
            *lane += *x;
        }
        fold(lanes, |a, b| a + b)
    }
}

vectorised! {
    /// Σ exp(x − shift), bit-equal to [`exp_and_sum`].
    pub(in crate::ops) fn sum_of_exp(x: &[f32], shift: f32) -> f32 {
        lane_sum!(x.len(), |i: usize| exp(x[i] - shift))
    }
}

vectorised! {
    /// `x *= factor`.
    pub(in crate::ops) fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

vectorised! {
    /// Σ a·b.
    pub(in crate::ops) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let b = &b[..a.len()];
        lane_sum!(a.len(), |i: usize| a[i] * b[i])
    }
}

vectorised! {
    /// Converts bf16 to f32.
    pub(in crate::ops) fn widen(out: &mut [f32], x: &[u16]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = crate::base::master::widen(x);
        }
    }
}

vectorised! {
    /// `out += x`.
    pub(in crate::ops) fn add(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}

vectorised! {
    /// `out += factor · x`.
    pub(in crate::ops) fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += factor * x;
        }
    }
}

vectorised! {
    /// `out += bias` for a bf16 bias.
    pub(in crate::ops) fn add_bias(out: &mut [f32], bias: &[u16]) {
        for (out, &bias) in out.iter_mut().zip(bias) {
            *out += crate::base::master::widen(bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0f64;
        let mut x = -86.5f32;
        while x < 88.7 {
            let exact = (x as f64).exp();
            let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / ulp);
            x += 0.000_37;
        }
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(88.7).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn every_tail_length_reduces_the_same_elements() {
        for count in 0..3 * LANES + 1 {
            let mut x: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
            let exact: f64 = x.iter().map(|&v| f64::from(v - 0.5).exp()).sum();
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(maximum(&x), largest);
            let sum = sum_of_exp(&x, 0.5);
            assert_eq!(exp_and_sum(&mut x, 0.5).to_bits(), sum.to_bits());
            assert!((f64::from(sum) - exact).abs() <= 1e-6 * exact, "{count}: {sum} for {exact}");
        }
    }
}
