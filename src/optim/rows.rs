//! Some rows of a matrix.

use std::ops::Range;

/// Some rows of a matrix.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Elements of a row.
    pub elements: usize,
    /// Whether the row of this number is one of them.
    pub has: &'a (dyn Fn(usize) -> bool + Sync),
}

impl Rows<'_> {
    /// Calls `with` for every run of elements among some that is of these rows.
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
