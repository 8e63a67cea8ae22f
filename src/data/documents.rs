//! Tokens in memory, document after document.

use crate::data::tokenizer::Encoded;

/// Documents laid end to end.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    tokens: Vec<i32>,
    /// Bit t % 8 of byte t / 8: whether token t is supervised.
    supervised: Vec<u8>,
    /// Where each document starts; increasing, the first 0.
    starts: Vec<u64>,
}

impl Documents {
    /// Appends a document; an empty one leaves no trace.
    ///
    /// # Panics
    /// If not every token says whether it is supervised.
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

    /// Which tokens are supervised, a bit each.
    pub fn supervised(&self) -> &[u8] {
        &self.supervised
    }

    /// Where each document starts; increasing, the first 0.
    pub fn starts(&self) -> &[u64] {
        &self.starts
    }

    /// Takes out every `nth` document (the nth, the 2nth, …), for validation.
    pub fn hold_out(&self, nth: usize) -> (Documents, Documents) {
        let (mut kept, mut held) = (Documents::default(), Documents::default());
        for (index, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(index + 1).map_or(self.tokens.len(), |&end| end as usize);
            let document = Encoded {
                tokens: self.tokens[start as usize..end].to_vec(),
                supervised: (start..end as u64).map(|at| bit(&self.supervised, at)).collect(),
            };
            if (index + 1) % nth == 0 { held.push(&document) } else { kept.push(&document) }
        }
        (kept, held)
    }
}

/// Bit `at`.
pub fn bit(bits: &[u8], at: u64) -> bool {
    bits[(at / 8) as usize] >> (at % 8) & 1 == 1
}

/// Appends bit `at` to the bits before it.
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
        let (kept, held) = documents.hold_out(2);
        assert_eq!((kept.tokens().len(), kept.starts()), (12, &[0, 3][..]));
        assert_eq!((held.tokens(), held.starts()), (&[20, 50, 51][..], &[0, 1][..]));
        assert!(bit(held.supervised(), 0) && bit(held.supervised(), 1) && !bit(held.supervised(), 2));
    }
}
