//! The learning rate of every update.
//!
//! Updates are counted k = 0, 1, … N − 1; W of them warm up. With peak `lr` and floor `min`:
//!
//! | part | rate of update k |
//! |---|---|
//! | warmup, k < W | lr · (k + 1)/W: the first update already learns, the W-th is at the peak |
//! | after it, p = (k − W)/(N − W) | by shape, below |
//! | `constant` | lr |
//! | `linear` | lr − (lr − min) · p |
//! | `cosine` | min + (lr − min) · (1 + cos πp)/2 |
//! | `wsd` | lr until the last D = ⌈N/5⌉ updates (all after warmup, if fewer), then min + (lr − min) · (1 − √q), q = (k − (N − D))/D |
//!
//! These are the conventions of llm.c and, but for the warmup's + 1, of transformers: `min` is approached and
//! would be reached by update N. The decay of `wsd` is "1 − sqrt" of Hägele et al. 2024 (arXiv 2405.18392).

use crate::base::{Error, Result};

/// How the rate falls after the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrShape {
    /// It does not.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a cosine.
    Cosine,
    /// Warmup, stable, decay: not until the last fifth.
    Wsd,
}

impl LrShape {
    /// The name used by options: `constant`, `linear`, `cosine`, `wsd`.
    pub fn name(self) -> &'static str {
        match self {
            LrShape::Constant => "constant",
            LrShape::Linear => "linear",
            LrShape::Cosine => "cosine",
            LrShape::Wsd => "wsd",
        }
    }
}

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSchedule {
    /// How it falls.
    pub shape: LrShape,
    /// The peak.
    pub lr: f64,
    /// The floor.
    pub min_lr: f64,
    /// W: updates that warm up.
    pub warmup: u64,
    /// N: updates of the run.
    pub steps: u64,
}

impl LrSchedule {
    /// Refuses a peak or floor that is negative, not finite, or the wrong way round, and a warmup longer than the run.
    pub fn validate(&self) -> Result<()> {
        if !(self.lr.is_finite() && self.lr >= 0.0) {
            return Err(Error::argument(format!(
                "the learning rate is {}; it must be finite and at least 0",
                self.lr
            )));
        }
        if !(self.min_lr >= 0.0 && self.min_lr <= self.lr) {
            return Err(Error::argument(format!(
                "the final learning rate (min-lr) is {}; it must be between 0 and the peak learning rate, {}",
                self.min_lr, self.lr
            )));
        }
        if self.warmup > self.steps {
            return Err(Error::argument(format!(
                "the warmup of {} steps is longer than the run of {}",
                self.warmup, self.steps
            )));
        }
        Ok(())
    }

    /// The rate of update `k`, counted from 0.
    pub fn at(&self, k: u64) -> f64 {
        let LrSchedule { lr, min_lr, warmup, steps, .. } = *self;
        if k < warmup {
            return lr * (k + 1) as f64 / warmup as f64;
        }
        if k >= steps {
            return if self.shape == LrShape::Constant { lr } else { min_lr };
        }
        let progress = (k - warmup) as f64 / (steps - warmup) as f64;
        match self.shape {
            LrShape::Constant => lr,
            LrShape::Linear => lr - (lr - min_lr) * progress,
            LrShape::Cosine => min_lr + (lr - min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            LrShape::Wsd => {
                let decay = steps.div_ceil(5).min(steps - warmup);
                let start = steps - decay;
                if k < start {
                    lr
                } else {
                    min_lr + (lr - min_lr) * (1.0 - ((k - start) as f64 / decay as f64).sqrt())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(shape: LrShape) -> LrSchedule {
        LrSchedule { shape, lr: 1.0, min_lr: 0.1, warmup: 4, steps: 24 }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn warmup_is_a_straight_line_to_the_peak() {
        for shape in [LrShape::Constant, LrShape::Linear, LrShape::Cosine, LrShape::Wsd] {
            for (k, expected) in [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0)] {
                close(rate(shape).at(k), expected);
            }
        }
    }

    #[test]
    fn shapes_fall_as_they_say() {
        close(rate(LrShape::Constant).at(23), 1.0);
        close(rate(LrShape::Linear).at(14), 0.55);
        close(rate(LrShape::Linear).at(23), 1.0 - 0.9 * 19.0 / 20.0);
        close(rate(LrShape::Cosine).at(14), 0.55);
        close(rate(LrShape::Cosine).at(9), 0.1 + 0.9 * (1.0 + std::f64::consts::FRAC_1_SQRT_2) / 2.0);
        // 24 updates decay over the last ⌈24/5⌉ = 5: updates 19 … 23.
        close(rate(LrShape::Wsd).at(18), 1.0);
        close(rate(LrShape::Wsd).at(19), 1.0);
        close(rate(LrShape::Wsd).at(20), 0.1 + 0.9 * (1.0 - 0.2_f64.sqrt()));
        close(rate(LrShape::Wsd).at(23), 0.1 + 0.9 * (1.0 - 0.8_f64.sqrt()));
        for shape in [LrShape::Linear, LrShape::Cosine, LrShape::Wsd] {
            close(rate(shape).at(24), 0.1);
            let rates: Vec<f64> = (4..25).map(|k| rate(shape).at(k)).collect();
            assert!(rates.is_sorted_by(|a, b| a >= b), "{shape:?} rises: {rates:?}");
        }
    }

    #[test]
    fn a_run_may_be_all_warmup_or_none() {
        let all = LrSchedule { warmup: 3, steps: 3, ..rate(LrShape::Wsd) };
        all.validate().unwrap();
        close(all.at(2), 1.0);
        let none = LrSchedule { warmup: 0, steps: 1, ..rate(LrShape::Cosine) };
        close(none.at(0), 1.0);
    }

    #[test]
    fn impossible_rates_are_refused() {
        for bad in [
            LrSchedule { lr: f64::NAN, ..rate(LrShape::Linear) },
            LrSchedule { lr: -1.0, ..rate(LrShape::Linear) },
            LrSchedule { min_lr: 2.0, ..rate(LrShape::Linear) },
            LrSchedule { min_lr: f64::NAN, ..rate(LrShape::Linear) },
            LrSchedule { warmup: 25, ..rate(LrShape::Linear) },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
