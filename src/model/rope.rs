//! Rotary positions (RoPE; Su et al. 2021): which layers and elements rotate, and the frequencies,
//! computed like transformers: in f32, step by step.

use crate::base::format::several;
use crate::base::{Error, Result, phrase};
use crate::ops::{Heads, QueryScaling, Rotation};

/// The rotary positions of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Scaling for long sequences.
    pub scaling: RopeScaling,
    /// Base of the frequencies of layers with a window, which are not scaled; `None` if these layers
    /// rotate like the others.
    pub windowed_theta: Option<f64>,
    /// The first elements of a head that rotate (partial RoPE); `None` means all.
    pub rotated: Option<usize>,
    /// True if the pairs are (2i, 2i + 1), false if they are (i, i + R/2), R rotating elements.
    pub interleaved: bool,
    /// True for each layer without rotary positions (NoPE); `None` if all layers have them.
    pub without: Option<Vec<bool>>,
    /// Makes scores grow with the query's position; `None` in most families.
    pub queries: Option<QueryScaling>,
}

impl Default for Rope {
    /// Base 10000, all elements of all layers, in halves, without scaling.
    fn default() -> Rope {
        Rope {
            theta: 10_000.0,
            scaling: RopeScaling::None,
            windowed_theta: None,
            rotated: None,
            interleaved: false,
            without: None,
            queries: None,
        }
    }
}

impl Rope {
    /// Refuses invalid values (`InvalidArgument`), naming them, for heads of `d` and `l` layers.
    pub fn validate(&self, d: usize, l: usize) -> Result<()> {
        let windowed = phrase("rope_local_base_freq", "sliding_rope_theta", "rope.windowed_theta");
        let bases = [("rope_theta", self.theta), (&windowed, self.windowed_theta.unwrap_or(1.0))];
        if let Some((name, theta)) = bases.iter().find(|(_, theta)| !(theta.is_finite() && *theta > 0.0)) {
            return Err(Error::argument(format!("{name} is {theta}; it must be finite, > 0")));
        }
        if let Some(r) = self.rotated.filter(|&r| r % 2 != 0 || !(2..=d).contains(&r)) {
            return Err(Error::argument(format!(
                "{r} elements of a head rotate; it must be an even number from 2 to head_dim, {d}"
            )));
        }
        if matches!(self.scaling, RopeScaling::Yarn { .. }) && self.theta <= 1.0 {
            return Err(Error::argument(format!(
                "rope_theta is {}; with YaRN it must be greater than 1",
                self.theta
            )));
        }
        self.scaling.validate(self.rotating(d) / 2)?;
        let tables = [1, usize::MAX].map(|t| self.tables(d, t));
        if tables.iter().flatten().flatten().any(|frequency| !frequency.is_finite()) {
            return Err(Error::argument(format!(
                "rope_theta is {}, which makes rotary frequencies that are not finite",
                self.theta
            )));
        }
        match &self.without {
            Some(layers) if layers.len() != l => Err(Error::argument(format!(
                "layers without rotary positions are given for {}, but num_hidden_layers is {l}",
                several(layers.len(), "layer")
            ))),
            _ => self.queries.map_or(Ok(()), |queries| self.validate_queries(queries, d)),
        }
    }

    fn validate_queries(&self, QueryScaling { beta, positions }: QueryScaling, d: usize) -> Result<()> {
        let name = phrase("llama_4_scaling_beta", "query_scaling_beta", "rope.queries.beta");
        if !beta.is_finite() {
            return Err(Error::argument(format!("{name} is {beta}; it must be finite")));
        }
        if positions == 0 {
            let name = phrase(
                "original_max_position_embeddings",
                "query_scaling_positions",
                "rope.queries.positions",
            );
            return Err(Error::argument(format!("{name} is 0; it must be at least 1")));
        }
        if self.rotating(d) != d {
            return Err(Error::argument(format!("{name} is {beta}, but only a part of each head rotates")));
        }
        Ok(())
    }

    /// R: elements of a head of `d` that rotate.
    pub fn rotating(&self, d: usize) -> usize {
        self.rotated.unwrap_or(d)
    }

    /// True if decoder layer `layer` has rotary positions.
    pub fn rotates(&self, layer: usize) -> bool {
        self.without.as_ref().is_none_or(|layers| !layers[layer])
    }

    /// The rotation of layers with or without a window.
    pub fn rotation(&self, heads: &Heads, has_window: bool) -> Rotation {
        let is_scaled = !has_window || self.windowed_theta.is_none();
        Rotation {
            r: self.rotating(heads.d),
            interleaved: self.interleaved,
            factor: if is_scaled { self.scaling.attention_factor() } else { 1.0 },
            queries: self.queries,
        }
    }

    /// The frequencies, `[R/2]`, of layers without a window, and, if they differ, of those with one;
    /// for heads of `d` and sequences of `t` tokens.
    pub fn tables(&self, d: usize, t: usize) -> Vec<Vec<f32>> {
        let mut tables = vec![self.scaling.inv_freq(self.theta, self.rotating(d), t)];
        tables
            .extend(self.windowed_theta.map(|theta| RopeScaling::None.inv_freq(theta, self.rotating(d), t)));
        tables
    }

    /// Number of [`tables`](Rope::tables).
    pub fn table_count(&self) -> usize {
        1 + usize::from(self.windowed_theta.is_some())
    }
}

/// RoPE scaling for sequences longer than those of pre-training.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// YaRN (Peng et al. 2023): frequencies of pairs that turn less than `slow` times in
    /// `original_positions` are divided by `factor`, those of pairs that turn more than `fast` times
    /// are unchanged, and those between are interpolated by the number of the pair.
    Yarn {
        /// At least 1.
        factor: f64,
        /// `beta_fast`.
        fast: f64,
        /// `beta_slow`.
        slow: f64,
        /// `original_max_position_embeddings`.
        original_positions: usize,
        /// The factor of rotated queries and keys.
        attention_factor: f64,
        /// True if the range of interpolated pairs is rounded outwards to whole pairs.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024): frequency i is divided by `short[i]`, or by `long[i]` if the
    /// sequence length that a trainer is opened with is above `original_positions`.
    Long {
        /// One per pair, > 0.
        short: Vec<f64>,
        /// One per pair, > 0.
        long: Vec<f64>,
        /// `original_max_position_embeddings`.
        original_positions: usize,
        /// The factor of rotated queries and keys.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// Refuses invalid values (`InvalidArgument`), naming them, for `pairs` rotating pairs.
    pub fn validate(&self, pairs: usize) -> Result<()> {
        let key = |config: &str, rust: &str| {
            phrase(format!("rope_scaling.{config}"), format!("rope_{config}"), format!("rope_scaling.{rust}"))
        };
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        match self {
            RopeScaling::Linear { factor }
            | RopeScaling::Llama3 { factor, .. }
            | RopeScaling::Yarn { factor, .. }
                if !(factor.is_finite() && *factor >= 1.0) =>
            {
                Err(Error::argument(format!(
                    "{} is {factor}; it must be finite, ≥ 1",
                    key("factor", "factor")
                )))
            }
            RopeScaling::Llama3 { low, high, .. }
                if !(is_positive(*low) && high.is_finite() && low < high) =>
            {
                Err(Error::argument(format!(
                    "{} is {low} and {} is {high}; they must be finite, > 0, and the first must be smaller",
                    key("low_freq_factor", "low"),
                    key("high_freq_factor", "high")
                )))
            }
            RopeScaling::Yarn { fast, slow, .. }
                if !(is_positive(*slow) && fast.is_finite() && slow <= fast) =>
            {
                Err(Error::argument(format!(
                    "{} is {slow} and {} is {fast}; they must be finite, > 0, and the first not larger",
                    key("beta_slow", "slow"),
                    key("beta_fast", "fast")
                )))
            }
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::Long { attention_factor, .. }
                if !is_positive(f64::from(*attention_factor as f32)) =>
            {
                Err(Error::argument(format!(
                    "{} is {attention_factor}; it must be finite, > 0",
                    key("attention_factor", "attention_factor")
                )))
            }
            RopeScaling::Long { short, long, .. } => {
                for (name, factors) in [("short", short), ("long", long)] {
                    let key = key(&format!("{name}_factor"), name);
                    if factors.len() != pairs {
                        return Err(Error::argument(format!(
                            "{key} has {}; it must have one for each of the {pairs} rotating pairs of a head",
                            several(factors.len(), "number")
                        )));
                    }
                    if let Some(factor) = factors.iter().find(|factor| !is_positive(**factor)) {
                        return Err(Error::argument(format!(
                            "{key} has {factor}; its numbers must be finite, > 0"
                        )));
                    }
                }
                self.refuse_no_positions()
            }
            _ => self.refuse_no_positions(),
        }
    }

    fn refuse_no_positions(&self) -> Result<()> {
        match self {
            RopeScaling::Llama3 { original_positions: 0, .. }
            | RopeScaling::Yarn { original_positions: 0, .. }
            | RopeScaling::Long { original_positions: 0, .. } => {
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

    /// The factor of rotated queries and keys.
    pub fn attention_factor(&self) -> f32 {
        match self {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::Long { attention_factor, .. } => {
                *attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// The rotation angles per position, `[R/2]`, for base `theta`, `r` rotating elements and
    /// sequences of `t` tokens.
    ///
    /// Every operation rounds to f32 where PyTorch's does. The power is computed in f64 and rounded
    /// to the nearest f32; PyTorch's may differ by one ulp.
    pub fn inv_freq(&self, theta: f64, r: usize, t: usize) -> Vec<f32> {
        let powers = (0..r).step_by(2).map(|at| theta.powf(f64::from(at as f32 / r as f32)) as f32);
        match self {
            RopeScaling::None => powers.map(|power| 1.0 / power).collect(),
            RopeScaling::Linear { factor } => powers.map(|power| 1.0 / power / *factor as f32).collect(),
            RopeScaling::Llama3 { factor, low, high, original_positions } => powers
                .map(|power| llama3(1.0 / power, *factor, [*low, *high], *original_positions as f64))
                .collect(),
            RopeScaling::Yarn { factor, fast, slow, original_positions, truncate, .. } => {
                let pair_that_turns = |times: f64| {
                    let angle = times * 2.0 * std::f64::consts::PI;
                    r as f64 * (*original_positions as f64 / angle).ln() / (2.0 * theta.ln())
                };
                let (low, high) = (pair_that_turns(*fast), pair_that_turns(*slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min((r - 1) as f64));
                // An empty range is a step behind its pair.
                let high = if low == high { high + 0.001 } else { high };
                let blend = |(pair, power): (usize, f32)| {
                    let scaled = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let unscaled = 1.0 - scaled;
                    1.0 / (*factor as f32 * power) * (1.0 - unscaled) + 1.0 / power * unscaled
                };
                powers.enumerate().map(blend).collect()
            }
            RopeScaling::Long { short, long, original_positions, .. } => {
                let factors = if t > *original_positions { long } else { short };
                powers.zip(factors).map(|(power, factor)| 1.0 / (*factor as f32 * power)).collect()
            }
        }
    }
}

fn llama3(frequency: f32, factor: f64, [low, high]: [f64; 2], positions: f64) -> f32 {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn yarn([factor, fast, slow]: [f64; 3], original_positions: usize, truncate: bool) -> RopeScaling {
        RopeScaling::Yarn { factor, fast, slow, original_positions, attention_factor: 1.25, truncate }
    }

    fn long(original_positions: usize) -> RopeScaling {
        let short = vec![1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0];
        let long = vec![1.5, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0];
        RopeScaling::Long { short, long, original_positions, attention_factor: 1.5 }
    }

    fn long_of(short: Vec<f64>, long: Vec<f64>) -> RopeScaling {
        RopeScaling::Long { short, long, original_positions: 8, attention_factor: 1.5 }
    }

    /// From transformers 5.24 (`ROPE_INIT_FUNCTIONS`), R 16, sequences of 8 tokens. Up to two ulp of
    /// difference, because its power may be off by one; of YaRN's blends up to three.
    #[test]
    fn frequencies_match_transformers() {
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 64 };
        for (scaling, theta, expected, ulps_max) in [
            (RopeScaling::None, 10_000.0, DEFAULT, 2),
            (RopeScaling::Linear { factor: 2.5 }, 10_000.0, LINEAR, 2),
            (llama3, 500.0, LLAMA3, 2),
            (yarn([8.0, 32.0, 1.0], 512, true), 10_000.0, YARN, 3),
            (yarn([8.0, 32.0, 1.0], 512, false), 10_000.0, YARN_BETWEEN_PAIRS, 3),
            (yarn([8.0, 4.0, 4.0], 512, false), 10_000.0, YARN_EMPTY_RANGE, 3),
            (yarn([8.0, 32.0, 1.0], 4, true), 500_000.0, YARN_EMPTY_RANGE_AT_0, 3),
            (yarn([8.0, 32.0, 1.0], 1 << 40, true), 500_000.0, YARN_UNSCALED, 3),
            (long(8), 10_000.0, LONG_SHORT, 2),
            (long(7), 10_000.0, LONG_LONG, 2),
        ] {
            let found = scaling.inv_freq(theta, 16, 8);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let ulps = found.to_bits().abs_diff(expected.to_bits());
                assert!(ulps <= ulps_max, "{scaling:?}: {found:e} is not {expected:e}");
            }
        }
    }

    const DEFAULT: [f32; 8] = [1.0, 0.31622776, 0.1, 0.03162278, 0.01, 0.003_162_278, 0.001, 0.000_316_227_8];
    const LINEAR: [f32; 8] =
        [0.4, 0.1264911, 0.04, 0.012649111, 0.0039999997, 0.0012649111, 0.00040000002, 0.00012649111];
    const LLAMA3: [f32; 8] =
        [1.0, 0.45986328, 0.09761663, 0.012156156, 0.00559017, 0.002570714, 0.001182177, 0.0005436398];
    const YARN: [f32; 8] =
        [1.0, 0.24705294, 0.056250002, 0.01087033, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05];
    const YARN_BETWEEN_PAIRS: [f32; 8] =
        [1.0, 0.29893628, 0.06546508, 0.011510123, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05];
    const YARN_EMPTY_RANGE: [f32; 8] =
        [1.0, 0.31622776, 0.1, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05];
    const YARN_EMPTY_RANGE_AT_0: [f32; 8] = [
        1.0,
        0.024240345,
        0.004700754,
        0.00091158313,
        0.00017677668,
        3.4281024e-05,
        6.6478697e-06,
        1.2891732e-06,
    ];
    const YARN_UNSCALED: [f32; 8] =
        [1.0, 0.19392276, 0.03760603, 0.007292665, 0.0014142134, 0.0002742482, 5.3182957e-05, 1.0313385e-05];
    const LONG_SHORT: [f32; 8] =
        [1.0, 0.3011693, 0.09090909, 0.026352312, 0.006666667, 0.0015811389, 0.00033333333, 7.905695e-05];
    const LONG_LONG: [f32; 8] = [
        0.6666667,
        0.15811388,
        0.033333335,
        0.0063245557,
        0.0011111111,
        0.00018601635,
        3.030303e-05,
        4.8650427e-06,
    ];

    #[test]
    fn layers_with_a_window_have_their_own_unscaled_frequencies() {
        let heads = Heads { h: 2, g: 1, d: 32 };
        let mut rope = Rope { scaling: long(8), rotated: Some(16), interleaved: true, ..Rope::default() };
        assert_eq!(rope.tables(32, 8), [rope.scaling.inv_freq(10_000.0, 16, 8)]);
        let scaled = Rotation { r: 16, interleaved: true, factor: 1.5, queries: None };
        assert_eq!([false, true].map(|has_window| rope.rotation(&heads, has_window)), [scaled; 2]);
        rope.windowed_theta = Some(500.0);
        let unscaled = RopeScaling::None.inv_freq(500.0, 16, 8);
        assert_eq!(rope.tables(32, 8), [rope.scaling.inv_freq(10_000.0, 16, 8), unscaled]);
        assert_eq!((rope.rotation(&heads, false), rope.rotation(&heads, true).factor), (scaled, 1.0));
        assert_eq!(rope.table_count(), 2);
    }

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
            (yarn([0.5, 32.0, 1.0], 64, true), "rope_scaling.factor is 0.5"),
            (yarn([8.0, 1.0, 2.0], 64, true), "rope_scaling.slow is 2 and rope_scaling.fast is 1"),
            (yarn([8.0, 1.0, 0.0], 64, true), "rope_scaling.slow is 0"),
            (yarn([8.0, 32.0, 1.0], 0, true), "rope_scaling.original_positions is 0"),
            (
                RopeScaling::Yarn {
                    factor: 8.0,
                    fast: 32.0,
                    slow: 1.0,
                    original_positions: 64,
                    attention_factor: 0.0,
                    truncate: true,
                },
                "rope_scaling.attention_factor is 0",
            ),
            (long(0), "rope_scaling.original_positions is 0"),
            (long_of(vec![1.0; 7], vec![1.0; 8]), "rope_scaling.short has 7 numbers"),
            (long_of(vec![1.0; 8], vec![1.0; 9]), "rope_scaling.long has 9 numbers"),
            (long_of(vec![0.0; 8], vec![1.0; 8]), "rope_scaling.short has 0"),
            (long_of(vec![1.0; 8], vec![f64::INFINITY; 8]), "rope_scaling.long has inf"),
        ] {
            let error = scaling.validate(8).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
        for valid in [llama3(8.0, 1.0, 4.0, 8192), yarn([1.0, 1.0, 1.0], 1, false), long(1)] {
            assert!(valid.validate(8).is_ok());
        }
    }

    #[test]
    fn invalid_rotary_positions_are_refused_by_name() {
        let queries = |beta, positions| Some(QueryScaling { beta, positions });
        let rope = Rope::default;
        for (rope, word) in [
            (Rope { theta: 0.0, ..rope() }, "rope_theta is 0"),
            (Rope { windowed_theta: Some(f64::NAN), ..rope() }, "rope.windowed_theta is NaN"),
            (Rope { theta: 1.0, scaling: yarn([8.0, 32.0, 1.0], 64, true), ..rope() }, "rope_theta is 1"),
            (Rope { rotated: Some(3), ..rope() }, "3 elements of a head rotate"),
            (Rope { rotated: Some(0), ..rope() }, "0 elements of a head rotate"),
            (Rope { rotated: Some(18), ..rope() }, "18 elements of a head rotate"),
            (Rope { rotated: Some(8), scaling: long(8), ..rope() }, "each of the 4 rotating pairs"),
            (Rope { without: Some(vec![true]), ..rope() }, "for 1 layer, but num_hidden_layers is 2"),
            (Rope { queries: queries(f32::NAN, 8), ..rope() }, "rope.queries.beta is NaN"),
            (Rope { queries: queries(0.1, 0), ..rope() }, "rope.queries.positions is 0"),
            (
                Rope { queries: queries(0.1, 8), rotated: Some(8), ..rope() },
                "only a part of each head rotates",
            ),
        ] {
            let error = rope.validate(16, 2).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
        let all = Rope {
            windowed_theta: Some(1.0),
            rotated: Some(16),
            without: Some(vec![false; 2]),
            queries: queries(-0.5, 1),
            scaling: long(8),
            ..rope()
        };
        assert!(all.validate(16, 2).is_ok());
    }
}
