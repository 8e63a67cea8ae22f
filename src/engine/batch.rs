//! Micro-batches as callers pass them, and their checks.

use crate::base::{Error, IGNORED_TARGET, Result, Shape, Status};

/// One micro-batch: B sequences of T tokens, row-major `[B, T]`.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, 0 … V − 1.
    pub tokens: &'a [i32],
    /// The token id to predict at each position, or −100 to ignore the position (loss mask).
    pub targets: &'a [i32],
    /// The weight of each target, finite and ≥ 0. Default: 1.
    pub weights: Option<&'a [f32]>,
    /// For packed sequences: the position in its sequence at which each token's document starts.
    /// Default: one document per sequence.
    pub starts: Option<&'a [i32]>,
}

/// Contribution of a batch to the loss's denominator.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchSums {
    /// Σ weights over unmasked targets.
    pub weight: f64,
    /// Unmasked targets.
    pub targets: u64,
}

impl BatchSums {
    /// Refuses a step whose weights sum to 0.
    pub fn require_weight(self) -> Result<()> {
        self.require(self.weight > 0.0, "is ignored (-100) or has weight 0")
    }

    /// Refuses a step in which every target is ignored.
    pub fn require_target(self) -> Result<()> {
        self.require(self.targets > 0, "is ignored (-100)")
    }

    fn require(self, has_target: bool, otherwise: &str) -> Result<()> {
        if has_target {
            return Ok(());
        }
        let message = format!("every target of the step {otherwise}: there is nothing to learn from");
        Err(Error::new(Status::NoTarget, message))
    }
}

impl Batch<'_> {
    /// Checks every value against shape and vocabulary.
    ///
    /// Errors name field, position and value.
    #[doc(hidden)]
    pub fn check(&self, shape: Shape, vocabulary: usize) -> Result<BatchSums> {
        let n = shape.n();
        let lengths = [
            ("tokens", self.tokens.len()),
            ("targets", self.targets.len()),
            ("weights", self.weights.map_or(n, <[f32]>::len)),
            ("starts", self.starts.map_or(n, <[i32]>::len)),
        ];
        for (field, len) in lengths {
            if len != n {
                return Err(Error::argument(format!(
                    "{field} has {len} values; a micro-batch of {} × {} tokens has {n}",
                    shape.b, shape.t
                )));
            }
        }
        let known = |id: i32| (0..vocabulary as i64).contains(&i64::from(id));
        let at = |n: usize| format!("sequence {}, position {}", n / shape.t, n % shape.t);
        if let Some(n) = self.tokens.iter().position(|&id| !known(id)) {
            return Err(Error::argument(format!(
                "token {} ({}) is not in the vocabulary of {vocabulary}",
                self.tokens[n],
                at(n)
            )));
        }
        if let Some(n) = self.targets.iter().position(|&id| id != IGNORED_TARGET && !known(id)) {
            return Err(Error::argument(format!(
                "target {} ({}) is neither in the vocabulary of {vocabulary} nor {IGNORED_TARGET} (ignored)",
                self.targets[n],
                at(n)
            )));
        }
        if let Some(weights) = self.weights
            && let Some(n) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0))
        {
            return Err(Error::argument(format!("weight {} ({}) must be finite and ≥ 0", weights[n], at(n))));
        }
        if let Some(starts) = self.starts {
            for (n, &start) in starts.iter().enumerate() {
                let t = n % shape.t;
                let continues = t > 0 && start == starts[n - 1];
                if start != t as i32 && !continues {
                    return Err(Error::argument(format!(
                        "document start {start} ({}) must be this position or the start of the position before",
                        at(n)
                    )));
                }
            }
        }
        let mut sums = BatchSums::default();
        for (n, _) in self.targets.iter().enumerate().filter(|(_, target)| **target != IGNORED_TARGET) {
            sums.weight += self.weights.map_or(1.0, |weights| f64::from(weights[n]));
            sums.targets += 1;
        }
        Ok(sums)
    }
}
