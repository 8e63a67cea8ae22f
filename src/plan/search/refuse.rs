//! What is said when nothing fits: which limit binds, by how much, and the smallest change that fits.

use super::descent::{least, least_host};
use super::trial::Trials;
use super::{Pins, Question};
use crate::base::{Error, Result, Shape, Status};
use crate::host::Size;
use crate::schedule::Mode;

/// The least that any placement takes of the limit that binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    /// Of device memory.
    Device(usize),
    /// Of host memory, with the device memory that there is.
    Host(usize),
}

/// The refusal.
///
/// Errors: what [`Plan::new`](crate::plan::Plan::new) refuses.
pub fn nothing_fits(question: &Question) -> Result<Error> {
    let Some(short) = shortage(question)? else {
        return Ok(Error::argument(
            "no placement is left: gradients that are clipped have to wait for their norm, and the options leave \
             them no place for it; use --clip 0, mode exact, or gradients that wait on the device",
        ));
    };
    let advice = match changes(question, short)?.join(", or ") {
        none if none.is_empty() => none,
        changes => format!("; {changes} would fit"),
    };
    Ok(match short {
        Short::Device(need) => {
            let limit = question.room.device.unwrap_or(usize::MAX);
            Error::new(
                Status::OutOfDeviceMemory,
                format!(
                    "needs at least {} of device memory ({need} bytes), the limit is {} ({limit} bytes), {} bytes \
                     short{advice}",
                    Size(need),
                    Size(limit),
                    need - limit
                ),
            )
        }
        Short::Host(need) => {
            let host = question.room.host;
            Error::new(
                Status::OutOfHostMemory,
                format!(
                    "needs at least {} of host memory ({need} bytes); {host}: {} bytes, {} bytes short{advice}",
                    Size(need),
                    host.bytes,
                    need - host.bytes
                ),
            )
        }
    })
}

/// Which limit binds; nothing if no placement can be built at all.
fn shortage(question: &Question) -> Result<Option<Short>> {
    let trials = Trials::new(*question, 0)?;
    let limit = question.room.device.unwrap_or(usize::MAX);
    let (mut device_least, mut host_least) = (None::<usize>, None::<usize>);
    for sweeps in question.sweeps() {
        for wait in question.waits() {
            let bare = least(&trials, sweeps, wait);
            let device = trials.taken(&bare.placement(question)).0;
            device_least = Some(device_least.map_or(device, |least| least.min(device)));
            for mix in least_host(&trials, bare) {
                let (device, host) = trials.taken(&mix.placement(question));
                let host = if question.room.shared { host.saturating_add(device) } else { host };
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
/// into smaller micro-batches, a shorter step, what the host keeps; and if none of them does, shorter sequences.
fn changes(question: &Question, short: Short) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(without_a_pin(question)?);
    let Shape { b, t } = question.numeric.shape;
    let mut numeric = question.numeric;
    for smaller in (1..b).rev().filter(|smaller| b.is_multiple_of(*smaller)) {
        numeric.shape = Shape { b: smaller, t };
        numeric.logits_chunk = question.numeric.logits_chunk.min(smaller * t);
        let micros = question.micros * (b / smaller);
        if fits(&Question { numeric, micros, ..*question })? {
            found.push(format!("{micros} micro-batches of {smaller} × {t} tokens"));
            break;
        }
    }
    for fewer in std::iter::successors(Some(question.micros / 2), |fewer| Some(fewer / 2)) {
        if fewer == 0 {
            break;
        }
        if fits(&Question { micros: fewer, ..*question })? {
            found.push(format!("steps of {fewer} of these micro-batches"));
            break;
        }
    }
    if matches!(short, Short::Host(_)) {
        // Clipping is given up last.
        let clips = [question.clips, false].into_iter().take(1 + usize::from(question.clips));
        let changed = clips.flat_map(|clips| MODES.iter().map(move |(mode, name)| (*mode, *name, clips)));
        for (mode, name, clips) in
            changed.filter(|(mode, _, clips)| (*mode, *clips) != (question.mode, question.clips))
        {
            if fits(&Question { mode, clips, ..*question })? {
                found.push(format!(
                    "mode {name}{}",
                    if clips == question.clips { "" } else { " without clipping" }
                ));
                break;
            }
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    for shorter in std::iter::successors(Some(t / 2), |shorter| Some(shorter / 2)) {
        if shorter == 0 {
            break;
        }
        numeric.shape = Shape { b: 1, t: shorter };
        numeric.logits_chunk = question.numeric.logits_chunk.min(shorter);
        for (micros, number) in [(question.micros, ""), (1, "one micro-batch of ")] {
            if fits(&Question { numeric, micros, ..*question })? {
                return Ok(vec![format!("{number}1 × {shorter} tokens")]);
            }
        }
    }
    Ok(found)
}

/// The first pin without which there is room.
fn without_a_pin(question: &Question) -> Result<Option<String>> {
    let pins = question.pins;
    let free = Pins { ring: pins.ring, adam: pins.adam, ..Pins::default() };
    if *pins == free {
        return Ok(None);
    }
    let alone = [
        ("a free number of weight slots", Pins { weight_slots: None, ..pins.clone() }),
        ("a free number of gradient slabs", Pins { slabs: None, ..pins.clone() }),
        ("a free number of sweeps", Pins { sweeps: None, ..pins.clone() }),
        ("a free choice where gradients wait", Pins { grad_wait: None, ..pins.clone() }),
        ("a free choice of what is recomputed", Pins { recompute: None, ..pins.clone() }),
        ("a free choice of what is spilled", Pins { boundary: None, ..pins.clone() }),
        ("a free number of resident layers", Pins { resident: None, ..pins.clone() }),
        ("a free choice where gradients are summed", Pins { sum: None, ..pins.clone() }),
        ("a free placement", free),
    ];
    for (name, pins) in alone {
        if fits(&Question { pins: &pins, ..*question })? {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// What the host may keep, by what it takes away.
const MODES: &[(Mode, &str)] =
    &[(Mode::Exact, "exact"), (Mode::Streamed, "streamed"), (Mode::Compact, "compact")];

fn fits(question: &Question) -> Result<bool> {
    Ok(match shortage(question)? {
        None => false,
        Some(Short::Device(_)) => false,
        Some(Short::Host(need)) => need <= question.room.host.bytes,
    })
}
