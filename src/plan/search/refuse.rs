//! The error when nothing fits: the binding limit, the missing bytes, and the smallest change that
//! fits.

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

/// Makes the error for a question without an answer.
///
/// Errors: those of [`Plan::new`](crate::plan::Plan::new).
pub fn nothing_fits(question: &Question) -> Result<Error> {
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
    let changes = changes(question)?;
    let advice = match changes.is_empty() {
        true => combined(question)?,
        false => format!("; {} would fit", changes.join(", or ")),
    };
    Ok(match need {
        Need::Device(need) => {
            let limit = question.limits.device.unwrap_or(usize::MAX);
            Error::new(
                Status::OutOfDeviceMemory,
                format!(
                    "the model needs at least {} of device memory ({need} bytes), the limit is {} ({}), {} \
                     short{advice}",
                    Size(need),
                    Size(limit),
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
                    "the model needs at least {} of host memory ({need} bytes); {host}: {}, {} short{advice}",
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
/// smaller micro-batches, fewer micro-batches, another mode.
fn changes(question: &Question) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(without_a_fixed_option(question)?);
    let Shape { b, t } = question.numeric.shape;
    for chunks in (2..=MICROS_MAX / question.micros).filter(|chunks| b.is_multiple_of(*chunks)) {
        let (smaller, micros) = (b / chunks, question.micros * chunks);
        if fits(&question.with_shape(Shape { b: smaller, t }, micros))? {
            found.push(format!("{} of {smaller} × {t} tokens", several(micros, "micro-batch")));
            break;
        }
    }
    for fewer in halves(question.micros / 2, 1) {
        if fits(&Question { micros: fewer, ..*question })? {
            let fewer = if fewer == 1 { "one".to_owned() } else { fewer.to_string() };
            found.push(format!("steps of {fewer} of these micro-batches"));
            break;
        }
    }
    for (mode, clips) in modes(question).skip(1) {
        if fits(&Question { mode, clips, ..*question })? {
            found.push(mode_name(mode, clips, question));
            break;
        }
    }
    Ok(found)
}

/// Maximum number of micro-batches that is proposed.
const MICROS_MAX: usize = 1024;
/// Minimum sequence length that is proposed, tokens.
const TOKENS_MIN: usize = 128;

/// The advice when no single change makes the model fit: the first combination that does, of those
/// with the longest sequences; or the memory that even the smallest step needs.
fn combined(question: &Question) -> Result<String> {
    let Shape { b, t } = question.numeric.shape;
    let shortest = t.min(TOKENS_MIN);
    let least =
        Question { mode: Mode::Compact, clips: false, ..question.with_shape(Shape { b: 1, t: shortest }, 1) };
    let Some(need) = least_need(&least)? else { return Ok(String::new()) };
    if !need.fits(question) {
        let (need, memory) = match need {
            Need::Device(need) => (need, "device"),
            Need::Host(need) => (need, "host"),
        };
        let mode = mode_name(least.mode, least.clips, question);
        let need = Size(need);
        let with =
            if *question.fixed == without_placement(question.fixed) { "" } else { " and these options" };
        return Ok(format!(
            "; even with {mode}{with}, a step of 1 × {shortest} tokens needs {need} of {memory} memory"
        ));
    }
    for t in halves(t, shortest) {
        for (mode, clips) in modes(question) {
            for micros in
                [question.micros.saturating_mul(b), 1].into_iter().filter(|micros| *micros <= MICROS_MAX)
            {
                let shaped = question.with_shape(Shape { b: 1, t }, micros);
                if fits(&Question { mode, clips, ..shaped })? {
                    let with = if (mode, clips) == (question.mode, question.clips) {
                        String::new()
                    } else {
                        mode_name(mode, clips, question) + " with "
                    };
                    let micros = several(micros, "micro-batch");
                    return Ok(format!("; {with}{micros} of 1 × {t} tokens would fit"));
                }
            }
        }
    }
    Ok(String::new())
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
fn without_a_fixed_option(question: &Question) -> Result<Option<String>> {
    let fixed = question.fixed;
    let free = without_placement(fixed);
    if *fixed == free {
        return Ok(None);
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
        if fits(&Question { fixed: &fixed, ..*question })? {
            return Ok(Some(format!("{name} chosen by the search")));
        }
    }
    Ok(None)
}

/// The fixed options without those that a user names to place the model.
fn without_placement(fixed: &Fixed) -> Fixed {
    let Fixed { ring, adam, streamed_on_host, .. } = *fixed;
    Fixed { ring, adam, streamed_on_host, ..Fixed::default() }
}

fn fits(question: &Question) -> Result<bool> {
    Ok(least_need(question)?.is_some_and(|need| need.fits(question)))
}
