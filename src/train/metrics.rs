//! Metrics of a run: the record of a step, useful FLOPs, and the estimate of the remaining time.

use std::collections::VecDeque;

use serde::{Serialize, Serializer};

use crate::device::Lane;
use crate::model::{ModelConfig, matmul_parameters};

/// Useful FLOPs of a training step: recomputation and padding are not counted.
///
/// ```text
/// FLOP = 6 · P_matmul · tokens + 12 · H · D · (L · pairs − L_window · outside)
/// ```
///
/// `P_matmul` is the number of weights in matmuls: all weights except norms and the embedding; the
/// head counts even if it is tied to the embedding. Each does one multiplication and one addition
/// per token forward, and twice that backward. `pairs` is the number of (query, key) pairs of
/// causal attention: N·(T + 1)/2 for N tokens in sequences of T that are one document each. In
/// every head each pair costs 2·D multiply-adds forward and 4·D backward. `outside` is the number
/// of these pairs outside the sliding window; L_window layers skip them. (Kaplan et al. 2020, table
/// 1; the causal half as in PaLM, appendix B.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsefulWork {
    per_token: f64,
    per_pair: f64,
    per_pair_outside: f64,
    /// Size of the sliding window; 0 if there is none.
    window: usize,
}

impl UsefulWork {
    /// Prepares the formula for a model.
    pub fn new(model: &ModelConfig) -> UsefulWork {
        let dims = &model.dims;
        let (window, windowed) = model
            .window
            .as_ref()
            .map_or((0, 0), |window| (window.size, window.layers.iter().filter(|&&holds| holds).count()));
        let per_pair = |layers: usize| 12.0 * (layers * dims.attention_width()) as f64;
        UsefulWork {
            per_token: 6.0 * matmul_parameters(model),
            per_pair: per_pair(dims.l),
            per_pair_outside: per_pair(windowed),
            window,
        }
    }

    /// Returns the FLOPs of training on `tokens` tokens with `attention_pairs` (query, key) pairs,
    /// `outside` of them outside the window.
    pub fn flop(&self, tokens: u64, attention_pairs: u64, outside: u64) -> f64 {
        self.per_token * tokens as f64 + self.per_pair * attention_pairs as f64
            - self.per_pair_outside * outside as f64
    }

    /// Counts the causal pairs outside the model's window, in sequences of `t` tokens. `starts` has
    /// the index in its sequence at which each token's document starts; `None` if every sequence is
    /// one document.
    pub fn pairs_outside(&self, tokens: usize, t: usize, starts: Option<&[i32]>) -> u64 {
        if self.window == 0 {
            return 0;
        }
        let causal = |n: usize| n % t + 1 - starts.map_or(0, |starts| starts[n] as usize);
        (0..tokens).map(|n| causal(n).saturating_sub(self.window) as u64).sum()
    }
}

/// One record of the log, written after every step. The fields are the log's JSON keys, after `run`,
/// the run's id.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Number of completed optimizer steps, this one included.
    pub step: u64,
    /// Mean negative log-likelihood over the step's targets, in nats.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Number of tokens of the step, without padding.
    pub tokens: u64,
    /// Epochs of the data completed after the step, with a fractional part.
    pub epoch: f64,
    /// Seconds from the end of the previous step to the end of this one, without validation.
    pub step_seconds: f64,
    /// Seconds, within `step_seconds`, that the step waited for its batch.
    pub data_seconds: f64,
    /// Throughput: `tokens / step_seconds`.
    pub tokens_per_second: f64,
    /// Useful TFLOP/s: [`UsefulWork::flop`] / `step_seconds` / 10¹².
    pub tflops: f64,
    /// Bytes of RAM resident in this process, [`resident_bytes`](crate::host::resident_bytes).
    pub rss_bytes: usize,
    /// Seconds a step takes as predicted by the search for a plan; absent without a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_step_seconds: Option<f64>,
    /// Lanes, indexed by [`Lane::at`]; in the log an object with the lanes' names as keys.
    #[serde(serialize_with = "by_name")]
    pub lanes: [LaneRecord; Lane::COUNT],
    /// Mean negative log-likelihood of the validation data after this step, in nats; absent if not
    /// evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// A lane in a [`StepRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LaneRecord {
    /// Seconds that the lane was busy with tasks of training steps and saves that ended since the
    /// previous record. Steps overlap: most of the AdamW time in a record belongs to the previous
    /// step, and that of the last step is in no record. Validation is not counted, but AdamW that
    /// runs during it is.
    pub busy_seconds: f64,
    /// Seconds the lane is busy in a step without a save, as predicted by the search for a plan;
    /// absent without a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_seconds: Option<f64>,
}

fn by_name<S: Serializer>(lanes: &[LaneRecord; Lane::COUNT], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(Lane::ALL.iter().map(|lane| (lane.name(), lanes[lane.at()])))
}

/// Estimates the remaining time from the median of the last 15 steps, so that a single slow step
/// has no effect.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: VecDeque<f64>,
}

impl Pace {
    const STEPS: usize = 15;

    /// Adds the time of a step.
    pub fn push(&mut self, step_seconds: f64) {
        if self.last.len() == Self::STEPS {
            self.last.pop_front();
        }
        self.last.push_back(step_seconds);
    }

    /// Returns the estimated seconds for `steps` more steps; 0 before the first.
    pub fn remaining(&self, steps: u64) -> f64 {
        let mut sorted: Vec<f64> = self.last.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0) * steps as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Dims;
    use crate::model::Window;

    /// LLaMA 7B: 6.607e9 weights in matmuls (6.738e9 in total, without embedding and norms).
    #[test]
    fn useful_work_is_six_p_and_causal_attention() {
        let dims = Dims { c: 4096, h: 32, g: 32, d: 128, f: 11008, v: 32000, l: 32 };
        let model = ModelConfig { positions_max: 4096, ..ModelConfig::llama(dims) };
        let work = UsefulWork::new(&model);
        assert_eq!(work.flop(1, 0, 0), 6.0 * 6_607_077_376.0);
        // One sequence of 2048: 2048·2049/2 pairs, per token close to 6·L·C·T.
        let pairs = 2048 * 2049 / 2;
        let per_token = work.flop(0, pairs, 0) / 2048.0;
        assert_eq!(per_token, 6.0 * 32.0 * 4096.0 * 2049.0);
    }

    /// A window of 3 in one of two layers.
    #[test]
    fn pairs_outside_a_window_are_not_useful_work() {
        let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
        let window = Window { size: 3, layers: vec![false, true] };
        let work = UsefulWork::new(&ModelConfig { window: Some(window), ..ModelConfig::llama(dims) });
        // The tokens of a sequence of 5 have 1, 2, 3, 4, 5 pairs, 1 + 2 of them outside. With
        // `starts` the second sequence is two documents, of 4 tokens and of 1.
        let starts = [0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(work.pairs_outside(10, 5, None), 2 * (1 + 2));
        assert_eq!(work.pairs_outside(10, 5, Some(&starts)), (1 + 2) + 1);
        assert_eq!(work.flop(0, 15, 3), 12.0 * 8.0 * (15.0 + 12.0));
    }

    #[test]
    fn the_remaining_time_follows_the_median_step() {
        let mut pace = Pace::default();
        assert_eq!(pace.remaining(5), 0.0);
        [9.0, 1.0, 1.0, 1.0].into_iter().for_each(|s| pace.push(s));
        assert_eq!(pace.remaining(5), 5.0);
        (0..15).for_each(|_| pace.push(2.0));
        assert_eq!(pace.remaining(5), 10.0);
    }
}
