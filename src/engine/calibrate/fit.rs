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

/// What each amount is called.
const NAMES: [&str; AMOUNTS] = [
    "a task",
    "a kernel",
    "the narrowest class of products",
    "the middle class of products",
    "the widest class of products",
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

/// The first thing that none of the works asks for; the disk apart, which only saves use.
pub(super) fn unmet<'a>(works: impl Iterator<Item = &'a Work>) -> Option<&'static str> {
    let mut met = [false; AMOUNTS];
    for work in works {
        met.iter_mut().zip(amounts(work)).for_each(|(met, amount)| *met |= amount > 0.0);
    }
    met.iter().zip(NAMES).take(AMOUNTS - 1).find(|(met, _)| !**met).map(|(_, name)| name)
}

/// The rates at which the samples' work takes the samples' time, with the least error relative to the time; neither a
/// narrower product nor attention is faster than the widest products, and nothing that was met is for nothing, however little
/// it is beside the noise. Bytes that no sample speaks of take no time, and nothing is said of what lanes take from one another.
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
        rates[lane.at()] = whole(least_squares(&of));
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

/// Where the widest class of products is among the amounts.
const WIDEST: usize = 4;
/// What is found as what it takes more than the widest class of products, or than the next wider one: perhaps nothing.
const MORE: [usize; 4] = [2, 3, 5, 6];

/// What a lane's time is made of: of compute kernels, and otherwise tasks. A product counts for its own class and for all
/// wider ones, and attention, whose arithmetic is products, for the widest.
fn of_lane(lane: Lane, work: &Work) -> [f64; AMOUNTS] {
    let mut amounts = amounts(work);
    amounts[usize::from(lane != Lane::Compute)] = 0.0;
    amounts[3] += amounts[2];
    amounts[WIDEST] += amounts[3] + amounts[5] + amounts[6];
    amounts
}

/// What each amount takes, from what it takes more than another.
fn whole(mut rates: [f64; AMOUNTS]) -> [f64; AMOUNTS] {
    rates[3] += rates[WIDEST];
    rates[2] += rates[3];
    rates[5] += rates[WIDEST];
    rates[6] += rates[WIDEST];
    rates
}

/// Seconds a FLOP or byte that are as good as none.
const FREE: f64 = 1e-18;

/// Of the sample that has most of an amount for its time, what that amount takes at least.
const LEAST: f64 = 0.01;

/// Least squares of the relative error, one coefficient after the other until none moves. A fixed cost and what is [`MORE`]
/// may be nothing; the others may not.
fn least_squares(samples: &[([f64; AMOUNTS], f64)]) -> [f64; AMOUNTS] {
    const ROUNDS: usize = 100_000;
    const STILL: f64 = 1e-10;
    // Work over time, scaled so that each amount's squares add up to 1; the time over itself is 1.
    let mut scale = [0.0; AMOUNTS];
    for (work, seconds) in samples {
        (0..AMOUNTS).for_each(|at| scale[at] += (work[at] / seconds).powi(2));
    }
    let scale = scale.map(f64::sqrt);
    let (mut products, mut wanted) = ([[0.0; AMOUNTS]; AMOUNTS], [0.0; AMOUNTS]);
    for (work, seconds) in samples {
        let scaled: [f64; AMOUNTS] =
            std::array::from_fn(|at| if scale[at] > 0.0 { work[at] / seconds / scale[at] } else { 0.0 });
        for at in 0..AMOUNTS {
            wanted[at] += scaled[at];
            (0..AMOUNTS).for_each(|other| products[at][other] += scaled[at] * scaled[other]);
        }
    }
    let least: [f64; AMOUNTS] = std::array::from_fn(|at| match at {
        0 | 1 => 0.0,
        _ if MORE.contains(&at) || scale[at] == 0.0 => 0.0,
        _ => {
            let most = samples.iter().map(|(work, seconds)| work[at] / seconds).fold(0.0, f64::max);
            LEAST / most * scale[at]
        }
    });
    let mut rates = least;
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for at in (0..AMOUNTS).filter(|at| scale[*at] > 0.0) {
            let all: f64 = rates.iter().zip(products[at]).map(|(rate, product)| rate * product).sum();
            let rate = (rates[at] + wanted[at] - all).max(least[at]);
            moved = moved.max((rate - rates[at]).abs());
            rates[at] = rate;
        }
        if moved < STILL {
            break;
        }
    }
    std::array::from_fn(|at| if scale[at] > 0.0 { rates[at] / scale[at] } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works of some amounts, and the times that the rates make of them.
    fn made(met: &[(usize, f64, f64)]) -> Vec<([f64; AMOUNTS], f64)> {
        let amount =
            |seed: u64, at: usize| ((seed * 2_654_435_761 + at as u64 * 40_503) % 9_973) as f64 + 1.0;
        let sample = |seed: u64| {
            let mut work = [0.0; AMOUNTS];
            met.iter().for_each(|&(at, _, scale)| work[at] = amount(seed, at) * scale);
            work[0] = 1.0;
            (work, met.iter().map(|&(at, rate, _)| work[at] * rate).sum::<f64>())
        };
        (1..60).map(sample).collect()
    }

    #[test]
    fn rates_are_found_in_the_times_they_make() {
        let met = [(0, 2e-6, 1.0), (2, 1e-9, 1e3), (4, 3e-11, 1e5), (5, 5e-10, 1e3), (7, 1e-10, 1e4)];
        let found = least_squares(&made(&met));
        for &(at, rate, _) in &met[1..] {
            assert!((found[at] / rate - 1.0).abs() < 0.02, "{at}: {found:?}");
        }
    }

    /// What is found where products, attention forward and device memory take so much.
    fn fitted(small: f64, large: f64, attention: f64, memory: f64) -> Machine {
        let met = [(2, small, 1e6), (4, large, 1e6), (5, attention, 1e6), (7, memory, 1e6)];
        let compute = made(&met).into_iter().map(|(work, seconds)| {
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
    fn neither_a_narrower_product_nor_attention_is_faster_than_the_widest_products() {
        let fitted = |small: f64, large: f64| fitted(small, large, 2e-12, 1e-10).matrix_flop_per_s;
        let [small, _, large] = fitted(4e-12, 1e-12);
        assert!((small / 2.5e11 - 1.0).abs() < 0.02 && (large / 1e12 - 1.0).abs() < 0.02, "{small} {large}");
        // As where weights alone explain what few rows take: not faster without end.
        let [small, middle, large] = fitted(0.0, 1e-12);
        assert!(small == middle && middle == large && large.is_finite(), "{small} {middle} {large}");
        assert!(large < 1e13, "{large}");
    }

    #[test]
    fn what_cannot_be_told_from_noise_takes_time() {
        let machine = fitted(1e-12, 1e-12, 0.0, 1e-10);
        assert_eq!(machine.attention_flop_per_s, [machine.matrix_flop_per_s[2]; 2]);
        let machine = fitted(4e-12, 1e-12, 2e-12, 0.0);
        assert!((1e12..1e17).contains(&machine.device_bytes_per_s), "{machine:?}");
        let machine = fitted(0.0, 0.0, 0.0, 1e-10);
        assert!((1e12..1e17).contains(&machine.matrix_flop_per_s[2]), "{machine:?}");
    }
}
