//! Positions in training data.

use serde::{Deserialize, Serialize};

/// A position in training data. It determines all following windows and their order, so a
/// checkpoint stores nothing else about the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Completed epochs.
    pub epoch: u64,
    /// Completed windows in this epoch.
    pub window: u64,
    /// Seed of the shuffle; `None` if windows are not shuffled.
    pub seed: Option<u64>,
    /// Windows per epoch.
    pub windows: u64,
    /// Hash of all data; `None` in checkpoints of earlier versions, which hashed samples of it.
    pub fingerprint: Option<u64>,
}
