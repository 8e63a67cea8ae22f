//! Local search: from mixes that fill the memory to a placement that no small change improves.

use std::collections::HashSet;

use super::mix::{Attribute, Mix, Spread};
use super::trial::{Candidate, Score, Trials};
use crate::model::Recompute;
use crate::schedule::{Accumulator, Boundary, GradWait, LayerPlacement, Placement};

/// Numbers of slots and slabs to try. More than these have no further effect.
const BUFFER_COUNTS: [usize; 4] = [2, 3, 4, 6];
/// Number of starting mixes from which the search descends.
const DESCENTS: usize = 4;
/// Maximum layers of a model of which single layers are changed.
const REFINED_MAX: usize = 16;

/// The best of `starts` and of all placements that the search tries.
pub fn best(trials: &mut Trials, starts: &[Placement]) -> Option<(Placement, u64)> {
    let mut best: Option<(Placement, Score)> = None;
    for placement in starts {
        let Some(candidate) = trials.candidate(placement.clone()) else { continue };
        consider(trials, &candidate, &mut best);
    }
    let fillings = fillings(trials);
    let mut scored = Vec::new();
    for (mix, candidate) in lowest_first(fillings) {
        // Its lower bound is worse than the best step time.
        if best.as_ref().is_some_and(|(_, score)| candidate.least_ns > score.step_ns) {
            continue;
        }
        if let Some(score) = consider(trials, &candidate, &mut best) {
            scored.push((score, mix));
        }
    }
    scored.sort_by_key(|(score, _)| *score);
    for (_, mix) in scored.into_iter().take(DESCENTS) {
        descend(trials, mix, &mut best);
    }
    refine(trials, &mut best);
    best.map(|(placement, score)| (placement, score.step_ns))
}

fn consider(
    trials: &mut Trials,
    candidate: &Candidate,
    best: &mut Option<(Placement, Score)>,
) -> Option<Score> {
    let score = trials.score(candidate)?;
    if best.as_ref().is_none_or(|(_, least)| score < *least) {
        *best = Some((candidate.placement.clone(), score));
    }
    Some(score)
}

fn lowest_first<T>(mut candidates: Vec<(T, Candidate)>) -> Vec<(T, Candidate)> {
    candidates.sort_by_key(|(_, candidate)| candidate.least_ns);
    candidates
}

/// The attributes that the user has not fixed and that have an effect.
fn free(trials: &Trials, sweeps: usize) -> Vec<Attribute> {
    let fixed = trials.question.fixed;
    let is_free = |attribute: &Attribute| match attribute {
        activations if activations.is_of_activations() => fixed.recompute.is_none(),
        Attribute::Kept => fixed.boundary.is_none(),
        Attribute::Resident => fixed.resident.is_none(),
        _ => fixed.accumulator.is_none() && sweeps > 1,
    };
    Attribute::ALL.into_iter().filter(is_free).collect()
}

/// The mix with the least device memory for this number of sweeps.
pub fn least(trials: &Trials, sweeps: usize, wait: GradWait) -> Mix {
    let fixed = trials.question.fixed;
    Mix {
        slots: fixed.weight_slots.unwrap_or(BUFFER_COUNTS[0]),
        slabs: fixed.slabs.unwrap_or(BUFFER_COUNTS[0]),
        sweeps,
        wait,
        counts: [0; Attribute::ALL.len()],
        spreads: [Spread::Top; Attribute::ALL.len()],
    }
}

/// The starting mixes: for every number of sweeps, memory filled attribute by attribute in several
/// orders.
fn fillings(trials: &mut Trials) -> Vec<(Mix, Candidate)> {
    use Attribute::*;
    const ORDERS: [&[Attribute]; 13] = [
        &[],
        &[Kept],
        &[Kept, Own, Linears, Mlp, Selective, None, Resident],
        &[Linears, Kept, Mlp, Own, Selective, Resident, None],
        &[Kept, Own, Mlp, Selective, Resident, None],
        &[Kept, Own, Selective, None, Resident],
        &[Kept, Resident, Own, Selective, None],
        &[Kept, Own, None, Selective, Resident],
        &[Selective, Kept, None, Own, Resident],
        &[Resident, Kept, Own, Selective, None],
        &[Own, Kept, Selective, Resident, None],
        &[None, Selective, Own, Kept, Resident],
        &[Own, None, Selective, Kept, Resident],
    ];
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for sweeps in trials.question.sweeps() {
        let free = free(trials, sweeps);
        for wait in trials.question.waits() {
            let bare = least(trials, sweeps, wait);
            // If host memory is short, data must move to the device: as much as fits, or as little as
            // suffices.
            let starts = if fits(trials, &bare) {
                vec![bare]
            } else {
                least_host(trials, &bare).into_iter().chain(relieved(trials, &bare)).collect()
            };
            let orders = ORDERS.iter().flat_map(|order| starts.iter().map(move |start| (*order, start)));
            for (order, start) in orders {
                let mut mix = start.clone();
                for attribute in order.iter().filter(|attribute| free.contains(attribute)) {
                    mix = fill_up(trials, &mix, *attribute);
                }
                if seen.insert(mix.clone())
                    && let Some(candidate) = trials.candidate(mix.placement(&trials.question))
                {
                    found.push((mix, candidate));
                }
            }
        }
    }
    found
}

/// The greatest count in a range that fits; `None` if the least does not.
fn greatest(least: usize, most: usize, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
    if least > most || !fits(least) {
        return None;
    }
    if fits(most) {
        return Some(most);
    }
    let (mut good, mut bad) = (least, most);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        *(if fits(middle) { &mut good } else { &mut bad }) = middle;
    }
    Some(good)
}

fn fits(trials: &Trials, mix: &Mix) -> bool {
    trials.fits(&mix.placement(&trials.question))
}

/// The bare mix, and two mixes that minimize host memory: data kept on the device is not stored on
/// the host.
pub fn least_host(trials: &Trials, bare: &Mix) -> [Mix; 3] {
    let limit = trials.question.limits.device.unwrap_or(usize::MAX);
    let [one, other] = instead_of_host(trials, bare, |mix, attribute| {
        fill(trials, mix, attribute, |device, _| device <= limit)
    });
    [bare.clone(), one, other]
}

/// Two mixes that move just enough data from host to device for the limit of host memory.
fn relieved(trials: &Trials, bare: &Mix) -> [Mix; 2] {
    let layers = trials.question.layout.layers();
    let exceeds = |mix: &Mix| {
        let (device, host) = trials.taken(&mix.placement(&trials.question));
        !trials.question.fits_host(device, host)
    };
    instead_of_host(trials, bare, |mix, attribute| {
        let exceeding = greatest(mix.count(attribute), layers, |count| exceeds(&mix.with(attribute, count)));
        exceeding.map_or_else(|| mix.clone(), |count| mix.with(attribute, (count + 1).min(layers)))
    })
}

/// Applies `more` to the attributes that move data from host to device, in either order.
fn instead_of_host(trials: &Trials, bare: &Mix, more: impl Fn(&Mix, Attribute) -> Mix) -> [Mix; 2] {
    let free = free(trials, bare.sweeps);
    [[Attribute::Kept, Attribute::Own], [Attribute::Own, Attribute::Kept]].map(|order| {
        let movable = order.into_iter().filter(|attribute| free.contains(attribute));
        movable.fold(bare.clone(), |mix, attribute| more(&mix, attribute))
    })
}

/// Raises the count of an attribute as far as `fits` allows, given bytes of device and host.
fn fill(trials: &Trials, mix: &Mix, attribute: Attribute, fits: impl Fn(usize, usize) -> bool) -> Mix {
    let layers = trials.question.layout.layers();
    let most = greatest(mix.count(attribute), layers, |count| {
        let (device, host) = trials.taken(&mix.with(attribute, count).placement(&trials.question));
        fits(device, host)
    });
    most.map_or_else(|| mix.clone(), |count| mix.with(attribute, count))
}

/// Raises the count of an attribute as far as memory allows.
fn fill_up(trials: &Trials, mix: &Mix, attribute: Attribute) -> Mix {
    fill(trials, mix, attribute, |device, host| trials.question.fits(device, host))
}

/// Lowers the count of an attribute until everything fits; `None` if that is not enough.
fn shrink(trials: &Trials, mix: &Mix, attribute: Attribute) -> Option<Mix> {
    let has = mix.count(attribute);
    let most = greatest(0, has.checked_sub(1)?, |count| fits(trials, &mix.with(attribute, count)))?;
    Some(mix.with(attribute, most))
}

/// Moves to better neighbours until there is none.
fn descend(trials: &mut Trials, mut mix: Mix, best: &mut Option<(Placement, Score)>) {
    let layers = trials.question.layout.layers();
    let Some(candidate) = trials.candidate(mix.placement(&trials.question)) else { return };
    let Some(mut score) = trials.score(&candidate) else { return };
    let mut step = layers.next_power_of_two() / 2;
    loop {
        let neighbours = neighbours(trials, &mix, step.max(1));
        let mut moved = false;
        for (neighbour, candidate) in lowest_first(neighbours) {
            if candidate.least_ns > score.step_ns {
                break;
            }
            let Some(found) = consider(trials, &candidate, best) else { return };
            if found < score {
                (mix, score, moved) = (neighbour, found, true);
                break;
            }
        }
        if !moved {
            if step <= 1 {
                return;
            }
            step /= 2;
        }
    }
}

/// Mixes one change away: more or less of one attribute, another spread, other buffer counts,
/// another place for waiting gradients. If the change does not fit, less of another attribute; if
/// it does, also more of another.
fn neighbours(trials: &mut Trials, mix: &Mix, step: usize) -> Vec<(Mix, Candidate)> {
    let (fixed, layers) = (trials.question.fixed, trials.question.layout.layers());
    let free = free(trials, mix.sweeps);
    let mut changed = Vec::new();
    for &attribute in &free {
        let count = mix.count(attribute);
        changed.push(mix.with(attribute, (count + step).min(layers)));
        changed.push(mix.with(attribute, count.saturating_sub(step)));
        // With a count of none or all layers the spread has no effect; those of Mlp and Selective are not
        // varied.
        let is_spread =
            (1..layers).contains(&count) && !matches!(attribute, Attribute::Mlp | Attribute::Selective);
        let spreads = if is_spread { &Spread::ALL[..] } else { &[] };
        for &spread in spreads {
            let mut other = mix.clone();
            other.spreads[attribute as usize] = spread;
            changed.push(other);
        }
    }
    for buffers in BUFFER_COUNTS {
        if fixed.weight_slots.is_none() {
            changed.push(Mix { slots: buffers, ..mix.clone() });
        }
        if fixed.slabs.is_none() {
            changed.push(Mix { slabs: buffers, ..mix.clone() });
        }
    }
    for wait in trials.question.waits() {
        changed.push(Mix { wait, ..mix.clone() });
    }
    let mut seen = HashSet::from([mix.clone()]);
    let mut found = Vec::new();
    for change in changed {
        let mut variants = vec![change.clone()];
        if fits(trials, &change) {
            variants.extend(free.iter().map(|&attribute| fill_up(trials, &change, attribute)));
        } else {
            variants.extend(free.iter().filter_map(|&attribute| shrink(trials, &change, attribute)));
        }
        for variant in variants {
            if seen.insert(variant.clone())
                && let Some(candidate) = trials.candidate(variant.placement(&trials.question))
            {
                found.push((variant, candidate));
            }
        }
    }
    found
}

/// Changes single layers, and swaps pairs of layers, of the best placement until the step gets no
/// faster. Only for models of few layers, where the effort allows it.
fn refine(trials: &mut Trials, best: &mut Option<(Placement, Score)>) {
    while let Some((placement, score)) = best.clone() {
        if placement.layers.len() > REFINED_MAX {
            return;
        }
        let mut candidates: Vec<((), Candidate)> = Vec::new();
        for changed in changed_layers(trials, &placement) {
            candidates.extend(trials.candidate(changed).map(|candidate| ((), candidate)));
        }
        let mut moved = false;
        for (_, candidate) in lowest_first(candidates) {
            if candidate.least_ns > score.step_ns {
                break;
            }
            let Some(found) = consider(trials, &candidate, best) else { return };
            if found < score {
                moved = true;
                break;
            }
        }
        if !moved {
            return;
        }
    }
}

/// Placements that differ in one layer, or in which two layers are swapped.
fn changed_layers(trials: &Trials, placement: &Placement) -> Vec<Placement> {
    let layers = placement.layers.len();
    let with = |changes: &[(usize, LayerPlacement)]| {
        let mut other = placement.clone();
        for &(layer, place) in changes {
            other.layers[layer] = trials.question.fixed.of(layer, place);
        }
        other
    };
    let mut changed = Vec::new();
    for layer in 0..layers {
        for alternative in alternatives(placement, placement.layers[layer]) {
            changed.push(with(&[(layer, alternative)]));
        }
        for other in layer + 1..layers {
            let (one, two) = (placement.layers[layer], placement.layers[other]);
            if one != two {
                changed.push(with(&[(layer, two), (other, one)]));
            }
        }
    }
    changed.retain(|other| other != placement);
    changed
}

/// All other placements of a layer.
fn alternatives(placement: &Placement, layer: LayerPlacement) -> Vec<LayerPlacement> {
    let mut found = Vec::new();
    for recompute in Recompute::ALL {
        for boundary in [Boundary::Kept, Boundary::Spilled] {
            for resident in [false, true] {
                for accumulator in [Accumulator::Spilled, Accumulator::OnDevice] {
                    let other = LayerPlacement { recompute, boundary, resident, accumulator };
                    if other != layer && (placement.sweeps > 1 || accumulator == layer.accumulator) {
                        found.push(other);
                    }
                }
            }
        }
    }
    found
}
