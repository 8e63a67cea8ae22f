//! Assembles micro-batches from consecutive windows, starting at any position.

use crate::base::{Error, IGNORED_TARGET, Position, Result, Shape};
use crate::data::Data;
use crate::data::token_stream::{Cells, Filled};
use crate::engine::Batch;

/// A micro-batch in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Micro {
    /// B·T token ids.
    pub tokens: Vec<i32>,
    /// B·T targets, [`IGNORED_TARGET`] where there is none.
    pub targets: Vec<i32>,
    /// For each token, the index in its window at which its document starts; `None` if every window
    /// is one document.
    pub starts: Option<Vec<i32>>,
    /// Tokens that are not padding.
    pub rows: u64,
    /// (query, key) pairs of causal attention among these tokens, used to count FLOPs.
    pub attention_pairs: u64,
}

impl Micro {
    /// Borrows the micro-batch for the engine.
    pub fn batch(&self) -> Batch<'_> {
        Batch { starts: self.starts.as_deref(), ..Batch::new(&self.tokens, &self.targets) }
    }
}

/// Positions at which a run may begin: no run counts from there to the largest number.
const POSITION_MAX: u64 = 1 << 62;

/// Takes B windows at a time, in order or shuffled. The position is its only state.
#[derive(Clone, Copy, Debug)]
pub struct Loader {
    shuffle: Option<u64>,
    shape: Shape,
    position: u64,
}

impl Loader {
    /// Starts at the first epoch of `data`, with B windows per micro-batch; `shuffle` is the seed,
    /// `None` keeps the order.
    pub fn new(data: &Data, micro_batch: usize, shuffle: Option<u64>) -> Loader {
        Loader { shuffle, shape: Shape { b: micro_batch, t: data.seq_len() }, position: 0 }
    }

    /// Resumes from a position. B may differ from the run that saved it; the data may not.
    ///
    /// Errors: `InvalidArgument` if the position belongs to other data. A position without a
    /// fingerprint fits all data with its number of windows.
    pub fn resume(data: &Data, micro_batch: usize, from: &Position) -> Result<Loader> {
        if from.windows != data.windows() {
            return Err(Error::argument(format!(
                "the data has {1} windows an epoch, but the run to resume had {0}; give the same data, data weights, \
                 sequence length and packing",
                from.windows,
                data.windows()
            )));
        }
        if let Some(expected) = from.fingerprint.filter(|&expected| expected != data.fingerprint()) {
            return Err(Error::argument(format!(
                "the data differs from the data of the run to resume: its hash is {:016x}, expected {expected:016x}; \
                 give the same files in the same order",
                data.fingerprint()
            )));
        }
        let position = from.epoch.checked_mul(from.windows).and_then(|done| done.checked_add(from.window));
        let is_valid = |position: &u64| from.window < from.windows && *position < POSITION_MAX;
        let position = position.filter(is_valid).ok_or_else(|| {
            Error::argument(format!(
                "window {} of epoch {} is outside the data, which has {} windows an epoch",
                from.window, from.epoch, from.windows
            ))
        })?;
        Ok(Loader { position, ..Loader::new(data, micro_batch, from.seed) })
    }

    /// The position of the next window.
    pub fn position(&self, data: &Data) -> Position {
        let windows = data.windows();
        Position {
            epoch: self.position / windows,
            window: self.position % windows,
            seed: self.shuffle,
            windows,
            fingerprint: Some(data.fingerprint()),
        }
    }

    /// Returns the next B windows; starts a new epoch at the end of the data.
    pub fn next(&mut self, data: &Data) -> Result<Micro> {
        self.fill(data, u64::MAX)
    }

    /// Returns the next B windows of the first epoch; windows past its end have no targets. `None`
    /// once it has ended.
    pub fn next_once(&mut self, data: &Data) -> Result<Option<Micro>> {
        let end = data.windows();
        if self.position >= end { Ok(None) } else { self.fill(data, end).map(Some) }
    }

    fn fill(&mut self, data: &Data, end: u64) -> Result<Micro> {
        let (n, t) = (self.shape.n(), self.shape.t);
        let mut micro = Micro {
            tokens: vec![0; n],
            targets: vec![IGNORED_TARGET; n],
            starts: None,
            rows: 0,
            attention_pairs: 0,
        };
        let mut starts = vec![0; n];
        for row in 0..self.shape.b {
            if self.position >= end {
                break;
            }
            let cells = row * t..(row + 1) * t;
            let mut window = Cells {
                tokens: &mut micro.tokens[cells.clone()],
                targets: &mut micro.targets[cells.clone()],
                starts: &mut starts[cells],
            };
            let Filled { rows, attention_pairs } = data.window(self.shuffle, self.position, &mut window)?;
            micro.rows += rows;
            micro.attention_pairs += attention_pairs;
            self.position += 1;
        }
        micro.starts = starts.iter().any(|&start| start != 0).then_some(starts);
        Ok(micro)
    }
}
