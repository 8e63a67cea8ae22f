//! A part of the windows held out for validation, evenly spread.

/// Which windows of a stream are taken. Nothing is tabulated: of N windows k are held out, and the i-th of these is
/// ⌊(2i + 1)·N / 2k⌋.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// All of them.
    All {
        /// N.
        windows: u64,
    },
    /// Those that are not held out.
    Train {
        /// N.
        windows: u64,
        /// k.
        held: u64,
    },
    /// Those that are.
    Validation {
        /// N.
        windows: u64,
        /// k.
        held: u64,
    },
}

impl Split {
    /// How many are taken.
    pub fn len(self) -> u64 {
        match self {
            Split::All { windows } => windows,
            Split::Train { windows, held } => windows - held,
            Split::Validation { held, .. } => held,
        }
    }

    /// The window that is taken as number `index`.
    pub fn window(self, index: u64) -> u64 {
        match self {
            Split::All { .. } => index,
            Split::Validation { windows, held } => nth_held(windows, held, index),
            Split::Train { windows, held } => {
                // As many held-out windows stand before it as leave no more than `index` before them.
                let (mut low, mut high) = (0, held);
                while low < high {
                    let middle = (low + high) / 2;
                    if nth_held(windows, held, middle) - middle <= index {
                        low = middle + 1
                    } else {
                        high = middle
                    }
                }
                index + low
            }
        }
    }

    /// Cuts N windows in two: those kept and those held out, `fraction` of them and at least one.
    /// `None` if nothing would be kept.
    pub fn of(windows: u64, fraction: f64) -> Option<(Split, Split)> {
        let held = ((windows as f64 * fraction).round() as u64).max(1);
        (held < windows).then_some((Split::Train { windows, held }, Split::Validation { windows, held }))
    }
}

fn nth_held(windows: u64, held: u64, index: u64) -> u64 {
    ((2 * u128::from(index) + 1) * u128::from(windows) / (2 * u128::from(held))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_disjoint_and_whole_and_in_order() {
        for windows in [2, 3, 7, 10, 100, 1001] {
            for fraction in [0.001, 0.1, 0.25, 0.3, 0.5, 0.9] {
                let Some((kept, held)) = Split::of(windows, fraction) else { continue };
                let taken = |split: Split| (0..split.len()).map(|at| split.window(at)).collect::<Vec<_>>();
                let (kept, held) = (taken(kept), taken(held));
                assert!(kept.is_sorted() && held.is_sorted());
                let mut all = [kept, held.clone()].concat();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..windows), "{windows} windows, {fraction}");
                assert_eq!(held.len() as u64, ((windows as f64 * fraction).round() as u64).max(1));
            }
        }
        assert_eq!(Split::of(1, 0.5), None);
        assert_eq!(Split::of(10, 0.2).unwrap().1.window(1), 7);
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        let (kept, held) = Split::of(1 << 62, 0.5).unwrap();
        assert!(kept.window(kept.len() - 1) < 1 << 62 && held.window(held.len() - 1) < 1 << 62);
    }
}
