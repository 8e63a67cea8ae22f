//! Counter-based random bits for stochastic rounding, independent of threads and vector width.

use crate::base::hash::mix64;

/// The inputs of stochastic rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounding {
    /// The seed of the run.
    pub seed: u64,
    /// The step number.
    pub step: u64,
    /// The index of the spans' first element among all elements of the model.
    pub first: u64,
}

/// Random bits for a run of elements. The bits of an element depend only on seed, step and the
/// element's index in the model, so they do not depend on how work is divided, and a resumed run
/// gets those of an uninterrupted one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomBits {
    first: u32,
    keys: [u32; 2],
}

impl RandomBits {
    /// Elements served by one pair of keys.
    const REGION: u64 = 1 << 32;

    /// Returns the bits of the elements from `rounding.first + start`, and the number of elements
    /// they are valid for.
    pub fn new(rounding: &Rounding, start: usize) -> (RandomBits, usize) {
        let element = rounding.first + start as u64;
        let region = element / RandomBits::REGION;
        let key = mix64(mix64(mix64(rounding.seed) ^ rounding.step) ^ region);
        let valid = usize::try_from(RandomBits::REGION - element % RandomBits::REGION).unwrap_or(usize::MAX);
        (RandomBits { first: element as u32, keys: [key as u32, (key >> 32) as u32] }, valid)
    }

    /// The bits of the elements after the first `count`.
    #[inline(always)]
    pub fn skip(&self, count: u32) -> RandomBits {
        RandomBits { first: self.first.wrapping_add(count), ..*self }
    }

    /// The number of elements before the first one with an even index: 0 or 1.
    #[inline(always)]
    pub fn before_pair(&self) -> usize {
        (self.first & 1) as usize
    }

    /// Two uniform 16-bit numbers for the element at offset `offset`. Elements 2i and 2i + 1 share
    /// one 32-bit draw, with its halves swapped.
    #[inline(always)]
    pub fn of_element(&self, offset: u32) -> (u32, u32) {
        let element = self.first.wrapping_add(offset);
        let bits = self.draw(element >> 1).rotate_right(16 * (element & 1));
        (bits & 0xffff, bits >> 16)
    }

    /// The draw shared by elements 2i and 2i + 1 of pair i. The first element must be even.
    #[inline(always)]
    pub fn of_pair(&self, pair: u32) -> u32 {
        self.draw((self.first >> 1).wrapping_add(pair))
    }

    /// 32 uniform bits by two rounds of multiply and shift, in 32-bit arithmetic, which vector
    /// units support (constants: C. Wellons, "hash-prospector", `lowbias32`).
    #[inline(always)]
    fn draw(&self, counter: u32) -> u32 {
        let mut x = counter ^ self.keys[0];
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d) ^ self.keys[1];
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bit is set half the time, over elements and over steps, within 5 standard deviations.
    #[test]
    fn every_bit_is_fair() {
        let samples = 1u32 << 16;
        let count = |random: &dyn Fn(u32) -> u32| {
            let mut ones = [0i64; 32];
            for at in 0..samples {
                let bits = random(at);
                ones.iter_mut().enumerate().for_each(|(bit, ones)| *ones += i64::from(bits >> bit & 1));
            }
            ones
        };
        let (random, _) = RandomBits::new(&Rounding { seed: 1, step: 5, first: 77 }, 0);
        let by_pair = count(&|at| random.draw(at));
        let by_step =
            count(&|at| RandomBits::new(&Rounding { seed: 1, step: at.into(), first: 77 }, 0).0.draw(3));
        for ones in by_pair.into_iter().chain(by_step) {
            assert!((ones - i64::from(samples / 2)).abs() < 5 * 128, "{ones} of {samples}");
        }
    }

    #[test]
    fn neighbours_and_steps_are_independent() {
        let of = |step, first| RandomBits::new(&Rounding { seed: 9, step, first }, 0).0.of_pair(0);
        let samples = 1u64 << 14;
        let flips = |a: &dyn Fn(u64) -> u32, b: &dyn Fn(u64) -> u32| -> u64 {
            (0..samples).map(|at| u64::from((a(at) ^ b(at)).count_ones())).sum()
        };
        // On average 16 of 32 bits differ; the bound is 5 standard deviations of the sum of 2^14 × 32 fair
        // bits.
        let bound = 5 * 362;
        let pairs = [
            flips(&|at| of(1, 2 * at), &|at| of(1, 2 * at + 2)),
            flips(&|at| of(1, 2 * at), &|at| of(2, 2 * at)),
            flips(&|at| of(at, 6), &|at| of(at + 1, 6)),
            flips(&|at| of(1, 2 * at), &|at| of(1, 2 * at + RandomBits::REGION)),
        ];
        for flips in pairs {
            assert!(flips.abs_diff(samples * 16) < bound, "{flips} of {}", samples * 32);
        }
    }

    #[test]
    fn elements_take_the_halves_of_their_pair() {
        for first in [6, 7] {
            let (random, _) = RandomBits::new(&Rounding { seed: 9, step: 1, first }, 0);
            let even = random.skip(random.before_pair() as u32);
            for pair in 0..5 {
                let bits = even.of_pair(pair);
                assert_eq!(even.of_element(2 * pair), (bits & 0xffff, bits >> 16));
                assert_eq!(even.of_element(2 * pair + 1), (bits >> 16, bits & 0xffff));
            }
        }
    }

    #[test]
    fn a_run_is_split_where_its_keys_end() {
        let rounding = Rounding { seed: 3, step: 1, first: RandomBits::REGION - 10 };
        let (random, valid) = RandomBits::new(&rounding, 4);
        assert_eq!(valid, 6);
        let (later, _) = RandomBits::new(&rounding, 7);
        assert_eq!(random.of_element(3), later.of_element(0));
    }
}
