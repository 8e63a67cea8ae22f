//! Tokenized documents in memory.

use xxhash_rust::xxh3::Xxh3;

use crate::data::fingerprint::hash_numbers;
use crate::data::tokenizer::Encoded;
use crate::data::turn_ends::TurnEnds;

/// Documents, concatenated.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    tokens: Vec<i32>,
    /// Bit t % 8 of byte t / 8 is 1 if token t is supervised.
    supervised: Vec<u8>,
    /// Index of each document's first token; increasing, the first 0.
    starts: Vec<u64>,
    turn_ends: TurnEnds,
}

impl Documents {
    /// Appends a document; an empty one is ignored.
    ///
    /// # Panics
    /// If `tokens` and `supervised` differ in length.
    pub fn push(&mut self, document: &Encoded) {
        assert_eq!(document.tokens.len(), document.supervised.len());
        if document.tokens.is_empty() {
            return;
        }
        self.starts.push(self.tokens.len() as u64);
        for (&token, &supervised) in document.tokens.iter().zip(&document.supervised) {
            push_bit(&mut self.supervised, self.tokens.len(), supervised);
            self.tokens.push(token);
        }
    }

    /// All tokens.
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Loss mask: bit t % 8 of byte t / 8 is 1 if token t is supervised.
    pub fn supervised(&self) -> &[u8] {
        &self.supervised
    }

    /// Index of each document's first token; increasing, the first 0.
    pub fn starts(&self) -> &[u64] {
        &self.starts
    }

    /// Special tokens that end trained turns.
    pub fn turn_ends(&self) -> &TurnEnds {
        &self.turn_ends
    }

    /// Notes a special token that ends a trained turn.
    pub fn ends_turn(&mut self, token: i32) {
        self.turn_ends.insert(token);
    }

    /// Hash of tokens, loss mask and document starts.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        let counts = [self.tokens.len() as u64, self.starts.len() as u64];
        hash_numbers(&mut hash, &counts, u64::to_le_bytes);
        hash_numbers(&mut hash, &self.tokens, i32::to_le_bytes);
        hash_numbers(&mut hash, &self.starts, u64::to_le_bytes);
        hash.update(&self.supervised);
        hash.digest()
    }

    /// Splits into training and validation documents; every `nth` document (the nth, the 2nth, …)
    /// is for validation.
    pub fn hold_out(&self, nth: usize) -> (Documents, Documents) {
        let (mut training, mut validation) = (Documents::default(), Documents::default());
        for (index, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(index + 1).map_or(self.tokens.len(), |&end| end as usize);
            let document = Encoded {
                tokens: self.tokens[start as usize..end].to_vec(),
                supervised: (start..end as u64).map(|at| bit(&self.supervised, at)).collect(),
            };
            if (index + 1) % nth == 0 { validation.push(&document) } else { training.push(&document) }
        }
        (training, validation)
    }
}

/// Returns bit `at`.
pub fn bit(bits: &[u8], at: u64) -> bool {
    bits[(at / 8) as usize] >> (at % 8) & 1 == 1
}

/// Appends a bit; `at` is the number of bits so far.
pub fn push_bit(bits: &mut Vec<u8>, at: usize, bit: bool) {
    if at.is_multiple_of(8) {
        bits.push(0);
    }
    if let Some(last) = bits.last_mut() {
        *last |= u8::from(bit) << (at % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_document_is_held_out_whole() {
        let mut documents = Documents::default();
        for (first, length) in [(10, 3), (20, 1), (30, 0), (40, 9), (50, 2)] {
            let tokens: Vec<i32> = (first..first + length).collect();
            let supervised = tokens.iter().map(|token| token % 2 == 0).collect();
            documents.push(&Encoded { tokens, supervised });
        }
        assert_eq!(documents.starts(), [0, 3, 4, 13]);
        assert!(
            (0..15).all(|at| bit(documents.supervised(), at) == (documents.tokens()[at as usize] % 2 == 0))
        );
        let (training, validation) = documents.hold_out(2);
        assert_eq!((training.tokens().len(), training.starts()), (12, &[0, 3][..]));
        assert_eq!((validation.tokens(), validation.starts()), (&[20, 50, 51][..], &[0, 1][..]));
        assert!((0..3).map(|at| bit(validation.supervised(), at)).eq([true, true, false]));
    }
}
