//! Places in training data.

use serde::{Deserialize, Serialize};

/// A place in training data. From it the same windows follow in the same order, so it is all that a checkpoint stores of
/// the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Completed epochs.
    pub epoch: u64,
    /// Completed windows of this epoch.
    pub window: u64,
    /// Seed of the shuffle; `None` if windows come in order.
    pub seed: Option<u64>,
    /// Windows per epoch.
    pub windows: u64,
    /// Fingerprint of the data.
    pub data: u64,
}
