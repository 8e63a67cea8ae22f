//! The contents of logs and traces. Both are read value by value, and only what is drawn is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead, Read};
use std::rc::Rc;

use horizon::base::format::shortened;
use horizon::base::{Error, Message, Result, Status, json};
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Most bytes of a line of a log or an event of a trace.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// Parses a line or an event. Errors say in words what was found.
fn parse(text: &[u8]) -> Result<Value> {
    match text.len() > VALUE_BYTES_MAX {
        true => Err(bad(format!("it is longer than {VALUE_BYTES_MAX} bytes"))),
        false => json::value(text),
    }
}

/// The fields of a log that are drawn.
const FIELDS: [&str; 4] = ["loss", "val_loss", "tokens_per_second", "rss_bytes"];

/// A log: the drawn fields.
pub struct Run {
    pub name: String,
    series: BTreeMap<&'static str, Series>,
}

impl Run {
    /// Reads a log. Errors: `BadFormat`; `Io`.
    pub fn read(log: impl BufRead, name: String) -> Result<Run> {
        let series = read_series(log)?;
        let has_loss =
            series.get("loss").is_some_and(|losses| losses.points.iter().any(|loss| loss.1.is_finite()));
        if !has_loss {
            return Err(bad("no line has a step and a loss; it must be a log of `horizon train --log`"));
        }
        Ok(Run { name, series })
    }

    /// The points of a field: (step, value). A null value is NaN.
    pub fn series(&self, field: &str) -> &[(f64, f64)] {
        self.series.get(field).map_or(&[], |series| &series.points)
    }
}

/// Most points of a field; a picture has 900 pixels for them.
const POINTS_MAX: usize = 1 << 17;

/// The points of a field. When there are too many, they are taken in groups, and each group keeps its
/// least and its greatest value, which draw the same line: many groups share a pixel.
struct Series {
    points: Vec<(f64, f64)>,
    /// Number of points of the log in a group.
    group: usize,
    /// Number of points of the log in the last group, which is incomplete.
    open: usize,
}

impl Series {
    fn new() -> Series {
        Series { points: Vec::new(), group: 2, open: 0 }
    }

    fn push(&mut self, point: (f64, f64)) {
        self.points.push(point);
        self.open += 1;
        if self.open > 2 {
            let begin = self.points.len() - 3;
            let ends = ends(&self.points[begin..]);
            self.points.splice(begin.., ends);
        }
        if self.open == self.group {
            self.open = 0;
            if self.points.len() == POINTS_MAX {
                self.points = self.points.chunks(4).flat_map(ends).collect();
                self.group *= 2;
            }
        }
    }
}

/// The points with the least and the greatest value, in their order. NaN counts as the greatest:
/// gaps stay.
fn ends(points: &[(f64, f64)]) -> [(f64, f64); 2] {
    let order = |&one: &usize, &other: &usize| points[one].1.total_cmp(&points[other].1);
    let least = (0..points.len()).min_by(order).unwrap_or(0);
    let greatest = (0..points.len()).max_by(order).unwrap_or(0);
    [points[least.min(greatest)], points[least.max(greatest)]]
}

/// Most lines of a log.
const LINES_MAX: usize = 1 << 24;

/// Reads a log. A last line that was not written completely is skipped.
fn read_series(mut log: impl BufRead) -> Result<BTreeMap<&'static str, Series>> {
    let mut series = BTreeMap::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte more than a line may have, and the end of the line.
        let read = (&mut log).take(VALUE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line);
        if read.map_err(|error| Error::io("cannot read it", &error))? == 0 {
            break;
        }
        if number > LINES_MAX {
            return Err(bad(format!("it has more than {LINES_MAX} lines")));
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let record = match parse(text) {
            Ok(record) => record,
            Err(_) if !line.ends_with(b"\n") && log.fill_buf().is_ok_and(<[u8]>::is_empty) => break,
            Err(error) => return Err(error.within(format!("line {number}"))),
        };
        let Some(step) = record["step"].as_f64() else { continue };
        for field in FIELDS {
            let value = record.get(field).and_then(|value| match value {
                Value::Null => Some(f64::NAN),
                Value::String(text) => json::number(text).map(|_| f64::NAN),
                value => value.as_f64(),
            });
            if let Some(value) = value {
                series.entry(field).or_insert_with(Series::new).push((step, value));
            }
        }
    }
    Ok(series)
}

/// A task of a trace, milliseconds.
pub struct Span {
    pub process: Rc<str>,
    pub lane: Rc<str>,
    pub kind: Rc<str>,
    pub from: f64,
    pub to: f64,
}

/// Most tasks of a trace.
const TASKS_MAX: usize = 1 << 19;
/// Most lanes of a trace, and most kinds of tasks.
const LANES_MAX: usize = 1 << 10;

/// The events of a trace that are drawn, or name what is drawn.
#[derive(Default)]
struct Events<'a> {
    /// Stands before the names of processes.
    prefix: &'a str,
    /// Names of processes, and of lanes in them.
    names: BTreeMap<(u64, Option<u64>), Rc<str>>,
    kinds: BTreeSet<Rc<str>>,
    /// Process and lane of the tasks.
    lanes: BTreeSet<(u64, u64)>,
    /// Process, lane, kind, begin and end.
    tasks: Vec<(u64, u64, Rc<str>, f64, f64)>,
}

impl Events<'_> {
    fn push(&mut self, event: &Value) -> Result<()> {
        let id = |field: &str| event[field].as_u64().unwrap_or(0);
        let (process, lane) = (id("pid"), id("tid"));
        if event["ph"] == "M" {
            let name = shortened(event["args"]["name"].as_str().unwrap_or(""));
            match event["name"].as_str() {
                Some("process_name") => {
                    self.names.insert((process, None), format!("{}{name}", self.prefix).into())
                }
                Some("thread_name") => self.names.insert((process, Some(lane)), name.into()),
                _ => None,
            };
        } else if event["ph"] == "X"
            && event["cat"] != "wait"
            && let (Some(from), Some(length)) = (event["ts"].as_f64(), event["dur"].as_f64())
        {
            let kind = self.kind(shortened(event["cat"].as_str().unwrap_or("task")));
            self.lanes.insert((process, lane));
            self.tasks.push((process, lane, kind, from / 1e3, from / 1e3 + length / 1e3));
            for (count, max, what) in [
                (self.tasks.len(), TASKS_MAX, "tasks"),
                (self.lanes.len(), LANES_MAX, "lanes"),
                (self.kinds.len(), LANES_MAX, "kinds of tasks"),
            ] {
                if count > max {
                    return Err(bad(format!("it has more than {max} {what}; trace fewer steps")));
                }
            }
        }
        Ok(())
    }

    /// Returns the one text for all tasks of a kind.
    fn kind(&mut self, name: String) -> Rc<str> {
        let known = self.kinds.get(&*name).cloned();
        known.unwrap_or_else(|| {
            let kind: Rc<str> = name.into();
            self.kinds.insert(kind.clone());
            kind
        })
    }

    fn into_spans(self) -> Vec<Span> {
        let unnamed: (Rc<str>, Rc<str>) = (self.prefix.into(), "".into());
        let name = |id, otherwise: &Rc<str>| self.names.get(&id).unwrap_or(otherwise).clone();
        let span = |(process, lane, kind, from, to)| Span {
            process: name((process, None), &unnamed.0),
            lane: name((process, Some(lane)), &unnamed.1),
            kind,
            from,
            to,
        };
        self.tasks.into_iter().map(span).collect()
    }
}

/// Reads both forms of a Chrome trace: a list of events, or an object that has it in a field.
struct Trace<'a, 'b>(&'a mut Events<'b>);

impl<'de> DeserializeSeed<'de> for Trace<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> std::result::Result<(), D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Trace<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of events, or an object with traceEvents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> std::result::Result<(), A::Error> {
        while let Some(event) = events.next_element::<&RawValue>()? {
            let event = parse(event.get().as_bytes()).map_err(A::Error::custom)?;
            self.0.push(&event).map_err(A::Error::custom)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<(), A::Error> {
        while let Some(field) = fields.next_key::<Cow<str>>()? {
            match &*field {
                "traceEvents" => fields.next_value_seed(Trace(self.0))?,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    /// An error that does not repeat the text, which may be long.
    fn visit_str<E: de::Error>(self, _: &str) -> std::result::Result<(), E> {
        Err(E::invalid_type(de::Unexpected::Other("text"), &self))
    }
}

/// Reads a trace, with a prefix for the names of its processes. Errors: `BadFormat`.
pub fn read_trace(text: &str, prefix: &str) -> Result<Vec<Span>> {
    let mut events = Events { prefix, ..Events::default() };
    let mut json = serde_json::Deserializer::from_str(text);
    Trace(&mut events)
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| bad(format!("it is not a trace that can be drawn: {error}")))?;
    if events.tasks.is_empty() {
        return Err(bad(
            "has no tasks; it must be a trace of `horizon train --trace` or `horizon plan --trace`",
        ));
    }
    Ok(events.into_spans())
}

fn bad(what: impl Into<Message>) -> Error {
    Error::new(Status::BadFormat, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_may_have_gaps_and_an_unfinished_end() {
        let whole =
            "{\"step\": 1, \"loss\": 2.5}\n\n{\"step\": 2, \"loss\": null}\n{\"step\": 3, \"loss\":NaN}\n";
        let series = read_series(format!("{whole}{{\"step\": 4, \"lo").as_bytes()).unwrap();
        let points: Vec<_> =
            series["loss"].points.iter().map(|&(step, loss)| (step, loss.is_nan())).collect();
        assert_eq!(points, [(1.0, false), (2.0, true), (3.0, true)]);
        let read = |text: String| read_series(text.as_bytes()).err().unwrap().to_string();
        assert!(read(format!("{{\"step\"\n{whole}")).contains("line 1: "));
        assert!(read(format!("{whole}{{\"a\": {}}}", "1".repeat(1 << 20))).contains("line 5: it is longer"));
    }

    #[test]
    fn of_many_points_the_extremes_and_the_gaps_stay() {
        let mut series = Series::new();
        let value = |step: usize| match step {
            40_001 => 9.0,
            500_002 => f64::NAN,
            999_998 => -9.0,
            _ => (step % 7) as f64,
        };
        (0..1_000_000).for_each(|step| series.push((step as f64, value(step))));
        let Series { points, .. } = series;
        assert!((POINTS_MAX / 2..POINTS_MAX).contains(&points.len()), "{}", points.len());
        assert!(points.is_sorted_by(|one, other| one.0 < other.0 && other.0 - one.0 < 64.0));
        for step in [40_001, 500_002, 999_998] {
            let kept = points.iter().find(|point| point.0 == step as f64).unwrap();
            assert_eq!(kept.1.to_bits(), value(step).to_bits());
        }
    }

    #[test]
    fn a_trace_is_read_event_by_event() {
        let task = r#"{"ph":"X","pid":1,"tid":2,"cat":"adam","ts":1000,"dur":500}"#;
        let name = r#"{"ph":"M","name":"process_name","pid":1,"args":{"name":"measured"}}"#;
        let read =
            |events: &str| read_trace(&format!("{{\"run\":\"a\",\"traceEvents\":[{events}]}}"), "one ");
        let span = &read(&format!("{task},{name},[],{{}}")).unwrap()[0];
        assert_eq!((&*span.process, &*span.lane, &*span.kind), ("one measured", "", "adam"));
        assert_eq!((span.from, span.to), (1.0, 1.5));
        assert_eq!(&*read_trace(&format!("[{task}]"), "").unwrap()[0].process, "");
        let named = name.replace("measured", &"x".repeat(99));
        assert_eq!(
            &*read(&format!("{task},{named}")).unwrap()[0].process,
            format!("one {}…", "x".repeat(60))
        );
        let event = |lane| task.replace("\"tid\":2", &format!("\"tid\":{lane}"));
        let lanes: Vec<String> = (0..=LANES_MAX).map(event).collect();
        for (events, words) in [
            (&lanes.join(",")[..], "more than 1024 lanes"),
            (&format!("[{}]", " ".repeat(1 << 20)), "it is longer than"),
            ("[],{}", "has no tasks"),
            ("[", "expected `,` or `]`"),
        ] {
            let error = read(events).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
        let (task, mut events) = (serde_json::from_str(task).unwrap(), Events::default());
        (0..TASKS_MAX).for_each(|_| events.push(&task).unwrap());
        assert!(events.push(&task).unwrap_err().message().contains("more than 524288 tasks"));
        let error = read_trace(&format!("\"{}\"", "x".repeat(1000)), "").err().unwrap().to_string();
        assert!(error.len() < 200, "{error}");
    }
}
