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
    if format == Format::Csv {
        return csv(text).map_err(|error| error.within(path.display()));
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
fn csv(_: Box<dyn io::BufRead>) -> Result<Records> {
    Err(Error::new(Status::Unsupported, "this build reads no CSV (feature `text`); write the rows as JSONL"))
}

/// Counts of the rows of a path.
#[derive(Debug, Default)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Skipped lines.
    pub skipped: u64,
    /// Error of the first skipped line.
    pub first: Option<Error>,
}

impl Counts {
    /// Errors: every line was skipped.
    pub fn check(self, path: &Path) -> Result<()> {
        match self.first {
            Some(error) if self.documents == 0 => {
                let number = self.skipped;
                let all =
                    if number == 1 { "the only line was".into() } else { format!("all {number} lines were") };
                Err(error.map(|first| format!("{}: {all} skipped; the first: {first}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Calls `take` with every row of a file and its tokens, in order; `threads` threads encode.
/// Empty lines are ignored. Errors name file and line.
pub fn read_rows(
    path: &Path,
    format: Format,
    (encoder, bad_lines, threads): (&Encoder, BadLines, usize),
    (counts, warnings): (&mut Counts, &mut Warnings),
    mut take: impl FnMut(&Row, Encoded) -> Result<()>,
) -> Result<()> {
    let mut records = records(path, format)?;
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
            return Ok(());
        }
        for (place, encoded) in encode(round, encoder, threads)? {
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
                    counts.first.get_or_insert(error);
                }
                Outcome::Invalid(error) | Outcome::Broken(error) => return Err(error.within(place)),
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

fn encode(round: Vec<Record>, encoder: &Encoder, threads: usize) -> Result<Vec<(Place, Outcome)>> {
    let one = |Record { place, value }: &mut Record| {
        let mut found = Warnings::default();
        let rows = match std::mem::replace(value, Value::Json(Vec::new())) {
            Value::Broken(error) => return (*place, Outcome::Broken(error)),
            Value::Invalid(error) => Err(error),
            Value::Json(text) => Row::parse(text.trim_ascii(), &mut found)
                .map_err(|error| error.map(|message| message + &advice(place, &text))),
            Value::Fields(fields, _) => Row::of(&fields, &mut found),
        };
        let documents = rows.and_then(|rows| {
            let encode = |row: Row| encoder.row(&row, &mut found).map(|encoded| (row, encoded));
            rows.into_iter().map(encode).collect::<Result<_>>()
        });
        (*place, documents.map_or_else(Outcome::Invalid, |documents| Outcome::Encoded(documents, found)))
    };
    let mut round = round;
    let chunk_rows = round.len().div_ceil(threads.max(1));
    let all = |rows: &mut [Record]| rows.iter_mut().map(one).collect::<Vec<_>>();
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

/// Returns what to do if the first object of a file is a table or has several lists of rows.
fn advice(place: &Place, text: &[u8]) -> String {
    use serde_json::Value;
    let member = |(name, value): (&String, &Value)| {
        let (kind, number) = match value {
            Value::Object(members) => ("an object", members.len()),
            Value::Array(values) => match values.first() {
                // Turns of a conversation.
                Some(Value::Object(turn)) if turn.contains_key("role") || turn.contains_key("from") => {
                    return None;
                }
                None | Some(Value::Object(_) | Value::String(_)) => ("a list", values.len()),
                Some(_) => return None,
            },
            _ => return None,
        };
        Some((format!("`{name}`, {kind} of {number}"), name.clone(), number))
    };
    let object = if place.number == 1 { json::object(text).unwrap_or_default() } else { Map::new() };
    let members: Vec<_> = object.iter().map(member).collect::<Option<_>>().unwrap_or_default();
    let Some((_, name, _)) = members.iter().find(|(_, _, number)| *number > 0) else { return String::new() };
    let found: Vec<&str> = members.iter().map(|(text, ..)| text.as_str()).collect();
    format!(
        ". The object has {}, but rows must be the elements of a list or the lines of a file; write one list alone, \
         e.g. `jq -c '.{name}[]' FILE > rows.jsonl`, or a data frame of pandas with \
         to_json(\"rows.jsonl\", orient=\"records\", lines=True)",
        found.join(", ")
    )
}
