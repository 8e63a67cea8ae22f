//! RoPE frequencies (Su et al. 2021), computed like transformers: in f32, step by step.

use crate::base::{Error, Result, phrase};

/// RoPE scaling for sequences longer than those of pre-training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    #[default]
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: frequencies with a wavelength over `original_positions / low` are divided by
    /// `factor`, those with a wavelength under `original_positions / high` are unchanged, and
    /// those between are interpolated.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// `low_freq_factor`, smaller than `high`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original_positions: usize,
    },
}

impl RopeScaling {
    /// Refuses invalid values (`InvalidArgument`), naming them.
    pub fn validate(&self) -> Result<()> {
        let key = |config: &str, rust: &str| {
            phrase(format!("rope_scaling.{config}"), format!("rope_{config}"), format!("rope_scaling.{rust}"))
        };
        let factor_ok = |factor: f64| factor.is_finite() && factor >= 1.0;
        match *self {
            RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } if !factor_ok(factor) => Err(
                Error::argument(format!("{} is {factor}; it must be finite, ≥ 1", key("factor", "factor"))),
            ),
            RopeScaling::Llama3 { low, high, .. }
                if !(low.is_finite() && high.is_finite() && 0.0 < low && low < high) =>
            {
                Err(Error::argument(format!(
                    "{} is {low} and {} is {high}; they must be finite, > 0, and the first must be smaller",
                    key("low_freq_factor", "low"),
                    key("high_freq_factor", "high")
                )))
            }
            RopeScaling::Llama3 { original_positions: 0, .. } => {
                let name = phrase(
                    "rope_scaling.original_max_position_embeddings",
                    "rope_original_positions",
                    "rope_scaling.original_positions",
                );
                Err(Error::argument(format!("{name} is 0; it must be at least 1")))
            }
            _ => Ok(()),
        }
    }

    /// The rotation angles per position, `[D/2]`, for base `theta` and head dimension `d`.
    ///
    /// Every operation rounds to f32 where PyTorch's does. The power is computed in f64 and rounded
    /// to the nearest f32; PyTorch's may differ by one ulp.
    pub fn inv_freq(&self, theta: f64, d: usize) -> Vec<f32> {
        (0..d).step_by(2).map(|at| self.scale(plain(theta, at, d))).collect()
    }

    fn scale(&self, frequency: f32) -> f32 {
        match *self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low, high, original_positions } => {
                let positions = original_positions as f64;
                let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                if wavelength < (positions / high) as f32 {
                    return frequency;
                }
                let stretched = frequency / factor as f32;
                if wavelength > (positions / low) as f32 {
                    return stretched;
                }
                let smooth = (positions as f32 / wavelength - low as f32) / (high - low) as f32;
                (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
            }
        }
    }
}

/// theta^(−at/d).
fn plain(theta: f64, at: usize, d: usize) -> f32 {
    let exponent = at as f32 / d as f32;
    1.0 / theta.powf(f64::from(exponent)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From transformers 5.23 (`ROPE_INIT_FUNCTIONS`), D 16. Up to two ulp of difference, because
    /// its power may be off by one.
    #[test]
    fn frequencies_match_transformers() {
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 64 };
        for (scaling, theta, expected) in [
            (RopeScaling::None, 10_000.0, DEFAULT),
            (RopeScaling::Linear { factor: 2.5 }, 10_000.0, LINEAR),
            (llama3, 500.0, LLAMA3),
        ] {
            let found = scaling.inv_freq(theta, 16);
            for (found, expected) in found.iter().zip(expected) {
                let ulps = found.to_bits().abs_diff(expected.to_bits());
                assert!(ulps <= 2, "{scaling:?}: {found:e} is not {expected:e}");
            }
        }
    }

    const DEFAULT: [f32; 8] = [1.0, 0.31622776, 0.1, 0.03162278, 0.01, 0.003_162_278, 0.001, 0.000_316_227_8];
    const LINEAR: [f32; 8] =
        [0.4, 0.1264911, 0.04, 0.012649111, 0.0039999997, 0.0012649111, 0.00040000002, 0.00012649111];
    const LLAMA3: [f32; 8] =
        [1.0, 0.45986328, 0.09761663, 0.012156156, 0.00559017, 0.002570714, 0.001182177, 0.0005436398];

    #[test]
    fn an_invalid_scaling_is_refused_by_name() {
        let llama3 = |factor, low, high, original_positions| RopeScaling::Llama3 {
            factor,
            low,
            high,
            original_positions,
        };
        for (scaling, word) in [
            (RopeScaling::Linear { factor: 0.5 }, "rope_scaling.factor is 0.5"),
            (RopeScaling::Linear { factor: f64::NAN }, "rope_scaling.factor is NaN"),
            (llama3(0.0, 1.0, 4.0, 64), "rope_scaling.factor is 0"),
            (llama3(8.0, 4.0, 4.0, 64), "rope_scaling.low is 4"),
            (llama3(8.0, 0.0, 4.0, 64), "rope_scaling.low is 0"),
            (llama3(8.0, 1.0, 4.0, 0), "rope_scaling.original_positions is 0"),
        ] {
            let error = scaling.validate().unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
        assert!(llama3(8.0, 1.0, 4.0, 8192).validate().is_ok());
    }
}
