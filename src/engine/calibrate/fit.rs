//! From work and time to rates.

use super::Sample;
use crate::base::{Error, Result, Status};
use crate::device::Lane;
use crate::plan::{MATRIX_CLASSES, Machine, Work};

/// Figures of a work, and one for the task itself.
const AMOUNTS: usize = 2 + MATRIX_CLASSES.len() + 1 + 2 + 3 + 4;

/// What may take time.
pub(super) fn amounts(work: &Work) -> [f64; AMOUNTS] {
    let Work {
        launches,
        matrix_flop: [small, middle, large],
        attention_flop: [forward, backward],
        device_bytes,
        up_bytes,
        down_bytes,
        host_bytes: [exact, streamed, compact],
        disk_bytes,
    } = *work;
    [
        1.0,
        launches,
        small,
        middle,
        large,
        forward,
        backward,
        device_bytes,
        up_bytes,
        down_bytes,
        exact,
        streamed,
        compact,
        disk_bytes,
    ]
}

/// The rates at which the samples' work takes the samples' time, with the least error relative to the time. What no
/// sample speaks of takes no time, and nothing is said of what lanes take from one another.
///
/// Errors: there are no samples of a lane that every step uses.
pub fn fit(samples: &[Sample]) -> Result<Machine> {
    let mut rates = [[0.0; AMOUNTS]; Lane::COUNT];
    for lane in [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host] {
        let of: Vec<_> = samples
            .iter()
            .filter(|sample| sample.lane == lane)
            .map(|sample| (of_lane(lane, &sample.work), sample.seconds))
            .collect();
        if of.is_empty() {
            return Err(Error::new(
                Status::Internal,
                format!("nothing was measured of lane {lane}: every task of it had others beside it"),
            ));
        }
        rates[lane.at()] = least_squares(&of);
    }
    let rate = |lane: Lane, at: usize| 1.0 / rates[lane.at()][at].max(FREE);
    Ok(Machine {
        matrix_flop_per_s: [2, 3, 4].map(|class| rate(Lane::Compute, class)),
        attention_flop_per_s: [5, 6].map(|way| rate(Lane::Compute, way)),
        device_bytes_per_s: rate(Lane::Compute, 7),
        up_bytes_per_s: rate(Lane::H2d, 8),
        down_bytes_per_s: rate(Lane::D2h, 9),
        host_bytes_per_s: [10, 11, 12].map(|mode| rate(Lane::Host, mode)),
        disk_bytes_per_s: 1.0 / FREE,
        launch_s: rates[Lane::Compute.at()][1],
        latency_s: Lane::ALL.map(|lane| rates[lane.at()][0]),
        handoff_s: 0.0,
        common: Vec::new(),
    })
}

/// What a lane's time is made of: of compute kernels, and otherwise tasks.
fn of_lane(lane: Lane, work: &Work) -> [f64; AMOUNTS] {
    let mut amounts = amounts(work);
    amounts[usize::from(lane != Lane::Compute)] = 0.0;
    amounts
}

/// Seconds a FLOP or byte that are as good as none.
const FREE: f64 = 1e-18;

/// Non-negative least squares, one coefficient after the other.
fn least_squares(samples: &[([f64; AMOUNTS], f64)]) -> [f64; AMOUNTS] {
    const ROUNDS: usize = 3000;
    let mut rates = [0.0; AMOUNTS];
    for _ in 0..ROUNDS {
        for at in 0..AMOUNTS {
            let (mut over, mut under) = (0.0, 0.0);
            for (work, seconds) in samples {
                let all: f64 = rates.iter().zip(work).map(|(rate, amount)| rate * amount).sum();
                let others = all - rates[at] * work[at];
                let weight = 1.0 / (seconds * seconds);
                over += weight * work[at] * (seconds - others);
                under += weight * work[at] * work[at];
            }
            rates[at] = if under > 0.0 { (over / under).max(0.0) } else { 0.0 };
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_in_the_times_they_make() {
        let mut rates = [0.0; AMOUNTS];
        let met = [(0, 2e-6, 1.0), (2, 1e-9, 1e3), (4, 3e-11, 1e5), (5, 5e-10, 1e3), (7, 1e-10, 1e4)];
        met.iter().for_each(|&(at, rate, _)| rates[at] = rate);
        let amount =
            |seed: u64, at: usize| ((seed * 2_654_435_761 + at as u64 * 40_503) % 9_973) as f64 + 1.0;
        let samples: Vec<_> = (1..60u64)
            .map(|seed| {
                let mut work = [0.0; AMOUNTS];
                met.iter().for_each(|&(at, _, scale)| work[at] = amount(seed, at) * scale);
                work[0] = 1.0;
                let seconds: f64 = work.iter().zip(rates).map(|(amount, rate)| amount * rate).sum();
                (work, seconds)
            })
            .collect();
        let found = least_squares(&samples);
        for &(at, rate, _) in &met[1..] {
            assert!((found[at] / rate - 1.0).abs() < 0.02, "{at}: {found:?}");
        }
    }
}
