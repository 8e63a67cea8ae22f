//! Lines of a text that end with LF, CRLF or CR, as Python's text mode reads them.

use std::io::{self, BufRead};

use crate::base::format::Size;
use crate::data::read::content::{BUFFER_BYTES, too_long};

/// Largest row, as a line or a JSON value.
pub const ROW_BYTES_MAX: usize = 1 << 27;

/// Returns the words for a longer one.
pub fn row_too_long(unit: &str) -> String {
    format!("{unit} is longer than {}, the most for a row", Size(ROW_BYTES_MAX))
}

/// Iterates over lines without their ends. A line of more than [`ROW_BYTES_MAX`] is an error.
pub struct Lines<R> {
    reader: R,
    /// The last line ended with CR; an LF that follows belongs to it.
    after_return: bool,
}

impl<R: BufRead> Lines<R> {
    /// Takes the reader of a text.
    pub fn new(reader: R) -> Lines<R> {
        Lines { reader, after_return: false }
    }

    /// Appends a part of a line, of at most [`BUFFER_BYTES`]. Returns true if the line ends with it;
    /// `None` at the end of the text.
    pub fn part(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        loop {
            let after_return = self.after_return;
            let mut bytes = self.fill()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let skipped = usize::from(after_return && bytes[0] == b'\n');
            bytes = &bytes[skipped..];
            bytes = &bytes[..bytes.len().min(BUFFER_BYTES)];
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            let read = end.map_or(bytes.len(), |at| at + 1);
            let after_return = end.is_some_and(|at| bytes[at] == b'\r');
            self.after_return = after_return;
            self.reader.consume(skipped + read);
            if read > 0 {
                return Ok(Some(end.is_some()));
            }
        }
    }

    /// Skips white space. Returns the number of lines that it ends, and the byte behind it.
    pub fn skip_blank(&mut self) -> io::Result<(u64, Option<u8>)> {
        let mut lines = 0;
        loop {
            let mut after_return = self.after_return;
            let bytes = self.fill()?;
            let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace());
            let read = blank.clone().count();
            for &byte in blank {
                lines += u64::from(byte == b'\r' || byte == b'\n' && !after_return);
                after_return = byte == b'\r';
            }
            let next = bytes.get(read).copied();
            self.after_return = after_return;
            self.reader.consume(read);
            if read == 0 || next.is_some() {
                return Ok((lines, next));
            }
        }
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        self.reader.fill_buf()
    }

    fn read(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        let mut any = false;
        while let Some(ended) = self.part(line)? {
            if line.len() > ROW_BYTES_MAX {
                return Err(too_long(row_too_long("a line")));
            }
            any = true;
            if ended {
                break;
            }
        }
        Ok(any)
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        let mut line = Vec::new();
        match self.read(&mut line) {
            Ok(true) => Some(Ok(line)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_python() {
        // io.StringIO(text, newline=None).read().splitlines() for texts with these line ends.
        for (text, expected) in [
            ("a\nb\n", &["a", "b"][..]),
            ("a\r\n\r\nb", &["a", "", "b"]),
            ("a\rb\r", &["a", "b"]),
            ("a\r\rb\n\rc", &["a", "", "b", "", "c"]),
            ("\n", &[""]),
            ("", &[]),
        ] {
            for capacity in 1..5 {
                let reader = io::BufReader::with_capacity(capacity, text.as_bytes());
                let lines: Vec<_> =
                    Lines::new(reader).map(|line| String::from_utf8(line.unwrap()).unwrap()).collect();
                assert_eq!(lines, expected, "{text:?}");
            }
        }
    }
}
