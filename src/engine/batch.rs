//! Micro-batches as callers pass them, and their checks.

use crate::base::{Error, IGNORED_TARGET, Name, Result, Shape, Status, phrase};

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
    /// Checks every value against shape and vocabulary. `batch` is the text before the fields'
    /// names, e.g. `batches[1].`.
    ///
    /// Errors name field, index and value.
    #[doc(hidden)]
    pub fn check(&self, batch: &str, shape: Shape, vocabulary: usize) -> Result<BatchSums> {
        let n = shape.n();
        let lengths = [
            ("tokens", self.tokens.len()),
            ("targets", self.targets.len()),
            ("weights", self.weights.map_or(n, <[f32]>::len)),
            ("starts", self.starts.map_or(n, <[i32]>::len)),
        ];
        for (field, len) in lengths {
            if len != n {
                let found = format!("{field}.len()");
                return Err(Error::argument(format!(
                    "{batch}{} is {len}; it must be {} × {}, {} × {} = {n}",
                    phrase(&found, "rows", &found),
                    Name::Sequences,
                    Name::SequenceLength,
                    shape.b,
                    shape.t
                )));
            }
        }
        let at = |field: &str, n: usize| {
            format!("{batch}{field}[{n}] (sequence {}, position {})", n / shape.t, n % shape.t)
        };
        check_tokens(self.tokens, vocabulary, |n| at("tokens", n))?;
        let known = |id: i32| id == IGNORED_TARGET || in_vocabulary(id, vocabulary);
        if let Some(n) = self.targets.iter().position(|&id| !known(id)) {
            return Err(Error::argument(format!(
                "{} is {}; it must be 0 … {} (vocab_size - 1), or {IGNORED_TARGET} to be ignored",
                at("targets", n),
                self.targets[n],
                vocabulary - 1
            )));
        }
        if let Some(weights) = self.weights
            && let Some(n) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0))
        {
            let at = at("weights", n);
            return Err(Error::argument(format!("{at} is {}; it must be finite and ≥ 0", weights[n])));
        }
        if let Some(starts) = self.starts {
            for (n, &start) in starts.iter().enumerate() {
                let t = n % shape.t;
                let continues = t > 0 && start == starts[n - 1];
                if start != t as i32 && !continues {
                    let before =
                        if t > 0 { format!(" or {}, as before", starts[n - 1]) } else { String::new() };
                    return Err(Error::argument(format!(
                        "{} is {start}; it must be {t}{before}",
                        at("starts", n)
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

fn in_vocabulary(id: i32, vocabulary: usize) -> bool {
    (0..vocabulary as i64).contains(&i64::from(id))
}

/// Refuses tokens outside the vocabulary. `at` names one by its index.
pub fn check_tokens(tokens: &[i32], vocabulary: usize, at: impl Fn(usize) -> String) -> Result<()> {
    match tokens.iter().position(|&id| !in_vocabulary(id, vocabulary)) {
        None => Ok(()),
        Some(n) => Err(Error::argument(format!(
            "{} is {}; it must be 0 … {} (vocab_size - 1)",
            at(n),
            tokens[n],
            vocabulary - 1
        ))),
    }
}
