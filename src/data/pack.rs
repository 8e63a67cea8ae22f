//! Packs whole documents into windows with little padding.
//!
//! Best-fit decreasing: documents are taken longest first, each into the fullest window with enough
//! space (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830). The
//! result depends only on the documents' lengths and order. Documents within a window keep the
//! order of the file; windows are sorted by their first document.

use std::collections::BTreeMap;

/// Documents by window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Document numbers, window by window.
    documents: Vec<u64>,
    /// For each window, the end of its range in `documents`.
    ends: Vec<u64>,
}

impl Packed {
    /// Packs documents. `rows` is the number of token rows of each document; documents of 0 rows
    /// are skipped. A window holds `rows_max` rows.
    ///
    /// # Panics
    /// If a document has more than `rows_max` rows.
    pub fn new(rows: &[u32], rows_max: usize) -> Packed {
        let mut by_length: Vec<u64> = (0..rows.len() as u64).filter(|&at| rows[at as usize] > 0).collect();
        by_length.sort_by_key(|&at| std::cmp::Reverse(rows[at as usize]));
        let mut windows: Vec<Vec<u64>> = Vec::new();
        // Windows by the number of free rows.
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for document in by_length {
            let needs = rows[document as usize] as usize;
            assert!(needs <= rows_max, "document {document} has {needs} rows, a window holds {rows_max}");
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

    /// Number of windows.
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

/// Removes and returns a window with `left` free rows.
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
    fn the_fullest_window_with_enough_space_is_taken() {
        // Longest first: 7 and 6 open windows; 4 joins 6 and fills the window, 3 joins 7, and the
        // two 2s share a window.
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
            // Best fit would have merged two windows that are at most half full.
            let filled = |window: &[u64]| window.iter().map(|&at| rows[at as usize]).sum::<u32>();
            let half_full = windows(&packed).into_iter().filter(|window| filled(window) <= 20).count();
            prop_assert!(half_full <= 1, "{half_full} windows are at most half full");
        }
    }
}
