//! Reads JSON objects from a file: one per line (JSONL), or all in one list (`.json`).

use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use serde_json::value::RawValue;

use crate::base::{Error, Result, Status};
use crate::data::encode::Encoder;
use crate::data::rows::Row;
use crate::data::tokenizer::Encoded;
use crate::data::warning::{Warning, Warnings};
use crate::host::files::MappedFile;
use crate::host::start_scoped_thread;

/// Handling of invalid lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// An invalid line is an error.
    #[default]
    Refuse,
    /// An invalid line is skipped and counted.
    Skip,
}

/// Bytes of text that one thread encodes per round.
const CHUNK_BYTES: usize = 1 << 20;

/// Line or element number, from 1, and the object's text.
type Numbered<'a> = (u64, &'a [u8]);

/// Calls `take` with every row of a file and its tokens, in order; `threads` threads encode.
/// Empty lines are ignored. Errors name file and line.
pub fn read_rows(
    path: &Path,
    encoder: &Encoder,
    bad_lines: BadLines,
    threads: usize,
    warnings: &mut Warnings,
    mut take: impl FnMut(&Row, Encoded) -> Result<()>,
) -> Result<()> {
    let bytes = MappedFile::open(path)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let list = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let (unit, elements) = if list {
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
            if round_bytes >= CHUNK_BYTES * threads {
                break;
            }
        }
        if round.is_empty() {
            return Ok(());
        }
        for (number, encoded) in encode(&round, encoder, threads)? {
            let place = format_args!("{}, {unit} {number}", path.display());
            match encoded {
                Ok((documents, found)) => {
                    for (row, encoded) in documents {
                        take(&row, encoded)?;
                    }
                    warnings.extend(place, found);
                }
                Err(error) if bad_lines == BadLines::Refuse => return Err(error.within(place)),
                Err(error) => warnings.add(Warning::SkippedLine, error.within(place)),
            }
        }
    }
}

/// A row's number, and its documents with tokens and warnings, or the error.
type Outcome = (u64, Result<(Vec<(Row, Encoded)>, Warnings)>);

fn encode(round: &[Numbered], encoder: &Encoder, threads: usize) -> Result<Vec<Outcome>> {
    let one = |&(number, line): &Numbered| {
        let mut found = Warnings::default();
        let documents = Row::parse(line, &mut found).and_then(|rows| {
            let encode = |row: Row| encoder.row(&row, &mut found).map(|encoded| (row, encoded));
            rows.into_iter().map(encode).collect::<Result<_>>()
        });
        (number, documents.map(|documents| (documents, found)))
    };
    let chunk_rows = round.len().div_ceil(threads.max(1));
    let all = |rows: &[Numbered]| rows.iter().map(one).collect::<Vec<Outcome>>();
    thread::scope(|scope| {
        let workers: Vec<_> = round
            .chunks(chunk_rows)
            .map(|rows| start_scoped_thread(scope, "encode", move || all(rows)))
            .collect::<Result<_>>()?;
        let outcomes =
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok(outcomes.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &[u8], bad_lines: BadLines, threads: usize) -> (Result<Vec<String>>, Warnings) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let (mut texts, mut warnings) = (Vec::new(), Warnings::default());
        let outcome = read_rows(&path, &Encoder::bytes(), bad_lines, threads, &mut warnings, |_, encoded| {
            texts.push(encoded.tokens.iter().map(|&token| token as u8 as char).collect());
            Ok(())
        });
        (outcome.map(|()| texts), warnings)
    }

    #[test]
    fn rows_come_in_order_for_any_number_of_threads() {
        let lines: String = (0..1000).map(|k| format!("{{\"text\": \"row {k}\"}}\n")).collect();
        for threads in [1, 2, 5] {
            let (rows, warnings) = read("a.jsonl", lines.as_bytes(), BadLines::Refuse, threads);
            assert!(rows.unwrap().iter().enumerate().all(|(k, row)| *row == format!("row {k}")));
            assert_eq!(warnings, Warnings::default());
        }
    }

    #[test]
    fn line_endings_of_all_kinds_and_json_lists_are_read() {
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
        let (rows, warnings) = read("a.jsonl", lines, BadLines::Skip, 3);
        assert_eq!(rows.unwrap(), ["a", "b"]);
        let (_, skipped, first) = warnings.iter().next().unwrap();
        assert_eq!(skipped, 2);
        assert!(first.ends_with("line 3: `text` is 7; it must be a string"));
    }
}
