//! Learning-rate schedules.
//!
//! Updates (optimizer steps) are counted k = 0, 1, … N − 1; the first W are the warmup. With peak
//! `lr` and minimum `min`:
//!
//! | phase or shape | learning rate of update k |
//! |---|---|
//! | warmup, k < W | lr · (k + 1)/W: above 0 for the first update, `lr` for the W-th |
//! | after the warmup, p = (k − W)/(N − W) | by shape, below |
//! | `constant` | lr |
//! | `linear` | lr − (lr − min) · p |
//! | `cosine` | min + (lr − min) · (1 + cos πp)/2 |
//! | `wsd`, k < N − D | lr |
//! | `wsd`, q = (k − (N − D))/D | min + (lr − min) · (1 − √q) |
//!
//! D = min(⌈N/5⌉, N − W) is the number of updates in which `wsd` decays.
//! These are the conventions of llm.c and, except for the warmup's + 1, of transformers, whose
//! warmup is lr · k/W: its first update changes nothing, and the peak comes one update later. `min`
//! would be reached by update N, one after the last. The decay of `wsd` is "1 − sqrt" of Hägele et
//! al. 2024 (arXiv 2405.18392).

use crate::base::format::several;
use crate::base::{Error, Result, check_f32};

/// Decay of the learning rate after the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrShape {
    /// No decay.
    Constant,
    /// Linear decay.
    Linear,
    /// Decay along half a cosine.
    Cosine,
    /// Warmup-stable-decay: decay in the last fifth of the updates.
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
    /// Decay after the warmup.
    pub shape: LrShape,
    /// Peak learning rate.
    pub lr: f64,
    /// Minimum learning rate.
    pub min_lr: f64,
    /// W: number of warmup updates.
    pub warmup: u64,
    /// N: number of updates of the run.
    pub steps: u64,
}

impl LrSchedule {
    /// Checks that 0 ≤ `min_lr` ≤ `lr`, that both are finite, and that the warmup is not longer
    /// than the run.
    pub fn validate(&self) -> Result<()> {
        check_f32("the learning rate", self.lr, 0.0)?;
        if !(self.min_lr >= 0.0 && self.min_lr <= self.lr) {
            return Err(Error::argument(format!(
                "the final learning rate (min-lr) is {}; it must be between 0 and the peak learning rate, {}",
                self.min_lr, self.lr
            )));
        }
        if self.warmup > self.steps {
            return Err(Error::argument(format!(
                "the warmup of {} is longer than the run of {}; shorten it",
                several(self.warmup as usize, "step"),
                several(self.steps as usize, "step")
            )));
        }
        Ok(())
    }

    /// Returns the learning rate of update `k`, counted from 0.
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

    fn schedule(shape: LrShape) -> LrSchedule {
        LrSchedule { shape, lr: 1.0, min_lr: 0.1, warmup: 4, steps: 24 }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn warmup_is_a_straight_line_to_the_peak() {
        for shape in [LrShape::Constant, LrShape::Linear, LrShape::Cosine, LrShape::Wsd] {
            for (k, expected) in [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0)] {
                close(schedule(shape).at(k), expected);
            }
        }
    }

    #[test]
    fn shapes_follow_their_formulas() {
        close(schedule(LrShape::Constant).at(23), 1.0);
        close(schedule(LrShape::Linear).at(14), 0.55);
        close(schedule(LrShape::Linear).at(23), 1.0 - 0.9 * 19.0 / 20.0);
        close(schedule(LrShape::Cosine).at(14), 0.55);
        close(schedule(LrShape::Cosine).at(9), 0.1 + 0.9 * (1.0 + std::f64::consts::FRAC_1_SQRT_2) / 2.0);
        // 24 updates decay over the last ⌈24/5⌉ = 5: updates 19 … 23.
        close(schedule(LrShape::Wsd).at(18), 1.0);
        close(schedule(LrShape::Wsd).at(19), 1.0);
        close(schedule(LrShape::Wsd).at(20), 0.1 + 0.9 * (1.0 - 0.2_f64.sqrt()));
        close(schedule(LrShape::Wsd).at(23), 0.1 + 0.9 * (1.0 - 0.8_f64.sqrt()));
        for shape in [LrShape::Linear, LrShape::Cosine, LrShape::Wsd] {
            close(schedule(shape).at(24), 0.1);
            let lrs: Vec<f64> = (4..25).map(|k| schedule(shape).at(k)).collect();
            assert!(lrs.is_sorted_by(|a, b| a >= b), "{shape:?} rises: {lrs:?}");
        }
    }

    #[test]
    fn a_run_may_consist_of_warmup_or_have_none() {
        let all = LrSchedule { warmup: 3, steps: 3, ..schedule(LrShape::Wsd) };
        all.validate().unwrap();
        close(all.at(2), 1.0);
        let none = LrSchedule { warmup: 0, steps: 1, ..schedule(LrShape::Cosine) };
        close(none.at(0), 1.0);
    }

    #[test]
    fn invalid_schedules_are_refused() {
        for bad in [
            LrSchedule { lr: f64::NAN, ..schedule(LrShape::Linear) },
            LrSchedule { lr: -1.0, ..schedule(LrShape::Linear) },
            LrSchedule { min_lr: 2.0, ..schedule(LrShape::Linear) },
            LrSchedule { min_lr: f64::NAN, ..schedule(LrShape::Linear) },
            LrSchedule { warmup: 25, ..schedule(LrShape::Linear) },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
