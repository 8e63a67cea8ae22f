//! The contents of logs and traces.

use std::collections::BTreeMap;

use horizon::base::{Error, Message, Result, Status};
use serde::Deserialize;
use serde_json::Value;

/// A log: (step, value) by field; a null value is NaN.
pub struct Run {
    pub name: String,
    series: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Run {
    /// Reads a log. Errors: `BadFormat`.
    pub fn parse(text: &str, name: String) -> Result<Run> {
        let series = read_series(text).map_err(bad)?;
        let has_loss = series.get("loss").is_some_and(|losses| losses.iter().any(|loss| loss.1.is_finite()));
        if !has_loss {
            return Err(bad("no line has a step and a loss; it must be a log of `horizon train --log`"));
        }
        Ok(Run { name, series })
    }

    /// The points of a field.
    pub fn series(&self, field: &str) -> &[(f64, f64)] {
        self.series.get(field).map_or(&[], Vec::as_slice)
    }
}

/// Reads a log. A last line that was not written completely is skipped.
fn read_series(text: &str) -> std::result::Result<BTreeMap<String, Vec<(f64, f64)>>, String> {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    for (at, (number, line)) in lines.iter().enumerate() {
        // Python's json module writes NaN and infinities like this; JSON has neither.
        let line = [":-Infinity", ":Infinity", ":NaN"].iter().fold(line.to_string(), |line, word| {
            line.replace(&word.replace(':', ": "), ": null").replace(word, ": null")
        });
        let record: Value = match serde_json::from_str(&line) {
            Ok(record) => record,
            Err(_) if at + 1 == lines.len() && !text.ends_with('\n') => break,
            Err(error) => {
                let error = error.to_string();
                // serde_json counts each line as line 1: only the column is of use.
                let (what, column) = error.rsplit_once(" at line 1 ").unwrap_or((&error, ""));
                return Err(format!("line {} {column}: {what}", number + 1));
            }
        };
        let Some(step) = record["step"].as_f64() else { continue };
        for (field, value) in record.as_object().into_iter().flatten() {
            let value = if value.is_null() { Some(f64::NAN) } else { value.as_f64() };
            series.entry(field.clone()).or_default().extend(value.map(|value| (step, value)));
        }
    }
    Ok(series)
}

/// A task of a trace, milliseconds.
#[derive(Clone, Debug)]
pub struct Span {
    pub process: String,
    pub lane: String,
    pub kind: String,
    pub from: f64,
    pub to: f64,
}

/// Reads a trace. Errors: `BadFormat`.
pub fn read_trace(text: &str) -> Result<Vec<Span>> {
    /// The two forms of a Chrome trace.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Trace {
        Array(Vec<Value>),
        Object {
            #[serde(rename = "traceEvents")]
            events: Vec<Value>,
        },
    }
    let (Trace::Array(events) | Trace::Object { events }) =
        serde_json::from_str(text).map_err(|error| bad(format!("it is not a Chrome trace: {error}")))?;
    let mut names: BTreeMap<(u64, Option<u64>), String> = BTreeMap::new();
    let id = |event: &Value, field: &str| event[field].as_u64().unwrap_or(0);
    for event in events.iter().filter(|event| event["ph"] == "M") {
        let name = event["args"]["name"].as_str().unwrap_or("").to_owned();
        match event["name"].as_str() {
            Some("process_name") => names.insert((id(event, "pid"), None), name),
            Some("thread_name") => names.insert((id(event, "pid"), Some(id(event, "tid"))), name),
            _ => None,
        };
    }
    let name = |pid, tid| names.get(&(pid, tid)).cloned().unwrap_or_default();
    let spans: Vec<Span> = events
        .iter()
        .filter(|event| event["ph"] == "X" && event["cat"] != "wait")
        .filter_map(|event| {
            let (pid, tid) = (id(event, "pid"), id(event, "tid"));
            let from = event["ts"].as_f64()? / 1e3;
            Some(Span {
                process: name(pid, None),
                lane: name(pid, Some(tid)),
                kind: event["cat"].as_str().unwrap_or("task").to_owned(),
                from,
                to: from + event["dur"].as_f64()? / 1e3,
            })
        })
        .collect();
    if spans.is_empty() {
        return Err(bad(
            "has no tasks; it must be a trace of `horizon train --trace` or `horizon plan --trace`",
        ));
    }
    Ok(spans)
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
            "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"loss\": null}\n{\"step\": 3, \"loss\":NaN}\n";
        let series = read_series(&format!("{whole}{{\"step\": 4, \"lo")).unwrap();
        let points: Vec<_> = series["loss"].iter().map(|&(step, loss)| (step, loss.is_nan())).collect();
        assert_eq!(points, [(1.0, false), (2.0, true), (3.0, true)]);
        let error = read_series(&format!("{{\"step\"\n{whole}")).unwrap_err();
        assert!(error.starts_with("line 1 column") && error.matches("line").count() == 1, "{error}");
    }
}
