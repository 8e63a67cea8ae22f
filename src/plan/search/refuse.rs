//! What is said when nothing fits: which limit binds, by how much, and the smallest change that fits.

use super::descent::{least, least_host};
use super::trial::Trials;
use super::{Fixed, Question};
use crate::base::format::{Size, several};
use crate::base::{Error, Result, Shape, Status};
use crate::schedule::Mode;

/// The least that any placement takes of the limit that binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    /// Of device memory.
    Device(usize),
    /// Of host memory, with the device memory that there is.
    Host(usize),
}

impl Short {
    /// Whether it is not short at all.
    fn fits(self, question: &Question) -> bool {
        match self {
            Short::Device(_) => false,
            Short::Host(need) => need <= question.limits.host.bytes,
        }
    }
}

/// The refusal.
///
/// Errors: what [`Plan::new`](crate::plan::Plan::new) refuses.
pub fn nothing_fits(question: &Question) -> Result<Error> {
    let Some(short) = shortage(question)? else {
        return Ok(Error::argument(
            "no placement is left: gradients that are clipped have to wait for their norm, and the options leave \
             them no place for it; turn clipping off (clip 0), keep mode exact, or let gradients wait on the device \
             (grad place device)",
        ));
    };
    let changes = changes(question)?;
    let advice = match changes.is_empty() {
        true => together(question)?,
        false => format!("; {} would fit", changes.join(", or ")),
    };
    Ok(match short {
        Short::Device(need) => {
            let limit = question.limits.device.unwrap_or(usize::MAX);
            Error::new(
                Status::OutOfDeviceMemory,
                format!(
                    "needs at least {} of device memory ({need} bytes), the limit is {} ({limit} bytes), {} \
                     short{advice}",
                    Size(need),
                    Size(limit),
                    several(need - limit, "byte")
                ),
            )
        }
        Short::Host(need) => {
            let host = question.limits.host;
            Error::new(
                Status::OutOfHostMemory,
                format!(
                    "needs at least {} of host memory ({need} bytes); {host}: {} bytes, {} short{advice}",
                    Size(need),
                    host.bytes,
                    several(need - host.bytes, "byte")
                ),
            )
        }
    })
}

/// Which limit binds; nothing if no placement can be built at all.
fn shortage(question: &Question) -> Result<Option<Short>> {
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
        (Some(host), _) => Some(Short::Host(host)),
        (None, device) => device.map(Short::Device),
    })
}

/// The changes that fit, of each kind the one that takes least away from what was asked: a pin, a cut of the step
/// into smaller micro-batches, a shorter step, what the host keeps.
fn changes(question: &Question) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(without_a_pin(question)?);
    let Shape { b, t } = question.numeric.shape;
    for chunks in (2..=MICROS / question.micros).filter(|chunks| b.is_multiple_of(*chunks)) {
        let (smaller, micros) = (b / chunks, question.micros * chunks);
        if fits(&question.with_shape(Shape { b: smaller, t }, micros))? {
            found.push(format!("{micros} micro-batches of {smaller} × {t} tokens"));
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
            found.push(named(mode, clips, question));
            break;
        }
    }
    Ok(found)
}

/// More micro-batches than this are advised to nobody.
const MICROS: usize = 1024;
/// Fewer tokens than this are no sequence to train on.
const SHORTEST: usize = 128;

/// Where no change is enough alone: the first of all together that is, of those with the longest sequences, or what is
/// missing whatever one changes.
fn together(question: &Question) -> Result<String> {
    let Shape { b, t } = question.numeric.shape;
    let shortest = t.min(SHORTEST);
    let least =
        Question { mode: Mode::Compact, clips: false, ..question.with_shape(Shape { b: 1, t: shortest }, 1) };
    let Some(short) = shortage(&least)? else { return Ok(String::new()) };
    if !short.fits(question) {
        let (need, place) = match short {
            Short::Device(need) => (need, "device"),
            Short::Host(need) => (need, "host"),
        };
        let mode = named(least.mode, least.clips, question);
        let need = Size(need);
        return Ok(format!(
            "; even {mode} needs {need} of {place} memory for a step of 1 × {shortest} tokens"
        ));
    }
    for t in halves(t, shortest) {
        for (mode, clips) in modes(question) {
            for micros in
                [question.micros.saturating_mul(b), 1].into_iter().filter(|micros| *micros <= MICROS)
            {
                let shaped = question.with_shape(Shape { b: 1, t }, micros);
                if fits(&Question { mode, clips, ..shaped })? {
                    let with = if (mode, clips) == (question.mode, question.clips) {
                        String::new()
                    } else {
                        named(mode, clips, question) + " with "
                    };
                    let s = if micros == 1 { "" } else { "es" };
                    return Ok(format!("; {with}{micros} micro-batch{s} of 1 × {t} tokens would fit"));
                }
            }
        }
    }
    Ok(String::new())
}

/// A number, its half and so on, down to the least.
fn halves(first: usize, least: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(first), |number| Some(number / 2)).take_while(move |&number| number >= least)
}

/// What the host may keep, by what it takes away, what was asked for first; clipping is given up last.
fn modes(question: &Question) -> impl Iterator<Item = (Mode, bool)> + use<> {
    let asked = (question.mode, question.clips);
    let clips = [question.clips, false].into_iter().take(1 + usize::from(question.clips));
    let all = clips.flat_map(|clips| [Mode::Exact, Mode::Streamed, Mode::Compact].map(|mode| (mode, clips)));
    std::iter::once(asked).chain(all.filter(move |mode| *mode != asked))
}

fn named(mode: Mode, clips: bool, question: &Question) -> String {
    let without = if clips == question.clips { "" } else { " without clipping" };
    format!("mode {}{without}", mode.name())
}

/// The first pin without which there is room.
fn without_a_pin(question: &Question) -> Result<Option<String>> {
    let fixed = question.fixed;
    let free = Fixed { ring: fixed.ring, adam: fixed.adam, ..Fixed::default() };
    if *fixed == free {
        return Ok(None);
    }
    let alone = [
        ("a free number of weight slots", Fixed { weight_slots: None, ..fixed.clone() }),
        ("a free number of gradient slabs", Fixed { slabs: None, ..fixed.clone() }),
        ("a free number of sweeps", Fixed { sweeps: None, ..fixed.clone() }),
        ("a free choice where gradients wait", Fixed { grad_wait: None, ..fixed.clone() }),
        ("a free choice of what is recomputed", Fixed { recompute: None, ..fixed.clone() }),
        ("a free choice of what is spilled", Fixed { boundary: None, ..fixed.clone() }),
        ("a free number of resident layers", Fixed { resident: None, ..fixed.clone() }),
        ("a free choice where gradients are summed", Fixed { accumulator: None, ..fixed.clone() }),
        ("a free placement", free),
    ];
    for (name, fixed) in alone {
        if fits(&Question { fixed: &fixed, ..*question })? {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

fn fits(question: &Question) -> Result<bool> {
    Ok(shortage(question)?.is_some_and(|short| short.fits(question)))
}
