//! The rows of an embedding that tokens name.
//!
//! An embedding that is not the head's, too, goes up for its rows alone, and a step names few of them: so these are gathered,
//! once for all its micro-batches, and a batch says of each token which of the gathered rows is its own. What is
//! computed from them has the bits that the whole table would give.
//!
//! The issuing thread gathers them before it issues a list. Of a list whose tokens were announced a step earlier, AdamW
//! of that step gathers them as soon as it has updated them.

use crate::host::Pool;

/// Rows that a thread copies at a time.
const TILE: usize = 64;
/// The number of a token that has none.
const NONE: i32 = -1;

/// Distinct tokens, numbered in the order they are met in.
#[derive(Debug, Default)]
pub struct Numbers {
    /// By token.
    number: Vec<i32>,
    /// By number.
    tokens: Vec<i32>,
}

impl Numbers {
    /// Of a vocabulary of so many tokens.
    pub fn of(vocabulary: usize) -> Self {
        Numbers { number: vec![NONE; vocabulary], tokens: Vec::with_capacity(vocabulary) }
    }

    /// How many tokens have a number.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether a token has one.
    pub fn has(&self, token: usize) -> bool {
        self.number[token] != NONE
    }

    /// Takes all numbers back.
    pub fn clear(&mut self) {
        for token in self.tokens.drain(..) {
            self.number[token as usize] = NONE;
        }
    }

    /// Numbers a token that has no number yet.
    ///
    /// # Panics
    /// If it is not of the vocabulary.
    pub fn add(&mut self, token: i32) {
        let number = &mut self.number[token as usize];
        if *number == NONE {
            *number = self.tokens.len() as i32;
            self.tokens.push(token);
        }
    }

    /// Writes the number of each token, i32 `[N]`, as i32 `[N]`; false, and some are not written, if a token has none.
    pub fn find(&self, tokens: &[i32], numbers: &mut [i32]) -> bool {
        tokens.iter().zip(numbers).all(|(token, number)| {
            *number = self.number[*token as usize];
            *number != NONE
        })
    }

    /// Copies the rows of the numbered tokens out of a table, in the order of their numbers, by the pool's threads.
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
        let mut numbers = Numbers::of(vocabulary);
        // The same memory serves list after list.
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
