//! Holds out evenly spread windows for validation.

/// A subset of the windows of a source, computed without a table: of N windows k are held out, and
/// the i-th of these is window ⌊(2i + 1)·N / 2k⌋.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// All windows.
    All {
        /// N.
        windows: u64,
    },
    /// The windows that are not held out.
    Train {
        /// N.
        windows: u64,
        /// k.
        held_out: u64,
    },
    /// The windows that are held out.
    Validation {
        /// N.
        windows: u64,
        /// k.
        held_out: u64,
    },
}

impl Split {
    /// Number of windows in the subset.
    pub fn len(self) -> u64 {
        match self {
            Split::All { windows } => windows,
            Split::Train { windows, held_out } => windows - held_out,
            Split::Validation { held_out, .. } => held_out,
        }
    }

    /// Numbers that identify the subset.
    pub fn numbers(self) -> [u64; 3] {
        match self {
            Split::All { windows } => [0, windows, 0],
            Split::Train { windows, held_out } => [1, windows, held_out],
            Split::Validation { windows, held_out } => [2, windows, held_out],
        }
    }

    /// Returns window number `index` of the subset.
    pub fn window(self, index: u64) -> u64 {
        match self {
            Split::All { .. } => index,
            Split::Validation { windows, held_out } => nth_held_out(windows, held_out, index),
            Split::Train { windows, held_out } => {
                // Binary search: `low` becomes the number of held-out windows before the result.
                let (mut low, mut high) = (0, held_out);
                while low < high {
                    let middle = (low + high) / 2;
                    if nth_held_out(windows, held_out, middle) - middle <= index {
                        low = middle + 1
                    } else {
                        high = middle
                    }
                }
                index + low
            }
        }
    }

    /// Splits N windows into training and validation. `fraction` of them, at least one, are held
    /// out. `None` if no window would be left for training.
    pub fn of(windows: u64, fraction: f64) -> Option<(Split, Split)> {
        let held_out = ((windows as f64 * fraction).round() as u64).max(1);
        (held_out < windows)
            .then_some((Split::Train { windows, held_out }, Split::Validation { windows, held_out }))
    }
}

fn nth_held_out(windows: u64, held_out: u64, index: u64) -> u64 {
    ((2 * u128::from(index) + 1) * u128::from(windows) / (2 * u128::from(held_out))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_and_validation_are_disjoint_complete_and_in_order() {
        for windows in [2, 3, 7, 10, 100, 1001] {
            for fraction in [0.001, 0.1, 0.25, 0.3, 0.5, 0.9] {
                let Some((training, validation)) = Split::of(windows, fraction) else { continue };
                let all_of = |split: Split| (0..split.len()).map(|at| split.window(at)).collect::<Vec<_>>();
                let (training, validation) = (all_of(training), all_of(validation));
                assert!(training.is_sorted() && validation.is_sorted());
                let mut all = [training, validation.clone()].concat();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..windows), "{windows} windows, {fraction}");
                assert_eq!(validation.len() as u64, ((windows as f64 * fraction).round() as u64).max(1));
            }
        }
        assert_eq!(Split::of(1, 0.5), None);
        assert_eq!(Split::of(10, 0.2).unwrap().1.window(1), 7);
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        let (training, validation) = Split::of(1 << 62, 0.5).unwrap();
        for split in [training, validation] {
            assert!(split.window(split.len() - 1) < 1 << 62);
        }
    }
}
