//! A subset of the rows of a matrix.

use std::ops::Range;

/// A subset of the rows of a matrix.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Elements of a row.
    pub elements: usize,
    /// Returns true for the numbers of rows in the subset.
    pub has: &'a (dyn Fn(usize) -> bool + Sync),
}

impl Rows<'_> {
    /// Calls `with` for every contiguous run of the subset's elements within `among`.
    pub(super) fn runs(&self, among: Range<usize>, mut with: impl FnMut(Range<usize>)) {
        let end_of = |row: usize| ((row + 1) * self.elements).min(among.end);
        let mut start = among.start;
        while start < among.end {
            let (first, mut end) = (start / self.elements, start);
            let is_in = (self.has)(first);
            while end < among.end && (self.has)(end / self.elements) == is_in {
                end = end_of(end / self.elements);
            }
            if is_in {
                with(start..end);
            }
            start = end;
        }
    }
}
