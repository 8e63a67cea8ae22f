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
}

/// A text, the place in a cell where reading has come to, and the bytes that may still be read for a
/// row.
struct Tail {
    text: Box<dyn BufRead>,
    separator: u8,
    place: InCell,
    is_at_end: bool,
    left: usize,
}

/// A place in a cell, as the `csv` crate reads cells; it does not tell whether the text ends within
/// quotes.
#[derive(Clone, Copy, PartialEq)]
enum InCell {
    Begin,
    Bare,
    Quoted,
    /// Behind a quote that ends the cell, unless another one follows.
    Closed,
}

impl InCell {
    fn after(self, byte: u8, separator: u8) -> InCell {
        match (self, byte) {
            (InCell::Begin | InCell::Closed, b'"') => InCell::Quoted,
            (InCell::Quoted, b'"') => InCell::Closed,
            (InCell::Quoted, _) => InCell::Quoted,
            _ if byte == separator || matches!(byte, b'\n' | b'\r') => InCell::Begin,
            _ => InCell::Bare,
        }
    }
}

impl Tail {
    /// Errors: the text has ended within quotes, so that its rest became one cell.
    fn check_closed(&self) -> Result<()> {
        match self.is_at_end && self.place == InCell::Quoted {
            true => Err(bad(
                "a quote opens a cell, and the file ends before one closes it; copy the file again if it \
                             is cut off, else close the quote, or double those that belong to a text"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }
}

impl Read for Tail {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(out)?;
        self.left = self.left.checked_sub(read).ok_or_else(|| {
            too_long(format!("a row is longer than {}, the most for a table", Size(ROW_BYTES_MAX)))
        })?;
        self.is_at_end = read == 0;
        self.place = out[..read].iter().fold(self.place, |place, &byte| place.after(byte, self.separator));
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
    let tail = Tail { text, separator, place: InCell::Begin, is_at_end: false, left: ROW_BYTES_MAX };
    let mut reader = ReaderBuilder::new().delimiter(separator).from_reader(tail);
    let names =
        reader.byte_headers().map_err(|error| bad(format!("cannot read the header: {error}")))?.clone();
    reader.get_ref().check_closed().map_err(|error| error.within("the header"))?;
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
    Ok(Box::new(CsvRows { reader, columns }))
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

fn bad(message: String) -> Error {
    Error::new(Status::BadFormat, message)
}

impl Iterator for CsvRows {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = ByteRecord::new();
        self.reader.get_mut().left = ROW_BYTES_MAX;
        let read = self.reader.read_byte_record(&mut record);
        let line = |position: Option<&csv::Position>| position.map_or(0, csv::Position::line);
        let (line, value) = match read {
            Ok(false) => return None,
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
        let value = match self.reader.get_ref().check_closed() {
            Err(error) => Value::Broken(error),
            Ok(()) => value.unwrap_or_else(|message| Value::Invalid(bad(message))),
        };
        Some(Ok(Record { place: Place { unit: "line", number: line, group: None }, value }))
    }
}
