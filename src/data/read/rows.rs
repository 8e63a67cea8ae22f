//! Reads and encodes the rows of a file.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use serde_json::Map;

#[cfg(not(feature = "text"))]
use crate::base::Status;
use crate::base::json;
use crate::base::{Error, Result};
use crate::data::encode::Encoder;
use crate::data::read::content::{Content, unreadable};
use crate::data::read::json_rows::JsonRows;
use crate::data::read::kind::Format;
use crate::data::rows::Row;
use crate::data::tokenizer::Encoded;
use crate::data::warning::{Warning, Warnings};
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
/// Bytes of records whose chats are rendered together.
const BATCH_BYTES: usize = 1 << 15;

/// The position of a record in its file: "line 3", or "row 3 (row group 1)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub unit: &'static str,
    /// From 1.
    pub number: u64,
    /// Row group of a Parquet file, from 1.
    pub group: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.unit, self.number)?;
        self.group.map_or(Ok(()), |group| write!(f, " (row group {group})"))
    }
}

/// A record of a file.
#[derive(Debug)]
pub struct Record {
    pub place: Place,
    pub value: Value,
}

/// The contents of a record.
#[derive(Debug)]
#[cfg_attr(not(feature = "text"), expect(dead_code, reason = "only Parquet and CSV have fields"))]
pub enum Value {
    /// The text of a JSON object.
    Json(Vec<u8>),
    /// Fields, and the bytes of their texts.
    Fields(Map<String, serde_json::Value>, usize),
    /// The record cannot be read.
    Invalid(Error),
    /// The file cannot be read from here.
    Broken(Error),
}

impl Value {
    /// True if it has the fields of a row.
    pub fn is_row(&self) -> bool {
        let is_row = |fields: &_| Row::of(fields, &mut Warnings::default()).is_ok();
        match self {
            Value::Json(text) => json::object(text).is_ok_and(|fields| is_row(&fields)),
            Value::Fields(fields, _) => is_row(fields),
            Value::Invalid(_) | Value::Broken(_) => false,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Value::Json(text) => text.len(),
            Value::Fields(_, bytes) => *bytes,
            Value::Invalid(_) | Value::Broken(_) => 0,
        }
    }
}

/// The records of a file, in order.
pub type Records = Box<dyn Iterator<Item = io::Result<Record>>>;

fn records(path: &Path, format: Format) -> Result<Records> {
    let text = match Content::open(path, format)? {
        Content::Parquet(file) => return parquet(file).map_err(|error| error.within(path.display())),
        Content::Text(text) => text,
    };
    if matches!(format, Format::Csv | Format::Tsv) {
        return csv(text, format == Format::Tsv).map_err(|error| error.within(path.display()));
    }
    Ok(Box::new(JsonRows::open(text).map_err(|error| unreadable(path, &error))?))
}

#[cfg(feature = "text")]
use crate::data::read::{csv::open as csv, parquet::open as parquet};

#[cfg(not(feature = "text"))]
fn parquet(_: std::fs::File) -> Result<Records> {
    Err(Error::new(
        Status::Unsupported,
        "this build reads no Parquet (feature `text`); write the rows as JSONL",
    ))
}

#[cfg(not(feature = "text"))]
fn csv(_: Box<dyn io::BufRead>, _: bool) -> Result<Records> {
    Err(Error::new(Status::Unsupported, "this build reads no CSV (feature `text`); write the rows as JSONL"))
}

/// True if the first record of a file has the fields of a row.
pub fn begins_with_row(path: &Path, format: Format) -> bool {
    records(path, format).is_ok_and(|mut records| match records.next() {
        Some(Ok(record)) => record.value.is_row(),
        _ => false,
    })
}

/// Counts of the rows of a path.
#[derive(Debug, Default)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Skipped lines.
    pub skipped: u64,
    /// Error of the first skipped line, and what it is: a line, row, object or element.
    pub first: Option<(&'static str, Error)>,
}

impl Counts {
    /// Errors: every line was skipped.
    pub fn check(self, path: &Path) -> Result<()> {
        match self.first {
            Some((unit, error)) if self.documents == 0 => {
                let all = match self.skipped {
                    1 => format!("the only {unit} was"),
                    number => format!("all {number} {unit}s were"),
                };
                Err(error.map(|first| format!("{}: {all} skipped; the first: {first}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

/// The encoder of rows, and the options of reading them.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub encoder: &'a Encoder,
    pub bad_lines: BadLines,
    /// Number of threads that encode.
    pub threads: usize,
}

impl Reading<'_> {
    /// Calls `take` with every row of a file and its tokens, in order. Empty lines are ignored. Errors
    /// name file and line.
    pub fn rows(
        self,
        path: &Path,
        format: Format,
        counts: &mut Counts,
        warnings: &mut Warnings,
        mut take: impl FnMut(&Row, Encoded) -> Result<()>,
    ) -> Result<()> {
        let Reading { encoder, bad_lines, threads } = self;
        let mut records = records(path, format)?;
        let mut is_first = true;
        loop {
            let (mut round, mut round_bytes) = (Vec::new(), 0);
            while round_bytes < CHUNK_BYTES * threads {
                let Some(record) = records.next() else { break };
                let record = record.map_err(|error| unreadable(path, &error))?;
                // The place of a record takes memory, too.
                round_bytes += record.value.bytes() + size_of::<Record>();
                round.push(record);
            }
            if round.is_empty() {
                if is_first {
                    warnings.add(Warning::EmptyFile, path.display());
                }
                return Ok(());
            }
            let is_only = std::mem::take(&mut is_first) && round.len() == 1;
            for (place, encoded) in encode(round, is_only, encoder, threads)? {
                let unit = place.unit;
                let place = format_args!("{}, {place}", path.display());
                match encoded {
                    Outcome::Encoded(documents, found) => {
                        for (row, encoded) in documents {
                            counts.documents += 1;
                            take(&row, encoded)?;
                        }
                        warnings.extend(place, found);
                    }
                    Outcome::Invalid(error) if bad_lines == BadLines::Skip => {
                        let error = error.within(place);
                        warnings.add(Warning::SkippedLine, &error);
                        counts.skipped += 1;
                        counts.first.get_or_insert((unit, error));
                    }
                    Outcome::Invalid(error) | Outcome::Broken(error) => return Err(error.within(place)),
                }
            }
        }
    }
}

enum Outcome {
    /// A record's documents with tokens, and its warnings.
    Encoded(Vec<(Row, Encoded)>, Warnings),
    Invalid(Error),
    Broken(Error),
}

/// Encodes records in order; `is_only` is true for the only record of a file.
fn encode(
    round: Vec<Record>,
    is_only: bool,
    encoder: &Encoder,
    threads: usize,
) -> Result<Vec<(Place, Outcome)>> {
    let parse = |Record { place, value }: &mut Record| {
        let mut found = Warnings::default();
        let rows = match std::mem::replace(value, Value::Json(Vec::new())) {
            Value::Broken(error) => return (*place, Err(Outcome::Broken(error))),
            Value::Invalid(error) => Err(error),
            Value::Json(text) => Row::parse(text.trim_ascii(), &mut found)
                .map_err(|error| if is_only { error.map(|message| message + &advice(&text)) } else { error }),
            Value::Fields(fields, _) => Row::of(&fields, &mut found),
        };
        (*place, rows.map(|rows| (rows, found)).map_err(Outcome::Invalid))
    };
    let batch = |records: &mut [Record]| {
        let parsed: Vec<_> = records.iter_mut().map(parse).collect();
        let rows: Vec<&Row> =
            parsed.iter().flat_map(|(_, rows)| rows.iter().flat_map(|(rows, _)| rows)).collect();
        let mut encoded = encoder.rows(&rows).into_iter();
        let one = |(place, rows): (Place, Result<(Vec<Row>, Warnings), Outcome>)| {
            let (rows, mut found) = match rows {
                Ok(rows) => rows,
                Err(outcome) => return (place, outcome),
            };
            // Those of an invalid record are taken, too.
            let documents: Vec<_> = encoded.by_ref().take(rows.len()).collect();
            let encode = |(row, encoded): (Row, Result<(Encoded, Warnings)>)| {
                let (encoded, warnings) = encoded?;
                found.append(warnings);
                Ok((row, encoded))
            };
            let outcome = match rows.into_iter().zip(documents).map(encode).collect() {
                Ok(documents) => Outcome::Encoded(documents, found),
                Err(error) if encoder.has_stopped_by(&error) => Outcome::Broken(error),
                Err(error) => Outcome::Invalid(error),
            };
            (place, outcome)
        };
        parsed.into_iter().map(one).collect::<Vec<_>>()
    };
    let mut round = round;
    let chunk_rows = round.len().div_ceil(threads.max(1));
    let all = |rows: &mut [Record]| batches(rows).into_iter().flat_map(batch).collect::<Vec<_>>();
    thread::scope(|scope| {
        let workers: Vec<_> = round
            .chunks_mut(chunk_rows)
            .map(|rows| start_scoped_thread(scope, "encode", move || all(rows)))
            .collect::<Result<_>>()?;
        let outcomes =
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let outcomes = outcomes.collect();
        // Its errors are not those of a record.
        encoder.check_opened().map(|()| outcomes)
    })
}

/// Divides records into batches of [`BATCH_BYTES`], each with at least one record.
fn batches(mut records: &mut [Record]) -> Vec<&mut [Record]> {
    let mut batches = Vec::new();
    while !records.is_empty() {
        let mut bytes = 0;
        let more = records.iter().take_while(|record| {
            bytes += record.value.bytes() + size_of::<Record>();
            bytes <= BATCH_BYTES
        });
        let (batch, rest) = records.split_at_mut(more.count().max(1));
        batches.push(batch);
        records = rest;
    }
    batches
}

/// Returns what to do with the only object of a file if it has lists of rows, or columns.
fn advice(text: &[u8]) -> String {
    use serde_json::Value;
    let object = json::object(text).unwrap_or_default();
    let is_turn = |value: &Value| value.get("role").or(value.get("from")).is_some();
    let of_members = |is: &dyn Fn(&Value) -> bool| -> Vec<(&String, usize)> {
        let number = |value: &Value| match value {
            Value::Object(members) => members.len(),
            Value::Array(values) => values.len(),
            _ => 0,
        };
        object.iter().filter(|(_, value)| is(value)).map(|(name, value)| (name, number(value))).collect()
    };
    let lists = of_members(&|value| match value {
        Value::Array(values) => values.first().is_none_or(|first| first.is_object() && !is_turn(first)),
        _ => false,
    });
    if let Some((name, _)) = lists.iter().find(|(_, number)| *number > 0) {
        let found: Vec<_> =
            lists.iter().map(|(name, number)| format!("`{name}`, a list of {number}")).collect();
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let path = if is_word { format!(".{name}") } else { format!(".[\"{name}\"]") };
        return format!(
            ". The object has {}, but rows must be the elements of a list or the lines of a file; write one list \
             alone, e.g. `jq -c '{path}[]' FILE > rows.jsonl`",
            found.join(", ")
        );
    }
    let columns = of_members(&|value| match value {
        Value::Object(_) => true,
        Value::Array(values) => values.first().is_some_and(Value::is_string),
        _ => false,
    });
    let Some((name, number)) = columns.first().filter(|(_, number)| *number > 0) else {
        return String::new();
    };
    if columns.len() < object.len() || columns.iter().any(|(_, other)| other != number) {
        return String::new();
    }
    let kind = if object[*name].is_object() { "an object" } else { "a list" };
    format!(
        ". The object has columns (`{name}` is {kind} of {number}), as a data frame of pandas; write rows with \
         to_json(\"rows.jsonl\", orient=\"records\", lines=True)"
    )
}
