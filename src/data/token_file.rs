//! Token files, memory-mapped.
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

use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::base::{Error, Result, Status};
use crate::data::documents::bit;
use crate::data::fingerprint::{Content, Hashing};
use crate::data::read::kind::{HEAD_BYTES, read_head, refused_tokens};
use crate::data::turn_ends::TurnEnds;
use crate::host::files::MappedFile;
use crate::host::input::InputFile;

const LLMC_HEADER_BYTES: usize = 256 * 4;
const GPT2: (i32, i32) = (20_240_520, 1);
const LLAMA3: (i32, i32) = (20_240_801, 7);

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

    /// Returns the error of a file that is named as tokens where text or rows are expected.
    pub fn not_documents(path: &Path) -> Error {
        let head = match File::open(path).and_then(|mut file| read_head(&mut file)) {
            Ok(head) => head,
            Err(error) => return Error::reading(path, &error),
        };
        let bare = TokenFormat::of(path) != Some(TokenFormat::Headed);
        let what =
            refused_tokens(path, &head, bare).unwrap_or("a token file already; text and rows are read here");
        Error::argument(format!("{} is {what}", path.display()))
    }
}

/// The contents of a header, checked against the file's length.
#[derive(Debug)]
struct Layout {
    width: Width,
    tokens: u64,
    /// Byte offset of the tokens.
    body: usize,
    /// Byte offset of the loss mask, in Horizon's format.
    supervised: Option<usize>,
    starts: Vec<u64>,
    fingerprint: u64,
    keeps_documents: bool,
    turn_ends: TurnEnds,
}

/// The bytes of a file, mapped or in memory.
type Bytes = Box<dyn Deref<Target = [u8]> + Send + Sync>;

/// A token file, all of whose tokens are inside the vocabulary.
pub struct TokenFile {
    path: PathBuf,
    bytes: Bytes,
    layout: Layout,
    vocabulary: usize,
    hash: u64,
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
        let file = TokenFile::of(path, format, vocabulary, Box::new(MappedFile::open(path)?))?;
        let input = InputFile::open(path)?;
        let content = hashing.content(path, || input.metadata(), || file.scan(hashing))?;
        file.with(content)
    }

    /// Opens a file from memory; errors use `name` as its path.
    pub fn from_bytes(
        name: &str,
        format: TokenFormat,
        vocabulary: usize,
        bytes: Vec<u8>,
    ) -> Result<TokenFile> {
        let file = TokenFile::of(Path::new(name), format, vocabulary, Box::new(bytes))?;
        let content = file.scan(&Hashing::PLAIN)?;
        file.with(content)
    }

    fn of(path: &Path, format: TokenFormat, vocabulary: usize, bytes: Bytes) -> Result<TokenFile> {
        let bare = format != TokenFormat::Headed;
        if let Some(what) = refused_tokens(path, &bytes[..bytes.len().min(HEAD_BYTES)], bare) {
            return bad(format!("{} is {what}", path.display()));
        }
        let layout = match format {
            TokenFormat::Headed if bytes.starts_with(MAGIC) => own_layout(&bytes),
            TokenFormat::Headed => llmc_layout(&bytes, vocabulary),
            TokenFormat::RawU16 => raw_layout(&bytes, Width::U16),
            TokenFormat::RawU32 => raw_layout(&bytes, Width::U32),
        };
        let layout = layout.map_err(|error| error.within(path.display()))?;
        if bare && let Some(what) = implausible(&bytes, layout.width) {
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
        Ok(TokenFile { path: path.to_owned(), bytes, layout, vocabulary, hash: 0 })
    }

    /// Hashes all bytes and finds the largest token, in one pass.
    fn scan(&self, hashing: &Hashing) -> Result<Content> {
        // Small enough to be in the processor's cache when it is read again for the largest token.
        const BLOCK: usize = 1 << 18;
        let body =
            self.layout.body..self.layout.body + self.layout.tokens as usize * self.layout.width.bytes();
        let (mut hash, mut largest) = (Xxh3::new(), 0);
        for (index, block) in self.bytes.chunks(BLOCK).enumerate() {
            hash.update(block);
            // Header and block are multiples of the token size, so no token is in two blocks.
            let within = |at: usize| at.saturating_sub(index * BLOCK).min(block.len());
            let tokens = &block[within(body.start)..within(body.end)];
            largest = largest.max(match self.layout.width {
                Width::U16 => largest_of(tokens, |pair: [u8; 2]| u32::from(u16::from_le_bytes(pair))),
                Width::U32 => largest_of(tokens, u32::from_le_bytes),
            });
            (hashing.progress)(block.len() as u64)?;
        }
        Ok(Content { hash: hash.digest(), largest })
    }

    /// Checks the largest token, and keeps the hash.
    fn with(self, content: Content) -> Result<TokenFile> {
        if self.tokens() > 0 && content.largest as usize >= self.vocabulary {
            return Err(self.find_invalid(0..self.tokens()).unwrap_or_else(|| self.rewritten()));
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

    /// Returns true if token `at` is supervised.
    ///
    /// # Panics
    /// If `at` is not below the number of tokens.
    pub fn is_supervised(&self, at: u64) -> bool {
        assert!(at < self.layout.tokens);
        self.layout.supervised.is_none_or(|bits| bit(&self.bytes[bits..], at))
    }

    /// Copies tokens, starting at `start`. They are checked again, since the file may have changed
    /// since it was opened.
    ///
    /// # Panics
    /// If the range is not within the file.
    pub fn copy(&self, start: u64, out: &mut [i32]) -> Result<()> {
        let range = start..start + out.len() as u64;
        let bytes = self.slice(range.clone());
        match self.layout.width {
            Width::U16 => {
                for (token, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *token = i32::from(u16::from_le_bytes([pair[0], pair[1]]));
                }
            }
            Width::U32 => {
                for (token, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *token = i32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                }
            }
        }
        let invalid = out.iter().any(|&token| usize::try_from(token).map_or(true, |t| t >= self.vocabulary));
        if invalid { Err(self.find_invalid(range).unwrap_or_else(|| self.rewritten())) } else { Ok(()) }
    }

    fn slice(&self, range: Range<u64>) -> &[u8] {
        let (body, width) = (self.layout.body, self.layout.width.bytes());
        &self.bytes[body..][range.start as usize * width..range.end as usize * width]
    }

    /// Returns an error for the first token of a range outside the vocabulary.
    fn find_invalid(&self, range: Range<u64>) -> Option<Error> {
        let vocabulary = self.vocabulary;
        let bytes = self.slice(range.clone());
        let found = match self.layout.width {
            Width::U16 => find(bytes, |pair: [u8; 2]| u32::from(u16::from_le_bytes(pair)), vocabulary),
            Width::U32 => find(bytes, u32::from_le_bytes, vocabulary),
        };
        found.map(|(index, token)| {
            Error::new(
                Status::BadFormat,
                format!(
                    "{}: token {} is {token}, outside the model's vocabulary of {vocabulary} tokens \
                     (0 … {}); tokenize the data again with this model's tokenizer",
                    self.path.display(),
                    range.start + index as u64,
                    vocabulary - 1
                ),
            )
        })
    }

    fn rewritten(&self) -> Error {
        let message =
            format!("{} changed while it was read; do not write to it during training", self.path.display());
        Error::new(Status::Io, message)
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

fn raw_layout(bytes: &[u8], width: Width) -> Result<Layout> {
    if !bytes.len().is_multiple_of(width.bytes()) {
        return bad(format!(
            "the size, {} bytes, is not a multiple of the token size, {} bytes; the file is truncated or \
             of another format",
            bytes.len(),
            width.bytes()
        ));
    }
    Ok(bare(width, (bytes.len() / width.bytes()) as u64, 0))
}

/// Returns what is wrong with tokens without a header that have the width of others, or are all 0.
fn implausible(bytes: &[u8], width: Width) -> Option<&'static str> {
    const TOKENS_MIN: usize = 16;
    const PROBE_TOKENS: usize = 4096;
    if bytes.len() < TOKENS_MIN * width.bytes() {
        return None;
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Some("all tokens are 0; the file was not written, or its data was lost");
    }
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
    let words = || bytes.chunks_exact(width.bytes()).take(PROBE_TOKENS).map(word);
    let low = words().step_by(2).max().unwrap_or(0);
    let high = words().skip(1).step_by(2).max().unwrap_or(0);
    // The high half of a uint32 token is at most 3 in a vocabulary of 262,144 tokens.
    let is_wide = high == 0 || width == Width::U16 && high <= 3 && low > u32::from(u8::MAX);
    is_wide.then_some(match width {
        Width::U16 => "every second token is 0 or nearly so: these are tokens of uint32; name the file .u32",
        Width::U32 => {
            "every second token is 0: these are tokens of int64, NumPy's default; write them as uint32: \
             numpy.fromfile(\"a.u32\", \"<i8\").astype(\"<u4\").tofile(\"b.u32\")"
        }
    })
}

/// Layout of a file without document starts and loss mask.
fn bare(width: Width, tokens: u64, body: usize) -> Layout {
    Layout {
        width,
        tokens,
        body,
        supervised: None,
        starts: Vec::new(),
        fingerprint: 0,
        keeps_documents: false,
        turn_ends: TurnEnds::default(),
    }
}

fn llmc_layout(bytes: &[u8], vocabulary: usize) -> Result<Layout> {
    if bytes.len() < LLMC_HEADER_BYTES {
        return bad(format!(
            "{} bytes are too few for a token file, whose header has {LLMC_HEADER_BYTES}; the file is \
             truncated or of another format{}",
            bytes.len(),
            without_header(bytes, vocabulary)
        ));
    }
    let word = |k: usize| i32::from_le_bytes(bytes[4 * k..4 * k + 4].try_into().expect("four bytes"));
    let width = match (word(0), word(1)) {
        GPT2 => Width::U16,
        LLAMA3 => Width::U32,
        (magic, version) => {
            return bad(format!(
                "not a token file: magic {magic} version {version}; llm.c writes {} version {} (uint16) or \
                 {} version {} (uint32), and `horizon tokenize` writes HZTOKENS{}",
                GPT2.0,
                GPT2.1,
                LLAMA3.0,
                LLAMA3.1,
                without_header(bytes, vocabulary)
            ));
        }
    };
    let body = bytes.len() - LLMC_HEADER_BYTES;
    match u64::try_from(word(2)) {
        Ok(tokens) if tokens * width.bytes() as u64 == body as u64 => {
            Ok(bare(width, tokens, LLMC_HEADER_BYTES))
        }
        _ => bad(format!(
            "the header states {} tokens of {} bytes, but {body} bytes follow it; the file is truncated or damaged",
            word(2),
            width.bytes()
        )),
    }
}

/// Returns what to do with a file that can be tokens without a header, by its first ones; else
/// nothing.
fn without_header(bytes: &[u8], vocabulary: usize) -> String {
    const PROBE_TOKENS: usize = 4096;
    if bytes.iter().all(|&byte| byte == 0) {
        return ". All bytes are 0: the file was not written, or its data was lost".to_owned();
    }
    let tokens = |width: usize| {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        bytes.chunks_exact(width).take(PROBE_TOKENS).map(word).collect::<Vec<u64>>()
    };
    let fits = |width: &usize| {
        bytes.len().is_multiple_of(*width) && tokens(*width).iter().all(|&token| token < vocabulary as u64)
    };
    let Some(width) = [8, 4, 2].into_iter().find(fits) else {
        return String::new();
    };
    let first: Vec<String> = tokens(width).iter().take(3).map(u64::to_string).collect();
    let todo = match width {
        2 => "name it .u16",
        4 => "name it .u32",
        _ => "write it as uint32: numpy.fromfile(\"a.bin\", \"<u8\").astype(\"<u4\").tofile(\"a.u32\")",
    };
    format!(
        ". It can be {} tokens of uint{} without a header ({}, …), as nanoGPT's prepare.py writes them; if so, {todo}",
        bytes.len() / width,
        8 * width,
        first.join(", ")
    )
}

fn own_layout(bytes: &[u8]) -> Result<Layout> {
    if bytes.len() < HEADER_BYTES {
        return bad(format!(
            "{} bytes are too few for the header, which has {HEADER_BYTES}; the file is truncated",
            bytes.len()
        ));
    }
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if word(8) != VERSION {
        return bad(format!(
            "the file has version {} of the format; this build reads version {VERSION}",
            word(8)
        ));
    }
    let width = match word(12) {
        2 => Width::U16,
        4 => Width::U32,
        other => {
            return bad(format!(
                "bytes 12 … 15 of the header (bytes per token) are {other}; they must be 2 or 4"
            ));
        }
    };
    let keeps_documents = match word(40) {
        0 => false,
        1 => true,
        other => {
            return bad(format!(
                "bytes 40 … 43 of the header (whole documents) are {other}; they must be 0 or 1"
            ));
        }
    };
    let ends = TURN_ENDS.step_by(4).map(word).filter(|&end| end != 0);
    let Ok(turn_ends) = ends.map(|end| i32::try_from(end - 1)).collect::<std::result::Result<_, _>>() else {
        return bad(
            "bytes 44 … 63 of the header (ends of trained turns) are no tokens; the file is damaged".into()
        );
    };
    let (tokens, documents) = (long(16), long(24));
    let Some((starts_at, bits_at)) = own_offsets(width, tokens, documents, bytes.len()) else {
        return bad(format!(
            "the header states {tokens} tokens of {} bytes in {documents} documents, which does not match \
             the file's {} bytes; the file is truncated or damaged",
            width.bytes(),
            bytes.len()
        ));
    };
    let starts: Vec<u64> = bytes[starts_at..bits_at]
        .chunks_exact(8)
        .map(|start| u64::from_le_bytes(start.try_into().expect("chunks are exact")))
        .collect();
    let first_is_zero = starts.first().is_none_or(|&start| start == 0) && starts.is_empty() == (tokens == 0);
    if let Some(at) = starts.windows(2).position(|pair| pair[0] >= pair[1]) {
        return bad(format!(
            "document {} starts at token {}, but document {at} at {}; starts must increase, the file is damaged",
            at + 1,
            starts[at + 1],
            starts[at]
        ));
    }
    if !first_is_zero || starts.last().is_some_and(|&last| last >= tokens) {
        return bad(format!(
            "the first document must start at token 0 and all before token {tokens}; the file is damaged"
        ));
    }
    Ok(Layout {
        width,
        tokens,
        body: HEADER_BYTES,
        supervised: Some(bits_at),
        starts,
        fingerprint: long(32),
        keeps_documents,
        turn_ends,
    })
}

/// Returns the byte offsets of document starts and loss mask; `None` unless the file has exactly
/// `bytes` bytes.
fn own_offsets(width: Width, tokens: u64, documents: u64, bytes: usize) -> Option<(usize, usize)> {
    let (tokens, documents) = (usize::try_from(tokens).ok()?, usize::try_from(documents).ok()?);
    let body = tokens.checked_mul(width.bytes())?.checked_next_multiple_of(8)?;
    let starts_at = HEADER_BYTES.checked_add(body)?;
    let bits_at = starts_at.checked_add(documents.checked_mul(8)?)?;
    (bits_at.checked_add(tokens.div_ceil(8))? == bytes).then_some((starts_at, bits_at))
}

#[cfg(test)]
mod tests;
