//! From a few ways to fill the memory downhill to a placement that no small change improves.

use std::collections::HashSet;

use super::mix::{Attribute, Mix, Spread};
use super::trial::{Candidate, Score, Trials};
use crate::model::Recompute;
use crate::schedule::{Accumulator, Boundary, GradWait, LayerPlacement, Placement};

/// Slots and slabs that are tried: more than that smooth nothing that these do not.
const PLACES: [usize; 4] = [2, 3, 4, 6];
/// Of the ways to begin, so many are followed down.
const FOLLOWED: usize = 4;
/// Layers of the deepest model of which single layers are changed.
const REFINED_MAX: usize = 16;

/// The best of `starts` and of everything the search comes by.
pub fn best(trials: &mut Trials, starts: &[Placement]) -> Option<(Placement, u64)> {
    let mut best: Option<(Placement, Score)> = None;
    for placement in starts {
        let Some(candidate) = trials.candidate(placement.clone()) else { continue };
        consider(trials, &candidate, &mut best);
    }
    let fillings = fillings(trials);
    let mut scored = Vec::new();
    for (mix, candidate) in lowest_first(fillings) {
        // Whoever cannot win need not run.
        if best.as_ref().is_some_and(|(_, score)| candidate.least_ns > score.step_ns) {
            continue;
        }
        if let Some(score) = consider(trials, &candidate, &mut best) {
            scored.push((score, mix));
        }
    }
    scored.sort_by_key(|(score, _)| *score);
    for (_, mix) in scored.into_iter().take(FOLLOWED) {
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

/// The attributes that are free, and what the pinned ones are.
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

/// The least device memory with so many sweeps.
pub fn least(trials: &Trials, sweeps: usize, wait: GradWait) -> Mix {
    let fixed = trials.question.fixed;
    Mix {
        slots: fixed.weight_slots.unwrap_or(PLACES[0]),
        slabs: fixed.slabs.unwrap_or(PLACES[0]),
        sweeps,
        wait,
        counts: [0; Attribute::ALL.len()],
        spreads: [Spread::Top; Attribute::ALL.len()],
    }
}

/// Every way to cut a step and to fill what memory it leaves, attribute by attribute.
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
            // Where host memory is short the device has to hold what it can, or what is enough.
            let starts = if fits(trials, &bare) {
                vec![bare]
            } else {
                least_host(trials, &bare).into_iter().chain(enough(trials, &bare)).collect()
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

/// The greatest count in a range that fits, if the least does.
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

/// The least device memory, and two ways to what takes least host memory besides: what stays on the device need not
/// be in host memory.
pub fn least_host(trials: &Trials, bare: &Mix) -> [Mix; 3] {
    let limit = trials.question.limits.device.unwrap_or(usize::MAX);
    let [one, other] = instead_of_host(trials, bare, |mix, attribute| {
        fill(trials, mix, attribute, |device, _| device <= limit)
    });
    [bare.clone(), one, other]
}

/// Two ways to what is on the device instead of the host, no more of it than host memory asks for.
fn enough(trials: &Trials, bare: &Mix) -> [Mix; 2] {
    let layers = trials.question.layout.layers();
    let lacks = |mix: &Mix| {
        let (device, host) = trials.taken(&mix.placement(&trials.question));
        !trials.question.fits_host(device, host)
    };
    instead_of_host(trials, bare, |mix, attribute| {
        let lacking = greatest(mix.count(attribute), layers, |count| lacks(&mix.with(attribute, count)));
        lacking.map_or_else(|| mix.clone(), |count| mix.with(attribute, (count + 1).min(layers)))
    })
}

/// With more and more on the device that else is in host memory, in either order.
fn instead_of_host(trials: &Trials, bare: &Mix, more: impl Fn(&Mix, Attribute) -> Mix) -> [Mix; 2] {
    let free = free(trials, bare.sweeps);
    [[Attribute::Kept, Attribute::Own], [Attribute::Own, Attribute::Kept]].map(|order| {
        let wanted = order.into_iter().filter(|attribute| free.contains(attribute));
        wanted.fold(bare.clone(), |mix, attribute| more(&mix, attribute))
    })
}

/// As much of an attribute as there is room for. `fits` judges bytes of device and host.
fn fill(trials: &Trials, mix: &Mix, attribute: Attribute, fits: impl Fn(usize, usize) -> bool) -> Mix {
    let layers = trials.question.layout.layers();
    let most = greatest(mix.count(attribute), layers, |count| {
        let (device, host) = trials.taken(&mix.with(attribute, count).placement(&trials.question));
        fits(device, host)
    });
    most.map_or_else(|| mix.clone(), |count| mix.with(attribute, count))
}

/// As much of an attribute as fits.
fn fill_up(trials: &Trials, mix: &Mix, attribute: Attribute) -> Mix {
    fill(trials, mix, attribute, |device, host| trials.question.fits(device, host))
}

/// So much less of an attribute that everything fits.
fn shrink(trials: &Trials, mix: &Mix, attribute: Attribute) -> Option<Mix> {
    let has = mix.count(attribute);
    let most = greatest(0, has.checked_sub(1)?, |count| fits(trials, &mix.with(attribute, count)))?;
    Some(mix.with(attribute, most))
}

/// Steps to better neighbours until there is none.
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

/// What is one change away: some more or fewer of something, and less of something else where that is needed, more
/// where that is possible.
fn neighbours(trials: &mut Trials, mix: &Mix, step: usize) -> Vec<(Mix, Candidate)> {
    let (fixed, layers) = (trials.question.fixed, trials.question.layout.layers());
    let free = free(trials, mix.sweeps);
    let mut changed = Vec::new();
    for &attribute in &free {
        let count = mix.count(attribute);
        changed.push(mix.with(attribute, (count + step).min(layers)));
        changed.push(mix.with(attribute, count.saturating_sub(step)));
        // All or none are the same ones, however spread; and what rests on other activations is spread as they are.
        let is_spread =
            (1..layers).contains(&count) && !matches!(attribute, Attribute::Mlp | Attribute::Selective);
        let spreads = if is_spread { &Spread::ALL[..] } else { &[] };
        for &spread in spreads {
            let mut other = mix.clone();
            other.spreads[attribute as usize] = spread;
            changed.push(other);
        }
    }
    for places in PLACES {
        if fixed.weight_slots.is_none() {
            changed.push(Mix { slots: places, ..mix.clone() });
        }
        if fixed.slabs.is_none() {
            changed.push(Mix { slabs: places, ..mix.clone() });
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

/// Changes single layers, and pairs of them, of the best placement until nothing is gained: of models of so few
/// layers that the effort allows it.
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

/// Placements that differ in one layer, or in which two layers have changed places.
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

/// What a layer might be instead.
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
