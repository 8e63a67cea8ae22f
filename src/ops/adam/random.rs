//! Random bits that are a function of who asks: for rounding that does not depend on threads, vectors or luck.

use super::Rounding;

/// Random bits for a run of elements. The bits of an element depend on the seed, the step and the number of
/// the element alone, so any split of the work gives the same ones, and a resumed run gets those
/// of an uninterrupted one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomBits {
    first: u32,
    keys: [u32; 2],
}

impl RandomBits {
    /// Elements that one pair of keys serves.
    const REGION: u64 = 1 << 32;

    /// The bits of the elements from `rounding.first + start`, and for how many elements they are good.
    pub fn new(rounding: &Rounding, start: usize) -> (RandomBits, usize) {
        let element = rounding.first + start as u64;
        let region = element / RandomBits::REGION;
        let key = mix64(mix64(mix64(rounding.seed) ^ rounding.step) ^ region);
        let good = usize::try_from(RandomBits::REGION - element % RandomBits::REGION).unwrap_or(usize::MAX);
        (RandomBits { first: element as u32, keys: [key as u32, (key >> 32) as u32] }, good)
    }

    /// 32 uniform bits for the element `place` places after the first: two rounds of multiply and shift, in
    /// 32-bit arithmetic because that is what vectors have (constants: C. Wellons, "hash-prospector",
    /// `lowbias32`).
    #[inline(always)]
    pub fn at(&self, place: u32) -> u32 {
        let mut x = self.first.wrapping_add(place) ^ self.keys[0];
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d) ^ self.keys[1];
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the input moves every bit of the output.
fn mix64(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bit is set half the time, over elements and over steps; the bound is 5 standard deviations.
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
        let by_element = count(&|at| random.at(at));
        let by_step =
            count(&|at| RandomBits::new(&Rounding { seed: 1, step: at.into(), first: 77 }, 0).0.at(3));
        for ones in by_element.into_iter().chain(by_step) {
            assert!((ones - i64::from(samples / 2)).abs() < 5 * 128, "{ones} of {samples}");
        }
    }

    #[test]
    fn neighbours_and_steps_have_nothing_in_common() {
        let of = |step, first| RandomBits::new(&Rounding { seed: 9, step, first }, 0).0.at(0);
        let samples = 1u64 << 14;
        let flips = |a: &dyn Fn(u64) -> u32, b: &dyn Fn(u64) -> u32| -> u64 {
            (0..samples).map(|at| u64::from((a(at) ^ b(at)).count_ones())).sum()
        };
        // 16 of 32 bits differ on average; 5 standard deviations of the sum of 2^14 × 32 fair bits.
        let bound = 5 * 362;
        let pairs = [
            flips(&|at| of(1, at), &|at| of(1, at + 1)),
            flips(&|at| of(1, at), &|at| of(2, at)),
            flips(&|at| of(at, 5), &|at| of(at + 1, 5)),
            flips(&|at| of(1, at), &|at| of(1, at + RandomBits::REGION)),
        ];
        for flips in pairs {
            assert!(flips.abs_diff(samples * 16) < bound, "{flips} of {}", samples * 32);
        }
    }

    #[test]
    fn a_run_is_split_where_its_keys_end() {
        let rounding = Rounding { seed: 3, step: 1, first: RandomBits::REGION - 10 };
        let (random, good) = RandomBits::new(&rounding, 4);
        assert_eq!(good, 6);
        let (later, _) = RandomBits::new(&rounding, 7);
        assert_eq!(random.at(3), later.at(0));
    }
}
