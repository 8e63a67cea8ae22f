//! CSV and TSV with a header: the columns are the fields of a row, and all values are texts.

use std::io::{self, BufRead, Read};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};
use serde_json::{Map, Value as Json};

use crate::base::format::{Size, several};
use crate::base::json;
use crate::base::{Error, Result, Status};
use crate::data::read::content::too_long;
use crate::data::read::rows::{Place, Record, Records, Value};

/// Largest row; the cells of one that is empty but for separators take 16 times its bytes.
const ROW_BYTES_MAX: usize = 1 << 24;
/// Largest number of columns, as in a sheet of Excel.
const COLUMNS_MAX: usize = 16_384;

/// Characters that can separate cells.
const SEPARATORS: [u8; 4] = *b",\t;|";

struct CsvRows {
    reader: Reader<Tail>,
    columns: Vec<String>,
    /// Line of the last record, if its last cell has several lines.
    open: Option<u64>,
}

/// A text, its last byte that ends no line, and the bytes that may still be read for a row.
struct Tail {
    text: Box<dyn BufRead>,
    last: u8,
    left: usize,
}

impl Read for Tail {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(out)?;
        self.left = self.left.checked_sub(read).ok_or_else(|| {
            too_long(format!("a row is longer than {}, the most for a table", Size(ROW_BYTES_MAX)))
        })?;
        let last = out[..read].iter().rfind(|byte| !matches!(byte, b'\n' | b'\r'));
        self.last = last.copied().unwrap_or(self.last);
        Ok(read)
    }
}

/// Reads the header. The separator is a tab if `tabs` is true, or stands in a first line `sep=;` as
/// Excel knows it; else it is the character of [`SEPARATORS`] that the header has most often.
pub fn open(mut text: Box<dyn BufRead>, tabs: bool) -> Result<Records> {
    let failed = |error: io::Error| Error::io("cannot read the header", &error);
    let head = text.fill_buf().map_err(failed)?;
    let stated = match head {
        [b's', b'e', b'p', b'=', stated, b'\n' | b'\r', ..] => Some(*stated),
        _ => None,
    };
    let separator = stated.unwrap_or_else(|| if tabs { b'\t' } else { separator(head) });
    if stated.is_some() {
        text.consume(b"sep=;".len());
    }
    let mut reader =
        ReaderBuilder::new().delimiter(separator).from_reader(Tail { text, last: 0, left: ROW_BYTES_MAX });
    let names = reader.byte_headers().map_err(|error| bad(format!("cannot read the header: {error}")))?;
    if names.len() > COLUMNS_MAX {
        return Err(bad(format!("the header has {} columns; the most are {COLUMNS_MAX}", names.len())));
    }
    let mut columns: Vec<String> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let name = str::from_utf8(name).map_err(|_| bad(NOT_UTF8.to_owned()))?.trim();
        // The index of a data frame has no name; pandas reads it as this.
        let name = if name.is_empty() { format!("Unnamed: {at}") } else { name.to_owned() };
        if columns.contains(&name) {
            return Err(bad(format!("two columns of the header are named `{name}`; rename one of them")));
        }
        columns.push(name);
    }
    Ok(Box::new(CsvRows { reader, columns, open: None }))
}

/// Returns the separator that the header, the first line, has most often outside of quotes.
fn separator(head: &[u8]) -> u8 {
    let mut counts = [0u32; SEPARATORS.len()];
    let mut quoted = false;
    for &byte in head.iter().take_while(|byte| !matches!(byte, b'\n' | b'\r')) {
        quoted ^= byte == b'"';
        if let Some(at) = SEPARATORS.iter().position(|&separator| separator == byte && !quoted) {
            counts[at] += 1;
        }
    }
    // Of equal counts `max_by_key` takes the last.
    let most = (0..SEPARATORS.len()).rev().max_by_key(|&at| counts[at]).unwrap_or(0);
    SEPARATORS[most]
}

const NOT_UTF8: &str = "the text is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8)";

impl CsvRows {
    fn value(&self, record: &ByteRecord) -> Result<Value, String> {
        let mut fields = Map::new();
        for (name, cell) in self.columns.iter().zip(record).filter(|(_, cell)| !cell.is_empty()) {
            let text = str::from_utf8(cell).map_err(|_| format!("`{name}`: {NOT_UTF8}"))?;
            if text.contains('\0') {
                return Err(format!("`{name}` has a zero byte; the file is damaged"));
            }
            json::check_text(text).map_err(|error| format!("`{name}`: {error}"))?;
            fields.insert(name.clone(), Json::String(text.to_owned()));
        }
        Ok(Value::Fields(fields, record.as_slice().len()))
    }
}

impl CsvRows {
    /// Returns the error of a quote without an end: the rest of the file is its cell.
    fn end(&mut self) -> Option<Record> {
        let open = self.open.take().filter(|_| self.reader.get_ref().last != b'"')?;
        let error = bad("a quote opens a cell and nothing closes it".to_owned());
        Some(Record { place: place(open), value: Value::Broken(error) })
    }
}

fn bad(message: String) -> Error {
    Error::new(Status::BadFormat, message)
}

fn place(line: u64) -> Place {
    Place { unit: "line", number: line, group: None }
}

impl Iterator for CsvRows {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = ByteRecord::new();
        self.reader.get_mut().left = ROW_BYTES_MAX;
        let read = self.reader.read_byte_record(&mut record);
        let line = |position: Option<&csv::Position>| position.map_or(0, csv::Position::line);
        let (line, value) = match read {
            Ok(false) => return self.end().map(Ok),
            Ok(true) => (line(record.position()), self.value(&record)),
            Err(error) => match error.into_kind() {
                ErrorKind::Io(error) => return Some(Err(error)),
                ErrorKind::UnequalLengths { pos, expected_len, len } => {
                    let message = format!(
                        "{}, but the header has {expected_len} columns; quote cells that contain the separator",
                        several(len as usize, "cell")
                    );
                    (line(pos.as_ref()), Err(message))
                }
                other => (line(Some(self.reader.position())), Err(format!("{other:?}"))),
            },
        };
        let several = |cell: &[u8]| cell.contains(&b'\n') || cell.contains(&b'\r');
        self.open = record.iter().next_back().is_some_and(several).then_some(line);
        Some(Ok(Record {
            place: place(line),
            value: value.unwrap_or_else(|message| Value::Invalid(bad(message))),
        }))
    }
}
