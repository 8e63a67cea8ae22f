//! The rows of an embedding that tokens name.
//!
//! An embedding that is not the head's, too, goes up for its rows alone, and a step names few of them: so these are gathered,
//! once for all its micro-batches, and a batch says of each token which of the gathered rows is its own. What is
//! computed from them has the bits that the whole table would give.
//!
//! The issuing thread gathers them before it issues a list. Of a list whose tokens were announced a step earlier, AdamW
//! of that step gathers them as soon as it has updated them.

use crate::host::{HostSpan, Pool};

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
    pub fn find(&self, tokens: HostSpan, numbers: HostSpan) -> bool {
        (0..tokens.bytes() / size_of::<i32>()).all(|row| {
            let number = self.number[tokens.get::<i32>(row) as usize];
            numbers.part(row * size_of::<i32>(), size_of::<i32>()).write(&[number]);
            number != NONE
        })
    }

    /// Copies the rows of the numbered tokens out of a table, in the order of their numbers, by the pool's threads.
    pub fn gather(&self, table: HostSpan, to: HostSpan, row_bytes: usize, pool: &Pool) {
        pool.run(self.len().div_ceil(TILE), &|_, tile| {
            let rows = tile * TILE..self.len().min((tile + 1) * TILE);
            for (row, &token) in rows.clone().zip(&self.tokens[rows]) {
                let from = table.part(token as usize * row_bytes, row_bytes);
                to.part(row * row_bytes, row_bytes).copy(from);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Arena, MemoryKind, Topology};

    #[test]
    fn every_token_finds_its_own_row_among_the_gathered() {
        const ROW: usize = 6;
        let (vocabulary, counts) = (300, [1, 7, 500]);
        let pool = Pool::over(3, &Topology::read()).unwrap();
        let arena = Arena::take(16 << 10, MemoryKind::Plain).unwrap();
        let table = arena.whole().part(0, vocabulary * ROW);
        let words: Vec<u16> = (0..vocabulary * ROW / 2).map(|at| (at * 7 + 3) as u16).collect();
        table.write(&words);
        let mut numbers = Numbers::of(vocabulary);
        // The same memory serves list after list.
        for round in 0..3 {
            numbers.clear();
            let mut offset = vocabulary * ROW;
            let mut place = |bytes: usize| {
                offset += bytes;
                arena.whole().part(offset - bytes, bytes)
            };
            let to = place(vocabulary * ROW);
            let mut batches = Vec::new();
            for count in counts {
                let tokens: Vec<i32> = (0..count).map(|row| (row * row + round * 11) % 97 * 3).collect();
                let [staged, found] = [0; 2].map(|_| place(4 * count as usize));
                staged.write(&tokens);
                assert!(!numbers.find(staged, found), "a batch has tokens that no batch before it had");
                tokens.iter().for_each(|&token| numbers.add(token));
                assert!(numbers.find(staged, found));
                batches.push((tokens, found));
            }
            numbers.gather(table, to, ROW, &pool);
            let distinct: std::collections::BTreeSet<i32> =
                batches.iter().flat_map(|(tokens, _)| tokens.iter().copied()).collect();
            assert_eq!(numbers.len(), distinct.len());
            for (tokens, found) in &batches {
                for (row, &token) in tokens.iter().enumerate() {
                    let number = found.get::<i32>(row) as usize;
                    let row_of = |span: HostSpan, row: usize| {
                        let mut words = [0u16; ROW / 2];
                        span.part(row * ROW, ROW).read(&mut words);
                        words
                    };
                    assert!(number < numbers.len());
                    assert_eq!(row_of(to, number), row_of(table, token as usize), "token {token}");
                }
            }
        }
    }
}
