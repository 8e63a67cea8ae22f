//! The token stream of a source and its windows.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::base::{IGNORED_TARGET, Result};
use crate::data::documents::{Documents, bit};
use crate::data::fingerprint::hash_numbers;
use crate::data::pack::Packed;
use crate::data::token_file::{Mask as FileMask, TokenFile};
use crate::data::turn_ends::TurnEnds;

/// Tokens in memory or in a file.
#[derive(Debug)]
pub enum Tokens {
    /// Tokenized documents in memory.
    Memory(Documents),
    /// A token file.
    File(TokenFile),
}

impl Tokens {
    /// Number of tokens.
    pub fn count(&self) -> u64 {
        match self {
            Tokens::Memory(documents) => documents.tokens().len() as u64,
            Tokens::File(file) => file.tokens(),
        }
    }

    /// Index of each document's first token; empty for a file without document starts.
    pub fn starts(&self) -> &[u64] {
        match self {
            Tokens::Memory(documents) => documents.starts(),
            Tokens::File(file) => file.starts(),
        }
    }

    /// Hash of all that is trained on.
    fn hash(&self) -> u64 {
        match self {
            Tokens::Memory(documents) => documents.hash(),
            Tokens::File(file) => file.hash(),
        }
    }

    /// Special tokens that end trained turns.
    pub fn turn_ends(&self) -> &TurnEnds {
        match self {
            Tokens::Memory(documents) => documents.turn_ends(),
            Tokens::File(file) => file.turn_ends(),
        }
    }

    /// Returns true if any token is a target.
    pub fn have_target(&self) -> Result<bool> {
        self.has_target(0..self.count(), &mut self.mask(0..self.count()))
    }

    /// Returns true if any token of a range is the target of the token before it.
    fn has_target(&self, range: Range<u64>, mask: &mut Mask) -> Result<bool> {
        any(range, |at| Ok(mask.is_supervised(at)? && self.starts().binary_search(&at).is_err()))
    }

    /// Returns the loss mask of a range of tokens.
    fn mask(&self, tokens: Range<u64>) -> Mask<'_> {
        match self {
            Tokens::Memory(documents) => Mask::Memory(documents.supervised()),
            Tokens::File(file) => file.mask(tokens).map_or(Mask::All, Mask::File),
        }
    }

    /// Copies tokens, starting at `start`, and the token after them.
    fn copy(&self, start: u64, out: &mut [i32], next: &mut i32) -> Result<()> {
        match self {
            Tokens::Memory(documents) => {
                let tokens = &documents.tokens()[start as usize..][..=out.len()];
                out.copy_from_slice(&tokens[..out.len()]);
                *next = tokens[out.len()];
                Ok(())
            }
            Tokens::File(file) => file.copy(start, out, next),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        match self {
            Tokens::Memory(_) => Ok(()),
            Tokens::File(file) => file.check_unchanged(),
        }
    }

    /// Returns a document's first token and the end of its range.
    fn document(&self, index: u64) -> (u64, u64) {
        let starts = self.starts();
        let end = starts.get(index as usize + 1).copied().unwrap_or(self.count());
        (starts[index as usize], end)
    }
}

/// The loss mask of tokens.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Mask<'a> {
    /// Every token is supervised.
    All,
    Memory(&'a [u8]),
    File(FileMask<'a>),
}

impl Mask<'_> {
    fn is_supervised(&mut self, at: u64) -> Result<bool> {
        match self {
            Mask::All => Ok(true),
            Mask::Memory(bits) => Ok(bit(bits, at)),
            Mask::File(mask) => mask.is_supervised(at),
        }
    }
}

/// Returns true if `is` is true for any index.
fn any(range: Range<u64>, mut is: impl FnMut(u64) -> Result<bool>) -> Result<bool> {
    for at in range {
        if is(at)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Documents truncated or skipped by packing, and windows of a token stream that are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Documents longer than a window; their first S + 1 tokens are used.
    pub truncated: u64,
    /// Tokens cut off from them.
    pub cut_tokens: u64,
    /// Documents without a supervised token in their window; they are skipped.
    pub targetless: u64,
    /// Windows of a token stream without a target; they are skipped.
    pub targetless_windows: u64,
}

impl std::ops::AddAssign for LeftOut {
    fn add_assign(&mut self, other: LeftOut) {
        self.truncated += other.truncated;
        self.cut_tokens += other.cut_tokens;
        self.targetless += other.targetless;
        self.targetless_windows += other.targetless_windows;
    }
}

/// Output buffers for one window, S elements each.
pub struct Cells<'a> {
    /// Token ids.
    pub tokens: &'a mut [i32],
    /// Next token, or [`IGNORED_TARGET`].
    pub targets: &'a mut [i32],
    /// Index in the window at which each token's document starts.
    pub starts: &'a mut [i32],
}

/// Counts of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Tokens that are not padding.
    pub rows: u64,
    /// (query, key) pairs of causal attention among these tokens.
    pub attention_pairs: u64,
}

/// Tokens with their windows.
#[derive(Debug)]
pub struct TokenStream {
    tokens: Tokens,
    seq_len: usize,
    windows: Windows,
    hash: u64,
}

#[derive(Debug)]
enum Windows {
    /// Window k of this number starts at token k · S.
    All(u64),
    /// Window k starts at token `kept[k]` · S: all windows except those without a target.
    Kept(Vec<u64>),
    /// Windows of whole documents.
    Packed(Packed),
}

impl TokenStream {
    /// Cuts consecutive windows of S tokens, across documents. Windows without a target are
    /// skipped.
    pub fn cut(tokens: Tokens, seq_len: usize) -> Result<(TokenStream, LeftOut)> {
        let s = seq_len as u64;
        let windows = tokens.count().saturating_sub(1) / s;
        let mut mask = tokens.mask(0..tokens.count());
        // The windows with a target, from the first without one on.
        let mut kept: Option<Vec<u64>> = None;
        for window in 0..windows {
            let range = window * s + 1..(window + 1) * s + 1;
            match (tokens.has_target(range, &mut mask)?, &mut kept) {
                (true, Some(kept)) => kept.push(window),
                (false, None) => kept = Some((0..window).collect()),
                _ => {}
            }
        }
        let targetless_windows = kept.as_ref().map_or(0, |kept| windows - kept.len() as u64);
        let windows = kept.map_or(Windows::All(windows), Windows::Kept);
        let left_out = LeftOut { targetless_windows, ..LeftOut::default() };
        Ok((TokenStream::new(tokens, seq_len, windows), left_out))
    }

    /// Packs whole documents into windows; a document longer than S + 1 tokens is truncated.
    pub fn packed(tokens: Tokens, seq_len: usize) -> Result<(TokenStream, LeftOut)> {
        let mut left_out = LeftOut::default();
        let mut mask = tokens.mask(0..tokens.count());
        let rows = (0..tokens.starts().len() as u64).map(|document| {
            let (start, end) = tokens.document(document);
            let rows = (end - start - 1).min(seq_len as u64);
            if !any(start + 1..start + rows + 1, |at| mask.is_supervised(at))? {
                left_out.targetless += 1;
                return Ok(0);
            }
            let cut = end - start - 1 - rows;
            left_out.truncated += u64::from(cut > 0);
            left_out.cut_tokens += cut;
            Ok(rows as u32)
        });
        let rows: Vec<u32> = rows.collect::<Result<_>>()?;
        let windows = Windows::Packed(Packed::new(&rows, seq_len));
        Ok((TokenStream::new(tokens, seq_len, windows), left_out))
    }

    fn new(tokens: Tokens, seq_len: usize, windows: Windows) -> TokenStream {
        let mut hash = Xxh3::new();
        let is_packed = matches!(windows, Windows::Packed(_));
        hash_numbers(&mut hash, &[tokens.hash(), seq_len as u64, is_packed.into()], u64::to_le_bytes);
        TokenStream { tokens, seq_len, windows, hash: hash.digest() }
    }

    /// The tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Hash of all windows: tokens, loss mask, document starts, S, and how they are cut.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of rows in all windows that are not padding.
    pub fn filled_rows(&self) -> u64 {
        let Windows::Packed(packed) = &self.windows else { return self.windows() * self.seq_len as u64 };
        let documents = (0..packed.windows()).flat_map(|window| packed.window(window));
        documents.map(|&document| self.document_rows(document)).sum()
    }

    /// Rows of a packed document: all its tokens except the last, which is only a target; at most
    /// S.
    fn document_rows(&self, document: u64) -> u64 {
        let (start, end) = self.tokens.document(document);
        (end - start - 1).min(self.seq_len as u64)
    }

    /// Number of windows.
    pub fn windows(&self) -> u64 {
        match &self.windows {
            Windows::All(windows) => *windows,
            Windows::Kept(kept) => kept.len() as u64,
            Windows::Packed(packed) => packed.windows(),
        }
    }

    /// Reads window `index`.
    pub fn window(&self, index: u64, cells: &mut Cells) -> Result<Filled> {
        let s = self.seq_len as u64;
        let filled = match &self.windows {
            Windows::All(_) => self.cut_window(index * s, cells),
            Windows::Kept(kept) => self.cut_window(kept[index as usize] * s, cells),
            Windows::Packed(packed) => self.packed_window(packed.window(index), cells),
        }?;
        self.tokens.check_unchanged()?;
        Ok(filled)
    }

    fn cut_window(&self, offset: u64, cells: &mut Cells) -> Result<Filled> {
        let s = self.seq_len;
        self.rows(offset, 0..s, cells)?;
        cells.starts.fill(0);
        let documents = self.tokens.starts();
        let first = documents.partition_point(|&start| start <= offset);
        for &start in documents[first..].iter().take_while(|&&start| start <= offset + s as u64) {
            let position = (start - offset) as usize;
            cells.targets[position - 1] = IGNORED_TARGET;
            cells.starts[position..].fill(position as i32);
        }
        let attention_pairs =
            cells.starts.iter().enumerate().map(|(t, &start)| t as u64 - start as u64 + 1).sum();
        Ok(Filled { rows: s as u64, attention_pairs })
    }

    fn packed_window(&self, documents: &[u64], cells: &mut Cells) -> Result<Filled> {
        let mut filled = Filled::default();
        let mut at = 0;
        for &document in documents {
            let (start, _) = self.tokens.document(document);
            let rows = self.document_rows(document) as usize;
            self.rows(start, at..at + rows, cells)?;
            cells.starts[at..at + rows].fill(at as i32);
            at += rows;
            filled.attention_pairs += (rows * (rows + 1) / 2) as u64;
        }
        filled.rows = at as u64;
        // A padding token attends only to itself, which is the cheapest.
        for t in at..self.seq_len {
            (cells.tokens[t], cells.targets[t], cells.starts[t]) = (0, IGNORED_TARGET, t as i32);
        }
        Ok(filled)
    }

    /// Copies tokens, starting at `start`, into rows `at`. The target of a row is the next token,
    /// if that is supervised.
    fn rows(&self, start: u64, at: Range<usize>, cells: &mut Cells) -> Result<()> {
        let mut last = 0;
        let rows = at.len();
        self.tokens.copy(start, &mut cells.tokens[at.clone()], &mut last)?;
        let targets = &mut cells.targets[at.clone()];
        targets[..rows - 1].copy_from_slice(&cells.tokens[at][1..]);
        targets[rows - 1] = last;
        let mut mask = self.tokens.mask(start + 1..start + 1 + rows as u64);
        if matches!(mask, Mask::All) {
            return Ok(());
        }
        for (target, token) in targets.iter_mut().zip(start + 1..) {
            if !mask.is_supervised(token)? {
                *target = IGNORED_TARGET;
            }
        }
        Ok(())
    }
}
