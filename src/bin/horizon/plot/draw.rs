//! Pictures of logs and traces.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::read::{Run, Span};

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

/// The panels of a log: field, title, scale.
const PANELS: [(&str, &str, f64); 3] = [
    ("loss", "loss (nats per token)", 1.0),
    ("tokens_per_second", "tokens per second", 1.0),
    ("rss_bytes", "memory (GiB)", 1.0 / (1u64 << 30) as f64),
];

/// Runs of points without a gap.
fn pieces(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    points.split(|point| !point.1.is_finite()).filter(|piece| !piece.is_empty())
}

/// The result of drawing.
pub type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws logs as panels, one per field.
pub fn draw_runs(runs: &[Run], svg: &mut String) -> Drawn {
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

/// The last training step of a trace: the time between two clip decisions with a backward pass
/// between them; the whole trace if there is none.
fn last_step(spans: &[&Span]) -> Range<f64> {
    let mut decided: Vec<f64> =
        spans.iter().filter(|span| &*span.kind == "clip decision").map(|span| span.to).collect();
    decided.sort_by(f64::total_cmp);
    let mut backwards: Vec<f64> =
        spans.iter().filter(|span| span.kind.contains("backward")).map(|span| span.from).collect();
    backwards.sort_by(f64::total_cmp);
    let trains = |pair: &&[f64]| {
        let next = backwards.partition_point(|from| *from <= pair[0]);
        backwards.get(next).is_some_and(|from| *from < pair[1])
    };
    match decided.windows(2).rfind(trains) {
        Some(pair) => pair[0]..pair[1],
        None => range(spans.iter().flat_map(|span| [span.from, span.to]), false),
    }
}

/// A timeline: the last step of each process, from its start on.
struct Shown<'a> {
    /// Process and lane of each row, from the top.
    rows: Vec<(&'a str, &'a str)>,
    /// Kinds of tasks, by falling total time.
    kinds: Vec<&'a str>,
    /// Row, kind, and time of each task.
    tasks: Vec<(usize, usize, Range<f64>)>,
    /// Length of the longest step.
    length: f64,
}

impl<'a> Shown<'a> {
    fn of(spans: &'a [Span]) -> Shown<'a> {
        let mut by_process: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
        for span in spans {
            by_process.entry(&span.process).or_default().push(span);
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
        let place = |lane: &str| LANES.iter().position(|known| *known == lane);
        let key = |span: &'a Span| (&*span.process, place(&span.lane), &*span.lane);
        let rows: BTreeSet<_> = cut.iter().map(|(span, _)| key(span)).collect();
        let at_row: BTreeMap<_, usize> = rows.iter().copied().zip(0..).collect();
        let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
        for (span, part) in &cut {
            *taken.entry(&span.kind).or_default() += part.end - part.start;
        }
        let mut kinds: Vec<_> = taken.into_iter().collect();
        kinds.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let kinds: Vec<&str> = kinds.into_iter().map(|(kind, _)| kind).collect();
        let at_kind: BTreeMap<_, usize> = kinds.iter().copied().zip(0..).collect();
        let tasks =
            cut.into_iter().map(|(span, part)| (at_row[&key(span)], at_kind[&*span.kind], part)).collect();
        let rows = rows.into_iter().map(|(process, _, lane)| (process, lane)).collect();
        Shown { rows, kinds, tasks, length }
    }
}

pub fn draw_lanes(spans: &[Span], svg: &mut String) -> Drawn {
    let Shown { rows, kinds, tasks, length } = Shown::of(spans);
    let labels: Vec<String> = rows.into_iter().map(|(process, lane)| format!("{process} {lane}")).collect();
    let label_width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0) as u32 * 8 + 14;
    let label_width = label_width.min(WIDTH * 2 / 3);
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
        legend.draw(&text(kind.to_owned(), (x + 20, y)))?;
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
    fn a_point_that_is_not_finite_is_a_gap() {
        let points = [(1.0, 2.5), (2.0, f64::NAN), (3.0, f64::INFINITY)];
        assert_eq!(pieces(&points).collect::<Vec<_>>(), [&[(1.0, 2.5)][..]]);
    }

    #[test]
    fn labels_of_an_axis_differ() {
        let labels: Vec<String> = [0.011, 0.012, 0.013].map(|value| fine(value, 0.005)).into();
        assert_eq!(labels, ["0.011", "0.012", "0.013"]);
        assert_eq!(fine(2.5, 3.0), "2.5");
        assert_eq!(fine(12_000.0, 5_000.0), "12k");
    }
}
