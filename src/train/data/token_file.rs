//! Token files as llm.c writes them.
//!
//! A header of 256 little-endian int32, then the tokens and nothing else:
//!
//! | int32 | gpt-2 flavour | llama-3 flavour |
//! |---|---|---|
//! | 0, magic | 20240520 | 20240801 |
//! | 1, version | 1 | 7 |
//! | 2 | number of tokens | number of tokens |
//! | token | uint16 | uint32 |
//!
//! Source: `dev/data/data_common.py` and `llmc/dataloader.h` of karpathy/llm.c.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};
use crate::host::files::MappedFile;

const HEADER_BYTES: usize = 256 * 4;
const GPT2: (i32, i32) = (20_240_520, 1);
const LLAMA3: (i32, i32) = (20_240_801, 7);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    U16,
    U32,
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }
}

/// A token file, mapped into memory, every token of it below the vocabulary.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    bytes: MappedFile,
    width: Width,
    tokens: u64,
    vocabulary: usize,
}

impl TokenFile {
    /// Opens a file and checks its header, its length and, where the width allows a token beyond the
    /// vocabulary, every token: better a moment now than an error in the middle of the night.
    pub fn open(path: &Path, vocabulary: usize) -> Result<TokenFile> {
        let bytes = MappedFile::open(path)?;
        let (width, tokens) = header(&bytes).map_err(|error| error.within(path.display()))?;
        let file = TokenFile { path: path.to_owned(), bytes, width, tokens, vocabulary };
        let narrow = width == Width::U16 && vocabulary > usize::from(u16::MAX);
        if !narrow {
            file.find_beyond(0..tokens).map_or(Ok(()), Err)?;
        }
        Ok(file)
    }

    /// How many tokens it holds.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Copies the tokens from `start` on. The file is checked again as it is copied: it may have been
    /// rewritten since.
    ///
    /// # Panics
    /// If they are not all in the file.
    pub fn copy(&self, start: u64, out: &mut [i32]) -> Result<()> {
        let range = start..start + out.len() as u64;
        let bytes = self.slice(range.clone());
        match self.width {
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
        let beyond = out.iter().any(|&token| usize::try_from(token).map_or(true, |t| t >= self.vocabulary));
        if beyond { Err(self.find_beyond(range).unwrap_or_else(|| self.rewritten())) } else { Ok(()) }
    }

    fn slice(&self, range: Range<u64>) -> &[u8] {
        let width = self.width.bytes();
        &self.bytes[HEADER_BYTES + range.start as usize * width..HEADER_BYTES + range.end as usize * width]
    }

    /// The first token of a range that the model does not have, as an error.
    fn find_beyond(&self, range: Range<u64>) -> Option<Error> {
        let vocabulary = self.vocabulary;
        let bytes = self.slice(range.clone());
        let found = match self.width {
            Width::U16 => find(bytes, |pair: [u8; 2]| u32::from(u16::from_le_bytes(pair)), vocabulary),
            Width::U32 => find(bytes, u32::from_le_bytes, vocabulary),
        };
        found.map(|(place, token)| {
            Error::new(
                Status::BadFormat,
                format!(
                    "{}: token {} is {token}, and the model's vocabulary has {vocabulary} tokens (0 … {}); \
                     the file was made with another tokenizer",
                    self.path.display(),
                    range.start + place as u64,
                    vocabulary - 1
                ),
            )
        })
    }

    fn rewritten(&self) -> Error {
        Error::new(Status::Io, format!("{} changes while it is read", self.path.display()))
    }
}

/// The first element at or beyond `vocabulary`, with its place. Blocks are judged whole, which the compiler
/// turns into vector code; only a block that fails is searched.
fn find<const W: usize>(
    bytes: &[u8],
    token: impl Fn([u8; W]) -> u32,
    vocabulary: usize,
) -> Option<(usize, u32)> {
    const BLOCK: usize = 4096;
    let read = |element: &[u8]| token(element.try_into().expect("chunks are exact"));
    for (block, tokens) in bytes.chunks(BLOCK * W).enumerate() {
        let largest = tokens.chunks_exact(W).map(read).fold(0, u32::max);
        if largest as usize >= vocabulary {
            let place = tokens.chunks_exact(W).position(|element| read(element) as usize >= vocabulary)?;
            return Some((block * BLOCK + place, read(&tokens[place * W..][..W])));
        }
    }
    None
}

fn header(bytes: &[u8]) -> Result<(Width, u64)> {
    let bad = |message: String| Err(Error::new(Status::BadFormat, message));
    if bytes.len() < HEADER_BYTES {
        return bad(format!(
            "{} bytes are too few for a token file, whose header has {HEADER_BYTES}",
            bytes.len()
        ));
    }
    let word = |k: usize| i32::from_le_bytes(bytes[4 * k..4 * k + 4].try_into().expect("four bytes"));
    let width = match (word(0), word(1)) {
        GPT2 => Width::U16,
        LLAMA3 => Width::U32,
        (magic, version) => {
            return bad(format!(
                "not a token file: magic {magic} version {version}; llm.c writes {} version {} (uint16) or \
                 {} version {} (uint32)",
                GPT2.0, GPT2.1, LLAMA3.0, LLAMA3.1
            ));
        }
    };
    let body = bytes.len() - HEADER_BYTES;
    match u64::try_from(word(2)) {
        Ok(tokens) if tokens * width.bytes() as u64 == body as u64 => Ok((width, tokens)),
        _ => bad(format!(
            "the header promises {} tokens of {} bytes, and {body} bytes follow it; the file is truncated or damaged",
            word(2),
            width.bytes()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, magic: i32, version: i32, count: i32, body: &[u8]) -> PathBuf {
        let mut bytes = vec![0u8; HEADER_BYTES];
        for (k, word) in [magic, version, count].into_iter().enumerate() {
            bytes[4 * k..4 * k + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(body);
        let path = dir.join("tokens.bin");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn u16s(tokens: &[u16]) -> Vec<u8> {
        tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
    }

    fn u32s(tokens: &[u32]) -> Vec<u8> {
        tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
    }

    #[test]
    fn both_flavours_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = [0; 2];
        let path = write(dir.path(), 20_240_520, 1, 3, &u16s(&[7, 50_256, 65_535]));
        let file = TokenFile::open(&path, 65_536).unwrap();
        assert_eq!(file.tokens(), 3);
        file.copy(1, &mut out).unwrap();
        assert_eq!(out, [50_256, 65_535]);
        let path = write(dir.path(), 20_240_801, 7, 3, &u32s(&[7, 128_000, 9]));
        TokenFile::open(&path, 128_256).unwrap().copy(0, &mut out).unwrap();
        assert_eq!(out, [7, 128_000]);
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut tokens = vec![1u16; 10_000];
        tokens[9_000] = 300;
        tokens[9_500] = 301;
        let path = write(dir.path(), 20_240_520, 1, 10_000, &u16s(&tokens));
        let message = TokenFile::open(&path, 256).unwrap_err().to_string();
        assert!(message.contains("tokens.bin: token 9000 is 300") && message.contains("256"), "{message}");
        assert!(TokenFile::open(&path, 302).is_ok());
        let path = write(dir.path(), 20_240_801, 7, 2, &u32s(&[1, u32::MAX]));
        let message = TokenFile::open(&path, 256).unwrap_err().to_string();
        assert!(message.contains("token 1 is 4294967295"), "{message}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (magic, version, count, body, word) in [
            (1, 1, 2, 4, "magic 1"),
            (20_240_520, 2, 2, 4, "version 2"),
            (20_240_520, 7, 2, 4, "version 7"),
            (20_240_520, 1, 2, 3, "truncated"),
            (20_240_520, 1, 2, 6, "truncated"),
            (20_240_520, 1, -2, 4, "truncated"),
            (20_240_801, 7, i32::MAX, 8, "truncated"),
        ] {
            let path = write(dir.path(), magic, version, count, &vec![0; body]);
            let error = TokenFile::open(&path, 256).unwrap_err();
            assert_eq!(error.status(), Status::BadFormat);
            assert!(error.message().contains(word), "{error}");
        }
        let short = dir.path().join("short.bin");
        std::fs::write(&short, [0; 100]).unwrap();
        assert!(TokenFile::open(&short, 256).unwrap_err().message().contains("100 bytes"));
    }
}
