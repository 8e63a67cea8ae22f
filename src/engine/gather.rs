//! Gathering of embedding rows.
//!
//! When the embedding is not tied to the LM head, only the rows used in a step are uploaded. They
//! are gathered once for all micro-batches of the step, and each token of a batch is mapped to its
//! gathered row. Results have the bits that the whole table would give.
//!
//! The issuing thread gathers before it issues a list. If the tokens of a step were announced a
//! step earlier, AdamW of that earlier step gathers their rows as soon as it has updated them.

use crate::base::{Result, filled, with_capacity};
use crate::host::Pool;

/// Rows per tile of the thread pool.
const TILE: usize = 64;
/// Marks a token without a number.
const NONE: i32 = -1;

/// Distinct tokens, numbered in order of first occurrence. The number of a token is its gathered
/// row.
#[derive(Debug, Default)]
pub struct Numbers {
    /// By token.
    number: Vec<i32>,
    /// By number.
    tokens: Vec<i32>,
}

impl Numbers {
    /// An empty set of tokens, for a vocabulary of this size.
    pub fn of(vocabulary: usize) -> Result<Self> {
        Ok(Numbers { number: filled(NONE, vocabulary)?, tokens: with_capacity(vocabulary)? })
    }

    /// The number of distinct tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns true if the token has a number.
    pub fn has(&self, token: usize) -> bool {
        self.number[token] != NONE
    }

    /// Removes all tokens.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Removes the tokens with numbers of at least `len`.
    pub fn truncate(&mut self, len: usize) {
        for token in self.tokens.drain(len..) {
            self.number[token as usize] = NONE;
        }
    }

    /// Adds a token, unless it has a number already.
    ///
    /// # Panics
    /// If it is outside the vocabulary.
    pub fn add(&mut self, token: i32) {
        let number = &mut self.number[token as usize];
        if *number == NONE {
            *number = self.tokens.len() as i32;
            self.tokens.push(token);
        }
    }

    /// Writes the number of each token (both i32 `[N]`). Returns false, with some numbers
    /// unwritten, if a token has none.
    pub fn find(&self, tokens: &[i32], numbers: &mut [i32]) -> bool {
        tokens.iter().zip(numbers).all(|(token, number)| {
            *number = self.number[*token as usize];
            *number != NONE
        })
    }

    /// Copies the rows of all tokens from a table, in order of their numbers, with the pool's
    /// threads.
    pub fn gather(&self, table: &[u8], to: &mut [u8], row_bytes: usize, pool: &Pool) {
        pool.run_chunks(&mut to[..self.len() * row_bytes], TILE * row_bytes, &|tile, rows| {
            for (row, &token) in rows.chunks_exact_mut(row_bytes).zip(&self.tokens[tile * TILE..]) {
                row.copy_from_slice(&table[token as usize * row_bytes..][..row_bytes]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Topology;

    #[test]
    fn every_token_finds_its_own_row_among_the_gathered() {
        const ROW: usize = 6;
        let (vocabulary, counts) = (300, [1, 7, 500]);
        let pool = Pool::over(3, &Topology::read()).unwrap();
        let table: Vec<u8> = (0..vocabulary * ROW).map(|at| (at * 7 + at / 256 + 3) as u8).collect();
        let mut numbers = Numbers::of(vocabulary).unwrap();
        // Lists reuse the same memory.
        for round in 0..3 {
            numbers.clear();
            let mut to = vec![0; vocabulary * ROW];
            let mut batches = Vec::new();
            for count in counts {
                let tokens: Vec<i32> = (0..count).map(|row| (row * row + round * 11) % 97 * 3).collect();
                let mut found = vec![0; tokens.len()];
                assert!(!numbers.find(&tokens, &mut found), "a batch has tokens that no batch before it had");
                tokens.iter().for_each(|&token| numbers.add(token));
                assert!(numbers.find(&tokens, &mut found));
                batches.push((tokens, found));
            }
            numbers.gather(&table, &mut to, ROW, &pool);
            let distinct: std::collections::BTreeSet<i32> =
                batches.iter().flat_map(|(tokens, _)| tokens.iter().copied()).collect();
            assert_eq!(numbers.len(), distinct.len());
            for (tokens, found) in &batches {
                for (row, &token) in tokens.iter().enumerate() {
                    let number = found[row] as usize;
                    assert!(number < numbers.len());
                    let [got, want] =
                        [(&to, number), (&table, token as usize)].map(|(of, row)| &of[row * ROW..][..ROW]);
                    assert_eq!(got, want, "token {token}");
                }
            }
        }
    }
}
