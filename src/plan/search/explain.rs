//! Why a step takes the time it takes, and what would make it shorter.

use super::{EFFORT, Found, Question};
use crate::base::{Result, Shape};
use crate::device::Lane;
use crate::plan::{Machine, Prediction};

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
    let Question { config, layout, storage, machine, micros, .. } = *question;
    let prediction = found.plan.predict(config, layout, storage, machine, micros)?;
    let busiest = longest(|lane| prediction.lanes[lane.at()].busy_ns);
    let chain = |lane: Lane| {
        let on_lane =
            prediction.critical.iter().map(|&at| &prediction.spans[at]).filter(|span| span.lane == lane);
        on_lane.map(|span| span.end_ns - span.start_ns).sum()
    };
    let longest = longest(chain);
    Ok(Explanation { prediction, busiest, longest, gains: Vec::new(), micro_batch: None })
}

/// Explains an answer.
pub fn explain(question: &Question, found: &Found) -> Result<Explanation> {
    let start = [found.plan.policy.placement.clone()];
    let mut gains = Vec::new();
    let mut gain = |what, question: Question| -> Result<()> {
        let step_ns = question.search_from(&start, EFFORT / SHARE)?.step_ns;
        gains.push(Gain { what, step_ns });
        Ok(())
    };
    let mut room = question.room;
    if let Some(limit) = room.device {
        room.device = Some(limit.saturating_add(MORE));
        if room.shared {
            room.host.bytes = room.host.bytes.saturating_add(MORE);
        }
        gain("1 GiB more device memory", Question { room, ..*question })?;
    }
    room = question.room;
    room.host.bytes = room.host.bytes.saturating_add(MORE);
    gain("1 GiB more host memory", Question { room, ..*question })?;
    let mut faster = |what, change: &dyn Fn(&mut Machine)| {
        let mut machine = question.machine.clone();
        change(&mut machine);
        gain(what, Question { machine: &machine, ..*question })
    };
    faster("a link 10 % faster", &|machine| {
        machine.up_bytes_per_s *= FASTER;
        machine.down_bytes_per_s *= FASTER;
    })?;
    faster("RAM 10 % faster", &|machine| {
        machine.host_bytes_per_s.iter_mut().for_each(|rate| *rate *= FASTER);
        machine.ram_bytes_per_s *= FASTER;
    })?;
    faster("matrix products 10 % faster", &|machine| {
        machine.matrix_flop_per_s.iter_mut().for_each(|rate| *rate *= FASTER)
    })?;
    Ok(Explanation { gains, micro_batch: better_micro_batch(question, found)?, ..look(question, found)? })
}

fn longest(of: impl Fn(Lane) -> u64) -> Lane {
    let longest = Lane::ALL.into_iter().rev().max_by_key(|&lane| of(lane));
    longest.expect("there are lanes")
}

/// Twice or half the micro-batch, half or twice as many: whether the same step is shorter then.
fn better_micro_batch(question: &Question, found: &Found) -> Result<Option<(Shape, usize, u64)>> {
    let (Shape { b, t }, micros) = (question.numeric.shape, question.micros);
    let mut others = Vec::new();
    if b.is_multiple_of(2) {
        others.push((Shape { b: b / 2, t }, micros * 2));
    }
    if micros.is_multiple_of(2) {
        others.push((Shape { b: b * 2, t }, micros / 2));
    }
    let mut best = None;
    for (shape, micros) in others {
        let mut numeric = question.numeric;
        numeric.shape = shape;
        numeric.logits_chunk = numeric.logits_chunk.min(shape.n());
        // What does not fit is no better.
        let Ok(other) = (Question { numeric, micros, ..*question }).search_from(&[], EFFORT / SHARE) else {
            continue;
        };
        let least = best.map_or((found.step_ns as f64 * WORTH) as u64, |(_, _, step_ns)| step_ns);
        if other.step_ns < least {
            best = Some((shape, micros, other.step_ns));
        }
    }
    Ok(best)
}
