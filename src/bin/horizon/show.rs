//! `horizon tokenize --show`: documents as text, with the tokens that are trained on marked.

use std::io::{IsTerminal, stdout};

use horizon::base::Result;
use horizon::base::format::{escaped, several};
use horizon::data::tokenizer::{Decoder, Encoded, Tokenizer};

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

    /// A document's number, its counts and its text, or its token ids without a tokenizer. Special
    /// tokens are shown by name; control and invisible characters, and the marks, are escaped.
    pub fn document(&self, number: u64, document: &Encoded, tokenizer: Option<&Tokenizer>) -> Result<String> {
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
        Ok(format!("{}\n\n", text.trim_end_matches('\n')))
    }

    fn marked(
        &self,
        document: &Encoded,
        range: std::ops::Range<usize>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<String> {
        let Marks(begin, end) = self;
        let (mut texts, mut decoder) = (Vec::new(), tokenizer.map(Tokenizer::decoder));
        let mut tokens = &document.tokens[range.clone()];
        for run in document.supervised[range].chunk_by(|one, next| one == next) {
            let (here, rest) = tokens.split_at(run.len());
            tokens = rest;
            let shown = match (tokenizer, &mut decoder) {
                (Some(tokenizer), Some(decoder)) => self.text(here, tokenizer, decoder)?,
                _ => here.iter().map(i32::to_string).collect::<Vec<_>>().join(" "),
            };
            texts.push(if run[0] { format!("{begin}{shown}{end}") } else { shown });
        }
        Ok(texts.join(if tokenizer.is_some() { "" } else { " " }))
    }

    fn text(&self, tokens: &[i32], tokenizer: &Tokenizer, decoder: &mut Decoder) -> Result<String> {
        let mut bytes = Vec::new();
        for token in tokens.iter().map(|&token| token as usize) {
            match tokenizer.special(token) {
                Some(name) => bytes.extend(name.into_bytes()),
                None => bytes.extend(decoder.push(token)?),
            }
        }
        let text = escaped(&String::from_utf8_lossy(&bytes), "\n");
        let is_mark = |c: char| [self.0, self.1].iter().any(|mark| mark.chars().eq([c]));
        let escape = |c: char| if is_mark(c) { c.escape_unicode().to_string() } else { c.to_string() };
        Ok(text.chars().map(escape).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tokens: &[u8], supervised: &[bool]) -> String {
        let tokens = tokens.iter().map(|&byte| i32::from(byte)).collect();
        let document = Encoded { tokens, supervised: supervised.to_vec() };
        Marks("[", "]").document(3, &document, Some(&Tokenizer::bytes())).unwrap()
    }

    #[test]
    fn marks_and_invisible_characters_of_a_text_are_escaped() {
        let text = "a[\u{202e}b\u{200b}]\n\n\n";
        let shown = shown(text.as_bytes(), &vec![false; text.len()]);
        assert_eq!(shown.lines().nth(1), Some("a\\u{5b}\\u{202e}b\\u{200b}\\u{5d}"));
        assert!(shown.ends_with("}\n\n") && !shown.ends_with("\n\n\n"), "one empty line follows");
    }

    #[test]
    fn without_a_tokenizer_ids_are_shown() {
        let document = Encoded { tokens: vec![1, 200, 3], supervised: vec![false, true, true] };
        let text = Marks("[", "]").document(1, &document, None).unwrap();
        assert_eq!(text, "document 1: 3 tokens, 2 trained on\n1 [200 3]\n\n");
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
