//! Fits the rates of a machine to measured tasks.

use super::Sample;
use crate::base::{Error, Result, Status};
use crate::device::Lane;
use crate::plan::{MATRIX_CLASSES, Machine, Work};

/// The number of amounts: those of a [`Work`], and one for the task itself.
const AMOUNTS: usize = 2 + MATRIX_CLASSES.len() + 1 + 2 + 3 + 4;

/// The amounts of work that take time, in the order of [`NAMES`].
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

/// The names of the amounts, for messages.
const NAMES: [&str; AMOUNTS] = [
    "a task",
    "a kernel",
    "GEMMs of the narrowest class",
    "GEMMs of the middle class",
    "GEMMs of the widest class",
    "attention forward",
    "attention backward",
    "traffic of device memory",
    "the link to the device",
    "the link to the host",
    "AdamW of mode exact",
    "AdamW of mode streamed",
    "AdamW of mode compact",
    "the disk",
];

/// The first amount that is 0 in all works, if any. The disk is excepted, since only saves use it.
pub(super) fn uncovered<'a>(works: impl Iterator<Item = &'a Work>) -> Option<&'static str> {
    let mut covered = [false; AMOUNTS];
    for work in works {
        covered.iter_mut().zip(amounts(work)).for_each(|(covered, amount)| *covered |= amount > 0.0);
    }
    let all = covered.iter().zip(NAMES).take(AMOUNTS - 1);
    all.into_iter().find(|(covered, _)| !**covered).map(|(_, name)| name)
}

/// Fits rates to samples by least squares of the error relative to the time. Constraints: no
/// narrower GEMM class and no attention is faster than the widest GEMMs; every amount in the
/// samples takes some time, even if it is less than the noise. An amount that no sample has gets
/// time 0. Contention between lanes is not fitted.
///
/// Errors: a lane that every step uses has no samples.
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
                format!(
                    "lane {lane} cannot be measured: every such task overlapped others; stop other processes and \
                     repeat"
                ),
            ));
        }
        rates[lane.at()] = totals(least_squares(&of));
    }
    let rate = |lane: Lane, at: usize| 1.0 / rates[lane.at()][at].max(FREE);
    Ok(Machine {
        matrix_flop_per_s: [2, 3, 4].map(|class| rate(Lane::Compute, class)),
        attention_flop_per_s: [5, 6].map(|way| rate(Lane::Compute, way)),
        device_bytes_per_s: rate(Lane::Compute, 7),
        up_bytes_per_s: rate(Lane::H2d, 8),
        down_bytes_per_s: rate(Lane::D2h, 9),
        host_bytes_per_s: [10, 11, 12].map(|mode| rate(Lane::Host, mode)),
        ram_bytes_per_s: 1.0 / FREE,
        disk_bytes_per_s: 1.0 / FREE,
        launch_s: rates[Lane::Compute.at()][1],
        latency_s: Lane::ALL.map(|lane| rates[lane.at()][0]),
        handoff_s: 0.0,
        common: Vec::new(),
    })
}

/// Index of the widest GEMM class in the amounts.
const WIDEST: usize = 4;
/// Amounts whose fitted rate is the excess over the widest or the next wider GEMM class, and may be
/// 0.
const EXCESS: [usize; 4] = [2, 3, 5, 6];

/// The amounts that a lane's time is fitted to: kernels on the compute lane, tasks on the others. A
/// GEMM counts for its own class and all wider ones, attention for the widest.
fn of_lane(lane: Lane, work: &Work) -> [f64; AMOUNTS] {
    let mut amounts = amounts(work);
    amounts[usize::from(lane != Lane::Compute)] = 0.0;
    amounts[3] += amounts[2];
    amounts[WIDEST] += amounts[3] + amounts[5] + amounts[6];
    amounts
}

/// Adds to each excess the rates that it exceeds.
fn totals(mut rates: [f64; AMOUNTS]) -> [f64; AMOUNTS] {
    rates[3] += rates[WIDEST];
    rates[2] += rates[3];
    rates[5] += rates[WIDEST];
    rates[6] += rates[WIDEST];
    rates
}

/// Seconds per FLOP or byte that count as none.
const FREE: f64 = 1e-18;

/// The least share of a sample's time that an amount takes, in the sample with most of it per
/// second.
const LEAST: f64 = 0.01;

/// Least squares of the relative error, by coordinate descent. Fixed costs and an [`EXCESS`] may be
/// 0; other rates have a positive minimum.
fn least_squares(samples: &[([f64; AMOUNTS], f64)]) -> [f64; AMOUNTS] {
    const ROUNDS: usize = 100_000;
    const CONVERGED: f64 = 1e-10;
    // Work over time, scaled so that each amount's squares add up to 1; the target is 1 everywhere.
    let mut scale = [0.0; AMOUNTS];
    for (work, seconds) in samples {
        (0..AMOUNTS).for_each(|at| scale[at] += (work[at] / seconds).powi(2));
    }
    let scale = scale.map(f64::sqrt);
    let (mut normal, mut wanted) = ([[0.0; AMOUNTS]; AMOUNTS], [0.0; AMOUNTS]);
    for (work, seconds) in samples {
        let scaled: [f64; AMOUNTS] =
            std::array::from_fn(|at| if scale[at] > 0.0 { work[at] / seconds / scale[at] } else { 0.0 });
        for at in 0..AMOUNTS {
            wanted[at] += scaled[at];
            (0..AMOUNTS).for_each(|other| normal[at][other] += scaled[at] * scaled[other]);
        }
    }
    let least: [f64; AMOUNTS] = std::array::from_fn(|at| match at {
        0 | 1 => 0.0,
        _ if EXCESS.contains(&at) || scale[at] == 0.0 => 0.0,
        _ => {
            let most = samples.iter().map(|(work, seconds)| work[at] / seconds).fold(0.0, f64::max);
            LEAST / most * scale[at]
        }
    });
    let mut rates = least;
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for at in (0..AMOUNTS).filter(|at| scale[*at] > 0.0) {
            let all: f64 = rates.iter().zip(normal[at]).map(|(rate, factor)| rate * factor).sum();
            let rate = (rates[at] + wanted[at] - all).max(least[at]);
            moved = moved.max((rate - rates[at]).abs());
            rates[at] = rate;
        }
        if moved < CONVERGED {
            break;
        }
    }
    std::array::from_fn(|at| if scale[at] > 0.0 { rates[at] / scale[at] } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples with these amounts (index, seconds per unit, scale) and the times that follow.
    fn made(amounts: &[(usize, f64, f64)]) -> Vec<([f64; AMOUNTS], f64)> {
        let amount =
            |seed: u64, at: usize| ((seed * 2_654_435_761 + at as u64 * 40_503) % 9_973) as f64 + 1.0;
        let sample = |seed: u64| {
            let mut work = [0.0; AMOUNTS];
            amounts.iter().for_each(|&(at, _, scale)| work[at] = amount(seed, at) * scale);
            work[0] = 1.0;
            (work, amounts.iter().map(|&(at, rate, _)| work[at] * rate).sum::<f64>())
        };
        (1..60).map(sample).collect()
    }

    #[test]
    fn least_squares_recovers_the_rates() {
        let amounts = [(0, 2e-6, 1.0), (2, 1e-9, 1e3), (4, 3e-11, 1e5), (5, 5e-10, 1e3), (7, 1e-10, 1e4)];
        let found = least_squares(&made(&amounts));
        for &(at, rate, _) in &amounts[1..] {
            assert!((found[at] / rate - 1.0).abs() < 0.02, "{at}: {found:?}");
        }
    }

    /// The fit for these seconds per unit of GEMMs, attention forward and device memory.
    fn fitted(small: f64, large: f64, attention: f64, memory: f64) -> Machine {
        let amounts = [(2, small, 1e6), (4, large, 1e6), (5, attention, 1e6), (7, memory, 1e6)];
        let compute = made(&amounts).into_iter().map(|(work, seconds)| {
            let work = Work {
                matrix_flop: [work[2], 0.0, work[4]],
                attention_flop: [work[5], 0.0],
                device_bytes: work[7],
                ..Work::default()
            };
            Sample { lane: Lane::Compute, work, seconds }
        });
        let others = [Lane::H2d, Lane::D2h, Lane::Host].map(|lane| Sample {
            lane,
            work: Work::default(),
            seconds: 1.0,
        });
        fit(&compute.chain(others).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn narrow_gemms_and_attention_are_never_faster_than_wide_gemms() {
        let fitted = |small: f64, large: f64| fitted(small, large, 2e-12, 1e-10).matrix_flop_per_s;
        let [small, _, large] = fitted(4e-12, 1e-12);
        assert!((small / 2.5e11 - 1.0).abs() < 0.02 && (large / 1e12 - 1.0).abs() < 0.02, "{small} {large}");
        // Weight reads alone explain the time of few rows: the rate stays finite.
        let [small, middle, large] = fitted(0.0, 1e-12);
        assert!(small == middle && middle == large && large.is_finite(), "{small} {middle} {large}");
        assert!(large < 1e13, "{large}");
    }

    #[test]
    fn amounts_below_the_noise_take_time() {
        let machine = fitted(1e-12, 1e-12, 0.0, 1e-10);
        assert_eq!(machine.attention_flop_per_s, [machine.matrix_flop_per_s[2]; 2]);
        let machine = fitted(4e-12, 1e-12, 2e-12, 0.0);
        assert!((1e12..1e17).contains(&machine.device_bytes_per_s), "{machine:?}");
        let machine = fitted(0.0, 0.0, 0.0, 1e-10);
        assert!((1e12..1e17).contains(&machine.matrix_flop_per_s[2]), "{machine:?}");
    }
}
