//! Writes what happened in Chrome's trace format, which Perfetto and `chrome://tracing` open.
//!
//! The form is the JSON array of events that the format's description allows ("Trace Event Format", Google):
//! one track per lane, a complete event (`ph: X`) for every task and one for its waiting, times in
//! microseconds. A trace of a simulation is written the same way, from the spans it predicts.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::operation::Operation;
use crate::device::{Lane, TaskSpan};

/// What a task was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The operation.
    pub operation: Operation,
    /// Bytes it moved, where it moves bytes.
    pub bytes: Option<u64>,
}

/// One event of the format; the names of the fields are the format's.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'a str,
    ph: &'a str,
    pid: u32,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    args: Map<String, Value>,
}

/// The format wants a process; ours is the device.
const PROCESS: u32 = 1;

/// Writes the trace of these spans. `label` says what a task was; one it does not know is written by number.
///
/// Errors: those of `to`. Nothing is buffered here, so `to` should be.
pub fn write_trace(
    spans: &[TaskSpan],
    label: impl Fn(&TaskSpan) -> Option<Label>,
    to: &mut impl Write,
) -> io::Result<()> {
    let mut separator = "[\n";
    let mut put = |event: &Event| -> io::Result<()> {
        to.write_all(separator.as_bytes())?;
        separator = ",\n";
        serde_json::to_writer(&mut *to, event).map_err(io::Error::from)
    };
    for lane in Lane::ALL {
        put(&track("thread_name", lane, "name", lane.name().into()))?;
        put(&track("thread_sort_index", lane, "sort_index", lane.at().into()))?;
    }
    for span in spans {
        let label = label(span);
        let name = match label {
            Some(Label { operation, .. }) => operation.to_string(),
            None => format!("task {}", span.task),
        };
        if span.start_ns > span.ready_ns {
            let mut args = Map::new();
            args.insert("before".into(), name.as_str().into());
            put(&spent("wait", "wait", span.lane, span.ready_ns, span.start_ns, args))?;
        }
        let kind = label.map_or("task", |label| label.operation.name());
        put(&spent(&name, kind, span.lane, span.start_ns, span.end_ns, arguments(label)))?;
    }
    to.write_all(b"\n]\n")
}

fn track(what: &'static str, lane: Lane, key: &str, value: Value) -> Event<'static> {
    let args = Map::from_iter([(key.to_string(), value)]);
    Event { name: what, cat: "", ph: "M", pid: PROCESS, tid: lane.at(), ts: None, dur: None, args }
}

fn spent<'a>(
    name: &'a str,
    cat: &'a str,
    lane: Lane,
    from_ns: u64,
    to_ns: u64,
    args: Map<String, Value>,
) -> Event<'a> {
    let microseconds = |ns: u64| Some(ns as f64 / 1e3);
    let (ts, dur) = (microseconds(from_ns), microseconds(to_ns.saturating_sub(from_ns)));
    Event { name, cat, ph: "X", pid: PROCESS, tid: lane.at(), ts, dur, args }
}

fn arguments(label: Option<Label>) -> Map<String, Value> {
    let mut args = Map::new();
    let Some(Label { operation, bytes }) = label else { return args };
    if let Some(unit) = operation.unit() {
        args.insert("unit".into(), unit.0.into());
    }
    if let Some(micro) = operation.micro() {
        args.insert("micro".into(), micro.0.into());
    }
    if let Some(bytes) = bytes {
        args.insert("bytes".into(), bytes.into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(spans: &[TaskSpan], label: impl Fn(&TaskSpan) -> Option<Label>) -> String {
        let mut text = Vec::new();
        write_trace(spans, label, &mut text).expect("memory can be written to");
        String::from_utf8(text).expect("JSON is UTF-8")
    }
    use crate::base::{MicroIndex, SlotIndex, UnitIndex};
    use crate::schedule::WeightPlace;

    fn example() -> (Vec<TaskSpan>, impl Fn(&TaskSpan) -> Option<Label>) {
        let slot = SlotIndex(1);
        let span =
            |lane, task, ready_ns, start_ns, end_ns| TaskSpan { lane, task, ready_ns, start_ns, end_ns };
        let spans = vec![
            span(Lane::H2d, 7, 1000, 1000, 3500),
            span(Lane::Compute, 8, 500, 3600, 9000),
            span(Lane::Host, 9, 9000, 9000, 9001),
        ];
        let label = move |span: &TaskSpan| match span.task {
            7 => Some(Label {
                operation: Operation::Upload { unit: UnitIndex(3), place: WeightPlace::Slot(slot) },
                bytes: Some(4096),
            }),
            8 => Some(Label {
                operation: Operation::Forward { unit: UnitIndex(3), slot, micro: MicroIndex(2) },
                bytes: None,
            }),
            _ => None,
        };
        (spans, label)
    }

    #[test]
    fn a_trace_is_an_array_of_events_on_the_lanes_tracks() {
        let (spans, label) = example();
        let events: Vec<Value> = serde_json::from_str(&trace(&spans, label)).unwrap();
        let named = |name: &str| events.iter().find(|event| event["name"] == name).unwrap();
        let upload = named("upload unit 3 → slot 1");
        assert_eq!((upload["ts"].as_f64(), upload["dur"].as_f64()), (Some(1.0), Some(2.5)));
        assert_eq!((&upload["args"]["unit"], &upload["args"]["bytes"]), (&3.into(), &4096.into()));
        assert_eq!((&upload["tid"], &upload["cat"]), (&Lane::H2d.at().into(), &"upload".into()));

        let forward = named("forward unit 3 in slot 1, micro 2");
        assert_eq!((&forward["args"]["micro"], &forward["args"]["bytes"]), (&2.into(), &Value::Null));
        let wait = named("wait");
        assert_eq!((wait["ts"].as_f64(), wait["dur"].as_f64()), (Some(0.5), Some(3.1)));
        assert_eq!((&wait["tid"], &wait["args"]["before"]), (&forward["tid"], &forward["name"]));
        assert_eq!(named("task 9")["cat"], "task");

        let tracks: Vec<_> = events.iter().filter(|event| event["name"] == "thread_name").collect();
        assert_eq!(tracks.len(), Lane::COUNT);
        for (lane, track) in Lane::ALL.iter().zip(tracks) {
            assert_eq!((&track["ph"], &track["tid"]), (&"M".into(), &lane.at().into()));
            assert_eq!(track["args"]["name"], lane.name());
        }
        // Three tasks, one wait, two facts of each track.
        assert_eq!(events.len(), 3 + 1 + 2 * Lane::COUNT);
    }

    #[test]
    fn a_trace_of_nothing_is_still_a_trace() {
        let events: Vec<Value> = serde_json::from_str(&trace(&[], |_| None)).unwrap();
        assert!(events.iter().all(|event| event["ph"] == "M"));
    }

    #[test]
    fn a_full_disk_is_reported() {
        let (spans, label) = example();
        let mut room = [0u8; 100];
        let error = write_trace(&spans, label, &mut room.as_mut_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
