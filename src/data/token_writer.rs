//! Writes a token file in Horizon's format (see [`super::TokenFile`]), completely or not at all.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use crate::base::{Error, Result, Status};
use crate::data::documents::push_bit;
use crate::data::token_file::{HEADER_BYTES, MAGIC, TURN_ENDS, VERSION, Width};
use crate::data::tokenizer::Encoded;
use crate::data::turn_ends::TurnEnds;
use crate::host::folder::NewFile;

/// Writes a token file under a hidden name. If it is dropped before [`TokenWriter::finish`], that
/// file is removed.
#[derive(Debug)]
pub struct TokenWriter {
    file: NewFile,
    width: Width,
    tokens: u64,
    supervised: Vec<u8>,
    starts: Vec<u64>,
    fingerprint: u64,
    keeps_documents: bool,
    /// Special tokens that end trained turns, and how often.
    turn_ends: BTreeMap<i32, u64>,
}

impl TokenWriter {
    /// Creates the file. Tokens are below `vocabulary`; `fingerprint` is the tokenizer's.
    pub fn create(path: &Path, vocabulary: usize, fingerprint: u64) -> Result<TokenWriter> {
        let mut file = NewFile::create(path)?;
        file.put(&[0; HEADER_BYTES])?;
        Ok(TokenWriter {
            file,
            width: if vocabulary <= 1 << 16 { Width::U16 } else { Width::U32 },
            tokens: 0,
            supervised: Vec::new(),
            starts: Vec::new(),
            fingerprint,
            keeps_documents: false,
            turn_ends: BTreeMap::new(),
        })
    }

    /// Marks the file so that its documents are kept whole in a window.
    pub fn keep_documents(&mut self) {
        self.keeps_documents = true;
    }

    /// Notes a special token that ends a trained turn.
    pub fn ends_turn(&mut self, token: i32) {
        *self.turn_ends.entry(token).or_default() += 1;
    }

    /// Returns the special tokens that end trained turns: the most frequent, which the header names,
    /// and those for which it has no space.
    pub fn turn_ends(&self) -> (TurnEnds, TurnEnds) {
        let mut tokens: Vec<i32> = self.turn_ends.keys().copied().collect();
        tokens.sort_by_key(|token| Reverse(self.turn_ends[token]));
        let others = tokens.split_off(tokens.len().min(TURN_ENDS.len() / 4));
        (tokens.into_iter().collect(), others.into_iter().collect())
    }

    /// Appends a document; an empty one is ignored.
    pub fn push(&mut self, document: &Encoded) -> Result<()> {
        if document.tokens.is_empty() {
            return Ok(());
        }
        self.starts.push(self.tokens);
        for (&token, &supervised) in document.tokens.iter().zip(&document.supervised) {
            push_bit(&mut self.supervised, self.tokens as usize, supervised);
            self.tokens += 1;
            let written = match self.width {
                Width::U16 => u16::try_from(token).ok().map(|token| self.file.put(&token.to_le_bytes())),
                Width::U32 => u32::try_from(token).ok().map(|token| self.file.put(&token.to_le_bytes())),
            };
            written.ok_or_else(|| {
                let message =
                    format!("token {token} does not fit the {} bytes of a token", self.width.bytes());
                Error::new(Status::Internal, message)
            })??;
        }
        Ok(())
    }

    /// Number of tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Number of documents so far.
    pub fn documents(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Writes the header and the tables, then renames the file to its final name, replacing an
    /// existing file.
    pub fn finish(mut self) -> Result<()> {
        let body = self.tokens as usize * self.width.bytes();
        self.file.put(&[0; 8][..body.next_multiple_of(8) - body])?;
        for start in &self.starts {
            self.file.put(&start.to_le_bytes())?;
        }
        self.file.put(&self.supervised)?;
        self.file.seek(SeekFrom::Start(0)).map_err(|error| Error::writing(self.file.path(), &error))?;
        self.file.put(&self.header())?;
        self.file.finish()
    }

    fn header(&self) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((self.width.bytes() as u32).to_le_bytes());
        header.extend(self.tokens.to_le_bytes());
        header.extend((self.starts.len() as u64).to_le_bytes());
        header.extend(self.fingerprint.to_le_bytes());
        header.extend(u32::from(self.keeps_documents).to_le_bytes());
        self.turn_ends().0.iter().for_each(|&token| header.extend((token as u32 + 1).to_le_bytes()));
        header.resize(HEADER_BYTES, 0);
        header
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{TokenFile, TokenFormat};

    fn document(tokens: &[i32], supervised: &[bool]) -> Encoded {
        Encoded { tokens: tokens.to_vec(), supervised: supervised.to_vec() }
    }

    #[test]
    fn a_written_file_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.bin");
        for (vocabulary, large) in [(65_536, 65_535), (65_537, 65_536)] {
            let mut writer = TokenWriter::create(&path, vocabulary, 77).unwrap();
            writer.push(&document(&[1, 2, large], &[false, true, true])).unwrap();
            writer.push(&document(&[], &[])).unwrap();
            writer.push(&document(&[4, 5, 6, 7, 8, 9, 10, 11], &[false; 8])).unwrap();
            writer.keep_documents();
            [4, 1, 4].iter().for_each(|&token| writer.ends_turn(token));
            assert_eq!((writer.tokens(), writer.documents()), (11, 2));
            writer.finish().unwrap();
            let file = TokenFile::open(&path, TokenFormat::Headed, vocabulary).unwrap();
            assert_eq!((file.tokens(), file.starts(), file.fingerprint()), (11, &[0, 3][..], 77));
            assert!(file.keeps_documents());
            assert!(file.turn_ends().iter().eq(&[1, 4]));
            let mut tokens = [0; 11];
            let (last, others) = tokens.split_last_mut().unwrap();
            file.copy(0, others, last).unwrap();
            assert_eq!(tokens, [1, 2, large, 4, 5, 6, 7, 8, 9, 10, 11]);
            let mut mask = file.mask(0..11).unwrap();
            assert!(
                (0..11).map(|at| mask.is_supervised(at).unwrap()).eq((0..11).map(|at| at == 1 || at == 2))
            );
            assert!(TokenFile::open(&path, TokenFormat::Headed, 100).is_err());
        }
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["tokens.bin"]);
    }

    #[test]
    fn the_header_names_the_most_frequent_ends_of_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.bin");
        let mut writer = TokenWriter::create(&path, 300, 0).unwrap();
        writer.push(&document(&[1, 2], &[true; 2])).unwrap();
        [7, 9, 8, 7, 1, 2, 3, 3, 2, 1, 9].iter().for_each(|&token| writer.ends_turn(token));
        assert_eq!(writer.turn_ends(), ([1, 2, 3, 7, 9].into(), [8].into()));
        writer.finish().unwrap();
        let file = TokenFile::open(&path, TokenFormat::Headed, 300).unwrap();
        assert!(file.turn_ends().iter().eq(&[1, 2, 3, 7, 9]));
    }

    #[test]
    fn an_unfinished_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.bin");
        fs::write(&path, "mine").unwrap();
        let mut writer = TokenWriter::create(&path, 300, 0).unwrap();
        writer.push(&document(&[1], &[true])).unwrap();
        assert_eq!(writer.push(&document(&[1 << 20], &[true])).unwrap_err().status(), Status::Internal);
        drop(writer);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(TokenWriter::create(&dir.path().join("no/tokens.bin"), 300, 0).is_err());
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(TokenWriter::create(&dir.path().join("pipe"), 300, 0).is_err());
    }
}
