//! Opens a file: decompresses it, and refuses what cannot be read.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;
use std::rc::Rc;

#[cfg(feature = "text")]
use flate2::bufread::GzDecoder;

use crate::base::{Error, Result, Status, json};
use crate::data::read::kind::{Compression, Format, PARQUET, is_of_data, page, read_head, refused};
use crate::host::files::retried;
use crate::host::input;

/// The contents of a file.
pub enum Content {
    /// A Parquet file.
    Parquet(File),
    /// Text, decompressed and without a byte order mark.
    Text(Box<dyn BufRead>),
}

/// Bytes that are read at a time.
pub const BUFFER_BYTES: usize = 1 << 18;

/// Bytes that any compressed file may expand to. Text seldom shrinks to a tenth; a file that expands
/// to more than this and to [`EXPANSION_MAX`] times its size is made to fill the memory.
const EXPANDED_BYTES_FREE: u64 = 1 << 25;
const EXPANSION_MAX: u64 = 200;

impl Content {
    /// Opens a file. Errors, which name it: `Unsupported` if its first bytes belong to a format
    /// that is not read.
    pub fn open(path: &Path, format: Format) -> Result<Content> {
        let reading = |error: io::Error| Error::reading(path, &error);
        let mut file = input::open_stream(path)?;
        let metadata = file.metadata().map_err(reading)?;
        let head = read_head(&mut file).map_err(reading)?;
        check(path, format, &head, true)?;
        if head.starts_with(PARQUET) {
            let in_pipe =
                |_| unsupported(path, "Parquet in a pipe, which cannot be read; write it to a file");
            file.rewind().map_err(in_pipe)?;
            return Ok(Content::Parquet(file));
        }
        // Neither a pipe nor a file of the kernel states its size.
        let stated = Some(metadata.len()).filter(|bytes| metadata.is_file() && *bytes > 0);
        let left = stated.map_or(u64::MAX, |bytes| bytes.saturating_sub(head.len() as u64));
        let rest = Unchanged { file, left };
        let Some(compression) = Compression::of(&head) else {
            return Content::text(path, format, head, Box::new(rest));
        };
        let read = Rc::new(Cell::new(0));
        let compressed = Counted { source: Cursor::new(head).chain(rest), read: read.clone() };
        let decoder = decompress(compression, Box::new(compressed));
        let decoder = decoder.map_err(|error| error.within(path.display()))?;
        let mut reader: Box<dyn Read> = Box::new(Expanded { decoder, read, bytes: 0 });
        let head = read_head(&mut reader).map_err(|error| unreadable(path, &error))?;
        check(path, format, &head, false)?;
        if head.starts_with(PARQUET) {
            return Err(unsupported(
                path,
                "a Parquet file that is compressed as a whole; decompress it first",
            ));
        }
        if Compression::of(&head).is_some() {
            return Err(unsupported(path, "a compressed file inside a compressed one; decompress it once"));
        }
        Content::text(path, format, head, reader)
    }

    /// Joins the beginning of a text, which is read already (a pipe cannot be rewound), and the rest.
    fn text(path: &Path, format: Format, mut head: Vec<u8>, rest: Box<dyn Read>) -> Result<Content> {
        if format == Format::Table {
            return Err(unsupported(path, "not a Parquet file: it does not begin with PAR1"));
        }
        head.drain(..head.len() - json::without_mark(&head).len());
        Ok(Content::Text(Box::new(Cursor::new(head).chain(BufReader::with_capacity(BUFFER_BYTES, rest)))))
    }
}

fn check(path: &Path, format: Format, head: &[u8], is_outer: bool) -> Result<()> {
    // A web page may be wanted as text.
    let page = page(head).filter(|_| format != Format::Text || is_of_data(path, is_outer));
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
        io::ErrorKind::FileTooLarge => Error::new(Status::BadFormat, format!("{}: {error}", path.display())),
        _ => Error::reading(path, error),
    }
}

/// Returns the error of something that is longer than it may be.
pub fn too_long(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, words)
}

/// The rest of a file, which ends where it did when it was opened: one that another process appends
/// to may have no end.
struct Unchanged {
    file: File,
    left: u64,
}

impl Read for Unchanged {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = retried(|| self.file.read(out))?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            too_long("it became longer while it was read; do not change it during a run".to_owned())
        })?;
        Ok(read)
    }
}

/// Counts the bytes that are read.
struct Counted<R> {
    source: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

/// Decompressed bytes, as many as the compressed ones can honestly have.
struct Expanded {
    decoder: Box<dyn Read>,
    /// Compressed bytes.
    read: Rc<Cell<u64>>,
    bytes: u64,
}

impl Read for Expanded {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(out)?;
        self.bytes += read as u64;
        match expansion(self.read.get(), self.bytes) {
            Some(words) => Err(too_long(words + "; if its data are meant, decompress it first")),
            None => Ok(read),
        }
    }
}

/// Says that a file of `read` bytes expands to more than it can honestly have.
pub fn expansion(read: u64, bytes: u64) -> Option<String> {
    (bytes > EXPANDED_BYTES_FREE.max(read.saturating_mul(EXPANSION_MAX))).then(|| {
        format!(
            "it expands to more than {EXPANSION_MAX} times its size, as a file does that is made to fill the memory"
        )
    })
}

#[cfg(feature = "text")]
fn decompress(compression: Compression, file: Box<dyn Read>) -> Result<Box<dyn Read>> {
    /// Base-two logarithm of the largest window, `zstd --long=31`. Memory is taken only for the
    /// window that a file asks for, and only as it fills.
    const WINDOW_LOG_MAX: u32 = 31;
    if compression == Compression::Gzip {
        let input = BufReader::with_capacity(BUFFER_BYTES, file);
        return Ok(Box::new(Members(Some(GzDecoder::new(input)))));
    }
    let zstd = || {
        let mut decoder = zstd::stream::read::Decoder::new(file)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(decoder)
    };
    let decoder = zstd().map_err(|error: io::Error| Error::io("cannot decompress zstd", &error))?;
    Ok(Box::new(decoder))
}

/// The members of a gzip file, one after the other. Zeros behind them are ignored, as `gzip` does.
#[cfg(feature = "text")]
struct Members(Option<GzDecoder<BufReader<Box<dyn Read>>>>);

#[cfg(feature = "text")]
impl Read for Members {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        const BEHIND: &str = "bytes that are not gzip follow its end; `gzip -d` ignores them";
        while let Some(member) = &mut self.0 {
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            let input = member.get_mut();
            let next = loop {
                let bytes = input.fill_buf()?;
                let Some(at) = bytes.iter().position(|&byte| byte != 0) else {
                    let zeros = bytes.len();
                    input.consume(zeros);
                    if zeros == 0 { break None } else { continue }
                };
                let byte = bytes[at];
                input.consume(at);
                break Some(byte);
            };
            match next {
                Some(0x1f) => self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner())),
                Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, BEHIND)),
                None => self.0 = None,
            }
        }
        Ok(0)
    }
}

#[cfg(not(feature = "text"))]
fn decompress(compression: Compression, _: Box<dyn Read>) -> Result<Box<dyn Read>> {
    let tool = match compression {
        Compression::Gzip => "gzip -d",
        Compression::Zstd => "zstd -d",
    };
    let message =
        format!("compressed, which this build does not read (feature `text`); decompress it with `{tool}`");
    Err(Error::new(Status::Unsupported, message))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_grows_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        fs::write(&path, "x".repeat(1 << 19)).unwrap();
        let text = |more: &str| {
            let Content::Text(mut reader) = Content::open(&path, Format::Text).unwrap() else { panic!() };
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            io::Write::write_all(&mut file, more.as_bytes()).unwrap();
            let read = reader.read_to_end(&mut Vec::new());
            read.map_err(|error| unreadable(&path, &error).message().to_owned())
        };
        assert_eq!(text(""), Ok(1 << 19));
        let error = text("y").unwrap_err();
        assert!(error.contains("rows.jsonl: it became longer while it was read"), "{error}");
    }
}
