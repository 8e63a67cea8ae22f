//! Why a step takes the time it takes, and what would make it shorter.

use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use super::{EFFORT, Found, Question};
use crate::base::{Result, Shape};
use crate::device::Lane;
use crate::plan::{Machine, MemoryLimits, Prediction};

/// A step's time, taken apart.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The step as it would run.
    pub prediction: Prediction,
    /// The lane that is busy longest.
    pub busiest: Lane,
    /// The lane that most of the chain of operations is on, each of which waited for the one before.
    pub longest: Lane,
    /// What else one might have, and the step's time then.
    pub gains: Vec<Gain>,
    /// Another micro-batch that does the same step faster: its shape, their number, the step's time.
    pub micro_batch: Option<(Shape, usize, u64)>,
}

/// What a change of the machine or its limits would give.
#[derive(Clone, Debug, PartialEq)]
pub struct Gain {
    /// For people: `1 GiB more device memory`.
    pub what: &'static str,
    /// The step's time with it, searched anew.
    pub step_ns: u64,
}

/// A faster part is so much faster.
const FASTER: f64 = 1.1;
/// More memory is so much more.
const MORE: usize = 1 << 30;
/// Of a search's effort, what a question that is close to an answered one needs.
const SHARE: usize = 4;
/// Another micro-batch is worth a word if the step is shorter by this factor.
const WORTH: f64 = 0.97;

/// Where the time goes.
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

/// Explains an answer: searches anew, beside one another, what others would give.
pub fn explain(question: &Question, found: &Found) -> Result<Explanation> {
    let start = [found.plan.policy.placement.clone()];
    let with = |what, limits: MemoryLimits, machine: &Machine| -> Result<Gain> {
        let step_ns = Question { limits, machine, ..*question }.search_from(&start, EFFORT / SHARE)?.step_ns;
        Ok(Gain { what, step_ns })
    };
    let changes = changes(question);
    let shapes = other_shapes(question);
    thread::scope(|scope| {
        let gains: Vec<_> = changes
            .iter()
            .map(|(what, limits, machine)| scope.spawn(|| with(what, *limits, machine)))
            .collect();
        let others: Vec<_> = shapes
            .iter()
            .map(|&(shape, micros)| scope.spawn(move || shaped(question, shape, micros)))
            .collect();
        let gains = gains.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
        let faster = others.into_iter().filter_map(joined);
        let worth = (found.step_ns as f64 * WORTH) as u64;
        let micro_batch =
            faster.filter(|(.., step_ns)| *step_ns < worth).min_by_key(|(.., step_ns)| *step_ns);
        Ok(Explanation { gains, micro_batch, ..look(question, found)? })
    })
}

/// What a thread came to.
fn joined<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// What one might have beside what there is: for people, and the room and the machine then.
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
    faster("a link 10 % faster", &|machine| {
        machine.up_bytes_per_s *= FASTER;
        machine.down_bytes_per_s *= FASTER;
    });
    faster("RAM 10 % faster", &|machine| {
        machine.host_bytes_per_s.iter_mut().for_each(|rate| *rate *= FASTER);
        machine.ram_bytes_per_s *= FASTER;
    });
    faster("matrix products 10 % faster", &|machine| {
        machine.matrix_flop_per_s.iter_mut().for_each(|rate| *rate *= FASTER)
    });
    changes
}

/// The same step of micro-batches half or twice as large.
fn other_shapes(question: &Question) -> Vec<(Shape, usize)> {
    let (Shape { b, t }, micros) = (question.numeric.shape, question.micros);
    let half = b.is_multiple_of(2).then(|| (Shape { b: b / 2, t }, micros * 2));
    let twice = micros.is_multiple_of(2).then(|| (Shape { b: b * 2, t }, micros / 2));
    half.into_iter().chain(twice).collect()
}

/// The step's time with other micro-batches; nothing if they do not fit.
fn shaped(question: &Question, shape: Shape, micros: usize) -> Option<(Shape, usize, u64)> {
    let found = question.with_shape(shape, micros).search_from(&[], EFFORT / SHARE).ok()?;
    Some((shape, micros, found.step_ns))
}

fn longest(of: impl Fn(Lane) -> u64) -> Lane {
    let longest = Lane::ALL.into_iter().rev().max_by_key(|&lane| of(lane));
    longest.expect("there are lanes")
}
