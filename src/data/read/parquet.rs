//! Parquet: columns are the fields of a row, with the values that Hugging Face `datasets` gives.

use std::fmt;
use std::fs::File;

use parquet::basic::{ConvertedType, Repetition};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value as Json};

use crate::base::json;
use crate::base::{Error, Result, Status, caught};
use crate::data::read::content::expansion;
use crate::data::read::rows::{Place, Record, Records, Value};

struct ParquetRows {
    rows: RowIter<'static>,
    /// Rows of each row group.
    groups: Vec<i64>,
    number: u64,
    broken: bool,
    /// Size of the file.
    file_bytes: u64,
    /// Bytes of the texts so far. Numbers do not count: padding takes next to nothing in a file.
    texts: u64,
}

/// Reads the metadata and checks the types of all columns.
pub fn open(file: File) -> Result<Records> {
    let file_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let reader = guarded(|| SerializedFileReader::new(file))?;
    let metadata = reader.metadata();
    let columns = metadata.file_metadata().schema().get_fields();
    for (at, column) in columns.iter().enumerate() {
        if columns[..at].iter().any(|other| other.name() == column.name()) {
            return Err(bad(format!("two columns are named `{}`; rename one of them", column.name())));
        }
        check(column).map_err(|words| bad(format!("column `{}` has {words}", column.name())))?;
    }
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    let sizes = chunks.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(u64::MAX));
    if let Some(words) = expansion(file_bytes, sizes.fold(0, u64::saturating_add)) {
        return Err(expands(words));
    }
    let groups = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    let rows = RowIter::from_file_into(Box::new(reader));
    Ok(Box::new(ParquetRows { rows, groups, number: 0, broken: false, file_bytes, texts: 0 }))
}

fn expands(words: String) -> Error {
    bad(words + "; if its data are meant, write them as JSONL")
}

fn bad(message: String) -> Error {
    Error::new(Status::BadFormat, message)
}

fn damaged(error: impl fmt::Display) -> Error {
    /// The crate shows whole texts.
    const WORDS_MAX: usize = 120;
    let words: String = error.to_string().chars().take(WORDS_MAX).collect();
    bad(format!("damaged or truncated Parquet ({words}); copy or download the file again"))
}

/// Calls the crate `parquet`, which panics for some damaged files.
fn guarded<T>(call: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match caught(call) {
        Some(outcome) => outcome.map_err(damaged),
        None => Err(damaged("its parts do not match")),
    }
}

/// Errors: a type that the crate `parquet` does not read.
fn check(field: &Type) -> Result<(), &'static str> {
    let converted = field.get_basic_info().converted_type();
    if field.is_primitive() {
        return match converted {
            ConvertedType::INTERVAL => Err("the type INTERVAL, which is not supported; remove it"),
            _ => Ok(()),
        };
    }
    let fields = field.get_fields();
    let repeated = |field: &Type| {
        field.get_basic_info().has_repetition() && field.get_basic_info().repetition() == Repetition::REPEATED
    };
    let well_formed = match converted {
        ConvertedType::LIST => {
            fields.len() == 1
                && repeated(&fields[0])
                && (fields[0].is_primitive() || !fields[0].get_fields().is_empty())
        }
        ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => {
            fields.len() == 1
                && repeated(&fields[0])
                && !fields[0].is_primitive()
                && matches!(fields[0].get_fields().len(), 1 | 2)
        }
        _ => !fields.is_empty(),
    };
    if !well_formed {
        return Err("a malformed type; write the file again");
    }
    fields.iter().try_for_each(|field| check(field))
}

impl Iterator for ParquetRows {
    type Item = std::io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        let value = match guarded(|| self.rows.next().transpose()) {
            Ok(None) => return None,
            Ok(Some(row)) => {
                let mut bytes = Bytes::default();
                let fields = object(&row, &mut bytes);
                self.texts += bytes.texts as u64;
                if let Some(words) = expansion(self.file_bytes, self.texts) {
                    self.broken = true;
                    Value::Broken(expands(words))
                } else {
                    fields.map_or_else(Value::Invalid, |fields| Value::Fields(fields, bytes.all))
                }
            }
            Err(error) => {
                self.broken = true;
                Value::Broken(error)
            }
        };
        let mut before = 0;
        let group = self.groups.iter().position(|rows| {
            before += u64::try_from(*rows).unwrap_or(0);
            self.number < before
        });
        self.number += 1;
        let place = Place { unit: "row", number: self.number, group: group.map(|at| at + 1) };
        Some(Ok(Record { place, value }))
    }
}

/// Bytes of values.
#[derive(Default)]
struct Bytes {
    all: usize,
    texts: usize,
}

/// Returns the fields of a group; adds the bytes of its values.
fn object(row: &Row, bytes: &mut Bytes) -> Result<Map<String, Json>> {
    let column = |(name, field): (&String, &Field)| Ok((name.clone(), value(field, bytes)?));
    row.get_column_iter().map(column).collect()
}

fn value(field: &Field, bytes: &mut Bytes) -> Result<Json> {
    let list =
        |values: &mut dyn Iterator<Item = Result<Json>>| values.collect::<Result<_>>().map(Json::Array);
    bytes.all += size_of::<Json>();
    let text = match field {
        Field::Null => return Ok(Json::Null),
        Field::Bool(value) => return Ok(Json::Bool(*value)),
        Field::Byte(value) => return Ok(Json::from(*value)),
        Field::Short(value) => return Ok(Json::from(*value)),
        Field::Int(value) => return Ok(Json::from(*value)),
        Field::Long(value) => return Ok(Json::from(*value)),
        Field::UByte(value) => return Ok(Json::from(*value)),
        Field::UShort(value) => return Ok(Json::from(*value)),
        Field::UInt(value) => return Ok(Json::from(*value)),
        Field::ULong(value) => return Ok(Json::from(*value)),
        Field::Float16(value) => return Ok(float(f64::from(*value))),
        Field::Float(value) => return Ok(float(f64::from(*value))),
        Field::Double(value) => return Ok(float(*value)),
        Field::Group(row) => return object(row, bytes).map(Json::Object),
        Field::ListInternal(found) => {
            return list(&mut found.elements().iter().map(|element| value(element, bytes)));
        }
        // A list of pairs, as Python has it.
        Field::MapInternal(map) => {
            let pair =
                |(key, field): &(Field, Field)| Ok(vec![value(key, bytes)?, value(field, bytes)?].into());
            return list(&mut map.entries().iter().map(pair));
        }
        Field::Str(text) => {
            json::check_text(text)?;
            text.clone()
        }
        Field::Bytes(text) => utf8(text.data())?,
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => field.to_string(),
    };
    bytes.all += text.len();
    bytes.texts += text.len();
    Ok(Json::String(text))
}

fn float(value: f64) -> Json {
    let word = || match value {
        _ if value.is_nan() => "NaN",
        _ if value > 0.0 => "Infinity",
        _ => "-Infinity",
    };
    Number::from_f64(value).map_or_else(|| Json::String(format!("{}{}", json::NUMBER, word())), Json::Number)
}

/// Returns bytes as text, with the mark for a lone surrogate in place of invalid bytes, as Python's
/// `surrogateescape` does.
fn utf8(bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        json::check_text(chunk.valid())?;
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| json::SURROGATE));
    }
    Ok(text)
}
