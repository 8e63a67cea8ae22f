//! The split master: an f32 stored as a bf16 weight, which is uploaded, and a 16-bit residual,
//! which stays on the host.
//!
//! `weight = (bits + 0x8000) >> 16` and `residual = bits − (weight << 16)`, as 16-bit integers.
//! Joining is exact for all 2³² bit patterns, so no second copy of the weights is needed. The
//! weight is the f32 rounded to nearest, halves away from zero. A very large finite f32 can round
//! to an infinite weight, so the non-finite guard checks the weight.

/// Rounds to the bits of the nearest bf16, halves away from zero.
#[inline(always)]
pub fn round(value: f32) -> u16 {
    (value.to_bits().wrapping_add(0x8000) >> 16) as u16
}

/// Converts bf16 bits to the f32 of the same value.
#[inline(always)]
pub fn widen(weight: u16) -> f32 {
    f32::from_bits((weight as u32) << 16)
}

/// Splits an f32 into weight and residual.
#[inline(always)]
pub fn split(value: f32) -> (u16, i16) {
    let bits = value.to_bits();
    let weight = round(value);
    (weight, bits.wrapping_sub((weight as u32) << 16) as i16)
}

/// Joins weight and residual; the exact inverse of [`split`].
#[inline(always)]
pub fn join(weight: u16, residual: i16) -> f32 {
    f32::from_bits(((weight as u32) << 16).wrapping_add(residual as i32 as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default stride visits patterns of every exponent; `HZ_LONG` tests all 2³².
    #[test]
    fn join_is_the_inverse_of_split() {
        let stride = if std::env::var_os("HZ_LONG").is_some() { 1 } else { 4093 };
        let mut bits = 0u32;
        loop {
            let (weight, residual) = split(f32::from_bits(bits));
            assert_eq!(join(weight, residual).to_bits(), bits, "pattern {bits:#010x}");
            match bits.checked_add(stride) {
                Some(next) => bits = next,
                None => break,
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_halves_away_from_zero() {
        assert_eq!(round(1.0), 0x3f80);
        assert_eq!(round(f32::from_bits(0x3f80_8000)), 0x3f81);
        assert_eq!(round(f32::from_bits(0xbf80_8000)), 0xbf81);
        assert_eq!(round(f32::from_bits(0x3f80_7fff)), 0x3f80);
        assert_eq!(widen(round(f32::MAX)), f32::INFINITY);
    }
}
