//! The order of windows: one permutation per epoch, computed without a table.
//!
//! The shuffle is a Feistel network over the smallest even number of bits that can number the
//! windows, with cycle walking (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
//! The window at any index of any epoch follows from the seed alone, so a position in the data is
//! one number.

use crate::base::hash::mix64;

/// The order of `windows` windows, epoch after epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Number of windows, at least 1.
    pub windows: u64,
    /// Seed of the shuffle; `None` keeps the order.
    pub shuffle: Option<u64>,
}

/// Rounds of the network. Four suffice for a pseudorandom permutation; two more cost little.
const ROUNDS: u64 = 6;

impl Order {
    /// Returns the window at `position`, counted from 0 over all epochs.
    pub fn window(&self, position: u64) -> u64 {
        let (epoch, index) = (position / self.windows, position % self.windows);
        match self.shuffle {
            None => index,
            Some(seed) => self.permute(mix64(mix64(seed) ^ epoch), index),
        }
    }

    fn permute(&self, key: u64, index: u64) -> u64 {
        let half_bits = (u64::BITS - (self.windows - 1).leading_zeros()).div_ceil(2).max(1);
        let mask = (1u64 << half_bits) - 1;
        let mut at = index;
        loop {
            let (mut left, mut right) = (at >> half_bits, at & mask);
            for round in 0..ROUNDS {
                let out = mix64(key ^ (round << 56) ^ right) & mask;
                (left, right) = (right, left ^ out);
            }
            at = (left << half_bits) | right;
            if at < self.windows {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(windows: u64, seed: u64, epoch: u64) -> Vec<u64> {
        let order = Order { windows, shuffle: Some(seed) };
        (0..windows).map(|index| order.window(epoch * windows + index)).collect()
    }

    #[test]
    fn every_window_comes_once_an_epoch() {
        for windows in (1..=130).chain([255, 256, 257, 1000, 4097, 65_537]) {
            for seed in [0, 1, u64::MAX] {
                let mut seen = epoch(windows, seed, 3);
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..windows), "{windows} windows, seed {seed}");
            }
        }
    }

    #[test]
    fn the_largest_counts_stay_in_range() {
        let order = Order { windows: (1 << 62) + 3, shuffle: Some(9) };
        for position in 0..1000 {
            assert!(order.window(position) < order.windows);
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch() {
        assert_eq!(epoch(100, 5, 0), epoch(100, 5, 0));
        assert_ne!(epoch(100, 5, 0), epoch(100, 5, 1));
        assert_ne!(epoch(100, 5, 0), epoch(100, 6, 0));
        assert_ne!(epoch(100, 5, 0), (0..100).collect::<Vec<_>>());
    }

    /// In a random permutation about 2 of 1000 adjacent pairs stay adjacent.
    #[test]
    fn adjacent_windows_are_separated() {
        let order = epoch(1001, 11, 0);
        let together = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(together < 12, "{together} pairs stayed adjacent");
        // The mean of the first half of the order is near the middle of the windows.
        let mean = order[..500].iter().sum::<u64>() as f64 / 500.0;
        assert!((mean - 500.0).abs() < 60.0, "mean {mean}");
    }

    #[test]
    fn unshuffled_windows_come_in_order_and_start_again() {
        let order = Order { windows: 3, shuffle: None };
        assert!((0..7).map(|p| order.window(p)).eq([0, 1, 2, 0, 1, 2, 0]));
    }
}
