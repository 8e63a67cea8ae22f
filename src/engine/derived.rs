//! Arrays that kernels need in addition to a batch's own: positions, document bounds and the rows
//! of each token. Computed on the host, once per batch.

use crate::base::{Result, Shape, filled};
use crate::engine::Batch;

/// The rows of a micro-batch by document and by token. The buffers are reused for every batch. The
/// fields are those of [`Rows`](crate::ops::Rows) and [`TokenRows`](crate::ops::TokenRows).
#[derive(Debug)]
pub struct Derived {
    shape: Shape,
    /// `[N]`
    pub positions: Vec<i32>,
    /// `[N]`
    pub doc_start: Vec<i32>,
    /// `[N]`
    pub doc_end: Vec<i32>,
    /// `[N]`
    pub order: Vec<i32>,
    /// `[N + 1]`; N from `distinct` on.
    pub first: Vec<i32>,
    /// Number of distinct tokens.
    pub distinct: usize,
}

impl Derived {
    /// Allocates for batches of a shape.
    pub fn new(shape: Shape) -> Result<Self> {
        let n = shape.n();
        Ok(Derived {
            shape,
            positions: filled(0, n)?,
            doc_start: filled(0, n)?,
            doc_end: filled(0, n)?,
            order: filled(0, n)?,
            first: filled(0, n + 1)?,
            distinct: 0,
        })
    }

    /// Computes the arrays of a checked batch.
    pub fn fill(&mut self, batch: &Batch) {
        self.documents(batch.starts);
        self.sort(batch.tokens);
    }

    fn documents(&mut self, starts: Option<&[i32]>) {
        let (n, t) = (self.shape.n(), self.shape.t);
        for row in 0..n {
            let start = starts.map_or(0, |starts| starts[row]);
            self.positions[row] = (row % t) as i32 - start;
            self.doc_start[row] = (row - row % t) as i32 + start;
        }
        let mut end = n as i32;
        for row in (0..n).rev() {
            self.doc_end[row] = end;
            if self.positions[row] == 0 {
                end = row as i32;
            }
        }
    }

    fn sort(&mut self, tokens: &[i32]) {
        let token = |row: i32| tokens[row as usize];
        self.order.iter_mut().zip(0..).for_each(|(entry, row)| *entry = row);
        self.order.sort_unstable_by_key(|&row| (token(row), row));
        self.first.fill(self.order.len() as i32);
        self.distinct = 0;
        for (index, row) in self.order.iter().enumerate() {
            if index == 0 || token(self.order[index - 1]) != token(*row) {
                self.first[self.distinct] = index as i32;
                self.distinct += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(shape: Shape, tokens: &[i32], starts: Option<&[i32]>) -> Derived {
        let mut derived = Derived::new(shape).unwrap();
        // An earlier batch must leave no trace.
        let other: Vec<i32> = (0..shape.n() as i32).map(|row| row % shape.t as i32).collect();
        derived.fill(&Batch { starts: Some(&other), ..Batch::new(&other, &other) });
        derived.fill(&Batch { starts, ..Batch::new(tokens, tokens) });
        derived
    }

    #[test]
    fn documents_begin_anew_and_end_where_the_next_begins() {
        let shape = Shape { b: 2, t: 5 };
        let found = derived(shape, &[0; 10], Some(&[0, 0, 2, 2, 4, 0, 0, 0, 0, 0]));
        assert_eq!(found.positions, [0, 1, 0, 1, 0, 0, 1, 2, 3, 4]);
        assert_eq!(found.doc_start, [0, 0, 2, 2, 4, 5, 5, 5, 5, 5]);
        assert_eq!(found.doc_end, [2, 2, 4, 4, 5, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn without_documents_every_sequence_is_one() {
        let found = derived(Shape { b: 3, t: 2 }, &[0; 6], None);
        assert_eq!(found.positions, [0, 1, 0, 1, 0, 1]);
        assert_eq!(found.doc_start, [0, 0, 2, 2, 4, 4]);
        assert_eq!(found.doc_end, [2, 2, 4, 4, 6, 6]);
    }

    #[test]
    fn rows_are_sorted_by_token_and_stay_in_order_within_one() {
        let found = derived(Shape { b: 1, t: 7 }, &[4, 1, 4, 9, 1, 4, 0], None);
        assert_eq!(found.order, [6, 1, 4, 0, 2, 5, 3]);
        assert_eq!(found.first, [0, 1, 3, 6, 7, 7, 7, 7]);
        assert_eq!(found.distinct, 4);
    }

    #[test]
    fn all_rows_of_one_token_and_every_row_another() {
        assert_eq!(derived(Shape { b: 2, t: 1 }, &[5, 5], None).first, [0, 2, 2]);
        let found = derived(Shape { b: 1, t: 3 }, &[2, 1, 0], None);
        assert_eq!((found.order, found.first, found.distinct), (vec![2, 1, 0], vec![0, 1, 2, 3], 3));
    }
}
