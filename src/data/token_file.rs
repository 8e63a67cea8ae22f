//! Token files. Tokens and loss mask stay on the disk and are read window by window.
//!
//! Three formats, all little-endian. The first two have no document starts and no loss mask.
//!
//! **Raw**: `.u16` and `.u32` files contain tokens from the first byte to the last.
//!
//! **llm.c** `.bin`: a header of 256 int32, then the tokens. Source: `dev/data/data_common.py` and
//! `llmc/dataloader.h` of karpathy/llm.c.
//!
//! | int32 | gpt-2 flavour | llama-3 flavour |
//! |---|---|---|
//! | 0, magic | 20240520 | 20240801 |
//! | 1, version | 1 | 7 |
//! | 2 | number of tokens | number of tokens |
//! | token | uint16 | uint32 |
//!
//! **Horizon** `.bin`, written by `horizon tokenize`, also has document starts and a loss mask:
//!
//! | bytes | |
//! |---|---|
//! | 0 … 7 | `HZTOKENS` |
//! | 8 … 11 | version, 1 |
//! | 12 … 15 | bytes per token, 2 or 4 |
//! | 16 … 23 | number of tokens, n |
//! | 24 … 31 | number of documents, d |
//! | 32 … 39 | fingerprint of the tokenizer: FNV-1a (64 bits) of `tokenizer.json`; 1 for bytes, 0 if unknown |
//! | 40 … 43 | 1 if documents should be kept whole in a window, else 0 |
//! | 44 … 63 | up to 5 uint32: 1 + the id of a special token that ends trained turns, then 0 |
//! | from 64 | n tokens, uint16 or uint32, then zeros to a multiple of 8 |
//! | then | d uint64: index of each document's first token; increasing, the first 0 |
//! | then | loss mask: bit t % 8 of byte t / 8 is 1 if token t is supervised; the rest of the last byte is 0 |

mod layout;
mod source;

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::base::{Error, Result, Status};
use crate::data::documents::bit;
use crate::data::fingerprint::{Content, Hashing};
use crate::data::read::kind::{HEAD_BYTES, read_head, refused_tokens};
use crate::data::turn_ends::TurnEnds;
use crate::host::input::{self, FileState, InputFile};
use layout::{Layout, implausible};
use source::Source;

pub(super) const MAGIC: &[u8; 8] = b"HZTOKENS";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
/// The bytes of the header that name the tokens that end trained turns.
pub(super) const TURN_ENDS: Range<usize> = 44..HEADER_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    U16,
    U32,
}

impl Width {
    pub(super) fn bytes(self) -> usize {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }
}

/// Format of a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFormat {
    /// With a header: llm.c's or Horizon's, by its first bytes.
    Headed,
    /// uint16 without a header.
    RawU16,
    /// uint32 without a header.
    RawU32,
}

impl TokenFormat {
    /// Returns the format by the extension, in upper or lower case: `bin`, `u16` or `u32`; `None`
    /// for others.
    pub fn of(path: &Path) -> Option<TokenFormat> {
        match &*path.extension()?.to_str()?.to_ascii_lowercase() {
            "bin" => Some(TokenFormat::Headed),
            "u16" => Some(TokenFormat::RawU16),
            "u32" => Some(TokenFormat::RawU32),
            _ => None,
        }
    }

    /// True for the first 8 bytes of a file with a header.
    pub fn is_headed(head: &[u8]) -> bool {
        head.starts_with(MAGIC) || layout::is_llmc(head)
    }

    /// Returns the error of a file that is named as tokens where text or rows are expected.
    pub fn not_documents(path: &Path) -> Error {
        let head = |mut file| read_head(&mut file).map_err(|error| Error::reading(path, &error));
        let head = match input::open_stream(path).and_then(head) {
            Ok(head) => head,
            Err(error) => return error,
        };
        let bare = TokenFormat::of(path) != Some(TokenFormat::Headed);
        let what =
            refused_tokens(path, &head, bare).unwrap_or("a token file already; text and rows are read here");
        Error::argument(format!("{} is {what}", path.display()))
    }
}

/// A token file, all of whose tokens are inside the vocabulary.
pub struct TokenFile {
    path: PathBuf,
    source: Source,
    layout: Layout,
    vocabulary: usize,
    hash: u64,
    /// The last state of the file in which its bytes had this hash; `None` in memory.
    hashed: Mutex<Option<FileState>>,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).field("tokens", &self.layout.tokens).finish()
    }
}

impl TokenFile {
    /// Opens a file, checks its header, its length and every token, so that bad data fails at the
    /// start and not hours later, and hashes its bytes.
    pub fn open(path: &Path, format: TokenFormat, vocabulary: usize) -> Result<TokenFile> {
        TokenFile::open_with(path, format, vocabulary, &Hashing::PLAIN)
    }

    /// As [`TokenFile::open`], with a cache of hashes.
    pub(super) fn open_with(
        path: &Path,
        format: TokenFormat,
        vocabulary: usize,
        hashing: &Hashing,
    ) -> Result<TokenFile> {
        TokenFile::of(path, format, vocabulary, Source::File(InputFile::open(path)?), hashing)
    }

    /// Opens a file from memory; errors use `name` as its path.
    pub fn from_bytes(
        name: &str,
        format: TokenFormat,
        vocabulary: usize,
        bytes: Vec<u8>,
    ) -> Result<TokenFile> {
        TokenFile::of(Path::new(name), format, vocabulary, Source::Memory(bytes), &Hashing::PLAIN)
    }

    fn of(
        path: &Path,
        format: TokenFormat,
        vocabulary: usize,
        source: Source,
        hashing: &Hashing,
    ) -> Result<TokenFile> {
        let bare = format != TokenFormat::Headed;
        let head = source.head()?;
        if let Some(what) = refused_tokens(path, &head[..head.len().min(HEAD_BYTES)], bare) {
            return bad(format!("{} is {what}", path.display()));
        }
        let layout = Layout::read(format, &head, &source, vocabulary);
        let layout = layout.map_err(|error| error.within(path.display()))?;
        if bare && let Some(what) = implausible(&head, &source, layout.width)? {
            return bad(format!("{}: {what}", path.display()));
        }
        // Tokens are i32, even for a larger vocabulary.
        let vocabulary = vocabulary.min(1 << 31);
        if let Some(token) = layout.turn_ends.iter().find(|&&token| token as usize >= vocabulary) {
            return bad(format!(
                "{}: bytes 44 … 63 of the header (ends of trained turns) name token {token}, outside the model's \
                 vocabulary of {vocabulary} tokens; tokenize the data again with this model's tokenizer",
                path.display()
            ));
        }
        let hashed = Mutex::new(match &source {
            Source::File(file) => Some(file.opened()),
            Source::Memory(_) => None,
        });
        let file = TokenFile { path: path.to_owned(), source, layout, vocabulary, hash: 0, hashed };
        let content = match &file.source {
            Source::File(input) => {
                hashing.content(path, input.bytes(), || input.synced_metadata(), || file.scan(hashing))?
            }
            Source::Memory(_) => file.scan(hashing)?,
        };
        file.with(content)
    }

    /// Hashes all bytes and finds the largest token, in one pass.
    fn scan(&self, hashing: &Hashing) -> Result<Content> {
        let body = self.bytes(0..self.tokens());
        let (mut hash, mut largest, mut at) = (Xxh3::new(), 0, 0);
        let failed = self.source.scan(0..self.source.bytes(), |block| {
            hash.update(block);
            // Header and block are multiples of the token size, so no token is in two blocks.
            let within = |end: u64| end.saturating_sub(at).min(block.len() as u64) as usize;
            let tokens = &block[within(body.start)..within(body.end)];
            largest = largest.max(match self.layout.width {
                Width::U16 => largest_of(tokens, |pair: [u8; 2]| u32::from(u16::from_le_bytes(pair))),
                Width::U32 => largest_of(tokens, u32::from_le_bytes),
            });
            at += block.len() as u64;
            (hashing.progress)(block.len() as u64).err()
        })?;
        failed.map_or(Ok(Content { hash: hash.digest(), largest }), Err)
    }

    /// Checks the largest token, and keeps the hash.
    fn with(self, content: Content) -> Result<TokenFile> {
        if self.tokens() > 0 && content.largest as usize >= self.vocabulary {
            self.check(0..self.tokens())?;
            return Err(self.rewritten());
        }
        Ok(TokenFile { hash: content.hash, ..self })
    }

    /// Hash of all bytes of the file.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.layout.tokens
    }

    /// Index of each document's first token; empty for a format without document starts.
    pub fn starts(&self) -> &[u64] {
        &self.layout.starts
    }

    /// True if documents should be kept whole in a window.
    pub fn keeps_documents(&self) -> bool {
        self.layout.keeps_documents
    }

    /// Fingerprint of the tokenizer that made the file; 0 if unknown.
    pub fn fingerprint(&self) -> u64 {
        self.layout.fingerprint
    }

    /// Special tokens that end trained turns.
    pub fn turn_ends(&self) -> &TurnEnds {
        &self.layout.turn_ends
    }

    /// Returns the loss mask of a range of tokens; `None` if the file has none, and all are
    /// supervised.
    ///
    /// # Panics
    /// If the range is not within the file.
    pub fn mask(&self, tokens: Range<u64>) -> Option<Mask<'_>> {
        assert!(tokens.start <= tokens.end && tokens.end <= self.layout.tokens);
        let start = self.layout.supervised?;
        let (end, block) = (tokens.end.div_ceil(8), 0..0);
        Some(Mask { source: &self.source, start, end, block, bytes: [0; MASK_BYTES] })
    }

    /// Copies tokens, starting at `start`, and the token after them to `next`. They are checked again,
    /// since the file may have changed since it was opened.
    ///
    /// Errors, which name the file: it was written to since; it cannot be read.
    ///
    /// # Panics
    /// If the range is not within the file.
    pub fn copy(&self, start: u64, out: &mut [i32], next: &mut i32) -> Result<()> {
        let range = start..start + out.len() as u64 + 1;
        assert!(range.end <= self.layout.tokens);
        match self.layout.width {
            Width::U16 => self.read(start, out, next, |pair| u16::from_le_bytes(pair).into())?,
            Width::U32 => self.read(start, out, next, i32::from_le_bytes)?,
        }
        let is_invalid = |token: &i32| usize::try_from(*token).map_or(true, |t| t >= self.vocabulary);
        match out.iter().any(is_invalid) || is_invalid(next) {
            true => {
                self.check_unchanged()?;
                self.check(range).and_then(|()| Err(self.rewritten()))
            }
            false => Ok(()),
        }
    }

    /// Reads tokens of `W` bytes, and the one after them.
    fn read<const W: usize>(
        &self,
        start: u64,
        out: &mut [i32],
        next: &mut i32,
        token: impl Fn([u8; W]) -> i32,
    ) -> Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(BUFFER_BYTES, 0);
            let mut at = self.layout.body + start * W as u64;
            for run in out.chunks_mut(BUFFER_BYTES / W - 1) {
                let bytes = &mut buffer[..(run.len() + 1) * W];
                self.source.read_at(at, bytes)?;
                at += (run.len() * W) as u64;
                let tokens = bytes.as_chunks().0;
                run.iter_mut().zip(tokens).for_each(|(out, bytes)| *out = token(*bytes));
                *next = token(tokens[run.len()]);
            }
            Ok(())
        })
    }

    /// Checks, after reading, that the file was not written to since it was opened. If its ctime
    /// alone changed, a program may have set mtime back, and all bytes are hashed again. Errors: it
    /// was.
    pub fn check_unchanged(&self) -> Result<()> {
        let Source::File(file) = &self.source else { return Ok(()) };
        let now = Some(file.check_unwritten()?);
        let mut hashed = self.hashed.lock();
        if *hashed != now {
            if self.scan(&Hashing::PLAIN)?.hash != self.hash {
                return Err(self.rewritten());
            }
            *hashed = now;
        }
        Ok(())
    }

    /// Returns the bytes of a range of tokens.
    fn bytes(&self, tokens: Range<u64>) -> Range<u64> {
        let (body, width) = (self.layout.body, self.layout.width.bytes() as u64);
        body + tokens.start * width..body + tokens.end * width
    }

    /// Errors: a token of a range is outside the vocabulary; the first is named.
    fn check(&self, range: Range<u64>) -> Result<()> {
        let vocabulary = self.vocabulary;
        let mut before = range.start;
        let found = self.source.scan(self.bytes(range), |bytes| {
            let found = match self.layout.width {
                Width::U16 => find(bytes, |pair| u16::from_le_bytes(pair).into(), vocabulary),
                Width::U32 => find(bytes, u32::from_le_bytes, vocabulary),
            };
            let found = found.map(|(index, token)| (before + index as u64, token));
            before += (bytes.len() / self.layout.width.bytes()) as u64;
            found
        })?;
        let Some((index, token)) = found else { return Ok(()) };
        bad(format!(
            "{}: token {index} is {token}, outside the model's vocabulary of {vocabulary} tokens (0 … {}); \
             tokenize the data again with this model's tokenizer",
            self.path.display(),
            vocabulary - 1
        ))
    }

    fn rewritten(&self) -> Error {
        let message =
            format!("{} changed while it was read; do not write to it during training", self.path.display());
        Error::new(Status::Io, message)
    }
}

/// Bytes of tokens that are read at a time.
const BUFFER_BYTES: usize = 1 << 16;
/// Bytes of a loss mask that are read at a time.
const MASK_BYTES: usize = 1 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The loss mask of a range of tokens. It is read in blocks, best for increasing tokens.
#[derive(Debug)]
pub struct Mask<'a> {
    source: &'a Source,
    /// Byte offset of the file's mask.
    start: u64,
    /// End of the range, in bytes of the mask.
    end: u64,
    /// The bytes of the mask that have been read.
    block: Range<u64>,
    bytes: [u8; MASK_BYTES],
}

impl Mask<'_> {
    /// Returns true if token `at` is supervised.
    ///
    /// Errors: as [`TokenFile::copy`].
    ///
    /// # Panics
    /// If `at` is not within the range.
    pub fn is_supervised(&mut self, at: u64) -> Result<bool> {
        let byte = at / 8;
        if !self.block.contains(&byte) {
            self.block = byte..self.end.min(byte + MASK_BYTES as u64);
            let bytes = &mut self.bytes[..(self.block.end - byte) as usize];
            self.source.read_at(self.start + byte, bytes)?;
        }
        Ok(bit(&self.bytes, at - self.block.start * 8))
    }
}

/// Returns index and value of the first token ≥ `vocabulary`. The maximum of each block is compared
/// first, since that vectorizes.
fn find<const W: usize>(
    bytes: &[u8],
    token: impl Fn([u8; W]) -> u32,
    vocabulary: usize,
) -> Option<(usize, u32)> {
    const BLOCK: usize = 4096;
    let read = |element: &[u8]| token(element.try_into().expect("chunks are exact"));
    for (block, tokens) in bytes.chunks(BLOCK * W).enumerate() {
        if largest_of(tokens, &token) as usize >= vocabulary {
            let index = tokens.chunks_exact(W).position(|element| read(element) as usize >= vocabulary)?;
            return Some((block * BLOCK + index, read(&tokens[index * W..][..W])));
        }
    }
    None
}

fn largest_of<const W: usize>(bytes: &[u8], token: impl Fn([u8; W]) -> u32) -> u32 {
    bytes.as_chunks().0.iter().map(|&bytes| token(bytes)).fold(0, u32::max)
}

fn bad<T>(message: String) -> Result<T> {
    Err(Error::new(Status::BadFormat, message))
}

#[cfg(test)]
mod tests;
