//! `horizon tokenize --show`: documents as text, with the tokens that are trained on marked.

use std::io::{IsTerminal, stdout};

use horizon::base::Result;
use horizon::base::format::{escaped, several};
use horizon::data::tokenizer::{Encoded, Tokenizer};

/// Of a longer document, the tokens shown at its beginning and at its end.
const SHOWN: usize = 2000;

/// Text before and after trained tokens: colors on a terminal, else brackets.
pub struct Marks(&'static str, &'static str);

impl Marks {
    /// The marks for standard output.
    pub fn here() -> Marks {
        let colors = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        if colors { Marks("\x1b[32m", "\x1b[0m") } else { Marks("⟦", "⟧") }
    }

    /// A document's number, its counts and its text. Special tokens are shown by name, control
    /// characters escaped.
    pub fn document(&self, number: u64, document: &Encoded, tokenizer: &Tokenizer) -> Result<String> {
        let tokens = document.tokens.len();
        let trained = document.supervised.iter().filter(|supervised| **supervised).count();
        let mut text = format!("document {number}: {}, {trained} trained on\n", several(tokens, "token"));
        if tokens <= 2 * SHOWN {
            text += &self.marked(document, 0..tokens, tokenizer)?;
        } else {
            text += &self.marked(document, 0..SHOWN, tokenizer)?;
            text += &format!("\n… {} …\n", several(tokens - 2 * SHOWN, "token"));
            text += &self.marked(document, tokens - SHOWN..tokens, tokenizer)?;
        }
        Ok(text + "\n\n")
    }

    fn marked(
        &self,
        document: &Encoded,
        range: std::ops::Range<usize>,
        tokenizer: &Tokenizer,
    ) -> Result<String> {
        let Marks(begin, end) = self;
        let (mut text, mut decoder) = (String::new(), tokenizer.decoder());
        let trained = document.supervised[range.clone()].chunk_by(|one, next| one == next);
        let mut tokens = document.tokens[range].iter().map(|&token| token as usize);
        for run in trained {
            let mut bytes = Vec::new();
            for token in tokens.by_ref().take(run.len()) {
                match tokenizer.special(token) {
                    Some(name) => bytes.extend(name.into_bytes()),
                    None => bytes.extend(decoder.push(token)?),
                }
            }
            let shown = escaped(&String::from_utf8_lossy(&bytes), "\n");
            text += &if run[0] { format!("{begin}{shown}{end}") } else { shown };
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tokens: &[u8], supervised: &[bool]) -> String {
        let tokens = tokens.iter().map(|&byte| i32::from(byte)).collect();
        let document = Encoded { tokens, supervised: supervised.to_vec() };
        Marks("[", "]").document(3, &document, &Tokenizer::bytes()).unwrap()
    }

    #[test]
    fn trained_tokens_are_marked_and_control_characters_escaped() {
        let supervised = [false, false, true, true, true, false, true];
        assert_eq!(
            shown(b"ab\x1b\nc\td", &supervised),
            "document 3: 7 tokens, 4 trained on\nab[\\u{1b}\nc]\\t[d]\n\n"
        );
        assert_eq!(shown(b"a", &[false]), "document 3: 1 token, 0 trained on\na\n\n");
    }

    #[test]
    fn a_long_document_is_shown_at_both_ends() {
        let text = shown(&[b'x'; 2 * SHOWN + 1], &[true; 2 * SHOWN + 1]);
        let end = format!("[{}]", "x".repeat(SHOWN));
        assert_eq!(text, format!("document 3: 4001 tokens, 4001 trained on\n{end}\n… 1 token …\n{end}\n\n"));
    }
}
