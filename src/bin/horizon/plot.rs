//! `horizon plot`: logs and traces as SVG.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use horizon::base::{Error, Result, Status};
use horizon::host::folder::replace_file;
use horizon::host::input;
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::options::PlotOptions;
use crate::paths::Paths;

/// Pixels.
const WIDTH: u32 = 900;
const PANEL: u32 = 240;
const ROW: u32 = 34;
const FONT: &str = "sans-serif";

/// Colours that also differ in lightness (Okabe & Ito 2008; grey for their black).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

fn colour(at: usize) -> RGBColor {
    COLOURS[at % COLOURS.len()]
}

/// Draws logs or traces.
///
/// Errors: a file that cannot be read or is neither a log nor a trace; both kinds at once; a
/// picture that would replace one of the files.
pub fn plot(options: &PlotOptions) -> Result<()> {
    check_out(options)?;
    let names = names(&options.files);
    let is_trace = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let traces = options.files.iter().filter(|path| is_trace(path)).count();
    let mut svg = String::new();
    let drawn = if traces == 0 {
        let runs = options
            .files
            .iter()
            .zip(names)
            .map(|(path, name)| Run::read(path, name))
            .collect::<Result<Vec<_>>>()?;
        draw_runs(&runs, &mut svg)
    } else if traces == options.files.len() {
        let mut spans = Vec::new();
        for (path, name) in options.files.iter().zip(&names) {
            let mut read = read_trace(path)?;
            if traces > 1 {
                read.iter_mut().for_each(|span| span.process = format!("{name} {}", span.process));
            }
            spans.append(&mut read);
        }
        draw_lanes(&spans, &mut svg)
    } else {
        return Err(Error::argument(
            "logs (.jsonl) and traces (.json) cannot share a picture: give one kind",
        ));
    };
    let out = &options.out;
    let cannot =
        |error: &dyn Display| Error::new(Status::Io, format!("cannot write {}: {error}", out.display()));
    drawn.map_err(|error| cannot(&error))?;
    replace_file(out, |file| file.write_all(svg.as_bytes()).map_err(|error| cannot(&error)))?;
    message!("wrote {}", out.display());
    Ok(())
}

/// Largest log or trace that is drawn.
const FILE_BYTES_MAX: u64 = 1 << 32;

fn read(path: &Path) -> Result<String> {
    input::read_text(path, FILE_BYTES_MAX)
}

/// Refuses a path for the picture that cannot be written or is one of the files.
fn check_out(PlotOptions { files, out }: &PlotOptions) -> Result<()> {
    if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg")) {
        return Err(Error::argument(format!(
            "pictures are SVG, and --out {} does not end in .svg: name it FILE.svg",
            out.display()
        )));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::new(
            Status::NotFound,
            format!("cannot write {}: there is no folder {}", out.display(), folder.display()),
        ));
    }
    if out.is_dir() {
        return Err(Error::argument(format!("cannot write {}: it is a folder; name a file", out.display())));
    }
    let paths = Paths::default().writes_file("--out", Some(out))?;
    files.iter().try_fold(paths, |paths, file| paths.reads("the file", file))?.check()
}

/// Names of files: each is as much of the end of its path as distinguishes it from the others.
fn names(files: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Vec<String>> = files
        .iter()
        .map(|file| {
            let whole = file.with_extension("");
            whole.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
        })
        .collect();
    let end = |parts: &[String], count: usize| parts[parts.len().saturating_sub(count)..].join("/");
    let name = |one: &Vec<String>| {
        let is_alone = |count: &usize| {
            let alike = parts.iter().filter(|other| end(other, *count) == end(one, *count));
            alike.filter(|other| *other != one).count() == 0
        };
        end(one, (1..one.len()).find(is_alone).unwrap_or(one.len()))
    };
    parts.iter().map(name).collect()
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Status::BadFormat, format!("{}: {what}", path.display()))
}

/// The panels of a log: field, title, scale.
const PANELS: [(&str, &str, f64); 3] = [
    ("loss", "loss (nats per token)", 1.0),
    ("tokens_per_second", "tokens per second", 1.0),
    ("rss_bytes", "memory (GiB)", 1.0 / (1u64 << 30) as f64),
];

/// A log: (step, value) by field; a null value is NaN.
struct Run {
    name: String,
    series: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Run {
    fn read(path: &Path, name: String) -> Result<Run> {
        let series = read_series(&read(path)?).map_err(|error| bad(path, error))?;
        let has_loss = series.get("loss").is_some_and(|losses| losses.iter().any(|loss| loss.1.is_finite()));
        if !has_loss {
            return Err(bad(
                path,
                "no line has a step and a loss; it must be a log of `horizon train --log`",
            ));
        }
        Ok(Run { name, series })
    }

    fn series(&self, field: &str) -> &[(f64, f64)] {
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

/// Runs of points without a gap.
fn pieces(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    points.split(|point| !point.1.is_finite()).filter(|piece| !piece.is_empty())
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_runs(runs: &[Run], svg: &mut String) -> Drawn {
    let panels: Vec<_> =
        PANELS.iter().filter(|(field, ..)| runs.iter().any(|run| !run.series(field).is_empty())).collect();
    let root = SVGBackend::with_string(svg, (WIDTH, PANEL * panels.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (at, (area, (field, title, scale))) in
        root.split_evenly((panels.len(), 1)).iter().zip(panels).enumerate()
    {
        // The first panel has the legend for all.
        draw_panel(area, runs, field, title, *scale, at == 0 && runs.len() > 1)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(area: &Area, runs: &[Run], field: &str, title: &str, scale: f64, legend: bool) -> Drawn {
    let points = |run: &Run, field: &str| -> Vec<(f64, f64)> {
        run.series(field).iter().map(|&(step, value)| (step, value * scale)).collect()
    };
    let all: Vec<_> = runs.iter().flat_map(|run| points(run, field)).collect();
    let steps = range(all.iter().map(|point| point.0), false);
    let values = range(all.iter().map(|point| point.1), field != "loss");
    let height = values.end - values.start;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(70)
        .build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(title)
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 13))
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| fine(*value, height))
        .draw()?;
    for (at, run) in runs.iter().enumerate() {
        let style = colour(at).stroke_width(2);
        let points_of_run = points(run, field);
        let (dots, lines): (Vec<_>, Vec<_>) = pieces(&points_of_run).partition(|piece| piece.len() == 1);
        chart
            .draw_series(lines.into_iter().map(|line| PathElement::new(line, style)))?
            .label(run.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        chart.draw_series(dots.into_iter().map(|dot| Circle::new(dot[0], 3, colour(at).filled())))?;
        if field == "loss" {
            let mut marks = points(run, "val_loss");
            marks.retain(|mark| mark.1.is_finite());
            chart
                .draw_series(marks.into_iter().map(|at_step| Circle::new(at_step, 3, colour(at).filled())))?;
        }
    }
    if legend {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 13))
            .draw()?;
    }
    Ok(())
}

/// The range of values with a small margin; it starts at 0 where heights are compared.
fn range(values: impl Iterator<Item = f64>, from_zero: bool) -> Range<f64> {
    let (mut least, mut most) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    if least > most {
        return 0.0..1.0;
    }
    if from_zero {
        least = 0.0;
    }
    if most <= least {
        // A single value is drawn in the middle.
        (least, most) = (if from_zero { 0.0 } else { least - 0.5 }, most + 0.5);
    }
    let air = 0.04 * (most - least);
    (if from_zero { 0.0 } else { least - air })..most + air
}

/// `12k`, `0.5`.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", tidy(value / 1e6)),
        size if size >= 1e4 => format!("{}k", tidy(value / 1e3)),
        _ => tidy(value),
    }
}

/// As [`short`], with enough digits to distinguish the labels of an axis of this height.
fn fine(value: f64, height: f64) -> String {
    if value.abs() >= 1e4 || height >= 0.1 {
        return short(value);
    }
    let decimals = (2.0 - height.log10()).ceil().clamp(2.0, 12.0) as usize;
    trimmed(format!("{value:.decimals$}"))
}

fn tidy(value: f64) -> String {
    trimmed(format!("{value:.2}"))
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A task of a trace, milliseconds.
#[derive(Clone, Debug)]
struct Span {
    process: String,
    lane: String,
    kind: String,
    from: f64,
    to: f64,
}

fn read_trace(path: &Path) -> Result<Vec<Span>> {
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
    let (Trace::Array(events) | Trace::Object { events }) = serde_json::from_str(&read(path)?)
        .map_err(|error| bad(path, format!("it is not a Chrome trace: {error}")))?;
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
            path,
            "has no tasks; it must be a trace of `horizon train --trace` or `horizon plan --trace`",
        ));
    }
    Ok(spans)
}

/// The last training step of a trace: the time between two clip decisions with a backward pass
/// between them; the whole trace if there is none.
fn last_step(spans: &[Span]) -> Range<f64> {
    let mut decided: Vec<f64> =
        spans.iter().filter(|span| span.kind == "clip decision").map(|span| span.to).collect();
    decided.sort_by(f64::total_cmp);
    let backwards = || spans.iter().filter(|span| span.kind.contains("backward"));
    let trains = |pair: &&[f64]| backwards().any(|span| pair[0] < span.from && span.from < pair[1]);
    match decided.windows(2).rfind(trains) {
        Some(pair) => pair[0]..pair[1],
        None => range(spans.iter().flat_map(|span| [span.from, span.to]), false),
    }
}

/// A timeline: the last step of each process, from its start on.
struct Shown {
    /// Process and lane of each row, from the top.
    rows: Vec<(String, String)>,
    /// Kinds of tasks, by falling total time.
    kinds: Vec<String>,
    /// Row, kind, and time of each task.
    tasks: Vec<(usize, usize, Range<f64>)>,
    /// Length of the longest step.
    length: f64,
}

impl Shown {
    fn of(spans: &[Span]) -> Shown {
        let mut by_process: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
        for span in spans {
            by_process.entry(&span.process).or_default().push(span.clone());
        }
        let (mut cut, mut length) = (Vec::new(), 0.0f64);
        for spans in by_process.values() {
            let step = last_step(spans);
            length = length.max(step.end - step.start);
            for span in spans {
                let part = span.from.max(step.start) - step.start..span.to.min(step.end) - step.start;
                if part.start < part.end {
                    cut.push((span, part));
                }
            }
        }
        let mut rows: Vec<_> =
            cut.iter().map(|(span, _)| (span.process.clone(), span.lane.clone())).collect();
        rows.sort_by_key(|(process, lane)| (process.clone(), LANES.iter().position(|known| known == lane)));
        rows.dedup();
        let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
        for (span, part) in &cut {
            *taken.entry(&span.kind).or_default() += part.end - part.start;
        }
        let mut kinds: Vec<_> = taken.into_iter().collect();
        kinds.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, _)| kind.to_owned()).collect();
        let at = |(span, part): (&Span, Range<f64>)| {
            let row =
                rows.iter().position(|(process, lane)| *process == span.process && *lane == span.lane)?;
            Some((row, kinds.iter().position(|kind| *kind == span.kind)?, part))
        };
        let tasks = cut.into_iter().filter_map(at).collect();
        Shown { rows, kinds, tasks, length }
    }
}

fn draw_lanes(spans: &[Span], svg: &mut String) -> Drawn {
    let Shown { rows, kinds, tasks, length } = Shown::of(spans);
    let labels: Vec<String> = rows.into_iter().map(|(process, lane)| format!("{process} {lane}")).collect();
    let label_width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0) as u32 * 8 + 14;
    let legend_rows = kinds.len().div_ceil(LEGEND_COLUMNS) as u32;
    let height = ROW * labels.len() as u32 + 50 + legend_rows * 20;
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (lanes, legend) = root.split_vertically(height - legend_rows * 20 - 6);
    let mut chart = ChartBuilder::on(&lanes)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(label_width)
        .build_cartesian_2d(0.0..length, 0.0..labels.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("ms since the previous step's clip decision")
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_label_formatter(&|value| short(*value))
        .label_style((FONT, 13))
        .draw()?;
    let pixel = length / f64::from(WIDTH - label_width);
    for (row, kind, Range { start, end }) in tasks {
        let top = (labels.len() - row) as f64;
        // At least a pixel wide.
        let corners = [(start, top - 0.85), (end.max(start + pixel), top - 0.15)];
        chart.draw_series([Rectangle::new(corners, colour(kind).mix(shade(kind)).filled())])?;
    }
    let text = |text: String, at| Text::new(text, at, (FONT, 13).into_font().color(&BLACK));
    for (at, label) in labels.into_iter().enumerate() {
        lanes.draw(&text(label, (14, (ROW * at as u32) as i32 + 18)))?;
    }
    for (at, kind) in kinds.into_iter().enumerate() {
        let (x, y) = (14 + (at % LEGEND_COLUMNS) as i32 * 175, (at / LEGEND_COLUMNS) as i32 * 20);
        legend.draw(&Rectangle::new([(x, y), (x + 14, y + 12)], colour(at).mix(shade(at)).filled()))?;
        legend.draw(&text(kind, (x + 20, y)))?;
    }
    root.present()?;
    Ok(())
}

const LEGEND_COLUMNS: usize = 5;
const LANES: [&str; 5] = ["h2d", "compute", "d2h", "host", "disk"];

/// The opacity of a colour: colours repeat, paler.
fn shade(at: usize) -> f64 {
    1.0 / (1.0 + (at / COLOURS.len()) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_what_distinguishes_them() {
        let of = |files: &[&str]| names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(of(&["a/run.json", "b/other.json"]), ["run", "other"]);
        assert_eq!(of(&["da/run.json", "db/run.json", "c/two.json"]), ["da/run", "db/run", "two"]);
        assert_eq!(of(&["x/a/run.json", "y/a/run.json", "run.json"]), ["x/a/run", "y/a/run", "run"]);
        assert_eq!(of(&["run.json", "run.json"]), ["run", "run"]);
    }

    #[test]
    fn a_log_may_have_gaps_and_an_unfinished_end() {
        let whole =
            "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"loss\": null}\n{\"step\": 3, \"loss\":NaN}\n";
        let series = read_series(&format!("{whole}{{\"step\": 4, \"lo")).unwrap();
        let points = &series["loss"];
        assert_eq!(points.len(), 3);
        assert_eq!(pieces(points).collect::<Vec<_>>(), [&[(1.0, 2.5)][..]]);
        let error = read_series(&format!("{{\"step\"\n{whole}")).unwrap_err();
        assert!(error.starts_with("line 1 column") && error.matches("line").count() == 1, "{error}");
    }

    #[test]
    fn labels_of_an_axis_differ() {
        let labels: Vec<String> = [0.011, 0.012, 0.013].map(|value| fine(value, 0.005)).into();
        assert_eq!(labels, ["0.011", "0.012", "0.013"]);
        assert_eq!(fine(2.5, 3.0), "2.5");
        assert_eq!(fine(12_000.0, 5_000.0), "12k");
    }
}
