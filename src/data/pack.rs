//! Whole documents into windows, with as little left empty as can be.
//!
//! Best fit, longest first: a document goes into the fullest window that still has room for it. (Ding et al. 2024,
//! "Fewer Truncations Improve Language Modeling", arXiv 2404.10830.) Which documents share a window depends on
//! their lengths and order alone. Windows, and documents within one, stand in the order of the file by the first
//! document of each.

use std::collections::BTreeMap;

/// Documents by window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Document numbers, window by window.
    documents: Vec<u64>,
    /// For each window the end of its part of `documents`.
    ends: Vec<u64>,
}

impl Packed {
    /// Packs documents that take so many rows each, `rows_max` to a window; a document of 0 rows is left out.
    ///
    /// # Panics
    /// If a document takes more than `rows_max`.
    pub fn new(rows: &[u32], rows_max: usize) -> Packed {
        let mut by_length: Vec<u64> = (0..rows.len() as u64).filter(|&at| rows[at as usize] > 0).collect();
        by_length.sort_by_key(|&at| std::cmp::Reverse(rows[at as usize]));
        let mut windows: Vec<Vec<u64>> = Vec::new();
        // Windows by the rows they have left.
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for document in by_length {
            let needs = rows[document as usize] as usize;
            assert!(needs <= rows_max, "document {document} takes {needs} rows, a window has {rows_max}");
            let fullest = open.range(needs..).next().map(|(&left, _)| left);
            let (window, left) = match fullest {
                Some(left) => (pop(&mut open, left), left),
                None => {
                    windows.push(Vec::new());
                    (windows.len() - 1, rows_max)
                }
            };
            windows[window].push(document);
            if left > needs {
                open.entry(left - needs).or_default().push(window);
            }
        }
        windows.iter_mut().for_each(|window| window.sort_unstable());
        windows.sort_unstable_by_key(|window| window[0]);
        let mut packed = Packed::default();
        for window in windows {
            packed.documents.extend(window);
            packed.ends.push(packed.documents.len() as u64);
        }
        packed
    }

    /// How many windows there are.
    pub fn windows(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The documents of a window.
    ///
    /// # Panics
    /// If there is no such window.
    pub fn window(&self, index: u64) -> &[u64] {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.documents[start as usize..self.ends[index] as usize]
    }
}

/// Takes a window that has `left` rows left.
fn pop(open: &mut BTreeMap<usize, Vec<usize>>, left: usize) -> usize {
    let windows = open.get_mut(&left).expect("the key was just found");
    let window = windows.pop().expect("an empty list is removed");
    if windows.is_empty() {
        open.remove(&left);
    }
    window
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(packed: &Packed) -> Vec<&[u64]> {
        (0..packed.windows()).map(|index| packed.window(index)).collect()
    }

    #[test]
    fn the_fullest_window_with_room_is_taken() {
        // Longest first: 7 and 6 open windows; 4 goes to the 6 and fills it, 3 to the 7, and both 2 together.
        let packed = Packed::new(&[2, 7, 0, 4, 3, 6, 2], 10);
        assert_eq!(windows(&packed), [&[0, 6][..], &[1, 4], &[3, 5]]);
    }

    proptest! {
        #[test]
        fn every_document_is_in_one_window_and_fits(rows in proptest::collection::vec(0u32..=40, 0..300)) {
            let packed = Packed::new(&rows, 40);
            let mut seen: Vec<u64> = Vec::new();
            for window in windows(&packed) {
                prop_assert!(window.iter().map(|&at| rows[at as usize]).sum::<u32>() <= 40);
                prop_assert!(window.windows(2).all(|pair| pair[0] < pair[1]));
                seen.extend(window);
            }
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq((0..rows.len() as u64).filter(|&at| rows[at as usize] > 0)));
            // Two windows at most half full would have been one.
            let filled = |window: &[u64]| window.iter().map(|&at| rows[at as usize]).sum::<u32>();
            let half_full = windows(&packed).into_iter().filter(|window| filled(window) <= 20).count();
            prop_assert!(half_full <= 1, "{half_full} windows are at most half full");
        }
    }
}
