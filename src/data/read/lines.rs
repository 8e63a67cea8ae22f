//! Lines of a text that end with LF, CRLF or CR, as Python's text mode reads them.

use std::io::{self, BufRead};

/// Iterates over lines without their ends.
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

    fn read(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        let mut any = false;
        loop {
            let mut bytes = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                bytes => bytes?,
            };
            if bytes.is_empty() {
                return Ok(any);
            }
            let skipped = usize::from(std::mem::take(&mut self.after_return) && bytes[0] == b'\n');
            bytes = &bytes[skipped..];
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            any |= !bytes.is_empty();
            self.after_return = end.is_some_and(|at| bytes[at] == b'\r');
            let read = skipped + end.map_or(bytes.len(), |at| at + 1);
            self.reader.consume(read);
            if end.is_some() {
                return Ok(true);
            }
        }
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
