//! JSON objects in a file: one a line (JSONL), or all in one list (`.json`).

use std::path::Path;

use serde_json::value::RawValue;

use crate::base::{Error, Result, Status};
use crate::data::encode::Encoder;
use crate::data::rows::Row;
use crate::data::tokenizer::Encoded;
use crate::host::files::MappedFile;

/// What is done about a line that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// It is an error.
    #[default]
    Refuse,
    /// It is passed over and counted.
    Skip,
}

/// Lines that were passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub lines: u64,
    /// What was wrong with the first.
    pub first: Option<Error>,
}

/// Text of rows that a thread takes at a time.
const SHARE_BYTES: usize = 1 << 20;

/// An object's text, and its number for people, from 1.
type Numbered<'a> = (u64, &'a [u8]);

/// Gives every row of a file to `take` in order, with its tokens; `threads` threads encode.
/// Empty lines are nothing. Errors name file and line.
pub fn read_rows(
    path: &Path,
    encoder: &Encoder,
    bad_lines: BadLines,
    threads: usize,
    skipped: &mut Skipped,
    mut take: impl FnMut(&Row, Encoded) -> Result<()>,
) -> Result<()> {
    let bytes = MappedFile::open(path)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut refused = |what: &str, number: u64, error: Error| {
        let error = error.within(format!("{}, {what} {number}", path.display()));
        match bad_lines {
            BadLines::Refuse => Err(error),
            BadLines::Skip => {
                skipped.lines += 1;
                skipped.first.get_or_insert(error);
                Ok(())
            }
        }
    };
    let list = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let (what, elements) = if list {
        let elements: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| {
            Error::new(Status::BadFormat, format!("{}: not a JSON list: {error}", path.display()))
        })?;
        ("element", elements)
    } else {
        ("line", Vec::new())
    };
    let lines = text.split(|&byte| byte == b'\n').filter(|_| !list).map(<[u8]>::trim_ascii);
    let elements = elements.iter().map(|element| element.get().as_bytes());
    let mut rows = (1..).zip(lines.chain(elements)).filter(|(_, line)| !line.is_empty());
    loop {
        let (mut round, mut round_bytes): (Vec<Numbered>, usize) = (Vec::new(), 0);
        for row in rows.by_ref() {
            round_bytes += row.1.len();
            round.push(row);
            if round_bytes >= SHARE_BYTES * threads {
                break;
            }
        }
        if round.is_empty() {
            return Ok(());
        }
        for (number, encoded) in encode(&round, encoder, threads) {
            match encoded {
                Ok((row, encoded)) => take(&row, encoded)?,
                Err(error) => refused(what, number, error)?,
            }
        }
    }
}

/// A row's number, and what became of it.
type Outcome = (u64, Result<(Row, Encoded)>);

fn encode(round: &[Numbered], encoder: &Encoder, threads: usize) -> Vec<Outcome> {
    let one = |&(number, line): &Numbered| {
        (number, Row::parse(line).and_then(|row| encoder.row(&row).map(|encoded| (row, encoded))))
    };
    let share = round.len().div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = round
            .chunks(share)
            .map(|rows| scope.spawn(move || rows.iter().map(one).collect::<Vec<Outcome>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &[u8], bad_lines: BadLines, threads: usize) -> (Result<Vec<String>>, Skipped) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let (mut texts, mut skipped) = (Vec::new(), Skipped::default());
        let outcome = read_rows(&path, &Encoder::bytes(), bad_lines, threads, &mut skipped, |_, encoded| {
            texts.push(encoded.tokens.iter().map(|&token| token as u8 as char).collect());
            Ok(())
        });
        (outcome.map(|()| texts), skipped)
    }

    #[test]
    fn rows_come_in_order_whatever_the_threads() {
        let lines: String = (0..1000).map(|k| format!("{{\"text\": \"row {k}\"}}\n")).collect();
        for threads in [1, 2, 5] {
            let (rows, skipped) = read("a.jsonl", lines.as_bytes(), BadLines::Refuse, threads);
            assert!(rows.unwrap().iter().enumerate().all(|(k, row)| *row == format!("row {k}")));
            assert_eq!(skipped, Skipped::default());
        }
    }

    #[test]
    fn lines_may_end_as_they_like_and_a_list_is_as_good() {
        let lines = b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\n  \n{\"text\": \"b\"}";
        assert_eq!(read("a.jsonl", lines, BadLines::Refuse, 2).0.unwrap(), ["a", "b"]);
        let list = b" [{\"text\": \"a\"},\n {\"text\": \"b\"}]\n";
        assert_eq!(read("a.json", list, BadLines::Refuse, 2).0.unwrap(), ["a", "b"]);
        let broken =
            read("a.json", b"[{\"text\": \"a\"}, {\"txt\": \"b\"}]", BadLines::Refuse, 2).0.unwrap_err();
        assert!(broken.message().contains("a.json, element 2: no field"), "{broken}");
        let cut = read("a.json", b"[{\"text\": \"a\"}", BadLines::Refuse, 2).0.unwrap_err();
        assert!(cut.message().contains("not a JSON list"), "{cut}");
        assert!(read("a.jsonl", b"", BadLines::Refuse, 2).0.unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_an_error_or_is_counted() {
        let lines = b"{\"text\": \"a\"}\n\n{\"text\": 7}\nnonsense\n{\"text\": \"b\"}\n";
        let error = read("a.jsonl", lines, BadLines::Refuse, 3).0.unwrap_err();
        assert!(error.message().contains("a.jsonl, line 3: `text` is 7"), "{error}");
        let (rows, skipped) = read("a.jsonl", lines, BadLines::Skip, 3);
        assert_eq!((rows.unwrap(), skipped.lines), (vec!["a".to_owned(), "b".to_owned()], 2));
        assert!(skipped.first.unwrap().message().ends_with("line 3: `text` is 7; it must be a text"));
    }
}
