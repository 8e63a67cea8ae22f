//! Decodes a text token by token.

use super::Tokenizer;
use crate::base::Result;

/// Decodes tokens one by one.
#[derive(Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens. They are decoded together with the next one, since a tokenizer may drop a
    /// space at the beginning of a text.
    tokens: Vec<u32>,
    /// Text of these tokens that has been returned.
    text: String,
}

impl<'a> Decoder<'a> {
    /// Tokens of context, at least.
    const CONTEXT: usize = 8;

    pub(super) fn new(tokenizer: &'a Tokenizer) -> Decoder<'a> {
        Decoder { tokenizer, tokens: Vec::new(), text: String::new() }
    }

    pub(super) fn after(tokenizer: &'a Tokenizer, prompt: &[i32]) -> Result<Decoder<'a>> {
        let tokens = prompt.iter().filter_map(|&token| u32::try_from(token).ok()).collect();
        let mut decoder = Decoder { tokenizer, tokens, text: String::new() };
        if !tokenizer.is_bytes() {
            decoder.shorten()?;
        }
        Ok(decoder)
    }

    /// Returns the bytes that a token adds to the text; none while a character is incomplete.
    /// Special tokens have no text.
    pub fn push(&mut self, token: usize) -> Result<Vec<u8>> {
        if self.tokenizer.is_bytes() {
            return Ok(u8::try_from(token).into_iter().collect());
        }
        self.tokens.extend(u32::try_from(token));
        let text = self.tokenizer.decode(&self.tokens)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(Vec::new());
        }
        // Bytes that turn out to be invalid change the characters before them.
        let same = self.text.chars().zip(text.chars()).take_while(|(old, new)| old == new);
        let same: usize = same.map(|(_, character)| character.len_utf8()).sum();
        let added = text.as_bytes()[same..].to_vec();
        self.text = text;
        if self.tokens.len() > 2 * Self::CONTEXT {
            self.shorten()?;
        }
        Ok(added)
    }

    /// Removes the first tokens. Those left begin with a whole character and have a text.
    fn shorten(&mut self) -> Result<()> {
        let mut kept = Self::CONTEXT;
        loop {
            let start = self.tokens.len().saturating_sub(kept);
            let text = self.tokenizer.decode(&self.tokens[start..])?;
            if start == 0 || !(text.is_empty() || text.starts_with(char::REPLACEMENT_CHARACTER)) {
                self.tokens.drain(..start);
                self.text = text;
                return Ok(());
            }
            kept *= 2;
        }
    }
}
