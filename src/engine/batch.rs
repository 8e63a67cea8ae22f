//! Micro-batches as callers pass them, and their checks.

use crate::base::{Error, IGNORED_TARGET, Result, Shape, Status, phrase, with_capacity};

/// One micro-batch: sequences of tokens, row-major `[b, t]`, with b ≤ B and t ≤ T of the trainer.
///
/// A smaller batch than `[B, T]` is padded on the right and below with ignored targets. That changes
/// no bit of its loss and gradients; it computes as much as a full one.
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
    /// Tokens per sequence of this batch, t. Default: the trainer's, T.
    pub sequence_length: Option<usize>,
}

/// A call that needs targets.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// A training step.
    Step,
    /// An evaluation.
    Evaluation,
}

/// Contribution of a batch to the loss's denominator and to the totals.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchSums {
    /// Tokens, without padding.
    pub tokens: u64,
    /// Σ weights over unmasked targets.
    pub weight: f64,
    /// Unmasked targets.
    pub targets: u64,
}

impl BatchSums {
    /// The factor of gradients that divides the loss by the sum of the weights.
    pub fn loss_scale(weight: f64) -> f32 {
        (1.0 / weight) as f32
    }

    /// Refuses weights that sum to 0 (`NoTarget`), or whose sum has no f32 inverse of full precision
    /// (`InvalidArgument`).
    pub fn require_weight(self, call: Call) -> Result<()> {
        self.require(self.weight > 0.0, call, "is ignored (-100) or has weight 0")?;
        if BatchSums::loss_scale(self.weight).is_normal() {
            return Ok(());
        }
        Err(Error::argument(format!(
            "the weights of the targets sum to {:e}; the sum divides the loss in f32, so it must be at least 3e-39 and \
             at most 8e37: scale all weights by one factor, which does not change the loss",
            self.weight
        )))
    }

    /// Refuses a step in which every target is ignored.
    pub fn require_target(self) -> Result<()> {
        self.require(self.targets > 0, Call::Step, "is ignored (-100)")
    }

    fn require(self, has_target: bool, call: Call, otherwise: &str) -> Result<()> {
        if has_target {
            return Ok(());
        }
        let (call, outcome) = match call {
            Call::Step => ("step", "learn from"),
            Call::Evaluation => ("evaluation", "evaluate"),
        };
        let message = format!("every target of the {call} {otherwise}: there is nothing to {outcome}");
        Err(Error::new(Status::NoTarget, message))
    }
}

/// The arrays of a batch that was padded.
#[derive(Debug)]
pub struct Padded {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    weights: Option<Vec<f32>>,
    starts: Option<Vec<i32>>,
}

impl Padded {
    /// The full batch.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            weights: self.weights.as_deref(),
            starts: self.starts.as_deref(),
            ..Batch::new(&self.tokens, &self.targets)
        }
    }
}

impl<'a> Batch<'a> {
    /// A batch of sequences of T tokens, one document each, whose targets have weight 1.
    pub const fn new(tokens: &'a [i32], targets: &'a [i32]) -> Batch<'a> {
        Batch { tokens, targets, weights: None, starts: None, sequence_length: None }
    }

    /// The batch's own shape; `most` is the trainer's. `batch` is the text before the fields' names,
    /// e.g. `batches[1].`.
    ///
    /// Errors: arrays of different lengths; a length that is not b · t (`InvalidArgument`).
    fn shape_named(&self, batch: &str, most: Shape) -> Result<Shape> {
        let rows = self.tokens.len();
        let lengths = [
            ("targets", self.targets.len()),
            ("weights", self.weights.map_or(rows, <[f32]>::len)),
            ("starts", self.starts.map_or(rows, <[i32]>::len)),
        ];
        for (field, len) in lengths {
            if len != rows {
                return Err(Error::argument(format!(
                    "{batch}{field}.len() is {len}; it must be {batch}tokens.len(), {rows}"
                )));
            }
        }
        let t = self.sequence_length.unwrap_or(most.t);
        if rows == 0 || t == 0 || t > most.t || !rows.is_multiple_of(t) || rows / t > most.b {
            return Err(Error::argument(format!(
                "{batch}{} is {rows} and {batch}sequence_length is {t}; a batch of this trainer has 1 … {} \
                 sequences of 1 … {} tokens, all of the same sequence_length",
                phrase("tokens.len()", "rows", "tokens.len()"),
                most.b,
                most.t
            )));
        }
        Ok(Shape { b: rows / t, t })
    }

    /// The shape of a checked batch.
    pub(super) fn shape(&self, most: Shape) -> Shape {
        self.shape_named("", most).expect("the batch was checked")
    }

    /// Pads a checked batch; `None` if it has this shape already. Padding repeats the first token,
    /// so that it adds no row of the embedding, and continues the last document of its sequence.
    pub(super) fn padded(&self, shape: Shape) -> Result<Option<Padded>> {
        let own = self.shape(shape);
        if own == shape {
            return Ok(None);
        }
        Ok(Some(Padded {
            tokens: pad(self.tokens, own, shape, self.tokens[0], |_| self.tokens[0])?,
            targets: pad(self.targets, own, shape, IGNORED_TARGET, |_| IGNORED_TARGET)?,
            weights: self.weights.map(|weights| pad(weights, own, shape, 0.0, |_| 0.0)).transpose()?,
            starts: self.starts.map(|starts| pad(starts, own, shape, 0, |last| last)).transpose()?,
        }))
    }

    /// Checks every value against the trainer's shape and vocabulary. `batch` is the text before the
    /// fields' names, e.g. `batches[1].`.
    ///
    /// Errors name field, index and value.
    #[doc(hidden)]
    pub fn check(&self, batch: &str, shape: Shape, vocabulary: usize) -> Result<BatchSums> {
        let shape = self.shape_named(batch, shape)?;
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
        let mut sums = BatchSums { tokens: self.tokens.len() as u64, ..BatchSums::default() };
        for (n, _) in self.targets.iter().enumerate().filter(|(_, target)| **target != IGNORED_TARGET) {
            sums.weight += self.weights.map_or(1.0, |weights| f64::from(weights[n]));
            sums.targets += 1;
        }
        Ok(sums)
    }
}

/// Pads an array from a shape to a larger one: `below` for additional sequences, and on the right of
/// each sequence `right` of its last value.
fn pad<T: Copy>(values: &[T], from: Shape, to: Shape, below: T, right: impl Fn(T) -> T) -> Result<Vec<T>> {
    let mut padded = with_capacity(to.n())?;
    for sequence in values.chunks_exact(from.t) {
        padded.extend_from_slice(sequence);
        padded.resize(padded.len() + to.t - from.t, right(sequence[from.t - 1]));
    }
    padded.resize(to.n(), below);
    Ok(padded)
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
