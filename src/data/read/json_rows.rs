//! Splits a text into JSON objects: one per line, one after the other over several lines, or in a
//! list.

use std::collections::VecDeque;
use std::io::BufRead;

use crate::base::json;
use crate::base::{Error, Result, Status};
use crate::data::read::content::too_long;
use crate::data::read::lines::{Lines, ROW_BYTES_MAX, row_too_long};
use crate::data::read::rows::{Place, Record, Value};

/// Layout of the objects in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One per line.
    Lines,
    /// One after the other, over several lines.
    Objects,
    /// As elements of one list.
    List,
}

/// Bytes of an object over several lines that are read to tell it from invalid lines.
const OBJECT_BYTES_MAX: usize = 1 << 24;

/// Iterates over the objects of a text.
pub struct JsonRows<R> {
    lines: Lines<R>,
    /// Lines that were read to find the layout, each with the number of blank lines before it.
    ahead: VecDeque<(u64, Vec<u8>)>,
    layout: Layout,
    /// Number of the last record.
    number: u64,
    /// The last line of a list or of objects, or a part of it.
    part: Vec<u8>,
    /// State between these.
    splitter: Splitter,
    /// Records of the last line.
    found: VecDeque<Vec<u8>>,
    ended: bool,
}

impl<R: BufRead> JsonRows<R> {
    /// Reads as many lines as the layout takes.
    pub fn open(reader: R) -> Result<JsonRows<R>, std::io::Error> {
        let mut rows = JsonRows {
            lines: Lines::new(reader),
            ahead: VecDeque::new(),
            layout: Layout::Lines,
            number: 0,
            part: Vec::new(),
            splitter: Splitter::default(),
            found: VecDeque::new(),
            ended: false,
        };
        rows.layout = rows.find_layout()?;
        rows.splitter.base = u32::from(rows.layout == Layout::List);
        Ok(rows)
    }

    fn find_layout(&mut self) -> Result<Layout, std::io::Error> {
        let (lines, first) = self.lines.skip_blank()?;
        match first {
            // Its elements can all be on one line, which is not read as a whole.
            Some(b'[') => return Ok(Layout::List),
            Some(b'{') => {}
            _ => {
                self.number = lines;
                return Ok(Layout::Lines);
            }
        }
        let layout = self.lines_or_objects()?;
        self.number = if layout == Layout::Lines { lines } else { 0 };
        Ok(layout)
    }

    /// Finds the layout of a text that begins with an object.
    fn lines_or_objects(&mut self) -> Result<Layout, std::io::Error> {
        let (mut probe, mut whole, mut blank) = (Splitter::default(), Vec::new(), 0);
        while let Some(line) = self.lines.next().transpose()? {
            let first = whole.is_empty();
            if line.trim_ascii_start().is_empty() {
                blank += 1;
                continue;
            }
            self.ahead.push_back((std::mem::take(&mut blank), line));
            let (_, line) = &self.ahead[self.ahead.len() - 1];
            let mut found = VecDeque::new();
            let ended = probe.split(line, true, &mut found).is_err() || probe.in_text || !found.is_empty();
            if ended && first {
                return Ok(Layout::Lines);
            }
            whole.extend_from_slice(line);
            if ended || whole.len() > OBJECT_BYTES_MAX {
                let valid = found.front().is_some_and(|object| json::value(object).is_ok());
                return Ok(if valid { Layout::Objects } else { Layout::Lines });
            }
        }
        Ok(Layout::Lines)
    }

    /// Numbers a record.
    fn record(&self, value: Value) -> Record {
        let unit = match self.layout {
            Layout::Lines => "line",
            Layout::Objects => "object",
            Layout::List => "element",
        };
        Record { place: Place { unit, number: self.number, group: None }, value }
    }

    fn advance(&mut self) -> Result<Option<Record>, std::io::Error> {
        loop {
            if let Some(bytes) = self.found.pop_front() {
                self.number += 1;
                return Ok(Some(self.record(Value::Json(bytes))));
            }
            if self.layout == Layout::Lines {
                let (blank, line) = match self.ahead.pop_front() {
                    Some(line) => line,
                    None => match self.lines.next().transpose()? {
                        Some(line) => (0, line),
                        None => return Ok(self.end()),
                    },
                };
                self.number += blank + 1;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(self.record(Value::Json(line))));
                }
                continue;
            }
            let ended = match self.ahead.pop_front() {
                Some((_, line)) => {
                    self.part = line;
                    true
                }
                None => {
                    self.part.clear();
                    match self.lines.part(&mut self.part)? {
                        Some(ended) => ended,
                        None => return Ok(self.end()),
                    }
                }
            };
            if let Err(words) = self.splitter.split(&self.part, ended, &mut self.found) {
                self.ended = true;
                return Ok(Some(self.broken(words)));
            }
            if self.splitter.value.len() > ROW_BYTES_MAX {
                let unit = if self.layout == Layout::List { "an element" } else { "an object" };
                return Err(too_long(row_too_long(unit)));
            }
        }
    }

    /// Returns the error of a list or an object that does not end.
    fn end(&mut self) -> Option<Record> {
        let open = self.layout == Layout::List && !self.splitter.closed
            || !self.splitter.value.trim_ascii().is_empty();
        if self.layout == Layout::Lines || std::mem::replace(&mut self.ended, true) || !open {
            return None;
        }
        Some(self.broken("the file ends inside it, so it is truncated"))
    }

    /// The error of a file whose rest cannot be split.
    fn broken(&mut self, words: &str) -> Record {
        let what = if self.layout == Layout::List { "a JSON list" } else { "JSON objects" };
        self.number += 1;
        let error = Error::new(Status::BadFormat, format!("not {what}: {words}"));
        self.record(Value::Broken(error))
    }
}

impl<R: BufRead> Iterator for JsonRows<R> {
    type Item = Result<Record, std::io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended && self.found.is_empty() { None } else { self.advance().transpose() }
    }
}

/// Finds the ends of values by their brackets and quotes.
#[derive(Default)]
struct Splitter {
    /// Depth of the values: 1 in a list, else 0.
    base: u32,
    depth: u32,
    in_text: bool,
    /// A backslash came before, in the same line.
    escaped: bool,
    /// The list has ended.
    closed: bool,
    /// A comma came before the value.
    comma: bool,
    /// The beginning of a value.
    value: Vec<u8>,
}

impl Splitter {
    /// Reads a line, or a part of one that `ended` with it or not; appends the values that end in it
    /// to `found`.
    fn split(&mut self, line: &[u8], ended: bool, found: &mut VecDeque<Vec<u8>>) -> Result<(), &'static str> {
        if self.value.is_empty() && line.trim_ascii().is_empty() {
            return Ok(());
        }
        let (mut start, mut at) = (0, usize::from(std::mem::take(&mut self.escaped)));
        while at < line.len() {
            if self.in_text {
                match memchr::memchr2(b'"', b'\\', &line[at..]) {
                    None => at = line.len(),
                    Some(next) if line[at + next] == b'\\' => at += next + 2,
                    Some(next) => {
                        self.in_text = false;
                        at += next + 1;
                    }
                }
                continue;
            }
            let byte = line[at];
            if self.closed && !byte.is_ascii_whitespace() {
                return Err("text follows its end");
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth == self.base {
                        start = at + 1;
                    }
                }
                b'}' | b']' => {
                    if self.depth == self.base && byte == b']' && self.base == 1 {
                        self.closed = true;
                        self.element(&line[start..at], found, true)?;
                        start = at + 1;
                    } else if self.depth <= self.base {
                        return Err("a bracket has no beginning");
                    }
                    self.depth -= 1;
                    if self.depth == 0 && self.base == 0 {
                        self.value.extend_from_slice(&line[start..=at]);
                        found.push_back(std::mem::take(&mut self.value).trim_ascii().to_vec());
                        start = at + 1;
                    }
                }
                b',' if self.depth == self.base && self.base == 1 => {
                    self.element(&line[start..at], found, false)?;
                    start = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        self.escaped = at > line.len() && !ended;
        self.value.extend_from_slice(&line[start.min(line.len())..]);
        self.value.extend(ended.then_some(b'\n'));
        Ok(())
    }

    /// Ends an element of a list, before a comma or its last bracket.
    fn element(
        &mut self,
        rest: &[u8],
        found: &mut VecDeque<Vec<u8>>,
        last: bool,
    ) -> Result<(), &'static str> {
        self.value.extend_from_slice(rest);
        let value = std::mem::take(&mut self.value).trim_ascii().to_vec();
        match value.is_empty() {
            true if self.comma && last => return Err("a comma stands before its end; remove the comma"),
            true if !last => return Err("a comma has no element before it"),
            true => {}
            false => found.push_back(value),
        }
        self.comma = !last;
        Ok(())
    }
}
