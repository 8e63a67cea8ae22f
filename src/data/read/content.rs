//! Opens a file: decompresses it, and refuses what cannot be read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use crate::base::{Error, Result, Status, placeholder};
use crate::data::read::kind::{Compression, Format, HEAD_BYTES, PARQUET, refused};

/// The contents of a file.
pub enum Content {
    /// A Parquet file.
    Parquet(File),
    /// Text, decompressed and without a byte order mark.
    Text(Box<dyn BufRead>),
}

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 1 << 18;

impl Content {
    /// Opens a file. Errors, which name it: `Unsupported` if its first bytes belong to a format
    /// that is not read.
    pub fn open(path: &Path, format: Format) -> Result<Content> {
        let reading = |error: io::Error| Error::reading(path, &error);
        let mut file = File::open(path).map_err(reading)?;
        let head = read_head(&mut file).map_err(reading)?;
        check(path, format, &head)?;
        file.rewind().map_err(reading)?;
        if head.starts_with(PARQUET) {
            return Ok(Content::Parquet(file));
        }
        let Some(compression) = Compression::of(&head) else {
            return Content::text(
                path,
                format,
                &head,
                Box::new(BufReader::with_capacity(BUFFER_BYTES, file)),
            );
        };
        let mut reader = decompress(compression, file).map_err(|error| error.within(path.display()))?;
        let head = read_head(&mut reader).map_err(|error| unreadable(path, &error))?;
        check(path, format, &head)?;
        if head.starts_with(PARQUET) || Compression::of(&head).is_some() {
            return Err(unsupported(path, "a compressed file inside a compressed one; decompress it once"));
        }
        let rest = BufReader::with_capacity(BUFFER_BYTES, reader);
        Content::text(path, format, &head.clone(), Box::new(Cursor::new(head).chain(rest)))
    }

    fn text(path: &Path, format: Format, head: &[u8], mut reader: Box<dyn BufRead>) -> Result<Content> {
        if format == Format::Table {
            return Err(unsupported(path, "not a Parquet file: it does not begin with PAR1"));
        }
        if head.starts_with(b"\xef\xbb\xbf") {
            reader.read_exact(&mut [0; 3]).map_err(|error| unreadable(path, &error))?;
        }
        Ok(Content::Text(reader))
    }
}

fn read_head(file: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn check(path: &Path, format: Format, head: &[u8]) -> Result<()> {
    // A web page may be wanted as text.
    let page = placeholder(head).filter(|_| format != Format::Text);
    match page.or_else(|| refused(path, head)) {
        Some(what) => Err(unsupported(path, what)),
        None => Ok(()),
    }
}

fn unsupported(path: &Path, what: &str) -> Error {
    Error::new(Status::Unsupported, format!("{} is {what}", path.display()))
}

/// Returns the error of a file that is truncated, damaged, or not readable.
pub fn unreadable(path: &Path, error: &io::Error) -> Error {
    let damaged = |words: &str| {
        Error::new(
            Status::BadFormat,
            format!("{}: {words}; copy or download the file again ({error})", path.display()),
        )
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("the compressed data ends early, so the file is truncated"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            damaged("the compressed data is damaged")
        }
        _ => Error::reading(path, error),
    }
}

#[cfg(feature = "text")]
fn decompress(compression: Compression, file: File) -> Result<Box<dyn Read>> {
    /// Base-two logarithm of the largest window, `zstd --long=31`.
    const WINDOW_LOG_MAX: u32 = 31;
    if compression == Compression::Gzip {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, file))));
    }
    let zstd = || {
        let mut decoder = zstd::stream::read::Decoder::new(file)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(decoder)
    };
    let decoder = zstd().map_err(|error: io::Error| Error::io("cannot decompress zstd", &error))?;
    Ok(Box::new(decoder))
}

#[cfg(not(feature = "text"))]
fn decompress(compression: Compression, _: File) -> Result<Box<dyn Read>> {
    let tool = match compression {
        Compression::Gzip => "gzip -d",
        Compression::Zstd => "zstd -d",
    };
    let message =
        format!("compressed, which this build does not read (feature `text`); decompress it with `{tool}`");
    Err(Error::new(Status::Unsupported, message))
}
