//! Explains a step time and finds changes that would shorten the step.

use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use super::{EFFORT, Found, Question};
use crate::base::{Result, Shape};
use crate::device::Lane;
use crate::host::start_scoped_thread;
use crate::plan::{Machine, MemoryLimits, Prediction};

/// The explanation of a step time.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The simulated step.
    pub prediction: Prediction,
    /// The lane that is busy longest.
    pub busiest: Lane,
    /// The lane with the longest time on the critical path.
    pub longest: Lane,
    /// Changes of machine or limits, with the step time of each.
    pub gains: Vec<Gain>,
    /// Another micro-batch shape that makes the same step faster: shape, number of micro-batches,
    /// step time in ns.
    pub micro_batch: Option<(Shape, usize, u64)>,
}

/// The effect of one change of the machine or its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Gain {
    /// Displayed name: `1 GiB more device memory`.
    pub what: &'static str,
    /// Step time with this change, after a new search.
    pub step_ns: u64,
}

/// Factor of faster rates.
const FASTER: f64 = 1.1;
/// Bytes of added memory.
const MORE: usize = 1 << 30;
/// Divides the effort of a search that starts from a known placement.
const EFFORT_DIVISOR: usize = 4;
/// Another micro-batch shape is reported if it shortens the step at least to this fraction.
const WORTH: f64 = 0.97;

/// Explains the step time without searching for changes.
pub fn look(question: &Question, found: &Found) -> Result<Explanation> {
    let Question { layout, machine, micros, .. } = *question;
    let prediction = found.plan.predict(layout, machine, micros)?;
    let busiest = longest(|lane| prediction.lanes[lane.at()].busy_ns);
    let chain = |lane: Lane| {
        let on_lane =
            prediction.critical.iter().map(|&at| &prediction.spans[at]).filter(|span| span.lane == lane);
        on_lane.map(|span| span.end_ns - span.start_ns).sum()
    };
    let longest = longest(chain);
    Ok(Explanation { prediction, busiest, longest, gains: Vec::new(), micro_batch: None })
}

/// Explains the step time; searches for the effect of each change on a thread of its own.
pub fn explain(question: &Question, found: &Found) -> Result<Explanation> {
    let start = [found.plan.policy.placement.clone()];
    let with = |what, limits: MemoryLimits, machine: &Machine| -> Result<Gain> {
        let question = Question { limits, machine, ..*question };
        let step_ns = question.search_from(&start, EFFORT / EFFORT_DIVISOR)?.step_ns;
        Ok(Gain { what, step_ns })
    };
    let changes = changes(question);
    let shapes = other_shapes(question);
    thread::scope(|scope| {
        let gains: Vec<_> = changes
            .iter()
            .map(|(what, limits, machine)| {
                start_scoped_thread(scope, "search", || with(what, *limits, machine))
            })
            .collect::<Result<_>>()?;
        let others: Vec<_> = shapes
            .iter()
            .map(|&(shape, micros)| {
                start_scoped_thread(scope, "search", move || shaped(question, shape, micros))
            })
            .collect::<Result<_>>()?;
        let gains = gains.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
        let faster = others.into_iter().filter_map(joined);
        let worth = (found.step_ns as f64 * WORTH) as u64;
        let micro_batch =
            faster.filter(|(.., step_ns)| *step_ns < worth).min_by_key(|(.., step_ns)| *step_ns);
        Ok(Explanation { gains, micro_batch, ..look(question, found)? })
    })
}

/// The result of a thread; resumes its panic.
fn joined<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// The changes to try: displayed name, memory limits, machine.
fn changes(question: &Question) -> Vec<(&'static str, MemoryLimits, Machine)> {
    let (limits, machine) = (question.limits, question.machine);
    let mut changes = Vec::new();
    if let Some(limit) = limits.device {
        let mut more = limits;
        more.device = Some(limit.saturating_add(MORE));
        if limits.shared {
            more.host.bytes = limits.host.bytes.saturating_add(MORE);
        }
        changes.push(("1 GiB more device memory", more, machine.clone()));
    }
    let mut more = limits;
    more.host.bytes = limits.host.bytes.saturating_add(MORE);
    changes.push(("1 GiB more host memory", more, machine.clone()));
    let mut faster = |what, change: &dyn Fn(&mut Machine)| {
        let mut machine = machine.clone();
        change(&mut machine);
        changes.push((what, limits, machine));
    };
    faster("a 10 % faster link", &|machine| {
        machine.up_bytes_per_s *= FASTER;
        machine.down_bytes_per_s *= FASTER;
    });
    faster("10 % faster RAM", &|machine| {
        machine.host_bytes_per_s.iter_mut().for_each(|rate| *rate *= FASTER);
        machine.ram_bytes_per_s *= FASTER;
    });
    faster("10 % faster matmuls", &|machine| {
        machine.matrix_flop_per_s.iter_mut().for_each(|rate| *rate *= FASTER)
    });
    changes
}

/// The same step with micro-batches half or twice as large.
fn other_shapes(question: &Question) -> Vec<(Shape, usize)> {
    let (Shape { b, t }, micros) = (question.numeric.shape, question.micros);
    let half = b.is_multiple_of(2).then(|| (Shape { b: b / 2, t }, micros * 2));
    let twice = micros.is_multiple_of(2).then(|| (Shape { b: b * 2, t }, micros / 2));
    half.into_iter().chain(twice).collect()
}

/// The step time with another micro-batch shape; `None` if nothing fits.
fn shaped(question: &Question, shape: Shape, micros: usize) -> Option<(Shape, usize, u64)> {
    let found = question.with_shape(shape, micros).search_from(&[], EFFORT / EFFORT_DIVISOR).ok()?;
    Some((shape, micros, found.step_ns))
}

fn longest(of: impl Fn(Lane) -> u64) -> Lane {
    let longest = Lane::ALL.into_iter().rev().max_by_key(|&lane| of(lane));
    longest.expect("there are lanes")
}
