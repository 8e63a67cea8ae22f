//! The error when nothing fits: the binding limit, the missing bytes, and the smallest change that
//! fits.

use std::cell::Cell;

use super::descent::{least, least_host};
use super::trial::Trials;
use super::{Fixed, Question};
use crate::base::format::{Size, several};
use crate::base::{Error, Name, Result, Shape, Status};
use crate::schedule::Mode;

/// The least memory that any placement needs, of the binding limit, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Device memory.
    Device(usize),
    /// Host memory, if device memory is within its limit.
    Host(usize),
}

impl Need {
    /// True if it is within the limits.
    fn fits(self, question: &Question) -> bool {
        match self {
            Need::Device(_) => false,
            Need::Host(need) => need <= question.limits.host.bytes,
        }
    }
}

/// The end of advice that helps.
const FITS: &str = " would fit";

/// The work that is left for advice, in layers laid out. Bounds the time of a refusal.
struct Effort(Cell<usize>);

impl Default for Effort {
    /// Takes well under a second.
    fn default() -> Self {
        Effort(Cell::new(6_000_000))
    }
}

impl Effort {
    /// Takes the work of [`least_need`] for a question; false if too little is left.
    fn suffices(&self, question: &Question) -> bool {
        let Question { fixed, layout, micros, .. } = question;
        let (layers, sweeps) = (layout.layers(), question.sweeps());
        let movable = usize::from(fixed.boundary.is_none()) + usize::from(fixed.accumulator.is_none());
        // The counts of movable attributes are bisected; mostly two are tried, in two orders.
        let placements = 4 + 4 * movable;
        let micro_slots: usize = sweeps.iter().map(|sweeps| micros.div_ceil(*sweeps)).sum();
        let placed = micro_slots.saturating_mul(layers).saturating_add(sweeps.len() * (layers + micros));
        // The program of the head has several ops per chunk of logits.
        let head = 500 * question.numeric.shape.n().div_ceil(question.numeric.logits_chunk);
        let work = placed.saturating_mul(placements * question.waits().len()).saturating_add(head);
        let left = self.0.get().checked_sub(work);
        left.is_some_and(|left| {
            self.0.set(left);
            true
        })
    }

    /// True if a changed question has an answer. False, too, if the change is invalid, as fewer
    /// micro-batches than sweeps are, or if too little effort is left.
    fn fits(&self, question: &Question) -> bool {
        self.suffices(question)
            && least_need(question).is_ok_and(|need| need.is_some_and(|need| need.fits(question)))
    }
}

/// Makes the error for a question without an answer. `chosen` says who chooses an option that is
/// not fixed.
///
/// Errors: those of [`Plan::new`](crate::plan::Plan::new).
pub fn nothing_fits(question: &Question, chosen: &str) -> Result<Error> {
    let Some(need) = least_need(question)? else {
        return Ok(Error::argument(format!(
            "the options exclude every placement: to be clipped, gradients must wait for the global norm, on the \
             host ({}) or the device ({}), with {}; change one of these options, or set {}",
            Name::Mode.is("exact"),
            Name::GradPlace.is("device"),
            Name::AdamWhen.is("after norm"),
            Name::Clip.is(0)
        )));
    };
    let effort = Effort::default();
    let changes = changes(question, chosen, &effort);
    let advice = match (changes.is_empty(), question.fixed.is_whole()) {
        (false, _) => format!("; {}{FITS}", changes.join(", or ")),
        (true, false) => combined(question, &effort),
        (true, true) => {
            let free = without_placement(question.fixed);
            match combined(&Question { fixed: &free, ..*question }, &effort) {
                advice if advice.ends_with(FITS) => format!("{advice} with a placement {chosen}"),
                advice => advice,
            }
        }
    };
    let least = if question.fixed.is_whole() { "" } else { "at least " };
    Ok(match need {
        Need::Device(need) => {
            let limit = question.limits.device.unwrap_or(usize::MAX);
            Error::new(
                Status::OutOfDeviceMemory,
                format!(
                    "the model needs {least}{} of device memory ({}); limit {} ({}): {}, {} short{advice}",
                    Size(need),
                    several(need, "byte"),
                    Size(limit),
                    question.limits.device_source,
                    several(limit, "byte"),
                    several(need - limit, "byte")
                ),
            )
        }
        Need::Host(need) => {
            let host = question.limits.host;
            Error::new(
                Status::OutOfHostMemory,
                format!(
                    "the model needs {least}{} of host memory ({need} bytes); {host}: {}, {} short{advice}",
                    Size(need),
                    several(host.bytes, "byte"),
                    several(need - host.bytes, "byte")
                ),
            )
        }
    })
}

/// The least memory that any placement needs; `None` if the options exclude every placement.
fn least_need(question: &Question) -> Result<Option<Need>> {
    let trials = Trials::new(*question, 0)?;
    let limit = question.limits.device.unwrap_or(usize::MAX);
    let (mut device_least, mut host_least) = (None::<usize>, None::<usize>);
    for sweeps in question.sweeps() {
        for wait in question.waits() {
            let bare = least(&trials, sweeps, wait);
            let device = trials.taken(&bare.placement(question)).0;
            device_least = Some(device_least.map_or(device, |least| least.min(device)));
            for mix in least_host(&trials, &bare) {
                let (device, host) = trials.taken(&mix.placement(question));
                let host = if question.limits.shared { host.saturating_add(device) } else { host };
                if device <= limit {
                    host_least = Some(host_least.map_or(host, |least| least.min(host)));
                }
            }
        }
    }
    Ok(match (host_least, device_least) {
        (Some(host), _) => Some(Need::Host(host)),
        (None, device) => device.map(Need::Device),
    })
}

/// The changes that fit. Of each kind, the one closest to the request: one option not fixed,
/// smaller micro-batches, fewer micro-batches, shorter sequences, another mode.
fn changes(question: &Question, chosen: &str, effort: &Effort) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(without_a_fixed_option(question, effort).map(|option| format!("{option} {chosen}")));
    let in_this_shape = found.len();
    let Shape { b, t } = question.numeric.shape;
    for chunks in (2..=MICROS_MAX / question.micros.max(1)).filter(|chunks| b.is_multiple_of(*chunks)) {
        let (smaller, micros) = (b / chunks, question.micros * chunks);
        if effort.fits(&question.with_shape(Shape { b: smaller, t }, micros)) {
            found.push(format!("{} of {smaller} × {t} tokens", several(micros, "micro-batch")));
            break;
        }
    }
    for fewer in fewer_micros(question.micros) {
        if effort.fits(&Question { micros: fewer, ..*question }) {
            let fewer = if fewer == 1 { "one".to_owned() } else { fewer.to_string() };
            found.push(format!("steps of {fewer} of these micro-batches"));
            break;
        }
    }
    if found.len() == in_this_shape {
        let shorter = |t: &usize| effort.fits(&question.with_shape(Shape { b, t: *t }, question.micros));
        found.extend(halves(t / 2, TOKENS_MIN).find(shorter).map(|t| Name::SequenceLength.is(t)));
    }
    for (mode, clips) in modes(question).skip(1) {
        if effort.fits(&Question { mode, clips, ..*question }) {
            found.push(mode_name(mode, clips, question));
            break;
        }
    }
    found
}

/// Maximum number of micro-batches that is proposed.
const MICROS_MAX: usize = 1024;
/// Minimum sequence length that is proposed, tokens.
const TOKENS_MIN: usize = 128;

/// The advice when no single change makes the model fit: the first combination that does, of those
/// with the longest sequences; or the memory that even the smallest step needs.
fn combined(question: &Question, effort: &Effort) -> String {
    let Shape { b, t } = question.numeric.shape;
    let shortest = t.min(TOKENS_MIN);
    let least =
        Question { mode: Mode::Compact, clips: false, ..question.with_shape(Shape { b: 1, t: shortest }, 1) };
    if !effort.suffices(&least) {
        return String::new();
    }
    let Ok(Some(need)) = least_need(&least) else { return String::new() };
    if !need.fits(question) {
        let (need, memory) = match need {
            Need::Device(need) => (need, "device"),
            Need::Host(need) => (need, "host"),
        };
        let mode = mode_name(least.mode, least.clips, question);
        let need = Size(need);
        let with =
            if *question.fixed == without_placement(question.fixed) { "" } else { " and these options" };
        return format!(
            "; even the smallest step that is tried, 1 × {shortest} tokens with {mode}{with}, needs {need} of {memory} \
             memory"
        );
    }
    for t in halves(t, shortest) {
        for (mode, clips) in modes(question) {
            for micros in
                [question.micros.saturating_mul(b), 1].into_iter().filter(|micros| *micros <= MICROS_MAX)
            {
                let shaped = question.with_shape(Shape { b: 1, t }, micros);
                if effort.fits(&Question { mode, clips, ..shaped }) {
                    let with = if (mode, clips) == (question.mode, question.clips) {
                        String::new()
                    } else {
                        mode_name(mode, clips, question) + " with "
                    };
                    let micros = several(micros, "micro-batch");
                    return format!("; {with}{micros} of 1 × {t} tokens{FITS}");
                }
            }
        }
    }
    String::new()
}

/// Smaller numbers of micro-batches: all, or of more than eight the half and so on.
fn fewer_micros(micros: usize) -> Vec<usize> {
    if micros <= 8 { (1..micros).rev().collect() } else { halves(micros / 2, 1).collect() }
}

/// A number, its half and so on, down to `least`.
fn halves(first: usize, least: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(first), |number| Some(number / 2)).take_while(move |&number| number >= least)
}

/// The modes to try, with clipping or without: the requested one first, then by bytes; without
/// clipping last.
fn modes(question: &Question) -> impl Iterator<Item = (Mode, bool)> + use<> {
    let asked = (question.mode, question.clips);
    let clips = [question.clips, false].into_iter().take(1 + usize::from(question.clips));
    let all = clips.flat_map(|clips| [Mode::Exact, Mode::Streamed, Mode::Compact].map(|mode| (mode, clips)));
    std::iter::once(asked).chain(all.filter(move |mode| *mode != asked))
}

fn mode_name(mode: Mode, clips: bool, question: &Question) -> String {
    let mode = Name::Mode.is(mode.name());
    if clips == question.clips { mode } else { format!("{mode} and {}", Name::Clip.is(0)) }
}

/// The first fixed option without which the model fits.
fn without_a_fixed_option(question: &Question, effort: &Effort) -> Option<String> {
    let fixed = question.fixed;
    let free = without_placement(fixed);
    if *fixed == free {
        return None;
    }
    let relaxed = [
        (Name::WeightSlots.to_string(), Fixed { weight_slots: None, ..fixed.clone() }),
        (Name::Slabs.to_string(), Fixed { slabs: None, ..fixed.clone() }),
        (Name::Sweeps.to_string(), Fixed { sweeps: None, ..fixed.clone() }),
        (Name::GradPlace.to_string(), Fixed { grad_wait: None, ..fixed.clone() }),
        (Name::Recompute.to_string(), Fixed { recompute: None, ..fixed.clone() }),
        (Name::Boundary.to_string(), Fixed { boundary: None, ..fixed.clone() }),
        (Name::Resident.to_string(), Fixed { resident: None, ..fixed.clone() }),
        (Name::Accumulator.to_string(), Fixed { accumulator: None, ..fixed.clone() }),
        ("a placement".to_owned(), free),
    ];
    for (name, fixed) in relaxed {
        if effort.fits(&Question { fixed: &fixed, ..*question }) {
            return Some(name);
        }
    }
    None
}

/// The fixed options without those that a user names to place the model.
fn without_placement(fixed: &Fixed) -> Fixed {
    let Fixed { ring, adam, streamed_on_host, .. } = *fixed;
    Fixed { ring, adam, streamed_on_host, ..Fixed::default() }
}
