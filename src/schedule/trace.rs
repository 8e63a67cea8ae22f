//! Writes spans in Chrome's trace format, which Perfetto and `chrome://tracing` open.
//!
//! The output is the JSON array form of the "Trace Event Format" (Google): one process for measured
//! spans and one for simulated spans, one track per lane, one complete event (`ph: X`) for every
//! task and one for its waiting, one arrow (`ph: s`, `ph: f`) from every task to each task that
//! waited for it. Times are in microseconds.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::operation::Operation;
use crate::device::{Lane, TaskSpan, Tick};

/// The description of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label<'a> {
    /// The operation.
    pub operation: Operation,
    /// Bytes copied, if the operation is a copy.
    pub bytes: Option<u64>,
    /// The ticks of other lanes that it waited for.
    pub waits: &'a [Tick],
}

/// A span of the issuing thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Displayed name, e.g. `wait for a batch`.
    pub name: &'static str,
    /// Start, on the clock of the task spans.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
}

/// The spans of one device or one simulation.
pub struct Process<'a> {
    /// Displayed name: `measured` or `simulated`.
    pub name: &'a str,
    /// The spans, in any order.
    pub spans: &'a [TaskSpan],
    /// Spans of the issuing thread, on a track of their own below the lanes.
    pub notes: &'a [Note],
    /// Returns the description of a task; without one, the task's number is written.
    pub label: &'a dyn Fn(&TaskSpan) -> Option<Label<'a>>,
}

/// One event; the field names are those of the format.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'a str,
    ph: &'a str,
    pid: usize,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    args: Map<String, Value>,
}

impl Default for Event<'_> {
    fn default() -> Self {
        let (ts, dur, id, bp) = (None, None, None, None);
        Event { name: "", cat: "", ph: "", pid: 0, tid: 0, ts, dur, id, bp, args: Map::new() }
    }
}

/// Writes the trace of these processes.
///
/// Errors: those of `to`. Nothing is buffered here; pass a buffered writer.
pub fn write_trace(processes: &[Process], to: &mut impl Write) -> io::Result<()> {
    let mut separator = "[\n";
    let mut put = |event: Event| -> io::Result<()> {
        to.write_all(separator.as_bytes())?;
        separator = ",\n";
        serde_json::to_writer(&mut *to, &event).map_err(io::Error::from)
    };
    let mut arrows = 0;
    for (process, pid) in processes.iter().zip(1..) {
        let metadata = |what: &'static str, tid: usize, key: &str, value: Value| {
            let args = Map::from_iter([(key.to_string(), value)]);
            Event { name: what, ph: "M", pid, tid, args, ..Event::default() }
        };
        put(metadata("process_name", 0, "name", process.name.into()))?;
        for lane in Lane::ALL {
            put(metadata("thread_name", lane.at(), "name", lane.name().into()))?;
            put(metadata("thread_sort_index", lane.at(), "sort_index", lane.at().into()))?;
        }
        let caller = Lane::COUNT;
        if !process.notes.is_empty() {
            put(metadata("thread_name", caller, "name", "caller".into()))?;
            put(metadata("thread_sort_index", caller, "sort_index", caller.into()))?;
        }
        for note in process.notes {
            put(Event { pid, ..complete(note.name, "caller", caller, note.start_ns, note.end_ns) })?;
        }
        let by_tick: HashMap<Tick, &TaskSpan> =
            process.spans.iter().map(|span| (span.tick(), span)).collect();
        for span in process.spans {
            let label = (process.label)(span);
            let name = match &label {
                Some(Label { operation, .. }) => operation.to_string(),
                None => format!("task {}", span.task),
            };
            let tid = span.lane.at();
            if span.start_ns > span.ready_ns {
                let args = Map::from_iter([("before".to_string(), name.as_str().into())]);
                put(Event { pid, args, ..complete("wait", "wait", tid, span.ready_ns, span.start_ns) })?;
            }
            let kind = label.map_or("task", |label| label.operation.name());
            let args = arguments(label.as_ref());
            put(Event { pid, args, ..complete(&name, kind, tid, span.start_ns, span.end_ns) })?;
            for wait in label.map_or(&[][..], |label| label.waits) {
                let Some(from) = by_tick.get(wait) else { continue };
                // Both ends of an arrow must lie within events: the last nanosecond of one task, the first of
                // the other.
                let from_ns = from.end_ns.saturating_sub(1).max(from.start_ns);
                let arrow = Event { name: "wait", cat: "wait", pid, id: Some(arrows), ..Event::default() };
                put(Event { ph: "s", tid: from.lane.at(), ts: microseconds(from_ns), ..arrow })?;
                let arrow = Event { name: "wait", cat: "wait", pid, id: Some(arrows), ..Event::default() };
                put(Event { ph: "f", tid, ts: microseconds(span.start_ns), bp: Some("e"), ..arrow })?;
                arrows += 1;
            }
        }
    }
    to.write_all(if processes.is_empty() { b"[\n]\n" } else { b"\n]\n" })
}

fn microseconds(ns: u64) -> Option<f64> {
    Some(ns as f64 / 1e3)
}

fn complete<'a>(name: &'a str, cat: &'a str, tid: usize, from_ns: u64, to_ns: u64) -> Event<'a> {
    let (ts, dur) = (microseconds(from_ns), microseconds(to_ns.saturating_sub(from_ns)));
    Event { name, cat, ph: "X", tid, ts, dur, ..Event::default() }
}

fn arguments(label: Option<&Label>) -> Map<String, Value> {
    let mut args = Map::new();
    let Some(Label { operation, bytes, .. }) = label else { return args };
    if let Some(unit) = operation.unit() {
        args.insert("unit".into(), unit.0.into());
    }
    if let Some(micro) = operation.micro() {
        args.insert("micro".into(), micro.0.into());
    }
    if let Some(bytes) = bytes {
        args.insert("bytes".into(), (*bytes).into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MicroIndex, SlotIndex, UnitIndex};
    use crate::schedule::{BoundaryBuffer, Recompute, WeightBuffer};

    const WAITS: [Tick; 1] = [Tick { lane: Lane::H2d, count: 4 }];

    fn example() -> Vec<TaskSpan> {
        let span = |lane, task, count, ready_ns, start_ns, end_ns| TaskSpan {
            lane,
            task,
            count,
            ready_ns,
            start_ns,
            end_ns,
        };
        vec![
            span(Lane::H2d, 7, 4, 1000, 1000, 3500),
            span(Lane::Compute, 8, 1, 500, 3600, 9000),
            span(Lane::Host, 9, 1, 9000, 9000, 9001),
        ]
    }

    fn label<'a>(span: &TaskSpan) -> Option<Label<'a>> {
        let (unit, slot) = (UnitIndex(3), SlotIndex(1));
        match span.task {
            7 => Some(Label {
                operation: Operation::Upload { unit, place: WeightBuffer::Slot(slot) },
                bytes: Some(4096),
                waits: &[],
            }),
            8 => Some(Label {
                operation: Operation::Forward {
                    unit,
                    slot,
                    micro: MicroIndex(2),
                    recompute: Recompute::Full,
                    from: BoundaryBuffer::Own,
                    to: BoundaryBuffer::Own,
                },
                bytes: None,
                waits: &WAITS,
            }),
            _ => None,
        }
    }

    fn events(processes: &[Process]) -> Vec<Value> {
        let mut text = Vec::new();
        write_trace(processes, &mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_trace_is_an_array_of_events_on_the_lanes_tracks() {
        let spans = example();
        let events = events(&[Process { name: "measured", spans: &spans, notes: &[], label: &label }]);
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
        // Three tasks, one wait, both ends of its arrow, one process, two metadata events per track.
        assert_eq!(events.len(), 3 + 1 + 2 + 1 + 2 * Lane::COUNT);
    }

    #[test]
    fn notes_have_a_track_of_their_own() {
        let notes = [Note { name: "wait for a batch", start_ns: 1000, end_ns: 3500 }];
        let events = events(&[Process { name: "measured", spans: &[], notes: &notes, label: &|_| None }]);
        let note = events.iter().find(|event| event["ph"] == "X").unwrap();
        assert_eq!((&note["name"], &note["tid"]), (&"wait for a batch".into(), &Lane::COUNT.into()));
        assert_eq!((note["ts"].as_f64(), note["dur"].as_f64()), (Some(1.0), Some(2.5)));
        assert!(events.iter().any(|event| event["ph"] == "M" && event["args"]["name"] == "caller"));
    }

    #[test]
    fn an_arrow_connects_the_end_of_a_task_with_the_start_of_its_waiter() {
        let spans = example();
        let events = events(&[Process { name: "measured", spans: &spans, notes: &[], label: &label }]);
        let end = |ph: &str| events.iter().find(|event| event["ph"] == ph).unwrap();
        let (from, to) = (end("s"), end("f"));
        assert_eq!((&from["tid"], from["ts"].as_f64()), (&Lane::H2d.at().into(), Some(3.499)));
        assert_eq!((&to["tid"], to["ts"].as_f64()), (&Lane::Compute.at().into(), Some(3.6)));
        assert_eq!((&from["id"], &from["cat"], &from["name"]), (&to["id"], &to["cat"], &to["name"]));
        assert_eq!(to["bp"], "e");
    }

    #[test]
    fn measured_and_simulated_spans_are_separate_processes() {
        let spans = example();
        let process = |name| Process { name, spans: &spans, notes: &[], label: &label };
        let events = events(&[process("measured"), process("simulated")]);
        let of = |pid: usize| events.iter().filter(|event| event["pid"] == pid).count();
        assert_eq!((of(1), of(2)), (events.len() / 2, events.len() / 2));
        let arrows: Vec<_> =
            events.iter().filter(|event| event["ph"] == "s").map(|event| &event["id"]).collect();
        assert_eq!(arrows.len(), 2);
        assert_ne!(arrows[0], arrows[1], "arrow ids are unique across processes");
    }

    #[test]
    fn an_empty_trace_is_valid() {
        assert!(
            events(&[Process { name: "none", spans: &[], notes: &[], label: &|_| None }])
                .iter()
                .all(|event| event["ph"] == "M")
        );
        assert!(events(&[]).is_empty());
    }

    #[test]
    fn a_full_disk_is_reported() {
        let spans = example();
        let process = Process { name: "measured", spans: &spans, notes: &[], label: &label };
        let mut buffer = [0u8; 100];
        let error = write_trace(&[process], &mut buffer.as_mut_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
