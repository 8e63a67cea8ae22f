//! The layout of a token file, by its first bytes and its length.

use super::source::Source;
use super::{HEADER_BYTES, MAGIC, TURN_ENDS, TokenFormat, VERSION, Width, bad};
use crate::base::Result;
use crate::data::turn_ends::TurnEnds;

const LLMC_HEADER_BYTES: usize = 256 * 4;
const GPT2: (i32, i32) = (20_240_520, 1);
const LLAMA3: (i32, i32) = (20_240_801, 7);

/// Tokens that show what a file without a header is.
const PROBE_TOKENS: usize = 4096;
/// Their bytes in the largest width.
pub(super) const PROBE_BYTES: u64 = 8 * PROBE_TOKENS as u64;

/// The contents of a header, checked against the file's length.
#[derive(Debug)]
pub(super) struct Layout {
    pub width: Width,
    pub tokens: u64,
    /// Byte offset of the tokens.
    pub body: u64,
    /// Byte offset of the loss mask, in Horizon's format.
    pub supervised: Option<u64>,
    pub starts: Vec<u64>,
    pub fingerprint: u64,
    pub keeps_documents: bool,
    pub turn_ends: TurnEnds,
}

impl Layout {
    /// Reads the layout of a file; `head` is its beginning.
    pub fn read(format: TokenFormat, head: &[u8], source: &Source, vocabulary: usize) -> Result<Layout> {
        match format {
            TokenFormat::Headed if head.starts_with(MAGIC) => own_layout(head, source),
            TokenFormat::Headed => llmc_layout(head, source, vocabulary),
            TokenFormat::RawU16 => raw_layout(source.bytes(), Width::U16),
            TokenFormat::RawU32 => raw_layout(source.bytes(), Width::U32),
        }
    }
}

fn raw_layout(bytes: u64, width: Width) -> Result<Layout> {
    let size = width.bytes() as u64;
    if !bytes.is_multiple_of(size) {
        return bad(format!(
            "the size, {bytes} bytes, is not a multiple of the token size, {size} bytes; the file is truncated or \
             of another format"
        ));
    }
    Ok(bare(width, bytes / size, 0))
}

/// Returns what is wrong with tokens without a header that have the width of others, or are all 0.
pub(super) fn implausible(head: &[u8], source: &Source, width: Width) -> Result<Option<&'static str>> {
    const TOKENS_MIN: usize = 16;
    if head.len() < TOKENS_MIN * width.bytes() {
        return Ok(None);
    }
    if source.is_zero(head)? {
        return Ok(Some("all tokens are 0; the file was not written, or its data was lost"));
    }
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
    let words = || head.chunks_exact(width.bytes()).take(PROBE_TOKENS).map(word);
    let low = words().step_by(2).max().unwrap_or(0);
    let high = words().skip(1).step_by(2).max().unwrap_or(0);
    // The high half of a uint32 token is at most 3 in a vocabulary of 262,144 tokens.
    let is_wide = high == 0 || width == Width::U16 && high <= 3 && low > u32::from(u8::MAX);
    Ok(is_wide.then_some(match width {
        Width::U16 => "every second token is 0 or nearly so: these are tokens of uint32; name the file .u32",
        Width::U32 => {
            "every second token is 0: these are tokens of int64, NumPy's default; write them as uint32: \
             numpy.fromfile(\"a.u32\", \"<i8\").astype(\"<u4\").tofile(\"b.u32\")"
        }
    }))
}

/// Layout of a file without document starts and loss mask.
fn bare(width: Width, tokens: u64, body: u64) -> Layout {
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

/// True for the first 8 bytes of a token file of llm.c.
pub fn is_llmc(head: &[u8]) -> bool {
    let words = head.first_chunk().map(|head| u64::from_le_bytes(*head));
    [GPT2, LLAMA3].iter().any(|&(magic, version)| words == Some(magic as u64 | (version as u64) << 32))
}

fn llmc_layout(head: &[u8], source: &Source, vocabulary: usize) -> Result<Layout> {
    if head.len() < LLMC_HEADER_BYTES {
        return bad(format!(
            "{} bytes are too few for a token file, whose header has {LLMC_HEADER_BYTES}; the file is \
             truncated or of another format{}",
            head.len(),
            without_header(head, source, vocabulary)?
        ));
    }
    let word = |k: usize| i32::from_le_bytes(head[4 * k..4 * k + 4].try_into().expect("four bytes"));
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
                without_header(head, source, vocabulary)?
            ));
        }
    };
    let body = source.bytes() - LLMC_HEADER_BYTES as u64;
    match u64::try_from(word(2)) {
        Ok(tokens) if tokens * width.bytes() as u64 == body => {
            Ok(bare(width, tokens, LLMC_HEADER_BYTES as u64))
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
fn without_header(head: &[u8], source: &Source, vocabulary: usize) -> Result<String> {
    if source.is_zero(head)? {
        return Ok(". All bytes are 0: the file was not written, or its data was lost".to_owned());
    }
    let tokens = |width: usize| {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        head.chunks_exact(width).take(PROBE_TOKENS).map(word).collect::<Vec<u64>>()
    };
    let bytes = source.bytes();
    let fits = |width: &usize| {
        bytes.is_multiple_of(*width as u64) && tokens(*width).iter().all(|&token| token < vocabulary as u64)
    };
    let Some(width) = [8, 4, 2].into_iter().find(fits) else {
        return Ok(String::new());
    };
    let first: Vec<String> = tokens(width).iter().take(3).map(u64::to_string).collect();
    let todo = match width {
        2 => "name it .u16",
        4 => "name it .u32",
        _ => "write it as uint32: numpy.fromfile(\"a.bin\", \"<u8\").astype(\"<u4\").tofile(\"a.u32\")",
    };
    Ok(format!(
        ". It can be {} tokens of uint{} without a header ({}, …), as nanoGPT's prepare.py writes them; if so, {todo}",
        bytes / width as u64,
        8 * width,
        first.join(", ")
    ))
}

fn own_layout(head: &[u8], source: &Source) -> Result<Layout> {
    if head.len() < HEADER_BYTES {
        return bad(format!(
            "{} bytes are too few for the header, which has {HEADER_BYTES}; the file is truncated",
            head.len()
        ));
    }
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
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
    let Some((starts_at, bits_at)) = own_offsets(width, tokens, documents, source.bytes()) else {
        return bad(format!(
            "the header states {tokens} tokens of {} bytes in {documents} documents, which does not match \
             the file's {} bytes; the file is truncated or damaged",
            width.bytes(),
            source.bytes()
        ));
    };
    let mut starts: Vec<u64> = Vec::new();
    let out_of_order = source.scan(starts_at..bits_at, |bytes| {
        bytes.as_chunks().0.iter().find_map(|start| {
            let start = u64::from_le_bytes(*start);
            let before = starts.last().copied().filter(|&before| before >= start);
            starts.push(start);
            before.map(|before| (starts.len() - 1, start, before))
        })
    })?;
    if let Some((document, start, before)) = out_of_order {
        return bad(format!(
            "document {document} starts at token {start}, but document {} at {before}; starts must increase, the \
             file is damaged",
            document - 1
        ));
    }
    let first_is_zero = starts.first().is_none_or(|&start| start == 0) && starts.is_empty() == (tokens == 0);
    if !first_is_zero || starts.last().is_some_and(|&last| last >= tokens) {
        return bad(format!(
            "the first document must start at token 0 and all before token {tokens}; the file is damaged"
        ));
    }
    Ok(Layout {
        width,
        tokens,
        body: HEADER_BYTES as u64,
        supervised: Some(bits_at),
        starts,
        fingerprint: long(32),
        keeps_documents,
        turn_ends,
    })
}

/// Returns the byte offsets of document starts and loss mask; `None` unless the file has exactly
/// `bytes` bytes.
fn own_offsets(width: Width, tokens: u64, documents: u64, bytes: u64) -> Option<(u64, u64)> {
    let body = tokens.checked_mul(width.bytes() as u64)?.checked_next_multiple_of(8)?;
    let starts_at = (HEADER_BYTES as u64).checked_add(body)?;
    let bits_at = starts_at.checked_add(documents.checked_mul(8)?)?;
    (bits_at.checked_add(tokens.div_ceil(8))? == bytes).then_some((starts_at, bits_at))
}
