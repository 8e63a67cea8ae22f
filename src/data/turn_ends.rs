//! Special tokens that end trained turns. A model trained on them stops there, so an export names
//! them in `generation_config.json`, of which a base model knows the end of a text only.

use std::collections::BTreeSet;

use crate::data::encode::Encoder;
use crate::data::rows::Row;
use crate::data::tokenizer::Encoded;

/// Token ids.
pub type TurnEnds = BTreeSet<i32>;

impl Encoder {
    /// Returns the special tokens that end the trained turns of a row. Rows of text have no turns,
    /// and neither have rows of tokens of which nothing is masked.
    pub fn turn_ends(&self, row: &Row, encoded: &Encoded) -> TurnEnds {
        let Encoded { tokens, supervised, .. } = encoded;
        let has_turns = match row {
            Row::Text(_) => false,
            Row::Tokens(..) => supervised.contains(&false),
            Row::Pair(..) | Row::Chat(_) | Row::Instruction(..) => true,
        };
        if !has_turns {
            return TurnEnds::new();
        }
        let is_last = |&at: &usize| supervised[at] && supervised.get(at + 1) != Some(&true);
        let last = (0..tokens.len()).filter(is_last).map(|at| tokens[at]);
        let Ok(tokenizer) = self.tokenizer() else { return TurnEnds::new() };
        last.filter(|&token| tokenizer.is_special(token as usize)).collect()
    }
}
